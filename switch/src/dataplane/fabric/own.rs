//! Guests that have an I/O thread of their own (mode `trap`): a small I/O core with that guest only, which sleeps whenever it finds nothing. Such
//! threads are made when they are needed, and kept for the next guest when theirs goes: one that serves nothing sleeps.

use std::sync::PoisonError;

use config::Mode;

use super::super::error::DataplaneError;
use super::super::mailbox::{Limits, Message};
use super::super::ports::PORTS_MAX;
use super::super::xcore::{Links, late_channel};
use super::Fabric;
use crate::forwarding::{MacAddr, PortId, PortKind, VlanId};

/// What all cores were told of ports, for those that come late.
pub(super) struct Known {
    ports: Vec<(PortId, PortKind, u32)>,
    stations: Vec<(VlanId, MacAddr, PortId)>,
    /// How often each port was flushed: cores take over from each other only what was learnt since the same flush.
    generations: Box<[u32]>,
    limits: Limits,
}

impl Known {
    pub(super) fn new(limits: Limits) -> Self {
        Self { ports: Vec::new(), stations: Vec::new(), generations: vec![0; PORTS_MAX].into(), limits }
    }

    fn count_flush(&mut self, port: PortId) {
        if let Some(generation) = self.generations.get_mut(port.index()) {
            *generation = generation.wrapping_add(1);
        }
    }
}

impl Fabric {
    /// Addresses may be learnt on this port, so many at most.
    pub(in super::super) fn open_port(&self, port: PortId, kind: PortKind, limit: u32) {
        let mut known = self.known();
        known.ports.push((port, kind, limit));
        self.tell_all(|| Message::OpenPort { port, kind, limit });
    }

    /// Nobody sends to the port any more.
    pub(in super::super) fn close_port(&self, port: PortId) {
        self.change_table(|table| table.remove(port));
        let mut known = self.known();
        known.ports.retain(|(other, ..)| *other != port);
        known.stations.retain(|(.., other)| *other != port);
        known.count_flush(port);
        self.tell_all(|| Message::ClosePort(port));
    }

    /// The port's link is down: what was learnt there is forgotten.
    pub(in super::super) fn flush_port(&self, port: PortId) {
        let mut known = self.known();
        known.count_flush(port);
        self.tell_all(|| Message::FlushPort(port));
    }

    /// A station that is configured.
    pub(in super::super) fn fix_station(&self, vlan: VlanId, mac: MacAddr, port: PortId) {
        let mut known = self.known();
        known.stations.push((vlan, mac, port));
        self.tell_all(|| Message::FixStation { vlan, mac, port });
    }

    /// All cores go by these limits from now on.
    pub(in super::super) fn tune(&self, limits: Limits) {
        let mut known = self.known();
        known.limits = limits;
        self.tell_all(|| Message::Tune(limits));
    }

    /// Held while all are told, so that a core that is made meanwhile is told everything, and once.
    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A core for a guest of its own: one whose guest has gone, or a new one.
    pub(in super::super) fn take_own(&self) -> Result<usize, DataplaneError> {
        if let Some(core) = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(core);
        }
        // Nothing moves, and no table is published, while the cores become more.
        let _moves = self.moves();
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.known();
        let index = self.all().count();
        if index >= config::MAX_IO_CORES {
            return Err(DataplaneError::TooManyThreads { most: config::MAX_IO_CORES });
        }
        self.bells.add(index).map_err(DataplaneError::Sleep)?;
        let mut links = Links::none(&self.progress);
        let mut ends = Vec::with_capacity(index);
        for core in 0..index {
            let (to, their_from) = late_channel(index + 1);
            let (their_to, from) = late_channel(index + 1);
            links.to[core] = Some(to);
            links.set_from(core, from);
            ends.push((their_to, their_from));
        }
        self.add_core(index, None, Mode::Trap, links)?;
        self.progress.set_cores(index + 1);
        for (core, (to, from)) in ends.into_iter().enumerate() {
            let (to, from) = (Box::new(to), Box::new(from));
            self.ask(core, |reply| Message::Connect { core: index, to, from, reply });
        }
        let table = std::sync::Arc::new(table.clone());
        self.ask(index, |reply| Message::Table { table, moving: None, reply });
        self.tell_known(index, &known);
        Ok(index)
    }

    /// Tells a new core what the others were told, and what they have learnt.
    fn tell_known(&self, index: usize, known: &Known) {
        let flushed = (0..).map(PortId).zip(known.generations.iter()).filter(|(_, generation)| **generation != 0);
        for (port, &generation) in flushed {
            self.tell(index, Message::Generation { port, generation });
        }
        for &(port, kind, limit) in &known.ports {
            self.tell(index, Message::OpenPort { port, kind, limit });
        }
        for &(vlan, mac, port) in &known.stations {
            self.tell(index, Message::FixStation { vlan, mac, port });
        }
        self.tell(index, Message::Tune(known.limits));
        for entry in self.stations().into_iter().filter(|entry| !entry.fixed) {
            // Nobody is flushed meanwhile.
            let generation = known.generations.get(entry.port.index()).copied().unwrap_or(0);
            self.tell(index, Message::Learn(entry.to_message(generation)));
        }
    }

    /// The guest of that core has gone.
    pub(in super::super) fn release_own(&self, core: usize) {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(core);
    }
}
