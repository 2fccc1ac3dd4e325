//! Idle guests: what a switch costs that has nothing to do, how late the packet is that wakes it, and what it costs to be able to sleep.

mod crowd;
mod firsts;
mod plan;
mod swaps;
mod used;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use sidecore_tests::switch::SwitchConfig;
use sidecore_tests::wake::WakeLimit;

use self::crowd::{Awake, Crowd};
use self::firsts::Pair;
use self::plan::{MOST_THREADS, Plan, needed_mib};
use self::swaps::{SWAPS, Swap};
use self::used::Used;
use super::finding::{Axis, Bound, Chart, Claim, Finding, Kind, Point, Series, Table, number, show};
use super::stage::{Load, Stage, name};
use super::turns::{self, Case, TURNS};
use super::{Effort, Lab};
use crate::machine;
use crate::stats::{self, Ratio, median};

/// What guests' threads are called in mode `trap`, but for their numbers.
const GUESTS_THREADS: &str = "io-guest";

const MODES: [&str; 5] = ["poll", "adaptive", UPLINK, AWAKE, "trap"];
/// Mode `adaptive` where the CPU of a core that sleeps does not halt (`wake_latency_us = 0`).
const AWAKE: &str = "adaptive, 0 µs";
/// Mode `adaptive` with an uplink, which has no receive interrupts: a timer wakes its core.
const UPLINK: &str = "adaptive, uplink";
/// That uplink. Nothing comes from it.
const UPLINK_DEVICE: &str = "net_null0,no-rx=1";
/// Guests, of which the first sends to the second where there is one.
const GUESTS: [usize; 4] = [1, FEW, 256, MOST];
/// Guests in turns, beside an uplink, and where CPUs do not halt: that has nothing to do with guests.
const FEW: usize = 16;
/// Most guests. With so many, first packets are compared with bare wake-ups in mode `adaptive`.
const MOST: usize = 1000;
/// Packets a second of the guest that sends: the switch has long been asleep when the next one comes.
const RATE: f64 = 250.0;
/// First packets in a turn for each second that one lasts.
const FIRSTS: f64 = 1000.0;
/// What it takes until nobody thinks of what was before.
const CALM: Duration = Duration::from_millis(250);
/// Busy pairs, and the size of their packets: copying makes the core the limit.
const PAIRS: usize = 4;
const LONG: usize = 1518;
/// How often each of two switches under load comes first in a round.
const BUSY_PAIRS: usize = 2;

/// What a turn came to.
#[derive(Debug)]
struct Turn {
    /// Parts of a CPU that the switch used without a packet, by the name of its threads; and all of them with some packets.
    silent: BTreeMap<String, f64>,
    waking: f64,
    /// Microseconds from guest to guest, or until a guest's packet was taken that is alone: median and 99th percentile.
    latency: [f64; 2],
    /// The same again of packets, each followed by a bare wake-up, and of these, where that was measured.
    pairs: Option<[[f64; 2]; 2]>,
}

impl Turn {
    fn cpu(&self) -> f64 {
        self.silent.values().sum()
    }
}

/// A mode and a number of guests, the numbers of the switches that have them, and what the rounds came to.
#[derive(Debug)]
struct Place {
    mode: &'static str,
    guests: usize,
    switches: Vec<usize>,
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
    let can_stay_awake = limit.is_some();
    let available_mib = machine::available_mib().unwrap_or(u64::MAX);
    let Plan { switches, mut places, left_out } = Plan::new(counts, can_stay_awake, available_mib);
    let (crowds, awake) = crowd::start_all(lab, &switches, limit)?;
    measure(lab, &mut places, &crowds, awake.as_ref())?;
    let swaps = swaps::swaps(lab, sides(&places, &crowds)?, awake.as_ref())?;
    // Whoever is under load has the memory for itself.
    drop((crowds, awake));
    let busy = busy(lab)?;
    let mut finding = Finding {
        name: "idle".to_owned(),
        title: "Idle: what the switch costs when guests are silent, and how late it wakes".to_owned(),
        question: "How much of a CPU does a switch use whose guests send nothing, and how long does a packet take that comes then: with cores that \
                   poll, that sleep, and with a thread for each guest (traditional)? And what does the ability to sleep cost under load?"
            .to_owned(),
        setup: setup(can_stay_awake),
        repeat: lab.repeat("idle"),
        conditions: lab.conditions(),
        ..Finding::default()
    };
    finding.tables.push(table(&places));
    let most = places.iter().rfind(|place| !place.pairs().is_empty());
    finding.tables.push(swaps::table(FEW, &swaps, most));
    finding.tables.push(threads_table(&places));
    let cpu = ("cpu", "CPU that an idle switch uses");
    finding.charts.push(chart(cpu, (counts, &places), Axis::log("% of a CPU"), |turn| turn.cpu() * 100.0));
    let latency = ("latency", "First packet after a silence, 99th percentile");
    finding.charts.push(chart(latency, (counts, &places), Axis::log("µs"), |turn| turn.latency[1]));
    judge_cpu(&mut finding, &places, counts[counts.len() - 1]);
    finding.answer.extend(left_out.into_iter().map(|guests| not_measured(guests, available_mib)));
    swaps::judge(&mut finding, FEW, &swaps);
    judge_busy(&mut finding, &busy);
    finding.raw = json!({
        "places": places.iter().map(|place| (place.mode, place.guests)).collect::<Vec<_>>(),
        "switches": places.iter().map(|place| place.switches.len()).collect::<Vec<_>>(),
        "cpu": places.iter().map(|place| place.all(Turn::cpu)).collect::<Vec<_>>(),
        "cpu_by_thread": places.iter().map(|place| place.turns.iter().map(|turn| &turn.silent).collect::<Vec<_>>()).collect::<Vec<_>>(),
        "cpu_some_packets": places.iter().map(|place| place.all(|turn| turn.waking)).collect::<Vec<_>>(),
        "latency_us": places.iter().map(|place| place.turns.iter().map(|turn| turn.latency).collect::<Vec<_>>()).collect::<Vec<_>>(),
        "pairs_us": places.iter().map(Place::pairs).collect::<Vec<_>>(),
        "swaps_us": swaps.iter().map(Swap::raw).collect::<Vec<_>>(),
        "busy": busy.iter().map(|busy| json!({"pps": busy.pps, "ratio": busy.ratio, "generator_idle": busy.idle})).collect::<Vec<_>>(),
    });
    Ok(finding)
}

/// Numbers of guests.
fn counts(effort: Effort) -> &'static [usize] {
    match effort {
        Effort { rounds: 1, .. } => &[GUESTS[0], FEW],
        Effort { coarse: true, .. } => &[FEW, MOST],
        _ => &GUESTS,
    }
}

/// Rounds of all places. Whose turn it is not is halted.
fn measure(lab: &Lab, places: &mut [Place], crowds: &[Crowd], awake: Option<&Awake>) -> Result<()> {
    let numbers: Vec<usize> = (0..places.len()).collect();
    let turns = lab.rounds(&numbers, |nth| {
        let Place { mode, guests, switches, .. } = &places[*nth];
        let crowds: Vec<&Crowd> = switches.iter().map(|nth| &crowds[*nth]).collect();
        let awake = awake.filter(|_| *mode == AWAKE);
        awake.map_or(Ok(()), |awake| awake.hold(true))?;
        crowds.iter().try_for_each(|crowd| crowd.halt(false))?;
        let with_pairs = *mode == "adaptive" && *guests == MOST;
        let turn = turn(lab, &crowds, with_pairs).with_context(|| format!("{guests} guests, mode {mode}"))?;
        crowds.iter().try_for_each(|crowd| crowd.halt(true))?;
        awake.map_or(Ok(()), |awake| awake.hold(false))?;
        Ok(turn)
    })?;
    places.iter_mut().zip(turns).for_each(|(place, turns)| place.turns = turns);
    Ok(())
}

/// A switch that polls, and one that sleeps whose CPU does not have to halt, where that can be: for turns of both.
fn sides<'c>(places: &[Place], crowds: &'c [Crowd]) -> Result<[&'c Crowd; 2]> {
    let of = |mode: &str| places.iter().find(|place| place.mode == mode && place.guests == FEW);
    let crowd = |place: Option<&Place>| Some(&crowds[*place?.switches.first()?]);
    let both = [of("poll"), of(AWAKE).or_else(|| of("adaptive"))].map(crowd);
    let [Some(polls), Some(sleeps)] = both else { anyhow::bail!("no switches with {FEW} guests") };
    Ok([polls, sleeps])
}

/// Why mode `trap` lacks a number of guests.
fn not_measured(guests: usize, available_mib: u64) -> String {
    let gib = |mib: u64| mib as f64 / 1024.0;
    format!(
        "Mode trap, {guests} guests: not measured. That needs {:.1} GiB of memory, and {:.1} are available.",
        gib(needed_mib(guests)),
        gib(available_mib)
    )
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
            "One I/O core; all guests are connected. Each switch is started once, with all guests but the two that exchange something, which connect \
             anew for each turn; it is halted, and its guests with it, while others are measured. CPU time is that of all threads of the switch, as the \
             scheduler of Linux counts it, while nobody sends. Then one guest sends {RATE} packets a second to another: latency is one way, from guest to guest. The receiver polls, \
             and all others go on sleeping. A guest that is alone has nobody to send to: its latency is the time until the switch has taken its packet. The two guests come before all else on the generator's CPU (SCHED_FIFO, asleep in between): they \
             stand for guests that have CPUs of their own."
        ),
        format!(
            "In mode trap guests' threads run on the CPU that is the I/O core's otherwise, and nothing else of the switch does. A switch has at most \
             {MOST_THREADS} of them: each has a ring of its own to every other, so that all take memory with the square of their number. So more guests \
             are spread evenly over as few switches as can have them, as whoever has so many would have to do, and all these run: CPU time is that of all \
             of them together, and the two guests that exchange something are at one of them."
        ),
        format!(
            "A bare wake-up is what waking up costs here whatever the program: a thread on the I/O core's CPU that waits in an epoll for an eventfd. \
             Beside a sleeping switch a first packet and a bare wake-up take turns one by one, each {} ms after the other. A switch that polls and \
             one that sleeps take {SWAPS} short turns a round, and whichever is not measured is halted: each turn has its own 99th percentiles.",
            firsts::SILENCE.as_secs_f64() * 1e3
        ),
        awake,
        format!(
            "\"{UPLINK}\" is mode adaptive with an uplink ({UPLINK_DEVICE}) beside {FEW} guests: no receive interrupts wake its core, but a timer every \
             millisecond, and so late a packet from there is seen at most, and a wake-up later."
        ),
        format!(
            "Under load: {PAIRS} pairs of guests send {LONG} B as fast as their rings take them, to two switches, one in \
             mode poll and one in mode adaptive, which take {TURNS} short turns each and are halted in between. A figure is the median ratio \
             of turns one after another."
        ),
    ]
}

/// Packets a second under load of an adaptive switch to those of one that polls, and those of both, for each start of the two.
struct Busy {
    ratio: f64,
    pps: [f64; 2],
    /// Part of the time in which the generator had nothing to do, with the switch that left it less.
    idle: f64,
}

/// Each time of switches that were started for it: where their memory happens to be makes more of a difference than their mode.
fn busy(lab: &Lab) -> Result<Vec<Busy>> {
    // Whoever comes first has an advantage in no round.
    let orders = [["poll", "adaptive"], ["adaptive", "poll"]].repeat(if lab.effort.coarse { 1 } else { BUSY_PAIRS });
    Ok(lab.rounds(&orders, |modes| compete(lab, *modes))?.into_iter().flatten().collect())
}

/// Two switches in these modes that take short turns: what changes the speed of the machine changes both.
fn compete(lab: &Lab, modes: [&str; 2]) -> Result<Busy> {
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
    let played = turns::play(lab, &cases, TURNS)?;
    let [poll, adaptive] = ["poll", "adaptive"].map(|mode| &played[usize::from(modes[0] != mode)]);
    Ok(Busy {
        ratio: adaptive.beside(poll, |adaptive, poll| adaptive.pps / poll.pps),
        pps: [poll.all.pps, adaptive.all.pps],
        idle: poll.all.generator_idle.min(adaptive.all.generator_idle),
    })
}

/// A switch of this mode.
fn configured(config: SwitchConfig, mode: &str) -> SwitchConfig {
    match mode {
        AWAKE => config.key("mode = \"adaptive\"").key("wake_latency_us = 0"),
        UPLINK => config.key("mode = \"adaptive\"").uplink("nic", UPLINK_DEVICE, &[]),
        mode => config.key(&format!("mode = \"{mode}\"")),
    }
}

/// So many guests' ports.
fn ports(config: SwitchConfig, guests: usize) -> SwitchConfig {
    (0..guests).fold(config, |config, guest| config.guest(&name(guest), &[]))
}

/// At these switches, the first of which has the two guests.
fn turn(lab: &Lab, crowds: &[&Crowd], with_pairs: bool) -> Result<Turn> {
    let mut pair = Pair::connect(crowds.first().context("no switch")?)?;
    let seconds = lab.effort.seconds;
    std::thread::sleep(CALM);
    let before = used(crowds)?;
    std::thread::sleep(Duration::from_secs_f64(seconds));
    let after_silence = used(crowds)?;
    let packets = (2.0 * seconds * RATE).ceil() as usize;
    let late = pair.measure(&lab.cpus, packets, Duration::from_secs_f64(1.0 / RATE), false)?;
    let silent = since(&after_silence, &before);
    let waking = since(&used(crowds)?, &after_silence).values().sum();
    let count = (FIRSTS * seconds).ceil() as usize;
    let pairs = with_pairs.then(|| pair.measure(&lab.cpus, count, firsts::SILENCE, true)?.quantiles()).transpose()?;
    Ok(Turn { silent, waking, latency: late.quantiles()?[0], pairs })
}

/// What each switch has had of CPUs.
fn used(crowds: &[&Crowd]) -> Result<Vec<Used>> {
    crowds.iter().map(|crowd| Used::until_now(crowd.stage.pid())).collect()
}

/// Parts of a CPU since an earlier look, of all switches together.
fn since(now: &[Used], earlier: &[Used]) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    for (name, part) in now.iter().zip(earlier).flat_map(|(now, earlier)| now.since(earlier)) {
        *all.entry(name).or_default() += part;
    }
    all
}

fn shown(figure: Option<Ratio>) -> String {
    figure.map_or("-".to_owned(), show)
}

fn table(places: &[Place]) -> Table {
    let head =
        ["mode", "guests", "switches", "CPU, silent, %", "CPU, some packets, %", "latency p50, µs", "latency p99, µs"];
    let mut table = Table::new("Idle", &head);
    for place in places {
        let cell = |of: &dyn Fn(&Turn) -> f64| shown(stats::estimate(&place.all(of)));
        table.row([
            place.mode.to_owned(),
            place.guests.to_string(),
            place.switches.len().to_string(),
            cell(&|turn| turn.cpu() * 100.0),
            cell(&|turn| turn.waking * 100.0),
            cell(&|turn| turn.latency[0]),
            cell(&|turn| turn.latency[1]),
        ]);
    }
    table
}

/// Who uses what switches cost that sleep.
fn threads_table(places: &[Place]) -> Table {
    let mut table = Table::new("Threads of silent switches", &["mode", "guests", "% of a CPU, median"]);
    for place in places.iter().filter(|place| ["adaptive", UPLINK, "trap"].contains(&place.mode)) {
        let mut used = by_thread(place);
        used.sort_by(|one, other| other.0.total_cmp(&one.0));
        let used: Vec<String> =
            used.iter().map(|(percent, name)| format!("{name} {}", number(*percent, *percent))).collect();
        table.row([place.mode.to_owned(), place.guests.to_string(), used.join(", ")]);
    }
    table
}

/// Median percents of a CPU that a silent switch's threads use, with their names; of those that use any.
fn by_thread(place: &Place) -> Vec<(f64, &str)> {
    let names = place.turns.first().into_iter().flat_map(|turn| turn.silent.keys());
    let used = names.map(|name| {
        let all = place.all(|turn| turn.silent.get(name).copied().unwrap_or(0.0) * 100.0);
        (median(&all).unwrap_or(0.0), name.as_str())
    });
    used.filter(|(percent, _)| *percent >= 0.001).collect()
}

/// Whose threads use what silent switches do in mode `trap`.
fn whose(trap: &Place) -> String {
    let used = by_thread(trap);
    let of_guests = used.iter().find(|(_, name)| *name == GUESTS_THREADS).map_or(0.0, |(percent, _)| *percent);
    let all: f64 = used.iter().map(|(percent, _)| percent).sum();
    let switches = match trap.switches.len() {
        1 => "the switch's own threads".to_owned(),
        count => format!("the own threads of {count} switches"),
    };
    if of_guests == 0.0 {
        format!("all of it used by {switches}, none by guests' threads")
    } else {
        format!("{:.0} % of it used by guests' threads, the rest by {switches}", of_guests / all * 100.0)
    }
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
    let [polling, adaptive, trap] = ["poll", "adaptive", "trap"].map(cpu);
    let text = format!("CPU of an adaptive switch with {guests} silent guests, all threads");
    finding.claims.push(Claim::new(&text, adaptive, "%", Bound::AtMost(1.0), true));
    let awake = figures(places, AWAKE, FEW, |place| place.all(|turn| turn.cpu() * 100.0));
    if !awake.is_empty() {
        let text = format!("CPU of an adaptive switch with wake_latency_us = 0 and {FEW} silent guests, all threads");
        let remark = "its CPU polls in the kernel's idle loop meanwhile, which is nobody's time";
        let claim = Claim::new(&text, stats::estimate(&awake), "%", Bound::AtMost(1.0), true);
        finding.claims.push(claim.but(remark));
    }
    let uplink = stats::estimate(&figures(places, UPLINK, FEW, |place| place.all(|turn| turn.cpu() * 100.0)));
    finding.answer.push(format!(
        "An adaptive switch with an uplink uses {} % while nothing comes: a timer wakes it every millisecond.",
        shown(uplink)
    ));
    let threads = places.iter().find(|place| place.mode == "trap" && place.guests == guests).map(whose);
    finding.answer.push(format!(
        "With {guests} silent guests a switch that polls uses {} % of a CPU, an adaptive one {} %, and with a thread for each of them it is {} %{}.",
        shown(polling),
        shown(adaptive),
        shown(trap),
        threads.map_or(String::new(), |whose| format!(", {whose}")),
    ));
}

fn judge_busy(finding: &mut Finding, busy: &[Busy]) {
    let speed = stats::estimate(&busy.iter().map(|busy| busy.ratio).collect::<Vec<_>>());
    let text = "throughput under load, adaptive to poll";
    // Where the generator is the limit it is 1, whatever the modes cost.
    let idle: Vec<f64> = busy.iter().map(|busy| busy.idle).collect();
    finding.claims.push(Claim::new(text, speed, "times", Bound::AtLeast(0.98), true).where_generator_idled(&idle));
    finding.answer.push(format!(
        "Under load an adaptive core forwards {} times what one forwards that only polls; the generator idles {} % of the time.",
        shown(speed),
        shown(stats::estimate(&idle.iter().map(|idle| idle * 100.0).collect::<Vec<_>>()))
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mode `trap` with so many switches, whose threads use these parts of a CPU.
    fn trap(switches: usize, silent: &[(&str, f64)]) -> Place {
        let silent = silent.iter().map(|(name, part)| ((*name).to_owned(), *part)).collect();
        let turn = Turn { silent, waking: 0.0, latency: [1.0; 2], pairs: None };
        Place { mode: "trap", guests: MOST, switches: (0..switches).collect(), turns: vec![turn] }
    }

    #[test]
    fn the_answer_says_whose_threads_use_what_silent_switches_do() {
        let idle = [(GUESTS_THREADS, 0.000_001), ("rescue", 0.005), ("scheduler", 0.015)];
        assert_eq!(
            whose(&trap(17, &idle)),
            "all of it used by the own threads of 17 switches, none by guests' threads"
        );
        assert!(whose(&trap(1, &idle)).contains("by the switch's own threads"), "{}", whose(&trap(1, &idle)));
        let some = [(GUESTS_THREADS, 0.005), ("scheduler", 0.015)];
        assert!(
            whose(&trap(17, &some)).starts_with("25 % of it used by guests' threads"),
            "{}",
            whose(&trap(17, &some))
        );
    }
}
