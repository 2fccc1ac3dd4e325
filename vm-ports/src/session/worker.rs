//! The session's thread: finds a frontend, serves it until one of the two has enough, and finds the next.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::connection::{Connection, Step};
use super::event::{Disconnect, SessionCounters, SessionEvent};
use super::pace::{Backoff, Pace, Waiting};
use super::settings::PortSettings;
use super::socket::{self, Listener};
use super::{Control, QueueHost, Watch, eventfd};

/// Where frontends come from.
pub(super) enum Source {
    Server(Arc<Listener>),
    Client,
}

pub(super) struct Worker {
    pub(super) settings: Arc<PortSettings>,
    pub(super) host: Arc<dyn QueueHost>,
    pub(super) counters: Arc<SessionCounters>,
    pub(super) control: Arc<Control>,
    pub(super) source: Source,
}

impl Worker {
    pub(super) fn run(self) {
        let mut backoff = Backoff::default();
        let mut pace = Pace::new();
        while let Some(socket) = self.next_frontend(&mut backoff) {
            let start = Instant::now();
            self.counters.connections.add(1);
            self.host.event(SessionEvent::Connected);
            let (reason, worth_it) = self.serve(socket, &mut pace);
            self.host.event(SessionEvent::Disconnected { reason, after: start.elapsed() });
            // A peer that connects again and again and never gets anywhere must not fill the log.
            if worth_it {
                backoff.reset();
            } else {
                backoff.raise();
            }
        }
    }

    /// Waits for a frontend; `None` when the session is to stop.
    fn next_frontend(&self, backoff: &mut Backoff) -> Option<UnixStream> {
        if matches!(self.source, Source::Client) || backoff.is_raised() {
            self.rest(backoff.delay());
        }
        let mut last_error = None;
        loop {
            if self.control.is_stopped() {
                return None;
            }
            let found = match &self.source {
                Source::Server(listener) => listener.accept(),
                Source::Client if !self.control.is_link_up() => Ok(None),
                Source::Client => socket::connect(&self.settings.socket).map(Some),
            };
            match found {
                // With the link down a frontend is turned away at once: left in the backlog it would wait for answers.
                Ok(Some(socket)) if self.control.is_link_up() => return Some(socket),
                Ok(Some(_)) => {}
                Ok(None) => self.wait_for_frontend(),
                Err(error) => {
                    if last_error != Some(error.kind()) {
                        last_error = Some(error.kind());
                        self.host.event(SessionEvent::ConnectFailed { error: error.to_string() });
                    }
                    self.rest(backoff.delay());
                    backoff.raise();
                }
            }
        }
    }

    fn wait_for_frontend(&self) {
        let wake = PollFd::new(self.control.wake(), PollFlags::IN);
        match &self.source {
            Source::Server(listener) => {
                poll(&mut [wake, PollFd::new(listener.as_socket(), PollFlags::IN)], None);
            }
            Source::Client => poll(&mut [wake], None),
        }
        eventfd::drain(self.control.wake());
    }

    /// Waits for a while, or until the session is to stop or its link changes.
    fn rest(&self, time: Duration) {
        poll(&mut [PollFd::new(self.control.wake(), PollFlags::IN)], Some(time));
        eventfd::drain(self.control.wake());
    }

    /// Serves a frontend until the end. Tells why it ended, and whether it ever got to traffic.
    fn serve(&self, socket: UnixStream, pace: &mut Pace) -> (Disconnect, bool) {
        let opened = self.open(socket);
        // The connection is dropped first: who waits for its end can shut it down until then.
        let (_watch, mut connection) = match opened {
            Ok(opened) => opened,
            Err(error) => return (Disconnect::Failed(error.to_string()), false),
        };
        pace.begin();
        let reason = loop {
            if let Some(reason) = self.control.reason_to_end() {
                break reason;
            }
            self.wait(&connection, pace);
            if let Some(reason) = serve_messages(&mut connection, pace, &self.control) {
                break reason;
            }
        };
        let worth_it = connection.backend().ever_ran();
        (reason, worth_it)
    }

    fn open(&self, socket: UnixStream) -> io::Result<(Watch<'_>, Connection)> {
        let watch = self.control.watch(&socket)?;
        let (settings, host) = (Arc::clone(&self.settings), Arc::clone(&self.host));
        Ok((watch, Connection::new(socket, settings, host, Arc::clone(&self.counters))?))
    }

    /// Waits for something to do, and reads the kicks.
    fn wait(&self, connection: &Connection, pace: &mut Pace) {
        let backend = connection.backend();
        let (with_kicks, timeout) = pace.plan(Instant::now());
        let mut fds = vec![
            PollFd::new(self.control.wake(), PollFlags::IN),
            PollFd::new(connection.socket(), pace.socket_events()),
        ];
        let fixed = fds.len();
        let mut rings = Vec::new();
        if with_kicks {
            for (ring, file) in backend.rings().kicks() {
                rings.push(ring);
                fds.push(PollFd::new(file, PollFlags::IN));
            }
        }
        poll(&mut fds, timeout);
        let ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        if fds.first().is_some_and(ready) {
            eventfd::drain(self.control.wake());
        }
        pace.hung_up = fds.get(1).is_some_and(|fd| fd.revents().intersects(PollFlags::HUP | PollFlags::ERR));
        for (ring, _) in rings.into_iter().zip(fds.iter().skip(fixed)).filter(|(_, fd)| ready(fd)) {
            backend.rings().count_kicks(ring);
            pace.kicks_seen(Instant::now());
        }
    }
}

/// Handles what messages there are, within the pace. A reason to end the connection ends it.
fn serve_messages(connection: &mut Connection, pace: &mut Pace, control: &Control) -> Option<Disconnect> {
    while control.reason_to_end().is_none() {
        if !pace.may_go_on(Instant::now()) {
            pace.socket = Waiting::Budget;
            return pace.hung_up.then_some(Disconnect::Frontend);
        }
        match connection.step() {
            Step::Done => pace.spend(),
            Step::Over(reason) => return Some(reason),
            Step::Idle => {
                pace.socket = Waiting::Message;
                pace.deadline = None;
                return None;
            }
            stuck @ (Step::Part | Step::NoRoom) => return pace.stuck(&stuck, Instant::now()),
        }
    }
    None
}

/// Waits for any of `fds`. An interruption counts as nothing ready; no other error can happen to descriptors that are open.
fn poll(fds: &mut [PollFd<'_>], timeout: Option<Duration>) {
    let timeout = timeout.and_then(|time| Timespec::try_from(time).ok());
    let _ = rustix::event::poll(fds, timeout.as_ref());
}
