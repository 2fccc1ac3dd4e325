//! Every metric. Names are stable from 0.1 on.
//!
//! Series of a queue carry no label for the core, since moving the queue would then break them;
//! `sidecore_queue_io_core` says where it is.

mod core;
mod port;
mod queue;
mod switch;

use super::entry::Entry;

/// A part of the catalogue.
pub(super) struct Group {
    pub(super) title: &'static str,
    pub(super) entries: &'static [Entry],
}

/// All of them, in the order they are shown.
pub(super) const GROUPS: &[Group] = &[
    Group { title: "The switch", entries: switch::ENTRIES },
    Group { title: "I/O cores", entries: core::ENTRIES },
    Group { title: "Ports", entries: port::ENTRIES },
    Group { title: "Queues", entries: queue::ENTRIES },
];

/// Every metric.
pub(super) fn entries() -> impl Iterator<Item = &'static Entry> {
    GROUPS.iter().flat_map(|group| group.entries)
}
