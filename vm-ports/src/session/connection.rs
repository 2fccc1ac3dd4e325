//! One frontend's connection: takes its messages one at a time, and answers.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec};
use vhost::vhost_user::message::FrontendReq;
use vhost::vhost_user::{BackendReqHandler, Error as VhostError};

use super::QueueHost;
use super::backend::Backend;
use super::event::{Disconnect, SessionCounters, SessionEvent};
use super::frames::{self, Header, OwnRequest, Peeked};
use super::settings::PortSettings;

/// What came of looking for a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// There is none.
    Idle,
    /// One has begun to arrive.
    Part,
    /// One has arrived, but the peer must first read the answers to earlier ones.
    NoRoom,
    /// One was handled; there may be more.
    Done,
    /// The connection is over.
    Over(Disconnect),
}

pub(super) struct Connection {
    socket: UnixStream,
    backend: Arc<Mutex<Backend>>,
    requests: BackendReqHandler<Mutex<Backend>>,
    host: Arc<dyn QueueHost>,
    counters: Arc<SessionCounters>,
    told_of_refusal: bool,
}

impl Connection {
    pub(super) fn new(
        socket: UnixStream,
        settings: Arc<PortSettings>,
        host: Arc<dyn QueueHost>,
        counters: Arc<SessionCounters>,
    ) -> io::Result<Self> {
        let backend = Backend::new(settings, Arc::clone(&host), Arc::clone(&counters));
        let backend = Arc::new(Mutex::new(backend));
        let requests = BackendReqHandler::from_stream(socket.try_clone()?, Arc::clone(&backend));
        Ok(Self { socket, backend, requests, host, counters, told_of_refusal: false })
    }

    pub(super) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// The session's state. The lock is there because the crate's handler is written for several threads; here is only one.
    pub(super) fn backend(&self) -> MutexGuard<'_, Backend> {
        self.backend.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Handles the next message, if it has arrived. Never waits for the peer.
    pub(super) fn step(&mut self) -> Step {
        let header = match frames::peek(&self.socket) {
            Ok(Peeked::Message(header)) => header,
            Ok(Peeked::Nothing) => return Step::Idle,
            Ok(Peeked::Part) => return Step::Part,
            Ok(Peeked::Closed) => return Step::Over(Disconnect::Frontend),
            Ok(Peeked::Malformed(what)) => return self.refuse(what.to_owned(), false),
            Err(error) => return Step::Over(broken(&error)),
        };
        // The crate's answers are sent with blocking calls: there has to be room for one.
        if !self.has_room() {
            return Step::NoRoom;
        }
        self.counters.requests.add(1);
        if header.is_own() { self.handle_own(&header) } else { self.handle(&header) }
    }

    fn handle(&mut self, header: &Header) -> Step {
        match self.requests.handle_request() {
            Ok(()) => Step::Done,
            Err(VhostError::Disconnected) => Step::Over(Disconnect::Frontend),
            Err(VhostError::SocketBroken(error)) => Step::Over(broken(&error)),
            Err(VhostError::ReqHandlerError(error)) => {
                let answered = header.needs_reply() && self.backend().reply_ack() && has_acknowledgement(header);
                self.refuse(error.to_string(), answered)
            }
            Err(error) => self.refuse(error.to_string(), false),
        }
    }

    fn handle_own(&mut self, header: &Header) -> Step {
        let request = match header.read_own(&self.socket) {
            Ok(Some(request)) => request,
            Ok(None) => return self.refuse("a malformed request".to_owned(), false),
            Err(error) => return Step::Over(broken(&error)),
        };
        let (result, acknowledged) = {
            let mut backend = self.backend();
            let result = match request {
                OwnRequest::SetVringEnable { index, value } => backend.set_vring_enable(index, value),
                OwnRequest::SendRarp(mac) => backend.send_rarp(mac),
                OwnRequest::NetSetMtu(mtu) => backend.net_set_mtu(mtu),
            };
            (result, header.needs_reply() && backend.reply_ack())
        };
        if acknowledged && let Err(error) = header.acknowledge(&self.socket, result.is_ok()) {
            return Step::Over(broken(&error));
        }
        match result {
            Ok(()) => Step::Done,
            Err(refusal) => self.refuse(refusal.to_string(), acknowledged),
        }
    }

    /// Counts a refusal and, the first time, tells of it. A frontend that cannot be told is disconnected: it would go on
    /// in the belief that all is well.
    fn refuse(&mut self, error: String, answered: bool) -> Step {
        self.counters.refused.add(1);
        if !answered {
            return Step::Over(Disconnect::Protocol(error));
        }
        if !std::mem::replace(&mut self.told_of_refusal, true) {
            self.host.event(SessionEvent::RequestRefused { error });
        }
        Step::Done
    }

    fn has_room(&self) -> bool {
        let mut fds = [PollFd::new(&self.socket, PollFlags::OUT)];
        // An error, or a hang-up, is left for the read to find.
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut fds, Some(&at_once)).is_ok_and(|ready| ready > 0)
    }
}

impl Drop for Connection {
    /// The frontend must not see the connection end while a core still holds its rings.
    fn drop(&mut self) {
        self.backend().shut_down();
    }
}

/// Whether a refusal of this request is answered by the crate: those with an answer of their own are not, and after a refused set of
/// protocol features the two sides no longer agree on what an answer is.
fn has_acknowledgement(header: &Header) -> bool {
    ![
        FrontendReq::SET_PROTOCOL_FEATURES,
        FrontendReq::GET_VRING_BASE,
        FrontendReq::GET_INFLIGHT_FD,
        FrontendReq::GET_SHMEM_CONFIG,
        FrontendReq::SET_LOG_BASE,
    ]
    .into_iter()
    .any(|request| header.is(request))
}

fn broken(error: &io::Error) -> Disconnect {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Disconnect::Frontend,
        _ => Disconnect::Protocol(error.to_string()),
    }
}
