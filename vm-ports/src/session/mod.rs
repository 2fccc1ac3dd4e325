//! The vhost-user session of a guest port: one thread that speaks the protocol with one frontend at a time, and hands the queue
//! pairs it makes to whoever runs them.
//!
//! ```text
//! worker      finds a frontend, waits for messages and kicks, ends the connection
//! connection  one message at a time ─┬─ frames   looks at it first; answers what the vhost crate cannot
//!                                    └─ handler  the vhost crate's view of ...
//! backend     ... the session's state: features, memory (slots), rings
//! rings       taken back, changed, handed out again
//! ```
//!
//! A frontend is not trusted: whatever it sends ends in a change of state, a refusal or the end of its connection, and
//! none of these waits for it.

mod backend;
mod connection;
mod error;
mod event;
pub(crate) mod eventfd;
mod frames;
mod handler;
mod offer;
mod pace;
mod rings;
mod settings;
mod slots;
mod socket;
mod worker;

#[cfg(test)]
mod tests;

use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::event::EventfdFlags;

pub use self::error::SessionError;
pub use self::event::{Disconnect, Negotiated, SessionCounters, SessionEvent};
pub use self::settings::{FeatureSwitches, PortSettings, SocketAccess, SocketRole};
use self::socket::Listener;
use self::worker::{Source, Worker};
use crate::counters::QueueCounters;
use crate::queue::QueuePair;

/// What a session needs of whoever runs its queue pairs: the switch, or a test.
///
/// All methods are called on the session's thread.
pub trait QueueHost: Send + Sync {
    /// A queue pair has at least one started ring: place it on an I/O core.
    fn attach(&self, index: usize, pair: QueuePair);

    /// Takes a queue pair back from its core. Returns after the owner's burst boundary, when all that was pulled from the pair
    /// has been completed; `None` if it was never attached.
    fn take_back(&self, index: usize) -> Option<QueuePair>;

    /// The driver has kicked this ring (2n: RX, 2n + 1: TX of queue pair n) so many times, and the kicks are read: whoever waits for one
    /// has to be woken, since its eventfd says nothing of them any more. Must not block.
    fn kicked(&self, ring: usize, kicks: u64) {
        let _ = (ring, kicks);
    }

    /// Whether the host itself reads what drivers kick their transmit rings with, while these are attached: then such a kick does not wake the
    /// session, which leaves them alone.
    fn reads_kicks(&self) -> bool {
        false
    }

    /// Something happened. Must not block.
    fn event(&self, event: SessionEvent);

    /// The counters of a queue pair of this port: the same ones after a reconnect.
    fn counters(&self, index: usize) -> Arc<QueueCounters>;
}

/// Starts a session.
///
/// In server mode the socket exists, with its mode and owner, when this returns. In client mode the frontend need not be there
/// yet.
pub fn spawn(settings: PortSettings, host: Arc<dyn QueueHost>) -> Result<SessionHandle, SessionError> {
    let max = PortSettings::MAX_QUEUE_PAIRS;
    if !(1..=max).contains(&settings.queue_pairs) {
        return Err(SessionError::QueuePairs { asked: settings.queue_pairs, max });
    }
    let control = Arc::new(Control::new().map_err(SessionError::Thread)?);
    socket::check_length(&settings.socket)?;
    let listener = match settings.role {
        SocketRole::Server => Some(Arc::new(Listener::bind(&settings.socket, settings.access)?)),
        SocketRole::Client => None,
    };
    let source = listener.clone().map_or(Source::Client, Source::Server);
    let counters = Arc::new(SessionCounters::default());
    let thread = std::thread::Builder::new().name(format!("vhost-user-{}", settings.name));
    let worker = Worker {
        settings: Arc::new(settings),
        host,
        counters: Arc::clone(&counters),
        control: Arc::clone(&control),
        source,
    };
    let thread = thread.spawn(|| worker.run()).map_err(SessionError::Thread)?;
    Ok(SessionHandle { thread, listener, control, counters })
}

/// A running session. Dropping it tells it to end.
#[derive(Debug)]
pub struct SessionHandle {
    thread: JoinHandle<()>,
    /// In server mode.
    listener: Option<Arc<Listener>>,
    control: Arc<Control>,
    counters: Arc<SessionCounters>,
}

impl SessionHandle {
    /// Takes the port's link up or down. Down means for the guest what pulling a cable means: the connection is closed, on
    /// which frontends show the guest a link that is down, and none is served until it is up again.
    pub fn set_link(&self, up: bool) {
        self.control.link_down.store(!up, Ordering::Release);
        self.control.interrupt(!up);
    }

    /// What the session has counted so far.
    pub fn counters(&self) -> &Arc<SessionCounters> {
        &self.counters
    }

    /// Tells the session to end, without waiting for it: to end several at once. [`SessionHandle::stop`] waits.
    pub fn begin_stop(&self) {
        self.control.stop.store(true, Ordering::Release);
        self.control.interrupt(true);
    }

    /// Takes every queue pair back, closes the connection, removes the socket. Returns when all that is done, or at `deadline`: whether it
    /// is done.
    ///
    /// It is done at once, unless the frontend sent files whose close takes as long as a server of its likes (on FUSE). Then nobody connects
    /// any more, and the socket is gone, but queue pairs are still where they are: the host has to take them itself. The thread ends when
    /// that server lets it, and the process not before.
    #[must_use]
    pub fn stop(&self, deadline: Instant) -> bool {
        self.begin_stop();
        let has_ended = crate::interrupt::ends_by(&self.thread, deadline);
        if let Some(listener) = &self.listener {
            listener.close();
        }
        has_ended
    }
}

impl Drop for SessionHandle {
    fn drop(&mut self) {
        self.begin_stop();
    }
}

/// How others reach the session's thread.
#[derive(Debug)]
struct Control {
    stop: AtomicBool,
    link_down: AtomicBool,
    wake: OwnedFd,
    /// The connection being served, to be shut down under the thread should it wait for the peer all the same.
    connection: Mutex<Option<UnixStream>>,
}

impl Control {
    fn new() -> io::Result<Self> {
        Ok(Self {
            stop: AtomicBool::new(false),
            link_down: AtomicBool::new(false),
            wake: rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            connection: Mutex::new(None),
        })
    }

    fn wake(&self) -> &OwnedFd {
        &self.wake
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn is_link_up(&self) -> bool {
        !self.link_down.load(Ordering::Acquire)
    }

    fn reason_to_end(&self) -> Option<Disconnect> {
        if self.is_stopped() {
            Some(Disconnect::Stopped)
        } else if self.is_link_up() {
            None
        } else {
            Some(Disconnect::LinkDown)
        }
    }

    /// Wakes the thread, and ends what it may be waiting for.
    fn interrupt(&self, shut_down: bool) {
        // A full counter (the only error here) wakes as well.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        if shut_down && let Some(socket) = &*self.connection() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    fn connection(&self) -> MutexGuard<'_, Option<UnixStream>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets others shut `socket` down while the returned value lives.
    fn watch(&self, socket: &UnixStream) -> io::Result<Watch<'_>> {
        *self.connection() = Some(socket.try_clone()?);
        Ok(Watch(self))
    }
}

struct Watch<'a>(&'a Control);

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        *self.0.connection() = None;
    }
}
