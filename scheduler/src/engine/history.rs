//! What the last ticks were like: loads averaged over a short and a long time, in the order of the load's lists.

use std::collections::{BTreeMap, BTreeSet};

use crate::{CoreLoad, IoCore, Load, QueueId, QueueLoad, Talk};

/// Ticks over which the short average goes.
const SHORT_TICKS: f64 = 2.0;
/// Ticks over which it is averaged who talks to whom, what cores do besides queue pairs, and what they get of their CPUs' time.
const TALK_TICKS: f64 = 20.0;
/// What is averaged over ticks without any is taken for nothing from so few cycles, or packets, a tick on. It would come near it for hours.
const NOTHING: f64 = 1e-3;

/// What a queue pair did in a tick, on average.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rate {
    pub(super) cycles: f64,
    pub(super) packets: f64,
}

/// One queue pair.
#[derive(Debug, Clone, Copy)]
pub(super) struct Queue {
    /// As in the last tick; its core as it should be by now.
    pub(super) last: QueueLoad,
    pub(super) short: Rate,
    pub(super) long: Rate,
    /// Packets a tick, averaged as those to each receiver are.
    sent: f64,
    /// Cycles since [`History::take_sums`].
    sum: u64,
    /// The tick before its first.
    since: f64,
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
    /// The places of those which another tick like the last would change.
    active: Vec<usize>,
    cores: Vec<Core>,
    /// Packets a tick from one to another. What part they are of all that the sender sent in the same time says who talks to whom; how much
    /// that is now, what the sender sends now.
    talks: Vec<(Talk, f64)>,
}

/// Which average is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    Short,
    Long,
}

impl Rate {
    fn add(&mut self, now: &QueueLoad, weight: f64) {
        average(&mut self.cycles, now.cycles, weight);
        average(&mut self.packets, now.packets, weight);
    }
}

/// Takes the newest value into an average, with its weight.
fn average(average: &mut f64, now: u64, weight: f64) {
    *average += (now as f64 - *average) * weight;
    if now == 0 && *average < NOTHING {
        *average = 0.0;
    }
}

impl Queue {
    fn new(now: &QueueLoad, since: f64) -> Self {
        Self { last: *now, short: Rate::default(), long: Rate::default(), sent: 0.0, sum: 0, since }
    }

    pub(super) fn rate(&self, over: Over) -> Rate {
        match over {
            Over::Short => self.short,
            Over::Long => self.long,
        }
    }

    /// Packets a tick to one receiver, to whom went so many while `sent` were.
    fn talk(&self, packets: f64, over: Over) -> f64 {
        if self.sent > 0.0 { (packets / self.sent).min(1.0) * self.rate(over).packets } else { 0.0 }
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
        let set = self.align(load);
        let moves = self.queues.iter().zip(&load.queues).filter(|(queue, now)| queue.last.core != now.core);
        let moved = moves.map(|(_, now)| now.queue).collect();
        if set {
            let here: BTreeSet<QueueId> = load.queues.iter().map(|queue| queue.queue).collect();
            self.talks.retain(|(talk, _)| here.contains(&talk.from) && here.contains(&talk.to));
        }
        self.active.clear();
        self.active.extend(0..self.queues.len());
        self.add(load);
        let Self { active, queues, .. } = self;
        active.retain(|place| !queues[*place].is_silent());
        Changes { set, moved }
    }

    /// The same load as in the tick before, once more. Queue pairs that do nothing and did nothing cost nothing.
    pub(super) fn repeat(&mut self, load: &Load) {
        self.add(load);
    }

    /// A tick of the cores, and of those queue pairs that are `active`.
    fn add(&mut self, load: &Load) {
        self.ticks += 1.0;
        let (mut short, mut long) = (vec![0.0; load.cores.len()], vec![0.0; load.cores.len()]);
        let mut measured = vec![0; load.cores.len()];
        let newest = weight(self.ticks, TALK_TICKS);
        for &place in &self.active {
            let (queue, now) = (&mut self.queues[place], &load.queues[place]);
            queue.add(now, self.ticks, self.long_ticks, newest);
            if let Some(measured) = measured.get_mut(now.core.0) {
                *measured += now.cycles;
                short[now.core.0] += queue.short.cycles;
                long[now.core.0] += queue.long.cycles;
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
            core.besides += (besides - core.besides) * newest;
            let off = (short[index] - long[index]).abs();
            core.varies += (off - core.varies) * weight(self.ticks, self.long_ticks);
        }
        self.hear(&load.talks, newest);
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
                None => Queue::new(now, self.ticks),
            })
            .collect();
        kept != known.len() || kept != load.queues.len()
    }

    fn hear(&mut self, talks: &[Talk], weight: f64) {
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
                *cycles += queue.rate(over).cycles;
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
            cycles: queue.rate(over).cycles.round() as u64,
            packets: queue.rate(over).packets.round() as u64,
            ..queue.last
        };
        let loads = self.loads(over);
        let core = |(index, core): (usize, &Core)| CoreLoad {
            busy: (loads[index] * self.capacity(index)).round() as u64,
            capacity: self.capacity(index).round() as u64,
            parked: core.last.parked || is_closed(index),
            ..core.last
        };
        let senders: BTreeMap<QueueId, &Queue> = self.queues.iter().map(|queue| (queue.last.queue, queue)).collect();
        let talk = |(talk, packets): &(Talk, f64)| {
            let now = senders.get(&talk.from)?.talk(*packets, over);
            Some(Talk { packets: now.round() as u64, ..*talk })
        };
        Load {
            cores: self.cores.iter().enumerate().map(core).collect(),
            queues: self.queues.iter().map(queue).collect(),
            talks: self.talks.iter().filter_map(talk).collect(),
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
    /// Takes a tick, by its number; `newest`: its weight among those over which it is averaged who talks to whom.
    fn add(&mut self, now: &QueueLoad, tick: f64, long_ticks: f64, newest: f64) {
        self.last = *now;
        let ticks = tick - self.since;
        self.short.add(now, weight(ticks, SHORT_TICKS));
        self.long.add(now, weight(ticks, long_ticks));
        average(&mut self.sent, now.packets, newest);
        self.sum += now.cycles;
    }

    /// Whether the same again would change nothing.
    fn is_silent(&self) -> bool {
        let Self { short, long, sent, .. } = self;
        short.cycles + short.packets + long.cycles + long.packets + sent == 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PortId;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn id(port: usize) -> QueueId {
        QueueId { port: PortId(port as u32), queue: 0 }
    }

    /// Packets of a tick from each queue pair to each. Who sends to nobody may not be there.
    fn load(sent: &[Vec<u64>]) -> Load {
        let queue = |(port, sent): (usize, &Vec<u64>)| QueueLoad {
            queue: id(port),
            cycles: 1000 * sent.iter().sum::<u64>(),
            packets: sent.iter().sum(),
            ..QueueLoad::default()
        };
        let talks = |(from, sent): (usize, &Vec<u64>)| {
            let talk = move |(to, packets): (usize, &u64)| Talk { from: id(from), to: id(to), packets: *packets };
            sent.iter().enumerate().map(talk).filter(|talk| talk.packets > 0).collect::<Vec<_>>()
        };
        Load {
            cores: vec![CoreLoad { capacity: 1_000_000, ..CoreLoad::default() }],
            queues: sent.iter().enumerate().map(queue).collect(),
            talks: sent.iter().enumerate().flat_map(talks).collect(),
        }
    }

    /// Packets of the first queue pair, and those of them to each other one.
    fn told(history: &History, over: Over) -> (u64, Vec<u64>) {
        let average = history.average(over, &[], |_| false);
        let talks = average.talks.iter().filter(|talk| talk.from == id(0)).map(|talk| talk.packets);
        (average.queues[0].packets, talks.collect())
    }

    #[test]
    fn talks_are_as_many_as_packets_however_many_these_are_now() {
        let mut history = History::new(100);
        let mut tick = |sent: [u64; 3]| {
            history.update(&load(&[sent.to_vec(), vec![0; 3], vec![0; 3]]));
            told(&history, Over::Short)
        };
        for _ in 0..50 {
            assert_eq!(tick([0, 300, 100]), (400, vec![300, 100]));
        }
        assert_eq!(tick([0, 3000, 1000]), (2200, vec![1650, 550]), "it rises");
        assert_eq!(tick([0, 0, 0]), (1100, vec![825, 275]), "it ends");
        for _ in 0..20 {
            tick([0, 0, 0]);
        }
        assert_eq!(tick([0, 0, 0]), (0, vec![0, 0]));
        assert_eq!(tick([0, 600, 200]), (400, vec![300, 100]), "it comes again");
        let (packets, talks) = tick([0, 0, 800]);
        assert_eq!(packets, 600);
        assert!(talks[1] > 150 && talks[0] < 450 && talks.iter().sum::<u64>() == 600, "it turns to another: {talks:?}");
        let mut history = History::new(100);
        history.update(&load(&[vec![0; 2], vec![0; 2]]));
        history.update(&load(&[vec![0, 600], vec![0; 2]]));
        assert_eq!(told(&history, Over::Short), (300, vec![300]), "it is new");
    }

    proptest! {
        /// Also while queue pairs come and go: no more is told of whom it sends to than it sends.
        #[test]
        fn nobody_talks_more_than_it_sends(ticks in vec((1usize..5, vec(0u64..1000, 16)), 1..80)) {
            let mut history = History::new(30);
            for (queues, packets) in ticks {
                let sent: Vec<_> = packets.chunks(4).take(queues).map(|sent| sent[..queues].to_vec()).collect();
                history.update(&load(&sent));
                for over in [Over::Short, Over::Long] {
                    let (packets, talks) = told(&history, over);
                    prop_assert!(talks.iter().all(|talk| *talk <= packets), "{:?} of {}", talks, packets);
                    prop_assert!(talks.iter().sum::<u64>() <= packets + talks.len() as u64, "{:?} of {}", talks, packets);
                }
            }
        }
    }
}
