//! What a switch is doing, for people.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use config::{RawTrunk, RawVlan};

use super::client::{Client, unexpected};
use super::units::{bytes, duration, micros, percent};
use super::{scheduler, table};
use crate::control::protocol::{Answer, CaptureDirection, Origin, Request};
use crate::rates::{self, CoreRates, Interval, PortRates};
use crate::snapshot::{Accounting, CaptureSnapshot, CoreSnapshot, PortSnapshot, PortState, Snapshot};
use crate::words;

/// Time between the two looks that rates are made of.
const INTERVAL: Duration = Duration::from_millis(250);

pub(super) fn status(client: &Client, json: bool) -> Result<()> {
    let before = snapshot(client)?;
    if json {
        return super::print_json(&before);
    }
    thread::sleep(INTERVAL);
    let now = snapshot(client)?;
    super::print(&render(&before, &now))
}

pub(super) fn fdb(client: &Client, json: bool) -> Result<()> {
    let Answer::Fdb(stations) = client.ask(&Request::FdbShow)? else { return Err(unexpected()) };
    if json {
        return super::print_json(&stations);
    }
    let rows: Vec<_> = stations
        .iter()
        .map(|station| {
            let age = if station.fixed { "configured".to_owned() } else { format!("{} s", station.age_s) };
            vec![station.vlan.to_string(), station.mac.clone(), station.port.clone(), age]
        })
        .collect();
    super::print(&table::render(&["#VLAN", "MAC", "PORT", "#LAST HEARD"], &rows))
}

pub(super) fn state(state: Option<PortState>) -> String {
    state.map_or("-", words::state).to_owned()
}

pub(super) fn origin(origin: Origin) -> String {
    match origin {
        Origin::File => "file",
        Origin::RunTime => "run time",
    }
    .to_owned()
}

pub(super) fn vlan(vlan: Option<&RawVlan>) -> String {
    let Some(vlan) = vlan else { return "-".to_owned() };
    let tagged = match &vlan.trunk {
        None => return vlan.access.map_or("-".to_owned(), |id| id.to_string()),
        Some(RawTrunk::All(_)) => "all".to_owned(),
        Some(RawTrunk::Only(ids)) => ids.iter().map(i64::to_string).collect::<Vec<_>>().join(","),
    };
    let native = vlan.native.map_or(String::new(), |id| format!(" native {id}"));
    format!("trunk {tagged}{native}")
}

pub(super) fn snapshot(client: &Client) -> Result<Snapshot> {
    match client.ask(&Request::Status)? {
        Answer::Status(snapshot) => Ok(*snapshot),
        _ => Err(unexpected()),
    }
}

fn render(before: &Snapshot, now: &Snapshot) -> String {
    let interval = Interval::between(before, now);
    let mut text = format!(
        "sidecore {}, process {}, up {}, {} stations known\n\n",
        now.version,
        now.pid,
        duration(now.uptime_ms / 1000),
        now.fdb_entries
    );
    let rows: Vec<_> = now.ports.iter().map(|port| port_row(port, interval.and_then(|i| i.port(port)))).collect();
    let heads = [
        "PORT",
        "KIND",
        "STATE",
        "MODE",
        "CORE",
        "RING",
        "#RX PACKETS",
        "#TX PACKETS",
        "#RX/s",
        "#TX/s",
        "#BUSY",
        "#OLDEST WAIT",
        "#DROPPED",
        "#KICKS",
        "#CALLS",
        "#CALLS SAVED",
    ];
    text.push_str(&table::render(&heads, &rows));
    let cores = now.cores.iter().map(|core| core_row(core, interval.and_then(|i| i.core(core))));
    text.push('\n');
    text.push_str(&table::render(
        &[
            "#CORE",
            "#CPU",
            "MODE",
            "#BUSY",
            "#ASLEEP",
            "#CPU WAIT",
            "#WAKES/s",
            "#ARMED",
            "#OLDEST WAIT",
            "#QUEUE PAIRS",
            "#HANDED OVER",
            "#CYCLES/RECEIVED",
        ],
        &cores.collect::<Vec<_>>(),
    ));
    text.push_str(&wake_latency(now));
    text.push('\n');
    text.push_str(&scheduler::status(&now.scheduler, scheduler::SHOWN_BRIEFLY, SystemTime::now()));
    text.push('\n');
    text.push_str(&accounting(&now.accounting));
    now.captures.running.iter().for_each(|capture| text.push_str(&capture_line(capture)));
    for port in &now.ports {
        notes(port, &mut text);
    }
    text
}

fn capture_line(capture: &CaptureSnapshot) -> String {
    let filter = capture.filter.as_ref().map_or(String::new(), |filter| format!(", filter \"{filter}\""));
    let direction = match capture.direction {
        CaptureDirection::From => "from",
        CaptureDirection::To => "to",
        CaptureDirection::Both => "from and to",
    };
    format!(
        "Capture {}, {direction} {}{filter}, for {}: {} packets, {}, {} missed\n",
        capture.number,
        capture.ports.join(", "),
        duration(capture.running_ms / 1000),
        capture.packets,
        bytes(capture.bytes),
        capture.missed.values().sum::<u64>(),
    )
}

fn port_row(port: &PortSnapshot, rates: Option<PortRates>) -> Vec<String> {
    let cores: BTreeSet<usize> = port.queues.iter().filter_map(|queue| queue.io_core).collect();
    let cores: Vec<_> = cores.iter().map(usize::to_string).collect();
    let ring = match (&port.negotiated, &port.driver) {
        (Some(negotiated), _) => format!("{} {}", negotiated.ring, negotiated.ring_size),
        (None, Some(driver)) => driver.clone(),
        (None, None) => "-".to_owned(),
    };
    let rate = |of: fn(&PortRates) -> f64| rates.as_ref().map_or("-".to_owned(), |rates| format!("{:.0}", of(rates)));
    vec![
        port.name.clone(),
        words::kind(port.kind).to_owned(),
        words::state(port.state).to_owned(),
        port.mode.clone(),
        if cores.is_empty() { "-".to_owned() } else { cores.join(",") },
        ring,
        port.rx.packets.to_string(),
        port.tx.packets.to_string(),
        rate(|rates| rates.rx_packets),
        rate(|rates| rates.tx_packets),
        rates.map_or("-".to_owned(), |rates| percent(rates.load)),
        port.queues.iter().filter_map(|queue| queue.oldest_wait_ns).max().map_or("-".to_owned(), micros),
        rates::sum(&port.drops).to_string(),
        port.kicks.to_string(),
        port.calls.to_string(),
        port.calls_saved.to_string(),
    ]
}

fn core_row(core: &CoreSnapshot, rates: Option<CoreRates>) -> Vec<String> {
    let for_received = rates.and_then(|rates| rates.cycles_per_received);
    let share = |of: fn(CoreRates) -> f64| rates.map_or("-".to_owned(), |rates| percent(of(rates)));
    vec![
        core.core.to_string(),
        core.cpu.map_or("-".to_owned(), |cpu| cpu.to_string()),
        core.mode.clone(),
        share(|rates| rates.busy),
        share(|rates| rates.asleep),
        share(|rates| rates.waits),
        rates.map_or("-".to_owned(), |rates| format!("{:.0}", rates.wakes)),
        core.armed_rings.to_string(),
        micros(core.oldest_wait_ns),
        core.queue_pairs.to_string(),
        core.handed_over.to_string(),
        for_received.map_or("-".to_owned(), |cycles| cycles.to_string()),
    ]
}

/// Which CPUs wake up as soon as the configuration says, and which do not any more.
fn wake_latency(now: &Snapshot) -> String {
    let Some(limit) = now.wake_latency_us else { return String::new() };
    let cpus = |kept: bool| {
        let cores = now.cores.iter().filter(|core| core.wake_latency_us.is_some_and(|us| us <= limit) == kept);
        let cpus: BTreeSet<usize> = cores.filter_map(|core| core.cpu).collect();
        cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
    };
    let (kept, lost) = (cpus(true), cpus(false));
    let mut text = format!("wake-up within {limit} µs: CPU {}\n", if kept.is_empty() { "none" } else { &kept });
    if !lost.is_empty() {
        text.push_str(&format!("wake-up limit lifted by something else: CPU {lost}\n"));
    }
    text
}

fn accounting(sum: &Accounting) -> String {
    let Accounting { pulled, forwarded, dropped, in_flight, copies, delivered, copy_drops } = sum;
    let mut text =
        format!("packets: {pulled} pulled = {forwarded} forwarded + {dropped} dropped + {in_flight} in flight\n");
    if *copies > 0 {
        text.push_str(&format!("floods:  {copies} copies = {delivered} delivered + {copy_drops} dropped"));
        let under_way = copies.saturating_sub(delivered + copy_drops);
        if under_way > 0 {
            text.push_str(&format!(" + {under_way} under way"));
        }
        text.push('\n');
    }
    text
}

/// What is out of the ordinary with a port.
fn notes(port: &PortSnapshot, text: &mut String) {
    let name = &port.name;
    let list = |counts: &BTreeMap<String, u64>| {
        counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect::<Vec<_>>().join(", ")
    };
    let mut note = |what: &str, detail: String| {
        if !detail.is_empty() {
            text.push_str(&format!("{name}: {what}: {detail}\n"));
        }
    };
    note("error", port.error.clone().unwrap_or_default());
    note("dropped", list(&port.drops));
    note("could not take", list(&port.refused));
    note("rings stopped", list(&port.faults));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::snapshot as example;
    use crate::snapshot::DecisionSnapshot;

    #[test]
    fn status_shows_rates_and_what_is_wrong() {
        let before = example();
        let mut now = example();
        now.uptime_ms += 500;
        now.ports[0].tx.packets += 100;
        now.ports[0].drops.insert("rx_full".to_owned(), 3);
        now.cores[0].busy_cycles += 75;
        now.cores[0].idle_cycles += 25;
        now.cores[0].cpu_wait_ns += 62_500_000;
        now.cores[0].received += 2;
        now.cores[0].received_cycles += 502;
        // A quarter of half a second.
        now.ports[0].queues[0].busy_cycles += now.tsc_hz / 8;
        now.ports[0].queues[1].oldest_wait_ns = Some(12_345);
        now.accounting = Accounting { pulled: 5, forwarded: 2, dropped: 3, ..Accounting::default() };
        let text = render(&before, &now);
        assert!(
            text.lines().any(|line| line.starts_with("vm1") && line.contains("split 256") && line.contains(" 200 "))
        );
        assert!(text.contains("75.0 %"));
        assert!(text.lines().any(|line| line.starts_with("vm1") && line.contains("25.0 %      12.3 µs")), "{text}");
        assert!(text.lines().any(|line| line.contains("10.0 µs") && line.ends_with(" 251")), "{text}");
        assert!(text.contains("CPU WAIT") && text.contains("12.5 %"), "{text}");
        assert!(text.contains("packets: 5 pulled = 2 forwarded + 3 dropped + 0 in flight\n"));
        assert!(text.contains("vm1: dropped: 3 rx_full\n"));
        assert!(!text.contains("floods"));
        assert!(text.contains("\nscheduler: balance, 0 moves\nno decisions yet\n"), "{text}");
    }

    #[test]
    fn status_shows_who_wakes_up_in_time() {
        let mut now = example();
        assert!(!render(&now, &now).contains("wake-up"));
        now.wake_latency_us = Some(10);
        now.cores = [(2, Some(10)), (4, Some(0)), (5, None), (6, Some(200))]
            .map(|(cpu, us)| CoreSnapshot { cpu: Some(cpu), wake_latency_us: us, ..CoreSnapshot::default() })
            .into();
        let text = render(&now, &now);
        assert!(text.contains("\nwake-up within 10 µs: CPU 2, 4\n"), "{text}");
        assert!(text.contains("\nwake-up limit lifted by something else: CPU 5, 6\n"), "{text}");
    }

    #[test]
    fn status_shows_the_last_decisions() {
        let mut now = example();
        let decision = |number: u64| DecisionSnapshot {
            number,
            time_ms: 0,
            kind: "move".to_owned(),
            reason: "saturated".to_owned(),
            what: format!("queue pair {number} of guest vm1 from I/O core 0 to I/O core 1"),
            step: None,
            why: "I/O core 0 is saturated".to_owned(),
            expected_gain: Some(0.25),
            measured_gain: Some(0.21),
            pause_us: Some(12.5),
            failed: None,
        };
        now.scheduler.decisions = (0..9).map(decision).collect();
        let text = render(&example(), &now);
        let lines: Vec<_> = text.lines().filter(|line| line.contains("of guest vm1 from")).collect();
        assert_eq!(lines.len(), scheduler::SHOWN_BRIEFLY, "{text}");
        let last = lines.last().unwrap();
        let cells = ["queue pair 8", "I/O core 0 is saturated", "25.0 %", "21.0 %", "12.5 us"];
        assert!(cells.iter().all(|cell| last.contains(cell)), "{text}");
    }

    #[test]
    fn vlans() {
        let trunk = RawVlan { access: None, trunk: Some(RawTrunk::Only(vec![10, 20])), native: Some(1) };
        assert_eq!(vlan(Some(&trunk)), "trunk 10,20 native 1");
        assert_eq!(vlan(Some(&RawVlan { access: Some(7), ..RawVlan::default() })), "7");
    }
}
