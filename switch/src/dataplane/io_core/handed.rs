//! What an I/O core takes from others: packets and stations.

use vm_ports::Burst;

use super::super::forwarder::Between;
use super::super::waiting::Change;
use super::super::xcore::{FromCore, Groups};
use super::IoCore;
use super::aside::Aside;

impl IoCore {
    /// Takes what was handed over: a burst from each core.
    pub(super) fn poll_cores(&mut self, clock: &impl Fn() -> u64) -> bool {
        let mut worked = false;
        for core in 0..self.from.len() {
            if self.poll_core(core, true, clock) {
                worked = true;
                let cycles = self.end_burst(clock);
                self.counters.received_cycles.add(cycles);
                self.note_rest(core);
                self.poll_urgent(clock);
            }
        }
        worked
    }

    /// Notes what is left of what a core handed over, after a burst of it.
    #[inline]
    fn note_rest(&mut self, core: usize) {
        let Some(Some(link)) = self.from.get_mut(core) else { return };
        if let Some(Change { waited, .. }) = link.look_at_rest(self.done_at) {
            self.note_received_waiting(waited);
        }
    }

    /// Notes since when work waits in rings from other cores, one of whose marks has changed.
    #[cold]
    fn note_received_waiting(&self, waited: Option<u64>) {
        let marks = || self.from.iter().flatten().filter_map(FromCore::waits_since);
        let (backlog, since) = (marks().count(), marks().min().unwrap_or(self.done_at));
        self.counters.note_received_waiting(Change { waited, backlog, since });
    }

    /// Takes what one core handed over. `gives_way`: others may have their turn in between.
    #[inline]
    pub(super) fn poll_core(&mut self, core: usize, gives_way: bool, clock: &impl Fn() -> u64) -> bool {
        let Some(Some(link)) = self.from.get_mut(core) else { return false };
        while let Some(message) = link.next_learnt() {
            self.forwarder.fdb.apply(&message);
        }
        link.has_work() && self.receive(core, gives_way, clock)
    }

    /// Delivers a burst of what one core handed over.
    fn receive(&mut self, core: usize, gives_way: bool, clock: &impl Fn() -> u64) -> bool {
        let Self {
            from,
            guests,
            rota,
            rounds,
            forwarder,
            buffer,
            spare,
            counters,
            progress,
            sampler,
            now,
            done_at,
            ..
        } = self;
        let Some(Some(link)) = from.get_mut(core) else { return false };
        let mut groups = Groups::new();
        let mut burst = Burst::new(buffer);
        let chunks = link.pull(&mut burst, &mut groups);
        let (packets, since) = (burst.len(), groups.first().map_or(*done_at, |group| group.label.since));
        counters.received_packets.add(packets as u64);
        let sampled = sampler.is_due();
        forwarder.out.taps.begin_burst(*done_at);
        let mut aside = (gives_way && rota.has_urgent()).then(|| Aside {
            guests: (guests, &mut []),
            rota,
            rounds,
            buffer: spare,
            counters,
            account: &counters.received_cycles,
            now: *now,
            done_at,
            clock,
            wanted: None,
        });
        let between = aside.as_mut().map(|aside| aside as &mut dyn Between);
        let parked = forwarder.receive(&mut burst, &groups, core, between);
        drop((burst, groups));
        if sampled {
            forwarder.out.note_buffers();
        }
        forwarder.finish(None, *done_at);
        let place = if parked.is_empty() {
            link.release(chunks)
        } else {
            counters.parked_packets.add(parked.len() as u64);
            link.release_or_park(chunks, &parked)
        };
        progress.delivered(core, forwarder.out.me(), place);
        if sampled {
            self.note_latency((since, clock()), packets, self.counters.handed_over.get());
        }
        true
    }
}
