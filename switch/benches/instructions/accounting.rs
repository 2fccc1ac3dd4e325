//! What load accounting costs: `make bench-accounting`.
//!
//! Two builds of this program take turns, one of them without accounting (feature `without-accounting`): each runs rounds when it is asked to, and
//! says how long a packet took. What is reported are the medians of the rounds and of their ratios.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result};
use serde_json::json;

use crate::callgrind;
use crate::rig::{BURST, RING, SPLIT, Workload};
use crate::timing::{SHORT, Stopwatch, calibrate, quantile, ratio, sorted};

/// How often both are started anew: where their memory happens to be makes more of a difference than accounting.
const STARTS: usize = 20;
/// Rounds of each start, after one that does not count.
const ROUNDS: usize = 10;
/// Refills of the rings, and single packets, in a round.
const FILLS: usize = 100;
const SINGLES: usize = 10_000;
/// What accounting may cost in full bursts.
const GOAL: f64 = 1.02;

/// Answers every line with the nanoseconds that a packet took in full bursts, and in bursts of one.
pub(crate) fn answer() -> Result<()> {
    let mut watch = Stopwatch::stopped(calibrate());
    let mut workload = Workload::v2v(SPLIT, SHORT, 1);
    for line in std::io::stdin().lines() {
        line?;
        let full = round(&mut workload, &mut watch, FILLS, RING, BURST);
        let single = round(&mut workload, &mut watch, SINGLES, 1, 1);
        println!("{full} {single}");
        std::io::stdout().flush()?;
    }
    Ok(())
}

/// So many times: so many packets are sent, forwarded in bursts of so many, and received. Nanoseconds that forwarding took, for each packet.
fn round(workload: &mut Workload, watch: &mut Stopwatch, times: usize, packets: usize, burst: usize) -> f64 {
    let mut took = 0;
    for _ in 0..times {
        workload.send(packets);
        watch.resume();
        let begin = watch.now();
        (0..packets / burst).for_each(|_| assert!(workload.turn(|| watch.now()), "there is a burst for every turn"));
        took += watch.now() - begin;
        watch.stop();
        workload.receive(packets);
    }
    took as f64 / (times * packets) as f64
}

/// A build of this program that answers.
struct Build {
    process: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Full bursts, and bursts of one.
    rounds: [Vec<f64>; 2],
}

impl Build {
    fn start(program: &Path) -> Result<Self> {
        let mut command = Command::new(program);
        command.arg("accounting-answer").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let ask = process.stdin.take().context("no way to ask")?;
        let answers = BufReader::new(process.stdout.take().context("no answers")?);
        Ok(Self { process, ask, answers, rounds: Default::default() })
    }

    fn round(&mut self) -> Result<()> {
        writeln!(self.ask)?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let (full, single) = line.trim().split_once(' ').context("a build of this program ended early")?;
        self.rounds[0].push(full.parse()?);
        self.rounds[1].push(single.parse()?);
        Ok(())
    }

    fn end(self) -> Result<[Vec<f64>; 2]> {
        let Self { mut process, ask, rounds, .. } = self;
        drop(ask);
        process.wait()?;
        Ok(rounds)
    }
}

/// Measures this program beside the one that is `without`; shows and writes everything. Whether full bursts are within the goal.
pub(crate) fn run(without: &str) -> Result<bool> {
    let programs = [std::env::current_exe()?, Path::new(without).to_owned()];
    let mut rounds: [[Vec<f64>; 2]; 2] = Default::default();
    for _ in 0..STARTS {
        let mut builds = [Build::start(&programs[0])?, Build::start(&programs[1])?];
        for round in 0..=ROUNDS {
            let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
            for build in order {
                builds[build].round()?;
            }
            if round == 0 {
                builds.iter_mut().flat_map(|build| &mut build.rounds).for_each(Vec::clear);
            }
        }
        for (all, build) in rounds.iter_mut().zip(builds) {
            all.iter_mut().zip(build.end()?).for_each(|(all, these)| all.extend(these));
        }
    }
    let [with, without] = rounds;
    println!("{:<24}{:>18}{:>14}{:>10}{:>18}", "64 B, split, v2v", "without, ns/packet", "with", "ratio", "95 %");
    let mut rows = Vec::new();
    let mut is_within = true;
    for (nth, name) in ["bursts of 32", "bursts of 1"].into_iter().enumerate() {
        let [accounted, bare] = [&with[nth], &without[nth]].map(|rounds| quantile(&sorted(rounds.clone()), 0.5));
        let [ratio, low, high] = ratio(&with[nth], &without[nth]);
        println!("{name:<24}{bare:>18.2}{accounted:>14.2}{ratio:>10.3}{:>18}", format!("{low:.3} to {high:.3}"));
        rows.push(
            json!({ "bursts": name, "with_ns": accounted, "without_ns": bare, "ratio": ratio, "low": low, "high": high,
            "with_rounds": with[nth], "without_rounds": without[nth] }),
        );
        is_within &= nth > 0 || high <= GOAL;
    }
    println!("goal: bursts of 32 at most {GOAL}: {}", if is_within { "reached" } else { "missed" });
    let path = callgrind::folder()?.join("accounting.json");
    std::fs::write(&path, serde_json::to_string_pretty(&rows)? + "\n")
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("written to {}", path.display());
    Ok(is_within)
}
