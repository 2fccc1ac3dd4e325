//! Idle guests: what a switch costs that has nothing to do, how late the packet is that wakes it, and what it costs to be able to sleep.

mod firsts;
mod swaps;
mod used;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use sidecore_tests::process::{Process, eventually};
use sidecore_tests::switch::SwitchConfig;
use sidecore_tests::wake::WakeLimit;

use self::firsts::Pair;
use self::swaps::{SWAPS, Swap};
use self::used::Used;
use super::finding::{Axis, Bound, Chart, Claim, Finding, Kind, Point, Series, Table, number, show};
use super::stage::{Load, Stage, name};
use super::turns::{self, Case, TURNS};
use super::{Effort, Lab};
use crate::stats::{self, Ratio, median};

const MODES: [&str; 4] = ["poll", "adaptive", AWAKE, "trap"];
/// Mode `adaptive` where the CPU of a core that sleeps does not halt (`wake_latency_us = 0`).
const AWAKE: &str = "adaptive, 0 µs";
/// Guests, of which two exchange something.
const GUESTS: [usize; 5] = [2, FEW, TRAP_GUESTS, 256, 1000];
/// Guests in turns, and where CPUs do not halt: that has nothing to do with guests.
const FEW: usize = 16;
/// Most guests in mode `trap`: a switch has at most 64 I/O cores and threads of guests. The other modes are not measured with so many.
const TRAP_GUESTS: usize = 63;
/// Packets a second of the guest that sends: the switch has long been asleep when the next one comes.
const RATE: f64 = 250.0;
/// First packets in a turn for each second that one lasts.
const FIRSTS: f64 = 1000.0;
/// What it takes until nobody thinks of what was before.
const CALM: Duration = Duration::from_millis(250);
/// What connecting all guests may take.
const CONNECTED: Duration = Duration::from_secs(60);
/// Busy pairs, and the size of their packets: copying makes the core the limit.
const PAIRS: usize = 4;
const LONG: usize = 1518;
/// How often each of two switches under load comes first in a round.
const BUSY_PAIRS: usize = 2;

/// What a turn came to.
struct Turn {
    /// Parts of a CPU that the switch used without a packet, by the name of its threads; and all of them with some packets.
    silent: BTreeMap<String, f64>,
    waking: f64,
    /// Microseconds from guest to guest: median and 99th percentile.
    latency: [f64; 2],
    /// The same again of packets, each followed by a bare wake-up, and of these, where that was measured.
    pairs: Option<[[f64; 2]; 2]>,
}

impl Turn {
    fn cpu(&self) -> f64 {
        self.silent.values().sum()
    }
}

/// A mode and a number of guests, and what the rounds came to.
struct Place {
    mode: &'static str,
    guests: usize,
    turns: Vec<Turn>,
}

impl Place {
    fn all(&self, of: impl Fn(&Turn) -> f64) -> Vec<f64> {
        self.turns.iter().map(of).collect()
    }

    /// First packets and, each right after one, bare wake-ups: a pair of medians and 99th percentiles for each round.
    fn pairs(&self) -> Vec<[[f64; 2]; 2]> {
        self.turns.iter().filter_map(|turn| turn.pairs).collect()
    }
}

/// Makes the experiment.
pub fn run(lab: &Lab) -> Result<Finding> {
    let counts = counts(lab.effort);
    let limit = lab.cpus.io_cores(1).first().and_then(|cpu| WakeLimit::of(*cpu));
    let places = measure(lab, counts, limit.is_some())?;
    let swaps = swaps::swaps(lab, FEW, limit.as_ref())?;
    let busy = busy(lab)?;
    let mut finding = Finding {
        name: "idle".to_owned(),
        title: "Idle: what the switch costs when guests are silent, and how late it wakes".to_owned(),
        question: "How much of a CPU does a switch use whose guests send nothing, and how long does a packet take that comes then: with cores that \
                   poll, that sleep, and with a thread for each guest (traditional)? And what does the ability to sleep cost under load?"
            .to_owned(),
        setup: setup(limit.is_some()),
        repeat: "make experiments ONLY=idle".to_owned(),
        conditions: lab.conditions(),
        ..Finding::default()
    };
    finding.tables.push(table(&places));
    finding.tables.push(swaps::table(FEW, &swaps, places.last()));
    finding.tables.push(threads_table(&places));
    let cpu = ("cpu", "CPU that an idle switch uses");
    finding.charts.push(chart(cpu, (counts, &places), Axis::log("% of a CPU"), |turn| turn.cpu() * 100.0));
    let latency = ("latency", "First packet after a silence, 99th percentile");
    finding.charts.push(chart(latency, (counts, &places), Axis::log("µs"), |turn| turn.latency[1]));
    judge_cpu(&mut finding, &places, counts[counts.len() - 1]);
    swaps::judge(&mut finding, FEW, &swaps);
    judge_busy(&mut finding, &busy);
    finding.raw = json!({
        "places": places.iter().map(|place| (place.mode, place.guests)).collect::<Vec<_>>(),
        "cpu": places.iter().map(|place| place.all(Turn::cpu)).collect::<Vec<_>>(),
        "cpu_by_thread": places.iter().map(|place| place.turns.iter().map(|turn| &turn.silent).collect::<Vec<_>>()).collect::<Vec<_>>(),
        "latency_us": places.iter().map(|place| place.turns.iter().map(|turn| turn.latency).collect::<Vec<_>>()).collect::<Vec<_>>(),
        "pairs_us": places.iter().map(Place::pairs).collect::<Vec<_>>(),
        "swaps_us": swaps.iter().map(Swap::raw).collect::<Vec<_>>(),
        "busy_pps": busy,
    });
    Ok(finding)
}

/// Numbers of guests.
fn counts(effort: Effort) -> &'static [usize] {
    match effort {
        Effort { rounds: 1, .. } => &[GUESTS[0], FEW],
        Effort { coarse: true, .. } => &[FEW, GUESTS[4]],
        _ => &GUESTS,
    }
}

/// Every mode with every number of guests that it is measured with.
fn measure(lab: &Lab, counts: &[usize], can_stay_awake: bool) -> Result<Vec<Place>> {
    let measured = |mode: &str, guests: usize| match mode {
        "trap" => guests <= TRAP_GUESTS,
        AWAKE => guests == FEW && can_stay_awake,
        _ => guests != TRAP_GUESTS,
    };
    let all = counts.iter().flat_map(|guests| MODES.map(|mode| (mode, *guests)));
    let places: Vec<(&str, usize)> = all.filter(|(mode, guests)| measured(mode, *guests)).collect();
    let turns = lab.rounds(&places, |(mode, guests)| {
        turn(lab, mode, *guests).with_context(|| format!("{guests} guests, mode {mode}"))
    })?;
    Ok(places.into_iter().zip(turns).map(|((mode, guests), turns)| Place { mode, guests, turns }).collect())
}

/// How it is measured.
fn setup(can_stay_awake: bool) -> Vec<String> {
    let awake = if can_stay_awake {
        format!(
            "\"{AWAKE}\" is mode adaptive with wake_latency_us = 0: the CPU of a core that sleeps does not halt, and polls in the kernel's idle loop. \
             That is no CPU time of the switch, nor of any process, but power, and in a virtual machine the host's CPU. In turns it is the same \
             switch with and without: the experiment lifts what the switch has set."
        )
    } else {
        "What wake_latency_us gains was not measured: nothing here limits how long a CPU takes to wake up, or not for this user \
         (/sys/devices/system/cpu/cpuN/power/pm_qos_resume_latency_us)."
            .to_owned()
    };
    vec![
        format!(
            "One I/O core; all guests are connected. CPU time is that of all threads of the switch, as the scheduler of Linux counts it, while \
             nobody sends. Then one guest sends {RATE} packets a second to another: latency is one way, from guest to guest. The receiver polls, \
             and all others go on sleeping. The two guests come before all else on the generator's CPU (SCHED_FIFO, asleep in between): they \
             stand for guests that have CPUs of their own."
        ),
        format!(
            "In mode trap guests' threads run on the CPU that is the I/O core's otherwise, and nothing else of the switch does. There are at most \
             {TRAP_GUESTS} of them: each has a ring of its own to every other, so that all take memory with the square of their number. More guests \
             were not measured there."
        ),
        format!(
            "A bare wake-up is what waking up costs here whatever the program: a thread on the I/O core's CPU that waits in an epoll for an eventfd. \
             Beside a sleeping switch a first packet and a bare wake-up take turns one by one, each {} ms after the other. A switch that polls and \
             one that sleeps take {SWAPS} short turns a round, and whichever is not measured is halted: each turn has its own 99th percentiles.",
            firsts::SILENCE.as_secs_f64() * 1e3
        ),
        awake,
        format!(
            "Under load: {PAIRS} pairs of guests send {LONG} B as fast as their rings take them, to two switches, one in \
             mode poll and one in mode adaptive, which take {TURNS} short turns for each figure and are halted in between."
        ),
    ]
}

/// Packets a second under load, in modes `poll` and `adaptive`. Each time of switches that were started for it: where their memory happens to be
/// makes more of a difference than their mode.
fn busy(lab: &Lab) -> Result<[Vec<f64>; 2]> {
    // Whoever comes first has an advantage in no round.
    let orders = [["poll", "adaptive"], ["adaptive", "poll"]].repeat(if lab.effort.coarse { 1 } else { BUSY_PAIRS });
    let rounds = lab.rounds(&orders, |modes| compete(lab, *modes))?;
    let all = || orders.iter().zip(&rounds).flat_map(|(modes, rounds)| rounds.iter().map(move |pps| (modes, pps)));
    Ok(["poll", "adaptive"].map(|mode| all().map(|(modes, pps)| pps[usize::from(modes[0] != mode)]).collect()))
}

/// Packets a second under load of two switches, in these modes, that take short turns: what changes the speed of the machine changes both.
fn compete(lab: &Lab, modes: [&str; 2]) -> Result<[f64; 2]> {
    let start = |mode: &str| -> Result<Stage> {
        let stage = Stage::start(lab, 1, |config| {
            let config = config.key(&format!("mode = \"{mode}\"")).without_rebalancing().scheduler("tick_ms = 1000");
            ports(config, 2 * PAIRS)
        })?;
        stage.halt(true)?;
        Ok(stage)
    };
    let stages = [start(modes[0])?, start(modes[1])?];
    let load = Load::in_turns("stream", (0..2 * PAIRS).collect(), lab.effort.seconds);
    let load = load.option("size", LONG);
    let cases = stages.each_ref().map(|stage| Case { stage, load: load.clone() });
    let reports = turns::round(lab, &cases)?;
    Ok([reports[0].pps, reports[1].pps])
}

/// A switch of this mode.
fn configured(config: SwitchConfig, mode: &str) -> SwitchConfig {
    match mode {
        AWAKE => config.key("mode = \"adaptive\"").key("wake_latency_us = 0"),
        mode => config.key(&format!("mode = \"{mode}\"")),
    }
}

/// So many guests' ports.
fn ports(config: SwitchConfig, guests: usize) -> SwitchConfig {
    (0..guests).fold(config, |config, guest| config.guest(&name(guest), &[]))
}

fn turn(lab: &Lab, mode: &str, guests: usize) -> Result<Turn> {
    let mut stage = match mode {
        "trap" => Stage::start_traditional(lab, |config| ports(config, guests))?,
        _ => Stage::start(lab, 1, |config| ports(configured(config, mode), guests))?,
    };
    let _crowd = if guests > 2 { Some(crowd(lab, &mut stage, guests)?) } else { None };
    let mut pair = Pair::connect(&stage)?;
    let seconds = lab.effort.seconds;
    let pid = stage.switch.process().pid();
    std::thread::sleep(CALM);
    let before = Used::until_now(pid)?;
    std::thread::sleep(Duration::from_secs_f64(seconds));
    let after_silence = Used::until_now(pid)?;
    let packets = (2.0 * seconds * RATE).ceil() as usize;
    let late = pair.measure(&lab.cpus, packets, Duration::from_secs_f64(1.0 / RATE), false)?;
    let silent = after_silence.since(&before);
    let waking = Used::until_now(pid)?.since(&after_silence).values().sum();
    let count = (FIRSTS * seconds).ceil() as usize;
    // With most guests: fewer are compared with a switch that polls.
    let pairs = (mode == "adaptive" && guests > TRAP_GUESTS)
        .then(|| pair.measure(&lab.cpus, count, firsts::SILENCE, true)?.quantiles())
        .transpose()?;
    Ok(Turn { silent, waking, latency: late.quantiles()?[0], pairs })
}

/// All guests but the first two: connected, and silent.
fn crowd(lab: &Lab, stage: &mut Stage, guests: usize) -> Result<Process> {
    let load = Load::at("sink", (2..guests).collect(), 3600.0)
        .option("first-guest", 2)
        .option("announce", "off")
        .option("guest-mode", "interrupt")
        .option("buffers", 16);
    let arguments = stage.arguments(lab, &load);
    let process = Process::spawn("ringgen", &lab.ringgen, arguments, &stage.file("crowd.log"))?;
    eventually("all guests connected", CONNECTED, || {
        let status = stage.status()?;
        let ports = status["ports"].as_array().context("no ports in the status")?;
        Ok((ports.iter().filter(|port| port["state"] == "running").count() == guests - 2).then_some(()))
    })
    .with_context(|| process.tail())?;
    // Ports run before all that their sessions have to do is done.
    std::thread::sleep(CALM + guests as u32 * Duration::from_micros(500));
    Ok(process)
}

fn shown(figure: Option<Ratio>) -> String {
    figure.map_or("-".to_owned(), show)
}

fn table(places: &[Place]) -> Table {
    let head = ["mode", "guests", "CPU, silent, %", "CPU, some packets, %", "latency p50, µs", "latency p99, µs"];
    let mut table = Table::new("Idle", &head);
    for place in places {
        let cell = |of: &dyn Fn(&Turn) -> f64| shown(stats::estimate(&place.all(of)));
        table.row([
            place.mode.to_owned(),
            place.guests.to_string(),
            cell(&|turn| turn.cpu() * 100.0),
            cell(&|turn| turn.waking * 100.0),
            cell(&|turn| turn.latency[0]),
            cell(&|turn| turn.latency[1]),
        ]);
    }
    table
}

/// Who uses what an adaptive switch costs.
fn threads_table(places: &[Place]) -> Table {
    let mut table = Table::new("Threads of a silent switch, mode adaptive", &["guests", "% of a CPU, median"]);
    for place in places.iter().filter(|place| place.mode == "adaptive") {
        let names: Vec<&String> = place.turns.first().map(|turn| turn.silent.keys().collect()).unwrap_or_default();
        let mut used: Vec<(f64, &str)> = names
            .into_iter()
            .map(|name| {
                let all = place.all(|turn| turn.silent.get(name).copied().unwrap_or(0.0) * 100.0);
                (median(&all).unwrap_or(0.0), name.as_str())
            })
            .filter(|(percent, _)| *percent >= 0.001)
            .collect();
        used.sort_by(|one, other| other.0.total_cmp(&one.0));
        let used: Vec<String> =
            used.iter().map(|(percent, name)| format!("{name} {}", number(*percent, *percent))).collect();
        table.row([place.guests.to_string(), used.join(", ")]);
    }
    table
}

fn chart(
    (name, title): (&str, &str),
    (counts, places): (&[usize], &[Place]),
    y: Axis,
    of: impl Fn(&Turn) -> f64,
) -> Chart {
    let measured = MODES.iter().filter(|mode| places.iter().any(|place| place.mode == **mode));
    let series = measured.map(|mode| {
        let of_mode = places.iter().filter(|place| place.mode == *mode);
        let points = of_mode.filter_map(|place| {
            let at = counts.iter().position(|guests| *guests == place.guests)?;
            Some(Point::new(at as f64, &place.all(&of)))
        });
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
}

/// Figures of a mode with so many guests, by round.
fn figures(places: &[Place], mode: &str, guests: usize, of: impl Fn(&Place) -> Vec<f64>) -> Vec<f64> {
    places.iter().find(|place| place.mode == mode && place.guests == guests).map(of).unwrap_or_default()
}

fn judge_cpu(finding: &mut Finding, places: &[Place], guests: usize) {
    let cpu = |mode| stats::estimate(&figures(places, mode, guests, |place| place.all(|turn| turn.cpu() * 100.0)));
    let [polling, adaptive] = ["poll", "adaptive"].map(cpu);
    let text = format!("CPU of an adaptive switch with {guests} silent guests, all threads");
    finding.claims.push(Claim::new(&text, adaptive, "%", Bound::AtMost(1.0), true));
    let awake = figures(places, AWAKE, FEW, |place| place.all(|turn| turn.cpu() * 100.0));
    if !awake.is_empty() {
        let text = format!("CPU of an adaptive switch with wake_latency_us = 0 and {FEW} silent guests, all threads");
        let remark = "its CPU polls in the kernel's idle loop meanwhile, which is nobody's time";
        let claim = Claim::new(&text, stats::estimate(&awake), "%", Bound::AtMost(1.0), true);
        finding.claims.push(claim.but(remark));
    }
    finding.answer.push(format!(
        "With {guests} silent guests a switch that polls uses {} % of a CPU, an adaptive one {} %.",
        shown(polling),
        shown(adaptive),
    ));
}

fn judge_busy(finding: &mut Finding, [poll, adaptive]: &[Vec<f64>; 2]) {
    let speed = stats::ratio(adaptive, poll);
    let text = "throughput under load, adaptive to poll";
    finding.claims.push(Claim::new(text, speed, "times", Bound::AtLeast(0.98), true));
    finding.answer.push(format!(
        "Under load an adaptive core forwards {} times what one forwards that only polls.",
        shown(speed)
    ));
}
