//! `make exits`: VM exits per packet, by KVM's own count, in every mode of the switch: of a guest in ring 3, and of Linux guests
//! where stock guests run under KVM.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use serde::Serialize;
use sidecore_exits::linux::{self, StockGuests};
use sidecore_exits::measure::{Bench, Clock, Mode, Outcome, RingFormat, Row};
use sidecore_exits::{report, vmm};
use sidecore_experiments::studies::finding::Conditions;
use sidecore_tests::interrupt::Interrupt;
use sidecore_tests::{paths, rules};

/// Time from an answer to the next packet in an idle row: a switch that sleeps at all is asleep by then.
const PAUSE_MS: u64 = 3;

/// Measures VM exits per packet with KVM's own counters: a guest of ring 3 drives two virtio-net devices of the switch. Where stock
/// guests run under KVM, which is tried, two Linux guests do the same, with TCP between them.
///
/// Exit status: 0 when a polling guest of a polling switch shows 0.00 exits a packet above what it shows without packets, and the
/// same counter shows at least 0.9 in mode trap; 1 otherwise.
#[derive(Parser, Debug)]
#[command(name = "exits", version, verbatim_doc_comment)]
struct Options {
    /// A tenth of the packets, but for a polling guest's, which are as many as the goal is about.
    #[arg(long)]
    quick: bool,
    /// Only rows with this ring format.
    #[arg(long, value_enum, value_name = "FORMAT")]
    ring: Option<RingFormat>,
    /// Rounds, in which rows of a ring format take turns [default: 7, or 5].
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: Option<u8>,
    /// Do without KVM, as where /dev/kvm does not open.
    #[arg(long)]
    no_kvm: bool,
    /// CPU of the switch's I/O core [default: the last one].
    #[arg(long)]
    switch_cpu: Option<usize>,
    /// CPU of the guest.
    #[arg(long, default_value_t = 0)]
    guest_cpu: usize,
    /// Where the results go [default: target/experiments/exits.json].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("exits: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<bool> {
    let cpus = std::thread::available_parallelism()?.get();
    let switch_cpu = options.switch_cpu.unwrap_or(cpus - 1);
    ensure!(switch_cpu != options.guest_cpu, "the guest and the switch poll: each needs a CPU of its own");
    let out = match &options.out {
        Some(out) => out.clone(),
        None => paths::target("experiments")?.join("exits.json"),
    };
    let interrupt = Interrupt::install()?;
    let alone = rules::Machine::exclusive()?;
    let (with_kvm, hardware) = look_for_kvm(!options.no_kvm);
    let stock_guests =
        if with_kvm { StockGuests::try_out() } else { StockGuests::untried("there is no KVM, or none is wanted") };
    println!("{stock_guests}");
    let bench = Bench {
        switch_cpu,
        guest_cpu: options.guest_cpu,
        with_kvm,
        hardware,
        stock_guests: stock_guests.clone(),
        clock: Clock::calibrate(),
        interrupt: &interrupt,
    };
    let rounds = options.rounds.unwrap_or(if options.quick { 5 } else { 7 });
    let (conditions, repeat) = (Conditions::now(rounds.into(), 0.0), repeat(std::env::args().skip(1)));
    let mut outcomes = Vec::new();
    // Of each ring format as soon as they are there, so that a run that is broken off has results.
    let mut keep = |outcome: Outcome| {
        println!("{}", report::line(&outcome));
        outcomes.push(outcome);
        let rows = outcomes.iter().map(|outcome| Written { outcome, conditions: &conditions, repeat: &repeat });
        let json = serde_json::to_string_pretty(&rows.collect::<Vec<_>>())? + "\n";
        std::fs::write(&out, json).with_context(|| out.display().to_string())
    };
    let rings = options.ring.map_or_else(|| vec![RingFormat::Split, RingFormat::Packed], |ring| vec![ring]);
    println!(
        "{rounds} rounds, in which rows of a ring format take turns: times are medians over rounds, with 95 % intervals."
    );
    println!("\n{}", report::head());
    for ring in &rings {
        bench.rows(&rows(*ring, options.quick), rounds.into())?.into_iter().try_for_each(&mut keep)?;
    }
    if stock_guests.run_under_kvm == Some(true) {
        linux_rows(options.quick, &rings, switch_cpu, &alone, &interrupt, |row, turns| {
            keep(linux::outcome(row, turns, &stock_guests))
        })?;
    }
    println!("\nresults: {}", out.display());
    let objections = report::objections(&outcomes, if options.quick { report::FEW } else { report::NONE });
    objections.iter().for_each(|objection| println!("NOT AS CLAIMED: {objection}"));
    Ok(objections.is_empty())
}

/// A row as it is written: with what it was measured on, since others read the file later.
#[derive(Serialize)]
struct Written<'o> {
    #[serde(flatten)]
    outcome: &'o Outcome,
    conditions: &'o Conditions,
    repeat: &'o str,
}

/// The command that counts the same again.
fn repeat(args: impl Iterator<Item = String>) -> String {
    let args: Vec<String> = args.collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => "make exits".to_owned(),
        ["--quick"] => "make exits QUICK=1".to_owned(),
        _ => format!("target/release/exits {}", args.join(" ")),
    }
}

/// Whether there is KVM, and whether hardware virtualisation is behind it; says so.
fn look_for_kvm(wanted: bool) -> (bool, bool) {
    let with_kvm = match vmm::available() {
        _ if !wanted => false,
        Ok(()) => true,
        Err(error) => {
            println!("{error}");
            false
        }
    };
    let hardware = vmm::has_hardware();
    println!(
        "{}",
        match (with_kvm, hardware) {
            (false, _) => "No KVM: the guest is a thread, and only kicks and calls are counted.",
            (true, true) => "KVM with hardware virtualisation.",
            (true, false) =>
                "KVM without hardware virtualisation: ring 3 runs as it is, ring 0 is emulated instruction by instruction.",
        }
    );
    (with_kvm, hardware)
}

/// The rows of a ring format. How much they do in a round is such that none has the machine for much longer than others.
fn rows(ring: RingFormat, quick: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut row = |mode, pause, interrupts, round_trips: u64| {
        let is_exitless = (mode, interrupts) == (Mode::Poll, false);
        let round_trips = if quick && !is_exitless { round_trips / 10 } else { round_trips };
        let stream = match (pause, mode, quick) {
            (0, Mode::Trap, true) => 30_000,
            (0, _, true) | (0, Mode::Trap, false) => 100_000,
            (0, _, false) => 200_000,
            _ => 0,
        };
        rows.push(Row { mode, pause: Duration::from_millis(pause), ring, interrupts, round_trips, stream });
    };
    // Of two packets each: 1,000,000 packets in five rounds.
    row(Mode::Poll, 0, false, 100_000);
    row(Mode::Poll, 0, true, 1_500);
    for interrupts in [false, true] {
        row(Mode::Adaptive, 0, interrupts, if interrupts { 1_500 } else { 30_000 });
        row(Mode::Adaptive, PAUSE_MS, interrupts, 70);
    }
    for interrupts in [false, true] {
        row(Mode::Trap, 0, interrupts, 1_500);
    }
    rows
}

/// Measures the rows of Linux guests. Their rounds take turns; in the short form there is one, with split rings.
fn linux_rows(
    quick: bool,
    rings: &[RingFormat],
    switch_cpu: usize,
    machine: &rules::Machine,
    interrupt: &Interrupt,
    mut keep: impl FnMut(&linux::Row, &[linux::Turn]) -> Result<()>,
) -> Result<()> {
    let (rounds, millis) = if quick { (1, 500) } else { (5, 1000) };
    let bench = linux::Bench { machine, switch_cpu, window: Duration::from_millis(millis) };
    for ring in &rings[..if quick { 1 } else { rings.len() }] {
        let row = |mode, pause| linux::Row { mode, ring: *ring, pause: Duration::from_millis(pause) };
        let rows = [row(Mode::Poll, 0), row(Mode::Adaptive, 0), row(Mode::Adaptive, PAUSE_MS), row(Mode::Trap, 0)];
        let mut turns = rows.map(|_| Vec::new());
        for _ in 0..rounds {
            for (row, turns) in rows.iter().zip(&mut turns) {
                interrupt.check()?;
                turns.push(bench.turn(row).with_context(|| format!("{row:?}"))?);
            }
        }
        rows.iter().zip(&turns).try_for_each(|(row, turns)| keep(row, turns))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::repeat;

    #[test]
    fn what_repeats_a_run_is_what_was_asked_for() {
        let command = |args: &[&str]| repeat(args.iter().map(|arg| (*arg).to_owned()));
        assert_eq!((command(&[]).as_str(), command(&["--quick"]).as_str()), ("make exits", "make exits QUICK=1"));
        assert_eq!(command(&["--ring", "split"]), "target/release/exits --ring split");
    }
}
