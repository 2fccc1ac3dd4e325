//! `make soak-handover`: thousands of moves of queue pairs between three I/O cores while verified packets flow between the guests.
//!
//! - `phases` is what the guests do, one after the other; `traffic` runs the generator and looks at its counts.
//! - `moves` chooses what is moved next, in all six directions evenly, and moves it.
//! - `outcome` adds up, judges, and is the line of JSON at the end.
#![forbid(unsafe_code)]

mod moves;
mod outcome;
mod phases;
mod traffic;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use moves::{Dice, Mover};
use outcome::{Outcome, PhaseOutcome};
use phases::{GUESTS, Phase, QUEUE_PAIRS};
use rustix::process::Signal;
use sidecore_tests::interrupt::Interrupt;
use sidecore_tests::paths;
use sidecore_tests::switch::{SwitchConfig, SwitchProcess};
use traffic::Traffic;

/// I/O cores.
const CORES: usize = 3;
/// I/O cores that share CPUs with each other and with the generator take turns in stopping.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// Moves queue pairs of a running switch between three I/O cores, while six guests exchange packets whose every byte and whose order
/// are checked. Senders are limited to what the receivers have room for, so that no packet may be missing.
///
/// Moves go in all six directions evenly, of all guests and queue pairs, chosen at random; half of them as soon as the one before has
/// ended, half of them when some packets more have arrived. Ring format, queue pairs, sizes and who sends to whom change from phase to
/// phase.
///
/// The last line of standard output is one JSON object. `in_flight_moves` are those at whose beginning at least 100 packets were under
/// way that the queue pair had sent or that were for its guest; `parked` are packets that waited in the rings between the cores until
/// the queue pair they were for had come to theirs; `cpus` are those of the three I/O cores, `shared_cpu` says whether they
/// have to share them.
///
/// Exit status: 0 when everything asked for was moved, nothing was lost, duplicated, reordered, corrupted or dropped, 9 in 10 moves had
/// packets under way, and some packets were parked; 1 otherwise.
#[derive(Parser, Debug)]
#[command(name = "soak-handover", version, verbatim_doc_comment)]
struct Options {
    /// Moves, at least.
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    moves: u64,
    /// Which moves: the same number gives the same ones.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Leave the ordering token out of every handover, and fail unless errors are seen. Needs a switch built with
    /// --features fault-injection beside this program, as sidecore-faulty (make soak-handover builds one).
    #[arg(long)]
    without_token: bool,
    /// Write the JSON object to a file, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(faults) if faults.is_empty() => ExitCode::SUCCESS,
        Ok(faults) => {
            faults.iter().for_each(|fault| eprintln!("soak-handover: error: {fault}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("soak-handover: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Makes the run, prints its result, and returns what is wrong with it.
fn run(options: &Options) -> Result<Vec<String>> {
    let interrupt = Interrupt::install()?;
    let folder = SwitchProcess::folder()?;
    let machine = Cpus::of_this_machine()?;
    let pairs = format!("queue_pairs = {QUEUE_PAIRS}");
    let config = SwitchConfig::new(folder.path()).on_cpus(machine.io_cores.to_vec()).without_rebalancing();
    let config = (0..GUESTS).fold(config, |config, guest| config.guest(&phases::name(guest), &[&pairs]));
    let switch = SwitchProcess::start_as(&command(options)?, &config)?;

    let phases = phases::all();
    // Whole turns through the six directions.
    let moves = options.moves.div_ceil(phases.len() as u64).next_multiple_of(6);
    let mut outcome = Outcome::new(options.seed, &machine);
    let mut dice = Dice::new(options.seed);
    let begin = Instant::now();
    for (number, phase) in phases.iter().enumerate() {
        let place = || format!("phase {} of {} ({phase})", number + 1, phases.len());
        let seen = play(&switch, &config, &machine, phase, moves, &mut dice, &interrupt).with_context(place)?;
        println!("{}: {seen}", place());
        outcome.add(&seen);
    }
    outcome.close(&switch.quiet_status()?, begin.elapsed());
    switch.stop_within(Signal::TERM, STOP_LIMIT)?;

    let line = serde_json::to_string(&outcome)?;
    if let Some(path) = &options.json {
        std::fs::write(path, format!("{line}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("{line}");
    Ok(if options.without_token { outcome.faults_of_broken_switch() } else { outcome.faults(options.moves) })
}

/// How the switch is started.
fn command(options: &Options) -> Result<Vec<OsString>> {
    if !options.without_token {
        return Ok(vec![paths::sidecore()?.into()]);
    }
    Ok(vec!["env".into(), "SIDECORE_FAULT=no-ordering-token".into(), paths::sidecore_faulty()?.into()])
}

/// Makes `moves` moves while the guests do what `phase` says, and waits until all is quiet again.
fn play(
    switch: &SwitchProcess,
    config: &SwitchConfig,
    machine: &Cpus,
    phase: &Phase,
    moves: u64,
    dice: &mut Dice,
    interrupt: &Interrupt,
) -> Result<PhaseOutcome> {
    let sockets: Vec<PathBuf> = (0..GUESTS).map(|guest| config.socket(&phases::name(guest))).collect();
    let folder = config.control_socket().parent().context("the control socket has no folder")?.to_owned();
    let mut traffic = Traffic::start(phase, &sockets, machine.generator, &folder)?;
    traffic.wait_until_it_flows(interrupt)?;
    let mut mover = Mover::new(switch, phase, dice)?;
    let mut seen = PhaseOutcome::default();
    for _ in 0..moves {
        interrupt.check()?;
        traffic.ensure_running()?;
        seen.add_move(mover.next(&traffic)?);
    }
    seen.traffic = traffic.finish(interrupt)?;
    let status = switch.quiet_status()?;
    for guest in 0..GUESTS {
        // The next phase's guests connect where these were.
        switch.wait_for_port(&phases::name(guest), "end of the connection", |port| port.state == "waiting")?;
    }
    ensure!(seen.traffic.sent > 0, "nothing was sent");
    seen.switch_drops = status.drops();
    Ok(seen)
}

/// Who runs where.
pub(crate) struct Cpus {
    io_cores: [usize; CORES],
    generator: usize,
    /// Not everybody has one.
    is_shared: bool,
}

impl Cpus {
    fn of_this_machine() -> Result<Self> {
        let cpus = std::thread::available_parallelism().context("cannot tell how many CPUs there are")?.get();
        Ok(Self::of(cpus))
    }

    fn of(cpus: usize) -> Self {
        if cpus > CORES {
            return Self { io_cores: [1, 2, 3], generator: 0, is_shared: false };
        }
        Self { io_cores: [0, 1, 2].map(|core| core % cpus), generator: cpus - 1, is_shared: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_sound() {
        use clap::CommandFactory as _;
        Options::command().debug_assert();
    }

    #[test]
    fn cpus_are_shared_where_there_are_too_few() {
        let Cpus { io_cores, generator, is_shared } = Cpus::of(4);
        assert!(!io_cores.contains(&generator) && !is_shared);
        let Cpus { io_cores, generator, is_shared } = Cpus::of(2);
        assert_eq!((io_cores, generator, is_shared), ([0, 1, 0], 1, true));
        assert_eq!(Cpus::of(1).io_cores, [0; 3]);
    }
}
