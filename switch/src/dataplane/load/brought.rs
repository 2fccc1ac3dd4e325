//! What NICs bring to guests by rules, wherever these are: it moves with them, so it is a part of what they cost.
//!
//! A core knows what an uplink's queue costs it, not what each receiver's packets do. Each is taken to cost the same; how many are a
//! guest's is what it was delivered, less what other guests sent to it. Where there is no rule, the cycles stay the core's own.

use std::collections::HashMap;

use scheduler::{Brought, QueueId, QueueLoad, Talk};

/// What a queue pair was delivered in a tick.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Received {
    pub(super) packets: u64,
    /// Whether a rule brings it what comes from NICs.
    pub(super) steered: bool,
}

/// What the uplinks' queues of a core cost it in a tick.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct FromNics {
    cycles: u64,
    packets: u64,
}

impl FromNics {
    /// One queue more.
    pub(super) fn add(&mut self, cycles: u64, packets: u64) {
        self.cycles += cycles;
        self.packets += packets;
    }
}

/// Adds to each queue pair what was brought to it, of what the uplinks' queues cost its core: all of them together no more than that.
/// `received` is in the order of the queue pairs, `nics` by core.
pub(super) fn bring(queues: &mut [QueueLoad], received: &[Received], nics: &[FromNics], talks: &[Talk]) {
    if !received.iter().any(|received| received.steered) || nics.iter().all(|nic| nic.packets == 0) {
        return;
    }
    let mut heard: HashMap<QueueId, u64> = HashMap::new();
    talks.iter().for_each(|talk| *heard.entry(talk.to).or_default() += talk.packets);
    let from_nics = |queue: &QueueLoad, received: &Received| {
        let others = heard.get(&queue.queue).copied().unwrap_or(0);
        if received.steered { received.packets.saturating_sub(others) } else { 0 }
    };
    let mut claimed = vec![0; nics.len()];
    for (queue, received) in queues.iter_mut().zip(received) {
        queue.brought.packets = from_nics(queue, received);
        if let Some(claimed) = claimed.get_mut(queue.core.0) {
            *claimed += queue.brought.packets;
        }
    }
    for queue in queues {
        let (nic, claimed) = match (nics.get(queue.core.0), claimed.get(queue.core.0)) {
            (Some(nic), Some(claimed)) if queue.brought.packets > 0 && nic.packets > 0 => (nic, *claimed),
            _ => {
                queue.brought = Brought::default();
                continue;
            }
        };
        // More than came through them was flooded, or came from other cores.
        let part = queue.brought.packets as f64 / claimed.max(nic.packets) as f64;
        queue.brought =
            Brought { cycles: (nic.cycles as f64 * part) as u64, packets: (nic.packets as f64 * part) as u64 };
        queue.cycles += queue.brought.cycles;
        queue.packets += queue.brought.packets;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use scheduler::{IoCore, PortId};

    fn queue(port: u32, core: usize) -> QueueLoad {
        let queue = QueueId { port: PortId(port), queue: 0 };
        QueueLoad { queue, core: IoCore(core), cycles: 10, packets: 1, ..QueueLoad::default() }
    }

    fn received(packets: u64, steered: bool) -> Received {
        Received { packets, steered }
    }

    fn nics<const N: usize>(all: [(u64, u64); N]) -> [FromNics; N] {
        all.map(|(cycles, packets)| FromNics { cycles, packets })
    }

    #[test]
    fn a_guest_costs_what_a_rule_brings_it() {
        let mut queues = [queue(1, 0), queue(2, 0), queue(3, 0), queue(4, 1)];
        let talks = [Talk { from: queues[1].queue, to: queues[0].queue, packets: 50 }];
        let delivered = [received(350, true), received(100, true), received(400, false), received(70, true)];
        bring(&mut queues, &delivered, &nics([(8000, 800), (0, 0)]), &talks);
        let brought = queues.map(|queue| (queue.brought.packets, queue.brought.cycles));
        assert_eq!(brought, [(300, 3000), (100, 1000), (0, 0), (0, 0)]);
        assert_eq!(queues.map(|queue| (queue.packets, queue.cycles)), [(301, 3010), (101, 1010), (1, 10), (1, 10)]);
    }

    #[test]
    fn what_was_flooded_is_not_more_than_what_came() {
        let mut queues = [queue(1, 0), queue(2, 0)];
        bring(&mut queues, &[received(100, true), received(300, true)], &nics([(1000, 100)]), &[]);
        assert_eq!(queues.map(|queue| queue.brought.cycles), [250, 750]);
    }

    proptest! {
        /// Whatever was delivered and heard: no core's queue pairs are brought more than its uplinks' queues cost it.
        #[test]
        fn no_more_is_brought_than_came(
            guests in prop::collection::vec((0_usize..3, 0_u64..1 << 40, any::<bool>(), 0_u64..1 << 40), 1..30),
            from_nics in prop::array::uniform3((0_u64..1 << 40, 0_u64..1 << 40)),
        ) {
            let mut queues: Vec<_> = guests.iter().enumerate().map(|(port, it)| queue(port as u32, it.0)).collect();
            let delivered: Vec<_> = guests.iter().map(|it| received(it.1, it.2)).collect();
            let talks: Vec<_> =
                guests.iter().zip(&queues).map(|(it, to)| Talk { from: queues[0].queue, to: to.queue, packets: it.3 }).collect();
            bring(&mut queues, &delivered, &nics(from_nics), &talks);
            for (core, (cycles, packets)) in from_nics.into_iter().enumerate() {
                let here = queues.iter().filter(|queue| queue.core == IoCore(core));
                let sum = here.fold((0, 0), |sum, queue| (sum.0 + queue.brought.cycles, sum.1 + queue.brought.packets));
                prop_assert!(sum.0 <= cycles && sum.1 <= packets, "{sum:?} of {cycles}, {packets}");
            }
            for (queue, received) in queues.iter().zip(&delivered) {
                prop_assert!(received.steered || queue.brought == Brought::default());
                prop_assert_eq!((queue.cycles, queue.packets), (10 + queue.brought.cycles, 1 + queue.brought.packets));
            }
        }
    }
}
