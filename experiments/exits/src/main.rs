//! `make exits`: VM exits per packet, by KVM's own count, in every mode of the switch.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use sidecore_exits::measure::{Bench, Clock, Mode, RingFormat, Row};
use sidecore_exits::{report, vmm};
use sidecore_tests::interrupt::Interrupt;
use sidecore_tests::{paths, rules};

/// Time from an answer to the next packet in an idle row: a switch that sleeps at all is asleep by then.
const PAUSE_MS: u64 = 3;

/// Measures VM exits per packet with KVM's own counters: a guest of ring 3 drives two virtio-net devices of the switch.
///
/// Exit status: 0 when a polling guest of a polling switch shows 0.00 exits a packet above what it shows without packets, and the
/// same counter shows at least 0.9 in mode trap; 1 otherwise.
#[derive(Parser, Debug)]
#[command(name = "exits", version, verbatim_doc_comment)]
struct Options {
    /// A tenth of the packets: enough to see directions.
    #[arg(long)]
    quick: bool,
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
    let _alone = rules::Machine::exclusive()?;
    let with_kvm = match vmm::available() {
        _ if options.no_kvm => false,
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
    let enough = || interrupt.is_set();
    let bench = Bench {
        switch_cpu,
        guest_cpu: options.guest_cpu,
        with_kvm,
        hardware,
        clock: Clock::calibrate(),
        enough: &enough,
    };
    let mut outcomes = Vec::new();
    println!("\n{}", report::head());
    for row in rows(options.quick) {
        interrupt.check()?;
        outcomes.push(bench.row(&row).with_context(|| format!("{row:?}"))?);
        outcomes.last().into_iter().for_each(|outcome| println!("{}", report::line(outcome)));
        // After each row, so that a run that is broken off has results.
        let json = serde_json::to_string_pretty(&outcomes)? + "\n";
        std::fs::write(&out, json).with_context(|| out.display().to_string())?;
    }
    println!("\nresults: {}", out.display());
    let objections = report::objections(&outcomes, if options.quick { report::FEW } else { report::NONE });
    objections.iter().for_each(|objection| println!("NOT AS CLAIMED: {objection}"));
    Ok(objections.is_empty())
}

/// The rows. In the short form a row takes about a tenth of the time.
fn rows(quick: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    for ring in [RingFormat::Split, RingFormat::Packed] {
        let mut row = |mode, pause, interrupts, round_trips: u64, stream: u64| {
            let divisor = if quick { 10 } else { 1 };
            let (round_trips, stream) = (round_trips / divisor, stream / divisor);
            rows.push(Row { mode, pause: Duration::from_millis(pause), ring, interrupts, round_trips, stream });
        };
        row(Mode::Poll, 0, false, 500_000, 1_000_000);
        row(Mode::Poll, 0, true, 10_000, 200_000);
        for interrupts in [false, true] {
            row(Mode::Adaptive, 0, interrupts, 10_000, 200_000);
            row(Mode::Adaptive, PAUSE_MS, interrupts, 500, 0);
        }
        for interrupts in [false, true] {
            row(Mode::Trap, 0, interrupts, 10_000, 200_000);
        }
    }
    rows
}
