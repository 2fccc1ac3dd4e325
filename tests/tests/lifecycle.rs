//! Guests and uplinks come and go while the switch runs; it stops quickly and leaves nothing behind.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;
use sidecore_tests::circuit::Circuit;
use sidecore_tests::net::Outside;
use sidecore_tests::process::eventually;
use sidecore_tests::rules::{self, Machine};
use sidecore_tests::switch::{SwitchConfig, SwitchProcess};
use sidecore_tests::testpmd::{Testpmd, TestpmdOptions};
use sidecore_tests::traffic;
use sidecore_tests::wake::WakeLimit;

const TIMEOUT: Duration = Duration::from_secs(30);
/// A switch that is asked to stop is gone within this. In one of some tries: in any of them others may have its CPUs.
const AT_ONCE: Duration = Duration::from_secs(1);
const TRIES: usize = 5;

fn two_guests(dir: &Path) -> SwitchConfig {
    SwitchConfig::new(dir).guest("a", &[]).guest("b", &[])
}

fn circuit(config: &SwitchConfig) -> Circuit {
    Circuit::start([("a", &config.socket("a")), ("b", &config.socket("b"))], "", &[]).unwrap()
}

/// A DPDK guest that answers ARP and ping for every address.
fn echo_guest(socket: &Path) -> Testpmd {
    let device = format!("net_virtio_user0,path={},mac=52:54:00:5c:02:01", socket.display());
    let options = TestpmdOptions::new(&[&device]).with(&["--forward-mode=icmpecho", "--auto-start"]);
    Testpmd::start("echo", &options).unwrap()
}

fn outside() -> Outside {
    let host = Outside::new(1500).unwrap();
    host.configure("10.9.0.1/24", "fd09::1/64").unwrap();
    host
}

fn port_names(switch: &SwitchProcess) -> BTreeSet<String> {
    switch.status().unwrap().ports.into_iter().map(|port| port.name).collect()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Adds a guest at run time, uses it, and removes it.
fn come_and_go(switch: &SwitchProcess, socket: &Path, host: &Outside) -> Result<()> {
    let path = socket.display().to_string();
    switch.must(&["guest", "add", "late", "--socket", &path])?;
    assert!(switch.must(&["guest", "list"])?.contains("late"));
    let mut guest = echo_guest(socket);
    traffic::ping(host, "10.9.0.7", 5)?;
    switch.must(&["guest", "remove", "late"])?;
    assert!(!switch.must(&["guest", "list"])?.contains("late"));
    assert!(!socket.exists(), "the removed guest's socket is still there");
    // Its frontend has lost its backend, and takes no harm from that.
    guest.command("show port info 0")?;
    guest.quit()
}

#[test]
fn guests_come_and_go_while_others_lose_nothing() {
    let _machine = Machine::exclusive().unwrap();
    let dir = SwitchProcess::folder().unwrap();
    let host = outside();
    let device = format!("net_af_packet0,iface={}", host.uplink_interface());
    let config = two_guests(dir.path()).uplink("wan", &device, &[]);
    let switch = SwitchProcess::start(&config).unwrap();
    let mut circuit = circuit(&config);
    circuit
        .run_while(&switch, |_| {
            for _ in 0..2 {
                come_and_go(&switch, &config.socket("late"), &host)?;
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(port_names(&switch), names(&["a", "b", "wan"]));
    circuit.quit().unwrap();
    switch.stop().unwrap();
}

#[test]
fn uplinks_come_and_go() {
    let _machine = Machine::exclusive().unwrap();
    let dir = SwitchProcess::folder().unwrap();
    let host = outside();
    let config = two_guests(dir.path());
    let switch = SwitchProcess::start(&config).unwrap();
    let guest = echo_guest(&config.socket("a"));
    // DPDK 22.11 cannot open an interface for AF_XDP twice in one process, so that one comes once, and last.
    for driver in ["net_af_packet0", "net_af_packet0", "net_af_xdp0"] {
        let device = format!("{driver},iface={}", host.uplink_interface());
        switch.must(&["uplink", "add", "wan", "--device", &device]).unwrap();
        traffic::ping(&host, "10.9.0.7", 5).unwrap();
        assert!(switch.must(&["uplink", "list"]).unwrap().contains("wan"));
        switch.must(&["uplink", "remove", "wan"]).unwrap();
        assert_eq!(port_names(&switch), names(&["a", "b"]));
    }
    guest.quit().unwrap();
    switch.stop().unwrap();
}

#[test]
fn what_was_added_at_run_time_survives_a_restart() {
    let _machine = Machine::exclusive().unwrap();
    let dir = SwitchProcess::folder().unwrap();
    let state = dir.path().join("state.json");
    let config = two_guests(dir.path()).key(&format!("state_file = \"{}\"", state.display()));
    let switch = SwitchProcess::start(&config).unwrap();
    for name in ["c", "d"] {
        let socket = config.socket(name).display().to_string();
        switch.must(&["guest", "add", name, "--socket", &socket]).unwrap();
    }
    switch.must(&["guest", "remove", "d"]).unwrap();
    // Both ways of ending it.
    switch.stop().unwrap();
    let switch = SwitchProcess::start(&config).unwrap();
    assert_eq!(port_names(&switch), names(&["a", "b", "c"]));
    switch.kill().unwrap();
    let switch = SwitchProcess::start(&config).unwrap();
    assert_eq!(port_names(&switch), names(&["a", "b", "c"]));
    switch.stop().unwrap();
}

/// Applies the file's difference in the given way while packets go round between two guests that it leaves alone.
fn reload_by(reload: impl Fn(&SwitchProcess) -> Result<()>) {
    let _machine = Machine::exclusive().unwrap();
    let dir = SwitchProcess::folder().unwrap();
    let config = two_guests(dir.path());
    let before = config.clone().guest("old", &[]);
    let after = config.clone().guest("new", &[]);
    let switch = SwitchProcess::start(&before).unwrap();
    let mut circuit = circuit(&config);
    circuit
        .run_while(&switch, |_| {
            std::fs::write(switch.config_file(), after.to_toml())?;
            reload(&switch)?;
            eventually("ports of the new file", TIMEOUT, || {
                Ok((port_names(&switch) == names(&["a", "b", "new"])).then_some(()))
            })?;
            assert!(config.socket("new").exists() && !config.socket("old").exists());

            // A file with an error changes nothing.
            std::fs::write(switch.config_file(), before.clone().guest("a", &[]).to_toml())?;
            assert!(!switch.cli(&["reload"])?.status.success());
            assert_eq!(port_names(&switch), names(&["a", "b", "new"]));
            Ok(())
        })
        .unwrap();
    circuit.quit().unwrap();
    switch.stop().unwrap();
}

#[test]
fn reload_applies_the_difference() {
    reload_by(|switch| switch.must(&["reload"]).map(|_| ()));
}

#[test]
fn sighup_applies_the_difference() {
    reload_by(|switch| switch.signal(Signal::HUP));
}

/// What a switch could leave on the machine outside its own folder.
fn traces() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for dir in ["/dev/hugepages", "/var/run/dpdk", "/run/netns", "/dev/shm", "/sys/class/net"] {
        let Ok(entries) = std::fs::read_dir(dir) else { continue };
        found.extend(entries.flatten().map(|entry| entry.path().display().to_string()));
    }
    found
}

/// Ends a switch that has all there is, and looks at what it leaves; returns how long it took.
fn stop_by(signal: Signal) -> Duration {
    let _machine = Machine::exclusive().unwrap();
    let host = outside();
    let traces_before = traces();
    let dir = SwitchProcess::folder().unwrap();
    let device = format!("net_af_xdp0,iface={}", host.uplink_interface());
    let config = two_guests(dir.path()).uplink("wan", &device, &[]);
    let switch = SwitchProcess::start(&config).unwrap();
    let mut circuit = circuit(&config);
    // In the middle of traffic.
    circuit.run(&switch, 10_000, TIMEOUT).unwrap();
    circuit.testpmd().command("start tx_first 4").unwrap();
    let took = switch.stop_with(signal).unwrap();
    for name in ["a", "b"] {
        assert!(!config.socket(name).exists(), "the socket of {name} is still there");
    }
    circuit.quit().unwrap();
    let left: Vec<_> = traces().difference(&traces_before).cloned().collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    took
}

fn stops_within_a_second(signal: Signal) {
    let mut took = Vec::new();
    while took.last().is_none_or(|took| *took >= AT_ONCE) {
        assert!(took.len() < TRIES, "{took:?}");
        took.push(stop_by(signal));
    }
}

#[test]
fn sigterm_stops_within_a_second() {
    stops_within_a_second(Signal::TERM);
}

#[test]
fn sigint_stops_within_a_second() {
    stops_within_a_second(Signal::INT);
}

#[test]
fn cpus_wake_up_as_configured_while_the_switch_runs() {
    let _machine = Machine::exclusive().unwrap();
    let cpu = std::thread::available_parallelism().unwrap().get() - 1;
    let Some(limit) = WakeLimit::of(cpu) else {
        return rules::skip(
            "cpus_wake_up_as_configured_while_the_switch_runs",
            "nothing here limits how long a CPU takes to wake up",
        );
    };
    let dir = SwitchProcess::folder().unwrap();
    let with = |us: u32| two_guests(dir.path()).key("mode = \"adaptive\"").key(&format!("wake_latency_us = {us}"));
    limit.set("123").unwrap();
    // The last one is more than somebody has allowed already.
    for (us, text) in [(0, "n/a"), (7, "7"), (200, "123")] {
        let switch = SwitchProcess::start(&with(us)).unwrap();
        assert_eq!(limit.get().unwrap(), text);
        let status = switch.must(&["status"]).unwrap();
        assert!(status.contains(&format!("\nwake-up within {us} µs: CPU {cpu}\n")), "{status}");
        switch.stop().unwrap();
        assert_eq!(limit.get().unwrap(), "123", "after a switch that wanted {us}");
    }
    // One that is killed cannot give back what was there. Whoever comes after it can.
    for successor in [with(7), two_guests(dir.path())] {
        SwitchProcess::start(&with(0)).unwrap().kill().unwrap();
        assert_eq!(limit.get().unwrap(), "n/a");
        SwitchProcess::start(&successor).unwrap().stop().unwrap();
        assert_eq!(limit.get().unwrap(), "123");
    }
}

#[test]
fn a_guest_that_dies_costs_its_own_port_only() {
    let _machine = Machine::exclusive().unwrap();
    let dir = SwitchProcess::folder().unwrap();
    // What a dead guest's neighbour still sends to it is flooded in their VLAN, and has no way into the circuit.
    let vlan = ["vlan = { access = 20 }"];
    let config = two_guests(dir.path()).guest("c", &vlan).guest("d", &vlan);
    let switch = SwitchProcess::start(&config).unwrap();
    let mut circuit = circuit(&config);
    circuit
        .run_while(&switch, |_| {
            for _ in 0..3 {
                let sockets = [config.socket("c"), config.socket("d")];
                let mut other = Circuit::start([("c", &sockets[0]), ("d", &sockets[1])], "", &[])?;
                other.testpmd().command("start tx_first 4")?;
                switch.wait_for_port("d", "packets", |port| port.tx.packets > 1_000)?;
                other.testpmd().process().kill()?;
                switch.wait_for_port("c", "end of the connection", |port| port.state == "waiting")?;
                switch.wait_for_port("d", "end of the connection", |port| port.state == "waiting")?;
            }
            Ok(())
        })
        .unwrap();
    circuit.quit().unwrap();
    switch.stop().unwrap();
}
