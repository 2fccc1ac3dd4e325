//! Rows of columns, made of two snapshots.

use std::cmp::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::View;
use crate::cli::units::{micros, percent, short};
use crate::rates::{CoreRates, Interval, PortRates, sum};
use crate::snapshot::{CoreSnapshot, DecisionSnapshot, PortKind, PortSnapshot, Snapshot};
use crate::words;

/// From this part of the time on it is said that an I/O core does not get its CPU.
const MUCH_WITHOUT_CPU: f64 = 0.01;

/// A column, and when it has to go.
#[derive(Debug, PartialEq)]
pub(super) struct Column {
    pub(super) head: &'static str,
    /// Characters; 0 for the one that takes what is left.
    pub(super) width: u16,
    /// Numbers are set to the right, and sorted from the greatest down.
    pub(super) is_number: bool,
    /// Those with the highest rank go first when the screen is narrow.
    pub(super) rank: u8,
}

impl Column {
    /// As `table::render` wants it.
    pub(super) fn table_head(&self) -> String {
        format!("{}{}", if self.is_number { "#" } else { "" }, self.head)
    }
}

const fn number(head: &'static str, width: u16, rank: u8) -> Column {
    Column { head, width, is_number: true, rank }
}

const fn text(head: &'static str, width: u16, rank: u8) -> Column {
    Column { head, width, is_number: false, rank }
}

/// Nine of them fit into 80 columns.
const PORTS: &[Column] = &[
    text("NAME", 0, 0),
    text("KIND", 6, 12),
    text("STATE", 9, 8),
    text("CORE", 5, 1),
    number("LOAD", 7, 1),
    number("TX/s", 6, 1),
    number("RX/s", 6, 1),
    number("TX BIT/s", 8, 1),
    number("RX BIT/s", 8, 1),
    number("WAIT", 10, 2),
    number("DROPS/s", 7, 1),
    number("DROPPED", 11, 9),
    number("KICKS", 8, 10),
    number("CALLS/s", 7, 11),
];

const CORES: &[Column] = &[
    number("CORE", 4, 0),
    number("CPU", 4, 1),
    text("MODE", 8, 4),
    number("BUSY", 7, 0),
    number("ASLEEP", 7, 4),
    number("WAIT", 10, 1),
    number("PAIRS", 5, 1),
    number("FROM/s", 6, 2),
    number("TO/s", 6, 2),
    text("STATE", 9, 1),
    text("MOSTLY", 0, 0),
];

const DECISIONS: &[Column] = &[
    number("NO", 5, 1),
    number("AGO", 9, 0),
    text("WHAT", 0, 0),
    text("WHY", 40, 3),
    number("EXPECTED", 8, 2),
    number("MEASURED", 8, 1),
    number("PAUSE", 11, 2),
];

/// What a row is sorted by.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Key {
    Text(String),
    /// What is not known is the least.
    Number(Option<f64>),
}

impl Key {
    pub(super) fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Text(one), Self::Text(other)) => natural(one, other),
            (Self::Number(one), Self::Number(other)) => one.unwrap_or(-1.0).total_cmp(&other.unwrap_or(-1.0)),
            (Self::Text(_), Self::Number(_)) => Ordering::Less,
            (Self::Number(_), Self::Text(_)) => Ordering::Greater,
        }
    }
}

/// Numbers within names in the order of the numbers: vm9 before vm10.
fn natural(one: &str, other: &str) -> Ordering {
    let digits = |text: &str| text.len() - text.trim_start_matches(|next: char| next.is_ascii_digit()).len();
    let (mut one, mut other) = (one, other);
    loop {
        match (digits(one), digits(other)) {
            (a, b) if a > 0 && b > 0 => {
                let (left, right) = (one[..a].trim_start_matches('0'), other[..b].trim_start_matches('0'));
                let order = left.len().cmp(&right.len()).then_with(|| left.cmp(right));
                if order.is_ne() {
                    return order;
                }
                (one, other) = (&one[a..], &other[b..]);
            }
            _ => {
                let (mut left, mut right) = (one.chars(), other.chars());
                let order = match (left.next(), right.next()) {
                    (None, None) => return Ordering::Equal,
                    (a, b) => a.cmp(&b),
                };
                if order.is_ne() {
                    return order;
                }
                (one, other) = (left.as_str(), right.as_str());
            }
        }
    }
}

/// What a row or a cell should be noticed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    None,
    /// There is nothing to see.
    Faint,
    Warning,
    Fault,
}

#[derive(Debug, Clone)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) key: Key,
    pub(super) mark: Mark,
}

/// A port, a core or a decision.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// What it is known by from one snapshot to the next.
    pub(super) id: String,
    pub(super) cells: Vec<Cell>,
    /// What there is to say about it besides.
    pub(super) detail: String,
    /// What filters look at.
    words: Vec<String>,
}

impl Row {
    /// Whether it has all words of a filter in it.
    pub(super) fn matches(&self, filter: &str) -> bool {
        filter.split_whitespace().all(|wanted| {
            let wanted = wanted.to_lowercase();
            let is_core = wanted.starts_with("core:");
            self.words.iter().any(|word| if is_core { *word == wanted } else { word.contains(&wanted) })
        })
    }
}

pub(super) fn columns(view: View) -> &'static [Column] {
    match view {
        View::Ports => PORTS,
        View::Cores => CORES,
        View::Decisions => DECISIONS,
    }
}

/// The rows of a view, in the order of the snapshot.
pub(super) fn rows(view: View, before: Option<&Snapshot>, now: &Snapshot) -> Vec<Row> {
    let interval = before.and_then(|before| Interval::between(before, now));
    match view {
        View::Ports => now.ports.iter().map(|port| port_row(port, interval.and_then(|i| i.port(port)))).collect(),
        View::Cores => now.cores.iter().map(|core| core_row(core, interval, now)).collect(),
        View::Decisions => {
            now.scheduler.decisions.iter().map(|decision| decision_row(decision, SystemTime::now())).collect()
        }
    }
}

fn words_cell(text: impl Into<String>) -> Cell {
    let text = text.into();
    Cell { key: Key::Text(text.clone()), text, mark: Mark::None }
}

/// A figure, if there is one. Zeros are faint.
fn figure(value: Option<f64>, show: impl Fn(f64) -> String) -> Cell {
    let mark = if value.is_none_or(|value| value == 0.0) { Mark::Faint } else { Mark::None };
    Cell { text: value.map_or("-".to_owned(), show), key: Key::Number(value), mark }
}

fn time(ns: Option<u64>) -> Cell {
    figure(ns.map(|ns| ns as f64), |ns| micros(ns as u64))
}

fn count(value: u64) -> Cell {
    figure(Some(value as f64), |_| value.to_string())
}

fn warn_if_any(cell: Cell) -> Cell {
    let any = matches!(cell.key, Key::Number(Some(value)) if value > 0.0);
    Cell { mark: if any { Mark::Warning } else { cell.mark }, ..cell }
}

fn port_row(port: &PortSnapshot, rates: Option<PortRates>) -> Row {
    let mut cores: Vec<usize> = port.queues.iter().filter_map(|queue| queue.io_core).collect();
    cores.sort_unstable();
    cores.dedup();
    let on: Vec<String> = cores.iter().map(usize::to_string).collect();
    let rate = |of: fn(&PortRates) -> f64| figure(rates.as_ref().map(of), short);
    let served = port.queues.iter().filter(|queue| queue.io_core.is_some());
    let state = words::state(port.state);
    let is_wrong = matches!(state, "stopped" | "down");
    let state_cell = Cell { mark: if is_wrong { Mark::Fault } else { Mark::None }, ..words_cell(state) };
    let words = [port.name.to_lowercase(), state.to_owned(), words::kind(port.kind).to_owned()];
    Row {
        id: port.name.clone(),
        cells: vec![
            words_cell(port.name.clone()),
            words_cell(words::kind(port.kind)),
            state_cell,
            words_cell(if on.is_empty() { "-".to_owned() } else { on.join(",") }),
            figure(rates.map(|rates| rates.load), percent),
            rate(|rates| rates.tx_packets),
            rate(|rates| rates.rx_packets),
            rate(|rates| rates.tx_bits),
            rate(|rates| rates.rx_bits),
            time(served.filter_map(|queue| queue.oldest_wait_ns).max()),
            warn_if_any(rate(|rates| rates.drops)),
            count(sum(&port.drops)),
            count(port.kicks),
            rate(|rates| rates.calls),
        ],
        detail: port_detail(port),
        words: words.into_iter().chain(cores.iter().map(|core| format!("core:{core}"))).collect(),
    }
}

fn port_detail(port: &PortSnapshot) -> String {
    let mut parts = vec![format!("{} {} {}", words::kind(port.kind), port.name, words::state(port.state))];
    parts.extend(port.error.clone());
    if let Some(agreed) = &port.negotiated {
        parts.push(format!("{} rings of {}", agreed.ring, agreed.ring_size));
    }
    let list = |counts: &std::collections::BTreeMap<String, u64>| {
        counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect::<Vec<_>>().join(", ")
    };
    for (what, counts) in [("dropped", &port.drops), ("could not take", &port.refused), ("rings stopped", &port.faults)]
    {
        if !counts.is_empty() {
            parts.push(format!("{what}: {}", list(counts)));
        }
    }
    parts.join("; ")
}

fn core_row(core: &CoreSnapshot, interval: Option<Interval<'_>>, now: &Snapshot) -> Row {
    let rates: Option<CoreRates> = interval.and_then(|interval| interval.core(core));
    let is_saturated = now.scheduler.saturated.contains(&core.core);
    let (state, mark) = match now.scheduler.parked.contains(&core.core) {
        _ if is_saturated => ("saturated", Mark::Fault),
        true => ("parked", Mark::Faint),
        false => ("", Mark::None),
    };
    let busy = figure(rates.map(|rates| rates.busy), percent);
    let mostly = mostly(core, interval, now);
    Row {
        id: core.core.to_string(),
        cells: vec![
            Cell { mark: Mark::None, ..count(core.core as u64) },
            figure(core.cpu.map(|cpu| cpu as f64), |cpu| cpu.to_string()),
            words_cell(core.mode.clone()),
            Cell { mark: if is_saturated { Mark::Fault } else { busy.mark }, ..busy },
            figure(rates.map(|rates| rates.asleep), percent),
            time(Some(core.oldest_wait_ns)),
            count(core.queue_pairs as u64),
            figure(rates.map(|rates| rates.received), short),
            figure(rates.map(|rates| rates.handed_over), short),
            Cell { mark, ..words_cell(state) },
            words_cell(mostly.clone()),
        ],
        detail: format!("{}{}: {mostly}", place(core), without_cpu(rates)),
        words: vec![format!("core:{}", core.core), state.to_owned(), mostly.to_lowercase()],
    }
}

/// Which core it is. That of a guest with a thread of its own runs where it can.
fn place(core: &CoreSnapshot) -> String {
    match core.cpu {
        Some(cpu) => format!("I/O core {} on CPU {cpu}", core.core),
        None => format!("I/O core {}", core.core),
    }
}

/// How much of the time it does not get its CPU, where that is much.
fn without_cpu(rates: Option<CoreRates>) -> String {
    let waits = rates.map(|rates| rates.waits).filter(|waits| *waits >= MUCH_WITHOUT_CPU);
    waits.map_or(String::new(), |waits| format!(", without it {} of the time", percent(waits)))
}

/// The ports that a core serves, the one with the most load first.
fn mostly(core: &CoreSnapshot, interval: Option<Interval<'_>>, now: &Snapshot) -> String {
    let is_here = |port: &&PortSnapshot| port.queues.iter().any(|queue| queue.io_core == Some(core.core));
    let load = |port: &PortSnapshot| interval.and_then(|interval| interval.port(port)).map_or(0.0, |rates| rates.load);
    let mut here: Vec<_> = now.ports.iter().filter(is_here).map(|port| (port, load(port))).collect();
    here.sort_by(|(one, a), (other, b)| b.total_cmp(a).then_with(|| natural(&one.name, &other.name)));
    let name = |(port, load): &(&PortSnapshot, f64)| {
        let prefix = if port.kind == PortKind::Uplink { "uplink " } else { "" };
        if *load > 0.0 { format!("{prefix}{} {}", port.name, percent(*load)) } else { format!("{prefix}{}", port.name) }
    };
    here.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// `core:N` for each I/O core that a decision names: both of a move, and those that are parked and woken.
fn cores_in(what: &str) -> impl Iterator<Item = String> {
    let number = |rest: &str| rest.split(|next: char| !next.is_ascii_digit()).next().map(str::to_owned);
    let numbers = what.split("I/O core ").skip(1).filter_map(number).filter(|number| !number.is_empty());
    numbers.map(|number| format!("core:{number}"))
}

fn decision_row(decision: &DecisionSnapshot, now: SystemTime) -> Row {
    let now_ms = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let ago = Duration::from_millis(now_ms.saturating_sub(decision.time_ms)).as_secs_f64();
    let gain = |gain: Option<f64>| Cell { mark: Mark::None, ..figure(gain, percent) };
    let what = match &decision.failed {
        Some(why) => format!("{} (failed: {why})", decision.what),
        None => decision.what.clone(),
    };
    let words = [what.to_lowercase(), decision.why.to_lowercase(), decision.kind.clone()];
    Row {
        id: decision.number.to_string(),
        words: words.into_iter().chain(cores_in(&decision.what)).collect(),
        detail: format!("{what}, because {}", decision.why),
        cells: vec![
            Cell { mark: Mark::None, ..count(decision.number) },
            figure(Some(ago), |ago| format!("{ago:.1} s")),
            words_cell(what),
            words_cell(decision.why.clone()),
            gain(decision.expected_gain),
            gain(decision.measured_gain),
            figure(decision.pause_us, |us| format!("{us:.1} µs")),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_by_the_numbers_in_them() {
        let mut names = ["vm10", "vm9", "vm009b", "vm", "a2", "vm9a", "b"];
        names.sort_by(|one, other| natural(one, other));
        assert_eq!(names, ["a2", "b", "vm", "vm9", "vm9a", "vm009b", "vm10"]);
    }

    fn decision(kind: &str, what: &str) -> DecisionSnapshot {
        DecisionSnapshot {
            number: 1,
            time_ms: 0,
            kind: kind.to_owned(),
            reason: "saturated".to_owned(),
            what: what.to_owned(),
            step: None,
            why: "I/O core 0 is saturated".to_owned(),
            expected_gain: Some(0.25),
            measured_gain: None,
            pause_us: Some(13.0),
            failed: None,
        }
    }

    #[test]
    fn decisions_are_found_by_the_cores_they_concern() {
        let row = |kind, what| decision_row(&decision(kind, what), SystemTime::now());
        let moved = row("move", "queue pair 0 of guest vm1 from I/O core 1 to I/O core 12");
        assert!(["core:1", "core:12", "core:1 vm1"].iter().all(|filter| moved.matches(filter)));
        assert!(["core:2", "core:0", "core:1 vm2"].iter().all(|filter| !moved.matches(filter)));
        assert!(row("park", "park I/O core 3").matches("core:3"));
        assert!(!row("pause", "pause").matches("core:"));
    }

    #[test]
    fn every_row_has_a_cell_for_each_column() {
        let mut now = crate::metrics::tests::snapshot();
        let what = "queue pair 0 of guest vm1 from I/O core 0 to I/O core 1";
        now.scheduler.decisions.push(decision("move", what));
        for view in [View::Ports, View::Cores, View::Decisions] {
            let rows = rows(view, None, &now);
            assert!(!rows.is_empty() && rows.iter().all(|row| row.cells.len() == columns(view).len()), "{view:?}");
        }
    }
}
