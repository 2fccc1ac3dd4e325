//! The figures, for people and for programs.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::json;

use crate::budget::TOLERANCE;
use crate::callgrind;
use crate::scrape::Scrapes;

/// Instructions counted, and what for.
pub(crate) struct Figure {
    pub(crate) instructions: u64,
    /// So many packets or rounds.
    pub(crate) of: u64,
}

impl Figure {
    fn each(&self) -> f64 {
        self.instructions as f64 / self.of as f64
    }
}

/// One line of the table.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) budget: f64,
    pub(crate) measured: Figure,
    pub(crate) limit: Figure,
}

/// What a figure is, seen from its budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Within,
    Over,
    Under,
}

impl Row {
    pub(crate) fn verdict(&self) -> Verdict {
        let ratio = self.measured.each() / self.budget;
        if ratio > 1.0 + TOLERANCE {
            Verdict::Over
        } else if ratio < 1.0 - TOLERANCE {
            Verdict::Under
        } else {
            Verdict::Within
        }
    }
}

/// A table for people.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{:<32}{:>10}{:>10}{:>10}{:>12}", "instructions", "measured", "budget", "limit", "× limit");
    for row in rows {
        let (measured, limit) = (row.measured.each(), row.limit.each());
        let note = match row.verdict() {
            Verdict::Within => "",
            Verdict::Over => "  OVER BUDGET",
            Verdict::Under => "  lower the budget",
        };
        let _ = writeln!(
            text,
            "{:<32}{measured:>10.1}{:>10.1}{limit:>10.1}{:>12.1}{note}",
            format!("{} /{}", row.name, row.unit),
            row.budget,
            measured / limit,
        );
    }
    let over = rows.iter().filter(|row| row.verdict() == Verdict::Over).count();
    if over > 0 {
        let _ = writeln!(
            text,
            "{over} over budget by more than {:.0} %: make it cheaper, or raise the budget in switch/benches/budgets.toml and say why in \
             CHANGELOG.md. callgrind_annotate target/bench/callgrind/NAME.switch shows where the instructions are.",
            TOLERANCE * 100.0
        );
    }
    text
}

/// `target/bench/instructions.json`.
pub(crate) fn write_json(rows: &[Row], scrapes: &Scrapes, valgrind: &str) -> Result<PathBuf> {
    let cases: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "name": row.name,
                "unit": row.unit,
                "measured": row.measured.each(),
                "budget": row.budget,
                "limit": row.limit.each(),
                "verdict": match row.verdict() {
                    Verdict::Within => "within",
                    Verdict::Over => "over",
                    Verdict::Under => "under",
                },
                "instructions": row.measured.instructions,
                "of": row.measured.of,
                "limit_instructions": row.limit.instructions,
            })
        })
        .collect();
    let document = json!({ "valgrind": valgrind, "tolerance": TOLERANCE, "cases": cases, "scrapes": scrapes.json() });
    let path = callgrind::folder()?.join("instructions.json");
    let text = serde_json::to_string_pretty(&document).context("figures as JSON")?;
    std::fs::write(&path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
