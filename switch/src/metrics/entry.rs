//! What a metric is: its name, its type, what it means, and where its values are in a snapshot.

use super::text::Out;
use crate::snapshot::{CoreSnapshot, PortKind, PortSnapshot, QueueSnapshot, Snapshot};

/// One metric.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
    /// Labels beside those of what the metric is of.
    pub(super) labels: &'static [&'static str],
    /// Series for each of what the metric is of, at the most.
    pub(super) most: usize,
    /// The only kind of port that has it; `None`: both.
    pub(super) only: Option<PortKind>,
    pub(super) read: Read,
}

/// How a metric changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only up, until its port is removed.
    Counter,
    /// Up and down.
    Gauge,
    /// How many of what was counted were not above each bound.
    Histogram,
    /// Always 1: the labels are what it says.
    Info,
    /// Nobody but the driver of a device knows.
    Unknown,
}

impl Kind {
    /// What OpenMetrics calls it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Info => "info",
            Self::Unknown => "unknown",
        }
    }
}

/// Writes the values of one switch, core, port or queue.
#[derive(Clone, Copy)]
pub(super) enum Read {
    /// No label.
    Switch(fn(&Snapshot, &mut Out<'_>)),
    /// `core`.
    Core(fn(&CoreSnapshot, &mut Out<'_>)),
    /// `port`.
    Port(fn(&PortSnapshot, &mut Out<'_>)),
    /// `port`, `queue`.
    Queue(fn(&PortSnapshot, &QueueSnapshot, &mut Out<'_>)),
}

impl Read {
    /// The labels that every metric of this has.
    pub(super) fn labels(self) -> &'static [&'static str] {
        match self {
            Self::Switch(_) => &[],
            Self::Core(_) => &["core"],
            Self::Port(_) => &["port"],
            Self::Queue(_) => &["port", "queue"],
        }
    }
}

impl Entry {
    const fn new(name: &'static str, kind: Kind, read: Read, help: &'static str) -> Self {
        Self { name, kind, help, labels: &[], most: 1, only: None, read }
    }

    /// With labels of its own, and at most so many series for each of what it is of.
    pub(super) const fn labelled(self, labels: &'static [&'static str], most: usize) -> Self {
        Self { labels, most, ..self }
    }

    /// Guests have it, uplinks do not.
    pub(super) const fn guests(self) -> Self {
        Self { only: Some(PortKind::Guest), ..self }
    }

    /// Uplinks have it, guests do not.
    pub(super) const fn uplinks(self) -> Self {
        Self { only: Some(PortKind::Uplink), ..self }
    }

    /// Whether ports of this kind have it.
    pub(super) fn is_for(&self, kind: PortKind) -> bool {
        self.only.is_none_or(|only| only == kind)
    }

    /// The family's name: OpenMetrics has no suffix there.
    pub(super) fn family(&self) -> &'static str {
        match self.kind {
            Kind::Counter => self.name.strip_suffix("_total").unwrap_or(self.name),
            Kind::Info => self.name.strip_suffix("_info").unwrap_or(self.name),
            _ => self.name,
        }
    }

    /// The base unit, where the name says one.
    pub(super) fn unit(&self) -> Option<&'static str> {
        ["seconds", "bytes", "hertz"].into_iter().find(|unit| {
            self.family().strip_suffix(unit).is_some_and(|rest| rest.ends_with('_')) && self.kind != Kind::Info
        })
    }
}

pub(super) const fn counter(name: &'static str, read: Read, help: &'static str) -> Entry {
    Entry::new(name, Kind::Counter, read, help)
}

pub(super) const fn gauge(name: &'static str, read: Read, help: &'static str) -> Entry {
    Entry::new(name, Kind::Gauge, read, help)
}

pub(super) const fn info(name: &'static str, labels: &'static [&'static str], read: Read, help: &'static str) -> Entry {
    Entry::new(name, Kind::Info, read, help).labelled(labels, 1)
}

pub(super) const fn unknown(name: &'static str, read: Read, help: &'static str) -> Entry {
    Entry::new(name, Kind::Unknown, read, help)
}

/// A histogram with so many bounds, of microseconds.
pub(super) const fn histogram(name: &'static str, bounds: usize, read: Read, help: &'static str) -> Entry {
    // Beside the bounds: infinity, the sum and the count.
    Entry::new(name, Kind::Histogram, read, help).labelled(&["le"], bounds + 3)
}
