//! Talks to a running switch.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Error, Result, anyhow};

use crate::control::protocol::{Answer, Request, Response};

/// Longer than the switch takes for anything: some devices need seconds to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// More than thousands of ports need. Whatever sends more is no switch.
const MAX_RESPONSE: u64 = 256 << 20;

/// A running switch, by its control socket.
pub(super) struct Client {
    path: PathBuf,
}

impl Client {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Sends a request. What the switch refuses is an error in its own words.
    pub(super) fn ask(&self, request: &Request) -> Result<Answer> {
        Ok(self.begin(request)?.0)
    }

    /// The same for a request after whose response something else follows, for as long as it takes.
    pub(super) fn stream(&self, request: &Request) -> Result<BufReader<UnixStream>> {
        let (answer, stream) = self.begin(request)?;
        stream.get_ref().set_read_timeout(None)?;
        if matches!(answer, Answer::Capturing) { Ok(stream) } else { Err(unexpected()) }
    }

    fn begin(&self, request: &Request) -> Result<(Answer, BufReader<UnixStream>)> {
        let (line, stream) = self.exchange(request).map_err(|error| self.explain(&error))?;
        match serde_json::from_str(&line) {
            Ok(Response::Ok(answer)) => Ok((answer, stream)),
            Ok(Response::Error(text)) => Err(Error::msg(text)),
            Err(error) => Err(anyhow!(
                "{} answered what this sidecore {} does not understand: {error}; use the sidecore that was started there",
                self.path.display(),
                env!("CARGO_PKG_VERSION"),
            )),
        }
    }

    fn exchange(&self, request: &Request) -> io::Result<(String, BufReader<UnixStream>)> {
        let mut stream = UnixStream::connect(&self.path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut text = serde_json::to_vec(request)?;
        text.push(b'\n');
        stream.write_all(&text)?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        (&mut stream).take(MAX_RESPONSE).read_line(&mut line)?;
        if line.ends_with('\n') { Ok((line, stream)) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn explain(&self, error: &io::Error) -> Error {
        let path = self.path.display();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => anyhow!(
                "no switch runs on the control socket {path}: {error}; start one with `sidecore run --config FILE`, or \
                 name its socket with --control"
            ),
            io::ErrorKind::PermissionDenied => anyhow!(
                "this user may not control the switch on {path}: {error}; use sudo, or let a group of this user's in \
                 with switch.control_socket_group"
            ),
            io::ErrorKind::WouldBlock => anyhow!(
                "the switch on {path} did not answer within {} s; its log says what it is doing",
                PATIENCE.as_secs()
            ),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                anyhow!("the switch on {path} closed the connection; it may be stopping: see its log")
            }
            _ => anyhow!("the control socket {path} cannot be used: {error}; name another one with --control"),
        }
    }
}

/// A response of another kind than the request's.
pub(super) fn unexpected() -> Error {
    anyhow!("the switch answered something else than was asked; use the sidecore that was started there")
}
