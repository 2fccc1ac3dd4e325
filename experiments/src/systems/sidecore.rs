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
    let guests: Vec<Vec<String>> = (0..setup.row.guests).map(|guest| add_again(setup, guest)).collect();
    if setup.row.work == Work::NicToGuest {
        let shown = guests.iter().map(|add| {
            let first = add.iter().position(|word| word == "--station").map_or(add.len(), |at| at + 2);
            format!("sidecore guest remove {}\nsidecore {} …", add[2], add[..first].join(" "))
        });
        commands.extend(shown);
    }
    let nics = (0..setup.row.guests).map(nic_name).collect();
    Ok((Box::new(Sidecore { process, guests, nics }), setup.sockets(), commands))
}

/// The switch, how its guests' ports are added again, and what its NICs are called where it has any.
struct Sidecore {
    process: SwitchProcess,
    guests: Vec<Vec<String>>,
    nics: Vec<String>,
}

fn guest_name(guest: u32) -> String {
    format!("vm{guest}")
}

fn nic_name(guest: u32) -> String {
    format!("nic{guest}")
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
        let name = guest_name(guest);
        let _ =
            write!(text, "\n[[guest]]\nname = \"{name}\"\nsocket = \"{}\"\n{}", socket.display(), vlan(setup, guest));
        let _ = match (all_stations, stations(setup, guest)) {
            (true, stations) => writeln!(text, "stations = {stations:?}"),
            (false, stations) => writeln!(text, "stations = [\"{}\", …]", stations[0]),
        };
    }
    for guest in 0..setup.row.guests {
        let Some(device) = setup.nic(guest) else { break };
        let name = nic_name(guest);
        let _ = write!(text, "\n[[uplink]]\nname = \"{name}\"\ndevice = \"{device}\"\n{}", vlan(setup, guest));
        if setup.row.work == Work::GuestToNic {
            let _ = writeln!(text, "stations = [\"{NIC_MAC}\"]");
        }
    }
    text
}

/// The line that says in which VLAN a guest, or its NIC, is, where that is to be said.
fn vlan(setup: &Setup, guest: u32) -> String {
    setup.vlan(guest).map_or_else(String::new, |id| format!("vlan = {{ access = {id} }}\n"))
}

/// Stations behind a guest's port that never send, so that the table is as full as the goals say. The guests' own addresses
/// are learnt; the address behind each NIC, or from it, is one more.
fn stations(setup: &Setup, guest: u32) -> Vec<String> {
    let others = setup.row.guests * (1 + u32::from(setup.row.work.has_nic()));
    let others = (0..STATIONS.saturating_sub(others))
        .filter(|number| number % setup.row.guests == guest)
        .map(|number| format!("02:5c:fd:00:{:02x}:{:02x}", number >> 8, number & 0xff));
    // A guest that only answers is not known before the first packet for it: it is one of those that are fixed.
    let echo = (setup.row.work == Work::NicEcho).then(|| ringgen::guest_mac(guest as usize));
    echo.into_iter().chain(others).collect()
}

/// The command that adds a guest's port, with the address of its NIC's packets behind it.
fn add_again(setup: &Setup, guest: u32) -> Vec<String> {
    let socket = setup.socket(guest).display().to_string();
    let mut command = ["guest", "add", &guest_name(guest), "--socket", &socket].map(str::to_owned).to_vec();
    if let Some(id) = setup.vlan(guest) {
        command.extend(["--vlan".to_owned(), id.to_string()]);
    }
    for station in [NIC_MAC.to_owned()].into_iter().chain(stations(setup, guest)) {
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
        let status = self.process.status()?;
        self.nics.iter().map(|nic| Ok(status.port(nic)?.tx.packets)).sum()
    }

    /// Up to now the address was nobody's, and packets for it were flooded to the NIC. To fix it to the guest's port from the
    /// beginning would have kept them from getting there.
    fn turn_round(&mut self) -> Result<()> {
        for add in &self.guests {
            let command: Vec<&str> = add.iter().map(String::as_str).collect();
            self.process.must(&["guest", "remove", command[2]])?;
            self.process.must(&command)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::work::full_rows;

    fn with_setup<T>(key: &str, work: impl Fn(&Setup) -> T) -> T {
        let row = full_rows().into_iter().find(|row| row.key() == key).unwrap();
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
        let add = with_setup("p2v-64", |setup| add_again(setup, 0));
        assert_eq!(add[..7], ["guest", "add", "vm0", "--socket", "/t/vm0.sock", "--station", NIC_MAC]);
        assert_eq!(add.iter().filter(|word| *word == "--station").count(), 1023);
    }

    #[test]
    fn each_guest_and_its_nic_are_in_a_vlan_of_their_own() {
        let four = text("v2p-64-4guests");
        assert_eq!(four.matches("vlan = { access = 13 }").count(), 2, "{four}");
        assert!(
            four.contains("name = \"nic3\"\ndevice = \"net_null3,size=60,no-rx=1\"\nvlan = { access = 13 }"),
            "{four}"
        );
        assert_eq!(four.matches(NIC_MAC).count(), 4, "{four}");
        assert_eq!(
            macs(&four).len(),
            1017,
            "four guests are learnt, and the address behind the NICs is one in each VLAN"
        );
        let add = with_setup("p2v-64-4guests", |setup| add_again(setup, 2));
        assert_eq!(add[5..9], ["--vlan", "12", "--station", NIC_MAC]);
        assert!(!text("p2v-64").contains("vlan") && !text("v2v-64-split-8guests").contains("vlan"));
    }
}
