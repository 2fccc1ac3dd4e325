//! Runs the whole test suite through cargo, and says how many tests ran and how many were skipped.
//!
//! A skip that is not in tests/skips.txt, with its reason, is a failure.
#![forbid(unsafe_code)]

mod tally;

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use sidecore_tests::{paths, rules};
use tally::Tally;

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
    let ahead = has_valgrind().then(build_ahead).transpose()?;
    Step::tests().run(&skip_log, deadline, &mut tally)?;
    if let Some(build) = ahead {
        end(build)?;
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

fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Begins to build what the instruction budgets need, beside the tests: where these wait, CPUs are free. It runs only where nobody else would, so no test has
/// to wait for it.
fn build_ahead() -> Result<Child> {
    Command::new("setpriv")
        .args(["--pdeathsig", "TERM", "--", "chrt", "--idle", "0"])
        .arg(cargo())
        .args(["build", "--quiet", "--release", "-p", "sidecore-bench"])
        .current_dir(paths::workspace())
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .context("cannot run cargo")
}

/// The next step builds what is missing, and says so if it cannot be built. On a machine that others keep busy, that is all.
fn end(mut build: Child) -> Result<()> {
    if build.try_wait()?.is_none() {
        kill_process_group(Pid::from_child(&build), Signal::KILL)?;
        build.wait()?;
    }
    Ok(())
}

/// One call of cargo.
struct Step {
    name: &'static str,
    command: &'static str,
    arguments: Vec<&'static str>,
}

impl Step {
    /// All tests of all packages, whichever fails: one invocation, so that everything is compiled once, with the same features. As root,
    /// which the end-to-end tests have to be: guests, namespaces and the built switch.
    fn tests() -> Self {
        let mut arguments = vec!["--workspace", "--no-fail-fast"];
        if !rustix::process::geteuid().is_root() {
            arguments.extend(["--config", "target.'cfg(unix)'.runner='sudo -E'"]);
        }
        Self { name: "tests", command: "test", arguments }
    }

    /// What a packet may cost in instructions: one check for all figures.
    fn budgets() -> Self {
        let arguments = vec!["--release", "-p", "sidecore-bench"];
        Self { name: "instruction budgets", command: "run", arguments }
    }

    fn run(self, skip_log: &Path, deadline: Instant, tally: &mut Tally) -> Result<()> {
        println!("==> {}", self.name);
        let seconds = deadline.saturating_duration_since(Instant::now()).as_secs().max(1);
        // A test that hangs is ended with all its children, and so is everything when this process is interrupted.
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--", "timeout", "-k", "10", &seconds.to_string()])
            .arg(cargo())
            .arg(self.command)
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
            tally.fail(&format!("{}: cargo {} ended with {status}", self.name, self.command));
        }
        if status.success() && self.command == "run" {
            tally.pass();
        }
        Ok(())
    }
}
