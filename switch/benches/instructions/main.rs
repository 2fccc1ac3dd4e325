//! Instructions per packet, counted by callgrind: `make bench-instr`.
//!
//! Each case runs in a process of its own under callgrind, on rings that were filled before. What is counted is the I/O core's poll
//! function, called through [`count::counted_round`], and nothing else: not the drivers, not the start. Beside it stands a limit: a plain
//! copy of the same bytes, with the index updates that the virtio specification demands. A figure more than 3 % above its budget in
//! `budgets.toml` is an error. So is a switch whose I/O core executes more than 1 % because it is scraped ([`scrape`]).
#![forbid(unsafe_code)]

mod accounting;
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

use anyhow::{Context, Result, anyhow, bail};

use budget::Budgets;
use cases::{CASES, Case};
use report::{Figure, Row};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match *arguments.as_slice() {
        [] => measure_all(),
        // What is scraped.
        ["run", "--config", _] => return sidecore::main(),
        ["run", name, what] => run_here(name, what).map(|()| true),
        ["scrapes"] => scrape::measure().map(|scrapes| {
            print!("{}", scrapes.line());
            scrapes.is_within()
        }),
        ["time"] => timing::run().map(|()| true),
        ["accounting"] => accounting::run(),
        ["capture"] => capture::run().map(|()| true),
        _ => Err(anyhow!(
            "run `make bench-instr` to count instructions, `make bench-timing`, `make bench-accounting` or `make bench-capture`"
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
    // Side by side: how many instructions something takes does not depend on what else runs.
    let (rows, scrapes) = std::thread::scope(|scope| {
        let scrapes = scope.spawn(|| {
            eprintln!("counting scrapes");
            scrape::measure()
        });
        (CASES.iter().map(|case| row(case, &budgets)).collect::<Result<Vec<Row>>>(), scrapes.join())
    });
    let (rows, scrapes) = (rows?, scrapes.map_err(|_| anyhow!("the thread that counts scrapes has panicked"))??);
    print!("{}{}", report::table(&rows), scrapes.line());
    let path = report::write_json(&rows, &scrapes, &version)?;
    println!("written to {}", path.display());
    Ok(scrapes.is_within() && rows.iter().all(|row| row.verdict() != report::Verdict::Over))
}

fn row(case: &Case, budgets: &Budgets) -> Result<Row> {
    eprintln!("counting {}", case.name);
    let (measured, limit) = (figure(case, "switch")?, figure(case, "limit")?);
    Ok(Row { name: case.name, unit: case.unit, budget: budgets.get(case.name)?, measured, limit })
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
