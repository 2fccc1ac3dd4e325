//! Instructions per packet, counted by callgrind: `make bench-instr`.
//!
//! Each case runs in a process of its own under callgrind, on rings that were filled before. What is counted is the I/O core's poll
//! function, called through [`count::counted_round`], and nothing else: not the drivers, not the start. Beside it stands a limit: a plain
//! copy of the same bytes, with the index updates that the virtio specification demands. A figure more than 3 % above its budget in
//! `budgets.toml` is an error. So is a switch whose I/O core executes more than 1 % because it is scraped ([`scrape`]).
#![forbid(unsafe_code)]

mod budget;
mod callgrind;
mod capture;
mod cases;
mod count;
mod limit;
mod report;
#[path = "../../tests/rig/mod.rs"]
mod rig;
mod scrape;
mod timing;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use budget::Budgets;
use cases::{CASES, Case};
use report::{Figure, Row};

fn main() -> ExitCode {
    // Cargo adds "--bench" to whatever it is told to pass.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match *arguments.as_slice() {
        [] => measure_all(),
        ["run", name, what] => run_here(name, what).map(|()| true),
        ["scrapes"] => scrape::measure().map(|scrapes| {
            print!("{}", scrapes.line());
            scrapes.is_within()
        }),
        ["time"] => timing::run().map(|()| true),
        ["capture"] => capture::run().map(|()| true),
        _ => Err(anyhow::anyhow!(
            "run `make bench-instr` to count instructions, `make bench-timing` or `make bench-capture`"
        )),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-instr: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Counts every case and its limit, shows and writes the figures. Whether all are within their budgets.
fn measure_all() -> Result<bool> {
    let budgets = Budgets::read()?;
    budgets.check_names(CASES.iter().map(|case| case.name))?;
    let version = callgrind::version()?;
    let mut rows = Vec::new();
    for case in &CASES {
        eprintln!("counting {}", case.name);
        let measured = figure(case, "switch")?;
        let limit = figure(case, "limit")?;
        rows.push(Row { name: case.name, unit: case.unit, budget: budgets.get(case.name)?, measured, limit });
    }
    eprintln!("counting scrapes");
    let scrapes = scrape::measure()?;
    print!("{}{}", report::table(&rows), scrapes.line());
    let path = report::write_json(&rows, &scrapes, &version)?;
    println!("written to {}", path.display());
    Ok(scrapes.is_within() && rows.iter().all(|row| row.verdict() != report::Verdict::Over))
}

fn figure(case: &Case, what: &'static str) -> Result<Figure> {
    let profile = callgrind::run(case.name, what)?;
    if let Some(function) = profile.allocator {
        bail!("{} ({what}) calls {function} in a round: a burst must not allocate", case.name);
    }
    Ok(Figure { instructions: profile.instructions, of: case.counted() })
}

/// What runs under callgrind.
fn run_here(name: &str, what: &str) -> Result<()> {
    let case = CASES.iter().find(|case| case.name == name).with_context(|| format!("there is no case {name}"))?;
    match what {
        "switch" => case.run_switch(),
        "limit" => case.run_limit(),
        _ => bail!("{what} is neither switch nor limit"),
    }
    Ok(())
}
