//! Anything a shell command can run on: a QEMU guest or a network namespace. Traffic helpers work between any two.

use std::time::Duration;

use anyhow::{Result, bail};

/// What a command printed and how it ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Exit status; 128 + signal number when a signal ended it.
    pub status: i32,
    /// Standard output and standard error, as they came.
    pub output: String,
}

/// A machine, or what looks like one from its network.
pub trait Host {
    /// A name for error messages.
    fn name(&self) -> &str;

    /// Runs a shell script to its end. An error means that it could not be run, or did not end in time.
    fn exec(&self, script: &str, timeout: Duration) -> Result<Outcome>;

    /// Runs a script that must end with status 0 within a minute, and returns what it printed.
    fn sh(&self, script: &str) -> Result<String> {
        self.sh_within(script, Duration::from_secs(60))
    }

    /// Runs a script that must end with status 0 in time, and returns what it printed.
    fn sh_within(&self, script: &str, timeout: Duration) -> Result<String> {
        let outcome = self.exec(script, timeout)?;
        if outcome.status != 0 {
            bail!("{}: `{script}` ended with status {}: {}", self.name(), outcome.status, outcome.output.trim());
        }
        Ok(outcome.output)
    }
}
