//! testpmd with net_vhost ports: the yardstick. It passes packets from each port of a pair to the other and does nothing else.

use anyhow::Result;
use sidecore_tests::testpmd::{Testpmd, TestpmdOptions};

use super::{Kind, Setup, Start, System};
use crate::ringgen;

/// MiB of memory: 4,096 buffers of 64 KiB in the row with segmentation, and a reserve.
pub(super) const MEMORY_MIB: u32 = 384;

pub(super) fn start(kind: Kind, setup: &Setup) -> Result<Start> {
    let options = options(kind, setup);
    let mut testpmd = Testpmd::start(kind.name(), &options)?;
    testpmd.command(&format!("set fwd {}", mode(kind)))?;
    testpmd.command("start")?;
    let commands = vec![
        format!("{} {}", setup.taskset(), testpmd.command_line()),
        format!("testpmd> set fwd {}", mode(kind)),
        "testpmd> start".to_owned(),
    ];
    Ok((Box::new(Yardstick { testpmd, nics: setup.row.guests }), setup.sockets(), commands))
}

/// A testpmd, and how many NICs it has where it has any: every port with an even number.
struct Yardstick {
    testpmd: Testpmd,
    nics: u32,
}

fn mode(kind: Kind) -> &'static str {
    if kind == Kind::TestpmdMac { "mac" } else { "io" }
}

fn options(kind: Kind, setup: &Setup) -> TestpmdOptions {
    // Without the older offload flags, io mode forgets a packet's segmentation metadata on its way.
    let tso = if setup.is_tso() { ",tso=1,legacy-ol-flags=1" } else { "" };
    // Each guest's port comes after its NIC: testpmd makes pairs of ports that follow each other.
    let mut vdevs: Vec<String> = Vec::new();
    let mut guest_ports = Vec::new();
    for (guest, socket) in (0..).zip(setup.sockets()) {
        vdevs.extend(setup.nic(guest));
        guest_ports.push(vdevs.len());
        vdevs.push(format!("net_vhost{guest},iface={socket},queues=1{tso}"));
    }
    let vdevs: Vec<&str> = vdevs.iter().map(String::as_str).collect();
    let mut options = TestpmdOptions::new(&vdevs).with(&[
        "--nb-cores=1",
        "--rxq=1",
        "--txq=1",
        "--rxd=1024",
        "--txd=1024",
        "--burst=32",
        "--port-topology=paired",
    ]);
    if setup.is_tso() {
        // One buffer for a whole segment: this measured best.
        options.args.extend(["--mbuf-size=65535", "--total-num-mbufs=4096"].map(str::to_owned));
    }
    if kind == Kind::TestpmdMac {
        // Each port addresses what it sends to the guest behind it.
        for (guest, port) in guest_ports.iter().enumerate() {
            options.args.push(format!("--eth-peer={port},{}", ringgen::guest_mac(guest)));
        }
    }
    options.cpus = vec![setup.other_cpu, setup.switch_cpu];
    options.memory_mib = MEMORY_MIB;
    options.hugepages = setup.hugepages;
    options
}

impl System for Yardstick {
    fn processes(&mut self) -> Vec<u32> {
        vec![self.testpmd.process().pid()]
    }

    fn ensure_running(&mut self) -> Result<()> {
        self.testpmd.process().ensure_running()
    }

    fn tail(&mut self) -> String {
        self.testpmd.process().tail()
    }

    fn nic_sent(&mut self) -> Result<u64> {
        (0..self.nics).map(|nic| Ok(self.testpmd.stats(2 * nic)?.tx_packets)).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::work::full_rows;

    fn shown(kind: Kind, key: &str) -> String {
        let row = full_rows().into_iter().find(|row| row.key() == key).unwrap();
        let setup = Setup { row: &row, hugepages: true, switch_cpu: 1, other_cpu: 0, folder: Path::new("/t") };
        let options = options(kind, &setup);
        [options.vdevs, options.args].concat().join(" ")
    }

    #[test]
    fn a_nic_is_the_first_port_of_a_pair_and_its_guest_the_second() {
        let text = shown(Kind::TestpmdIo, "v2p-64");
        assert!(text.starts_with("net_null0,size=60,no-rx=1 net_vhost0,iface=/t/vm0.sock,queues=1 "), "{text}");
        assert!(shown(Kind::TestpmdIo, "p2v-64").starts_with("net_null0,size=60 net_vhost0"));
        let four = shown(Kind::TestpmdMac, "p2v-64-4guests");
        assert!(four.contains("net_null3,size=60 net_vhost3,iface=/t/vm3.sock"), "{four}");
        assert!(four.contains("--eth-peer=7,02:5c:00:03:00:01"), "{four}");
    }

    #[test]
    fn segments_keep_their_metadata() {
        assert!(shown(Kind::TestpmdIo, "v2v-tso").contains("vm1.sock,queues=1,tso=1,legacy-ol-flags=1"));
        assert!(!shown(Kind::TestpmdIo, "v2v-64-split").contains("tso"));
    }

    #[test]
    fn mac_mode_addresses_the_guest_behind_each_port() {
        let text = shown(Kind::TestpmdMac, "v2v-64-split");
        assert!(text.contains("--eth-peer=0,02:5c:00:00:00:01 --eth-peer=1,02:5c:00:01:00:01"), "{text}");
        assert!(shown(Kind::TestpmdMac, "p2v-64").contains("--eth-peer=1,02:5c:00:00:00:01"));
    }
}
