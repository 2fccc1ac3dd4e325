//! Linux guests in QEMU over the matrix of virtio-net features: pings, and transfers whose SHA-256 is compared, guest to
//! guest and guest to outside, in both directions, over IPv4 and IPv6.
#![forbid(unsafe_code)]

use anyhow::Result;
use sidecore_tests::guest::{SocketMode, VirtioOptions};
use sidecore_tests::lab::{Family, Lab, LabPlan};
use sidecore_tests::rules;

const PACKED: u32 = 34;
const MRG_RXBUF: u32 = 15;
const EVENT_IDX: u32 = 29;
const INDIRECT_DESC: u32 = 28;
const CSUM: u32 = 0;
const GUEST_TSO4: u32 = 7;

/// Transfers of a case: guest to guest and guest to outside, in both directions.
const DIRECTIONS: [(usize, usize); 4] = [(0, 1), (1, 0), (1, 2), (2, 0)];

/// Runs the traffic of a case. Every direction has both families in the long form; in the short one they alternate, and
/// `shift` lets the cases start with different ones.
fn exercise(lab: &Lab, shift: usize) -> Result<()> {
    for (index, (from, to)) in DIRECTIONS.into_iter().enumerate() {
        let families =
            if (index + shift).is_multiple_of(2) { [Family::V4, Family::V6] } else { [Family::V6, Family::V4] };
        for family in families {
            lab.ping(from, to, family)?;
        }
        let count = if rules::full() { 2 } else { 1 };
        for family in &families[..count] {
            lab.transfer(from, to, *family, rules::transfer_mib())?;
        }
    }
    lab.check()?;
    Ok(())
}

/// packed, mrg_rxbuf, event_idx, indirect_desc, offloads: any two of them take all four combinations.
const ROWS: [[bool; 5]; 6] = {
    const ON: bool = true;
    const OFF: bool = false;
    [
        [OFF, OFF, OFF, OFF, OFF],
        [ON, ON, ON, OFF, ON],
        [ON, ON, OFF, ON, OFF],
        [ON, OFF, ON, ON, OFF],
        [OFF, ON, OFF, OFF, ON],
        [OFF, OFF, ON, ON, ON],
    ]
};

#[test]
fn the_rows_cover_all_pairs() {
    for first in 0..5 {
        for second in first + 1..5 {
            let mut seen: Vec<_> = ROWS.iter().map(|row| (row[first], row[second])).collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), 4, "columns {first} and {second}: {seen:?}");
        }
    }
}

fn row(number: usize) -> Result<()> {
    let [packed, mrg_rxbuf, event_idx, indirect_desc, offloads] = ROWS[number];
    let virtio = VirtioOptions { packed, mrg_rxbuf, event_idx, indirect_desc, offloads };
    let lab = LabPlan::new()?
        .guest(|guest| guest.virtio = virtio)
        .guest(|guest| guest.virtio = virtio)
        .outside("net_af_xdp0,iface={}")
        .start()?;
    for port in &lab.switch().status()?.ports[..] {
        let Some(negotiated) = &port.negotiated else { continue };
        let expected = [
            (PACKED, packed),
            (MRG_RXBUF, mrg_rxbuf),
            (EVENT_IDX, event_idx),
            (INDIRECT_DESC, indirect_desc),
            (CSUM, offloads),
            (GUEST_TSO4, offloads),
        ];
        for (bit, on) in expected {
            assert_eq!(negotiated.has(bit), on, "{}: feature bit {bit} of {}", port.name, negotiated.features);
        }
    }
    exercise(&lab, number)?;
    lab.stop()
}

#[test]
fn row_0_all_off() {
    row(0).unwrap();
}

#[test]
fn row_1_packed_without_indirect() {
    row(1).unwrap();
}

#[test]
fn row_2_packed_mergeable_without_offloads() {
    row(2).unwrap();
}

#[test]
fn row_3_packed_without_mergeable_and_offloads() {
    row(3).unwrap();
}

#[test]
fn row_4_split_mergeable_by_flags() {
    row(4).unwrap();
}

#[test]
fn row_5_split_offloads_without_mergeable() {
    row(5).unwrap();
}

#[test]
fn two_queue_pairs() {
    let lab = LabPlan::new()
        .unwrap()
        .configure(|config| config.io_cores(2))
        .guest(|guest| (guest.queue_pairs, guest.cpus) = (2, 2))
        .guest(|guest| (guest.queue_pairs, guest.cpus, guest.virtio.packed) = (2, 2, true))
        .outside("net_af_xdp0,iface={}")
        .start()
        .unwrap();
    let status = lab.switch().status().unwrap();
    for name in ["vm1", "vm2"] {
        let port = status.port(name).unwrap();
        assert_eq!(port.negotiated.as_ref().unwrap().queue_pairs, 2, "{name}");
    }
    exercise(&lab, 0).unwrap();
    lab.stop().unwrap();
}

#[test]
fn rings_of_1024_entries_and_qemu_as_server() {
    let change = |guest: &mut sidecore_tests::guest::GuestOptions| {
        guest.ring_size = Some(1024);
        guest.socket_mode = SocketMode::Server;
    };
    let lab = LabPlan::new().unwrap().guest(change).guest(change).outside("net_af_xdp0,iface={}").start().unwrap();
    let status = lab.switch().status().unwrap();
    assert_eq!(status.port("vm1").unwrap().negotiated.as_ref().unwrap().ring_size, 1024);
    exercise(&lab, 1).unwrap();
    lab.stop().unwrap();
}

#[test]
fn mtu_9000() {
    // net_af_xdp ends at 3,520 bytes and net_af_packet at 1,500.
    let lab = LabPlan::new()
        .unwrap()
        .guest(|guest| guest.host_mtu = Some(9000))
        .guest(|guest| (guest.host_mtu, guest.virtio.offloads) = (Some(9000), false))
        .outside("net_pcap0,rx_iface_in={},tx_iface={}")
        .mtu(9000)
        .start()
        .unwrap();
    // A ping that fits only where the whole way takes 9,000 bytes.
    for (from, to) in DIRECTIONS {
        let address = lab.address(to, Family::V4);
        lab.host(from).sh(&format!("busybox ping -c 3 -W 3 -s 8900 {address}")).unwrap();
    }
    exercise(&lab, 0).unwrap();
    lab.stop().unwrap();
}

#[test]
fn guests_that_agreed_on_different_things() {
    // Checksums and segments that one guest leaves to its device must be made before the other one sees them.
    let lab = LabPlan::new()
        .unwrap()
        .guest(|guest| guest.virtio = VirtioOptions { packed: true, ..VirtioOptions::default() })
        .guest(|guest| {
            guest.virtio =
                VirtioOptions { mrg_rxbuf: false, offloads: false, event_idx: false, ..VirtioOptions::default() };
        })
        .outside("net_af_packet0,iface={}")
        .start()
        .unwrap();
    exercise(&lab, 1).unwrap();
    lab.stop().unwrap();
}
