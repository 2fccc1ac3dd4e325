//! Ring formats, headers and sizes in every mix; and kicks, of which there are none.

use std::collections::BTreeMap;

use synthetic_guest::packet::FrameSpec;
use synthetic_guest::{Features, GuestConfig, Indirect, RxShape, TxShape};

use crate::frames::{Packet, one, udp};
use crate::rig::{Plan, Rig};
use crate::stream::{self, Stream};

/// A way to be a guest.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    features: Features,
    rings: (u16, u16),
    shapes: (RxShape, TxShape),
}

const fn features(list: &[Features]) -> Features {
    let mut bits = 0;
    let mut at = 0;
    while at < list.len() {
        bits |= list[at].0;
        at += 1;
    }
    Features(bits)
}

const MODERN: Features = Features::VERSION_1;
const PLAIN: (RxShape, TxShape) = (RxShape::OneBuffer, TxShape::OneBuffer);
const APART: (RxShape, TxShape) = (RxShape::HeaderSeparate, TxShape::HeaderSeparate);
const PIECES: (RxShape, TxShape) = (RxShape::Pieces(3), TxShape::Pieces(4));

const KINDS: [Kind; 8] = [
    Kind { name: "split", features: MODERN, rings: (256, 256), shapes: PLAIN },
    Kind { name: "legacy", features: Features::NONE, rings: (128, 64), shapes: APART },
    Kind {
        name: "legacy-mergeable",
        features: features(&[Features::MRG_RXBUF, Features::INDIRECT_DESC]),
        rings: (512, 64),
        shapes: (RxShape::OneBuffer, TxShape::Pieces(4)),
    },
    Kind {
        name: "split-mergeable",
        features: features(&[MODERN, Features::MRG_RXBUF, Features::EVENT_IDX]),
        rings: (1024, 32),
        shapes: (RxShape::OneBuffer, TxShape::SplitHeader),
    },
    Kind { name: "packed", features: features(&[MODERN, Features::RING_PACKED]), rings: (256, 256), shapes: APART },
    Kind {
        name: "packed-odd",
        features: features(&[MODERN, Features::RING_PACKED, Features::MRG_RXBUF, Features::EVENT_IDX]),
        rings: (300, 77),
        shapes: (RxShape::OneBuffer, TxShape::OneBuffer),
    },
    Kind {
        name: "packed-indirect",
        features: features(&[MODERN, Features::RING_PACKED, Features::INDIRECT_DESC]),
        rings: (200, 100),
        shapes: PIECES,
    },
    Kind {
        name: "in-order",
        features: features(&[MODERN, Features::IN_ORDER, Features::INDIRECT_DESC]),
        rings: (128, 128),
        shapes: PIECES,
    },
];

impl Kind {
    fn apply(self, config: &mut GuestConfig) {
        config.session.features = self.features;
        config.session.required = self.features;
        (config.rx_ring, config.tx_ring) = self.rings;
        (config.rx_shape, config.tx_shape) = self.shapes;
        config.indirect = Indirect::Chains;
        config.tx_frame_len = 9216;
        let mergeable = self.features.contains(Features::MRG_RXBUF);
        config.rx_buffer_len = if mergeable { 1600 } else { 9216 + 64 };
        config.ram.region_size = 16 << 20;
    }
}

#[test]
fn every_kind_of_guest_talks_to_every_other() {
    let names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
    let rig = Plan::new().guests(&names).start();
    let mut nodes: Vec<_> = KINDS.iter().map(|kind| rig.guest_with(kind.name, |config| kind.apply(config))).collect();
    for (number, node) in nodes.iter_mut().enumerate() {
        node.send(&[Packet::new(FrameSpec { to: [0xff; 6], ..FrameSpec::udp4(number as u32, 0, 0, 60) })]);
    }
    nodes.iter_mut().for_each(|node| assert_eq!(node.received().len(), KINDS.len() - 1));
    let count = KINDS.len();
    let mut streams = Vec::new();
    for from in 0..count {
        for to in (0..count).filter(|to| *to != from) {
            // Small and large ones; seven senders at a time may not be more than the smallest receiver can take.
            streams.push(Stream { window: 4, ..Stream::udp(from, to, 60, 700) });
            streams.push(Stream { window: 2, ..Stream::udp(from, to, 9014, 200) });
        }
    }
    let mut references: Vec<_> = nodes.iter_mut().collect();
    for (report, kind) in stream::run(&mut references, &streams).iter().zip(KINDS) {
        assert!(report.is_perfect(7 * 900), "{}: {report:?}", kind.name);
    }
    for kind in KINDS {
        let port = rig.port(kind.name);
        let negotiated = port.negotiated.unwrap();
        let packed = kind.features.contains(Features::RING_PACKED);
        assert_eq!(negotiated.ring, if packed { "packed" } else { "split" });
        assert_eq!(negotiated.features, format!("{:#x}", kind.features.0));
        assert_eq!((port.accounting.forwarded, port.drops), (7 * 900 + 1, BTreeMap::new()));
    }
    rig.finish(&mut references);
}

#[test]
fn a_frame_larger_than_a_buffer_that_cannot_be_merged_is_dropped() {
    let rig = Plan::new().guests(&["a", "small", "mergeable"]).start();
    let mut a = rig.guest_with("a", |config| config.tx_frame_len = 9216);
    let mut small = rig.guest_with("small", |_| ());
    let mut mergeable = rig.guest_with("mergeable", |config| {
        config.session.features = Features::VERSION_1 | Features::MRG_RXBUF;
    });
    // Buffers of 1600 bytes, the header included.
    a.send(&udp(1, 2, 1588, 3));
    assert_eq!((small.frames().len(), mergeable.frames().len()), (3, 3));
    a.send(&udp(1, 2, 1589, 4));
    assert_eq!(small.frames().len(), 0);
    assert!(mergeable.received().iter().all(|packet| packet.offload.num_buffers == 2));
    let port = rig.port("a");
    assert_eq!((port.accounting.delivered, port.drops), (10, BTreeMap::from([("too_long".to_owned(), 4)])));
    rig.finish(&mut [&mut a, &mut small, &mut mergeable]);
}

/// 200,000 packets in every ring, and nobody wanted a kick or counted one. Then 1,000 that nobody wanted, all counted.
fn zero_kicks(features: Features) {
    const PACKETS: u64 = 200_000;
    const KICKS: u64 = 1000;
    let rig = Plan::new().guests(&["a", "b"]).start();
    let [mut a, mut b] =
        ["a", "b"].map(|name| rig.guest_with(name, |config| config.session.features = MODERN | features));
    a.send(&[one(0, 1)]);
    b.send(&[one(1, 0)]);
    a.received();
    b.received();
    let streams = [Stream::udp(0, 1, 60, PACKETS), Stream::udp(1, 0, 60, PACKETS)];
    for report in stream::run(&mut [&mut a, &mut b], &streams) {
        assert!(report.is_perfect(PACKETS), "{report:?}");
    }
    assert_eq!((a.kicks_wanted(), b.kicks_wanted()), (0, 0));
    for name in ["a", "b"] {
        let port = rig.port(name);
        assert_eq!((port.rx.packets, port.tx.packets), (PACKETS + 1, PACKETS + 1));
        assert_eq!((port.kicks, port.calls), (0, 0), "{name}");
    }
    count_kicks(&rig, &mut a, KICKS);
    assert_eq!(rig.port("b").kicks, 0);
    assert!(!rig.switch.log().contains("WARN"));
    rig.switch.quiet_status().unwrap();
    rig.switch.stop().unwrap();
}

fn count_kicks(rig: &Rig, node: &mut crate::rig::Node, kicks: u64) {
    let pair = node.guest.pair(0);
    for number in 0..kicks {
        if number % 2 == 0 { pair.tx.bell().kick(1) } else { pair.rx.bell().kick(1) }
    }
    rig.switch.wait_for_port("a", "all kicks", |port| port.kicks >= kicks).unwrap();
    // Time for some more, should something be counted twice.
    std::thread::sleep(std::time::Duration::from_millis(50));
    let port = rig.port("a");
    assert_eq!((port.kicks, port.kicks_asked, port.kicks_polling), (kicks, 0, kicks));
}

#[test]
fn zero_kicks_on_split_rings() {
    zero_kicks(Features::NONE);
}

#[test]
fn zero_kicks_on_split_rings_with_event_index() {
    zero_kicks(Features::EVENT_IDX);
}

#[test]
fn zero_kicks_on_packed_rings() {
    zero_kicks(Features::RING_PACKED);
}

#[test]
fn zero_kicks_on_packed_rings_with_event_index() {
    zero_kicks(Features::RING_PACKED | Features::EVENT_IDX);
}
