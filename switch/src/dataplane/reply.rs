//! An I/O core's answer to a question of another thread.
//!
//! Question and answer share a place for the answer, which the asking thread has made and frees: it takes the answer once the core has let go of that place, and
//! where it has no more time to wait, the place is kept until somebody who has sees that. So a core neither frees memory of others nor
//! waits for anybody. Giving an answer is a store and, where the asking thread sleeps, a system call: cores do it between bursts.

use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// The places of answers that nobody waited for, until their cores have let go of them.
static LEFT: Mutex<Vec<Arc<dyn Any + Send + Sync>>> = Mutex::new(Vec::new());

/// Looks at a place that its core is about to let go of, and how long to sleep between further ones.
const LOOKS: u32 = 1000;
const LET_GO: Duration = Duration::from_micros(20);

/// Where an answer goes. Dropped without one, it says that there will be none.
pub(super) struct Reply<T>(Arc<Place<T>>);

/// What an answer is waited for with, by the thread that has made it.
pub(super) struct Answer<T: Send + 'static>(Option<Arc<Place<T>>>);

struct Place<T> {
    /// Never contended: the asking thread looks after the core has let go.
    answer: Mutex<Option<T>>,
    /// Whether there will be no more.
    is_over: AtomicBool,
    asker: Thread,
}

/// A place for one answer, which this thread will wait for.
pub(super) fn reply<T: Send + 'static>() -> (Reply<T>, Answer<T>) {
    let place = Place { answer: Mutex::new(None), is_over: AtomicBool::new(false), asker: thread::current() };
    let place = Arc::new(place);
    (Reply(Arc::clone(&place)), Answer(Some(place)))
}

impl<T> Reply<T> {
    /// Answers. It is seen when this is dropped.
    pub(super) fn give(&self, answer: T) {
        if let Ok(mut place) = self.0.answer.try_lock() {
            *place = Some(answer);
        }
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        // Release: pairs with the asking thread's Acquire.
        self.0.is_over.store(true, Ordering::Release);
        self.0.asker.unpark();
    }
}

impl<T: Send + 'static> Answer<T> {
    /// Waits for the answer. `None`: there is none.
    pub(super) fn wait(self) -> Option<T> {
        self.wait_until(None)
    }

    /// The same for so long at most.
    pub(super) fn wait_for(self, limit: Duration) -> Option<T> {
        self.wait_until(Some(Instant::now() + limit))
    }

    /// Whether there is nothing left to wait for.
    pub(super) fn is_over(&self) -> bool {
        self.0.as_ref().is_none_or(|place| place.is_over.load(Ordering::Acquire))
    }

    fn wait_until(mut self, end: Option<Instant>) -> Option<T> {
        while !self.is_over() {
            match end.map(|end| end.saturating_duration_since(Instant::now())) {
                None => thread::park(),
                Some(Duration::ZERO) => return None,
                Some(left) => thread::park_timeout(left),
            }
        }
        let mut place = self.0.take()?;
        // The core is about to let go of it. Where that takes long, this thread may be what keeps it from its CPU (one of a real-time class
        // does, however often it yields), and has to sleep.
        for looks in 0u32.. {
            match Arc::try_unwrap(place) {
                Ok(place) => return place.answer.into_inner().unwrap_or_else(PoisonError::into_inner),
                Err(shared) => place = shared,
            }
            if looks < LOOKS { std::hint::spin_loop() } else { thread::sleep(LET_GO) }
        }
        None
    }
}

impl<T: Send + 'static> Drop for Answer<T> {
    fn drop(&mut self) {
        let Some(place) = self.0.take() else { return };
        let mut left = left();
        left.push(place);
        left.retain(|place| Arc::strong_count(place) > 1);
    }
}

fn left() -> MutexGuard<'static, Vec<Arc<dyn Any + Send + Sync>>> {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::thread::ThreadId;

    /// Says which thread freed it.
    struct Freed(std::sync::mpsc::Sender<ThreadId>);

    impl Drop for Freed {
        fn drop(&mut self) {
            let _ = self.0.send(thread::current().id());
        }
    }

    #[test]
    fn an_answer_arrives() {
        for _ in 0..1000 {
            let (reply, answer) = reply();
            let core = thread::spawn(move || reply.give(7));
            assert_eq!(answer.wait(), Some(7));
            core.join().unwrap();
        }
    }

    #[test]
    fn there_may_be_none() {
        let (reply, answer) = reply::<u8>();
        let core = thread::spawn(move || drop(reply));
        assert_eq!(answer.wait(), None);
        core.join().unwrap();
        let (_reply, answer) = super::reply::<u8>();
        assert_eq!(answer.wait_for(Duration::from_millis(1)), None);
    }

    #[test]
    fn what_nobody_waited_for_is_not_freed_by_the_core() {
        let (told, freed) = channel();
        let (reply, answer) = reply();
        assert!(answer.wait_for(Duration::ZERO).is_none());
        let core = thread::spawn(move || reply.give(Freed(told)));
        let id = core.thread().id();
        core.join().unwrap();
        // The next one that is given up finds it.
        drop(super::reply::<()>().1);
        let by = freed.recv_timeout(Duration::from_secs(20)).expect("it is freed");
        assert_ne!(by, id);
    }
}
