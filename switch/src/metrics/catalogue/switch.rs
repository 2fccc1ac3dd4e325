//! Metrics of the switch as a whole, its scheduler included.

use crate::dataplane::{DECISIONS, Missed, PAUSE_BOUNDS_US};
use crate::metrics::entry::{Entry, Read::Switch, counter, gauge, histogram, info};
use crate::metrics::text::Out;
use crate::snapshot::Snapshot;

#[rustfmt::skip]
pub(super) const ENTRIES: &[Entry] = &[
    info("sidecore_info", &["version"], Switch(|s, out| out.info(&[&s.version])),
        "The switch's version."),
    gauge("sidecore_uptime_seconds", Switch(|s, out| out.value(s.uptime_ms as f64 / 1000.0)),
        "Time since the switch started."),
    gauge("sidecore_tsc_hertz", Switch(|s, out| out.count(s.tsc_hz)),
        "Speed of the time stamp counter that busy and idle times are measured with."),
    gauge("sidecore_fdb_entries", Switch(|s, out| out.count(s.fdb_entries)),
        "Stations in the MAC table, in the replica that knows most."),
    gauge("sidecore_fdb_capacity_entries", Switch(|s, out| out.count(s.fdb_capacity)),
        "Stations the MAC table has room for (fdb_entries in the configuration)."),
    info("sidecore_scheduler_info", &["policy"], Switch(|s, out| out.info(&[&s.scheduler.policy])),
        "The scheduler's policy."),
    gauge("sidecore_scheduler_paused", Switch(|s, out| out.flag(s.scheduler.paused)),
        "1 while the scheduler moves nothing by itself."),
    counter("sidecore_scheduler_decisions_total", Switch(decisions),
        "Decisions of the scheduler, by kind and reason; `sidecore scheduler status` shows the last ones.")
        .labelled(&["kind", "reason"], DECISIONS.len()),
    counter("sidecore_scheduler_expected_gain_cores_total", Switch(|s, out| out.value(s.scheduler.gains.expected)),
        "What moves of the scheduler should have gained that have settled: I/O cores by which the fullest of those concerned was to be less full. Moves that belong together count once."),
    counter("sidecore_scheduler_measured_gain_cores_total", Switch(|s, out| out.value(s.scheduler.gains.gained)),
        "What those of them gained that did."),
    counter("sidecore_scheduler_measured_loss_cores_total", Switch(|s, out| out.value(s.scheduler.gains.lost)),
        "By how much the others made the fullest I/O core fuller."),
    counter("sidecore_scheduler_moves_total", Switch(|s, out| out.count(s.scheduler.moves)),
        "Queue pairs that the scheduler moved, those moved back included."),
    counter("sidecore_scheduler_rolled_back_total", Switch(|s, out| out.count(s.scheduler.rolled_back)),
        "Queue pairs that the scheduler moved back because the move had made things worse."),
    counter("sidecore_scheduler_failed_total", Switch(|s, out| out.count(s.scheduler.failed)),
        "Orders of the scheduler that could not be carried out."),
    gauge("sidecore_scheduler_cannot_fix", Switch(|s, out| out.flag(s.scheduler.cannot_fix.is_some())),
        "1 while an I/O core is saturated and no move would help; `sidecore scheduler status` says why."),
    gauge("sidecore_captures_running", Switch(|s, out| out.count(s.captures.running.len() as u64)),
        "Captures (`sidecore capture`) that run."),
    counter("sidecore_captures_total", Switch(|s, out| out.count(s.captures.begun)),
        "Captures begun."),
    counter("sidecore_capture_packets_total", Switch(|s, out| out.count(s.captures.packets)),
        "Packets written by captures."),
    counter("sidecore_capture_bytes_total", Switch(|s, out| out.count(s.captures.bytes)),
        "Bytes of those packets, as far as they were kept."),
    counter("sidecore_capture_missed_packets_total", Switch(|s, out| {
            out.each(&s.captures.missed, Missed::ALL.iter().map(|why| why.as_str()));
        }), "Packets that captures missed, by reason: I/O core time spent, above the rate, reader too slow.")
        .labelled(&["reason"], Missed::ALL.len()),
    histogram("sidecore_move_pause_seconds", PAUSE_BOUNDS_US.len(), Switch(|s, out| out.histogram(&s.pauses)),
        "Time in which no I/O core served a queue pair while it moved from one to another."),
    counter("sidecore_move_waits_total", Switch(|s, out| out.count(s.move_waits)),
        "Times a guest's session waited for the end of a move of its queue pairs, to take one back or hand one out: the guest disconnected, say, in the middle of it."),
];

/// With a zero for what was not decided yet: a series that begins with its first decision hides that from `increase()`.
fn decisions(snapshot: &Snapshot, out: &mut Out<'_>) {
    let decided = |kind: &str, reason: &str| snapshot.scheduler.decided.get(kind)?.get(reason).copied();
    for (kind, reason) in DECISIONS {
        out.labelled(&[kind, reason], decided(kind, reason).unwrap_or(0) as f64);
    }
}
