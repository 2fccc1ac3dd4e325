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

/// A cargo invocation that is not done by then hangs.
const LIMIT: Duration = Duration::from_secs(24 * 60);
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
    for step in [Step::unit(), Step::end_to_end()?] {
        step.run(&skip_log, deadline, &mut tally)?;
    }
    for line in fs::read_to_string(&skip_log)?.lines() {
        tally.skip(line);
    }
    let listed = fs::read_to_string(paths::workspace().join("tests/skips.txt")).context("tests/skips.txt")?;
    print!("{}", tally.report(&listed));
    Ok(tally.is_success(&listed))
}

/// One call of cargo test.
struct Step {
    name: &'static str,
    selection: &'static [&'static str],
    /// cargo's environment variable for what test binaries run under, where they need more than this user may.
    runner: Option<(String, &'static str)>,
}

impl Step {
    /// Everything that needs no privilege: unit and property tests of all packages but this one.
    fn unit() -> Self {
        let selection = &["--workspace", "--exclude", "sidecore-tests"];
        Self { name: "unit and property tests", selection, runner: None }
    }

    /// The tests of this package: guests, namespaces and the built switch. They need root.
    fn end_to_end() -> Result<Self> {
        let runner = if rustix::process::geteuid().is_root() {
            None
        } else {
            Some((format!("CARGO_TARGET_{}_RUNNER", host_triple()?), "sudo -E"))
        };
        Ok(Self { name: "end-to-end tests", selection: &["-p", "sidecore-tests"], runner })
    }

    fn run(self, skip_log: &Path, deadline: Instant, tally: &mut Tally) -> Result<()> {
        println!("==> {}", self.name);
        let seconds = deadline.saturating_duration_since(Instant::now()).as_secs().max(1);
        let mut child = Command::new("timeout")
            .args(["--foreground", "-k", "10", &seconds.to_string()])
            .arg(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["test", "--no-fail-fast"])
            .args(self.selection)
            .envs(self.runner)
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
            tally.fail(&format!("{}: cargo test ended with {status}", self.name));
        }
        Ok(())
    }
}

/// This machine's target in the form of cargo's environment variables.
fn host_triple() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("cannot run rustc")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let triple = text.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    Ok(triple.to_uppercase().replace('-', "_"))
}
