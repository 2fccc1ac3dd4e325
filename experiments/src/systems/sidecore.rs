//! Sidecore itself, with one I/O core and a MAC table of the size that the goals are stated for.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use sidecore_tests::paths;
use sidecore_tests::process::must;
use sidecore_tests::switch::SwitchProcess;

use super::testpmd::Start;
use super::{NIC_MAC, Setup, System};
use crate::work::Work;

/// Stations in the MAC table.
const STATIONS: u32 = 1024;

pub(super) fn start(setup: &Setup) -> Result<Start> {
    let schema = must(&[paths::sidecore()?.as_os_str(), "config".as_ref(), "schema".as_ref()])?;
    ensure!(schema.contains("static_mac"), "this sidecore knows no [[static_mac]]: the table cannot be filled");
    let control = setup.folder.join("control.sock");
    let file = setup.folder.join("sidecore.toml");
    let shown = configuration(setup, &control);
    std::fs::write(&file, shown.clone() + &stations(setup))?;
    let switch = SwitchProcess::start_file(&file, &control, &setup.folder.join("sidecore.log"))?;
    let commands = vec![
        format!("{} {} run --config sidecore.toml", setup.taskset(), paths::sidecore()?.display()),
        format!("{shown}# and [[static_mac]] sections up to {STATIONS} stations\n"),
    ];
    Ok((Box::new(switch), setup.sockets(), commands))
}

fn configuration(setup: &Setup, control: &std::path::Path) -> String {
    let hugepages = if setup.hugepages { "require" } else { "off" };
    let mut text = format!(
        "[switch]\nio_cores = [{}]\nhugepages = \"{hugepages}\"\ncontrol_socket = \"{}\"\n",
        setup.switch_cpu,
        control.display()
    );
    for guest in 0..setup.row.guests {
        let socket: PathBuf = setup.socket(guest);
        let _ = write!(text, "\n[[guest]]\nname = \"vm{guest}\"\nsocket = \"{}\"\n", socket.display());
    }
    if let Some(device) = setup.nic() {
        let _ = write!(text, "\n[[uplink]]\nname = \"nic\"\ndevice = \"{device}\"\n");
    }
    match setup.row.work {
        Work::NicToGuest => text.push_str(&station("00:00:00:00:00:00", "vm0")),
        Work::GuestToNic => text.push_str(&station(NIC_MAC, "nic")),
        _ => {}
    }
    text
}

/// Stations that never send, so that the table is as full as the goals say. Guests' own addresses are learnt.
fn stations(setup: &Setup) -> String {
    let others = setup.row.guests + u32::from(setup.row.work.has_nic());
    (0..STATIONS.saturating_sub(others))
        .map(|number| {
            let mac = format!("02:5c:fd:00:{:02x}:{:02x}", number >> 8, number & 0xff);
            station(&mac, &format!("vm{}", number % setup.row.guests))
        })
        .collect()
}

fn station(mac: &str, port: &str) -> String {
    format!("\n[[static_mac]]\nmac = \"{mac}\"\nport = \"{port}\"\n")
}

impl System for SwitchProcess {
    fn processes(&mut self) -> Vec<u32> {
        vec![self.process().pid()]
    }

    fn ensure_running(&mut self) -> Result<()> {
        self.process().ensure_running()
    }

    fn tail(&mut self) -> String {
        self.process().tail()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::work::default_rows;

    fn text(key: &str) -> String {
        let row = default_rows().into_iter().find(|row| row.key() == key).unwrap();
        let setup = Setup { row: &row, hugepages: false, switch_cpu: 1, other_cpu: 0, folder: Path::new("/t") };
        configuration(&setup, Path::new("/t/control.sock")) + &stations(&setup)
    }

    #[test]
    fn the_table_holds_what_the_goals_say_with_what_is_learnt() {
        let stream = text("v2v-64-split");
        let macs: BTreeSet<&str> = stream.lines().filter(|line| line.starts_with("mac = ")).collect();
        assert_eq!(macs.len(), 1022, "two guests are learnt");
        assert!(stream.contains("io_cores = [1]\nhugepages = \"off\""), "{stream}");
    }

    #[test]
    fn the_nic_row_has_an_uplink_and_says_who_is_behind_it() {
        let to_nic = text("v2p-64");
        assert!(to_nic.contains("device = \"net_null0,size=60,no-rx=1\""), "{to_nic}");
        assert!(to_nic.contains(&format!("mac = \"{NIC_MAC}\"\nport = \"nic\"")), "{to_nic}");
        assert_eq!(to_nic.matches("[[static_mac]]").count(), 1023);
    }
}
