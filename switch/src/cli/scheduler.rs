//! `sidecore scheduler`.

mod record;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::Subcommand;

use super::client::{Client, unexpected};
use super::table;
use crate::control::protocol::{Answer, PlanReport, Request};
use crate::snapshot::{DecisionSnapshot, SchedulerSnapshot};

#[derive(Debug, Subcommand)]
pub(super) enum SchedulerCommand {
    /// Show how things stand, and the last decisions: when, what, why, and what came of it.
    Status {
        /// Print a JSON object with all decisions that are remembered.
        #[arg(long)]
        json: bool,
    },
    /// Show which queue pairs it would move now, and do nothing.
    Plan {
        /// Print a JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Move no queue pairs and park no I/O cores until `resume`, or until a reload says otherwise.
    Pause,
    /// Go on.
    Resume,
    /// Record the load of the switch, for the simulator that compares policies.
    Record(record::RecordArgs),
}

/// Decisions shown to people who ask for them, and beside all else that the switch is doing.
const SHOWN: usize = 20;
pub(super) const SHOWN_BRIEFLY: usize = 5;

pub(super) fn execute(client: &Client, command: SchedulerCommand) -> Result<()> {
    match command {
        SchedulerCommand::Status { json } => {
            let Answer::Status(snapshot) = client.ask(&Request::Status)? else { return Err(unexpected()) };
            match json {
                true => super::print_json(&snapshot.scheduler),
                false => super::print(&status(&snapshot.scheduler, SHOWN, SystemTime::now())),
            }
        }
        SchedulerCommand::Plan { json } => {
            let Answer::Plan(plan) = client.ask(&Request::SchedulerPlan)? else { return Err(unexpected()) };
            if json { super::print_json(&plan) } else { super::print(&planned(&plan)) }
        }
        SchedulerCommand::Pause => super::change(client, &Request::SchedulerPause),
        SchedulerCommand::Resume => super::change(client, &Request::SchedulerResume),
        SchedulerCommand::Record(args) => record::execute(client, &args),
    }
}

/// One line on how things stand.
pub(super) fn summary(scheduler: &SchedulerSnapshot) -> String {
    let SchedulerSnapshot { policy, paused, moves, rolled_back, failed, saturated, parked, .. } = scheduler;
    let mut line = format!("scheduler: {policy}{}, {moves} moves", if *paused { ", paused" } else { "" });
    let counts = [("moved back", *rolled_back), ("failed", *failed)];
    counts.iter().filter(|(_, n)| *n > 0).for_each(|(what, n)| line += &format!(", {n} {what}"));
    for (what, cores) in [("saturated", saturated), ("parked", parked)].iter().filter(|(_, cores)| !cores.is_empty()) {
        let list: Vec<String> = cores.iter().map(usize::to_string).collect();
        line += &format!("; {what}: I/O core {}", list.join(", "));
    }
    if let Some(why) = &scheduler.cannot_fix {
        line += &format!("\ncannot be fixed: {why}");
    }
    line + "\n"
}

/// How things stand, and the last decisions, this many at most.
pub(super) fn status(scheduler: &SchedulerSnapshot, shown: usize, now: SystemTime) -> String {
    let mut text = summary(scheduler);
    if scheduler.decisions.is_empty() {
        return text + "no decisions yet\n";
    }
    let now_ms = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let last = scheduler.decisions.iter().rev().take(shown).rev();
    let rows: Vec<_> = last.map(|decision| row(decision, now_ms)).collect();
    text.push('\n');
    text + &table::render(&["#NO", "#AGO", "WHAT", "WHY", "#EXPECTED", "#MEASURED", "#PAUSE"], &rows)
}

fn row(decision: &DecisionSnapshot, now_ms: u64) -> Vec<String> {
    let ago = Duration::from_millis(now_ms.saturating_sub(decision.time_ms));
    let part = |gain: Option<f64>| gain.map_or("-".to_owned(), |gain| format!("{:.1} %", gain * 100.0));
    let what = match &decision.failed {
        Some(why) => format!("{} (failed: {why})", decision.what),
        None => decision.what.clone(),
    };
    vec![
        decision.number.to_string(),
        format!("{:.1} s", ago.as_secs_f64()),
        what,
        decision.why.clone(),
        part(decision.expected_gain),
        part(decision.measured_gain),
        decision.pause_us.map_or("-".to_owned(), |us| format!("{us:.1} us")),
    ]
}

fn planned(plan: &PlanReport) -> String {
    let mut text = match plan.moves.as_slice() {
        [] => format!("nothing to move; the fullest I/O core has {:.0} % of what it can do\n", plan.before * 100.0),
        moves => format!(
            "{}\nthe fullest I/O core would have {:.0} % instead of {:.0} % of what it can do\n",
            moves.join("\n"),
            plan.after * 100.0,
            plan.before * 100.0
        ),
    };
    if let Some(why) = &plan.cannot_fix {
        text += &format!("cannot be fixed: {why}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_says_what_moves_and_what_it_gains() {
        let plan = PlanReport {
            moves: vec!["queue pair 0 of guest a from I/O core 0 to I/O core 1".into()],
            before: 0.98,
            after: 0.5,
            cannot_fix: None,
        };
        assert_eq!(
            planned(&plan),
            "queue pair 0 of guest a from I/O core 0 to I/O core 1\n\
             the fullest I/O core would have 50 % instead of 98 % of what it can do\n"
        );
        let none = PlanReport { moves: Vec::new(), cannot_fix: Some("all cores are full".into()), ..plan };
        assert!(planned(&none).starts_with("nothing to move"));
        assert!(planned(&none).ends_with("cannot be fixed: all cores are full\n"));
    }

    #[test]
    fn a_status_has_a_line_for_each_decision() {
        let decision = DecisionSnapshot {
            number: 3,
            time_ms: 1000,
            kind: "move".into(),
            reason: "saturated".into(),
            what: "queue pair 0 of guest a from I/O core 0 to I/O core 1".into(),
            step: None,
            why: "I/O core 0 is saturated".into(),
            expected_gain: Some(0.25),
            measured_gain: None,
            pause_us: Some(12.5),
            failed: None,
        };
        let scheduler = SchedulerSnapshot {
            policy: "balance".into(),
            moves: 1,
            saturated: vec![0],
            decisions: vec![decision],
            ..SchedulerSnapshot::default()
        };
        let text = status(&scheduler, SHOWN, UNIX_EPOCH + Duration::from_secs(3));
        assert!(text.starts_with("scheduler: balance, 1 moves; saturated: I/O core 0\n"), "{text}");
        let line = text.lines().last().unwrap();
        assert!(["3", "2.0 s", "I/O core 0 is saturated", "25.0 %", "12.5 us"].iter().all(|cell| line.contains(cell)));
    }
}
