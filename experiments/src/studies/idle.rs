//! Idle guests: what a switch costs that has next to nothing to do, and how late the packet is that wakes it, by mode.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use super::Lab;
use super::finding::{Axis, Bound, Chart, Claim, Finding, Kind, Point, Series, Table, show};
use super::stage::{Stage, name};
use super::traffic::Streams;
use crate::stats;

const MODES: [&str; 3] = ["poll", "adaptive", "trap"];
/// Guests, of which two exchange something.
const GUESTS: [usize; 3] = [2, 16, 256];
/// Packets a second of the one that sends: the switch has long been asleep when the next one comes.
const RATE: f64 = 40.0;
/// Ticks of the clock that /proc counts in, in a second.
const TICKS: f64 = 100.0;

/// What a turn came to.
struct Turn {
    /// Parts of a CPU that the switch used, all threads.
    cpu: f64,
    /// Microseconds from guest to guest: median and 99th percentile.
    latency: [f64; 2],
}

/// Makes the experiment.
pub fn run(lab: &Lab) -> Result<Finding> {
    let counts = if lab.effort.coarse { &GUESTS[..2] } else { &GUESTS[..] };
    let places: Vec<(&str, usize)> = counts.iter().flat_map(|guests| MODES.map(|mode| (mode, *guests))).collect();
    let turns = lab.rounds(&places, |(mode, guests)| turn(lab, mode, *guests))?;
    let mut finding = Finding {
        name: "idle".to_owned(),
        title: "Idle: what the switch costs when guests are silent, and how late it wakes".to_owned(),
        question: "How much of a CPU does a switch use whose guests send next to nothing, and how long does a packet take that comes then: with cores \
                   that poll, that sleep, and with a thread for each guest (traditional)?"
            .to_owned(),
        setup: vec![
            format!(
                "One I/O core; one guest sends {RATE} packets a second to another, all others are connected and silent. CPU time is that of all threads \
                 of the switch, as /proc counts it; latency is one way, from guest to guest. The receiver polls."
            ),
            "At most 256 guests, as many as one ringgen plays; 1,000 were not measured.".to_owned(),
        ],
        repeat: "make experiments ONLY=idle".to_owned(),
        conditions: lab.conditions(),
        ..Finding::default()
    };
    finding.conditions.seconds = seconds(lab);
    let all = |turns: &[Turn], of: &dyn Fn(&Turn) -> f64| turns.iter().map(of).collect::<Vec<f64>>();
    let mut table = Table::new("Idle", &["mode", "guests", "CPU used, %", "latency p50, µs", "latency p99, µs"]);
    for ((mode, guests), turns) in places.iter().zip(&turns) {
        let cell = |of: &dyn Fn(&Turn) -> f64| stats::estimate(&all(turns, of)).map_or("-".to_owned(), show);
        table.row([
            (*mode).to_owned(),
            guests.to_string(),
            cell(&|turn| turn.cpu * 100.0),
            cell(&|turn| turn.latency[0]),
            cell(&|turn| turn.latency[1]),
        ]);
    }
    finding.tables.push(table);
    let chart = |name: &str, title: &str, y: Axis, of: &dyn Fn(&Turn) -> f64| {
        let series = MODES.iter().map(|mode| {
            let of_mode = places.iter().zip(&turns).filter(|((of, _), _)| of == mode);
            let points = of_mode.enumerate().map(|(at, (_, turns))| Point::new(at as f64, &all(turns, of)));
            Series::new(mode, points.collect())
        });
        Chart {
            name: name.to_owned(),
            title: title.to_owned(),
            x: Axis::names("guests", counts),
            y,
            kind: Kind::Bars,
            series: series.collect(),
            ..Chart::default()
        }
    };
    finding
        .charts
        .push(chart("cpu", "CPU that an idle switch uses", Axis::linear("% of a CPU"), &|turn| turn.cpu * 100.0));
    finding.charts.push(chart("latency", "First packet after a silence, 99th percentile", Axis::log("µs"), &|turn| {
        turn.latency[1]
    }));
    let of = |mode: &str, guests: usize, of: &dyn Fn(&Turn) -> f64| {
        let at = places.iter().position(|place| *place == (mode, guests)).unwrap_or_default();
        all(&turns[at], of)
    };
    let most = counts[counts.len() - 1];
    let cpu = stats::estimate(&of("adaptive", most, &|turn| turn.cpu * 100.0));
    finding.claims.push(
        Claim::new(
            &format!("CPU of an adaptive switch with {most} guests, nearly idle"),
            cpu,
            "%",
            Bound::AtMost(1.0),
            true,
        )
        .but("40 packets a second flow, and the scheduler looks on 200 times a second"),
    );
    let late: Vec<f64> = of("adaptive", most, &|turn| turn.latency[1])
        .iter()
        .zip(of("poll", most, &|turn| turn.latency[1]))
        .map(|(adaptive, poll)| adaptive - poll)
        .collect();
    let late = stats::estimate(&late);
    finding.claims.push(Claim::new(
        "latency p99 that sleeping adds to a first packet",
        late,
        "µs",
        Bound::AtMost(50.0),
        true,
    ));
    finding.answer.push(format!(
        "With {most} nearly idle guests a switch that polls uses {} % of a CPU, an adaptive one {} %; sleeping adds {} µs to the first packet after a \
         silence, at the 99th percentile.",
        stats::estimate(&of("poll", most, &|turn| turn.cpu * 100.0)).map_or("-".to_owned(), show),
        cpu.map_or("-".to_owned(), show),
        late.map_or("-".to_owned(), show)
    ));
    finding.raw = json!({
        "places": places,
        "cpu": turns.iter().map(|turns| all(turns, &|turn| turn.cpu)).collect::<Vec<_>>(),
        "latency_us": turns.iter().map(|turns| turns.iter().map(|turn| turn.latency).collect::<Vec<_>>()).collect::<Vec<_>>(),
    });
    Ok(finding)
}

/// Long enough for a percentile.
fn seconds(lab: &Lab) -> f64 {
    lab.effort.seconds * 3.0
}

fn turn(lab: &Lab, mode: &str, guests: usize) -> Result<Turn> {
    let mut stage = Stage::start(lab, 1, |config| {
        let config = config.key(&format!("mode = \"{mode}\""));
        (0..guests).fold(config, |config, guest| config.guest(&name(guest), &[]))
    })?;
    let mut rates = vec![0.0; guests / 2];
    rates[0] = RATE;
    let streams = Streams::timed(lab, &stage, &rates)?;
    // What connecting took is over.
    std::thread::sleep(Duration::from_millis(300));
    let pid = stage.switch.process().pid();
    let (before, begin) = (cpu_seconds(pid)?, Instant::now());
    std::thread::sleep(Duration::from_secs_f64(seconds(lab)));
    let cpu = (cpu_seconds(pid)? - before) / begin.elapsed().as_secs_f64();
    let report = streams.finish()?;
    let latency = report.latency_ns.context("no packet was timed")?;
    Ok(Turn { cpu, latency: [latency.p50 / 1e3, latency.p99 / 1e3] })
}

/// CPU time of a process, in user and kernel mode.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    // Behind the name, which may hold anything: utime and stime are fields 14 and 15 (proc(5)).
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).context(path.clone());
    Ok((ticks(11)? + ticks(12)?) / TICKS)
}
