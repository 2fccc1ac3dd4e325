//! `make demo`: two QEMU guests and a host behind an uplink exchange traffic through the switch.
//!
//! `sidecore-demo [CONFIG]` sets everything up, shows a live table, writes target/demo/report.json, gives everything back,
//! and ends with `demo: ok` when that report, read again, shows no fault. `sidecore-demo --judge REPORT` only judges.
#![forbid(unsafe_code)]

mod plan;
mod play;
mod report;
mod stage;
mod summary;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use plan::Plan;
use report::Report;
use sidecore_tests::interrupt::Interrupt;
use sidecore_tests::paths;
use stage::Stage;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments[..] {
        [] => demo(&paths::workspace().join("config/examples/demo.toml")),
        ["--judge", report] => Ok(PathBuf::from(report)),
        [config] if !config.starts_with('-') => demo(Path::new(config)),
        _ => {
            eprintln!("usage: sidecore-demo [CONFIG]\n       sidecore-demo --judge REPORT");
            return ExitCode::from(2);
        }
    };
    match outcome.and_then(|path| judge(&path)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the demo and returns where its report is.
fn demo(config: &Path) -> Result<PathBuf> {
    let path = paths::target("demo")?.join("report.json");
    let _ = std::fs::remove_file(&path);
    let interrupt = Interrupt::install()?;
    let mut report = Report::default();
    if let Err(error) = perform(config, &interrupt, &mut report) {
        report.errors.push(format!("{error:#}"));
    }
    report.write(&path)?;
    Ok(path)
}

fn perform(config: &Path, interrupt: &Interrupt, report: &mut Report) -> Result<()> {
    let plan = Plan::read(config)?;
    (report.accelerator, report.guest_kernel) = stage::describe_guests()?;
    let stage = Stage::set_up(&plan, interrupt)?;
    report.hugepages = stage.has_hugepages();
    play::play(&stage, &plan, interrupt, report);
    if !interrupt.is_set() {
        // Packets of the last stream may still be under way: a status with nothing in flight, or the last one there is.
        report.status = Some(stage.switch().quiet_status().or_else(|_| stage.switch().status())?);
    }
    stage.tear_down()
}

/// Prints the summary of a report. Everything it says comes from the file.
fn judge(path: &Path) -> Result<bool> {
    let report = Report::read(path)?;
    print!("{}", summary::render(&report, path));
    Ok(report.faults().is_empty())
}
