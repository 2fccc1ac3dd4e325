//! What an I/O core sleeps in.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use arrayvec::ArrayVec;
use config::Mode;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::Timespec;

use super::super::accounting::SourceId;

/// A core of mode `adaptive` that found nothing looks again at once for so long, in microseconds. About what waking up costs.
const SPIN_US: u64 = 50;
/// Until so long after it found something it pauses between looks, for its CPU's other thread; then it sleeps.
const PAUSE_US: u64 = 200;
/// Kicks learnt of at once.
const EVENTS: usize = 32;
/// The bell among the sources.
const BELL: u64 = u64::MAX;

/// How long a core that finds nothing goes on looking, in cycles.
#[derive(Clone, Copy, Debug)]
pub(in crate::dataplane) struct Patience {
    /// Without a pause.
    pub(in crate::dataplane) spin: u64,
    /// Before it sleeps.
    pub(in crate::dataplane) stay: u64,
}

impl Patience {
    /// For a counter of this speed.
    pub(in crate::dataplane) fn new(mode: Mode, cycles_per_s: u64) -> Self {
        let cycles = |us: u64| cycles_per_s.saturating_mul(us) / 1_000_000;
        match mode {
            Mode::Adaptive => Self { spin: cycles(SPIN_US), stay: cycles(PAUSE_US) },
            // Once it may sleep, it does.
            Mode::Poll | Mode::Trap => Self { spin: 0, stay: 0 },
        }
    }
}

/// An epoll with a core's bell and the kick eventfds of the rings it serves. Edge-triggered: nothing has to be read here, which is for
/// others to do.
pub(in crate::dataplane) struct Bed {
    epoll: OwnedFd,
}

/// Who woke a core.
#[derive(Debug, Default)]
pub(in crate::dataplane) struct Woken {
    /// Its bell was rung.
    pub(in crate::dataplane) rung: bool,
    /// These kicked. There may be more; they are here the next time.
    pub(in crate::dataplane) kicked: ArrayVec<SourceId, EVENTS>,
}

impl Woken {
    /// Whether it was anybody, and not the timer.
    pub(in crate::dataplane) fn by_anybody(&self) -> bool {
        self.rung || !self.kicked.is_empty()
    }
}

impl Bed {
    /// With this bell.
    pub(in crate::dataplane) fn new(bell: BorrowedFd<'_>) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, bell, EventData::new_u64(BELL), EventFlags::IN | EventFlags::ET)?;
        Ok(Self { epoll })
    }

    /// A source that kicks with this eventfd. False where that cannot be waited for.
    pub(in crate::dataplane) fn watch(&self, source: SourceId, kick: BorrowedFd<'_>) -> bool {
        let data = EventData::new_u64(source.index() as u64);
        epoll::add(&self.epoll, kick, data, EventFlags::IN | EventFlags::ET).is_ok()
    }

    /// The source is served here no longer.
    pub(in crate::dataplane) fn forget(&self, kick: BorrowedFd<'_>) {
        // Where it could not be added, it is not there.
        let _ = epoll::delete(&self.epoll, kick);
    }

    /// Sleeps until somebody wakes the core, or for this long, if a time is given.
    pub(in crate::dataplane) fn sleep(&self, time: Option<Duration>) -> Woken {
        let time = time.and_then(|time| Timespec::try_from(time).ok());
        let mut events = [const { MaybeUninit::<Event>::uninit() }; EVENTS];
        let mut woken = Woken::default();
        // An interruption counts as no event; no other error can happen.
        let Ok((ready, _)) = epoll::wait(&self.epoll, &mut events, time.as_ref()) else { return woken };
        for event in ready {
            match event.data.u64() {
                BELL => woken.rung = true,
                source => woken.kicked.push(SourceId(source as u16)),
            }
        }
        woken
    }
}

#[cfg(test)]
mod tests {
    use super::super::Bells;
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};

    #[test]
    fn kicks_and_the_bell_wake_each_once() {
        let bells = Bells::new(1, 1).unwrap();
        let bed = Bed::new(bells.alarm(0).unwrap()).unwrap();
        use std::os::fd::AsFd;
        let kick = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        assert!(bed.watch(SourceId(5), kick.as_fd()));
        let look = || {
            let woken = bed.sleep(Some(Duration::ZERO));
            (woken.rung, woken.kicked.iter().map(|source| source.0).collect::<Vec<_>>())
        };
        assert_eq!(look(), (false, vec![]));
        rustix::io::write(&kick, &1u64.to_ne_bytes()).unwrap();
        assert_eq!(look(), (false, vec![5]));
        assert_eq!(look(), (false, vec![]), "nobody kicked again");
        bells.of(0).unwrap().lie_down();
        bells.ring(0);
        rustix::io::write(&kick, &1u64.to_ne_bytes()).unwrap();
        assert_eq!(look(), (true, vec![5]));
        bed.forget(kick.as_fd());
        rustix::io::write(&kick, &1u64.to_ne_bytes()).unwrap();
        assert_eq!(look(), (false, vec![]));
    }
}
