//! A running `sidecore`, as its user starts, asks and stops it.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

use super::{Port, Status, SwitchConfig};
use crate::paths;
use crate::process::{Process, eventually, run};

/// A switch that is asked to stop is gone within this.
pub const SWITCH_STOP_LIMIT: Duration = Duration::from_secs(1);

const READY_DEADLINE: Duration = Duration::from_secs(20);
const COMMAND_DEADLINE: Duration = Duration::from_secs(30);

/// A running switch. Dropping it ends it; [`stop`](Self::stop) also checks how it ends.
#[derive(Debug)]
pub struct SwitchProcess {
    process: Process,
    config_file: PathBuf,
    control: PathBuf,
}

impl SwitchProcess {
    /// A folder for a switch's sockets, configuration and log. Its path is short, as socket paths must be.
    pub fn folder() -> Result<TempDir> {
        Ok(tempfile::Builder::new().prefix("sidecore-test-").tempdir()?)
    }

    /// Starts a switch on `config` and waits until it answers on its control socket.
    pub fn start(config: &SwitchConfig) -> Result<Self> {
        let control = config.control_socket();
        let dir = control.parent().unwrap_or(Path::new("/")).to_owned();
        let file = dir.join("sidecore.toml");
        std::fs::write(&file, config.to_toml())?;
        Self::start_file(&file, &control, &dir.join("sidecore.log"))
    }

    /// Starts a switch on a configuration file that names `control` as its control socket.
    pub fn start_file(file: &Path, control: &Path, log: &Path) -> Result<Self> {
        let args = ["run".as_ref(), "--config".as_ref(), file.as_os_str()];
        let process = Process::spawn("sidecore", paths::sidecore()?, args, log)?;
        let mut me = Self { process, config_file: file.to_owned(), control: control.to_owned() };
        me.wait_ready()?;
        Ok(me)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let control = self.control.clone();
        self.process.wait_until("answer on the control socket", READY_DEADLINE, |_| {
            // A socket that is there but not yet served makes the first call fail: look again.
            Ok((control.exists() && cli(&control, &["status"])?.status.success()).then_some(()))
        })
    }

    /// Runs a subcommand that talks to this switch, whatever its exit status.
    pub fn cli(&self, args: &[&str]) -> Result<Output> {
        cli(&self.control, args)
    }

    /// Runs a subcommand that must succeed, and returns what it printed.
    pub fn must(&self, args: &[&str]) -> Result<String> {
        let output = self.cli(args)?;
        if !output.status.success() {
            bail!("sidecore {} failed: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What the switch says about itself.
    pub fn status(&self) -> Result<Status> {
        Status::parse(&self.must(&["status", "--json"])?)
    }

    /// Waits until a port satisfies `condition`.
    pub fn wait_for_port(&self, name: &str, what: &str, condition: impl Fn(&Port) -> bool) -> Result<Port> {
        eventually(&format!("{what} at port {name}"), READY_DEADLINE, || {
            let status = self.status()?;
            Ok(status.ports.into_iter().find(|port| port.name == name && condition(port)))
        })
        .with_context(|| self.process.tail())
    }

    /// Waits until the accounting identity holds with nothing in flight; then returns the status.
    pub fn quiet_status(&self) -> Result<Status> {
        eventually("quiet moment in the accounting", Duration::from_secs(20), || {
            let status = self.status()?;
            let quiet = status.accounting.in_flight == 0 && status.accounting.unaccounted() == 0;
            Ok(quiet.then_some(status))
        })
        .with_context(|| format!("{:?}", self.status().map(|status| status.accounting)))
    }

    /// The configuration file, for tests that change it and reload.
    #[must_use]
    pub fn config_file(&self) -> &Path {
        &self.config_file
    }

    /// Sends the switch a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Everything the switch has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.output()
    }

    /// Stops the switch with SIGTERM. It must end with status 0, within a second, and take its control socket along.
    pub fn stop(self) -> Result<()> {
        self.stop_with(Signal::TERM)
    }

    /// The same with another signal.
    pub fn stop_with(mut self, signal: Signal) -> Result<()> {
        let (status, took) = self.process.stop(signal, SWITCH_STOP_LIMIT * 10)?;
        ensure!(status.success(), "sidecore ended with {status}\n{}", self.process.tail());
        ensure!(took < SWITCH_STOP_LIMIT, "sidecore took {took:?} to stop");
        ensure!(!self.control.exists(), "sidecore left {} behind", self.control.display());
        Ok(())
    }

    /// Ends the switch as `kill -9` does: what it leaves behind stays.
    pub fn kill(mut self) -> Result<()> {
        self.process.kill()
    }
}

impl Drop for SwitchProcess {
    fn drop(&mut self) {
        // The way that leaves nothing behind, unless the switch is too broken for it; then Process kills it.
        if self.process.exited().is_ok_and(|status| status.is_none()) {
            let _ = self.process.stop(Signal::TERM, SWITCH_STOP_LIMIT * 2);
        }
    }
}

fn cli(control: &Path, args: &[&str]) -> Result<Output> {
    let binary = paths::sidecore()?;
    let mut command = vec![binary.as_os_str()];
    command.extend(args.iter().map(std::ffi::OsStr::new));
    command.extend(["--control".as_ref(), control.as_os_str()]);
    run(&command, COMMAND_DEADLINE)
}
