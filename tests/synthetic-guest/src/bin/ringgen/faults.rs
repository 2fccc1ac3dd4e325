//! Switches that lose, duplicate, swap, spoil and misdirect packets: each fault has to be in the report, as often as it
//! was made, and none that was not.

use clap::Parser as _;
use synthetic_guest::forwarder::Forwarder;

use crate::engine::Backend;
use crate::node::Node;
use crate::options::Options;
use crate::plan::Plan;
use crate::report::Report;
use crate::run::measure;

/// Bytes before the frame.
const HEADER: usize = 12;
/// Offset of the stamp behind it.
const STAMP: usize = HEADER + 42;

/// A switch for two guests that does to each burst what it was made to do.
struct Faulty<F> {
    forwarders: Vec<Forwarder>,
    fault: F,
}

impl<F: FnMut(&mut Vec<Vec<u8>>)> Backend for Faulty<F> {
    fn step(&mut self) -> usize {
        self.forwarders.iter_mut().map(|forwarder| forwarder.step_through(32, &mut self.fault)).sum()
    }
}

/// Runs `stream` or `pingpong` with more options over a switch that does `fault`.
fn run_as(workload: &str, line: &str, fault: impl FnMut(&mut Vec<Vec<u8>>)) -> Report {
    let base = format!("ringgen {workload} --guest a --guest b --announce off --hugepages off");
    // Long enough for what is asked of it where others have the CPU for most of the time.
    let short = if line.contains("--duration-s") { "" } else { "--duration-s 0.15 --warmup-s 0.02" };
    let words = [base.as_str(), line, short];
    let words: Vec<&str> = words.iter().flat_map(|words| words.split_whitespace()).collect();
    let options = Options::try_parse_from(words).unwrap().check().unwrap();
    let plan = Plan::new(&options, 2).unwrap();
    let mut nodes = [0, 1].map(|number| Node::standalone(&options, &plan, number).unwrap());
    let mut forwarders = Vec::new();
    for (from, to) in [(0, 1), (1, 0)] {
        for pair in 0..options.queue_pairs {
            let [left, right] = &mut nodes;
            let (from, to) = if from < to { (left, right) } else { (right, left) };
            let (from_ram, to_ram) = (from.ram.as_ref().unwrap(), to.ram.as_ref().unwrap());
            let ends = ((from_ram, &mut from.pairs[pair]), (to_ram, &mut to.pairs[pair]));
            forwarders.push(Forwarder::new(ends.0, ends.1, HEADER).unwrap());
        }
    }
    measure(&options, &plan, nodes.into(), Faulty { forwarders, fault }, Default::default()).unwrap()
}

fn run(line: &str, fault: impl FnMut(&mut Vec<Vec<u8>>)) -> Report {
    run_as("stream", line, fault)
}

/// What must be checked in every way: formats of rings and depths of verification.
const WAYS: [&str; 4] = [
    "--ring split --verify order",
    "--ring packed --verify order",
    "--ring split --verify full --size 1518",
    "--ring packed --verify full --size mix --flows 5 --queue-pairs 2",
];

/// (lost, duplicated, reordered, corrupted, misdelivered, foreign)
fn counts(report: &Report) -> (u64, u64, u64, u64, u64, u64) {
    let of = |count: Option<u64>| count.unwrap();
    assert_eq!(report.sent - report.received, report.lost);
    assert!(report.sent > 1000, "only {} packets were sent", report.sent);
    assert_eq!(report.late, Some(0));
    let (duplicated, reordered) = (of(report.duplicated), of(report.reordered));
    (report.lost, duplicated, reordered, of(report.corrupted), of(report.misdelivered), of(report.foreign))
}

/// Every 50th packet of all.
fn every_50th(seen: &mut u64) -> bool {
    *seen += 1;
    seen.is_multiple_of(50)
}

#[test]
fn a_sound_switch_gets_a_clean_report() {
    for way in WAYS.iter().chain(&["--verify none", "--in-order on", "--event-idx on", "--buffers 40"]) {
        let report = run(way, |_| {});
        assert_eq!(report.lost, 0, "{way}");
        assert!(report.sent > 1000 && report.is_clean(), "{way}: {report:?}");
    }
}

#[test]
fn losses_are_counted() {
    for way in WAYS {
        let (mut seen, mut lost) = (0, 0);
        let report = run(way, |packets| {
            let before = packets.len();
            packets.retain(|_| !every_50th(&mut seen));
            lost += (before - packets.len()) as u64;
        });
        assert!(lost > 10);
        assert_eq!(counts(&report), (lost, 0, 0, 0, 0, 0), "{way}");
        assert!(report.is_clean());
    }
}

#[test]
fn duplicates_are_counted() {
    for way in WAYS {
        let (mut seen, mut made) = (0, 0);
        let report = run(way, |packets| {
            let again: Vec<_> = packets.iter().filter(|_| every_50th(&mut seen)).cloned().collect();
            made += again.len() as u64;
            packets.extend(again);
        });
        assert!(made > 10);
        assert_eq!(counts(&report), (0, made, 0, 0, 0, 0), "{way}");
        assert!(!report.is_clean());
    }
}

#[test]
fn swapped_packets_are_counted() {
    for way in WAYS.iter().filter(|way| !way.contains("flows")) {
        let (mut seen, mut made) = (0, 0);
        let report = run(way, |packets| {
            for at in 1..packets.len() {
                // A packet can be swapped once only.
                if every_50th(&mut seen) {
                    packets.swap(at - 1, at);
                    made += 1;
                }
            }
        });
        assert!(made > 10);
        assert_eq!(counts(&report), (0, 0, made, 0, 0, 0), "{way}");
        assert!(!report.is_clean());
    }
}

#[test]
fn packets_of_different_flows_may_overtake_each_other() {
    let report = run("--flows 2 --verify full", |packets| {
        packets.chunks_exact_mut(2).for_each(|two| two.swap(0, 1));
    });
    assert_eq!(counts(&report), (0, 0, 0, 0, 0, 0));
}

#[test]
fn a_flipped_bit_of_the_stamp_is_noticed_in_any_case() {
    for way in WAYS {
        let (mut seen, mut made) = (0, 0);
        let report = run(way, |packets| {
            for packet in packets {
                if every_50th(&mut seen) {
                    packet[STAMP + (made % 8) as usize] ^= 1 << (made % 8);
                    made += 1;
                }
            }
        });
        assert!(made > 10);
        assert_eq!(counts(&report), (made, 0, 0, made, 0, 0), "{way}");
        assert!(!report.is_clean());
    }
}

#[test]
fn any_flipped_bit_is_noticed_when_everything_is_verified() {
    // Bytes of the frame that a switch may not touch: all but the source address, which a router changes, and what makes
    // a frame one for somebody else (destination) or of somebody else (ethertype, protocol, port).
    let bytes: Vec<usize> = (12..60).filter(|at| ![12, 13, 23, 36, 37].contains(at)).collect();
    for ring in ["split", "packed"] {
        let (mut seen, mut made) = (0, 0usize);
        while made < 8 * bytes.len() {
            let before = made;
            let report = run(&format!("--ring {ring} --verify full"), |packets| {
                for packet in packets {
                    if every_50th(&mut seen) {
                        packet[HEADER + bytes[made % bytes.len()]] ^= 1 << (made / bytes.len() % 8);
                        made += 1;
                    }
                }
            });
            let here = (made - before) as u64;
            assert_eq!(counts(&report), (here, 0, 0, here, 0, 0));
        }
    }
}

#[test]
fn packets_for_others_and_of_others_are_told_from_ours() {
    for way in ["--verify order", "--verify full"] {
        let (mut seen, mut made) = (0, 0);
        let report = run(way, |packets| {
            for at in 0..packets.len() {
                if every_50th(&mut seen) {
                    let mut stray = packets[at].clone();
                    // To guest 5; then something that is not ours at all.
                    stray[HEADER + 3] = 5;
                    stray[STAMP..STAMP + 10].fill(0x11);
                    packets.push(stray.clone());
                    stray[HEADER + 12..HEADER + 14].copy_from_slice(&[0x08, 0x06]);
                    stray[HEADER + 36] = 0;
                    packets.push(stray);
                    made += 1;
                }
            }
        });
        assert_eq!(counts(&report), (0, 0, 0, 0, made, made), "{way}");
    }
}

#[test]
fn a_rewritten_source_address_is_a_fact_and_no_fault() {
    let report = run("--verify full", |packets| packets.iter_mut().for_each(|p| p[HEADER + 6] ^= 0x40));
    assert_eq!(counts(&report), (0, 0, 0, 0, 0, 0));
    assert_eq!(report.source_rewritten, Some(report.received));
}

#[test]
fn a_truncated_frame_is_corrupted() {
    let report = run("--verify full --size 1518", |packets| packets.iter_mut().for_each(|p| p.truncate(1000)));
    assert_eq!((report.received, report.corrupted), (0, Some(report.sent)));
}

#[test]
fn every_round_trip_is_timed_and_a_lost_one_is_not_waited_for_for_ever() {
    for way in [
        "--window 1",
        "--window 16 --verify full",
        "--ring packed --background-pps 20000 --background-burst 8 --verify full",
    ] {
        let report = run_as("pingpong", way, |_| {});
        assert_eq!((report.lost, report.received), (0, report.sent), "{way}");
        assert!(report.is_clean(), "{way}: {report:?}");
        let timed = report.latency_ns.unwrap().count;
        assert!(timed > 100 && timed <= report.received, "{way}");
    }
    let mut seen = 0;
    let report = run_as("pingpong", "--window 2 --warmup-s 0 --duration-s 0.5", |packets| {
        packets.retain(|_| {
            seen += 1;
            // A ping and an answer, some 100 ms apart from each other.
            seen != 10 && seen != 11 && seen != 40 && seen != 41
        });
    });
    assert_eq!(report.lost, 4);
    assert!(report.received > 100);
}
