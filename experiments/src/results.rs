//! The results as they are written: one object for each row, figure and system.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::judge::{self, Limit};
use crate::ringgen::Negotiated;
use crate::stats::{self, Ratio};
use crate::systems::Kind;
use crate::work::{Goal, Metric, Ring, Row};

/// One system in one row, for one of the figures measured there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The row's name.
    pub row: String,
    /// What the packets did and what was measured: `v2v`, `v2v-tso`, `p2v`, `v2p`, `rtt-idle-p50`, …
    pub work: String,
    /// Bytes of a frame on the wire, with its FCS, or of a segment for `v2v-tso`.
    pub size: u32,
    /// Ring format.
    pub ring: Ring,
    /// Ring size.
    pub ring_size: u32,
    /// Number of guests.
    pub guests: u32,
    /// The system.
    pub system: Kind,
    /// Unit of the figures.
    pub unit: String,
    /// The figure of every round.
    pub rounds: Vec<f64>,
    /// Their median.
    pub median: Option<f64>,
    /// Median share of the generator's time in polls that found nothing to do.
    pub generator_idle: Option<f64>,
    /// Median share of a CPU that the forwarding thread really had.
    pub switch_cpu: Option<f64>,
    /// The generator's idle share of the time in which the forwarding thread ran: what decides whether the row counts.
    pub generator_idle_while_switch_ran: Option<f64>,
    /// What the verification run has shown.
    pub verified: Verified,
    /// Packets a second of the stream beside round trips that were asked for, in the median of the rounds.
    pub background_pps: Option<f64>,
    /// The same of those that arrived.
    pub background_received_pps: Option<f64>,
    /// Share of a CPU that every forwarding thread was limited to, where the generator would have been the limit.
    pub quota: Option<f64>,
    /// Whether the generator was the limit: then the ratio says little about the systems.
    pub generator_bound: bool,
    /// Why there are no figures, or what is wrong with them.
    pub error: Option<String>,
    /// What the guests negotiated.
    pub negotiated: Vec<Negotiated>,
    /// The system's command lines.
    pub commands: Vec<String>,
    /// Sidecore's ratio to each peer.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ratio: BTreeMap<Kind, Against>,
}

/// What was verified of a system's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Verified {
    /// True: every packet was found in order, once and intact. False: nothing was.
    Wholly(bool),
    /// Only a part of that, since a NIC sends or receives.
    Partly(Part),
}

/// The part that was verified where a NIC sends or receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// As many packets reached the NIC as were sent.
    Count,
    /// What came from the NIC was intact.
    Contents,
}

impl Default for Verified {
    fn default() -> Self {
        Self::Wholly(false)
    }
}

/// Sidecore against one peer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Against {
    /// The ratio of medians and its interval.
    #[serde(flatten)]
    pub ratio: Ratio,
    /// The goal, where there is one.
    pub goal: Option<Goal>,
    /// Whether the end of the interval that counts reaches it, in a row that counts or whose ratio is [at least](Self::at_least) this one.
    pub reached: Option<bool>,
    /// Whether the generator slowed Sidecore down and not the peer: what the ratio would be without is no less.
    pub at_least: bool,
}

/// What was measured of one system in one row.
#[derive(Debug, Clone, Default)]
pub struct Series {
    /// For every metric of the row, the figure of every round.
    pub rounds: Vec<Vec<f64>>,
    /// The generator's idle share in every round.
    pub idle: Vec<f64>,
    /// The share of a CPU that the forwarding thread had, in every round.
    pub cpu: Vec<f64>,
    /// The stream beside round trips in every round, where there is one.
    pub beside: Vec<Beside>,
    /// What the verification run has shown.
    pub verified: Verified,
    /// Why the system is out.
    pub error: Option<String>,
    /// What its guests negotiated.
    pub negotiated: Vec<Negotiated>,
    /// Its command lines.
    pub commands: Vec<String>,
}

/// A stream beside round trips.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Beside {
    /// Packets a second that were asked for.
    pub asked: f64,
    /// Packets a second that arrived.
    pub arrived: f64,
}

impl Series {
    /// The generator's idle share of the time in which the switch ran, in the median of the rounds.
    #[must_use]
    pub fn idle_while_running(&self) -> Option<f64> {
        let rounds = self.idle.iter().zip(&self.cpu).map(|(idle, cpu)| judge::idle_while_running(*idle, *cpu));
        stats::median(&rounds.collect::<Vec<_>>())
    }

    /// Forgets all rounds.
    pub fn begin_again(&mut self) {
        self.rounds.iter_mut().chain([&mut self.idle, &mut self.cpu]).for_each(Vec::clear);
        self.beside.clear();
    }
}

/// Who was the limit in a figure of a row.
#[must_use]
pub fn limit<'s>(row: &Row, number: usize, systems: impl Iterator<Item = &'s Series>) -> Limit {
    let running = systems.filter(|series| series.error.is_none());
    let figures: Vec<(f64, f64)> = running
        .filter_map(|series| {
            Some((row.work.speed(stats::median(series.rounds.get(number)?)?), series.idle_while_running()?))
        })
        .collect();
    judge::limit(&figures)
}

/// A row with what was measured of every system.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The row.
    pub row: Row,
    /// The systems, in the order of their turns.
    pub systems: Vec<(Kind, Series)>,
    /// The share of a CPU everybody was limited to.
    pub quota: Option<f64>,
}

impl Outcome {
    /// Whether any system failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.systems.iter().any(|(_, series)| series.error.is_some())
    }

    /// The row's entries.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        let metrics = self.row.metrics().iter().enumerate();
        metrics.flat_map(|(number, metric)| self.entries_of(number, *metric)).collect()
    }

    fn entries_of(&self, number: usize, metric: Metric) -> Vec<Entry> {
        let generator_bound =
            limit(&self.row, number, self.systems.iter().map(|(_, series)| series)) == Limit::Generator;
        let mut entries: Vec<Entry> = self
            .systems
            .iter()
            .map(|(kind, series)| self.entry(*kind, series, number, metric, generator_bound))
            .collect();
        let peers: Vec<(Kind, Vec<f64>)> =
            entries.iter().filter(|e| e.error.is_none()).map(|e| (e.system, e.rounds.clone())).collect();
        for entry in entries.iter_mut().filter(|e| e.system == Kind::Sidecore && e.error.is_none()) {
            for (peer, theirs) in peers.iter().filter(|(peer, _)| *peer != Kind::Sidecore) {
                let Some(ratio) = stats::ratio(&entry.rounds, theirs) else { continue };
                let goal = self.row.goal(*peer);
                let at_least = generator_bound && self.slows_only_sidecore(*peer);
                let counts = !generator_bound || (at_least && matches!(goal, Some(Goal::AtLeast(_))));
                let reached = goal.map(|goal| goal.is_reached(&ratio) && counts);
                entry.ratio.insert(*peer, Against { ratio, goal, reached, at_least });
            }
        }
        entries
    }

    /// Whether the generator idles enough with a peer, so that it can be too slow for nobody but Sidecore.
    fn slows_only_sidecore(&self, peer: Kind) -> bool {
        let peers = self.systems.iter().filter(|(kind, _)| *kind == peer);
        peers.filter_map(|(_, series)| series.idle_while_running()).all(|idle| idle >= judge::LEAST_IDLE)
    }

    fn entry(&self, kind: Kind, series: &Series, number: usize, metric: Metric, generator_bound: bool) -> Entry {
        let rounds = series.rounds.get(number).cloned().unwrap_or_default();
        let beside = |pps: fn(&Beside) -> f64| stats::median(&series.beside.iter().map(pps).collect::<Vec<_>>());
        Entry {
            row: self.row.key(),
            work: format!("{}{}", self.row.work.name(), metric.suffix()),
            size: self.row.size,
            ring: self.row.ring,
            ring_size: self.row.ring_size,
            guests: self.row.guests,
            system: kind,
            unit: metric.unit().to_owned(),
            median: stats::median(&rounds),
            rounds,
            generator_idle: stats::median(&series.idle),
            switch_cpu: stats::median(&series.cpu),
            generator_idle_while_switch_ran: series.idle_while_running(),
            verified: series.verified,
            background_pps: beside(|beside| beside.asked),
            background_received_pps: beside(|beside| beside.arrived),
            quota: self.quota,
            generator_bound,
            error: series.error.clone(),
            negotiated: series.negotiated.clone(),
            commands: series.commands.clone(),
            ratio: BTreeMap::new(),
        }
    }
}

/// Writes all entries as one JSON list.
pub fn write(path: &Path, entries: &[Entry]) -> Result<()> {
    let text = serde_json::to_string_pretty(entries)? + "\n";
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::Value;

    use super::*;
    use crate::work::default_rows;

    /// A row in which Sidecore is three times as fast as OVS and twice as fast as testpmd.
    pub(crate) fn sample(key: &str) -> Outcome {
        let row = default_rows().into_iter().find(|row| row.key() == key).unwrap();
        let series = |figure: f64, idle: f64| Series {
            rounds: row.metrics().iter().map(|_| vec![figure, figure * 1.1, figure * 0.9]).collect(),
            idle: vec![idle; 3],
            cpu: vec![1.0; 3],
            verified: Verified::Wholly(true),
            negotiated: vec![Negotiated { features: "0x100000000".to_owned(), ..Negotiated::default() }],
            commands: vec!["switch --fast".to_owned()],
            ..Series::default()
        };
        let systems = vec![
            (Kind::Sidecore, series(6.0, 0.3)),
            (Kind::OvsDirect, series(2.0, 0.6)),
            (Kind::TestpmdIo, series(3.0, 0.5)),
        ];
        Outcome { row, systems, quota: None }
    }

    #[test]
    fn ratios_are_sidecores_and_say_whether_the_goal_is_reached() {
        let entries = sample("v2v-1518-split-1024").entries();
        let [sidecore, ovs, testpmd] = &entries[..] else { panic!("{entries:?}") };
        assert!(ovs.ratio.is_empty() && testpmd.ratio.is_empty());
        let against_ovs = sidecore.ratio[&Kind::OvsDirect];
        assert!((against_ovs.ratio.value - 3.0).abs() < 1e-9);
        assert_eq!(against_ovs.goal, Some(Goal::AtLeast(3.0)));
        assert_eq!(sidecore.ratio[&Kind::TestpmdIo].reached, Some(false), "2.0 is less than 2.5");
    }

    #[test]
    fn a_row_whose_generator_was_the_limit_reaches_no_goal() {
        let mut outcome = sample("v2v-64-split");
        assert_eq!(outcome.entries()[0].ratio[&Kind::OvsDirect].reached, Some(true));
        outcome.systems[0].1.idle = vec![0.05; 3];
        outcome.systems[1].1.idle = vec![0.05; 3];
        let entries = outcome.entries();
        assert!(entries.iter().all(|entry| entry.generator_bound));
        assert_eq!(entries[0].ratio[&Kind::OvsDirect].reached, Some(false));
        let testpmd = entries[0].ratio[&Kind::TestpmdIo];
        assert_eq!((testpmd.reached, testpmd.at_least), (Some(true), true), "it was too slow for Sidecore alone");
    }

    #[test]
    fn half_a_cpu_does_not_make_a_row_count() {
        let mut outcome = sample("v2v-64-split");
        for (_, series) in &mut outcome.systems {
            (series.idle, series.cpu) = (vec![0.6; 3], vec![0.41; 3]);
        }
        let entry = &outcome.entries()[0];
        assert!(entry.generator_bound && entry.generator_idle_while_switch_ran.unwrap() < 0.03, "{entry:?}");
        outcome.systems[0].1.idle = vec![0.7; 3];
        assert!(!outcome.entries()[0].generator_bound);
    }

    #[test]
    fn round_trips_count_only_if_the_generator_idles_with_the_quickest() {
        let mut outcome = sample("rtt-half");
        outcome.systems[1].1.idle = vec![0.05; 3];
        assert!(outcome.entries()[0].generator_bound, "OVS has the shortest ones here");
        outcome.systems[1].1.idle = vec![0.5; 3];
        outcome.systems[0].1.idle = vec![0.05; 3];
        assert!(!outcome.entries()[0].generator_bound);
    }

    #[test]
    fn what_was_verified_is_true_false_or_a_word() {
        let words = [Verified::Wholly(true), Verified::Partly(Part::Count), Verified::Partly(Part::Contents)];
        assert_eq!(serde_json::to_string(&words).unwrap(), r#"[true,"count","contents"]"#);
    }

    #[test]
    fn a_system_that_is_out_has_an_error_and_no_ratio() {
        let mut outcome = sample("v2v-64-split");
        outcome.systems[1].1.error = Some("of 10 packets received: 1 reordered".to_owned());
        let entries = outcome.entries();
        assert!(outcome.has_failed());
        assert!(!entries[0].ratio.contains_key(&Kind::OvsDirect));
        assert!(entries[0].ratio.contains_key(&Kind::TestpmdIo), "the others go on");
        outcome.systems[0].1.error = Some("it did not start".to_owned());
        assert!(outcome.entries()[0].ratio.is_empty());
    }

    #[test]
    fn round_trips_give_two_figures_and_less_is_better() {
        let entries = sample("rtt-idle").entries();
        let works: Vec<&str> = entries.iter().map(|entry| entry.work.as_str()).collect();
        assert_eq!(works[..4], ["rtt-idle-p50"; 3].into_iter().chain(["rtt-idle-p99"]).collect::<Vec<_>>());
        let against = entries[0].ratio[&Kind::TestpmdIo];
        assert_eq!((against.goal, against.reached), (Some(Goal::AtMost(1.05)), Some(false)));
    }

    #[test]
    fn the_json_has_the_keys_that_readers_count_on() {
        let value = serde_json::to_value(sample("v2v-64-packed").entries()).unwrap();
        let list = value.as_array().unwrap();
        let first = list[0].as_object().unwrap();
        for key in
            ["work", "size", "ring", "guests", "system", "unit", "rounds", "median", "generator_idle", "verified"]
        {
            assert!(first.contains_key(key), "{key} is missing in {first:?}");
        }
        assert_eq!(first["work"], "v2v");
        assert_eq!(first["size"], Value::from(64));
        assert_eq!(first["ring"], "packed");
        assert_eq!(first["system"], "sidecore");
        assert_eq!(first["rounds"].as_array().unwrap().len(), 3);
        let ratio = &first["ratio"]["ovs-direct"];
        assert!(ratio["low"].is_f64() && ratio["high"].is_f64(), "{ratio}");
        assert_eq!(ratio["goal"]["at_least"], 2.0);
        assert!(list[1].get("ratio").is_none(), "only Sidecore has ratios");

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("peers.json");
        write(&path, &sample("v2v-64-packed").entries()).unwrap();
        let again: Vec<Entry> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!(again, sample("v2v-64-packed").entries());
    }
}
