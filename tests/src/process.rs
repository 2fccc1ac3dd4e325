//! Child processes that do not outlive their value, with their output kept for whoever has to explain a failure.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// How often a condition is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(10);

/// The same while a process becomes the program that was asked for, and the longest wait for that.
const EXEC_POLL: Duration = Duration::from_micros(200);
const EXEC_LIMIT: Duration = Duration::from_secs(20);

/// Lines of a log that are shown when something failed.
const TAIL_LINES: usize = 60;

/// A running child process. Dropping it kills it; on a panic its log is printed first.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program`, with stdout and stderr going to `log`. The child dies with the thread that starts it, even when
    /// that is killed with SIGKILL: start processes from a thread that lives as long as they are needed.
    pub fn spawn<I, S>(name: &str, program: impl AsRef<OsStr>, args: I, log: &Path) -> Result<Self>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let out = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
        let err = out.try_clone()?;
        let program = program.as_ref();
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(out)
            .stderr(err)
            // A Ctrl-C at the terminal is for us; we then end our children in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let me = Self { name: name.to_owned(), child, log: log.to_owned() };
        me.wait_for_program()?;
        Ok(me)
    }

    /// Waits until setpriv has become the program: before that a signal would end setpriv, and /proc would tell of it.
    fn wait_for_program(&self) -> Result<()> {
        let deadline = Instant::now() + EXEC_LIMIT;
        while !self.has_begun() {
            ensure!(Instant::now() < deadline, "{} did not begin within {EXEC_LIMIT:?}\n{}", self.name, self.tail());
            std::thread::sleep(EXEC_POLL);
        }
        Ok(())
    }

    /// Whether setpriv has become the program, which may have ended since.
    fn has_begun(&self) -> bool {
        let proc = Path::new("/proc").join(self.pid().to_string());
        // Of a process that has ended nothing can be read.
        let Ok(exe) = std::fs::read_link(proc.join("exe")) else { return true };
        // Linux puts the program in setpriv's place first, and its arguments later.
        !exe.ends_with("setpriv") && std::fs::read(proc.join("cmdline")).is_ok_and(|line| !line.is_empty())
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The child's standard input.
    pub fn stdin(&mut self) -> Result<&mut ChildStdin> {
        self.child.stdin.as_mut().context("standard input is closed")
    }

    /// Writes one line to the child's standard input.
    pub fn say(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin()?;
        stdin.write_all(line.as_bytes())?;
        stdin.write_all(b"\n")?;
        stdin.flush()?;
        Ok(())
    }

    /// Ends the child's standard input.
    pub fn close_stdin(&mut self) {
        self.child.stdin = None;
    }

    /// All the process has printed up to now.
    #[must_use]
    pub fn output(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The exit status if the process has ended.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// An error with the end of the log, if the process has ended.
    pub fn ensure_running(&mut self) -> Result<()> {
        if let Some(status) = self.exited()? {
            bail!("{} ended ({status})\n{}", self.name, self.tail());
        }
        Ok(())
    }

    /// Waits until `condition` holds. Fails when the process ends or `timeout` passes.
    pub fn wait_until<T>(
        &mut self,
        what: &str,
        timeout: Duration,
        mut condition: impl FnMut(&mut Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(value) = condition(self)? {
                return Ok(value);
            }
            self.ensure_running()?;
            ensure!(Instant::now() < deadline, "{}: no {what} within {timeout:?}\n{}", self.name, self.tail());
            std::thread::sleep(POLL);
        }
    }

    /// Waits until the output contains `text`.
    pub fn wait_for_output(&mut self, text: &str, timeout: Duration) -> Result<()> {
        self.wait_until(&format!("{text:?} in its output"), timeout, |me| Ok(me.output().contains(text).then_some(())))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Waits for the end of the process and returns its status and how long that took.
    pub fn wait(&mut self, timeout: Duration) -> Result<(ExitStatus, Duration)> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.exited()? {
                return Ok((status, begin.elapsed()));
            }
            ensure!(begin.elapsed() < timeout, "{} did not end within {timeout:?}\n{}", self.name, self.tail());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends `signal` and waits for the end.
    pub fn stop(&mut self, signal: Signal, timeout: Duration) -> Result<(ExitStatus, Duration)> {
        self.signal(signal)?;
        self.wait(timeout)
    }

    /// Ends the process at once, as `kill -9` does.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// The last lines of the log, for an error message.
    #[must_use]
    pub fn tail(&self) -> String {
        let output = self.output();
        let lines: Vec<&str> = output.lines().collect();
        let shown = lines.len().saturating_sub(TAIL_LINES);
        format!("--- last output of {}:\n{}", self.name, lines[shown..].join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.tail());
        }
        // Already gone is as good as killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command to its end and returns its output, whatever its status. Kills it, and its children, after `timeout`.
pub fn run<S: AsRef<OsStr>>(args: &[S], timeout: Duration) -> Result<Output> {
    let shown = || args.iter().map(|arg| arg.as_ref().to_string_lossy()).collect::<Vec<_>>().join(" ");
    let begin = Instant::now();
    let output = Command::new("timeout")
        .args(["-s", "KILL", &format!("{:.3}", timeout.as_secs_f64())])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", shown()))?;
    let killed = output.status.signal() == Some(9) || output.status.code() == Some(137);
    ensure!(!(killed && begin.elapsed() >= timeout), "no end within {timeout:?}: {}", shown());
    Ok(output)
}

/// Runs a command that must succeed, and returns what it printed.
pub fn must<S: AsRef<OsStr>>(args: &[S]) -> Result<String> {
    let output = run(args, Duration::from_secs(30))?;
    if !output.status.success() {
        let shown: Vec<_> = args.iter().map(|arg| arg.as_ref().to_string_lossy()).collect();
        bail!("{} failed ({}): {}", shown.join(" "), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Looks again and again until `condition` gives a value; the error names `what` was waited for.
pub fn eventually<T>(what: &str, timeout: Duration, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        ensure!(Instant::now() < deadline, "no {what} within {timeout:?}");
        std::thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_gone_when_its_value_is() {
        let dir = tempfile::tempdir().unwrap();
        let process = Process::spawn("sleeper", "sleep", ["60"], &dir.path().join("log")).unwrap();
        let command = std::fs::read(format!("/proc/{}/cmdline", process.pid())).unwrap();
        assert_eq!(command, b"sleep\x0060\0", "it is the program as soon as it has a value");
        let proc_dir = PathBuf::from(format!("/proc/{}", process.pid()));
        assert!(proc_dir.exists());
        drop(process);
        assert!(!proc_dir.exists());
    }

    #[test]
    fn output_can_be_waited_for_and_an_early_end_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut cat = Process::spawn("cat", "cat", ["-"], &dir.path().join("log")).unwrap();
        cat.say("hello").unwrap();
        cat.wait_for_output("hello", Duration::from_secs(5)).unwrap();

        let mut ended = Process::spawn("false", "false", [""; 0], &dir.path().join("log2")).unwrap();
        let error = ended.wait_for_output("never", Duration::from_secs(5)).unwrap_err();
        assert!(error.to_string().contains("false ended"), "{error}");
    }

    #[test]
    fn a_command_that_hangs_is_killed() {
        let error = run(&["sleep", "30"], Duration::from_millis(100)).unwrap_err();
        assert!(error.to_string().contains("no end within"), "{error}");
        assert_eq!(run(&["sh", "-c", "exit 3"], Duration::from_secs(5)).unwrap().status.code(), Some(3));
    }
}
