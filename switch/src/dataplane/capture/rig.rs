//! A capture without a thread, for rigs.

use std::sync::Arc;

use pmd_bindings::tsc_hz;

use super::super::ports::PORTS_MAX;
use super::record::Reader;
use super::tap::{Selection, Tap, TapCounters, tap};
use crate::forwarding::PortId;

/// Bytes of a ring.
const RING: usize = 4 << 20;

/// What the taps of some cores record.
pub(in super::super) struct RigTaps {
    readers: Vec<Reader>,
    counters: Vec<Arc<[TapCounters]>>,
    packet: Vec<u8>,
}

impl RigTaps {
    /// As cores know it.
    pub(in super::super) const NUMBER: u64 = 0;

    /// Taps for so many cores at a port.
    pub(in super::super) fn new(port: PortId, cores: usize, core_share: u32) -> (Vec<Tap>, Self) {
        // Where EAL was not started there is no speed of the clock.
        let mut selection = Selection::all(&[port], PORTS_MAX, tsc_hz().max(1_000_000_000));
        selection.core_share = core_share;
        let (taps, readers, counters) = (0..cores).map(|_| tap(Self::NUMBER, 1, selection.clone(), RING)).collect();
        (taps, Self { readers, counters, packet: Vec::new() })
    }

    pub(in super::super) fn drain(&mut self) -> usize {
        let mut count = 0;
        for reader in &mut self.readers {
            while reader.peek().is_some() {
                reader.take(&mut self.packet);
                count += 1;
            }
        }
        count
    }

    pub(in super::super) fn counts(&self) -> (u64, u64) {
        let counters = || self.counters.iter().flat_map(|counters| counters.iter());
        (counters().map(|c| c.seen.get()).sum(), counters().map(|c| c.recorded.get()).sum())
    }
}
