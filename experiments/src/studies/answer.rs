//! The answer to saturation: load shifts, a core saturates, guests move to another one.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Lab;
use super::finding::{Axis, Bound, Chart, Claim, Finding, Mark, Point, Series, Table, show};
use super::simulator::{Simulated, simulate};
use super::stage::{Stage, name};
use super::traffic::{BACKLOG, BUFFERS, NAP_US, Streams};
use crate::stats::{self, Ratio, median, quantile};
use crate::threads::Preferred;

/// Pairs of guests: even ones begin on I/O core 0, odd ones on I/O core 1.
const PAIRS: usize = 8;
/// Loads of both cores, in parts of what each can do, before and after the shift.
const BEFORE: [f64; 2] = [0.6, 0.6];
const AFTER: [f64; 2] = [1.2, 0.1];
/// Between looks at the generator's counts, and of those between looks at the switch.
const LOOK: Duration = Duration::from_millis(10);
const LOOKS_A_STATUS: usize = 4;
/// Throughput is drawn, and judged, in steps of this.
const STEP_S: f64 = 0.05;
/// Delivered again is what is delivered but for this.
const RECOVERED: f64 = 0.95;
/// The scheduler is on from so long before the shift: what memory costs that is used for the first time is not its business here.
const ON_BEFORE_S: f64 = 0.25;
/// Moves by hand under load, for their pause.
const MOVES: usize = 40;
/// Length of the scheduler's tick, in seconds.
const TICK_S: f64 = 0.005;

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    Off,
    On,
}

/// One turn.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Turn {
    /// Seconds since the shift, and packets delivered up to then.
    delivered: Vec<(f64, u64)>,
    /// Seconds since the shift, and the busy part of what each core got of its CPU's time since the look before.
    busy: Vec<(f64, Vec<f64>)>,
    /// The part of the time in which each core did not get its CPU, from the first of these looks to the last.
    without_cpu: Vec<f64>,
    /// Queue pairs that were moved.
    moves: Vec<Moved>,
    /// What the scheduler decided, and why.
    decisions: Value,
    /// Microseconds in which they were not served.
    pauses_us: Vec<f64>,
    /// Packets asked for, before and after the shift, a second.
    asked: [f64; 2],
}

/// A move of the scheduler's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Moved {
    /// Seconds since the shift.
    at: f64,
    /// The I/O cores.
    from: u64,
    to: u64,
}

impl Turn {
    /// Packets a second in steps, with the seconds at which each step begins.
    fn rates(&self) -> Vec<(f64, f64)> {
        let mut rates = Vec::new();
        let mut begin: Option<(f64, u64)> = None;
        for &(at, count) in &self.delivered {
            match begin {
                None => begin = Some((at, count)),
                Some((from, before)) if at - from >= STEP_S => {
                    rates.push(((from + at) / 2.0, (count - before) as f64 / (at - from)));
                    begin = Some((at, count));
                }
                Some(_) => {}
            }
        }
        rates
    }

    /// Delivered from one moment to another, in parts of what was asked for after the shift.
    fn served(&self, from: f64, to: f64) -> f64 {
        let of = |moment: f64| self.delivered.iter().find(|(at, _)| *at >= moment).or(self.delivered.last());
        let (Some(first), Some(last)) = (of(from), of(to)) else { return f64::NAN };
        (last.1 - first.1) as f64 / (last.0 - first.0) / self.asked[1]
    }

    /// Seconds from the shift to the last move of the first second after it.
    fn rebalanced(&self) -> Option<f64> {
        self.moves.iter().map(|moved| moved.at).filter(|at| (0.0..1.0).contains(at)).reduce(f64::max)
    }

    /// Seconds from the shift until as much is delivered as asked for, and stays so for four steps.
    fn recovered(&self) -> Option<f64> {
        let rates: Vec<_> = self.rates().into_iter().filter(|(at, _)| *at > 0.0).collect();
        let well = |steps: &[(f64, f64)]| steps.iter().all(|(_, rate)| *rate >= RECOVERED * self.asked[1]);
        rates.windows(4).find(|steps| well(steps)).map(|steps| (steps[0].0 - STEP_S / 2.0).max(0.0))
    }

    /// The largest core load in the last part of the turn.
    fn largest(&self) -> f64 {
        let last = &self.busy[self.busy.len() - self.busy.len() / 3..];
        let of =
            |core: usize| last.iter().filter_map(|(_, busy)| busy.get(core)).sum::<f64>() / last.len().max(1) as f64;
        (0..2).map(of).fold(0.0, f64::max)
    }
}

/// Makes the experiment.
pub fn run(lab: &Lab) -> Result<Finding> {
    let apart = lab.cpus.are_enough_for(2);
    let capacity = capacity(lab)?;
    let [one, two] = [0, 1].map(|cores: usize| capacity.iter().map(|pps| pps[cores]).collect::<Vec<_>>());
    let own = [|pps: &[f64; 3]| pps[2], |pps: &[f64; 3]| pps[1] - pps[2]]
        .map(|of| capacity.iter().map(of).collect::<Vec<_>>());
    let can = [median(&own[0]).context("nothing was measured")?, median(&own[1]).context("nothing was measured")?];
    let core = can[0];
    let cases = [Case::Off, Case::On];
    let turns = lab.rounds(&cases, |case| turn(lab, *case, can))?;
    let [off, on] = [0, 1].map(|case| turns[case].as_slice());
    let simulated = simulated(lab, can)?;

    let mut finding = Finding {
        name: "answer".to_owned(),
        title: "The answer: load shifts, and guests move to another I/O core".to_owned(),
        question: "When the load of guests shifts so that one of two I/O cores saturates while the other has time to spare: what do guests get with \
                   the scheduler off and on, and how long does it take?"
            .to_owned(),
        repeat: "make experiments ONLY=answer".to_owned(),
        conditions: lab.conditions(),
        ..Finding::default()
    };
    finding.conditions.seconds = before_s(lab) + after_s(lab);
    let remark = if apart { "" } else { "I/O core 1 shares its CPU with the generator" };
    finding.setup = vec![
        format!(
            "{PAIRS} pairs of guests send TCP segments of 64 KiB, which cost a core so much that the generator is never the limit; half of the pairs \
             begin on each of two I/O cores. Their rates make each core {:.0} % busy; then those on core 0 ask for {:.0} % of what it can do and those on core 1 for {:.0} %.",
            BEFORE[0] * 100.0,
            AFTER[0] * 100.0,
            AFTER[1] * 100.0
        ),
        if apart {
            "Every I/O core has a CPU of its own.".to_owned()
        } else {
            format!(
                "Too few CPUs here: I/O core 0, which saturates, has one of its own; I/O core 1 has the CPU of the generator and of the switch's \
                 other threads, which sleep nearly always (the generator for {NAP_US} µs after each look at all guests) and come first when they do not \
                 (SCHED_FIFO). I/O core 1 is without its CPU {} % of the time, I/O core 0 {} %; a load is what a core does of what it can do in \
                 the rest. Times gate nothing here.",
                lacks(&turns, 1),
                lacks(&turns, 0)
            )
        },
        "The default scheduler: policy balance, ticks of 5 ms.".to_owned(),
    ];
    finding.charts = charts(off, on, core, remark);
    finding.tables = vec![table(off, on)];
    claims(&mut finding, off, on, stats::ratio(&two, &one), remark, apart);
    compare(&mut finding, [off, on], (&simulated, simulated_s(lab)), remark, apart);
    finding.raw = json!({ "capacity_pps": capacity, "off": off, "on": on, "simulated": simulated });
    Ok(finding)
}

/// The part of the time that a core was without its CPU, in percent.
fn lacks(turns: &[Vec<Turn>], core: usize) -> String {
    let all = turns.iter().flatten().filter_map(|turn| Some(turn.without_cpu.get(core)? * 100.0));
    stats::estimate(&all.collect::<Vec<_>>()).map_or("-".to_owned(), show)
}

fn before_s(lab: &Lab) -> f64 {
    if lab.effort.coarse { 0.5 } else { 1.0 }
}

fn after_s(lab: &Lab) -> f64 {
    if lab.effort.coarse { 1.5 } else { 3.0 }
}

/// Seconds of the simulated run before and after the shift: it judges whole ones.
fn simulated_s(lab: &Lab) -> [f64; 2] {
    [before_s(lab).ceil(), after_s(lab).ceil()]
}

/// A switch with pairs of guests, which begin together on one core, and stay there.
fn stage(lab: &Lab, cores: usize) -> Result<Stage> {
    // Ports go to the cores in turn: so the first of two pairs come first, then the second ones.
    let order = (0..PAIRS / 2).flat_map(|pairs| [0, 2, 1, 3].map(|port| 4 * pairs + port));
    Stage::spread(lab, cores, |config| {
        order.fold(config.without_rebalancing(), |config, port| config.guest(&name(port), &[]))
    })
}

/// Packets a second that one core, two, and of these the first one deliver, in every round: pairs are together, and send as fast as they can.
fn capacity(lab: &Lab) -> Result<Vec<[f64; 3]>> {
    let rates = [1e9; PAIRS];
    let measured = lab.rounds(&[1, 2], |cores| {
        let stage = stage(lab, *cores)?;
        let streams = Streams::segments(lab, &stage, &rates)?;
        ensure_together(&stage, *cores)?;
        std::thread::sleep(Duration::from_millis(200));
        let (before, begin) = (streams.received(), Instant::now());
        std::thread::sleep(Duration::from_secs_f64(lab.effort.seconds));
        let seconds = begin.elapsed().as_secs_f64();
        let pps: Vec<f64> =
            streams.received().iter().zip(&before).map(|(now, before)| (now - before) as f64 / seconds).collect();
        streams.finish()?;
        Ok([pps.iter().sum::<f64>(), pps.iter().step_by(2).sum()])
    })?;
    Ok(measured[0].iter().zip(&measured[1]).map(|([one, _], [two, first])| [*one, *two, *first]).collect())
}

/// Pairs have to be where the experiment wants them.
fn ensure_together(stage: &Stage, cores: usize) -> Result<()> {
    let status = stage.switch.status()?;
    for pair in 0..PAIRS {
        for port in [2 * pair, 2 * pair + 1] {
            let core = status.port(&name(port))?.queues.first().and_then(|queue| queue.io_core);
            ensure!(core == Some((pair % cores) as u32), "{} is on I/O core {core:?}", name(port));
        }
    }
    Ok(())
}

/// Rates of all senders for loads of both cores, which can do so much.
fn rates(loads: [f64; 2], can: [f64; 2]) -> Vec<f64> {
    (0..PAIRS).map(|pair| loads[pair % 2] * can[pair % 2] / (PAIRS / 2) as f64).collect()
}

/// One turn: the load shifts.
fn turn(lab: &Lab, case: Case, can: [f64; 2]) -> Result<Turn> {
    let stage = stage(lab, 2)?;
    let (before, after) = (rates(BEFORE, can), rates(AFTER, can));
    let streams = Streams::segments(lab, &stage, &before)?;
    std::thread::sleep(Duration::from_millis(300));
    ensure_together(&stage, 2)?;
    let mut turn = Turn { asked: [before.iter().sum(), after.iter().sum()], ..Turn::default() };
    // That takes a while beside the generator.
    let preferred = stage.gives_way.then(Preferred::this_thread).transpose()?;
    let shift = Instant::now() + Duration::from_secs_f64(before_s(lab));
    let (mut shifted, mut is_on): (Option<SystemTime>, bool) = (None, false);
    let (mut first, mut last): (Option<Cycles>, Option<Cycles>) = (None, None);
    let since = || {
        let now = Instant::now();
        now.duration_since(shift).as_secs_f64() - shift.duration_since(now).as_secs_f64()
    };
    for look in 0.. {
        lab.interrupt.check()?;
        if case == Case::On && !is_on && since() >= -ON_BEFORE_S {
            stage.switch.ask(&json!({"command": "scheduler_resume"}))?;
            is_on = true;
        }
        if shifted.is_none() && Instant::now() >= shift {
            streams.set(&after)?;
            shifted = Some(SystemTime::now());
        }
        turn.delivered.push((since(), streams.received().iter().sum()));
        if look % LOOKS_A_STATUS == 0 {
            let now = core_cycles(&stage.status()?);
            first.get_or_insert_with(|| now.clone());
            if let Some(before) = last.replace(now.clone()) {
                turn.busy.push((since(), before.iter().zip(&now).map(busy).collect()));
            }
        }
        if since() > after_s(lab) {
            break;
        }
        std::thread::sleep(LOOK);
    }
    turn.without_cpu = first.iter().flatten().zip(last.iter().flatten()).map(without_cpu).collect();
    let status = stage.status()?;
    let shifted = shifted.context("the load did not shift")?;
    turn.moves = moves(&status, shifted);
    turn.decisions = status["scheduler"]["decisions"].clone();
    if case == Case::On {
        stage.switch.ask(&json!({"command": "scheduler_pause"}))?;
        for number in 0..MOVES {
            let moved = stage.switch.move_guest(&name(0), Some(0), number % 2)?;
            turn.pauses_us.extend(moved.into_iter().filter_map(|moved| moved.pause_us));
            std::thread::sleep(Duration::from_millis(3));
        }
    }
    drop(preferred);
    streams.finish()?;
    Ok(turn)
}

/// Of each core: busy cycles, idle ones, and those of both in which it did not get its CPU.
type Cycles = Vec<[f64; 3]>;

fn core_cycles(status: &Value) -> Cycles {
    let cores = status["cores"].as_array().map(Vec::as_slice).unwrap_or_default();
    let count = |of: &Value, key: &str| of[key].as_u64().unwrap_or_default() as f64;
    let waited = |core: &Value| count(core, "cpu_wait_ns") / 1e9 * count(status, "tsc_hz");
    cores.iter().map(|core| [count(core, "busy_cycles"), count(core, "idle_cycles"), waited(core)]).collect()
}

/// Work comes while a core is without its CPU, so that it was in a busy round: as the switch counts it.
fn busy((before, after): (&[f64; 3], &[f64; 3])) -> f64 {
    let [busy, idle, waited] = [0, 1, 2].map(|which| after[which] - before[which]);
    let got = busy + idle - waited;
    if got > 0.0 { ((busy - waited) / got).max(0.0) } else { 0.0 }
}

fn without_cpu((before, after): (&[f64; 3], &[f64; 3])) -> f64 {
    let [busy, idle, waited] = [0, 1, 2].map(|which| after[which] - before[which]);
    if busy + idle > 0.0 { waited / (busy + idle) } else { 0.0 }
}

/// What the scheduler moved.
fn moves(status: &Value, shifted: SystemTime) -> Vec<Moved> {
    let shifted = shifted.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let decisions = status["scheduler"]["decisions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let moved = decisions
        .iter()
        .filter(|decision| ["move", "roll_back"].contains(&decision["kind"].as_str().unwrap_or_default()));
    let read = |decision: &Value| {
        let [from, to] = ["from", "to"].map(|end| decision["step"][end].as_u64());
        Some(Moved { at: decision["time_ms"].as_f64()? / 1e3 - shifted, from: from?, to: to? })
    };
    moved.filter_map(read).collect()
}

/// The simulator with the same load on cores of the speed of the first: scheduler off and on.
fn simulated(lab: &Lab, can: [f64; 2]) -> Result<Vec<Simulated>> {
    let seconds = simulated_s(lab);
    let line = |loads: [f64; 2]| {
        let packets = rates(loads, can).into_iter().map(|rate| format!("{}", rate * TICK_S));
        packets.collect::<Vec<_>>().join(",") + "\n"
    };
    let ticks = |seconds: f64| (seconds / TICK_S).round() as usize;
    let folder = tempfile::tempdir()?;
    let recording = folder.path().join("shift.csv");
    std::fs::write(&recording, line(BEFORE).repeat(ticks(seconds[0])) + &line(AFTER).repeat(ticks(seconds[1])))?;
    let args = format!(
        "--shape recorded --recording {} --cores 2 --seconds {} --converged-s {} --seeds 1 --policies static,balance --packet-ns {} --ring {}",
        recording.display(),
        seconds[0] + seconds[1],
        seconds[0],
        1e9 / can[0],
        BUFFERS + BACKLOG
    );
    simulate(&args.split(' ').map(str::to_owned).collect::<Vec<_>>(), folder.path())
}

fn charts(off: &[Turn], on: &[Turn], core: f64, remark: &str) -> Vec<Chart> {
    let rate = |turns: &[Turn]| {
        let all: Vec<Vec<(f64, f64)>> = turns.iter().map(Turn::rates).collect();
        points(&all.iter().map(|rates| rates.iter().map(|(at, pps)| (*at, pps / 1e3)).collect()).collect::<Vec<_>>())
    };
    let asked = on.first().map_or([0.0; 2], |turn| turn.asked);
    let end = on.first().and_then(|turn| turn.delivered.last()).map_or(1.0, |(at, _)| *at);
    let begin = on.first().and_then(|turn| turn.delivered.first()).map_or(-1.0, |(at, _)| *at);
    let line = [(begin, 0), (-0.001, 0), (0.0, 1), (end, 1)].map(|(at, phase)| Point::new(at, &[asked[phase] / 1e3]));
    let note = |what: &str| if remark.is_empty() { what.to_owned() } else { format!("{what} Remark: {remark}.") };
    let mut charts = vec![Chart {
        name: "throughput".to_owned(),
        title: "Load shifts at 0 s: packets delivered, scheduler off and on".to_owned(),
        x: Axis::linear("seconds since the load shifted"),
        y: Axis::linear("thousand segments a second"),
        series: vec![
            Series::new("scheduler off", rate(off)),
            Series::new("scheduler on", rate(on)),
            Series { dashed: true, ..Series::new("asked for", line.to_vec()) },
        ],
        marks: marks(on),
        note: note(&format!(
            "Medians over rounds; marked: moves of queue pairs in the first round with the scheduler on. A core can do {:.1} thousand.",
            core / 1e3
        )),
        ..Chart::default()
    }];
    for (case, turns) in [("off", off), ("on", on)] {
        let of = |core: usize| {
            let one = |turn: &Turn| {
                turn.busy.iter().filter_map(|(at, busy)| Some((*at, busy.get(core)? * 100.0))).collect::<Vec<_>>()
            };
            points(&turns.iter().map(one).collect::<Vec<_>>())
        };
        charts.push(Chart {
            name: format!("loads-{case}"),
            title: format!("Load shifts at 0 s: core loads, scheduler {case}"),
            x: Axis::linear("seconds since the load shifted"),
            y: Axis::linear("% busy, of the time that it had its CPU"),
            series: vec![Series::new("I/O core 0", of(0)), Series::new("I/O core 1", of(1))],
            marks: marks(if case == "on" { on } else { &[] }),
            note: note("Medians over rounds."),
            ..Chart::default()
        });
    }
    charts
}

/// Marks for the moves of the first round. Those that are too near to each other to be told apart are one.
fn marks(turns: &[Turn]) -> Vec<Mark> {
    let mut marks: Vec<Mark> = Vec::new();
    for Moved { at, .. } in turns.first().map(|turn| turn.moves.clone()).unwrap_or_default() {
        if marks.last().is_none_or(|mark| at - mark.x > 0.01) {
            let text = if marks.is_empty() { "move" } else { "" };
            marks.push(Mark { x: at, text: text.to_owned() });
        }
    }
    marks
}

/// The median of all rounds at each moment of the first.
fn points(rounds: &[Vec<(f64, f64)>]) -> Vec<Point> {
    let first = rounds.first().map(Vec::as_slice).unwrap_or_default();
    let nearest = |round: &Vec<(f64, f64)>, moment: f64| {
        let distance = |(at, _): &&(f64, f64)| ((at - moment).abs() * 1e6) as u64;
        round.iter().min_by_key(distance).map(|(_, figure)| *figure)
    };
    let at = |&(moment, _): &(f64, f64)| {
        let all: Vec<f64> = rounds.iter().filter_map(|round| nearest(round, moment)).collect();
        Point::new(moment, &[median(&all).unwrap_or(0.0)])
    };
    first.iter().map(at).collect()
}

/// From a while after the shift to the end: what the scheduler comes to.
fn settled(turns: &[Turn]) -> Vec<f64> {
    turns.iter().map(|turn| turn.served(0.5, f64::INFINITY)).collect()
}

fn table(off: &[Turn], on: &[Turn]) -> Table {
    let head = ["scheduler", "delivered after the shift, %", "largest core load at the end, %", "moves in a turn"];
    let mut table = Table::new("After the shift", &head);
    for (name, turns) in [("off", off), ("on", on)] {
        let all = |of: &dyn Fn(&Turn) -> f64| {
            stats::estimate(&turns.iter().map(of).collect::<Vec<_>>()).map_or("-".to_owned(), show)
        };
        table.row([
            name.to_owned(),
            all(&|turn| turn.served(0.5, f64::INFINITY) * 100.0),
            all(&|turn| turn.largest() * 100.0),
            all(&|turn| turn.moves.len() as f64),
        ]);
    }
    table
}

fn claims(finding: &mut Finding, off: &[Turn], on: &[Turn], cores: Option<Ratio>, remark: &str, counts: bool) {
    let ms = |of: fn(&Turn) -> Option<f64>| {
        let all: Option<Vec<f64>> = on.iter().map(|turn| Some(of(turn)? * 1e3)).collect();
        all.and_then(|all| stats::estimate(&all))
    };
    let gain = stats::ratio(&settled(on), &settled(off));
    let mut pauses: Vec<f64> = on.iter().flat_map(|turn| turn.pauses_us.iter().copied()).collect();
    pauses.sort_by(f64::total_cmp);
    let pause = |share: f64| quantile(&pauses, share).map(|at| Ratio { value: at, low: at, high: at });
    let (rebalanced, recovered) = (ms(Turn::rebalanced), ms(Turn::recovered));
    let mut add = |text: &str, figure: Option<Ratio>, unit: &str, bound: Bound, counts: bool| {
        finding.claims.push(Claim::new(text, figure, unit, bound, counts).but(remark));
    };
    add("delivered after the shift, scheduler on to off", gain, "times", Bound::AtLeast(1.1), true);
    add("onset of saturation to the last move", rebalanced, "ms", Bound::AtMost(100.0), counts);
    add("onset of saturation until all that is asked for is delivered", recovered, "ms", Bound::AtMost(100.0), counts);
    add("pause of a queue pair per move under load, p50", pause(0.5), "µs", Bound::AtMost(50.0), false);
    add("pause of a queue pair per move under load, p99", pause(0.99), "µs", Bound::AtMost(50.0), counts);
    add("two I/O cores to one, pairs placed together", cores, "times", Bound::AtLeast(1.8), counts);
    let shown = |figure: Option<Ratio>| figure.map_or("-".to_owned(), show);
    finding.answer.push(format!(
        "Off, the saturated core leaves guests with {} % of what they ask for while the other core idles. On, the last move is made {} ms after the \
         load has shifted, that is {} ticks, everything is delivered again after {} ms, and guests get {} %. Two I/O cores deliver {} times what one does.",
        shown(stats::estimate(&settled(off).iter().map(|served| served * 100.0).collect::<Vec<_>>())),
        shown(rebalanced),
        rebalanced.map_or("-".to_owned(), |ms| format!("{:.0}", (ms.value / 1e3 / TICK_S).ceil())),
        shown(recovered),
        shown(stats::estimate(&settled(on).iter().map(|served| served * 100.0).collect::<Vec<_>>())),
        shown(cores),
    ));
}

/// The simulator beside the switch: what is served after the shift, and the largest core load at the end.
fn compare(
    finding: &mut Finding,
    [off, on]: [&[Turn]; 2],
    (simulated, simulated_s): (&[Simulated], [f64; 2]),
    remark: &str,
    counts: bool,
) {
    let head = [
        "scheduler",
        "served after the shift: switch, %",
        "simulator, %",
        "largest core load at the end: switch, %",
        "simulator, %",
    ];
    let mut table = Table::new("The simulator beside the switch, same loads, same speed of a core", &head);
    let mut worst: f64 = 0.0;
    for (turns, policy) in [(off, "static"), (on, "balance")] {
        let Some(run) = simulated.iter().find(|run| run.policy == policy) else { continue };
        let asked = turns.first().map_or([1.0; 2], |turn| turn.asked);
        let [before, after] = [0, 1].map(|phase| asked[phase] * simulated_s[phase]);
        let demanded = run.demanded_cycles * after / (before + after);
        let model = 1.0 - run.under_served_converged_cycles / demanded.max(1.0);
        let real =
            median(&turns.iter().map(|turn| turn.served(0.0, f64::INFINITY)).collect::<Vec<_>>()).unwrap_or(f64::NAN);
        let largest = run.seconds.last().map_or(f64::NAN, |second| second.largest.min(1.0));
        let measured = median(&turns.iter().map(Turn::largest).collect::<Vec<_>>()).unwrap_or(f64::NAN);
        for (real, model) in [(real, model), (measured, largest)] {
            worst = worst.max((real / model - 1.0).abs());
        }
        let name = if policy == "static" { "off" } else { "on" };
        let percent = |part: f64| format!("{:.1}", part * 100.0);
        table.row([name.to_owned(), percent(real), percent(model), percent(measured), percent(largest)]);
    }
    finding.tables.push(table);
    let worst = Some(Ratio { value: worst * 100.0, low: worst * 100.0, high: worst * 100.0 });
    let text = "largest difference between the simulator and the switch (served, largest core load)";
    finding.claims.push(Claim::new(text, worst, "%", Bound::AtMost(15.0), counts).but(remark));
}
