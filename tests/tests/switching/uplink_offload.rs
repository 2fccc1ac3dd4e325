//! Checksums and segmentation left to an uplink's device.
//!
//! The device is DPDK's virtio-user: its other end is a port of the same switch, in another VLAN, which shows what the
//! device was asked to do.

use std::collections::BTreeMap;

use synthetic_guest::packet::{Checksum, FrameSpec};
use synthetic_guest::{Features, GuestConfig, Offload};

use crate::frames::{Packet, Parsed, bytes, tcp};
use crate::rig::{Node, Plan, Rig};

const LENGTHS: [usize; 4] = [100, 1514, 9000, 65_535];

fn taking_all(config: &mut GuestConfig) {
    config.session.features = Features::VERSION_1 | Features::MRG_RXBUF | Features::OFFLOADS;
    config.session.required = Features::OFFLOADS;
    config.rx_ring = 512;
    config.tx_ring = 64;
    config.tx_frame_len = 65_535 + 14;
}

/// a — VLAN 10 — uplink ═ port "peer" — VLAN 20 — b.
fn loop_through_a_device() -> (Rig, Node, Node) {
    let plan = Plan::new()
        .guest("a", &["vlan = { access = 10 }"])
        .guest("b", &["vlan = { access = 20 }"])
        .guest("peer", &["vlan = { access = 20 }"]);
    let rig = plan.start();
    let device = format!("net_virtio_user0,path={},queue_size=1024", rig.config("peer").session.socket.display());
    rig.switch.must(&["uplink", "add", "up", "--device", &device, "--mtu", "9000", "--vlan", "10"]).unwrap();
    let a = rig.guest_with("a", taking_all);
    let b = rig.guest_with("b", taking_all);
    (rig, a, b)
}

#[test]
fn checksums_are_left_to_a_device_that_can() {
    let (rig, mut a, mut b) = loop_through_a_device();
    for version in [4, 6] {
        for len in &LENGTHS[..3] {
            let sent = Packet::new(FrameSpec { checksum: Checksum::Partial, ..tcp(version, *len) });
            a.send(std::slice::from_ref(&sent));
            let [arrived] = &b.receive(1)[..] else { panic!("one frame") };
            assert!(arrived.bytes == sent.bytes, "IPv{version}, {len} bytes");
            assert_eq!(arrived.offload.flags, Offload::NEEDS_CSUM);
            assert_eq!(arrived.offload.csum_start, sent.offload.csum_start);
        }
    }
    assert_eq!(rig.drops("a"), Default::default());
}

/// Neither for the device to cut, nor for the switch (IPv4: it fills in no header checksums).
#[test]
fn segments_that_no_device_should_see_are_dropped() {
    let (rig, mut a, mut b) = loop_through_a_device();
    for version in [4, 6] {
        let before = rig.drops("a");
        let dropped = |reason: &str| {
            let count = |drops: &BTreeMap<String, u64>| drops.get(reason).copied().unwrap_or(0);
            count(&rig.drops("a")) - count(&before)
        };
        let packet = |len, gso_size| Packet::new(FrameSpec { gso_size: Some(gso_size), ..tcp(version, len) });
        // Longer than the uplink's frames may be; more than can be; and none at all: headers that say that they are all there is.
        let mut empty = packet(9000, 1000);
        let headers = Parsed::new(&empty.bytes).payload;
        let (at, ip) = if version == 4 { (16, headers - 14) } else { (18, headers - 54) };
        empty.bytes.truncate(headers);
        empty.bytes[at..at + 2].copy_from_slice(&(ip as u16).to_be_bytes());
        a.send(&[packet(60_000, 20_000), packet(9000, 1), empty]);
        let last = Packet::new(FrameSpec { checksum: Checksum::Partial, ..tcp(version, 100) });
        a.send(std::slice::from_ref(&last));
        assert_eq!(bytes(&b.receive(1)), [last.bytes], "IPv{version}");
        assert_eq!((dropped("too_long"), dropped("bad_offload")), (1, 2), "IPv{version}");
    }
}

#[test]
fn segmentation_is_left_to_a_device_that_can() {
    let (rig, mut a, mut b) = loop_through_a_device();
    let size = 1440;
    for len in &LENGTHS[1..] {
        // virtio's devices fill in no IPv4 header checksums, so IPv4 is cut by the switch.
        let sent = Packet::new(FrameSpec { gso_size: Some(size), ..tcp(6, *len) });
        a.send(std::slice::from_ref(&sent));
        let [arrived] = &b.receive(1)[..] else { panic!("one frame") };
        assert!(arrived.bytes == sent.bytes, "{len} bytes");
        assert_eq!((arrived.offload.gso, arrived.offload.gso_size), (sent.offload.gso, size));

        let sent = Packet::new(FrameSpec { gso_size: Some(size), ..tcp(4, *len) });
        let whole = Parsed::new(&sent.bytes);
        let segments = (whole.end - whole.payload).div_ceil(usize::from(size));
        a.send(std::slice::from_ref(&sent));
        let arrived = b.receive(segments);
        assert_eq!(arrived.len(), segments, "{len} bytes");
        let payload: Vec<u8> = arrived.iter().flat_map(|p| p.bytes[Parsed::new(&p.bytes).payload..].to_vec()).collect();
        assert!(payload == sent.bytes[whole.payload..whole.end], "{len} bytes");
        for segment in &arrived {
            let parsed = Parsed::new(&segment.bytes);
            assert_eq!(segment.offload.flags, Offload::NEEDS_CSUM);
            assert!(parsed.checksum_is_partial(&segment.bytes), "{len} bytes");
        }
    }
    assert_eq!(rig.drops("a"), Default::default());
}
