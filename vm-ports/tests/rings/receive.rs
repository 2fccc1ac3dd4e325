//! Receive rings: buffers of every size, too few, too small, and not buffers at all.

use synthetic_guest::hostile::{INDIRECT, NEXT, PackedDescriptor, SplitDescriptor, WRITE, poke};
use synthetic_guest::packet::{Checksum, FrameSpec, Template, Transport};
use synthetic_guest::{Features, Indirect, RxShape};
use vm_ports::{Offload, RingFault, RxDrop};

use crate::bench::{Neighbour, Setup, World, pattern, push, push_run, received};

const MERGEABLE: Features = Features(Features::VERSION_1.0 | Features::MRG_RXBUF.0);
const PACKED_MERGEABLE: Features = Features(MERGEABLE.0 | Features::RING_PACKED.0);

fn tiny(features: Features, buffer: usize, ring: u16) -> World {
    World::new(&Setup { rx_buffer_len: buffer, ..Setup::new(features).ring(ring) })
}

#[test]
fn a_frame_fills_tiny_mergeable_buffers_in_order() {
    for packed in [Features::NONE, Features::RING_PACKED] {
        for shape in [RxShape::OneBuffer, RxShape::HeaderSeparate, RxShape::Pieces(5)] {
            let setup = Setup { rx_buffer_len: 64, rx_shape: shape, ..Setup::new(MERGEABLE | packed) };
            let mut world = World::new(&setup.ring(1024));
            for len in [14, 51, 52, 53, 64, 116, 117, 1500, 3000] {
                let frame = pattern(len, len as u8);
                push(&mut world.rx, &frame).expect("room");
                assert_eq!(received(&mut world.pair), [frame], "{shape:?} {len}");
            }
            let stats = world.pair.rx.stats();
            assert_eq!((stats.bad_frames, stats.incomplete, stats.bad_num_buffers), (0, 0, 0));
        }
    }
}

#[test]
fn num_buffers_is_one_without_mergeable_buffers() {
    let mut world = World::new(&Setup::new(Features::VERSION_1));
    push(&mut world.rx, &pattern(900, 1)).expect("room");
    assert_eq!(received(&mut world.pair).len(), 1);
    assert_eq!(world.pair.rx.stats().bad_num_buffers, 0);
}

#[test]
fn a_buffer_too_small_is_kept_for_what_fits() {
    for packed in [Features::NONE, Features::RING_PACKED] {
        let mut world = tiny(Features::VERSION_1 | packed, 200, 8);
        for n in 0..200u8 {
            assert_eq!(push(&mut world.rx, &pattern(189, n)), Err(RxDrop::BufferTooSmall));
            assert!(received(&mut world.pair).is_empty());
            let frame = pattern(188, n);
            assert_eq!(push(&mut world.rx, &frame), Ok(()));
            assert_eq!(received(&mut world.pair), [frame]);
        }
        assert_eq!(world.refused(RxDrop::BufferTooSmall), 200);
        assert_eq!(world.pair.rx.in_flight(), 8);
    }
}

#[test]
fn a_frame_for_which_there_are_too_few_buffers_takes_none() {
    for packed in [Features::NONE, Features::RING_PACKED] {
        let mut world = tiny(MERGEABLE | packed, 100, 8);
        world.pair.rx.set_auto_refill(false);
        assert_eq!(push(&mut world.rx, &pattern(789, 1)), Err(RxDrop::Full));
        for round in 0..30u8 {
            let frames = [pattern(388, round), pattern(280, round)];
            push(&mut world.rx, &frames[0]).expect("four of eight");
            push(&mut world.rx, &frames[1]).expect("three of four");
            assert_eq!(push(&mut world.rx, &pattern(89, 2)), Err(RxDrop::Full), "one of two");
            let last = pattern(88, 3);
            push(&mut world.rx, &last).expect("one of one");
            assert_eq!(push(&mut world.rx, &pattern(14, 2)), Err(RxDrop::Full));
            let [first, second] = frames;
            assert_eq!(received(&mut world.pair), [first, second, last]);
            world.pair.rx.fill(8);
        }
    }
}

/// A TCP packet to be cut into segments of 700 bytes.
fn segments(count: usize) -> Template {
    segments_of(700, count)
}

fn segments_of(bytes: u16, count: usize) -> Template {
    let len = 54 + usize::from(bytes) * count;
    let tcp = FrameSpec { transport: Transport::Tcp, checksum: Checksum::Partial, ..FrameSpec::udp4(1, 2, 0, len) };
    Template::new(FrameSpec { gso_size: Some(bytes), ..tcp })
}

/// Pushes it as often as `results` is long, and shows it to the guest at the end.
fn push_all(world: &mut World, template: &Template, results: &[Result<(), RxDrop>]) {
    assert_eq!(try_push_all(world, template, results.len()), results);
}

/// Pushes it so often, and shows it to the guest at the end; what became of each.
fn try_push_all(world: &mut World, template: &Template, count: usize) -> Vec<Result<(), RxDrop>> {
    let sent = template.offload();
    let (csum_start, csum_offset, gso_size) = (sent.csum_start, sent.csum_offset, sent.gso_size);
    let offload =
        Offload { needs_csum: true, gso: vm_ports::Gso::TcpV4, csum_start, csum_offset, gso_size, ..Offload::NONE };
    let mut buffer = vm_ports::BurstBuffer::default();
    let mut burst = vm_ports::Burst::new(&mut buffer);
    assert!(burst.push_frame([template.bytes()], offload));
    let results = (0..count).map(|_| world.rx.push(burst.view(0))).collect();
    world.rx.flush();
    results
}

/// Packets that were pushed and not shown yet take up the packed ring's list: that is no lack of buffers.
#[test]
fn a_long_burst_of_small_buffers_is_shown_in_between() {
    for packed in [Features::NONE, Features::RING_PACKED] {
        let mut world = tiny(MERGEABLE | packed, 160, 8192);
        // 70 segments in five buffers each: the third packet finds room for another 256 buffers, and needs 350.
        push_all(&mut world, &segments(70), &[Ok(()); 4]);
        assert_eq!(received(&mut world.pair).len(), 4 * 70);
    }
}

/// What was pushed is shown again and again while a burst of packets goes on that become many buffers each: it looks at
/// 2,048 descriptors for all that. The next burst may look at as many.
#[test]
fn a_burst_that_is_shown_in_between_looks_at_no_more_descriptors() {
    let mut world =
        World::new(&Setup { tx_frame_len: 64, rx_buffer_len: 160, ..Setup::new(PACKED_MERGEABLE).ring(16_384) });
    for _ in 0..2 {
        // 40 packets of 350 buffers would be 14,000.
        let results = try_push_all(&mut world, &segments(70), 40);
        let delivered = results.iter().take_while(|result| result.is_ok()).count();
        assert!(delivered * 350 > 1024 && delivered * 350 <= 2048, "{delivered}");
        assert!(results[delivered..].iter().all(|result| *result == Err(RxDrop::Full)), "{results:?}");
        assert_eq!(received(&mut world.pair).len(), delivered * 70);
        assert_eq!(world.pair.rx.stats().bad_frames, 0, "buffers that came back empty");
    }
    assert_eq!(world.rx.fault(), None);
}

/// A sender's packets of 256 segments of one byte use up what a burst may look at, in the middle of one of them. Nothing is wrong with the receiver's
/// buffers: they are there for the next burst.
#[test]
fn a_burst_that_may_look_no_further_does_not_blame_the_buffers() {
    for packed in [Features::NONE, Features::RING_PACKED] {
        let shape = RxShape::HeaderSeparate;
        let setup = Setup { tx_frame_len: 64, rx_buffer_len: 100, rx_shape: shape, ..Setup::new(Features::VERSION_1) };
        let setup = Setup { features: setup.features | packed, indirect: Indirect::Never, ..setup };
        let mut world = World::new(&setup.ring(16_384));
        // 256 segments, two descriptors each: the fourth packet is not done with the last of 2,048.
        let results = [[Ok(()); 3].as_slice(), &[Err(RxDrop::Full); 29]].concat();
        for burst in 1..4 {
            push_all(&mut world, &segments_of(1, 256), &results);
            assert_eq!(received(&mut world.pair).len(), 3 * 256);
            assert_eq!((world.refused(RxDrop::Full), world.refused(RxDrop::BadBuffer)), (burst * 29, 0));
            assert_eq!(world.pair.rx.stats().bad_frames, 0, "buffers that came back empty");
        }
    }
}

/// Nor does one packet that becomes more segments than may be looked for: it is too much, and no buffer is given back
/// for it.
#[test]
fn a_packet_of_too_many_segments_costs_no_buffers() {
    for packed in [Features::NONE, Features::RING_PACKED] {
        let setup = Setup { tx_frame_len: 64, rx_buffer_len: 100, ..Setup::new(Features::VERSION_1 | packed) };
        let setup = Setup { rx_shape: RxShape::Pieces(10), indirect: Indirect::Never, ..setup };
        let mut world = World::new(&setup.ring(16_384));
        // 256 segments of ten descriptors each.
        for _ in 0..3 {
            push_all(&mut world, &segments_of(1, 256), &[Err(RxDrop::Full)]);
            push_all(&mut world, &segments_of(1, 200), &[Ok(())]);
            assert_eq!((received(&mut world.pair).len(), world.refused(RxDrop::BadBuffer)), (200, 0));
            assert_eq!(world.pair.rx.stats().bad_frames, 0, "buffers that came back empty");
        }
    }
}

/// What is foretold of a packet is what becomes of it, and nothing is changed by the question: whatever the buffers are.
#[test]
fn the_outlook_is_what_a_push_comes_to() {
    let shapes = [RxShape::OneBuffer, RxShape::HeaderSeparate, RxShape::Pieces(10)];
    let features = [Features::VERSION_1, MERGEABLE, Features::VERSION_1 | Features::RING_PACKED, PACKED_MERGEABLE];
    let mut outcomes = Vec::new();
    for (features, shape, buffer) in
        features.into_iter().flat_map(|f| shapes.map(|s| (f, s))).flat_map(|(f, s)| [64, 1514].map(|b| (f, s, b)))
    {
        let setup = Setup { rx_buffer_len: buffer, rx_shape: shape, ..Setup::new(features).ring(128) };
        let mut world = World::new(&setup);
        world.pair.rx.set_auto_refill(false);
        for len in [60, 52, 1502, 1503, 9000, 60, 3000, 9000, 9000, 60, 60, 60].into_iter().cycle().take(120) {
            let (used, refused) = (world.raw_rx().used_index(), world.refused(RxDrop::Full));
            let told = world.rx.outlook(len);
            assert_eq!(world.rx.outlook(len), told, "asked twice");
            assert_eq!((world.raw_rx().used_index(), world.refused(RxDrop::Full)), (used, refused));
            let pushed = push(&mut world.rx, &pattern(len, 1));
            assert_eq!(told.map(drop), pushed, "{len} bytes: {setup:?}");
            outcomes.push(pushed);
        }
        assert!(received(&mut world.pair).len() > 1);
    }
    for outcome in [Ok(()), Err(RxDrop::Full), Err(RxDrop::BufferTooSmall)] {
        assert!(outcomes.contains(&outcome), "{outcome:?}");
    }
}

/// A question gives no bad buffer back, and stops no ring.
#[test]
fn the_outlook_leaves_bad_rings_as_they_are() {
    let mut world = tiny(Features::VERSION_1, 200, 16);
    let raw = world.raw_rx();
    let head = SplitDescriptor { addr: 0, len: 200, flags: WRITE, next: 0 };
    raw.set_split(0, head);
    assert_eq!([world.rx.outlook(60), world.rx.outlook(60)], [Err(RxDrop::BadBuffer); 2]);
    assert_eq!((raw.used_index(), world.refused(RxDrop::BadBuffer)), (0, 0));
    assert_eq!(push(&mut world.rx, &pattern(60, 1)), Err(RxDrop::BadBuffer));
    assert_eq!((raw.used_index(), world.refused(RxDrop::BadBuffer)), (1, 1));
    assert_eq!(world.rx.outlook(60), Ok(15));
    raw.set_avail_entry(1, 16);
    assert_eq!((world.rx.outlook(60), world.rx.fault()), (Err(RxDrop::NotReady), None));
    world.rx.set_enabled(false);
    raw.set_avail_entry(1, 1);
    assert_eq!(world.rx.outlook(60), Err(RxDrop::NotReady));
    world.rx.set_enabled(true);
    assert_eq!((push(&mut world.rx, &pattern(60, 1)), world.rx.outlook(60)), (Ok(()), Ok(14)));
}

/// The list ends before the bad buffer does: it is not looked at, and nothing is given back that there was no room to
/// note.
#[test]
fn a_packet_longer_than_the_list_meets_no_bad_buffer_behind_it() {
    let mut world = tiny(MERGEABLE | Features::RING_PACKED, 100, 2048);
    let raw = world.raw_rx();
    let bad = raw.packed(1024);
    raw.set_packed(1024, PackedDescriptor { addr: 0, ..bad });
    // 93 segments in eight or nine buffers each fit the list once: the second packet, at the start of a list, does meet
    // the bad one. In buffers of 60 bytes a packet is longer than the list, and ends with it.
    push_all(&mut world, &segments(93), &[Ok(()), Err(RxDrop::BadBuffer)]);
    push_all(&mut world, &segments(93), &[Ok(())]);
    assert!(world.rx.fault().is_none());
    let mut world = tiny(MERGEABLE | Features::RING_PACKED, 60, 2048);
    let raw = world.raw_rx();
    let bad = raw.packed(1024);
    raw.set_packed(1024, PackedDescriptor { addr: 0, ..bad });
    push_all(&mut world, &segments(93), &[Err(RxDrop::Full); 3]);
    assert!(received(&mut world.pair).is_empty());
}

#[test]
fn more_parts_than_a_frame_may_have_is_full_and_takes_no_buffer() {
    let setup = Setup { rx_buffer_len: 64, rx_shape: RxShape::Pieces(10), ..Setup::new(MERGEABLE).ring(1024) };
    let mut world = World::new(&setup);
    assert_eq!(push(&mut world.rx, &pattern(3000, 1)), Err(RxDrop::Full));
    let frame = pattern(1400, 1);
    assert_eq!(push(&mut world.rx, &frame), Ok(()));
    assert_eq!(received(&mut world.pair), [frame]);
}

#[test]
fn buffers_that_are_none_are_given_back_empty() {
    let mut world = tiny(Features::VERSION_1 | Features::INDIRECT_DESC, 200, 16);
    let mut neighbour = Neighbour::new();
    let raw = world.raw_rx();
    let at = world.pair.rx.memory().guest();
    let end = world.ram.regions()[0].guest + world.ram.regions()[0].size;
    let table = world.pair.tx.memory().guest();
    poke(&world.ram, table, &SplitDescriptor { addr: at, len: 200, flags: INDIRECT, next: 0 }.to_bytes())
        .expect("inside");
    let good = |addr| SplitDescriptor { addr, len: 200, flags: WRITE, next: 0 };
    let bad = [
        SplitDescriptor { flags: 0, ..good(at) },
        SplitDescriptor { len: 0, ..good(at) },
        SplitDescriptor { len: u32::MAX, ..good(at) },
        good(0),
        good(end - 199),
        good(u64::MAX - 10),
        SplitDescriptor { flags: WRITE | NEXT, next: 99, ..good(at) },
        SplitDescriptor { flags: WRITE | NEXT, next: 0, ..good(at) },
        SplitDescriptor { addr: table, len: 16, flags: INDIRECT, next: 0 },
        SplitDescriptor { addr: table, len: 17, flags: INDIRECT, next: 0 },
    ];
    let mut index = raw.avail_index();
    // The driver's own buffers first.
    for n in 0..16 {
        push(&mut world.rx, &pattern(100, n)).expect("room");
    }
    for (n, descriptor) in bad.into_iter().enumerate() {
        raw.set_split(0, descriptor);
        raw.set_split(1, good(at));
        for head in [0, 1] {
            raw.set_avail_entry(index % 16, head);
            index = index.wrapping_add(1);
        }
        raw.set_avail_index(index);
        neighbour.talk(1);
        assert_eq!(push(&mut world.rx, &pattern(100, 9)), Err(RxDrop::BadBuffer), "{descriptor:?}");
        assert_eq!(raw.used_entry(index.wrapping_sub(2) % 16), (0, 0));
        assert_eq!(push(&mut world.rx, &pattern(100, 9)), Ok(()), "the next buffer is good");
        assert_eq!(raw.used_entry(index.wrapping_sub(1) % 16), (1, 112));
        assert_eq!(world.refused(RxDrop::BadBuffer), n as u64 + 1);
    }
    assert_eq!(world.rx.fault(), None);
    neighbour.lost_nothing();
}

#[test]
fn faults_of_the_receive_ring_stop_it() {
    for (fault, attack) in [(RingFault::IndexJump, 99u16), (RingFault::BadHead, 0)] {
        let mut world = tiny(Features::VERSION_1, 200, 16);
        let mut neighbour = Neighbour::new();
        let raw = world.raw_rx();
        if fault == RingFault::IndexJump {
            raw.set_avail_index(attack);
        } else {
            raw.set_avail_entry(0, 16);
        }
        for _ in 0..3 {
            assert_eq!(push(&mut world.rx, &pattern(60, 1)), Err(RxDrop::NotReady));
            neighbour.talk(1);
        }
        assert_eq!((world.rx.fault(), world.rx_faults(fault)), (Some(fault), 1));
        assert!(!world.rx.is_ready());
        neighbour.lost_nothing();
    }
    let mut world = tiny(Features::VERSION_1 | Features::RING_PACKED, 200, 16);
    let raw = world.raw_rx();
    for slot in 0..16 {
        let descriptor = raw.packed(slot);
        raw.set_packed(slot, PackedDescriptor { flags: descriptor.flags | NEXT, ..descriptor });
    }
    assert_eq!(push(&mut world.rx, &pattern(60, 1)), Err(RxDrop::NotReady));
    assert_eq!(world.rx.fault(), Some(RingFault::EndlessChain));
}

#[test]
fn a_ring_that_is_not_enabled_is_not_touched() {
    let mut world = tiny(Features::VERSION_1, 200, 16);
    world.rx.set_enabled(false);
    assert_eq!(push(&mut world.rx, &pattern(60, 1)), Err(RxDrop::NotReady));
    assert!(received(&mut world.pair).is_empty());
    world.rx.set_enabled(true);
    assert_eq!(push(&mut world.rx, &pattern(60, 1)), Ok(()));
}

/// Packets in a run come to what they come to one by one: whether they fit into one buffer, into several, or find none.
#[test]
fn a_run_is_its_packets_one_by_one() {
    let lens = [60, 1500, 60, 61, 3000, 64, 148, 149, 60, 900, 900, 62, 14, 65, 2000, 60];
    for features in [MERGEABLE, Features::VERSION_1, MERGEABLE | Features::RING_PACKED] {
        for ring in [16, 64, 256] {
            let frames: Vec<_> = lens.iter().enumerate().map(|(n, len)| pattern(*len, n as u8)).collect();
            let (mut together, mut apart) = (tiny(features, 160, ring), tiny(features, 160, ring));
            for _ in 0..3 {
                let (pushed, refused) = push_run(&mut together.rx, &frames);
                let alone: Vec<_> = frames.iter().map(|frame| push(&mut apart.rx, frame)).collect();
                assert_eq!(pushed, alone.iter().filter(|result| result.is_ok()).count(), "{features:?} {ring}");
                let refused_alone =
                    alone.into_iter().enumerate().filter_map(|(nth, result)| Some((nth, result.err()?)));
                assert_eq!(refused, refused_alone.collect::<Vec<_>>());
                assert_eq!(received(&mut together.pair), received(&mut apart.pair));
            }
        }
    }
}

/// An indirect table of 256 descriptors with one byte in all; where it is.
fn junk_table(world: &mut World) -> u64 {
    let (at, table) = (world.pair.rx.memory().guest(), world.pair.tx.memory().guest());
    for n in 0..256u16 {
        let (len, flags) = if n == 255 { (1, WRITE) } else { (0, WRITE | NEXT) };
        let entry = SplitDescriptor { addr: at, len, flags, next: n + 1 };
        poke(&world.ram, table + 16 * u64::from(n), &entry.to_bytes()).expect("inside");
    }
    table
}

/// Descriptors without bytes cost a walk and give nothing. One packet makes a device look at a bounded number of them,
/// and what was looked at is given back, so that the next packet does not look at it again.
#[test]
fn descriptors_without_bytes_are_walked_once_and_given_back() {
    let features = MERGEABLE | Features::INDIRECT_DESC;
    let mut world =
        World::new(&Setup { indirect: Indirect::Never, rx_buffer_len: 64, ..Setup::new(features).ring(1024) });
    let raw = world.raw_rx();
    let table = junk_table(&mut world);
    for head in 0..1024 {
        raw.set_split(head, SplitDescriptor { addr: table, len: 16 * 256, flags: INDIRECT, next: 0 });
    }
    // 256 descriptors for each byte of the frame, 2,048 looked at: 8 chains.
    assert_eq!(push(&mut world.rx, &pattern(1000, 1)), Err(RxDrop::BadBuffer));
    assert_eq!(raw.used_index(), 8, "chains walked and given back for one packet");
    assert_eq!(push(&mut world.rx, &pattern(1000, 1)), Err(RxDrop::BadBuffer));
    assert_eq!(raw.used_index(), 16);
    // A burst's packets have the 2,048 together: the others look at nothing.
    let burst = vec![pattern(1000, 1); 8];
    let refused = [vec![RxDrop::BadBuffer], vec![RxDrop::Full; 7]].concat();
    assert_eq!(push_run(&mut world.rx, &burst), (0, refused.into_iter().enumerate().collect()));
    assert_eq!(raw.used_index(), 16 + 8);
}

/// Such a burst may have begun with something better: then it says no more than that it ends there, and the next one says what is wrong.
#[test]
fn descriptors_without_bytes_behind_a_good_buffer_are_given_back_by_the_next_burst() {
    let features = MERGEABLE | Features::INDIRECT_DESC;
    let mut world =
        World::new(&Setup { indirect: Indirect::Never, rx_buffer_len: 64, ..Setup::new(features).ring(1024) });
    let raw = world.raw_rx();
    let table = junk_table(&mut world);
    for head in 2..1024 {
        raw.set_split(head, SplitDescriptor { addr: table, len: 16 * 256, flags: INDIRECT, next: 0 });
    }
    // Two parts: a chain that is walked.
    let at = world.pair.rx.memory().guest();
    raw.set_split(0, SplitDescriptor { addr: at, len: 64, flags: WRITE | NEXT, next: 1 });
    (0..1024).for_each(|slot| raw.set_avail_entry(slot, if slot == 0 { 0 } else { 1 + slot.min(1022) }));
    let burst = vec![pattern(100, 1); 4];
    let refused = |reasons: [RxDrop; 3]| reasons.into_iter().zip(1..).map(|(reason, nth)| (nth, reason)).collect();
    assert_eq!(push_run(&mut world.rx, &burst), (1, refused([RxDrop::Full; 3])));
    assert_eq!((raw.used_index(), world.refused(RxDrop::Full)), (1, 3));
    for burst in 1..3 {
        assert_eq!(push(&mut world.rx, &pattern(100, 1)), Err(RxDrop::BadBuffer));
        assert_eq!((raw.used_index(), world.refused(RxDrop::BadBuffer)), (1 + 8 * burst, burst.into()));
    }
}

/// A bad chain of a packed ring is followed to its end, to be given back: once to find that it is bad, once for that. Both count.
#[test]
fn slots_of_bad_chains_count_in_what_a_burst_looks_at() {
    let mut world =
        World::new(&Setup { tx_frame_len: 64, rx_buffer_len: 64, ..Setup::new(PACKED_MERGEABLE).ring(8192) });
    let raw = world.raw_rx();
    for slot in 0..8192 {
        let mut descriptor = raw.packed(slot);
        match slot % 256 {
            0 => descriptor.flags = (descriptor.flags | NEXT) & !WRITE,
            255 => {}
            _ => descriptor.flags |= NEXT,
        }
        raw.set_packed(slot, descriptor);
    }
    let burst = vec![pattern(60, 1); 32];
    for _ in 0..8 {
        let refused = [vec![RxDrop::BadBuffer; 4], vec![RxDrop::Full; 28]].concat();
        assert_eq!(push_run(&mut world.rx, &burst), (0, refused.into_iter().enumerate().collect()));
    }
    let refused = vec![RxDrop::Full; 32].into_iter().enumerate().collect();
    assert_eq!(push_run(&mut world.rx, &burst), (0, refused), "all 32 chains were given back");
    assert_eq!(world.rx.fault(), None);
}
