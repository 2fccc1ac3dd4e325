//! What a snapshot looks like to Prometheus, and the catalogue of all metrics.
//!
//! ```text
//! catalogue/   what there is: name, type, labels, meaning, and where the value is in a snapshot
//! entry        what a metric is
//! text         values as text, in either format
//! describe     the catalogue for people: `sidecore metrics list`, docs/metrics.md
//! ```

mod catalogue;
mod describe;
mod entry;
mod text;

use crate::snapshot::Snapshot;
pub(crate) use describe::{Described, list, markdown};
pub(crate) use text::Format;

/// Every metric of the catalogue that has a value now.
pub(crate) fn render(snapshot: &Snapshot, format: Format) -> String {
    text::write(catalogue::entries(), snapshot, format)
}

#[cfg(test)]
pub(crate) mod tests;
