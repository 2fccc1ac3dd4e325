//! How long work waits in a transmit ring, at the price of a look now and then.
//!
//! A *mark* stands behind everything that was in the ring at some moment. When all of it has been pulled, its last packet had been waiting since then, at
//! least: that is the age of the oldest work at the moment before. Then the next mark is set, if there is more. So a ring
//! that is never emptied costs a note each time it has gone round, and one that is emptied by every pull costs nothing.

/// The mark in one transmit ring, if there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Waiting {
    /// Ring slots before the mark that were not pulled. 0: no mark.
    left: usize,
    /// When it was set, in cycles.
    since: u64,
}

/// What a pull changed. Times are in cycles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// How long the last work before the old mark had waited.
    pub(super) waited: Option<u64>,
    /// Ring slots before the new mark; 0 where there is none.
    pub(super) backlog: usize,
    /// When the new mark was set.
    pub(super) since: u64,
}

impl Waiting {
    /// Notes that `pulled` ring slots were pulled by the time `now`, since when `backlog` are left. Whether that changed the mark, and how.
    #[inline]
    pub(super) fn pulled(&mut self, pulled: usize, backlog: impl FnOnce() -> u16, now: u64) -> Option<Change> {
        if self.left > pulled {
            self.left -= pulled;
            return None;
        }
        // A clock that is another CPU's may be a little behind.
        let waited = self.is_set().then(|| now.saturating_sub(self.since));
        let backlog = usize::from(backlog());
        *self = Self { left: backlog, since: now };
        (waited.is_some() || backlog > 0).then_some(Change { waited, backlog, since: now })
    }

    /// When the mark was set, if there is one: since then, at least, what is before it was there.
    #[inline]
    pub(super) fn since(&self) -> Option<u64> {
        self.is_set().then_some(self.since)
    }

    /// The mark as it is, if there is one: for whoever goes on with it.
    pub(super) fn as_set(&self) -> Option<Change> {
        self.is_set().then_some(Change { waited: None, backlog: self.left, since: self.since })
    }

    /// Whether there is a mark.
    #[inline]
    pub(super) fn is_set(&self) -> bool {
        self.left > 0
    }

    /// Takes the mark away: nothing is there, whatever was seen before.
    pub(super) fn clear(&mut self) {
        self.left = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use proptest::prelude::*;

    /// Waits that were noted, each with that of the oldest entry of its pull.
    type Noted = Vec<(u64, u64)>;
    /// After each pull: the age of the mark, and of the oldest entry left.
    type Marks = Vec<(Option<u64>, Option<u64>)>;

    /// Runs pulls over a ring of which it is known when each entry was first seen: at the end of the pull in which it was there. A step is how
    /// many arrive, how many are pulled at most, and how long that takes.
    fn follow(steps: &[(u8, u8, u8)]) -> (Noted, Marks) {
        let (mut waiting, mut ring, mut now) = (Waiting::default(), VecDeque::new(), 0);
        let (mut noted, mut marks) = (Noted::new(), Marks::new());
        for &(arrive, pull, takes) in steps {
            now += u64::from(takes) + 1;
            ring.extend(std::iter::repeat_n(None, arrive.into()));
            let pulled: Vec<Option<u64>> = ring.drain(..ring.len().min(pull.into())).collect();
            ring.iter_mut().for_each(|seen| _ = seen.get_or_insert(now));
            let backlog = ring.len() as u16;
            if let Some(change) = waiting.pulled(pulled.len(), || backlog, now)
                && let Some(waited) = change.waited
            {
                noted.push((waited, pulled.iter().flatten().map(|seen| now - seen).max().unwrap_or(0)));
            }
            let since = waiting.is_set().then_some(waiting.since);
            marks.push((since.map(|since| now - since), ring.front().map(|seen| now - seen.unwrap_or(now))));
        }
        (noted, marks)
    }

    proptest! {
        #[test]
        fn a_mark_stands_exactly_while_something_waits(steps: Vec<(u8, u8, u8)>) {
            for (mark, oldest) in follow(&steps).1 {
                prop_assert_eq!(mark.is_some(), oldest.is_some());
            }
        }

        #[test]
        fn no_wait_is_longer_than_the_oldest_work_waited(steps: Vec<(u8, u8, u8)>) {
            let (noted, marks) = follow(&steps);
            for (waited, oldest) in noted {
                prop_assert!(waited <= oldest, "{} of {}", waited, oldest);
            }
            for (mark, oldest) in marks {
                prop_assert!(mark <= oldest);
            }
        }

        /// Steady load: as much comes as goes. Then it is no less than what the oldest waited, but for one pull.
        #[test]
        fn a_full_ring_shows_how_long_it_takes_to_go_round(size in 2_u8..=255, pull in 1_u8..=32, takes: u8) {
            let pull = pull.min(size - 1);
            let mut steps = vec![(size, pull, takes)];
            steps.extend(std::iter::repeat_n((pull, pull, takes), 1000));
            let (noted, _) = follow(&steps);
            prop_assert!(!noted.is_empty());
            let step = u64::from(takes) + 1;
            for (waited, oldest) in noted {
                prop_assert!(waited + step >= oldest && waited > 0, "{} of {}", waited, oldest);
            }
        }
    }

    #[test]
    fn a_ring_that_every_pull_empties_notes_nothing() {
        let mut waiting = Waiting::default();
        for now in 0..100 {
            assert_eq!(waiting.pulled(20, || 0, now), None);
        }
    }

    #[test]
    fn one_mark_after_the_other() {
        let mut waiting = Waiting::default();
        let first = Change { waited: None, backlog: 64, since: 100 };
        assert_eq!(waiting.pulled(32, || 64, 100), Some(first));
        assert_eq!(waiting.pulled(32, || unreachable!("the mark is not reached"), 200), None);
        let second = Change { waited: Some(200), backlog: 5, since: 300 };
        assert_eq!(waiting.pulled(32, || 5, 300), Some(second));
        let last = Change { waited: Some(50), backlog: 0, since: 350 };
        assert_eq!(waiting.pulled(6, || 0, 350), Some(last));
        assert!(!waiting.is_set());
    }

    #[test]
    fn a_mark_that_was_cleared_is_not_noted() {
        let mut waiting = Waiting::default();
        waiting.pulled(1, || 9, 10);
        waiting.clear();
        assert_eq!(waiting.pulled(9, || 0, 20), None);
    }
}
