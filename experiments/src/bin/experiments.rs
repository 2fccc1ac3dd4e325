//! `make experiments`: how Sidecore behaves with many guests, measured, drawn and written down.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use clap::builder::FalseyValueParser;
use sidecore_experiments::studies::finding::Verdict;
use sidecore_experiments::studies::{self, Effort, Lab};
use sidecore_tests::{paths, rules};

/// Makes experiments with Sidecore and many guests.
///
/// Each writes NAME.json, NAME.md and pictures; report.html shows all that were made up to now. What a claim came to does not change the exit
/// status.
#[derive(Debug, Parser)]
#[command(name = "experiments", version)]
struct Options {
    /// All of it in less than ten minutes on two CPUs: shorter turns, fewer places.
    #[arg(long, env = "QUICK", value_parser = FalseyValueParser::new())]
    quick: bool,

    /// Only these experiments, by name, separated by commas.
    #[arg(long, env = "ONLY", value_delimiter = ',', value_name = "NAMES")]
    only: Vec<String>,

    /// Shows the names of the experiments, and ends.
    #[arg(long)]
    list: bool,

    /// Rounds [default: 7, or 5]
    #[arg(long, env = "ROUNDS")]
    rounds: Option<usize>,

    /// Measured seconds of each turn [default: 1, or 0.3]
    #[arg(long, env = "SECONDS_PER_ROUND")]
    seconds: Option<f64>,

    /// Where the results go [default: target/experiments]
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("experiments: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Makes all of them, whichever fails.
fn run(options: &Options) -> Result<bool> {
    let chosen = studies::chosen(&options.only)?;
    if options.list {
        studies::ALL.iter().for_each(|study| println!("{:12} {}", study.name, study.about));
        return Ok(true);
    }
    let mut effort = if options.quick { Effort::QUICK } else { Effort::FULL };
    effort.rounds = options.rounds.unwrap_or(effort.rounds).max(1);
    effort.seconds = options.seconds.unwrap_or(effort.seconds).clamp(0.1, 600.0);
    let out = match &options.out {
        Some(out) => out.clone(),
        None => paths::target("experiments")?,
    };
    let _alone = rules::Machine::exclusive()?;
    let lab = Lab::new(effort, out)?;
    let (begin, mut well) = (Instant::now(), true);
    for study in chosen {
        if let Some(why) = studies::left_out(&study, &options.only, &lab.out) {
            println!("{}: {why}", study.name);
            continue;
        }
        println!("{}: {}", study.name, study.about);
        let begin_one = Instant::now();
        let made = study.make(&lab).and_then(|finding| lab.write(&finding).map(|()| finding));
        match made.with_context(|| study.name) {
            Ok(finding) => {
                for claim in &finding.claims {
                    let verdict = match claim.verdict {
                        Verdict::Reached => "reached",
                        Verdict::Missed => "MISSED",
                        Verdict::Shown => "shown",
                    };
                    println!("  {}: {} (goal {}) {verdict}", claim.text, claim.measured, claim.goal);
                }
            }
            Err(error) => {
                lab.interrupt.check()?;
                eprintln!("experiments: error: {error:#}");
                well = false;
            }
        }
        println!("  it took {:.0} s", begin_one.elapsed().as_secs_f64());
    }
    println!("all took {:.0} s", begin.elapsed().as_secs_f64());
    println!("results: {0}/report.html", lab.out.display());
    Ok(well)
}
