//! The command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use scheduler::Policy;
use simulator::model::Model;
use simulator::recorded::Recording;
use simulator::scenario::{ON_S, Scenario, Shape, Talk};

/// Most I/O cores and guests of a scenario.
const MOST_CORES: usize = 64;
const MOST_GUESTS: usize = 1024;
/// Policies that the usual set tries on the largest switch: those that differ there.
const LARGE: [Policy; 4] = [Policy::Static, Policy::Balance, Policy::OvsAutoLb, Policy::OvsAutoLbGroup];
/// Seeds of a scenario of the usual set.
const SEEDS: u64 = 3;
/// How long guests are on in the second on/off load of the usual set, in seconds: so long that OVS acts within a burst.
const LONG_ON_S: f64 = 240.0;

/// Compares scheduling policies in a model of the switch: guests send packets, I/O cores serve them, and the scheduler that runs in the switch
/// moves queue pairs between them.
///
/// Without --shape it runs the usual set: every shape of load on 8 cores with 64 guests, on/off with bursts of 10 s and of 4 minutes, guests that talk in
/// pairs, and 64 cores with 1,024 guests (four policies, one seed). The same options give the same results. They go to standard output as Markdown tables, and to --out as JSON, Markdown and SVG.
#[derive(Debug, Parser)]
#[command(name = "sidecore-simulate", version)]
pub(crate) struct Options {
    /// How load comes; without it, the usual set
    #[arg(long)]
    shape: Option<Shape>,
    /// Who sends to whom
    #[arg(long, default_value = "uplink")]
    talk: Talk,
    /// Policies, separated by commas; all, if none is named
    #[arg(long, value_delimiter = ',', value_parser = str::parse::<Policy>)]
    policies: Vec<Policy>,
    /// I/O cores, 1 to 64
    #[arg(long, default_value_t = 8)]
    cores: usize,
    /// Guests, 1 to 1,024, of one queue pair each; with a recording, as many as it has
    #[arg(long, default_value_t = 64)]
    guests: usize,
    /// For --shape on-off: for how many seconds guests are on, on average. They are off for three times as long
    #[arg(long, default_value_t = ON_S)]
    on_s: f64,
    /// Simulated time, in seconds: by default 600, or 15 times --on-s if that is more; with a recording all of it
    #[arg(long)]
    seconds: Option<f64>,
    /// Seconds at the beginning that do not count as converged: by default 30 % of what --seconds is by default
    #[arg(long)]
    converged_s: Option<f64>,
    /// Mean load, in parts of what all cores can serve; by default 0.85 (on-off 0.6, flash-crowd 0.5, churn 0.75). A recording has its own
    #[arg(long)]
    load: Option<f64>,
    /// The most that a guest sends, in parts of a core
    #[arg(long, default_value_t = 0.8)]
    largest: f64,
    /// How many seeds are run
    #[arg(long, default_value_t = SEEDS)]
    seeds: u64,
    /// The seed to begin with: others are fresh to policies that were tuned with these
    #[arg(long, default_value_t = 1)]
    first_seed: u64,
    /// For --shape recorded: packets of every guest in every tick. JSON (a list of ticks, each a list of packets by guest) if the name ends in
    /// .json; otherwise CSV, a line for each tick and a column for each guest, such as `sidecore scheduler record` writes, whose lines are 100 ms
    #[arg(long)]
    recording: Option<PathBuf>,
    /// Cores may be parked, but for so many
    #[arg(long)]
    elastic_min: Option<usize>,
    /// Runs at a time; by default, as many as there are CPUs
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Where results go
    #[arg(long, default_value = "target/simulate")]
    pub(crate) out: PathBuf,
    /// Length of a tick, in milliseconds
    #[arg(long, default_value_t = Model::default().tick_ms)]
    tick_ms: f64,
    /// Nanoseconds of a packet that stays on one core (experiments/README.md: 7.02 Mpps of 1518 B, guest to guest, on an Intel Xeon)
    #[arg(long, default_value_t = Model::default().packet_ns)]
    packet_ns: f64,
    /// Nanoseconds more on the sending core for one that crosses to another (2.0 times as long, in equal parts)
    #[arg(long, default_value_t = Model::default().send_ns)]
    send_ns: f64,
    /// The same on the receiving core
    #[arg(long, default_value_t = Model::default().receive_ns)]
    receive_ns: f64,
    /// Nanoseconds for which a queue pair is unserved while it moves (measured: the median under load)
    #[arg(long, default_value_t = Model::default().pause_ns)]
    pause_ns: f64,
    /// Nanoseconds of work of a move on each of its cores
    #[arg(long, default_value_t = Model::default().move_ns)]
    move_ns: f64,
    /// Packets that a guest's ring holds
    #[arg(long, default_value_t = Model::default().ring)]
    ring: f64,
}

/// A scenario, and what to try in it.
pub(crate) struct Job {
    /// The first of the seeds.
    pub(crate) first_seed: u64,
    pub(crate) scenario: Scenario,
    pub(crate) policies: Vec<Policy>,
    pub(crate) seeds: u64,
}

impl Options {
    /// What things cost.
    pub(crate) fn model(&self) -> Result<Model> {
        let positive = |name: &str, value: f64| {
            ensure!(value.is_finite() && value > 0.0, "--{name} {value} has to be a number above 0");
            Ok(value)
        };
        let not_negative = |name: &str, value: f64| {
            ensure!(value.is_finite() && value >= 0.0, "--{name} {value} has to be a number from 0 up");
            Ok(value)
        };
        Ok(Model {
            tick_ms: positive("tick-ms", self.tick_ms)?,
            packet_ns: positive("packet-ns", self.packet_ns)?,
            send_ns: not_negative("send-ns", self.send_ns)?,
            receive_ns: not_negative("receive-ns", self.receive_ns)?,
            pause_ns: not_negative("pause-ns", self.pause_ns)?,
            move_ns: not_negative("move-ns", self.move_ns)?,
            ring: positive("ring", self.ring)?,
            ..Model::default()
        })
    }

    /// How many runs at a time.
    pub(crate) fn threads(&self) -> usize {
        self.threads.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get)
    }

    /// What to run.
    pub(crate) fn jobs(&self) -> Result<Vec<Job>> {
        let policies = if self.policies.is_empty() { Policy::ALL.to_vec() } else { self.policies.clone() };
        ensure!(self.seeds > 0, "--seeds 0 runs nothing; 1 is the fewest");
        let Some(shape) = self.shape else { return Ok(self.usual(&policies)) };
        let scenario = self.scenario(shape, &self.model()?)?;
        Ok(vec![Job { scenario, policies, first_seed: self.first_seed, seeds: self.seeds }])
    }

    fn scenario(&self, shape: Shape, model: &Model) -> Result<Scenario> {
        ensure!((1..=MOST_CORES).contains(&self.cores), "--cores {} is not from 1 to {MOST_CORES}", self.cores);
        let scenario = match shape {
            Shape::Recorded => self.recorded(model)?,
            Shape::OnOff => {
                ensure!(self.on_s.is_finite() && self.on_s > 0.0, "--on-s {} has to be a number above 0", self.on_s);
                Scenario::on_off(self.on_s, self.cores, self.guests)
            }
            _ => Scenario::new(shape, self.cores, self.guests),
        };
        ensure!(
            (1..=MOST_GUESTS).contains(&scenario.guests),
            "{} guests are not from 1 to {MOST_GUESTS}",
            scenario.guests
        );
        let seconds = self.seconds.unwrap_or(scenario.seconds);
        let converged_s = self.converged_s.unwrap_or(scenario.converged_s);
        // Results are by the second.
        ensure!(
            seconds.is_finite() && converged_s >= 0.0 && seconds >= converged_s.floor() + 1.0,
            "of {seconds} s nothing is left after {converged_s} s for converging: --converged-s has to be less, by a second at least"
        );
        let load = self.load.unwrap_or(scenario.load);
        ensure!(load.is_finite() && load > 0.0, "--load {load} has to be a number above 0");
        ensure!(self.largest.is_finite() && self.largest > 0.0, "--largest {} has to be above 0", self.largest);
        let (talk, largest, elastic_min) = (self.talk, self.largest, self.elastic_min);
        Ok(Scenario { talk, load, largest, seconds, converged_s, elastic_min, ..scenario })
    }

    fn recorded(&self, model: &Model) -> Result<Scenario> {
        let path = self.recording.as_deref().context("--shape recorded needs --recording FILE")?;
        ensure!(self.load.is_none(), "--load is not for --shape recorded: a recording has its own");
        let recording = Recording::read(path)?.in_ticks(model.tick_ms);
        let recording = recording.with_context(|| format!("{} cannot be played back", path.display()))?;
        let scenario = Scenario::recorded(recording, self.cores, model);
        ensure!(
            self.seconds.is_none_or(|seconds| seconds <= scenario.seconds),
            "{} has {} s ({} ms a tick), and --seconds asks for more",
            path.display(),
            scenario.seconds,
            model.tick_ms
        );
        Ok(scenario)
    }

    /// Every shape, pairs, and the largest switch there may be.
    fn usual(&self, policies: &[Policy]) -> Vec<Job> {
        use Shape::{Churn, Constant, Elephant, FlashCrowd, OnOff, Poisson, Zipf};
        let job = |scenario, seeds| Job { scenario, policies: policies.to_vec(), first_seed: self.first_seed, seeds };
        let new = |shape| Scenario::new(shape, 8, 64);
        let long = Scenario::on_off(LONG_ON_S, 8, 64);
        let scenarios =
            [new(Constant), new(Poisson), new(OnOff), long, new(Zipf), new(FlashCrowd), new(Churn), new(Elephant)];
        let mut jobs: Vec<Job> = scenarios.map(|scenario| job(scenario, self.seeds)).into();
        // Crossings cost as much again and more: on one core they fit, on several they do not.
        let pairs = Scenario { talk: Talk::Pairs, load: 0.6, ..new(Poisson) };
        jobs.push(job(pairs, self.seeds));
        let large = |shape| {
            let policies = policies.iter().copied().filter(|policy| LARGE.contains(policy)).collect();
            Job {
                scenario: Scenario::new(shape, MOST_CORES, MOST_GUESTS),
                policies,
                first_seed: self.first_seed,
                seeds: 1,
            }
        };
        jobs.extend([large(Zipf), large(FlashCrowd)]);
        jobs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What these options make of a recording of 30 s.
    fn recorded(more: &[&str]) -> Result<Scenario> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("two.csv");
        std::fs::write(&path, "web,db\n".to_owned() + &"7042,3521\n".repeat(6000))?;
        let usual = ["sidecore-simulate", "--shape", "recorded", "--cores", "2", "--recording"];
        let options = Options::try_parse_from(usual.iter().copied().chain(path.to_str()).chain(more.iter().copied()))?;
        let mut jobs = options.jobs()?;
        Ok(jobs.remove(0).scenario)
    }

    #[test]
    fn a_recording_says_how_long_it_is_and_how_much() {
        let scenario = recorded(&[]).unwrap();
        assert_eq!((scenario.guests, scenario.seconds, scenario.converged_s), (2, 30.0, 9.0));
        // 7,042 packets of 142 ns are 20 % of 5 ms.
        assert!((scenario.load - 0.15).abs() < 1e-3, "{}", scenario.load);
        assert_eq!(recorded(&["--seconds", "20", "--tick-ms", "10"]).unwrap().seconds, 20.0);
    }

    #[test]
    fn what_a_recording_cannot_be_is_refused() {
        let error = |more: &[&str]| recorded(more).unwrap_err().to_string();
        assert!(error(&["--converged-s", "180"]).contains("of 30 s nothing is left after 180 s"));
        assert!(error(&["--seconds", "31"]).ends_with("has 30 s (5 ms a tick), and --seconds asks for more"));
        assert!(error(&["--load", "0.5"]).contains("a recording has its own"));
        assert!(recorded(&["--converged-s", "29"]).is_ok());
    }
}
