//! One I/O core with more and more busy guests, up to its limit and beyond.

mod guests;
mod limit;
mod load;

use anyhow::Result;
use sidecore_tests::switch::SwitchConfig;

use super::Lab;
use super::finding::{Finding, show};
use super::stage::{Stage, name};
use crate::stats::{self, Ratio};

/// Busy guests at most.
const BUSY: usize = 16;

/// Makes the experiment.
pub fn run(lab: &Lab) -> Result<Finding> {
    let mut finding = Finding {
        name: "saturation".to_owned(),
        title: "Saturation: one I/O core, more and more busy guests".to_owned(),
        question: "What do guests get when an I/O core has to serve more and more of them, up to its limit and beyond it: throughput, round \
                   trips, losses, and is it shared fairly?"
            .to_owned(),
        repeat: lab.repeat("saturation"),
        conditions: lab.conditions(),
        ..Finding::default()
    };
    guests::find(lab, &mut finding)?;
    load::find(lab, &mut finding)?;
    Ok(finding)
}

/// A switch for so many guests whose housekeeping does not disturb the generator, which may share a CPU with it.
pub fn stage(lab: &Lab, guests: usize, lines: impl Fn(usize) -> Vec<&'static str>) -> Result<Stage> {
    Stage::start(lab, 1, |config| ports(config, guests, lines))
}

fn ports(config: SwitchConfig, guests: usize, lines: impl Fn(usize) -> Vec<&'static str>) -> SwitchConfig {
    (0..guests).fold(quiet(config), |config, guest| config.guest(&name(guest), &lines(guest)))
}

/// Nothing is moved, and loads are read once in a second.
fn quiet(config: SwitchConfig) -> SwitchConfig {
    config.without_rebalancing().scheduler("tick_ms = 1000")
}

/// A cell of a table.
fn cell(figure: Option<Ratio>) -> String {
    figure.map_or("-".to_owned(), show)
}

/// The same of all rounds.
fn estimate(figures: &[f64]) -> String {
    cell(stats::estimate(figures))
}
