//! The host's end of the guest's serial line: commands go out, their status and output come back.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::host::Outcome;

/// What the guest is given beyond a command's own time limit, to report that it killed the command.
const GRACE: Duration = Duration::from_secs(10);

/// A connection to the agent in `init.sh`.
#[derive(Debug)]
pub(super) struct Console {
    stream: UnixStream,
    received: Vec<u8>,
    next_id: u64,
}

impl Console {
    /// Takes QEMU's connection, if it has come.
    pub(super) fn accept(listener: &UnixListener) -> Result<Option<Self>> {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                Ok(Some(Self { stream, received: Vec::new(), next_id: 0 }))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error).context("no connection from QEMU's serial port"),
        }
    }

    /// True once the agent has said that it listens. Waits for a moment only.
    pub(super) fn is_ready(&mut self) -> Result<bool> {
        let deadline = Instant::now() + Duration::from_millis(50);
        match self.line(deadline)? {
            Some(line) => Ok(line == "ready"),
            None => Ok(false),
        }
    }

    /// Runs a script in the guest.
    pub(super) fn exec(&mut self, script: &str, timeout: Duration) -> Result<Outcome> {
        let id = self.next_id;
        self.next_id += 1;
        let seconds = timeout.as_secs().max(1);
        let request = format!("{id} {seconds} {}\n{script}", script.len());
        self.stream.write_all(request.as_bytes()).context("the guest's serial line is closed")?;

        let deadline = Instant::now() + timeout + GRACE;
        loop {
            let header = self.line(deadline)?.with_context(|| format!("no answer to `{script}`"))?;
            let (answered, status, length) = parse_header(&header)?;
            let output = self.bytes(length, deadline)?.with_context(|| format!("answer to `{script}` is cut short"))?;
            // An answer to an older request, one that was given up, is not ours.
            if answered == id {
                return Ok(Outcome { status, output: String::from_utf8_lossy(&output).into_owned() });
            }
        }
    }

    /// The next line without its end, or nothing when the deadline passes.
    fn line(&mut self, deadline: Instant) -> Result<Option<String>> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
            }
            if !self.receive(deadline)? {
                return Ok(None);
            }
        }
    }

    fn bytes(&mut self, length: usize, deadline: Instant) -> Result<Option<Vec<u8>>> {
        while self.received.len() < length {
            if !self.receive(deadline)? {
                return Ok(None);
            }
        }
        Ok(Some(self.received.drain(..length).collect()))
    }

    /// Adds what has come to `received`. False when the deadline passes first.
    fn receive(&mut self, deadline: Instant) -> Result<bool> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk) {
            Ok(0) => bail!("the guest's serial line is closed"),
            Ok(count) => {
                self.received.extend_from_slice(&chunk[..count]);
                Ok(true)
            }
            // A signal: look at the deadline again.
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(false),
            Err(error) => Err(error).context("cannot read the guest's serial line"),
        }
    }
}

fn parse_header(line: &str) -> Result<(u64, i32, usize)> {
    let fields: Vec<&str> = line.split(' ').collect();
    ensure!(fields.len() == 3, "unexpected line from the guest: {line:?}");
    let context = || format!("unexpected line from the guest: {line:?}");
    Ok((
        fields[0].parse().with_context(context)?,
        fields[1].parse().with_context(context)?,
        fields[2].parse().with_context(context)?,
    ))
}
