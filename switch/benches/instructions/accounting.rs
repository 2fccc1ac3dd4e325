//! What load accounting costs: `make bench-accounting`.
//!
//! In this build (feature `optional-accounting`) it can be turned off and on, so that the same code forwards through the same rings with and
//! without it by turns. What is reported are the medians of the rounds and of their ratios.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sidecore::rig::set_accounting;

use crate::callgrind;
use crate::rig::{BURST, RING, SPLIT, Workload};
use crate::timing::{SHORT, Stopwatch, calibrate, quantile, ratio, sorted};

/// Sets of rings, in memory of their own: where that happens to be makes more of a difference than accounting.
const PLACES: usize = 40;
/// Rounds in each of them, after one that does not count.
const ROUNDS: usize = 20;
/// Refills of the rings, and single packets, in a round.
const FILLS: usize = 100;
const SINGLES: usize = 10_000;
/// What accounting may cost in full bursts.
const GOAL: f64 = 1.02;

/// A way to forward, and the nanoseconds that a packet took in each round, without accounting and with it.
struct Case {
    name: &'static str,
    times: usize,
    packets: usize,
    burst: usize,
    rounds: [Vec<f64>; 2],
}

impl Case {
    /// So many times: so many packets are sent, forwarded in bursts, and received. Nanoseconds that forwarding took, for each packet.
    fn round(&self, workload: &mut Workload, watch: &mut Stopwatch) -> f64 {
        let Self { times, packets, burst, .. } = *self;
        let mut took = 0;
        for _ in 0..times {
            workload.send(packets);
            watch.resume();
            let begin = watch.now();
            (0..packets / burst)
                .for_each(|_| assert!(workload.turn(|| watch.now()), "there is a burst for every turn"));
            took += watch.now() - begin;
            watch.stop();
            workload.receive(packets);
        }
        took as f64 / (times * packets) as f64
    }
}

/// Measures, shows and writes everything. Whether full bursts are within the goal.
pub(crate) fn run() -> Result<bool> {
    let rounds = <[Vec<f64>; 2]>::default;
    let mut cases = [
        Case { name: "bursts of 32", times: FILLS, packets: RING, burst: BURST, rounds: rounds() },
        Case { name: "bursts of 1", times: SINGLES, packets: 1, burst: 1, rounds: rounds() },
    ];
    let scale = calibrate();
    let mut workloads = Vec::new();
    for _ in 0..PLACES {
        // The others stay where they are, or this one might be where one of them was.
        workloads.push(Workload::v2v(SPLIT, SHORT, 1));
        let workload = workloads.last_mut().context("there is one now")?;
        let mut watch = Stopwatch::stopped(scale);
        for round in 0..=ROUNDS {
            let order = if round % 2 == 0 { [false, true] } else { [true, false] };
            for on in order {
                ensure!(
                    set_accounting(on),
                    "this build always accounts; `make bench-accounting` makes one that need not"
                );
                for case in &mut cases {
                    let took = case.round(workload, &mut watch);
                    if round > 0 {
                        case.rounds[usize::from(on)].push(took);
                    }
                }
            }
        }
    }
    println!("{:<24}{:>18}{:>14}{:>10}{:>18}", "64 B, split, v2v", "without, ns/packet", "with", "ratio", "95 %");
    let mut rows = Vec::new();
    let mut is_within = true;
    for Case { name, burst, rounds: [without, with], .. } in cases {
        let [bare, accounted] = [&without, &with].map(|rounds| quantile(&sorted(rounds.clone()), 0.5));
        let [ratio, low, high] = ratio(&with, &without);
        println!("{name:<24}{bare:>18.2}{accounted:>14.2}{ratio:>10.3}{:>18}", format!("{low:.3} to {high:.3}"));
        rows.push(
            json!({ "bursts": name, "with_ns": accounted, "without_ns": bare, "ratio": ratio, "low": low, "high": high,
            "with_rounds": with, "without_rounds": without }),
        );
        is_within &= burst < BURST || high <= GOAL;
    }
    println!("goal: bursts of 32 at most {GOAL}: {}", if is_within { "reached" } else { "missed" });
    let path = callgrind::folder()?.join("accounting.json");
    std::fs::write(&path, serde_json::to_string_pretty(&rows)? + "\n")
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("written to {}", path.display());
    Ok(is_within)
}
