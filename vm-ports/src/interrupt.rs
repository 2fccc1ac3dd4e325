//! Frees a thread from a system call that a frontend makes it wait in.
//!
//! O_NONBLOCK belongs to an open file, not to a descriptor: a frontend can clear it on a call eventfd after the session has set it, and
//! fill the counter. The next call then waits for as long as the frontend likes, and `eventfd` has no other way to be written. So
//! whoever sees that a thread stands still interrupts it; what it waited for ends in `EINTR`, and the writer gives that eventfd up.

use std::os::unix::thread::JoinHandleExt;
use std::sync::OnceLock;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A thread that was told to end has this long to do so by itself.
const GRACE: Duration = Duration::from_millis(20);
/// Between looks whether it has.
const LOOK: Duration = Duration::from_micros(100);

/// Ignored where nobody handles it, and sent by the kernel only to those who asked for it.
const SIGNAL: libc::c_int = libc::SIGURG;

/// Ends the system call that `thread` waits in, if it does; nothing happens to a thread that runs.
pub fn interrupt<T>(thread: &JoinHandle<T>) {
    static HANDLER: OnceLock<()> = OnceLock::new();
    HANDLER.get_or_init(install_handler);
    // SAFETY: the handle has neither been joined nor dropped, so its pthread_t is still that thread's, running or ended; and
    // the signal has a handler that does nothing.
    unsafe { libc::pthread_kill(thread.as_pthread_t(), SIGNAL) };
}

/// Joins a thread that was told to end, and frees it when it waits instead: in a call, or in the close of a descriptor that a
/// frontend sent (a socket's can take as long as its sender likes).
pub fn join<T>(thread: JoinHandle<T>) -> std::thread::Result<T> {
    wait(&thread, None);
    thread.join()
}

/// Waits for a thread that was told to end, until `deadline`, and frees it as [`join`] does. Returns whether it has ended.
///
/// No signal frees a thread that closes a file on FUSE, not even one that kills: that is over when the file's server says so.
#[must_use]
pub(crate) fn ends_by<T>(thread: &JoinHandle<T>, deadline: Instant) -> bool {
    wait(thread, Some(deadline));
    thread.is_finished()
}

fn wait<T>(thread: &JoinHandle<T>, deadline: Option<Instant>) {
    let start = Instant::now();
    while !thread.is_finished() && deadline.is_none_or(|deadline| Instant::now() < deadline) {
        if start.elapsed() > GRACE {
            interrupt(thread);
        }
        std::thread::sleep(LOOK);
    }
}

fn install_handler() {
    // SAFETY: an all-zero sigaction is a valid value. Without SA_RESTART, which is the point: a call that is interrupted
    // must return. The handler does nothing, which is async-signal-safe.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as *const () as usize;
        libc::sigaction(SIGNAL, &raw const action, std::ptr::null_mut());
    }
}

extern "C" fn on_signal(_: libc::c_int) {}

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    #[test]
    fn a_write_that_waits_is_over() {
        let full = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        let thread = std::thread::spawn(move || rustix::io::write(&full, &1u64.to_ne_bytes()));
        assert_eq!(join(thread).unwrap(), Err(rustix::io::Errno::INTR));
    }
}
