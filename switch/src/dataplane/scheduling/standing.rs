//! How things stand, with the names that operators know. It is put into words of what was copied, so that no tick waits for it.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use scheduler::{Decision, IoCore, PortId, QueueId, Status, What};

use super::decisions::{kind, reason};
use crate::snapshot::{DecisionSnapshot, GainsSnapshot, SchedulerSnapshot, StepSnapshot};

/// What is copied under the scheduler's lock.
pub(super) struct Standing {
    pub(super) status: Status,
    pub(super) tick_ms: u32,
    pub(super) decided: BTreeMap<String, BTreeMap<String, u64>>,
    pub(super) decisions: Vec<Decision>,
    /// When they were made, by number.
    pub(super) times: BTreeMap<u64, SystemTime>,
}

/// What guests are called.
pub(super) type Names = BTreeMap<PortId, String>;

impl Standing {
    pub(super) fn told(self, names: &Names) -> SchedulerSnapshot {
        let numbers = |cores: &[IoCore]| cores.iter().map(|core| core.0).collect();
        let Self { status, tick_ms, decided, decisions, times } = self;
        SchedulerSnapshot {
            policy: status.policy.to_string(),
            paused: status.paused,
            tick_ms: tick_ms.into(),
            ticks: status.tick,
            saturated: numbers(&status.saturated),
            parked: numbers(&status.parked),
            moves: status.moves,
            failed: status.failed,
            rolled_back: status.rolled_back,
            gains: GainsSnapshot {
                expected: status.gains.expected,
                gained: status.gains.gained,
                lost: status.gains.lost,
            },
            cannot_fix: status.hopeless.map(|why| why.told(|queue| name_in(names, queue))),
            decided,
            decisions: decisions.into_iter().map(|decision| told(decision, names, &times)).collect(),
        }
    }
}

fn told(decision: Decision, names: &Names, times: &BTreeMap<u64, SystemTime>) -> DecisionSnapshot {
    let made = times.get(&decision.number).and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    DecisionSnapshot {
        number: decision.number,
        time_ms: made.as_millis() as u64,
        kind: kind(&decision).to_owned(),
        reason: reason(&decision).to_owned(),
        what: decision.what.told(|queue| name_in(names, queue)),
        step: step(&decision.what, names),
        why: decision.why.to_string(),
        expected_gain: decision.expected,
        measured_gain: decision.measured,
        pause_us: decision.pause_ns.map(|ns| ns as f64 / 1e3),
        failed: decision.failed,
    }
}

fn step(what: &What, names: &Names) -> Option<StepSnapshot> {
    let (What::Move(step) | What::RollBack(step)) = what else { return None };
    let guest = names.get(&step.queue.port)?.clone();
    Some(StepSnapshot { guest, queue: step.queue.queue, from: step.from.0, to: step.to.0 })
}

fn name_in(names: &Names, queue: QueueId) -> String {
    name(queue, names.get(&queue.port).map(String::as_str))
}

/// What operators call a queue pair of a guest; of one that is gone, its number.
pub(super) fn name(queue: QueueId, guest: Option<&str>) -> String {
    match guest {
        Some(guest) => format!("queue pair {} of guest {guest}", queue.queue),
        None => queue.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scheduler::{Gains, Hopeless, Move, Policy, Why};

    fn standing(hopeless: Option<Hopeless>, decisions: Vec<Decision>) -> Standing {
        let status = Status {
            policy: Policy::Balance,
            paused: false,
            tick: 0,
            saturated: Vec::new(),
            parked: Vec::new(),
            settling: 0,
            moves: 0,
            failed: 0,
            rolled_back: 0,
            gains: Gains::default(),
            hopeless,
        };
        Standing { status, tick_ms: 5, decided: BTreeMap::new(), decisions, times: BTreeMap::new() }
    }

    #[test]
    fn of_a_thousand_guests_each_has_its_own_name() {
        let queue = |port: u64| QueueId { port: PortId(port as u32), queue: (port % 3) as u16 };
        let decision = |number: u64| Decision {
            number,
            tick: number,
            what: match number % 3 {
                0 => What::Move(Move { queue: queue(number), from: IoCore(0), to: IoCore(10) }),
                1 => What::RollBack(Move { queue: queue(number * 10), from: IoCore(10), to: IoCore(0) }),
                _ => What::CannotFix(Hopeless::Queue { queue: queue(number), load: 1.2 }),
            },
            why: Why::Saturated(IoCore(0)),
            expected: None,
            measured: None,
            pause_ns: None,
            failed: None,
        };
        // Those from 1,000 on are gone.
        let names: Names = (0..1000).map(|port| (PortId(port), format!("guest {port}"))).collect();
        let named = |port: u64| match port {
            0..1000 => format!("queue pair {} of guest guest {port}", port % 3),
            _ => format!("queue pair {} of port {port}", port % 3),
        };
        let hopeless = Hopeless::Queue { queue: queue(1), load: 1.2 };
        let told = standing(Some(hopeless), (0..256).map(decision).collect()).told(&names);
        assert_eq!(told.cannot_fix, Some(format!("{} alone takes 120 % of a core", named(1))));
        for (number, decision) in (0..).zip(&told.decisions) {
            let (what, guest) = match number % 3 {
                0 => (format!("{} from I/O core 0 to I/O core 10", named(number)), Some(number)),
                1 => (format!("{} back from I/O core 10 to I/O core 0", named(number * 10)), Some(number * 10)),
                _ => (format!("nothing: {} alone takes 120 % of a core", named(number)), None),
            };
            assert_eq!((&decision.what, decision.why.as_str()), (&what, "I/O core 0 is saturated"));
            let guest = guest.filter(|port| *port < 1000).map(|port| format!("guest {port}"));
            assert_eq!(decision.step.as_ref().map(|step| &step.guest), guest.as_ref());
        }
        assert_eq!(told.decisions.len(), 256);
    }
}
