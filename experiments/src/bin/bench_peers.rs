//! `make bench-peers`: Sidecore, OVS-DPDK and testpmd with the same generator on the same CPUs, in rounds that take turns.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser as _;
use rustix::thread::{CpuSet, sched_setaffinity};
use sidecore_experiments::bench::Bench;
use sidecore_experiments::machine::Machine;
use sidecore_experiments::options::Options;
use sidecore_experiments::report::page::{self, Conditions};
use sidecore_experiments::report::picture;
use sidecore_experiments::results::{self, Entry};
use sidecore_experiments::ringgen::Generator;
use sidecore_experiments::systems::Kind;
use sidecore_experiments::work::Row;
use sidecore_tests::hugepages::Reservation;
use sidecore_tests::interrupt::Interrupt;
use sidecore_tests::{paths, rules};

/// MiB of hugepages for each system's guests.
const GUESTS_MIB: u64 = 64;

/// Attempts to have them: the kernel finds more once it has moved other pages out of the way.
const ATTEMPTS: usize = 4;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-peers: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<bool> {
    let rows = options.chosen_rows()?;
    if options.list {
        options.chosen_rows()?.iter().for_each(|row| println!("{}", row.key()));
        return Ok(true);
    }
    let cpus = std::thread::available_parallelism()?.get();
    options.check(cpus)?;
    ensure!(rustix::process::geteuid().is_root(), "it reserves hugepages and limits CPUs: run it as root (make does)");
    let interrupt = Interrupt::install()?;
    let _alone = rules::Machine::exclusive()?;
    let out = match &options.out {
        Some(out) => out.clone(),
        None => paths::target("bench")?,
    };
    std::fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
    let other_cpu = options.other_cpu(cpus);
    pin(other_cpu)?;
    let hugepages = if options.no_hugepages { None } else { reserve(options.systems())? };
    let folder = tempfile::Builder::new().prefix("scb-").tempdir()?;
    let generator =
        Generator { binary: beside_me("ringgen")?, cpu: options.generator_cpu, hugepages: hugepages.is_some() };
    let mut conditions = Conditions {
        machine: Machine::detect(hugepages.is_some()),
        rounds: options.rounds,
        seconds: options.seconds,
        turns: options.turns,
        cpus: [options.switch_cpu, options.generator_cpu, other_cpu],
        generator: Vec::new(),
    };
    let bench = Bench { options: options.clone(), other_cpu, generator, interrupt, folder: folder.path().to_owned() };
    let well = measure(&bench, &rows, &out, &mut conditions)?;
    println!("results: {0}/peers.json, {0}/peers.md, {0}/peers.svg", out.display());
    Ok(well)
}

/// Measures all rows and writes what there is after each, so that a run that is broken off has results.
fn measure(bench: &Bench, rows: &[Row], out: &Path, conditions: &mut Conditions) -> Result<bool> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut well = true;
    for row in rows {
        let outcome = bench.row(row)?;
        well &= !outcome.has_failed();
        conditions.generator.push((row.key(), bench.shown(row)));
        entries.extend(outcome.entries());
        write(out, &entries, conditions)?;
    }
    print!("{}", page::summary(&entries));
    Ok(well)
}

fn write(out: &Path, entries: &[Entry], conditions: &Conditions) -> Result<()> {
    results::write(&out.join("peers.json"), entries)?;
    for (name, text) in [("peers.md", page::render(entries, conditions)), ("peers.svg", picture::render(entries))] {
        let path = out.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// All that is started from here inherits it, but for the threads that bind themselves elsewhere.
fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("cannot run on CPU {cpu}"))
}

fn reserve(systems: &[Kind]) -> Result<Option<Reservation>> {
    let mib = systems.iter().map(|kind| GUESTS_MIB + kind.memory_mib()).sum::<u64>();
    for _ in 0..ATTEMPTS {
        if let Some(reservation) = Reservation::at_least(mib)? {
            return Ok(Some(reservation));
        }
        // Where this is not allowed, the next attempt fails like the last.
        let _ = std::fs::write("/proc/sys/vm/compact_memory", "1");
    }
    println!("no {mib} MiB of hugepages are to be had: every system runs without");
    Ok(None)
}

fn beside_me(name: &str) -> Result<PathBuf> {
    let me = std::env::current_exe().context("cannot find the running binary's own path")?;
    let path = me.with_file_name(name);
    ensure!(path.is_file(), "no {name} beside {}: build it first (make bench-peers does)", me.display());
    Ok(path)
}
