//! `sidecore metrics`.

use anyhow::Result;
use clap::{Args, Subcommand};

use super::table;
use crate::metrics::{self, Described};

#[derive(Debug, Subcommand)]
pub(super) enum MetricsCommand {
    /// List every metric with its type, labels and meaning.
    ///
    /// Needs no running switch: it is the list from which /metrics is made.
    List(Form),
}

#[derive(Debug, Args)]
#[group(multiple = false)]
pub(super) struct Form {
    /// Print a JSON list, which says as well how many series each metric has at the most.
    #[arg(long)]
    json: bool,
    /// Print docs/metrics.md.
    #[arg(long)]
    markdown: bool,
}

pub(super) fn execute(command: &MetricsCommand) -> Result<()> {
    let MetricsCommand::List(form) = command;
    if form.json {
        return super::print_json(&metrics::list().collect::<Vec<_>>());
    }
    if form.markdown {
        return super::print(&metrics::markdown());
    }
    let row = |metric: Described| {
        vec![metric.name.to_owned(), metric.r#type.to_owned(), metric.labels.join(","), metric.help.to_owned()]
    };
    super::print(&table::render(
        &["METRIC", "TYPE", "LABELS", "MEANING"],
        &metrics::list().map(row).collect::<Vec<_>>(),
    ))
}
