//! Frames from a driver through the device back to a driver, over every kind of ring: whole, in order, each once.

use std::collections::VecDeque;

use synthetic_guest::packet::{FrameSpec, Stamp, Template};
use synthetic_guest::verify::Verifier;
use synthetic_guest::{CallMode, Features, Frame, Indirect, RxShape, TxShape};

use crate::bench::{Setup, World, forward};

/// `total` frames of changing sizes through one guest; nothing is lost, no kick is wanted, no used entry is wrong.
fn run(setup: &Setup, total: u64) {
    let mut world = World::new(setup);
    let longest = setup.tx_frame_len.min(if setup.features.contains(Features::MRG_RXBUF) {
        setup.tx_frame_len
    } else {
        setup.rx_buffer_len - setup.features.header_len()
    });
    let sizes = [60, 61, longest / 2, longest - 1, longest].map(|len| len.clamp(60, longest));
    let mut templates = sizes.map(|len| Template::new(FrameSpec::udp4(1, 2, 0, len)));
    let mut verifier = Verifier::new();
    let (mut sent, mut received) = (0u64, 0u64);
    // As many frames on the way as there are receive buffers for.
    let buffers = longest.div_ceil(setup.rx_buffer_len) + 1;
    let chains = usize::from(setup.ring) / usize::from(setup.rx_shape.segments());
    let most = if setup.features.contains(Features::MRG_RXBUF) { (chains / buffers).max(1) } else { chains };
    while sent < total {
        let burst = (sent % 37 + 1).min(most as u64);
        for _ in 0..burst {
            let template = &mut templates[(sent % 5) as usize];
            template.stamp(Stamp { flow: 0, sequence: sent, time_ns: 0 });
            let frame = Frame { bytes: template.bytes(), offload: template.offload() };
            if world.pair.tx.send_burst(&[frame]) == 0 {
                break;
            }
            sent += 1;
        }
        while world.tx.has_work() {
            for pushed in forward(&mut world.tx, &mut world.rx) {
                assert_eq!(pushed, Ok(()), "{setup:?} frame {sent}");
            }
        }
        received += world.pair.rx.recv_burst(usize::MAX, |frame| {
            verifier.check_received(frame);
        }) as u64;
        assert_eq!(received, sent, "{setup:?}");
    }
    assert!(verifier.report_against(&[sent]).is_perfect(sent), "{setup:?}: {:?}", verifier.report());
    world.pair.tx.reclaim();
    assert_eq!((world.pair.tx.in_flight(), world.kicks(), world.all_drops()), (0, 0, 0), "{setup:?}");
    assert_eq!(world.pair.tx.ring().violations() + world.pair.rx.ring().violations(), 0, "{setup:?}");
    let stats = world.pair.rx.stats();
    assert_eq!((stats.bad_frames, stats.incomplete, stats.bad_num_buffers), (0, 0, 0), "{setup:?}");
    let (tx, rx) = (&world.counters.tx, &world.counters.rx);
    assert_eq!((tx.packets.get(), rx.packets.get(), tx.bytes.get()), (sent, sent, rx.bytes.get()), "{setup:?}");
}

/// Every combination of the bits that change how a ring is worked.
fn matrix() -> Vec<Setup> {
    let bits = [
        Features::RING_PACKED,
        Features::MRG_RXBUF,
        Features::INDIRECT_DESC,
        Features::EVENT_IDX,
        Features::IN_ORDER,
        Features::VERSION_1,
    ];
    let shapes: VecDeque<TxShape> =
        [TxShape::OneBuffer, TxShape::HeaderSeparate, TxShape::Pieces(3), TxShape::SplitHeader].into();
    (0..1u32 << bits.len())
        .map(|n| {
            let features =
                bits.iter().enumerate().filter(|(bit, _)| n >> bit & 1 == 1).fold(Features::NONE, |f, b| f | *b.1);
            let mut setup =
                Setup { tx_shape: shapes[n as usize / 4 % 4], indirect: Indirect::Chains, ..Setup::new(features) };
            setup.rx_shape = [RxShape::OneBuffer, RxShape::HeaderSeparate, RxShape::Pieces(3)][n as usize % 3];
            if features.contains(Features::MRG_RXBUF) {
                setup.rx_buffer_len = 300;
            }
            setup.calls = [CallMode::Never, CallMode::Always, CallMode::Event][n as usize % 3];
            setup
        })
        .collect()
}

#[test]
fn every_kind_of_ring_carries_every_frame() {
    for setup in matrix() {
        run(&setup, 1500);
    }
}

#[test]
fn every_size_of_split_ring() {
    for ring in [2, 4, 8, 64, 1024, 4096] {
        for features in [Features::VERSION_1, Features::EVENT_IDX | Features::VERSION_1] {
            run(&Setup { region_size: 32 << 20, ..Setup::new(features).ring(ring) }, 2500);
        }
    }
    let one = Setup { indirect: Indirect::Always, ..Setup::new(Features::VERSION_1 | Features::INDIRECT_DESC).ring(1) };
    run(&one, 500);
}

#[test]
fn odd_sizes_of_packed_rings() {
    for ring in [1, 2, 3, 53, 255, 256] {
        for features in [Features::NONE, Features::EVENT_IDX, Features::IN_ORDER, Features::INDIRECT_DESC] {
            let features = features | Features::RING_PACKED | Features::VERSION_1;
            run(&Setup { indirect: Indirect::Always, ..Setup::new(features).ring(ring) }, 2500);
        }
    }
}

#[test]
fn the_largest_rings_go_round_past_every_index() {
    for features in
        [Features::NONE, Features::EVENT_IDX, Features::RING_PACKED, Features::RING_PACKED | Features::EVENT_IDX]
    {
        let setup = Setup { tx_frame_len: 64, rx_buffer_len: 128, region_size: 32 << 20, ..Setup::new(features) };
        run(&setup.clone().ring(32_768), 70_000);
        run(&setup.calls(CallMode::Event).ring(128), 70_000);
    }
}

#[test]
fn a_ring_goes_on_from_where_it_was_stopped() {
    for features in [Features::NONE, Features::EVENT_IDX, Features::RING_PACKED] {
        let mut world = World::new(&Setup::new(Features::VERSION_1 | features).ring(53_u16.next_power_of_two()));
        let frame = crate::bench::pattern(60, 1);
        let send = |world: &mut World, count: usize| {
            let sent = world.pair.tx.send_with(count, |_, slot| {
                slot.header(synthetic_guest::Offload::default());
                slot.write(0, &frame);
                frame.len()
            });
            assert_eq!(sent, count);
        };
        for _ in 0..200 {
            send(&mut world, 40);
            assert_eq!(world.pull().len(), 32);
            world.restart_tx();
            assert_eq!(world.pull().len(), 8);
            world.pair.tx.reclaim();
            assert_eq!(world.pair.tx.in_flight(), 0);
        }
    }
}
