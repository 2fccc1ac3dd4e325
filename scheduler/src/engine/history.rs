//! What the last ticks were like: loads averaged over a short and a long time, in the order of the load's lists.

use std::collections::BTreeMap;

use crate::{CoreLoad, IoCore, Load, QueueId, QueueLoad, Talk};

/// Ticks over which the short average goes.
const SHORT_TICKS: f64 = 2.0;
/// Ticks over which packets between queue pairs, what cores do besides queue pairs, and what they get of their CPUs' time are averaged.
const TALK_TICKS: f64 = 20.0;

/// One queue pair.
#[derive(Debug, Clone, Copy)]
pub(super) struct Queue {
    /// As in the last tick; its core as it should be by now.
    pub(super) last: QueueLoad,
    /// Cycles a tick.
    pub(super) short: f64,
    pub(super) long: f64,
    /// Packets a tick.
    pub(super) packets: f64,
    /// Cycles since [`History::take_sums`].
    sum: u64,
    ticks: f64,
}

/// One core.
#[derive(Debug, Clone, Copy, Default)]
struct Core {
    last: CoreLoad,
    /// Cycles it has in a tick: of a CPU that other threads run on too, in each tick as many as are left.
    has: f64,
    /// Cycles of what is in none of its queue pairs.
    besides: f64,
    /// How far its load in a tick is from its long average, in cycles.
    varies: f64,
    /// Cycles it had, and was busy in, since [`History::take_sums`].
    capacity: u64,
    busy: u64,
}

/// What is different from the tick before.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Queue pairs came or went.
    pub(super) set: bool,
    /// These are where nobody here put them.
    pub(super) moved: Vec<QueueId>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct History {
    long_ticks: f64,
    ticks: f64,
    pub(super) queues: Vec<Queue>,
    cores: Vec<Core>,
    talks: Vec<(Talk, f64)>,
}

/// Which average is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    Short,
    Long,
}

impl Queue {
    pub(super) fn cycles(&self, over: Over) -> f64 {
        match over {
            Over::Short => self.short,
            Over::Long => self.long,
        }
    }
}

/// The weight of the newest of so many values in an average over `over` of them.
fn weight(count: f64, over: f64) -> f64 {
    1.0 / count.min(over).max(1.0)
}

impl History {
    pub(super) fn new(long_ticks: u64) -> Self {
        Self { long_ticks: long_ticks as f64, ..Self::default() }
    }

    /// Averages over so many ticks from now on.
    pub(super) fn set_window(&mut self, long_ticks: u64) {
        self.long_ticks = long_ticks as f64;
    }

    pub(super) fn update(&mut self, load: &Load) -> Changes {
        self.ticks += 1.0;
        let set = self.align(load);
        let mut moved = Vec::new();
        let (mut short, mut long) = (vec![0.0; load.cores.len()], vec![0.0; load.cores.len()]);
        let mut measured = vec![0; load.cores.len()];
        for (queue, now) in self.queues.iter_mut().zip(&load.queues) {
            if queue.last.core != now.core {
                moved.push(now.queue);
            }
            queue.add(now, self.long_ticks);
            if let Some(measured) = measured.get_mut(now.core.0) {
                *measured += now.cycles;
                short[now.core.0] += queue.short;
                long[now.core.0] += queue.long;
            }
        }
        self.cores.resize(load.cores.len(), Core::default());
        for (index, (core, now)) in self.cores.iter_mut().zip(&load.cores).enumerate() {
            core.last = *now;
            // Without the first tick, in which nothing has been measured yet.
            core.has += (now.capacity as f64 - core.has) * weight(self.ticks - 1.0, TALK_TICKS);
            core.capacity += now.capacity;
            core.busy += now.busy;
            let besides = now.busy.saturating_sub(measured[index]) as f64;
            core.besides += (besides - core.besides) * weight(self.ticks, TALK_TICKS);
            let off = (short[index] - long[index]).abs();
            core.varies += (off - core.varies) * weight(self.ticks, self.long_ticks);
        }
        self.hear(&load.talks);
        Changes { set, moved }
    }

    /// Brings the queue pairs into the load's order. Whether some came or went.
    fn align(&mut self, load: &Load) -> bool {
        let same = self.queues.len() == load.queues.len()
            && self.queues.iter().zip(&load.queues).all(|(known, now)| known.last.queue == now.queue);
        if same {
            return false;
        }
        let known: BTreeMap<QueueId, Queue> = self.queues.iter().map(|queue| (queue.last.queue, *queue)).collect();
        let mut kept = 0;
        self.queues = load
            .queues
            .iter()
            .map(|now| match known.get(&now.queue) {
                Some(queue) => {
                    kept += 1;
                    *queue
                }
                None => Queue { last: *now, short: 0.0, long: 0.0, packets: 0.0, sum: 0, ticks: 0.0 },
            })
            .collect();
        kept != known.len() || kept != load.queues.len()
    }

    fn hear(&mut self, talks: &[Talk]) {
        let weight = weight(self.ticks, TALK_TICKS);
        let same = self.talks.len() == talks.len()
            && self.talks.iter().zip(talks).all(|((known, _), now)| (known.from, known.to) == (now.from, now.to));
        if !same {
            let now: BTreeMap<_, _> = talks.iter().map(|talk| ((talk.from, talk.to), *talk)).collect();
            let mut known: BTreeMap<_, _> =
                self.talks.drain(..).map(|talk| ((talk.0.from, talk.0.to), talk.1)).collect();
            for pair in now.keys() {
                known.entry(*pair).or_insert(0.0);
            }
            let entry = |((from, to), packets)| (Talk { from, to, packets: 0 }, packets);
            self.talks = known.into_iter().map(entry).collect();
            for (talk, packets) in &mut self.talks {
                let heard = now.get(&(talk.from, talk.to)).map_or(0, |talk| talk.packets);
                *packets += (heard as f64 - *packets) * weight;
            }
            self.talks.retain(|(_, packets)| *packets > 0.01);
            return;
        }
        for ((_, packets), now) in self.talks.iter_mut().zip(talks) {
            *packets += (now.packets as f64 - *packets) * weight;
        }
    }

    /// Notes that a queue pair was moved by order.
    pub(super) fn put(&mut self, queue: QueueId, core: IoCore) {
        if let Some(known) = self.queues.iter_mut().find(|known| known.last.queue == queue) {
            known.last.core = core;
        }
    }

    pub(super) fn place(&self, queue: QueueId) -> Option<IoCore> {
        self.queues.iter().find(|known| known.last.queue == queue).map(|known| known.last.core)
    }

    pub(super) fn on(&self, core: usize) -> impl Iterator<Item = &Queue> {
        self.queues.iter().filter(move |queue| queue.last.core == IoCore(core))
    }

    pub(super) fn cores(&self) -> usize {
        self.cores.len()
    }

    pub(super) fn is_parked(&self, core: usize) -> bool {
        self.cores.get(core).is_some_and(|core| core.last.parked)
    }

    pub(super) fn capacity(&self, core: usize) -> f64 {
        self.cores.get(core).map_or(1.0, |core| core.has.max(1.0))
    }

    /// What a core does besides its queue pairs, in cycles a tick.
    pub(super) fn besides(&self, core: usize) -> f64 {
        self.cores.get(core).map_or(0.0, |core| core.besides)
    }

    /// The load of every core, in parts of it.
    pub(super) fn loads(&self, over: Over) -> Vec<f64> {
        let mut cycles: Vec<f64> = self.cores.iter().map(|core| core.besides).collect();
        for queue in &self.queues {
            if let Some(cycles) = cycles.get_mut(queue.last.core.0) {
                *cycles += queue.cycles(over);
            }
        }
        cycles.iter().enumerate().map(|(core, cycles)| cycles / self.capacity(core)).collect()
    }

    /// By how much the load of a core varies, in parts of it.
    pub(super) fn varies(&self, core: usize) -> f64 {
        self.cores.get(core).map_or(0.0, |known| known.varies / self.capacity(core))
    }

    /// A tick as it was on average. Cores that `closed` names are shown as parked; queue pairs on them, and those that `held` names, as pinned.
    pub(super) fn average(&self, over: Over, closed: &[bool], held: impl Fn(QueueId) -> bool) -> Load {
        let is_closed = |core: usize| closed.get(core).copied().unwrap_or(false);
        let queue = |queue: &Queue| QueueLoad {
            pinned: queue.last.pinned || is_closed(queue.last.core.0) || held(queue.last.queue),
            // Rounded: an average that comes near a whole number from below is that number, from some time on for good.
            cycles: queue.cycles(over).round() as u64,
            packets: queue.packets.round() as u64,
            ..queue.last
        };
        let loads = self.loads(over);
        let core = |(index, core): (usize, &Core)| CoreLoad {
            busy: (loads[index] * self.capacity(index)).round() as u64,
            capacity: self.capacity(index).round() as u64,
            parked: core.last.parked || is_closed(index),
            ..core.last
        };
        Load {
            cores: self.cores.iter().enumerate().map(core).collect(),
            queues: self.queues.iter().map(queue).collect(),
            talks: self.talks.iter().map(|(talk, packets)| Talk { packets: packets.round() as u64, ..*talk }).collect(),
        }
    }

    /// All cycles since this was last asked, without who talks to whom.
    pub(super) fn take_sums(&mut self) -> Load {
        let queue = |queue: &mut Queue| QueueLoad { cycles: std::mem::take(&mut queue.sum), ..queue.last };
        let core = |core: &mut Core| CoreLoad {
            busy: std::mem::take(&mut core.busy),
            capacity: std::mem::take(&mut core.capacity),
            ..core.last
        };
        Load {
            cores: self.cores.iter_mut().map(core).collect(),
            queues: self.queues.iter_mut().map(queue).collect(),
            talks: Vec::new(),
        }
    }
}

impl Queue {
    fn add(&mut self, now: &QueueLoad, long_ticks: f64) {
        self.last = *now;
        self.ticks += 1.0;
        let cycles = now.cycles as f64;
        let newest = weight(self.ticks, SHORT_TICKS);
        self.short += (cycles - self.short) * newest;
        self.packets += (now.packets as f64 - self.packets) * newest;
        self.long += (cycles - self.long) * weight(self.ticks, long_ticks);
        self.sum += now.cycles;
    }
}
