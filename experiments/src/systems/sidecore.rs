//! Sidecore itself, with one I/O core and a MAC table of the size that the goals are stated for.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use sidecore_tests::switch::SwitchProcess;

use super::{NIC_MAC, Setup, Start, System};
use crate::ringgen;
use crate::work::Work;

/// Stations in the MAC table.
const STATIONS: u32 = 1024;

pub(super) fn start(setup: &Setup) -> Result<Start> {
    let control = setup.folder.join("control.sock");
    let file = setup.folder.join("sidecore.toml");
    std::fs::write(&file, configuration(setup, &control, true))?;
    let process = SwitchProcess::start_file(&file, &control, &setup.folder.join("sidecore.log"))?;
    let mut commands = vec![
        format!("{} sidecore run --config sidecore.toml", setup.taskset()),
        format!("# sidecore.toml, with {STATIONS} stations in all:\n{}", configuration(setup, &control, false)),
    ];
    let add = add_again(setup);
    if setup.row.work == Work::NicToGuest {
        commands.push(format!("sidecore guest remove vm0\nsidecore {} …", add[..7].join(" ")));
    }
    Ok((Box::new(Sidecore { process, add_again: add }), setup.sockets(), commands))
}

/// The switch, and how its first guest's port is added again.
struct Sidecore {
    process: SwitchProcess,
    add_again: Vec<String>,
}

fn configuration(setup: &Setup, control: &Path, all_stations: bool) -> String {
    let hugepages = if setup.hugepages { "require" } else { "off" };
    let mut text = format!(
        "[switch]\nio_cores = [{}]\nhugepages = \"{hugepages}\"\ncontrol_socket = \"{}\"\n",
        setup.switch_cpu,
        control.display()
    );
    for guest in 0..setup.row.guests {
        let socket = setup.socket(guest);
        let _ = write!(text, "\n[[guest]]\nname = \"vm{guest}\"\nsocket = \"{}\"\n", socket.display());
        let _ = match (all_stations, stations(setup, guest)) {
            (true, stations) => writeln!(text, "stations = {stations:?}"),
            (false, stations) => writeln!(text, "stations = [\"{}\", …]", stations[0]),
        };
    }
    if let Some(device) = setup.nic() {
        let _ = write!(text, "\n[[uplink]]\nname = \"nic\"\ndevice = \"{device}\"\n");
    }
    if setup.row.work == Work::GuestToNic {
        let _ = writeln!(text, "stations = [\"{NIC_MAC}\"]");
    }
    text
}

/// Stations behind a guest's port that never send, so that the table is as full as the goals say. The guests' own addresses
/// are learnt; the address behind the NIC, or from it, is one more.
fn stations(setup: &Setup, guest: u32) -> Vec<String> {
    let others = setup.row.guests + u32::from(setup.row.work.has_nic());
    let others = (0..STATIONS.saturating_sub(others))
        .filter(|number| number % setup.row.guests == guest)
        .map(|number| format!("02:5c:fd:00:{:02x}:{:02x}", number >> 8, number & 0xff));
    // A guest that only answers is not known before the first packet for it: it is one of those that are fixed.
    let echo = (setup.row.work == Work::NicEcho).then(|| ringgen::guest_mac(0));
    echo.into_iter().chain(others).collect()
}

/// The command that adds the first guest's port, with the address of the NIC's packets behind it.
fn add_again(setup: &Setup) -> Vec<String> {
    let socket = setup.socket(0).display().to_string();
    let mut command = ["guest", "add", "vm0", "--socket", &socket].map(str::to_owned).to_vec();
    for station in [NIC_MAC.to_owned()].into_iter().chain(stations(setup, 0)) {
        command.extend(["--station".to_owned(), station]);
    }
    command
}

impl System for Sidecore {
    fn processes(&mut self) -> Vec<u32> {
        vec![self.process.process().pid()]
    }

    fn ensure_running(&mut self) -> Result<()> {
        self.process.process().ensure_running()
    }

    fn tail(&mut self) -> String {
        self.process.process().tail()
    }

    fn nic_sent(&mut self) -> Result<u64> {
        Ok(self.process.status()?.port("nic")?.tx.packets)
    }

    /// Up to now the address was nobody's, and packets for it were flooded to the NIC. To fix it to the guest's port from the
    /// beginning would have kept them from getting there.
    fn turn_round(&mut self) -> Result<()> {
        self.process.must(&["guest", "remove", "vm0"])?;
        let command: Vec<&str> = self.add_again.iter().map(String::as_str).collect();
        self.process.must(&command).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::work::default_rows;

    fn with_setup<T>(key: &str, work: impl Fn(&Setup) -> T) -> T {
        let row = default_rows().into_iter().find(|row| row.key() == key).unwrap();
        work(&Setup { row: &row, hugepages: false, switch_cpu: 1, other_cpu: 0, folder: Path::new("/t") })
    }

    fn text(key: &str) -> String {
        with_setup(key, |setup| configuration(setup, Path::new("/t/control.sock"), true))
    }

    fn macs(text: &str) -> BTreeSet<&str> {
        text.split('"').filter(|word| word.matches(':').count() == 5).collect()
    }

    #[test]
    fn the_table_holds_what_the_goals_say_with_what_is_learnt() {
        let stream = text("v2v-64-split");
        assert_eq!(macs(&stream).len(), 1022, "two guests are learnt");
        assert!(stream.contains("io_cores = [1]\nhugepages = \"off\""), "{stream}");
        let shown = with_setup("v2v-64-split", |setup| configuration(setup, Path::new("/t/c"), false));
        assert_eq!(macs(&shown).len(), 2, "the report shows how they look");
    }

    #[test]
    fn packets_for_the_nic_have_a_place_behind_it() {
        let to_nic = text("v2p-64");
        assert!(to_nic.contains("device = \"net_null0,size=60,no-rx=1\""), "{to_nic}");
        assert!(to_nic.ends_with(&format!("stations = [\"{NIC_MAC}\"]\n")), "{to_nic}");
        assert_eq!(macs(&to_nic).len(), 1023, "one guest is learnt");
    }

    #[test]
    fn packets_from_the_nic_are_flooded_to_it_until_the_port_turns_round() {
        let from_nic = text("p2v-64");
        assert!(!from_nic.contains(NIC_MAC), "{from_nic}");
        let add = with_setup("p2v-64", add_again);
        assert_eq!(add[..7], ["guest", "add", "vm0", "--socket", "/t/vm0.sock", "--station", NIC_MAC]);
        assert_eq!(add.iter().filter(|word| *word == "--station").count(), 1023);
    }
}
