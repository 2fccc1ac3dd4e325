use vm_ports::{BurstBuffer, Offload};

use super::*;
use crate::forwarding::{PortVlans, VlanId};

fn label(port: u16) -> Label {
    let vlans = PortVlans::access(VlanId::DEFAULT);
    Label {
        since: 0,
        errand: Errand::Deliver(PortId(port)),
        source: SourceId(0),
        port: PortId(0),
        table: 0,
        ingress: vlans.ingress(None).expect("untagged is let in"),
    }
}

/// Hands over frames with these metadata, as one run. How many there was room for.
fn send_run<'f>(to: &mut ToCore, frames: impl IntoIterator<Item = (&'f [u8], Offload)>, port: u16) -> usize {
    let mut buffer = BurstBuffer::default();
    let mut burst = Burst::new(&mut buffer);
    frames.into_iter().for_each(|(frame, offload)| assert!(burst.push_frame([frame], offload)));
    to.push_run(burst.run(0..burst.len()), &label(port))
}

fn send(to: &mut ToCore, frame: &[u8]) -> bool {
    send_run(to, [(frame, Offload::NONE)], 1) == 1
}

/// A packet as it arrived: its port, what is to be done to it, its bytes.
type Arrived = (Errand, Offload, Vec<u8>);

fn collect(burst: &Burst<'_>, groups: &Groups<'_>) -> Vec<Arrived> {
    let labels = groups.iter().flat_map(|group| std::iter::repeat_n(group.label, group.packets));
    let arrived: Vec<Arrived> = labels
        .zip(burst.run(0..burst.len()).views())
        .map(|(label, view)| {
            let mut bytes = vec![0; view.packet().len()];
            view.copy_to(0, &mut bytes);
            (label.errand, *view.packet().offload(), bytes)
        })
        .collect();
    assert_eq!(arrived.len(), burst.len(), "every packet has a label");
    arrived
}

/// A burst; those for one port, if any is given, are parked.
fn receive_some(from: &mut FromCore, parking: Option<u16>) -> Vec<Arrived> {
    let mut buffer = BurstBuffer::default();
    let mut burst = Burst::new(&mut buffer);
    let mut groups = Groups::new();
    let taken = from.pull(&mut burst, &mut groups);
    let mut arrived = collect(&burst, &groups);
    drop((burst, groups));
    let parked = parking.map(|port| Errand::Deliver(PortId(port)));
    let parked: Vec<(usize, Errand)> = (0..)
        .zip(&arrived)
        .filter(|(_, (errand, ..))| Some(*errand) == parked)
        .map(|(nth, _)| (nth, Errand::Copy(PortId(9))))
        .collect();
    if parked.is_empty() {
        from.release(taken);
    } else {
        from.release_or_park(taken, &parked);
        let is_parked = |nth: &usize| parked.iter().any(|(other, _)| other == nth);
        arrived = (0..).zip(arrived).filter(|(nth, _)| !is_parked(nth)).map(|(_, packet)| packet).collect();
    }
    arrived
}

fn receive(from: &mut FromCore) -> Vec<Vec<u8>> {
    receive_some(from, None).into_iter().map(|(_, _, bytes)| bytes).collect()
}

fn receive_parked(from: &mut FromCore) -> Vec<Arrived> {
    let mut buffer = BurstBuffer::default();
    let mut all = Vec::new();
    loop {
        let mut burst = Burst::new(&mut buffer);
        let mut groups = Groups::new();
        let chunks = from.pull_parked(&mut burst, &mut groups);
        all.extend(collect(&burst, &groups));
        drop((burst, groups));
        from.release_parked(chunks);
        if chunks == 0 {
            return all;
        }
    }
}

fn frame(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + seed) as u8).collect()
}

/// Chunks that the sending end can have.
fn at_hand(to: &ToCore) -> usize {
    to.empty.len() + to.filled.len() + to.empty_ring.occupied_len()
}

#[test]
fn packets_of_every_size_arrive_whole_and_in_order() {
    let (mut to, mut from) = channel(2);
    for len in [14, 64, 2047, 2048, 2049, 9000, 65_535, FRAME_MAX] {
        let frame = frame(len, 0);
        assert!(send(&mut to, &frame));
        assert!(!from.has_work(), "nothing is shown before the flush");
        to.flush();
        assert_eq!(receive(&mut from), [frame]);
    }
}

#[test]
fn a_run_of_any_sizes_arrives_as_it_was_sent() {
    let (mut to, mut from) = channel(2);
    // Lengths around those of a line, a snapshot and a chunk, in an order without a period.
    let sizes = [60, 14, 63, 64, 65, 1514, 128, 129, 2047, 2048, 2049, 60, 60, 4097, 500, 1000];
    let csum = Offload { needs_csum: true, csum_start: 34, csum_offset: 6, ..Offload::NONE };
    for round in 0..200 {
        let pick = |nth: usize| (round * 31 + nth * nth * 7 + nth * round) % 997;
        let frames: Vec<(Vec<u8>, Offload)> = (0..1 + pick(5) % BURST_PACKETS)
            .map(|nth| {
                let len = sizes[pick(nth) % sizes.len()];
                (frame(len, nth), if pick(nth + 1) % 5 == 0 && len > 60 { csum } else { Offload::NONE })
            })
            .collect();
        let sent = frames.iter().map(|(frame, offload)| (frame.as_slice(), *offload));
        // All of it may be more than fits into a burst of 64 KiB; here it never is.
        assert_eq!(send_run(&mut to, sent, 1), frames.len());
        to.flush();
        let mut arrived = Vec::new();
        while from.has_work() {
            arrived.extend(receive_some(&mut from, None));
        }
        let arrived: Vec<(Vec<u8>, Offload)> =
            arrived.into_iter().map(|(_, offload, bytes)| (bytes, offload)).collect();
        assert!(arrived == frames, "round {round}");
        assert_eq!(at_hand(&to), CHUNKS_MAX);
    }
}

#[test]
fn a_burst_of_short_packets_is_one_chunk() {
    let (mut to, mut from) = channel(2);
    let frames: Vec<Vec<u8>> = (0..BURST_PACKETS).map(|nth| frame(60, nth)).collect();
    assert_eq!(send_run(&mut to, frames.iter().map(|frame| (frame.as_slice(), Offload::NONE)), 1), BURST_PACKETS);
    to.flush();
    assert_eq!(to.place(), 1);
    assert_eq!(receive(&mut from), frames);
}

#[test]
fn packets_with_other_labels_or_metadata_do_not_share_a_chunk() {
    let (mut to, mut from) = channel(2);
    let csum = Offload { needs_csum: true, csum_start: 34, csum_offset: 6, ..Offload::NONE };
    let sent = [(1, Offload::NONE), (1, Offload::NONE), (2, Offload::NONE), (1, Offload::NONE), (1, csum), (1, csum)];
    for (nth, (port, offload)) in sent.into_iter().enumerate() {
        assert_eq!(send_run(&mut to, [(frame(100, nth).as_slice(), offload)], port), 1);
    }
    to.flush();
    assert_eq!(to.place(), 4);
    let arrived = receive_some(&mut from, None);
    for (nth, ((port, offload), arrived)) in sent.into_iter().zip(arrived).enumerate() {
        assert_eq!(arrived, (Errand::Deliver(PortId(port)), offload, frame(100, nth)));
    }
}

#[test]
fn a_full_arena_refuses_and_recovers_without_losing_a_chunk() {
    let (mut to, mut from) = channel(2);
    for round in 0..3 {
        let mut sent = 0;
        while send(&mut to, &[round; 1500]) {
            sent += 1;
        }
        assert_eq!(sent, CHUNKS_MAX, "round {round}");
        // What is left of a chunk takes what is short enough.
        assert!(send(&mut to, &[round; 60]));
        to.flush();
        let mut received = 0;
        while from.has_work() {
            received += receive(&mut from).len();
        }
        assert_eq!(received, sent + 1);
    }
}

#[test]
fn a_burst_takes_no_more_than_its_room() {
    let (mut to, mut from) = channel(2);
    for _ in 0..BURST_PACKETS + 5 {
        assert!(send(&mut to, &[1; 60]));
    }
    to.flush();
    assert_eq!(receive(&mut from).len(), BURST_PACKETS);
    assert_eq!(receive(&mut from).len(), 5);
    assert_eq!(receive(&mut from).len(), 0);
}

/// Those that are parked wait in their order, whatever chunk they came in, and the others go on; a packet of several chunks stays in one piece.
#[test]
fn what_is_parked_waits_and_the_rest_goes_on() {
    let (mut to, mut from) = channel(2);
    let sizes = [60, 60, 5000, 1514, 60, 200];
    for (nth, len) in sizes.into_iter().cycle().take(24).enumerate() {
        assert_eq!(
            send_run(&mut to, [(frame(len, nth).as_slice(), Offload::NONE)], if nth % 5 < 2 { 7 } else { 1 }),
            1
        );
    }
    to.flush();
    let mut passed = Vec::new();
    while from.has_work() {
        passed.extend(receive_some(&mut from, Some(7)));
    }
    let expected = |parked: bool| -> Vec<Vec<u8>> {
        let sent = sizes.into_iter().cycle().take(24).enumerate().filter(|(nth, _)| (nth % 5 < 2) == parked);
        sent.map(|(nth, len)| frame(len, nth)).collect()
    };
    assert!(passed.into_iter().map(|(_, _, bytes)| bytes).eq(expected(false)));
    let parked = receive_parked(&mut from);
    assert!(parked.iter().all(|(errand, ..)| *errand == Errand::Copy(PortId(9))), "for what they were parked");
    assert!(parked.into_iter().map(|(_, _, bytes)| bytes).eq(expected(true)));
    assert_eq!(at_hand(&to), CHUNKS_MAX);
}

/// Packets of one chunk may be for different queues of a port: some of them wait, some do not.
#[test]
fn some_packets_of_a_chunk_are_parked() {
    let (mut to, mut from) = channel(2);
    let frames: Vec<Vec<u8>> = (0..9).map(|nth| frame(50 + 30 * nth, nth)).collect();
    let first = frames.iter().map(|frame| (frame.as_slice(), Offload::NONE));
    assert_eq!(send_run(&mut to, first, 1), frames.len());
    to.flush();
    assert_eq!(to.place(), 1);
    let mut buffer = BurstBuffer::default();
    let mut burst = Burst::new(&mut buffer);
    let mut groups = Groups::new();
    let taken = from.pull(&mut burst, &mut groups);
    assert_eq!(burst.len(), 9);
    drop((burst, groups));
    let errand = Errand::Deliver(PortId(1));
    from.release_or_park(taken, &[(2, errand), (5, errand), (6, errand)]);
    let parked: Vec<Vec<u8>> = receive_parked(&mut from).into_iter().map(|(_, _, bytes)| bytes).collect();
    assert_eq!(parked, [2, 5, 6].map(|nth| frames[nth].clone()));
    assert_eq!(at_hand(&to), CHUNKS_MAX);
}
