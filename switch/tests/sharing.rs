//! How guests share an I/O core that cannot do all they want: by what their packets cost, by their weights, and with a look at those of class
//! `latency` now and then while others' bursts go out.
#![forbid(unsafe_code)]

mod rig;

use std::cell::Cell;

use rig::sharing::Sharing;
use rig::{BURST, LONGEST, RING};
use sidecore::rig::{Mode, Share, cost};
use vm_ports::BURST_BYTES;

const TURNS: usize = 1000;
const EQUAL: Share = Share { latency: false, weight: 1, mode: Mode::Poll };
const LATENCY: Share = Share { latency: true, ..EQUAL };
/// Packets of others that go out between two looks at guests of class latency: of the shortest ones.
const PART_PACKETS: usize = 3;

/// Jain's index of fairness: 1 where all are equal, 1/n where one has everything.
fn jain(values: &[f64]) -> f64 {
    let sum: f64 = values.iter().sum();
    let squares: f64 = values.iter().map(|value| value * value).sum();
    sum * sum / (values.len() as f64 * squares)
}

/// Frames of each of these guests, all of which want more than they get.
fn saturate(guests: &[(Share, usize)]) -> Vec<f64> {
    let mut sharing = Sharing::new(1);
    guests.iter().for_each(|(share, len)| _ = sharing.add(0, *share, *len));
    sharing.saturate(TURNS);
    assert_eq!(sharing.dropped(), 0, "what cannot be forwarded stays with its sender");
    sharing.received().iter().map(|frames| *frames as f64).collect()
}

#[test]
fn equal_guests_have_equal_shares_of_the_core_whatever_the_size_of_their_packets() {
    let guests = [60, 60, 128, 512, 1024, 1514, 1514, 1514].map(|len| (EQUAL, len));
    let frames = saturate(&guests);
    let costs: Vec<f64> = frames.iter().zip(guests).map(|(frames, (_, len))| frames * cost(len) as f64).collect();
    assert!(jain(&costs) >= 0.999, "{costs:?}");
    // As many bursts for each would not be fair.
    let alike: Vec<f64> = guests.iter().map(|(_, len)| cost(*len) as f64).collect();
    assert!(jain(&alike) < 0.95, "{alike:?}");
}

#[test]
fn guests_with_equal_packets_forward_as_many() {
    for len in [60, 1514] {
        let frames = saturate(&[(EQUAL, len); 16]);
        assert!(jain(&frames) >= 0.999, "{frames:?}");
    }
}

#[test]
fn shares_are_as_weights() {
    for lens in [[60, 60, 60], [60, 1514, 512]] {
        let guests = [1, 2, 4].map(|weight| Share { weight, ..EQUAL });
        let guests: Vec<_> = guests.into_iter().zip(lens).collect();
        let frames = saturate(&guests);
        let parts: Vec<f64> = frames
            .iter()
            .zip(&guests)
            .map(|(frames, (share, len))| frames * cost(*len) as f64 / f64::from(share.weight))
            .collect();
        let mean = parts.iter().sum::<f64>() / 3.0;
        assert!(parts.iter().all(|part| (part / mean - 1.0).abs() < 0.02), "{parts:?}");
    }
}

#[test]
fn what_a_packet_is_cut_into_and_what_it_is_in_are_paid_for() {
    // So many frames of each packet: as many as there may be.
    const FRAMES: usize = 256;
    let mut sharing = Sharing::new(1);
    let (cut, plain) = (sharing.add_segmented(54 + FRAMES, 1), sharing.add(0, EQUAL, 60));
    sharing.saturate(TURNS);
    let frames = sharing.received();
    let ratio = frames[cut] as f64 / frames[plain] as f64;
    assert!((0.5..1.2).contains(&ratio), "{frames:?}");
    assert_eq!(sharing.dropped(), 0, "no burst has more frames than the receiver has buffers");

    // A descriptor is a quarter of a packet.
    const PIECES: u16 = 200;
    let mut sharing = Sharing::new(1);
    let (pieces, plain) = (sharing.add_in_pieces(256, PIECES), sharing.add(0, EQUAL, 60));
    sharing.saturate(TURNS);
    let frames = sharing.received();
    let ratio = frames[plain] as f64 / frames[pieces] as f64;
    let wanted = f64::from(PIECES) / 4.0;
    assert!((0.9 * wanted..1.2 * wanted).contains(&ratio), "{frames:?}");
    assert_eq!(sharing.dropped(), 0);
}

#[test]
fn announcements_take_turns_with_packets_and_are_paid_for() {
    const GUESTS: usize = 8;
    let mut sharing = Sharing::new(1);
    (0..GUESTS).for_each(|_| _ = sharing.add(0, EQUAL, 60));
    // One in the first round, whatever waits: to the other guest and to its receiver.
    sharing.announce(0, 10);
    sharing.fill([1]);
    sharing.turn(0, |_| ());
    assert_eq!(sharing.received()[1] as usize, BURST + 2);
    for _ in 0..TURNS {
        sharing.announce(0, 1);
        sharing.saturate(1);
    }
    let frames = sharing.received();
    // Some 14 copies in a round in which others have a burst of 32.
    let ratio = frames[0] as f64 / frames[1] as f64;
    assert!((0.4..0.75).contains(&ratio), "{frames:?}");
}

#[test]
fn a_guest_of_class_latency_that_sends_all_it_can_has_no_more_than_its_share() {
    let frames = saturate(&[(LATENCY, 60), (EQUAL, 60), (EQUAL, 60), (LATENCY, 60)]);
    assert!(jain(&frames) >= 0.999, "{frames:?}");
    let heavy = Share { weight: 4, ..LATENCY };
    let frames = saturate(&[(heavy, 60), (EQUAL, 60), (EQUAL, 60)]);
    assert!((frames[0] / frames[1] / 4.0 - 1.0).abs() < 0.02, "{frames:?}");
}

#[test]
fn more_guests_than_the_core_can_serve_cost_it_nothing() {
    let frames_per_burst = |guests: usize| {
        let mut sharing = Sharing::new(1);
        (0..guests).for_each(|_| _ = sharing.add(0, EQUAL, 1514));
        sharing.saturate(TURNS / guests);
        assert_eq!(sharing.dropped(), 0);
        sharing.received().iter().sum::<u64>() as f64 / sharing.bursts() as f64
    };
    let peak = frames_per_burst(1);
    assert!(peak > 0.99 * BURST as f64, "{peak}");
    for guests in [2, 4, 16] {
        let more = frames_per_burst(guests);
        assert!(more >= 0.97 * peak, "{guests} guests: {more} frames in a burst, {peak} with one");
    }
}

#[test]
fn a_receiver_that_takes_nothing_holds_nobody_up() {
    let mut sharing = Sharing::new(1);
    let (full, other) = (sharing.add(0, EQUAL, 60), sharing.add(0, EQUAL, 60));
    for _ in 0..100 {
        sharing.fill([full, other]);
        sharing.turn_without(0, full, |_| ());
    }
    let frames = sharing.received();
    assert_eq!((frames[full], frames[other] as usize), (0, 100 * BURST));
    assert_eq!(sharing.dropped() as usize, 100 * BURST - RING);
}

/// How many frames of others, at most, were forwarded while one of a guest of this class waited; and how often it sent one. Others are
/// guests on its core, guests on another one, and an uplink.
fn longest_wait(share: Share) -> (usize, usize) {
    let mut sharing = Sharing::new(2);
    let urgent = sharing.add(0, share, 60);
    let others: Vec<usize> = (0..8).map(|_| sharing.add(0, EQUAL, 60)).collect();
    let remote = sharing.add(1, EQUAL, 60);
    sharing.add_uplink(others[0], 60);
    let (waited, longest, sent) = (Cell::new(0), Cell::new(0), Cell::new(0));
    for turn in 0..TURNS {
        sharing.fill(others.iter().copied().chain([remote]));
        sharing.turn(1, |_| ());
        sharing.turn(0, |senders| {
            // What is shown together with its own frame went out before it.
            waited.set(waited.get() + senders.take(urgent));
            // In the first round nobody knows of it yet.
            longest.set(longest.get().max(if turn > 0 { waited.get() } else { 0 }));
            if !senders.waits(urgent) {
                waited.set(0);
                sent.set(sent.get() + 1);
                senders.send_one(urgent);
            }
        });
    }
    (longest.get(), sent.get())
}

/// Guests that frames are flooded to, half of them senders.
const FLOODED: usize = 48;

/// Of so many flooded frames of this length in a turn, from a guest on this core: how many copies, at most, were made while a frame of a guest
/// of class latency waited, and how many in all turns.
fn longest_wait_beside_floods(core: usize, (floods, frame_len): (usize, usize)) -> (usize, usize) {
    let mut sharing = Sharing::new(2);
    let urgent = sharing.add(0, Share { weight: 100, ..LATENCY }, 60);
    (0..FLOODED / 2).for_each(|_| _ = sharing.add(0, EQUAL, 60));
    let flooder = sharing.add_flooder(core, EQUAL, frame_len);
    let (waited, longest, copies) = (Cell::new(0), Cell::new(0), Cell::new(0));
    for turn in 0..10 {
        sharing.send(flooder, floods);
        sharing.turn(1, |_| ());
        sharing.turn(0, |senders| {
            let frames = senders.take(urgent);
            copies.set(copies.get() + frames);
            // What is shown together with its own frame went out before it.
            waited.set(waited.get() + frames);
            // In the first round nobody knows of it yet.
            longest.set(longest.get().max(if turn > 0 { waited.get() } else { 0 }));
            if !senders.waits(urgent) {
                waited.set(0);
                senders.send_one(urgent);
            }
        });
    }
    assert_eq!(sharing.lost_copies(), 0);
    (longest.get(), copies.get())
}

/// Wherever the frames come from: no more is done for others than is between two looks.
#[test]
fn a_guest_of_class_latency_does_not_wait_for_a_flood() {
    for core in [0, 1] {
        let (longest, copies) = longest_wait_beside_floods(core, (4, 60));
        assert!(copies >= 4 * FLOODED && longest > 0, "{copies} copies, {longest} while it waited");
        assert!(longest <= BURST, "{longest} copies of {copies} while it waited");
        let (longest, copies) = longest_wait_beside_floods(core, (1, LONGEST));
        assert!(copies >= FLOODED && longest > 0, "{copies} copies, {longest} while it waited");
        assert!(longest * LONGEST <= BURST_BYTES + LONGEST, "{longest} copies of {copies} while it waited");
    }
}

#[test]
fn a_guest_of_class_latency_waits_for_a_part_of_a_burst() {
    // A share that allows it a frame after each part.
    let (longest, sent) = longest_wait(Share { weight: 4, ..LATENCY });
    assert!(longest <= PART_PACKETS, "{longest} frames of others");
    assert!(sent > 4 * TURNS, "{sent} frames");
    // In the other class it waits for everybody.
    assert!(longest_wait(EQUAL).0 > 8 * BURST);
}
