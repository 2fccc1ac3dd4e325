//! What makes a row count: clean packets, equal terms, and a generator that was not the limit.

use crate::results::{Beside, Part, Verified};
use crate::ringgen::{Negotiated, Report};
use crate::stats;
use crate::work::Work;

/// A generator that idled less than this part of the time in which the fastest system ran was the limit.
pub const LEAST_IDLE: f64 = 0.10;

/// The least part of a stream beside round trips that has to arrive, in the median of the rounds.
pub const LEAST_BACKGROUND: f64 = 0.98;

/// Whether a row's figures are the switch's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// The switch was the limit: the row counts.
    Switch,
    /// The generator was: the row shows no more than that.
    Generator,
}

/// What is wrong with the packets of a run, or nothing.
#[must_use]
pub fn fault(work: Work, report: &Report) -> Option<String> {
    if report.received == 0 && work != Work::GuestToNic {
        return Some("no packet arrived".to_owned());
    }
    let counts = [
        ("duplicated", report.duplicated),
        ("reordered", report.reordered),
        ("corrupted", report.corrupted),
        ("too late", report.late),
        ("for another guest", report.misdelivered),
    ];
    if work == Work::NicToGuest {
        // The NIC delivers the same buffers again and again.
        return None;
    }
    if is_verifiable(work)
        && let Some((what, _)) = counts[..3].iter().find(|(_, count)| count.is_none())
    {
        return Some(format!("nobody looked for {what} packets"));
    }
    let wrong: Vec<String> = counts
        .iter()
        .filter(|(_, count)| count.is_some_and(|count| count > 0))
        .map(|(what, count)| format!("{} {what}", count.unwrap_or(0)))
        .collect();
    (!wrong.is_empty()).then(|| format!("of {} packets received: {}", report.received, wrong.join(", ")))
}

/// What a run in which every packet was looked at has shown, or what was wrong. `known`: the NIC delivers packets that the generator has sent.
pub fn verified(work: Work, known: bool, report: &Report) -> Result<Verified, String> {
    match work {
        Work::NicToGuest if known => {
            let odd: u64 = [report.corrupted, report.misdelivered, report.foreign].into_iter().flatten().sum();
            if odd > 0 {
                return Err(format!(
                    "of {} packets received: {odd} with other contents than were sent",
                    report.received
                ));
            }
            Ok(Verified::Partly(Part::Contents))
        }
        Work::NicToGuest => Ok(Verified::Wholly(false)),
        // Those that reach the NIC are counted.
        Work::GuestToNic | Work::NicEcho => Ok(Verified::Partly(Part::Count)),
        Work::GuestToGuest | Work::Tso | Work::RttIdle | Work::RttHalfLoad => Ok(Verified::Wholly(true)),
    }
}

/// What is wrong with packets that went to the NIC, which counted `reached`, or nothing. A switch gives a packet back to its
/// guest whether it was sent or dropped, and this NIC takes all it is given; nobody but the guest sends anything.
#[must_use]
pub fn miscount(report: &Report, reached: u64) -> Option<String> {
    (reached != report.sent)
        .then(|| format!("of {} packets taken from the guest, {reached} reached the NIC", report.sent))
}

/// What is wrong with the streams beside round trips, one in every round, or nothing.
#[must_use]
pub fn lack(rounds: &[Beside]) -> Option<String> {
    let arrived = stats::median(&rounds.iter().map(|beside| beside.arrived / beside.asked).collect::<Vec<_>>())?;
    (arrived < LEAST_BACKGROUND)
        .then(|| format!("of the stream beside the round trips {:.1} % arrived in the median round", 100.0 * arrived))
}

/// Whether the generator sees what becomes of packets in this work: not of those it sends into a NIC, nor of those that
/// were never its own.
#[must_use]
pub fn is_verifiable(work: Work) -> bool {
    !work.has_nic()
}

/// How the terms of two systems differ, or nothing. Each is named with what its guests negotiated.
#[must_use]
pub fn difference(systems: &[(&str, &[Negotiated])]) -> Option<String> {
    let (first_name, first) = systems.first()?;
    for (name, negotiated) in &systems[1..] {
        if first.len() != negotiated.len() {
            return Some(format!("{first_name} served {} guests, {name} {}", first.len(), negotiated.len()));
        }
        for (guest, (one, other)) in first.iter().zip(*negotiated).enumerate() {
            if let Some(what) = differs(one, other) {
                return Some(format!("guest {guest} negotiated differently with {first_name} and {name}: {what}"));
            }
        }
    }
    None
}

fn differs(one: &Negotiated, other: &Negotiated) -> Option<String> {
    let pairs = [
        ("features", one.features.clone(), other.features.clone()),
        ("ring", one.ring.clone(), other.ring.clone()),
        ("ring size", one.ring_size.to_string(), other.ring_size.to_string()),
        ("queue pairs", one.queue_pairs.to_string(), other.queue_pairs.to_string()),
    ];
    let (what, left, right) = pairs.into_iter().find(|(_, left, right)| left != right)?;
    let names = if what == "features" { names_of_difference(one, other) } else { String::new() };
    Some(format!("{what} {left} and {right}{names}"))
}

fn names_of_difference(one: &Negotiated, other: &Negotiated) -> String {
    let only = |left: &Negotiated, right: &Negotiated| -> Vec<String> {
        left.feature_names.iter().filter(|name| !right.feature_names.contains(name)).cloned().collect()
    };
    let (left, right) = (only(one, other), only(other, one));
    if left.is_empty() && right.is_empty() {
        return String::new();
    }
    format!(" (only the first: {}; only the second: {})", list(&left), list(&right))
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "-".to_owned() } else { names.join(", ") }
}

/// The part of the time in which a switch ran that the generator idled, when it idled `idle` of all the time and the switch had `cpu` of a CPU. The
/// rest of the time is taken for idle, all of it: there the generator fills a ring once more at most.
#[must_use]
pub fn idle_while_running(idle: f64, cpu: f64) -> f64 {
    if cpu > 0.0 { ((idle - (1.0 - cpu)) / cpu).clamp(0.0, 1.0) } else { 0.0 }
}

/// Whether a generator that idled for these parts of the time, round by round, may have been the limit.
#[must_use]
pub fn is_generator_bound(idle: &[f64]) -> bool {
    stats::median(idle).is_none_or(|idle| idle < LEAST_IDLE)
}

/// Who was the limit, given how fast each system is and how much the generator idled while it ran: too little with the
/// fastest means that it was.
#[must_use]
pub fn limit(systems: &[(f64, f64)]) -> Limit {
    let fastest = systems.iter().max_by(|one, other| one.0.total_cmp(&other.0));
    match fastest {
        Some((_, idle)) if *idle < LEAST_IDLE => Limit::Generator,
        _ => Limit::Switch,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(features: &str, names: &[&str]) -> Negotiated {
        Negotiated {
            features: features.to_owned(),
            feature_names: names.iter().map(|name| (*name).to_owned()).collect(),
            ring: "split".to_owned(),
            ring_size: 256,
            queue_pairs: 1,
        }
    }

    #[test]
    fn one_wrong_packet_voids() {
        let zero = Some(0);
        let clean =
            Report { received: 1000, lost: 5, duplicated: zero, reordered: zero, corrupted: zero, ..Report::default() };
        assert_eq!(fault(Work::GuestToGuest, &clean), None, "a full receiver may lose packets");
        for wrong in [
            Report { duplicated: Some(1), ..clean.clone() },
            Report { reordered: Some(1), ..clean.clone() },
            Report { corrupted: Some(1), ..clean.clone() },
            Report { late: Some(1), ..clean.clone() },
            Report { misdelivered: Some(1), ..clean.clone() },
        ] {
            let text = fault(Work::Tso, &wrong).unwrap();
            assert!(text.starts_with("of 1000 packets received: 1 "), "{text}");
        }
        let unseen = Report { reordered: None, ..clean.clone() };
        assert_eq!(fault(Work::GuestToGuest, &unseen), Some("nobody looked for reordered packets".to_owned()));
        assert_eq!(fault(Work::GuestToNic, &unseen), None, "there is nothing to look at");
        let nothing = Report::default();
        assert!(fault(Work::RttIdle, &nothing).is_some());
        assert_eq!(fault(Work::GuestToNic, &nothing), None, "nobody receives there");
    }

    #[test]
    fn a_switch_that_drops_its_load_has_no_round_trips() {
        let round = |asked, arrived| Beside { asked, arrived };
        let one_bad = [round(1e6, 0.99e6), round(2e6, 1e6), round(1.5e6, 1.5e6)];
        assert_eq!(lack(&one_bad), None, "one bad round is the machine's");
        let half = [round(1e6, 0.5e6), round(3e6, 1.5e6), round(2e6, 1e6)];
        assert_eq!(lack(&half).unwrap(), "of the stream beside the round trips 50.0 % arrived in the median round");
        assert_eq!(lack(&[]), None, "there was none");
    }

    #[test]
    fn what_was_verified_is_what_could_be_seen() {
        let seen = Report { received: 9, duplicated: Some(8), foreign: Some(0), ..Report::default() };
        assert_eq!(verified(Work::RttHalfLoad, true, &seen), Ok(Verified::Wholly(true)));
        assert_eq!(verified(Work::GuestToNic, true, &seen), Ok(Verified::Partly(Part::Count)));
        assert_eq!(verified(Work::NicEcho, false, &seen), Ok(Verified::Partly(Part::Count)));
        assert_eq!(verified(Work::NicToGuest, true, &seen), Ok(Verified::Partly(Part::Contents)));
        assert_eq!(fault(Work::NicToGuest, &seen), None, "it delivers the same buffers again");
        for odd in [
            Report { foreign: Some(1), ..seen.clone() },
            Report { corrupted: Some(1), ..seen.clone() },
            Report { misdelivered: Some(1), ..seen.clone() },
        ] {
            assert!(verified(Work::NicToGuest, true, &odd).unwrap_err().contains("1 with other contents"));
            assert_eq!(verified(Work::NicToGuest, false, &odd), Ok(Verified::Wholly(false)), "nobody knows them");
        }
    }

    #[test]
    fn a_switch_with_a_share_of_a_cpu_is_judged_by_the_time_in_which_it_ran() {
        assert_eq!(idle_while_running(0.3, 1.0), 0.3);
        assert!((idle_while_running(0.6, 0.5) - 0.2).abs() < 1e-9);
        assert!((idle_while_running(0.60, 0.41) - 0.0244).abs() < 1e-4, "half idle by construction is nothing");
        assert_eq!(
            (idle_while_running(0.1, 0.5), idle_while_running(1.0, 0.5), idle_while_running(0.5, 0.0)),
            (0.0, 1.0, 0.0)
        );
    }

    #[test]
    fn packets_that_never_reached_the_nic_void_and_so_do_more_of_them() {
        let report = Report { sent: 1000, ..Report::default() };
        assert_eq!(miscount(&report, 1000), None);
        assert!(miscount(&report, 1001).unwrap().contains("1001 reached the NIC"), "duplicates");
        assert!(miscount(&report, 999).unwrap().contains("999 reached the NIC"));
    }

    #[test]
    fn any_difference_in_what_was_negotiated_is_named() {
        let one = [terms("0x1", &["VERSION_1"]), terms("0x1", &["VERSION_1"])];
        assert_eq!(difference(&[("a", &one), ("b", &one), ("c", &one)]), None);
        assert_eq!(difference(&[]), None);

        let more = [terms("0x1", &["VERSION_1"]), terms("0x3", &["VERSION_1", "MRG_RXBUF"])];
        let text = difference(&[("a", &one), ("b", &one), ("c", &more)]).unwrap();
        assert!(text.contains("guest 1") && text.contains("a and c") && text.contains("MRG_RXBUF"), "{text}");

        let mut longer = one.clone();
        longer[0].ring_size = 512;
        assert!(difference(&[("a", &one), ("b", &longer)]).unwrap().contains("ring size 256 and 512"));
        let mut packed = one.clone();
        packed[0].ring = "packed".to_owned();
        assert!(difference(&[("a", &one), ("b", &packed)]).unwrap().contains("ring split and packed"));
        assert!(difference(&[("a", &one), ("b", &one[..1])]).unwrap().contains("2 guests"));
    }

    #[test]
    fn the_generators_idle_time_counts_with_the_fastest_system() {
        assert_eq!(limit(&[(5.0, 0.5), (10.0, 0.11)]), Limit::Switch);
        assert_eq!(limit(&[(5.0, 0.5), (10.0, 0.09)]), Limit::Generator);
        assert_eq!(limit(&[(5.0, 0.01), (10.0, 0.10)]), Limit::Switch, "the slower one's idle time does not matter");
        assert_eq!(limit(&[]), Limit::Switch);
    }

    #[test]
    fn a_generator_that_hardly_idles_in_the_median_round_may_be_the_limit() {
        assert!(is_generator_bound(&[0.09, 0.5, 0.05]) && !is_generator_bound(&[0.01, 0.10, 0.3]));
        assert!(is_generator_bound(&[]), "nobody looked");
    }
}
