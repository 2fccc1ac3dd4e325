//! Runs the whole test suite through cargo, and says how many tests ran and how many were skipped.
//!
//! A skip that is not in tests/skips.txt, with its reason, is a failure.
#![forbid(unsafe_code)]

mod tally;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sidecore_tests::{paths, rules};
use tally::Tally;

/// All tests, whichever fails.
const TEST: &[&str] = &["test", "--no-fail-fast"];

/// A cargo invocation that is not done by then hangs.
const LIMIT: Duration = Duration::from_secs(40 * 60);
const LIMIT_FULL: Duration = Duration::from_secs(3 * 60 * 60);

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("run-tests: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    let skip_log = paths::target("tests")?.join("skips.log");
    fs::write(&skip_log, "")?;

    let deadline = Instant::now() + if rules::full() { LIMIT_FULL } else { LIMIT };
    let mut tally = Tally::default();
    for step in [Step::unit(), Step::end_to_end()] {
        step.run(&skip_log, deadline, &mut tally)?;
    }
    if has_valgrind() {
        Step::budgets().run(&skip_log, deadline, &mut tally)?;
    } else {
        // Skipped tests are passed ones to libtest, and are taken off.
        tally.pass();
        tally.skip("instruction_budgets: valgrind cannot be installed");
    }
    for line in fs::read_to_string(&skip_log)?.lines() {
        tally.skip(line);
    }
    let listed = fs::read_to_string(paths::workspace().join("tests/skips.txt")).context("tests/skips.txt")?;
    print!("{}", tally.report(&listed));
    Ok(tally.is_success(&listed))
}

fn has_valgrind() -> bool {
    Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// One call of cargo.
struct Step {
    name: &'static str,
    command: &'static [&'static str],
    arguments: Vec<&'static str>,
}

impl Step {
    /// Everything that needs no privilege: unit and property tests of all packages but this one.
    fn unit() -> Self {
        let arguments = vec!["--workspace", "--exclude", "sidecore-tests"];
        Self { name: "unit and property tests", command: TEST, arguments }
    }

    /// The tests of this package: guests, namespaces and the built switch. They need root.
    fn end_to_end() -> Self {
        let mut arguments = vec!["-p", "sidecore-tests"];
        if !rustix::process::geteuid().is_root() {
            arguments.extend(["--config", "target.'cfg(unix)'.runner='sudo -E'"]);
        }
        Self { name: "end-to-end tests", command: TEST, arguments }
    }

    /// What a packet may cost in instructions: one check for all figures.
    fn budgets() -> Self {
        let arguments = vec!["-p", "sidecore", "--bench", "instructions"];
        Self { name: "instruction budgets", command: &["bench"], arguments }
    }

    fn run(self, skip_log: &Path, deadline: Instant, tally: &mut Tally) -> Result<()> {
        println!("==> {}", self.name);
        let seconds = deadline.saturating_duration_since(Instant::now()).as_secs().max(1);
        // A test that hangs is ended with all its children, and so is everything when this process is interrupted.
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--", "timeout", "-k", "10", &seconds.to_string()])
            .arg(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(self.command)
            .args(&self.arguments)
            .env(rules::SKIP_LOG, skip_log)
            .current_dir(paths::workspace())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run cargo")?;
        let stdout = child.stdout.take().context("no output from cargo")?;
        let failed_before = tally.failed;
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            println!("{line}");
            tally.read(&line);
        }
        let status = child.wait()?;
        // A test binary that does not compile, crashes or hangs prints no result of its own.
        if !status.success() && tally.failed == failed_before {
            tally.fail(&format!("{}: cargo {} ended with {status}", self.name, self.command[0]));
        }
        if status.success() && self.command != TEST {
            tally.pass();
        }
        Ok(())
    }
}
