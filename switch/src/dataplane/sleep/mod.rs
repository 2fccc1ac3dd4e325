//! Sleeping, and being woken: how an I/O core that has nothing to do waits without losing a wake-up.
//!
//! ```text
//! core      asks every driver for a kick, sets its bell's flag, fence, looks again at everything, sleeps in epoll
//! driver    makes a packet available, fence, looks whether a kick is asked for, kicks
//! reader    reads kicks and counts them; names the ring in the owner's list, fence, rings the owner's bell
//! others    put a message or packets where the core looks, fence, ring its bell
//! ring      where the flag is set: takes it away and writes the bell's eventfd
//! ```
//!
//! In each of these pairs both sides write, then fence, then read what the other one writes: at least one of the two sees the other. So
//! either the core finds what is there when it looks again, or it is woken. A kick reaches a core that sleeps by either of two ways: the core's epoll
//! has the kick eventfd, and somebody else reads it: the session, or, where the ring's guest has a thread of its own, whoever wants to know the
//! number. Whichever of them is first, the reading is followed by the bell, so that an event that epoll can no longer see is not lost. `model`
//! checks it with loom, and that it fails without the second look, without a fence, and with a reader that does not ring.

mod bed;

#[cfg(test)]
mod model;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};

use crossbeam_utils::CachePadded;
use rustix::event::EventfdFlags;

pub(super) use self::bed::{Bed, Patience};
use super::accounting::{SOURCES_MAX, SourceId};

/// Whether somebody sleeps: the standard library's flag, or loom's in the model.
pub(in crate::dataplane) trait Flag {
    /// Sets it, or takes it away.
    fn set(&self, asleep: bool);
    /// Takes it away. Whether it was set.
    fn take(&self) -> bool;
    /// Orders everything before it ahead of everything after it.
    fn fence();
}

/// What a sleeper waits for.
pub(in crate::dataplane) trait Alarm {
    /// Wakes it, now or when it sleeps next.
    fn raise(&self);
}

impl Flag for AtomicBool {
    #[inline]
    fn set(&self, asleep: bool) {
        // Relaxed: a fence follows where the order matters.
        self.store(asleep, Ordering::Relaxed);
    }

    #[inline]
    fn take(&self) -> bool {
        self.load(Ordering::Relaxed) && self.swap(false, Ordering::Relaxed)
    }

    #[inline]
    fn fence() {
        vm_ports::fence();
    }
}

impl Alarm for OwnedFd {
    fn raise(&self) {
        // A full counter (the only error here) wakes as well.
        let _ = rustix::io::write(self, &1u64.to_ne_bytes());
    }
}

/// One core's bell.
pub(in crate::dataplane) struct Bell<F = AtomicBool, A = OwnedFd> {
    asleep: CachePadded<F>,
    alarm: A,
}

impl<F: Flag, A: Alarm> Bell<F, A> {
    pub(in crate::dataplane) fn new(asleep: F, alarm: A) -> Self {
        Self { asleep: CachePadded::new(asleep), alarm }
    }

    /// The core is about to sleep. It has to look at everything once more before it does.
    pub(in crate::dataplane) fn lie_down(&self) {
        self.asleep.set(true);
        F::fence();
    }

    /// The core is awake, and looks at everything before it sleeps again.
    pub(in crate::dataplane) fn get_up(&self) {
        self.asleep.set(false);
    }

    /// Wakes the core if it sleeps, or is about to: whoever put something where it looks.
    #[inline]
    pub(in crate::dataplane) fn ring(&self) {
        F::fence();
        self.ring_after_fence();
    }

    /// The same for who has made a [`fence`](vm_ports::fence) since.
    #[inline]
    pub(in crate::dataplane) fn ring_after_fence(&self) {
        if self.asleep.take() {
            self.alarm.raise();
        }
    }
}

/// A core as those see it who wake it.
struct Sleeper {
    bell: Bell,
    /// Whether anything is in `kicked`: one bit for each of its words.
    any: CachePadded<AtomicU64>,
    /// Sources whose kicks were read: one bit for each.
    kicked: [AtomicU64; SOURCES_MAX / WORD],
}

const WORD: usize = u64::BITS as usize;
// A bit of `any` for each word.
const _: () = assert!(SOURCES_MAX / WORD <= WORD);

/// A source's transmit ring, as those see it who hear of its kicks. Written by the core that serves it.
struct Line {
    /// That core.
    owner: AtomicU16,
    /// Until when its driver was asked to kick, in cycles; [`u64::MAX`]: it is; 0: it never was.
    asked_until: AtomicU64,
}

/// A kick that comes so long after its driver was asked for it is one that was asked for, in milliseconds: the driver may have lost its CPU
/// between seeing the wish and kicking, and kicks are read later than they are made.
const GRACE_MS: u64 = 100;

/// How the I/O cores are woken.
pub(super) struct Bells {
    sleepers: Box<[OnceLock<Sleeper>]>,
    lines: Box<[Line]>,
    /// [`GRACE_MS`] in cycles.
    grace: u64,
}

impl Bells {
    /// For this many cores, none of which sleeps, on a counter of this speed.
    pub(super) fn new(cores: usize, cycles_per_s: u64) -> io::Result<Self> {
        let line = || Line { owner: AtomicU16::new(u16::MAX), asked_until: AtomicU64::new(0) };
        let bells = Self {
            sleepers: (0..config::MAX_IO_CORES).map(|_| OnceLock::new()).collect(),
            lines: (0..SOURCES_MAX).map(|_| line()).collect(),
            grace: cycles_per_s / 1000 * GRACE_MS,
        };
        (0..cores).try_for_each(|core| bells.add(core))?;
        Ok(bells)
    }

    /// For one core more.
    pub(super) fn add(&self, core: usize) -> io::Result<()> {
        let alarm = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        self.sleepers[core].get_or_init(|| Sleeper {
            bell: Bell::new(AtomicBool::new(false), alarm),
            any: CachePadded::default(),
            kicked: [const { AtomicU64::new(0) }; SOURCES_MAX / WORD],
        });
        Ok(())
    }

    fn sleeper(&self, core: usize) -> Option<&Sleeper> {
        self.sleepers.get(core).and_then(OnceLock::get)
    }

    /// The bell of a core that there is.
    #[inline]
    pub(super) fn of(&self, core: usize) -> Option<&Bell> {
        self.sleeper(core).map(|sleeper| &sleeper.bell)
    }

    /// Its eventfd, for the core's epoll.
    pub(super) fn alarm(&self, core: usize) -> Option<BorrowedFd<'_>> {
        self.of(core).map(|bell| bell.alarm.as_fd())
    }

    /// Wakes a core that was told something.
    #[inline]
    pub(super) fn ring(&self, core: usize) {
        if let Some(bell) = self.of(core) {
            bell.ring();
        }
    }

    /// Whether a core sleeps.
    pub(super) fn sleeps(&self, core: usize) -> bool {
        self.of(core).is_some_and(|bell| bell.asleep.load(Ordering::Relaxed))
    }

    /// From now on kicks of a source are this core's. Before it asks for any.
    pub(super) fn set_owner(&self, source: SourceId, core: usize) {
        self.lines[source.index()].owner.store(core as u16, Ordering::Release);
    }

    /// A source's driver is asked to kick from now on, or not any more, at the time `now`.
    pub(super) fn set_asked(&self, source: SourceId, asked: bool, now: u64) {
        self.lines[source.index()].asked_until.store(if asked { u64::MAX } else { now }, Ordering::Release);
    }

    /// A kick of a source was read that came at the time `at` or later: tells the core that serves it. Whether it was asked for.
    pub(super) fn kicked(&self, source: SourceId, at: u64) -> bool {
        // Whoever asked for the kick had said before that the source is its own. Another core may have got it meanwhile, and has
        // looked at the ring since.
        vm_ports::fence();
        let line = &self.lines[source.index()];
        let asked_until = line.asked_until.load(Ordering::Acquire);
        let asked = asked_until != 0 && asked_until.saturating_add(self.grace) >= at;
        let Some(sleeper) = self.sleeper(line.owner.load(Ordering::Acquire).into()) else { return asked };
        let (word, bit) = (source.index() / WORD, source.index() % WORD);
        sleeper.kicked[word].fetch_or(1 << bit, Ordering::Relaxed);
        sleeper.any.fetch_or(1 << word, Ordering::Release);
        sleeper.bell.ring();
        asked
    }

    /// Whether kicks of a core's sources were read.
    #[inline]
    pub(super) fn any_kicked(&self, core: usize) -> bool {
        self.sleeper(core).is_some_and(|sleeper| sleeper.any.load(Ordering::Relaxed) != 0)
    }

    /// Takes the list of sources whose kicks were read.
    pub(super) fn take_kicked(&self, core: usize, mut each: impl FnMut(SourceId)) {
        let Some(sleeper) = self.sleeper(core) else { return };
        // Acquire: pairs with the release in `kicked`, so that the bits in the words are seen.
        bits(sleeper.any.swap(0, Ordering::Acquire)).for_each(|word| {
            let sources = sleeper.kicked[word].swap(0, Ordering::Relaxed);
            bits(sources).for_each(|bit| each(SourceId((word * WORD + bit) as u16)));
        });
    }
}

/// The places of the bits that are set.
fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let place = (word != 0).then(|| word.trailing_zeros() as usize)?;
        word &= word - 1;
        Some(place)
    })
}

/// Why a core does not sleep any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WakeCause {
    /// A guest kicked.
    Kick,
    /// Another core handed packets or stations over.
    Packets,
    /// Somebody told it something.
    Message,
    /// It was time: for uplinks, which cannot wake it, and for what has to be done now and then.
    Timer,
}

impl WakeCause {
    /// Every cause.
    pub(crate) const ALL: [Self; 4] = [Self::Kick, Self::Packets, Self::Message, Self::Timer];

    /// The value of the `cause` label.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Kick => "kick",
            Self::Packets => "packets",
            Self::Message => "message",
            Self::Timer => "timer",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kick_is_told_to_the_core_that_has_the_ring_and_wakes_it() {
        let bells = Bells::new(2, 1_000_000).unwrap();
        let told = |core| {
            let mut told = Vec::new();
            bells.take_kicked(core, |source| told.push(source.0));
            told
        };
        let alarm = || {
            let mut count = [0; 8];
            rustix::io::read(bells.alarm(1).unwrap(), &mut count).map(|_| u64::from_ne_bytes(count)).unwrap_or(0)
        };
        for source in [0, 63, 64, 4095] {
            bells.set_owner(SourceId(source), 1);
            assert!(!bells.kicked(SourceId(source), 0), "nobody asked for it");
        }
        assert!(bells.any_kicked(1) && !bells.any_kicked(0));
        assert_eq!((told(0), told(1), told(1)), (vec![], vec![0, 63, 64, 4095], vec![]));
        assert_eq!(alarm(), 0, "nobody sleeps");
        bells.of(1).unwrap().lie_down();
        bells.kicked(SourceId(7), 0);
        assert_eq!(alarm(), 0, "a source that nobody has");
        bells.kicked(SourceId(63), 0);
        bells.kicked(SourceId(64), 0);
        assert_eq!(alarm(), 1, "once is enough");
        assert!(!bells.sleeps(1));
    }

    #[test]
    fn a_kick_is_asked_for_until_a_while_after() {
        let bells = Bells::new(1, 1_000_000).unwrap();
        let (source, grace) = (SourceId(3), 100_000);
        assert!(!bells.kicked(source, 10));
        bells.set_asked(source, true, 1000);
        assert!(bells.kicked(source, u64::MAX));
        bells.set_asked(source, false, 2000);
        assert!(bells.kicked(source, 2000 + grace) && !bells.kicked(source, 2001 + grace));
    }
}
