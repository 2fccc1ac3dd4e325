//! The catalogue for people and programs: `sidecore metrics list` and `docs/metrics.md`.

use std::fmt::Write as _;

use serde::Serialize;

use super::catalogue::{self, GROUPS};
use super::entry::{Entry, Read};
use crate::snapshot::PortKind;

/// A metric, described.
#[derive(Debug, Serialize)]
pub(crate) struct Described {
    pub(crate) name: &'static str,
    pub(crate) r#type: &'static str,
    pub(crate) labels: Vec<&'static str>,
    pub(crate) help: &'static str,
    /// How many there can be.
    pub(crate) series: Series,
}

/// Series for each of what there is, at the most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Series {
    pub(crate) per_switch: usize,
    pub(crate) per_core: usize,
    pub(crate) per_guest: usize,
    pub(crate) per_uplink: usize,
    pub(crate) per_guest_queue_pair: usize,
    pub(crate) per_uplink_queue: usize,
}

/// A switch of some size.
pub(crate) struct Size {
    pub(crate) cores: usize,
    pub(crate) guests: usize,
    pub(crate) queue_pairs: usize,
    pub(crate) uplinks: usize,
    pub(crate) uplink_queues: usize,
}

impl Series {
    fn of(entry: &Entry) -> Self {
        let (most, none) = (entry.most, Self::default());
        let for_kind = |kind| if entry.is_for(kind) { most } else { 0 };
        let (guest, uplink) = (for_kind(PortKind::Guest), for_kind(PortKind::Uplink));
        match entry.read {
            Read::Switch(_) => Self { per_switch: most, ..none },
            Read::Core(_) => Self { per_core: most, ..none },
            Read::Port(_) => Self { per_guest: guest, per_uplink: uplink, ..none },
            Read::Queue(_) => Self { per_guest_queue_pair: guest, per_uplink_queue: uplink, ..none },
        }
    }

    /// Those of all metrics together.
    pub(crate) fn of_all() -> Self {
        catalogue::entries().map(Self::of).fold(Self::default(), |sum, one| Self {
            per_switch: sum.per_switch + one.per_switch,
            per_core: sum.per_core + one.per_core,
            per_guest: sum.per_guest + one.per_guest,
            per_uplink: sum.per_uplink + one.per_uplink,
            per_guest_queue_pair: sum.per_guest_queue_pair + one.per_guest_queue_pair,
            per_uplink_queue: sum.per_uplink_queue + one.per_uplink_queue,
        })
    }

    /// Of a switch of this size.
    pub(crate) fn total(self, size: &Size) -> usize {
        self.per_switch
            + self.per_core * size.cores
            + self.per_guest * size.guests
            + self.per_guest_queue_pair * size.queue_pairs
            + self.per_uplink * size.uplinks
            + self.per_uplink_queue * size.uplink_queues
    }
}

/// Every metric.
pub(crate) fn list() -> impl Iterator<Item = Described> {
    catalogue::entries().map(described)
}

fn described(entry: &Entry) -> Described {
    let labels = entry.read.labels().iter().chain(entry.labels).copied().collect();
    let Entry { name, kind, help, .. } = *entry;
    Described { name, r#type: kind.as_str(), labels, help, series: Series::of(entry) }
}

/// `docs/metrics.md`.
pub(crate) fn markdown() -> String {
    let mut text = HEAD.to_owned();
    for group in GROUPS {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n## {}\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n", group.title);
        for entry in group.entries {
            let Described { name, r#type, labels, help, .. } = described(entry);
            let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
            let _ = writeln!(text, "| `{name}` | {} | {} | {} |", r#type, labels.join(" "), help);
        }
    }
    let all = Series::of_all();
    let example = Size { cores: 4, guests: 256, queue_pairs: 256, uplinks: 2, uplink_queues: 8 };
    let _ = write!(
        text,
        "\n## How many series\n\n\
         | for each | series, at the most |\n|---|---|\n\
         | switch | {} |\n| I/O core | {} |\n| guest | {} |\n| queue pair of a guest | {} |\n\
         | uplink, its driver's statistics included | {} |\n| queue of an uplink | {} |\n\n\
         A switch with 4 I/O cores, 256 guests of one queue pair and 2 uplinks of 4 queues has {} at the most. No label holds what a guest\n\
         or a packet brings along: names, sockets and devices are the configuration's, reasons and kinds are those of this version, \
         and what a guest\nnegotiates replaces what it negotiated before.\n",
        all.per_switch,
        all.per_core,
        all.per_guest,
        all.per_guest_queue_pair,
        all.per_uplink,
        all.per_uplink_queue,
        all.total(&example),
    );
    text
}

const HEAD: &str = "\
# Metrics

What `GET /metrics` answers where `http_listen` is set. This page is written by `sidecore metrics list --markdown`, from the same list
that the switch serves; `sidecore metrics list` shows it in a terminal, with `--json` for programs.

OpenMetrics 1.0 for those who ask for it (Prometheus does), else Prometheus' text format 0.0.4. There a metric of type *info* is a
gauge of value 1, and *unknown* is called untyped. Units are Prometheus' base units: seconds, bytes. Counters begin at 0 when the switch starts, or
when their port is added. RX and TX of a guest are named from the guest's side, those of an uplink from the NIC's. A label that is \
empty says nothing.

Series of a queue carry no label for the I/O core, since moving the queue would then break them; `sidecore_queue_io_core` says where it is.
";
