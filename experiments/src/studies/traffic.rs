//! A generator under way, whose rates can be changed and whose counts can be read.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use sidecore_tests::process::Process;

use super::Lab;
use super::stage::{Load, Stage};
use crate::ringgen::Report;

/// What connecting and stopping may take.
const LIMIT: Duration = Duration::from_secs(60);
/// Packets that show that traffic flows.
const FLOWING: u64 = 200;
/// A generator that nobody ends.
const ENDLESS_S: f64 = 600.0;

/// Buffers of a ring, and bytes of one: a segment fits whole. Few enough for the caches, and more than a core can empty in a nap.
pub const BUFFERS: usize = 24;
const WHOLE: usize = 66_000;
/// Packets that wait in a queue of the guest's own while its ring is full: the length of Linux's.
pub const BACKLOG: usize = 1000;
/// How long a generator sleeps between two rounds that has an I/O core's CPU.
pub const NAP_US: u64 = 100;

/// Streams between pairs of guests.
pub struct Streams {
    process: Process,
    rates: File,
    live: PathBuf,
    json: PathBuf,
}

impl Streams {
    /// Starts pairs of guests that send TCP segments of 64 KiB, and waits until they flow.
    pub fn segments(lab: &Lab, stage: &Stage, rates: &[f64]) -> Result<Self> {
        let load = Load::new("stream", 2 * rates.len(), ENDLESS_S).option("size", "tso").option("buffers", BUFFERS);
        Self::start(lab, stage, load.option("rx-buffer", WHOLE).option("backlog", BACKLOG), rates, FLOWING)
    }

    /// Starts pairs of guests that send packets of so many bytes, and waits until they flow.
    pub fn packets(lab: &Lab, stage: &Stage, size: usize, rates: &[f64]) -> Result<Self> {
        let load = Load::new("stream", 2 * rates.len(), ENDLESS_S).option("size", size).option("backlog", BACKLOG);
        Self::start(lab, stage, load, rates, FLOWING)
    }

    /// Starts pairs of guests at the first ports of a stage, each sender at its rate, and waits for the first packets.
    fn start(lab: &Lab, stage: &Stage, load: Load, rates: &[f64], flowing: u64) -> Result<Self> {
        let (file, live, json) = (stage.file("rates"), stage.file("live"), stage.file("streams.json"));
        let _ = fs::remove_file(&live);
        let rates_file = File::create(&file).with_context(|| file.display().to_string())?;
        let load = load.option("rates", file.display()).option("live", live.display()).option("json", json.display());
        write(&rates_file, rates)?;
        let load = if stage.gives_way { load.option("nap-us", NAP_US) } else { load };
        let first: &[&str] = if stage.gives_way { &["chrt", "-f", "1"] } else { &[] };
        let mut command: Vec<String> = first.iter().map(|word| (*word).to_owned()).collect();
        command.push(lab.ringgen.display().to_string());
        command.extend(stage.arguments(lab, &load));
        let process = Process::spawn("ringgen", &command[0], &command[1..], &stage.file("streams.log"))?;
        let mut me = Self { process, rates: rates_file, live, json };
        let deadline = Instant::now() + LIMIT;
        while me.received().iter().sum::<u64>() < flowing {
            lab.interrupt.check()?;
            me.process.ensure_running()?;
            ensure!(Instant::now() < deadline, "no traffic\n{}", me.process.tail());
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(me)
    }

    /// Packets a second of each sender from now on.
    pub fn set(&self, rates: &[f64]) -> Result<()> {
        write(&self.rates, rates)
    }

    /// Packets that have arrived from each sender.
    #[must_use]
    pub fn received(&self) -> Vec<u64> {
        let bytes = fs::read(&self.live).unwrap_or_default();
        let words: Vec<u64> =
            bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default())).collect();
        words.chunks_exact(5).map(|row| row[4]).collect()
    }

    /// Lets them stop, and reads what was counted. Nothing may have been spoiled.
    pub fn finish(mut self) -> Result<Report> {
        let (status, _) = self.process.stop(Signal::INT, LIMIT)?;
        ensure!(status.success(), "ringgen ended with {status}\n{}", self.process.tail());
        let report = Report::parse(&fs::read_to_string(&self.json)?)?;
        report.ensure_unspoiled()?;
        Ok(report)
    }
}

/// In place: the generator has the file mapped.
fn write(file: &File, rates: &[f64]) -> Result<()> {
    let bytes: Vec<u8> = rates.iter().flat_map(|rate| (rate.round() as u64).to_le_bytes()).collect();
    file.write_all_at(&bytes, 0).context("cannot set rates")
}
