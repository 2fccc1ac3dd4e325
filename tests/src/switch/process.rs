//! A running `sidecore`, as its user starts, asks and stops it.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::{Port, Status, SwitchConfig};
use crate::paths;
use crate::process::{Process, eventually, run};

const READY_DEADLINE: Duration = Duration::from_secs(60);
const COMMAND_DEADLINE: Duration = Duration::from_secs(30);
const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// How long one is waited for that a failed test leaves behind.
const LEFT_DEADLINE: Duration = Duration::from_secs(5);

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
        Self::start_as(&[paths::sidecore()?.into()], config)
    }

    /// The same without the wait, so that several can start together: [`ready`](Self::ready) waits.
    pub fn launch(config: &SwitchConfig) -> Result<Self> {
        Self::launch_as(&[paths::sidecore()?.into()], config)
    }

    /// The same as [`start`](Self::start) with another command in place of `sidecore`, which is given as a program and its first arguments.
    pub fn start_as(command: &[OsString], config: &SwitchConfig) -> Result<Self> {
        let mut me = Self::launch_as(command, config)?;
        me.ready()?;
        Ok(me)
    }

    fn launch_as(command: &[OsString], config: &SwitchConfig) -> Result<Self> {
        let control = config.control_socket();
        let dir = control.parent().unwrap_or(Path::new("/")).to_owned();
        let file = dir.join("sidecore.toml");
        std::fs::write(&file, config.to_toml())?;
        Self::launch_command(command, &file, &control, &dir.join("sidecore.log"))
    }

    /// Starts a switch on a configuration file that names `control` as its control socket.
    pub fn start_file(file: &Path, control: &Path, log: &Path) -> Result<Self> {
        let mut me = Self::launch_command(&[paths::sidecore()?.into()], file, control, log)?;
        me.ready()?;
        Ok(me)
    }

    fn launch_command(command: &[OsString], file: &Path, control: &Path, log: &Path) -> Result<Self> {
        let (program, first) = command.split_first().context("no command")?;
        let more = ["run".as_ref(), "--config".as_ref(), file.as_os_str()];
        let args = first.iter().map(OsString::as_os_str).chain::<[&OsStr; 3]>(more);
        let process = Process::spawn("sidecore", program, args, log)?;
        Ok(Self { process, config_file: file.to_owned(), control: control.to_owned() })
    }

    /// Waits until it answers on its control socket.
    pub fn ready(&mut self) -> Result<()> {
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

    /// Sends a request on the control socket, without a process of its own, and returns the answer. What the switch refuses is an
    /// error in its own words.
    pub fn ask(&self, request: &Value) -> Result<Value> {
        let mut stream = UnixStream::connect(&self.control)?;
        stream.set_read_timeout(Some(COMMAND_DEADLINE))?;
        stream.write_all(format!("{request}\n").as_bytes())?;
        let mut line = String::new();
        let failed = || format!("no answer to {request} within {COMMAND_DEADLINE:?}");
        BufReader::new(stream).read_line(&mut line).with_context(failed)?;
        let mut answer: Value = serde_json::from_str(&line).with_context(|| format!("{request}: {line:?}"))?;
        match answer["error"].as_str() {
            Some(error) => bail!("{error}"),
            None => Ok(answer["ok"].take()),
        }
    }

    /// What the switch says about itself.
    pub fn status(&self) -> Result<Status> {
        Status::parse(&self.must(&["status", "--json"])?)
    }

    /// CPU time of one of its threads up to now.
    pub fn thread_time(&self, name: &str) -> Result<Duration> {
        // The first number is the time spent on a CPU, in nanoseconds.
        let stat = self.of_thread(name, "schedstat")?;
        let ns = stat.split_whitespace().next().and_then(|ns| ns.parse().ok()).context("no time in schedstat")?;
        Ok(Duration::from_nanos(ns))
    }

    /// How often one of its threads has given its CPU up, or lost it, up to now: a thread that sleeps all the time does not.
    pub fn thread_switches(&self, name: &str) -> Result<u64> {
        let status = self.of_thread(name, "status")?;
        let switches = status.lines().filter(|line| line.contains("ctxt_switches:"));
        let count = |line: &str| line.split_whitespace().last().and_then(|count| count.parse::<u64>().ok());
        switches.map(|line| count(line).context("no number of switches")).sum()
    }

    /// What the kernel says of one of its threads in a file of its folder.
    pub fn of_thread(&self, name: &str, file: &str) -> Result<String> {
        for task in std::fs::read_dir(format!("/proc/{}/task", self.process.pid()))? {
            let task = task?.path();
            if std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name) {
                return Ok(std::fs::read_to_string(task.join(file))?);
            }
        }
        bail!("the switch has no thread {name}")
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
        eventually("quiet moment in the accounting", READY_DEADLINE, || {
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

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The end of what it has logged, for an error message.
    #[must_use]
    pub fn tail(&self) -> String {
        self.process.tail()
    }

    /// Everything the switch has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.output()
    }

    /// Stops the switch with SIGTERM. It must end with status 0, and take its control socket along.
    pub fn stop(self) -> Result<()> {
        self.stop_with(Signal::TERM).map(drop)
    }

    /// The same with another signal. Returns how long it took.
    pub fn stop_with(mut self, signal: Signal) -> Result<Duration> {
        let (status, took) = self.process.stop(signal, STOP_DEADLINE)?;
        ensure!(status.success(), "sidecore ended with {status}\n{}", self.process.tail());
        ensure!(!self.control.exists(), "sidecore left {} behind", self.control.display());
        Ok(took)
    }

    /// The same, which must not take longer than `limit`.
    pub fn stop_within(self, signal: Signal, limit: Duration) -> Result<()> {
        let took = self.stop_with(signal)?;
        ensure!(took < limit, "sidecore took {took:?} to stop");
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
            // One that is halted would not hear of it.
            let _ = self.signal(Signal::CONT);
            let _ = self.process.stop(Signal::TERM, LEFT_DEADLINE);
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
