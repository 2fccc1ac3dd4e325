//! What a capture costs the core that has a part in it: `make bench-capture`.
//!
//! One core forwards without a pause, from a NIC that always has packets to one that takes everything, so that all its time is a packet's; another thread
//! takes what is recorded. Every packet is asked for, and no filter is in the way: what a core can do about it within its share is
//! what is recorded, and the rest is missed. Set-ups take turns; what is reported are the medians of the rounds and of their ratios.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use pmd_bindings::tsc;
use sidecore::rig::RigCapture;

use crate::rig::Workload;
use crate::timing::{quantile, ratio, sorted};

/// Bytes of frames of 64 and 1518 on the wire.
const LENGTHS: [usize; 2] = [60, 1514];
/// Hundredths of the core's time; 0: no capture.
const SHARES: [u32; 3] = [0, 5, 50];
/// Rounds of each set-up; how long one takes, and how long it is let run before: the 10 ms of unspent time that a core may carry on are spent then.
const ROUNDS: usize = 25;
const ROUND: Duration = Duration::from_millis(120);
const LEAD: Duration = Duration::from_millis(30);
/// Bursts between two looks at the clock.
const TURNS: usize = 256;
/// Between two looks at the ring, as the thread of a capture has it.
const PAUSE: Duration = Duration::from_millis(2);

#[derive(Default)]
struct Figures {
    /// Nanoseconds for each packet, of each round.
    rounds: Vec<f64>,
    seen: u64,
    recorded: u64,
}

/// Forwards for so long.
fn forward(workload: &mut Workload, time: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < time {
        (0..TURNS).for_each(|_| assert!(workload.turn(tsc), "there is a burst for every turn"));
    }
}

/// Nanoseconds for each packet.
fn timed(workload: &mut Workload) -> f64 {
    forward(workload, LEAD);
    let (before, begin) = (workload.forwarded(), Instant::now());
    forward(workload, ROUND);
    begin.elapsed().as_nanos() as f64 / (workload.forwarded() - before) as f64
}

/// The same while another thread takes what is recorded.
fn timed_with(workload: &mut Workload, capture: &mut RigCapture) -> f64 {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                capture.drain();
                std::thread::sleep(PAUSE);
            }
        });
        let ns = timed(workload);
        over.store(true, Ordering::Relaxed);
        ns
    })
}

fn round(workload: &mut Workload, share: u32, figures: &mut Figures) {
    let port = workload.ports[0];
    if share == 0 {
        return figures.rounds.push(timed(workload));
    }
    let mut capture = workload.rig().capture(port, share);
    figures.rounds.push(timed_with(workload, &mut capture));
    workload.rig().end_capture();
    let (seen, recorded) = capture.counts();
    figures.seen += seen;
    figures.recorded += recorded;
}

/// Measures and shows everything.
pub(crate) fn run() -> Result<()> {
    for len in LENGTHS {
        let mut workload = Workload::p2p(len);
        let mut figures = SHARES.map(|_| Figures::default());
        for _ in 0..ROUNDS {
            for (share, figures) in SHARES.into_iter().zip(&mut figures) {
                round(&mut workload, share, figures);
            }
        }
        let head = format!("{} B, NIC to NIC, captured", len + 4);
        println!("{head:<32}{:>12}{:>10}{:>18}{:>12}", "ns/packet", "ratio", "95 %", "recorded");
        for (share, of) in SHARES.into_iter().zip(&figures) {
            let ns = quantile(&sorted(of.rounds.clone()), 0.5);
            let [ratio, low, high] = ratio(&of.rounds, &figures[0].rounds);
            let name = if share == 0 { "not".to_owned() } else { format!("--core-share {share}") };
            let part = 100.0 * of.recorded as f64 / of.seen as f64;
            let recorded = if share == 0 { "-".to_owned() } else { format!("{part:.1} %") };
            println!("{name:<32}{ns:>12.1}{ratio:>10.3}{:>18}{recorded:>12}", format!("{low:.3} to {high:.3}"));
        }
    }
    Ok(())
}
