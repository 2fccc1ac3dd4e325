//! DPDK's virtio-user driver as a guest: the ring formats and the receive and transmit paths it has, and restarts of
//! either side.
#![forbid(unsafe_code)]

use std::path::Path;
use std::time::Duration;

use sidecore_tests::circuit::Circuit;
use sidecore_tests::rules::{self, Machine};
use sidecore_tests::switch::{Status, SwitchConfig, SwitchProcess};

const PACKETS: u64 = 50_000;
const TIMEOUT: Duration = Duration::from_secs(30);

const IN_ORDER: u32 = 35;
const PACKED: u32 = 34;
const MRG_RXBUF: u32 = 15;

fn config(dir: &Path) -> SwitchConfig {
    SwitchConfig::new(dir).guest("a", &[]).guest("b", &[])
}

fn circuit(config: &SwitchConfig, more: &str) -> Circuit {
    // DPDK leaves 512-bit vectors alone unless it is told, and its packed vector path needs them.
    let eal = ["--force-max-simd-bitwidth=512"];
    Circuit::start([("a", &config.socket("a")), ("b", &config.socket("b"))], more, &eal).unwrap()
}

/// Nothing went wrong; [`Circuit::run`] has looked at drops and kicks.
fn assert_clean(status: &Status) {
    for port in &status.ports {
        assert_eq!(port.error, None, "{}", port.name);
    }
}

/// Runs a circuit with these device arguments. `bits` must be negotiated, or not, as said; `path` must be in the driver's log.
fn run(more: &str, bits: &[(u32, bool)], path: &str) {
    run_in("poll", more, bits, path);
}

/// The same in a switch of another mode.
fn run_in(mode: &str, more: &str, bits: &[(u32, bool)], path: &str) {
    let _machine = Machine::exclusive().unwrap();
    let dir = SwitchProcess::folder().unwrap();
    let config = config(dir.path()).key(&format!("mode = \"{mode}\""));
    let switch = SwitchProcess::start(&config).unwrap();
    let mut circuit = circuit(&config, more);
    let status = circuit.run(&switch, PACKETS, TIMEOUT).unwrap();
    assert_clean(&status);
    let negotiated = status.port("a").unwrap().negotiated.clone().unwrap();
    for (bit, on) in bits {
        assert_eq!(negotiated.has(*bit), *on, "feature bit {bit} of {}", negotiated.features);
    }
    assert!(circuit.testpmd().output().contains(path), "no {path:?} in:\n{}", circuit.testpmd().output());
    circuit.quit().unwrap();
    switch.stop().unwrap();
}

#[test]
fn split() {
    run("in_order=0", &[(PACKED, false), (IN_ORDER, false), (MRG_RXBUF, true)], "using mergeable buffer Rx path");
}

#[test]
fn split_in_order() {
    run("in_order=1", &[(PACKED, false), (IN_ORDER, true)], "using inorder Rx path");
}

#[test]
fn split_non_mergeable() {
    run("in_order=0,mrg_rxbuf=0", &[(MRG_RXBUF, false)], "using standard Rx path");
}

#[test]
fn split_vectorised() {
    run("in_order=0,mrg_rxbuf=0,vectorized=1", &[(PACKED, false)], "using vectorized Rx path");
}

#[test]
fn packed() {
    run("packed_vq=1,in_order=0", &[(PACKED, true)], "using packed ring mergeable buffer Rx path");
}

#[test]
fn packed_in_order_non_mergeable() {
    run(
        "packed_vq=1,in_order=1,mrg_rxbuf=0",
        &[(PACKED, true), (IN_ORDER, true)],
        "using packed ring standard Rx path",
    );
}

#[test]
fn packed_vectorised() {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    if !cpuinfo.contains("avx512f") {
        rules::skip("packed_vectorised", "DPDK's packed vector path needs AVX-512");
        return;
    }
    run("packed_vq=1,in_order=1,mrg_rxbuf=0,vectorized=1", &[(PACKED, true)], "using packed ring vectorized Rx path");
}

#[test]
fn split_with_cores_that_may_sleep() {
    run_in("adaptive", "in_order=0", &[(PACKED, false)], "Rx path");
}

#[test]
fn packed_with_cores_that_may_sleep() {
    run_in("adaptive", "packed_vq=1", &[(PACKED, true)], "Rx path");
}

#[test]
fn split_with_a_thread_for_each_guest() {
    run_in("trap", "in_order=0", &[(PACKED, false)], "Rx path");
}

#[test]
fn packed_with_a_thread_for_each_guest() {
    run_in("trap", "packed_vq=1", &[(PACKED, true)], "Rx path");
}

#[test]
fn rings_of_another_size() {
    run("queue_size=1024", &[], "Rx path");
}

/// The guest listens, and the switch that connects to it is killed and started again, twice.
fn the_guest_is_the_server(more: &str) {
    let _machine = Machine::exclusive().unwrap();
    let dir = SwitchProcess::folder().unwrap();
    let role = &["socket_role = \"client\""];
    let config = SwitchConfig::new(dir.path()).guest("a", role).guest("b", role);
    let mut switch = SwitchProcess::start(&config).unwrap();
    let mut circuit = circuit(&config, more);
    assert_clean(&circuit.run(&switch, PACKETS, TIMEOUT).unwrap());
    for _ in 0..2 {
        switch.kill().unwrap();
        switch = SwitchProcess::start(&config).unwrap();
        assert_clean(&circuit.run(&switch, PACKETS, TIMEOUT).unwrap());
    }
    circuit.quit().unwrap();
    switch.stop().unwrap();
}

#[test]
fn split_on_a_server() {
    the_guest_is_the_server("server=1,in_order=0");
}

#[test]
fn packed_on_a_server() {
    the_guest_is_the_server("server=1,packed_vq=1,in_order=0");
}

#[test]
fn the_guest_restarts() {
    let _machine = Machine::exclusive().unwrap();
    let dir = SwitchProcess::folder().unwrap();
    let config = config(dir.path());
    let switch = SwitchProcess::start(&config).unwrap();
    // Every incarnation has other rings than the one before.
    for more in ["in_order=0", "packed_vq=1", "mrg_rxbuf=0,queue_size=512"] {
        let mut circuit = circuit(&config, more);
        assert_clean(&circuit.run(&switch, PACKETS, TIMEOUT).unwrap());
        // Killed while packets are under way.
        circuit.testpmd().command("start tx_first 4").unwrap();
        circuit.testpmd().process().kill().unwrap();
        switch.wait_for_port("a", "end of the connection", |port| port.state == "waiting").unwrap();
        switch.wait_for_port("b", "end of the connection", |port| port.state == "waiting").unwrap();
    }
    switch.stop().unwrap();
}
