//! How fast a session lets its peer go: patience, budget, and the time between attempts.

use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::connection::Step;
use super::event::Disconnect;

/// How long half a message may stay half, and an answer unread.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often what no poll can wait for (the rest of a message) is looked for, and how often kicks are read at most.
const TICK: Duration = Duration::from_millis(1);
/// Between attempts to find a frontend that is worth it: doubled from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// What the socket is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    Message,
    /// For the rest of a message. The socket is readable all along, so a poll cannot tell.
    Rest,
    /// For the peer to read its answers.
    Room,
    /// For the peer to have been quiet for long enough.
    Budget,
}

/// Keeps a peer from using more of this thread, and of the cores whose queue pairs each request takes back, than is sensible.
#[derive(Debug)]
pub(super) struct Pace {
    pub(super) socket: Waiting,
    pub(super) hung_up: bool,
    /// When patience with a half message or unread answers ends.
    pub(super) deadline: Option<Instant>,
    /// Kicks are not looked at before. They add up in their eventfds meanwhile: none is lost.
    kicks_from: Instant,
    budget: u32,
    filled: Instant,
}

impl Pace {
    /// Requests frontends may send at once. A guest with 128 queue pairs takes about 2,000 to start.
    const BURST: u32 = 4096;
    /// Requests a second they may send in the long run.
    const PER_SECOND: u32 = 1000;

    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            socket: Waiting::Message,
            hung_up: false,
            deadline: None,
            kicks_from: now,
            budget: Self::BURST,
            filled: now,
        }
    }

    /// The next frontend is served. It has what the one before has left of the budget: it may be the same one.
    pub(super) fn begin(&mut self) {
        *self = Self { budget: self.budget, filled: self.filled, ..Self::new() };
    }

    pub(super) fn socket_events(&self) -> PollFlags {
        match self.socket {
            Waiting::Message => PollFlags::IN,
            Waiting::Room => PollFlags::OUT,
            Waiting::Rest | Waiting::Budget => PollFlags::empty(),
        }
    }

    /// Whether to look at kicks, and how long to wait at most.
    pub(super) fn plan(&self, now: Instant) -> (bool, Option<Duration>) {
        let with_kicks = now >= self.kicks_from;
        let socket = match self.socket {
            Waiting::Message => None,
            Waiting::Rest | Waiting::Budget => Some(TICK),
            Waiting::Room => Some(PATIENCE),
        };
        let kicks = (!with_kicks).then(|| self.kicks_from.saturating_duration_since(now));
        (with_kicks, [socket, kicks].into_iter().flatten().min())
    }

    /// There were kicks: the next look is a while away, however many more come.
    pub(super) fn kicks_seen(&mut self, now: Instant) {
        self.kicks_from = now + TICK;
    }

    /// Whether the peer may have another request handled.
    pub(super) fn may_go_on(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.filled);
        let more = elapsed.as_millis().min(u128::from(Self::BURST)) as u32 * Self::PER_SECOND / 1000;
        if more > 0 {
            self.budget = self.budget.saturating_add(more).min(Self::BURST);
            self.filled = now;
        }
        self.budget > 0
    }

    /// A request was handled.
    pub(super) fn spend(&mut self) {
        self.budget = self.budget.saturating_sub(1);
        self.deadline = None;
    }

    /// A message cannot be handled now; ends the connection when that has lasted for too long.
    pub(super) fn stuck(&mut self, step: &Step, now: Instant) -> Option<Disconnect> {
        let (waiting, complaint) = match step {
            Step::Part => (Waiting::Rest, "half a message"),
            _ => (Waiting::Room, "answers that are not read"),
        };
        self.socket = waiting;
        if self.hung_up {
            return Some(Disconnect::Frontend);
        }
        let deadline = *self.deadline.get_or_insert(now + PATIENCE);
        (now >= deadline).then(|| Disconnect::Protocol(complaint.to_owned()))
    }
}

/// The time between attempts.
pub(super) struct Backoff {
    delay: Duration,
    raised: bool,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { delay: Duration::ZERO, raised: false }
    }
}

impl Backoff {
    pub(super) fn delay(&self) -> Duration {
        self.delay
    }

    pub(super) fn is_raised(&self) -> bool {
        self.raised
    }

    pub(super) fn reset(&mut self) {
        *self = Self { delay: BACKOFF.0, raised: false };
    }

    pub(super) fn raise(&mut self) {
        *self = Self { delay: (self.delay * 2).clamp(BACKOFF.0, BACKOFF.1), raised: true };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_runs_out_and_comes_back() {
        let mut pace = Pace::new();
        let now = pace.filled;
        for _ in 0..Pace::BURST {
            assert!(pace.may_go_on(now));
            pace.spend();
        }
        assert!(!pace.may_go_on(now));
        let later = now + Duration::from_millis(10);
        let mut allowed = 0;
        while pace.may_go_on(later) {
            pace.spend();
            allowed += 1;
        }
        assert_eq!(allowed, 10);
    }

    #[test]
    fn the_next_frontend_has_what_is_left_of_the_budget() {
        let mut pace = Pace::new();
        let now = pace.filled;
        (0..Pace::BURST - 1).for_each(|_| pace.spend());
        pace.stuck(&Step::Part, now);
        pace.begin();
        assert_eq!((pace.socket, pace.deadline), (Waiting::Message, None));
        assert!(pace.may_go_on(now));
        pace.spend();
        assert!(!pace.may_go_on(now));
    }

    #[test]
    fn patience_ends() {
        let mut pace = Pace::new();
        let now = Instant::now();
        assert_eq!(pace.stuck(&Step::Part, now), None);
        assert_eq!(pace.stuck(&Step::Part, now + PATIENCE / 2), None);
        assert!(matches!(pace.stuck(&Step::Part, now + PATIENCE), Some(Disconnect::Protocol(_))));
    }

    #[test]
    fn attempts_get_rarer_up_to_a_bound() {
        let mut backoff = Backoff::default();
        let delays: Vec<_> = (0..6)
            .map(|_| {
                backoff.raise();
                backoff.delay.as_millis()
            })
            .collect();
        assert_eq!(delays, [100, 200, 400, 800, 1000, 1000]);
    }
}
