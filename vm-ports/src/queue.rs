//! A queue pair: the unit that is attached to an I/O core, taken back from it, and moved between cores.

use std::sync::Arc;

use crate::counters::QueueCounters;
use crate::rx::RxQueue;
use crate::tx::TxQueue;

/// One RX and one TX virtqueue of a guest, either of which may not be started yet. A value: whoever holds it is the only one to
/// touch the rings.
#[derive(Debug)]
pub struct QueuePair {
    /// Switch to guest.
    pub rx: Option<RxQueue>,
    /// Guest to switch.
    pub tx: Option<TxQueue>,
    counters: Arc<QueueCounters>,
}

impl QueuePair {
    /// A queue pair without rings.
    pub fn new(counters: Arc<QueueCounters>) -> Self {
        Self { rx: None, tx: None, counters }
    }

    /// What it counts.
    pub fn counters(&self) -> &Arc<QueueCounters> {
        &self.counters
    }
}
