//! What is measured, and the switches that it takes.

use super::{AWAKE, FEW, MODES, Place, UPLINK};

/// Guests of a switch in mode `trap`, at most: it has an I/O core and threads of guests, 64 together.
pub(super) const MOST_THREADS: usize = 63;
/// What a guest's thread takes in such a switch with its rings to all others: 1.06 GiB were measured of 63, and 0.85 of 52.
const MIB_A_THREAD: u64 = 18;
/// What is left to all others.
const MIB_LEFT: u64 = 1024;

/// A switch that is to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Switch {
    pub(super) mode: &'static str,
    pub(super) guests: usize,
    /// Whether its first two guests, or its only one, are not of its silent ones: they come for each turn anew.
    pub(super) has_pair: bool,
}

/// All that is measured.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Switches, to which places refer by number.
    pub(super) switches: Vec<Switch>,
    pub(super) places: Vec<Place>,
    /// Numbers of guests that memory does not suffice for in mode `trap`.
    pub(super) left_out: Vec<usize>,
}

impl Plan {
    /// Every mode with every number of guests that it is measured with. Many guests in mode `trap` have several switches, of which those that fewer
    /// guests have are the first.
    pub(super) fn new(counts: &[usize], can_stay_awake: bool, available_mib: u64) -> Self {
        let mut me = Self::default();
        let mut many: Vec<usize> = Vec::new();
        for &guests in counts {
            let is_measured = |mode: &&str| match *mode {
                AWAKE => guests == FEW && can_stay_awake,
                UPLINK => guests == FEW,
                _ => true,
            };
            for mode in MODES.into_iter().filter(is_measured) {
                let is_many = mode == "trap" && guests > MOST_THREADS;
                if !is_many {
                    let switches = me.start(mode, &[guests], true);
                    me.places.push(Place { mode, guests, switches, turns: Vec::new() });
                } else if needed_mib(guests) > available_mib {
                    me.left_out.push(guests);
                } else {
                    let more = guests - many.iter().map(|nth| me.switches[*nth].guests).sum::<usize>();
                    many.extend(me.start(mode, &evenly(more), many.is_empty()));
                    me.places.push(Place { mode, guests, switches: many.clone(), turns: Vec::new() });
                }
            }
        }
        me
    }

    /// Switches with so many guests each. Returns their numbers.
    fn start(&mut self, mode: &'static str, guests: &[usize], first_has_pair: bool) -> Vec<usize> {
        let before = self.switches.len();
        let switch =
            |(nth, guests): (usize, &usize)| Switch { mode, guests: *guests, has_pair: first_has_pair && nth == 0 };
        self.switches.extend(guests.iter().enumerate().map(switch));
        (before..self.switches.len()).collect()
    }
}

/// So many guests on as few switches as can have a thread for each.
fn evenly(guests: usize) -> Vec<usize> {
    let switches = guests.div_ceil(MOST_THREADS);
    (0..switches).map(|nth| (guests + nth) / switches).collect()
}

/// Memory that has to be free for so many guests' threads.
pub(super) fn needed_mib(guests: usize) -> u64 {
    guests as u64 * MIB_A_THREAD + MIB_LEFT
}

#[cfg(test)]
mod tests {
    use super::super::GUESTS;
    use super::*;

    fn trap(plan: &Plan, guests: usize) -> Option<Vec<Switch>> {
        let place = plan.places.iter().find(|place| place.mode == "trap" && place.guests == guests)?;
        Some(place.switches.iter().map(|nth| plan.switches[*nth]).collect())
    }

    #[test]
    fn a_thread_for_each_of_many_guests_takes_several_switches() {
        let plan = Plan::new(&GUESTS, true, u64::MAX);
        for guests in GUESTS {
            let switches = trap(&plan, guests).unwrap();
            assert_eq!(switches.iter().map(|switch| switch.guests).sum::<usize>(), guests);
            assert!(
                switches.iter().all(|switch| switch.mode == "trap" && switch.guests <= MOST_THREADS),
                "{switches:?}"
            );
            let pairs: Vec<bool> = switches.iter().map(|switch| switch.has_pair).collect();
            assert!(pairs[0] && !pairs[1..].contains(&true), "the first switch has the pair: {switches:?}");
        }
        assert_eq!([1, 16, 256, 1000].map(|guests| trap(&plan, guests).unwrap().len()), [1, 1, 5, 17]);
        assert_eq!(trap(&plan, 1000).unwrap()[..5], trap(&plan, 256).unwrap(), "what is there is used again");
    }

    #[test]
    fn all_other_modes_have_one_switch() {
        let plan = Plan::new(&GUESTS, true, u64::MAX);
        for place in plan.places.iter().filter(|place| place.mode != "trap") {
            assert_eq!(place.switches.len(), 1);
            assert_eq!(plan.switches[place.switches[0]].guests, place.guests);
        }
        let places = |plan: &Plan, mode: &str| plan.places.iter().filter(|place| place.mode == mode).count();
        assert_eq!(MODES.map(|mode| places(&plan, mode)), [4, 4, 1, 1, 4]);
        assert_eq!(places(&Plan::new(&GUESTS, false, u64::MAX), AWAKE), 0);
    }

    #[test]
    fn what_memory_does_not_suffice_for_is_left_out_and_not_started() {
        let of = |mib: u64| {
            let plan = Plan::new(&GUESTS, false, mib);
            let threads = plan.switches.iter().filter(|switch| switch.mode == "trap");
            (threads.map(|switch| switch.guests).sum::<usize>(), plan.left_out.clone(), plan.places.len())
        };
        assert_eq!(of(needed_mib(1000)), (1 + 16 + 1000, vec![], 13));
        assert_eq!(of(needed_mib(1000) - 1), (1 + 16 + 256, vec![1000], 12));
        assert_eq!(of(0), (1 + 16, vec![256, 1000], 11), "few guests take little");
    }
}
