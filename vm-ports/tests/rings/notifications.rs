//! Kicks are never wanted, calls come exactly when they are wanted: on every kind of ring, and past every wrap.

use synthetic_guest::{CallMode, Features};

use crate::bench::{Setup, World, forward, pattern, push, received};

const KINDS: [Features; 4] = [
    Features::NONE,
    Features::EVENT_IDX,
    Features::RING_PACKED,
    Features(Features::RING_PACKED.0 | Features::EVENT_IDX.0),
];

fn small(features: Features, ring: u16) -> World {
    let setup = Setup {
        tx_frame_len: 64,
        rx_buffer_len: 128,
        region_size: 32 << 20,
        ..Setup::new(Features::VERSION_1 | features)
    };
    World::new(&setup.ring(ring))
}

/// Queues `count` frames without a look at the device's wishes.
fn queue(world: &mut World, count: usize) -> usize {
    let frame = pattern(60, 1);
    let queued = world.pair.tx.queue_with(count, |_, slot| {
        slot.header(synthetic_guest::Offload::default());
        slot.write(0, &frame);
        frame.len()
    });
    world.pair.tx.ring().publish();
    queued
}

/// The device takes one burst and gives it back.
fn serve(world: &mut World) {
    world.pull();
}

/// The driver publishes `batch` frames, the device serves `before` bursts, then the driver looks whether it has to
/// kick; over 70,000 entries and more, with the ring full in between where `batch` allows.
fn no_kick(features: Features, ring: u16, batch: usize, before: usize) {
    let mut world = small(features, ring);
    let mut sent = 0;
    while sent < 100_000 {
        let mut queued = queue(&mut world, batch);
        for _ in 0..before {
            serve(&mut world);
        }
        // A driver that was held up goes on filling what was freed meanwhile, before it asks.
        queued += queue(&mut world, usize::from(before > 0));
        assert!(
            !world.pair.tx.ring().kick_wanted(),
            "{features:?} ring {ring} batch {batch} served {before} after {sent} frames"
        );
        serve(&mut world);
        sent += queued;
        if queued == 0 {
            while world.pair.tx.reclaim() < usize::from(ring) / 2 {
                serve(&mut world);
            }
        }
    }
    assert_eq!(world.pair.tx.ring().violations(), 0);
}

#[test]
fn no_kick_is_ever_wanted_whenever_the_driver_looks() {
    for features in KINDS {
        for (ring, batch, before) in [(2, 1, 1), (256, 1, 0), (256, 32, 1), (256, 256, 0), (256, 256, 8), (256, 100, 3)]
        {
            no_kick(features, ring, batch, before);
        }
    }
    for features in [Features::RING_PACKED, Features(Features::RING_PACKED.0 | Features::EVENT_IDX.0)] {
        for (ring, batch, before) in [(1, 1, 1), (3, 3, 1), (53, 20, 1), (255, 255, 2)] {
            no_kick(features, ring, batch, before);
        }
    }
}

#[test]
fn no_kick_is_wanted_of_the_largest_rings() {
    for features in KINDS {
        for (ring, batch, before) in [(16_384, 16_384, 40), (32_768, 64, 1), (32_768, 5000, 30), (32_768, 20_000, 300)]
        {
            no_kick(features, ring, batch, before);
        }
    }
}

/// The largest split ring is half the index space: wherever the device is between two moves of its event, a driver that
/// fills the ring to the last entry must not pass the event.
#[test]
fn a_driver_that_fills_the_largest_ring_to_the_last_entry_is_not_asked_to_kick() {
    let mut world = small(Features::EVENT_IDX, 32_768);
    let mut frames = 0;
    while frames < 100_000 {
        for _ in 0..31 {
            serve(&mut world);
        }
        // Whatever there is room for, which is all that was used since.
        frames += queue(&mut world, 32_768);
        assert!(!world.pair.tx.ring().kick_wanted(), "after {frames} frames");
    }
}

#[test]
fn receive_rings_want_no_kicks_either() {
    for features in KINDS {
        let mut world = small(features, 256);
        for n in 0..80_000u32 {
            push(&mut world.rx, &pattern(60, n as u8)).expect("room");
            if n % 100 == 0 {
                received(&mut world.pair);
            }
        }
        assert_eq!(world.kicks(), 0, "{features:?}");
    }
}

/// Calls that came since the last look, on both rings.
fn calls(world: &mut World) -> [u64; 2] {
    [world.pair.tx.bell().drain_calls(), world.pair.rx.bell().drain_calls()]
}

fn turn(world: &mut World, frames: usize) {
    assert_eq!(queue(world, frames), frames);
    assert!(!world.pair.tx.ring().kick_wanted());
    assert!(forward(&mut world.tx, &mut world.rx).iter().all(Result::is_ok));
}

fn called_as_wanted(features: Features, ring: u16, mode: CallMode) {
    let mut world = small(features, ring);
    world.pair.tx.ring().set_calls(mode);
    world.pair.rx.ring().set_calls(mode);
    // An event asks for one call and no more until it is moved; without event index it asks for all.
    let event = mode == CallMode::Event || features == Features::EVENT_IDX && mode == CallMode::Always;
    let once = event && features.contains(Features::EVENT_IDX);
    let burst = usize::from(ring / 4).clamp(1, 16);
    let mut frames = 0;
    while frames < 70_000 {
        assert_eq!(calls(&mut world), [0, 0], "nothing used, no call");
        turn(&mut world, burst);
        let first = if mode == CallMode::Never { 0 } else { 1 };
        assert_eq!(calls(&mut world), [first; 2], "{features:?} ring {ring} {mode:?} frame {frames}");
        frames += burst;
        if ring >= 4 {
            turn(&mut world, burst);
            let second = if once { 0 } else { first };
            assert_eq!(calls(&mut world), [second; 2], "{features:?} ring {ring} {mode:?} frame {frames}, not polled");
            frames += burst;
        }
        world.pair.tx.reclaim();
        received(&mut world.pair);
    }
    let counters = &world.counters;
    let published = counters.tx.calls.get() + counters.tx.calls_suppressed.get();
    assert_eq!(published, counters.rx.calls.get() + counters.rx.calls_suppressed.get());
    assert_eq!(world.kicks(), 0);
}

#[test]
fn calls_come_exactly_when_they_are_wanted() {
    for features in KINDS {
        let sizes: &[u16] = if features.contains(Features::RING_PACKED) { &[1, 3, 53, 255] } else { &[1, 4, 64] };
        for &ring in sizes {
            for mode in [CallMode::Never, CallMode::Always, CallMode::Event] {
                called_as_wanted(features, ring, mode);
            }
        }
    }
}

#[test]
fn an_event_further_on_is_called_for_when_it_is_passed_and_only_then() {
    for (features, ring) in [(KINDS[1], 64u16), (KINDS[3], 53), (KINDS[3], 64)] {
        let mut world = small(features, ring);
        let raw = world.raw_tx();
        calls(&mut world);
        let packed = features.contains(Features::RING_PACKED);
        let mut used = 0u32;
        for distance in (0..u32::from(ring) / 2).cycle().take(4000) {
            let at = used + distance;
            if packed {
                let lap = (at / u32::from(ring)).is_multiple_of(2);
                raw.set_driver_event((at % u32::from(ring)) as u16 | u16::from(lap) << 15, 2);
            } else {
                raw.set_used_event(at as u16);
            }
            for step in 0..=distance {
                assert_eq!(queue(&mut world, 1), 1);
                assert!(!world.pair.tx.ring().kick_wanted());
                serve(&mut world);
                let wanted = u64::from(step == distance);
                assert_eq!(
                    world.pair.tx.bell().drain_calls(),
                    wanted,
                    "{features:?}: {step} of {distance} after {used}"
                );
                used += 1;
            }
            // Taken back behind the ring's own event, which would be armed again.
            while world.pair.tx.ring().has_used() {
                world.pair.tx.reclaim();
            }
        }
    }
}

#[test]
fn a_swapped_call_eventfd_is_signalled_once_unless_the_driver_polls() {
    let fd =
        |world: &mut World| world.pair.tx.bell().call_fd().map(|fd| fd.try_clone_to_owned().expect("a handle").into());
    for features in [Features::NONE, Features::RING_PACKED] {
        let mut world = small(features, 64);
        for (mode, signals) in [(CallMode::Never, 0), (CallMode::Always, 1)] {
            world.pair.tx.ring().set_calls(mode);
            let new = fd(&mut world);
            assert!(world.tx.set_call(new).is_some());
            assert_eq!(world.pair.tx.bell().drain_calls(), signals, "{features:?}, {mode:?}");
        }
        assert!(world.tx.set_call(None).is_some());
        let suppressed = world.counters.tx.calls_suppressed.get();
        turn(&mut world, 1);
        assert_eq!(world.pair.tx.bell().drain_calls(), 0, "a guest without eventfd polls");
        assert_eq!(world.counters.tx.calls_suppressed.get(), suppressed + 1);
    }
}
