//! The Markdown page.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{groups, peers, title};
use crate::judge;
use crate::machine::Machine;
use crate::results::{Against, Entry, Part, Verified};
use crate::systems::Kind;
use crate::work::Goal;

/// How a run was made.
#[derive(Debug, Clone)]
pub struct Conditions {
    /// The machine and the programs.
    pub machine: Machine,
    /// Rounds of each row.
    pub rounds: usize,
    /// Measured seconds of each system in each round.
    pub seconds: f64,
    /// Turns in which it has them.
    pub turns: usize,
    /// CPUs of the switch, the generator and everything else.
    pub cpus: [usize; 3],
    /// The generator's command line in every row, as a round had it.
    pub generator: Vec<(String, String)>,
}

/// The page.
#[must_use]
pub fn render(entries: &[Entry], conditions: &Conditions) -> String {
    let mut text = String::from("# Sidecore and its peers\n\n");
    text += &introduction(conditions);
    text += &table(entries);
    text += &notes(entries);
    text += &terms(entries);
    text += &command_lines(entries, conditions);
    text
}

fn introduction(conditions: &Conditions) -> String {
    let [switch, generator, other] = conditions.cpus;
    format!(
        "{}.\n{}.\n\n{} rounds of {} s for each system, in {} turns each; all other systems are halted meanwhile. The switch \
         forwards on CPU {switch}, the generator runs on CPU {generator}, everything else on CPU {other}. Figures are medians over \
         rounds. A ratio is Sidecore's median divided by the peer's, in brackets its 95 % interval (bootstrap over paired \
         rounds). The end of the interval that counts against us decides whether a goal is reached.\n\n",
        conditions.machine.machine.join("; "),
        conditions.machine.versions.join("; "),
        conditions.rounds,
        conditions.seconds,
        conditions.turns,
    )
}

fn table(entries: &[Entry]) -> String {
    let peers = peers(entries);
    let mut text = String::from("| work | unit | Sidecore |");
    for peer in &peers {
        let _ = write!(text, " {} | ratio | goal |", peer.title());
    }
    text.push_str(" generator idle | remarks |\n|---|---|---|");
    text.push_str(&"---|---|---|".repeat(peers.len()));
    text.push_str("---|---|\n");
    for group in groups(entries) {
        text += &line(&group, &peers);
    }
    text + "\n"
}

fn line(group: &[&Entry], peers: &[Kind]) -> String {
    let of = |kind: Kind| group.iter().find(|entry| entry.system == kind).copied();
    let ours = of(Kind::Sidecore);
    let mut text = format!("| {} | {} | {} |", title(group[0]), group[0].unit, figure(ours));
    for peer in peers {
        let against = ours.and_then(|entry| entry.ratio.get(peer));
        let _ = write!(text, " {} | {} | {} |", figure(of(*peer)), ratio(against), goal(against));
    }
    let idle = idle(group).map_or("-".to_owned(), |idle| format!("{:.0} %", idle * 100.0));
    let _ = writeln!(text, " {idle} | {} |", remarks(group));
    text
}

/// How much the generator idled of the time in which the fastest system ran.
fn idle(group: &[&Entry]) -> Option<f64> {
    let speed =
        |entry: &Entry| entry.median.map_or(0.0, |median| if entry.work.starts_with("rtt") { -median } else { median });
    let running = group.iter().filter(|entry| entry.error.is_none());
    running.max_by(|one, other| speed(one).total_cmp(&speed(other)))?.generator_idle_while_switch_ran
}

fn figure(entry: Option<&Entry>) -> String {
    match entry {
        Some(Entry { error: Some(error), .. }) if error.starts_with("void") => "void".to_owned(),
        Some(Entry { error: Some(_), .. }) => "failed".to_owned(),
        Some(Entry { median: Some(median), .. }) => format!("{median:.2}"),
        _ => "-".to_owned(),
    }
}

fn ratio(against: Option<&Against>) -> String {
    against.map_or("-".to_owned(), |against| {
        let ratio = against.ratio;
        let bound = if against.at_least { "≥ " } else { "" };
        format!("{bound}{:.2} [{:.2}, {:.2}]", ratio.value, ratio.low, ratio.high)
    })
}

fn goal(against: Option<&Against>) -> String {
    let Some(Against { goal: Some(goal), reached: Some(reached), .. }) = against else { return "-".to_owned() };
    format!("{goal} {}", if *reached { "reached" } else { "**missed**" })
}

fn remarks(group: &[&Entry]) -> String {
    let mut remarks = Vec::new();
    if group[0].generator_bound {
        remarks.push("generator-bound: counts where the ratio is at least so large".to_owned());
    }
    if let Some(quota) = group[0].quota {
        let had: Vec<String> = group.iter().filter_map(|entry| Some(format!("{:.2}", entry.switch_cpu?))).collect();
        remarks.push(format!("{quota} of a CPU for every switch, which had {}", had.join(", ")));
    }
    if let Some(pps) = group[0].background_pps {
        remarks.push(format!("beside {:.2} Mpps", pps / 1e6));
    }
    remarks.extend(verified(group));
    if remarks.is_empty() { "-".to_owned() } else { remarks.join("; ") }
}

/// What was verified of a row, where that is not all.
fn verified(group: &[&Entry]) -> Option<String> {
    let with = |verified: Verified| -> Vec<&str> {
        let all = group.iter().filter(|entry| entry.error.is_none() && entry.verified == verified);
        all.map(|entry| entry.system.title()).collect()
    };
    if !with(Verified::Partly(Part::Count)).is_empty() {
        return Some("verified by the NIC's count of packets alone".to_owned());
    }
    match (with(Verified::Partly(Part::Contents)), with(Verified::Wholly(false))) {
        (none, not) if none.is_empty() && not.is_empty() => None,
        (none, _) if none.is_empty() => Some("not verified".to_owned()),
        (_, not) if not.is_empty() => Some("verified by contents alone".to_owned()),
        (_, not) => {
            Some(format!("verified by contents alone, with {} not at all: its NIC delivers zeros", not.join(", ")))
        }
    }
}

fn notes(entries: &[Entry]) -> String {
    let mut text = String::new();
    let mut told = Vec::new();
    for entry in entries {
        let Some(error) = &entry.error else { continue };
        if !told.contains(&(&entry.row, entry.system)) {
            told.push((&entry.row, entry.system));
            let _ = write!(
                text,
                "### {} in row {}\n\n```text\n{}\n```\n\n",
                entry.system.title(),
                entry.row,
                error.trim_end()
            );
        }
    }
    let bound = format!("{:.0} %", judge::LEAST_IDLE * 100.0);
    let counts = entries.iter().flat_map(|entry| entry.ratio.values()).filter_map(|against| against.reached);
    let (reached, all) = counts.fold((0, 0), |(reached, all), one| (reached + usize::from(one), all + 1));
    let summary = format!(
        "{reached} of {all} goals reached. A row counts only when the generator idled at least {bound} of the time in which the \
         fastest system ran: (idle - (1 - q)) / q, where it idled so much of all the time and the switch's thread had q of a \
         CPU. Where it was the limit with Sidecore and not with the peer, the ratio is at least so large (≥), and reaches what that reaches.\n\n"
    );
    if text.is_empty() { summary } else { format!("{summary}## What went wrong\n\n{text}") }
}

/// What was negotiated, which was the same for every system of a row that has figures.
fn terms(entries: &[Entry]) -> String {
    let mut text = String::from(
        "## What the guests negotiated\n\n| row | features | ring | entries | queue pairs |\n|---|---|---|---|---|\n",
    );
    let mut told: Vec<&str> = Vec::new();
    for entry in entries.iter().filter(|entry| !entry.negotiated.is_empty()) {
        if told.contains(&entry.row.as_str()) {
            continue;
        }
        told.push(&entry.row);
        let one = &entry.negotiated[0];
        let names = one.feature_names.join(", ");
        let _ = writeln!(
            text,
            "| {} | {} {names} | {} | {} | {} |",
            entry.row, one.features, one.ring, one.ring_size, one.queue_pairs
        );
    }
    text + "\n"
}

fn command_lines(entries: &[Entry], conditions: &Conditions) -> String {
    let mut text = String::from("## Command lines\n\n### The generator\n\n```sh\n");
    for (row, command) in &conditions.generator {
        let _ = writeln!(text, "# {row}\n{command}");
    }
    text.push_str("```\n\n");
    // Rows that start a system in the same way are told once.
    let mut by_commands: BTreeMap<(Kind, String), Vec<&str>> = BTreeMap::new();
    for entry in entries.iter().filter(|entry| !entry.commands.is_empty()) {
        let rows = by_commands.entry((entry.system, entry.commands.join("\n"))).or_default();
        if !rows.contains(&entry.row.as_str()) {
            rows.push(&entry.row);
        }
    }
    for ((system, commands), rows) in by_commands {
        let _ = write!(text, "### {}: {}\n\n```sh\n{commands}\n```\n\n", system.title(), rows.join(", "));
    }
    text
}

/// One line for each goal: for the end of a run on a terminal.
#[must_use]
pub fn summary(entries: &[Entry]) -> String {
    let mut text = String::new();
    for group in groups(entries) {
        for entry in &group {
            if let Some(error) = &entry.error {
                let _ = writeln!(
                    text,
                    "{:32} {:14} FAILED {}",
                    title(entry),
                    entry.system,
                    error.lines().next().unwrap_or("")
                );
            }
            for (peer, against) in &entry.ratio {
                let (Some(goal), Some(reached)) = (against.goal, against.reached) else { continue };
                let word = if reached { "reached" } else { "missed" };
                let shown: &dyn std::fmt::Display = match &goal {
                    Goal::AtLeast(_) | Goal::AtMost(_) => &goal,
                };
                let _ = writeln!(text, "{:32} {peer:14} {:24} {shown} {word}", title(entry), ratio(Some(against)));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Outcome;
    use crate::results::tests::sample;

    fn conditions() -> Conditions {
        Conditions {
            machine: Machine { machine: vec!["2 CPUs".to_owned()], versions: vec!["sidecore 0.1.0".to_owned()] },
            rounds: 12,
            seconds: 2.0,
            turns: 3,
            cpus: [1, 0, 0],
            generator: vec![("v2v-64-split".to_owned(), "ringgen stream".to_owned())],
        }
    }

    fn line_of<'t>(text: &'t str, start: &str) -> &'t str {
        text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no {start} in {text}"))
    }

    #[test]
    fn a_row_shows_figures_ratios_and_goals() {
        let text = render(&sample("v2v-1518-split-1024").entries(), &conditions());
        let line = line_of(&text, "| v2v 1518 B split 1024 ");
        assert_eq!(
            line,
            "| v2v 1518 B split 1024 | Mpps | 6.00 | 2.00 | 3.00 [3.00, 3.00] | ≥ 3.00 reached | 3.00 | 2.00 [2.00, 2.00] | \
             ≥ 2.50 **missed** | 30 % | - |"
        );
        assert!(text.contains("1 of 2 goals reached"), "{text}");
        assert!(text.contains("ringgen stream") && text.contains("switch --fast"), "{text}");
    }

    #[test]
    fn every_line_of_the_table_has_as_many_cells_as_its_head() {
        let mut entries = sample("rtt-idle").entries();
        entries.extend(sample("p2v-64").entries());
        let text = table(&entries);
        let counts: Vec<usize> =
            text.lines().filter(|line| !line.is_empty()).map(|line| line.matches('|').count()).collect();
        assert!(counts.len() == 5 && counts.iter().all(|count| *count == counts[0]), "{text}");
        assert!(text.contains("RTT idle p50 64 B split") && text.contains("RTT idle p99"), "{text}");
    }

    #[test]
    fn what_went_wrong_is_told_once_with_the_end_of_the_log() {
        let mut outcome = sample("rtt-half");
        outcome.systems[1].1.error =
            Some("void: of 9 packets received: 1 reordered\n--- last output of ovs".to_owned());
        outcome.systems[2].1.error = Some("it did not start".to_owned());
        let text = render(&outcome.entries(), &conditions());
        assert!(line_of(&text, "| RTT half load p50").contains("| void | - | - | failed | - | - | 30 % |"), "{text}");
        assert_eq!(text.matches("### OVS-DPDK, direct flow in row rtt-half").count(), 1, "{text}");
        assert!(text.contains("--- last output of ovs"), "{text}");
        assert!(summary(&outcome.entries()).contains("FAILED it did not start"));
    }

    #[test]
    fn what_a_nic_lets_nobody_see_is_said() {
        let mut outcome = sample("p2v-64");
        let remark = |outcome: &Outcome| {
            let entries = outcome.entries();
            remarks(&entries.iter().collect::<Vec<_>>())
        };
        assert_eq!(remark(&outcome), "-");
        for (_, series) in &mut outcome.systems {
            series.verified = Verified::Partly(Part::Contents);
        }
        assert_eq!(remark(&outcome), "verified by contents alone");
        outcome.systems[1].1.verified = Verified::Wholly(false);
        assert!(remark(&outcome).contains("with OVS-DPDK, direct flow not at all"), "{}", remark(&outcome));
        for (_, series) in &mut outcome.systems {
            series.verified = Verified::Partly(Part::Count);
        }
        assert_eq!(remark(&outcome), "verified by the NIC's count of packets alone");
    }

    #[test]
    fn a_row_that_does_not_count_says_so() {
        let mut outcome = sample("v2v-64-split");
        outcome.quota = Some(0.5);
        outcome.systems[..2].iter_mut().for_each(|(_, series)| series.idle = vec![0.01; 3]);
        let text = render(&outcome.entries(), &conditions());
        let line = line_of(&text, "| v2v 64 B split");
        let quota = "0.5 of a CPU for every switch, which had 1.00, 1.00, 1.00";
        assert!(
            line.contains(&format!("generator-bound: counts where the ratio is at least so large; {quota}")),
            "{line}"
        );
        assert!(line.contains("| 3.00 [3.00, 3.00] | ≥ 2.00 **missed** |"), "{line}");
        assert!(line.contains("| ≥ 2.00 [2.00, 2.00] | ≥ 1.30 reached |"), "with testpmd it idled: {line}");
    }
}
