//! The table, and whether the figures are to be believed.

use std::fmt::Write as _;

use sidecore_experiments::stats;
use sidecore_experiments::studies::finding::show;

use crate::measure::{Cost, Mode, Outcome};

/// Less than so many exits per packet is 0.00.
pub const NONE: f64 = 0.005;
/// The same for a short run, in which a moment on a busy machine weighs more.
pub const FEW: f64 = 0.05;
/// Exits per packet that the traditional model has to show, or the counter does not count.
const COUNTED: f64 = 0.9;

/// The table's head.
#[must_use]
pub fn head() -> String {
    format!(
        "{:48}one packet at a time{:52}stream\n{:<6} {:<9} {:<5} {:<7} {:<10} {} {:>22} {:>8} {:>9}  {} {:>20}",
        "",
        "",
        "guest",
        "mode",
        "load",
        "ring",
        "interrupts",
        COSTS,
        "RTT p50, µs",
        "p99, µs",
        "packets",
        COSTS,
        "Mpps"
    )
}

/// A row of the table.
#[must_use]
pub fn line(outcome: &Outcome) -> String {
    let mode = outcome.mode.name();
    let interrupts = if outcome.interrupts { "on" } else { "off" };
    let guest = match outcome.guest {
        "kvm" => "ring 3",
        other => other,
    };
    let measured = &outcome.measured;
    let mut text = format!(
        "{guest:<6} {mode:<9} {:<5} {:<7} {interrupts:<10} {} {:>22} {:>8.1} {:>9}",
        outcome.load,
        outcome.ring.name(),
        costs(&measured.cost),
        estimate(&measured.rounds.rtt_p50_us),
        measured.rtt_p99_us,
        measured.cost.packets,
    );
    if let Some(stream) = &measured.stream {
        let mpps: Vec<f64> = measured.rounds.stream_pps.iter().map(|pps| pps / 1e6).collect();
        let _ = write!(text, "  {} {:>20}", costs(stream), estimate(&mpps));
    }
    if let Some(tcp) = &outcome.tcp {
        let _ = write!(text, "  TCP {} Mbit/s", estimate(&tcp.stream_mbit_s));
    }
    text
}

/// The median over rounds, with its interval.
fn estimate(rounds: &[f64]) -> String {
    stats::estimate(rounds).map_or("-".to_owned(), show)
}

/// What stands above [`costs`]: all for each packet.
const COSTS: &str = "  exits    kicks  interr.";

fn costs(cost: &Cost) -> String {
    let exits = cost.exits_per_packet.map_or_else(|| "-".to_owned(), |exits| format!("{:.2}", without_sign(exits)));
    format!("{exits:>7} {:>8.2} {:>8.2}", cost.kicks_per_packet, cost.interrupts_per_packet)
}

/// -0.00 is 0.00.
fn without_sign(exits: f64) -> f64 {
    if exits.abs() < NONE { 0.0 } else { exits }
}

/// What is wrong with the figures; nothing when a polling guest of a polling switch shows fewer exits than `none`, a Linux guest never
/// kicks there, and the same counters see the exits of the traditional model.
#[must_use]
pub fn objections(outcomes: &[Outcome], none: f64) -> Vec<String> {
    let mut objections = Vec::new();
    for outcome in outcomes {
        let (one_by_one, stream) = (&outcome.measured.cost, outcome.measured.stream.as_ref());
        let name = format!("{}, {}, {} rings", outcome.guest, outcome.mode.name(), outcome.ring.name());
        let is_exitless = outcome.mode == Mode::Poll && !outcome.interrupts;
        for cost in [Some(one_by_one), stream].into_iter().flatten() {
            let exits = cost.exits_per_packet;
            if is_exitless && exits.is_some_and(|exits| exits.abs() >= none) {
                objections.push(format!("{name}: {:.4} exits a packet", exits.unwrap_or_default()));
            }
            if is_exitless && cost.kicks_per_packet + cost.interrupts_per_packet > 0.0 {
                objections.push(format!("{name}: a polling guest of a polling switch kicked or was called"));
            }
            if outcome.mode == Mode::Poll && outcome.interrupts && cost.kicks_per_packet > 0.0 {
                objections.push(format!("{name}: a guest of a polling switch kicked"));
            }
        }
        if outcome.mode == Mode::Trap
            && let Some(exits) = one_by_one.exits_per_packet.filter(|exits| *exits < COUNTED)
        {
            objections.push(format!(
                "{name}: {exits:.2} exits a packet, where each has to be kicked for: the counter is not to be believed"
            ));
        }
    }
    objections
}
