//! What the demo has to set up, read from the switch's own configuration file.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

/// The part of the file that the demo needs. The switch checks the rest.
#[derive(Debug, Deserialize)]
struct File {
    switch: Switch,
    guest: Vec<Guest>,
    uplink: Vec<Uplink>,
}

#[derive(Debug, Deserialize)]
struct Switch {
    control_socket: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Guest {
    name: String,
    socket: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Uplink {
    name: String,
    device: String,
}

/// Name of the namespace that plays the outside host. One at a time: the demo's configuration names its interface too.
pub(crate) const NAMESPACE: &str = "sidecore-demo";

/// One of the three ends of the demo's traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Party {
    /// Name of its port at the switch.
    pub(crate) port: String,
    pub(crate) ipv4: String,
    pub(crate) ipv6: String,
}

/// The demo's set-up.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) config: PathBuf,
    pub(crate) control: PathBuf,
    /// The folder of all sockets, made and removed by the demo.
    pub(crate) folder: PathBuf,
    pub(crate) sockets: Vec<PathBuf>,
    /// Interface of the uplink.
    pub(crate) interface: String,
    /// The guests, then the outside host.
    pub(crate) parties: Vec<Party>,
}

impl Plan {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(path, &text).with_context(|| path.display().to_string())
    }

    fn parse(path: &Path, text: &str) -> Result<Self> {
        let file: File = toml::from_str(text)?;
        ensure!(file.guest.len() == 2, "the demo needs two guests, not {}", file.guest.len());
        let [uplink] = &file.uplink[..] else { bail!("the demo needs one uplink, not {}", file.uplink.len()) };
        let interface = uplink
            .device
            .strip_prefix("net_af_xdp")
            .and_then(|arguments| arguments.split(',').find_map(|argument| argument.strip_prefix("iface=")))
            .with_context(|| format!("the demo's uplink must be a net_af_xdp with iface=, not {:?}", uplink.device))?;
        let folder = file.switch.control_socket.parent().context("control_socket has no folder")?.to_owned();
        for guest in &file.guest {
            ensure!(guest.socket.parent() == Some(&folder), "all sockets must be in {}", folder.display());
        }
        let ports = file.guest.iter().map(|guest| &guest.name).chain([&uplink.name]);
        Ok(Self {
            config: path.to_owned(),
            control: file.switch.control_socket.clone(),
            folder,
            sockets: file.guest.iter().map(|guest| guest.socket.clone()).collect(),
            interface: interface.to_owned(),
            parties: ports.zip(1..).map(|(port, number)| Party::new(port, number)).collect(),
        })
    }

    /// All six directions, as positions in `parties`.
    pub(crate) fn directions(&self) -> Vec<(usize, usize)> {
        let count = self.parties.len();
        (0..count).flat_map(|from| (0..count).map(move |to| (from, to))).filter(|(from, to)| from != to).collect()
    }
}

impl Party {
    // Documentation ranges (RFC 5737, RFC 3849): nobody's real network.
    fn new(port: &str, number: u8) -> Self {
        Self { port: port.to_owned(), ipv4: format!("192.0.2.{number}"), ipv6: format!("2001:db8::{number}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidecore_tests::paths;

    #[test]
    fn the_example_file_is_a_demo() {
        let plan = Plan::read(&paths::workspace().join("config/examples/demo.toml")).unwrap();
        assert_eq!(plan.directions().len(), 6);
        assert!(!plan.interface.is_empty() && plan.interface.len() <= 13);
    }

    #[test]
    fn what_the_demo_cannot_set_up_is_an_error() {
        let text = |uplink: &str| {
            format!(
                "[switch]\ncontrol_socket = \"/run/x/c.sock\"\n\
                 [[guest]]\nname = \"a\"\nsocket = \"/run/x/a.sock\"\n[[guest]]\nname = \"b\"\nsocket = \"/run/x/b.sock\"\n\
                 [[uplink]]\nname = \"u\"\ndevice = \"{uplink}\"\n"
            )
        };
        let plan = Plan::parse(Path::new("demo.toml"), &text("net_af_xdp0,iface=veth7,start_queue=0")).unwrap();
        assert_eq!(plan.interface, "veth7");
        assert!(Plan::parse(Path::new("demo.toml"), &text("0000:03:00.0")).is_err());
    }
}
