//! The command line of `bench-peers`.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::Parser;
use clap::builder::FalseyValueParser;

use crate::systems::Kind;
use crate::work::{Row, default_rows, full_rows};

/// Compares Sidecore with OVS-DPDK and testpmd: the same generator, the same CPUs, interleaved rounds.
///
/// Results are written to target/bench/peers.json, peers.md and peers.svg.
#[derive(Debug, Clone, Parser)]
#[command(name = "bench-peers", version)]
pub struct Options {
    /// All sizes, one and four guests or pairs of them, OVS's NORMAL action and testpmd's mac mode. Takes hours.
    #[arg(long, env = "FULL", value_parser = FalseyValueParser::new())]
    pub full: bool,

    /// Only these rows, by name, separated by commas. `--list` shows the names.
    #[arg(long, env = "ROWS", value_delimiter = ',', value_name = "NAMES")]
    pub rows: Vec<String>,

    /// Shows the names of the rows, and ends.
    #[arg(long)]
    pub list: bool,

    /// Rounds of each row.
    #[arg(long, env = "ROUNDS", default_value_t = 12)]
    pub rounds: usize,

    /// Measured seconds of each system in each round.
    #[arg(long, env = "SECONDS_PER_ROUND", default_value_t = 2.0)]
    pub seconds: f64,

    /// Turns of each system in each round, of which the round's figure is the mean: a machine whose state changes within a round is then
    /// more alike for all of them.
    #[arg(long, env = "TURNS", default_value_t = 10)]
    pub turns: usize,

    /// The CPU that forwards.
    #[arg(long, default_value_t = 1)]
    pub switch_cpu: usize,

    /// The CPU of the generator.
    #[arg(long, default_value_t = 0)]
    pub generator_cpu: usize,

    /// The CPU of the systems' other threads [default: 2 where there is one, else the generator's]
    #[arg(long)]
    pub other_cpu: Option<usize>,

    /// The share of a CPU that every system's forwarding thread gets in rows where the generator would be the limit; 0
    /// means no limit in any row.
    #[arg(long, default_value_t = 0.5)]
    pub quota: f64,

    /// No hugepages for anyone, even where there are some.
    #[arg(long)]
    pub no_hugepages: bool,

    /// Where the results go [default: target/bench]
    #[arg(long)]
    pub out: Option<PathBuf>,
}

impl Options {
    /// The rows to be measured.
    pub fn chosen_rows(&self) -> Result<Vec<Row>> {
        let wanted: Vec<&str> = self.rows.iter().map(|name| name.trim()).filter(|name| !name.is_empty()).collect();
        if wanted.is_empty() {
            return Ok(if self.full { full_rows() } else { default_rows() });
        }
        let known = full_rows();
        let mut chosen = Vec::new();
        for name in wanted {
            let Some(row) = known.iter().find(|row| row.key() == name) else {
                bail!("there is no row '{name}': `bench-peers --list` shows their names");
            };
            chosen.push(row.clone());
        }
        Ok(chosen)
    }

    /// The systems to be compared, in the order of their turns.
    #[must_use]
    pub fn systems(&self) -> &'static [Kind] {
        if self.full { &Kind::FULL } else { &Kind::DEFAULT }
    }

    /// Where housekeeping threads run, on a machine with so many CPUs.
    #[must_use]
    pub fn other_cpu(&self, cpus: usize) -> usize {
        self.other_cpu.unwrap_or(if cpus > 2 { 2 } else { self.generator_cpu })
    }

    /// Measured seconds of a turn.
    #[must_use]
    pub fn turn_seconds(&self) -> f64 {
        (self.seconds / self.turns as f64 * 1e3).round() / 1e3
    }

    /// Refuses what cannot be measured on a machine with so many CPUs.
    pub fn check(&self, cpus: usize) -> Result<()> {
        ensure!(cpus >= 2, "this machine has one CPU: the switch and the generator need one each");
        for cpu in [self.switch_cpu, self.generator_cpu, self.other_cpu(cpus)] {
            ensure!(cpu < cpus, "there is no CPU {cpu}: this machine has CPUs 0 to {}", cpus - 1);
        }
        ensure!(self.switch_cpu != self.generator_cpu, "the switch and the generator need a CPU each");
        ensure!(self.switch_cpu != self.other_cpu(cpus), "nothing else may run on the switch's CPU");
        ensure!(self.rounds > 0, "--rounds: at least one");
        ensure!(self.turns > 0, "--turns: at least one in a round");
        ensure!(
            (0.1..=3600.0).contains(&self.turn_seconds()),
            "--seconds: from 0.1 to 3600 for each of {} turns",
            self.turns
        );
        ensure!((0.0..1.0).contains(&self.quota), "--quota: from 0 (none) to less than 1");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Options {
        Options::parse_from(["bench-peers"].iter().chain(args))
    }

    #[test]
    fn rows_are_chosen_by_name_and_the_default_has_all_goals() {
        assert_eq!(parse(&[]).chosen_rows().unwrap().len(), default_rows().len());
        let chosen = parse(&["--rows", "v2v-tso, p2v-64,v2v-512-packed-8guests"]).chosen_rows().unwrap();
        assert_eq!(chosen.iter().map(Row::key).collect::<Vec<_>>(), ["v2v-tso", "p2v-64", "v2v-512-packed-8guests"]);
        let error = parse(&["--rows=v2v"]).chosen_rows().unwrap_err().to_string();
        assert!(error.contains("no row 'v2v'") && error.contains("--list"), "{error}");
    }

    #[test]
    fn full_adds_rows_and_systems() {
        let full = parse(&["--full"]);
        assert!(full.chosen_rows().unwrap().len() > default_rows().len());
        assert!(full.systems().contains(&Kind::OvsNormal) && full.systems().contains(&Kind::TestpmdMac));
    }

    #[test]
    fn cpus_that_are_shared_or_not_there_are_refused() {
        assert!(parse(&[]).check(2).is_ok());
        assert_eq!(parse(&[]).other_cpu(2), 0);
        assert_eq!(parse(&[]).other_cpu(4), 2);
        assert!(parse(&[]).check(1).is_err());
        assert!(parse(&["--generator-cpu=1"]).check(4).is_err());
        assert!(parse(&["--switch-cpu=2"]).check(4).is_err(), "the others would be there");
        assert!(parse(&["--switch-cpu=7"]).check(4).unwrap_err().to_string().contains("no CPU 7"));
        assert!(parse(&["--rounds=0"]).check(2).is_err());
        assert!(parse(&["--turns=0"]).check(2).is_err());
        assert!(parse(&["--turns=5", "--seconds=0.4"]).check(2).unwrap_err().to_string().contains("5 turns"));
    }
}
