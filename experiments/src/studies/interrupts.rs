//! Interrupt moderation: interrupts for each packet against latency, for a guest that sleeps until it is called.

use anyhow::{Result, ensure};
use serde_json::json;
use sidecore_tests::wake::WakeLimit;

use super::Lab;
use super::finding::{Axis, Bound, Chart, Claim, Finding, Kind, Point, Series, Table, show};
use super::saturation::stage;
use super::stage::Load;
use super::turns::{self, Case, Played, TURNS};
use crate::ringgen::Report;
use crate::stats::{self, Ratio};

/// How calls are held back, with the lines of a guest's section that say so.
struct Setting {
    name: &'static str,
    lines: [&'static str; 2],
    /// Also where there are fewer places.
    coarse: bool,
}

const fn setting(name: &'static str, how: &'static str, delay: &'static str, coarse: bool) -> Setting {
    Setting { name, lines: [how, delay], coarse }
}

const NONE: &str = "interrupt_moderation = \"none\"";
const FIXED: &str = "interrupt_moderation = \"fixed\"";
const ADAPTIVE: &str = "interrupt_moderation = \"adaptive\"";
const US_20: &str = "interrupt_delay_us = 20";
const US_50: &str = "interrupt_delay_us = 50";
const US_100: &str = "interrupt_delay_us = 100";

/// The default's name.
const DEFAULT: &str = "adaptive, 50 µs";

const SETTINGS: [Setting; 7] = [
    setting("none", NONE, US_50, true),
    setting("fixed, 20 µs", FIXED, US_20, false),
    setting("fixed, 50 µs", FIXED, US_50, true),
    setting("fixed, 100 µs", FIXED, US_100, false),
    setting("adaptive, 20 µs", ADAPTIVE, US_20, false),
    setting(DEFAULT, ADAPTIVE, US_50, true),
    setting("adaptive, 100 µs", ADAPTIVE, US_100, false),
];

/// What guests do. Times of pings are of round trips, all others one way.
struct Work {
    name: &'static str,
    workload: &'static str,
    options: &'static [(&'static str, &'static str)],
    coarse: bool,
}

const ONE_PING: &str = "1 ping";
const PINGS: &str = "16 pings";
const MEDIUM: &str = "100,000/s";
const FULL_SPEED: &str = "full speed";

const WORKS: [Work; 6] = [
    Work { name: ONE_PING, workload: "pingpong", options: &[("window", "1")], coarse: true },
    Work { name: PINGS, workload: "pingpong", options: &[("window", "16")], coarse: true },
    Work { name: "10,000/s", workload: "stream", options: &[("rate", "10000"), ("verify", "full")], coarse: false },
    Work { name: MEDIUM, workload: "stream", options: &[("rate", "100000"), ("verify", "full")], coarse: true },
    Work { name: "500,000/s", workload: "stream", options: &[("rate", "500000"), ("verify", "full")], coarse: false },
    Work { name: FULL_SPEED, workload: "stream", options: &[], coarse: true },
];

/// Features as a guest of QEMU has them.
const GUEST: [(&str, &str); 2] = [("guest-mode", "interrupt"), ("event-idx", "on")];

/// A place: number of the work, number of the setting.
type Place = (usize, usize);

/// All that was measured.
struct Measured {
    works: Vec<usize>,
    settings: Vec<usize>,
    places: Vec<Place>,
    played: Vec<Vec<Played>>,
}

impl Measured {
    /// All rounds at a place.
    fn at(&self, place: Place) -> &[Played] {
        self.places.iter().position(|other| *other == place).map_or(&[][..], |at| self.played[at].as_slice())
    }

    /// The same at a place by its names.
    fn named(&self, work: &str, setting: &str) -> &[Played] {
        let work = WORKS.iter().position(|other| other.name == work).unwrap_or_default();
        let setting = SETTINGS.iter().position(|other| other.name == setting).unwrap_or_default();
        self.at((work, setting))
    }

    /// Figures of all rounds at a place.
    fn of(&self, place: Place, figure: impl Fn(&Report) -> f64) -> Vec<f64> {
        self.at(place).iter().map(|played| figure(&played.all)).collect()
    }

    /// A setting against no moderation, of turns one after another.
    fn against_none(&self, work: &str, setting: &str, compare: impl Fn(&Report, &Report) -> f64) -> Option<Ratio> {
        let rounds = self.named(work, setting).iter().zip(self.named(work, "none"));
        stats::estimate(&rounds.map(|(with, without)| with.beside(without, &compare)).collect::<Vec<_>>())
    }

    /// The ratio of a figure.
    fn to_none(&self, work: &str, setting: &str, figure: impl Fn(&Report) -> f64) -> Option<Ratio> {
        self.against_none(work, setting, |with, without| figure(with) / figure(without))
    }
}

/// Makes the experiment.
pub fn run(lab: &Lab) -> Result<Finding> {
    let limit = WakeLimit::of(lab.cpus.generator);
    limit.as_ref().map_or(Ok(()), |limit| limit.set("n/a"))?;
    let measured = measure(lab)?;
    let mut finding = Finding {
        name: "interrupts".to_owned(),
        title: "Interrupts: fewer for each packet, against latency".to_owned(),
        question: "How many interrupts does a guest get for each packet, and how much later does it see its packets, when the switch calls for every \
                   burst, for a fixed number of packets, and for as many as turn out to come in time?"
            .to_owned(),
        setup: vec![
            "One I/O core that polls. ringgen plays two guests on another CPU, in one thread: a guest looks at a ring only after a call, until it is \
             empty, then asks for the next call (with event index), looks once more and sleeps. What a call costs here is an eventfd's write, and a \
             wake-up where the thread sleeps; in a virtual machine it is an interrupt."
                .to_owned(),
            if limit.is_some() {
                "The guests' CPU does not halt meanwhile, and polls in the kernel's idle loop (its pm_qos_resume_latency_us): else some rounds would be \
                 of wake-ups that take ten times as long as in others."
            } else {
                "The guests' CPU halts as the kernel has it: nothing here limits how long it takes to wake up, or not for this user."
            }
            .to_owned(),
            "Packets of 64 B. Pings: round trips, with so many under way. Streams at a rate: one way, from when the sender made the packet. At full \
             speed latency is that of full rings."
                .to_owned(),
            format!("Each setting has a pair of guests at the same switch; the others are silent meanwhile. {}", turns::setup(lab, TURNS)),
            "How a setting compares with none is, for each round, the median of turns one after another.".to_owned(),
            load(lab, &WORKS[0], 0).shown(),
        ],
        repeat: lab.repeat("interrupts"),
        conditions: lab.conditions(),
        ..Finding::default()
    };
    finding.tables.push(table(&measured));
    finding.charts.push(chart(
        &measured,
        ("calls", "Interrupts for each packet"),
        Axis::linear("calls a packet"),
        calls,
    ));
    finding.charts.push(chart(&measured, ("p50", "Latency, median"), Axis::log("µs"), p50));
    finding.charts.push(chart(&measured, ("p99", "Latency, 99th percentile"), Axis::log("µs"), p99));
    finding.charts.push(trade(&measured));
    judge(&mut finding, &measured);
    let name = |(work, setting): &Place| format!("{}; {}", WORKS[*work].name, SETTINGS[*setting].name);
    let raw = |report: &Report| {
        json!({ "calls_per_packet": report.calls_per_packet, "call_reads_per_packet": report.call_reads_per_packet,
            "latency_ns": report.latency_ns, "pps": report.pps, "generator_cpu": report.generator_cpu, "generator_idle": report.generator_idle })
    };
    finding.raw = json!({
        "places": measured.places.iter().map(name).collect::<Vec<_>>(),
        "rounds": measured.played.iter().map(|all| all.iter().map(|played| raw(&played.all)).collect::<Vec<_>>()).collect::<Vec<_>>(),
        "turns": measured.played.iter().map(|all| all.iter().map(|played| played.turns.iter().map(raw).collect::<Vec<_>>()).collect::<Vec<_>>()).collect::<Vec<_>>(),
    });
    Ok(finding)
}

/// Each setting has a pair of guests of its own, all at one switch.
fn measure(lab: &Lab) -> Result<Measured> {
    let coarse = lab.effort.coarse;
    let works: Vec<usize> = (0..WORKS.len()).filter(|work| !coarse || WORKS[*work].coarse).collect();
    let settings: Vec<usize> = (0..SETTINGS.len()).filter(|at| !coarse || SETTINGS[*at].coarse).collect();
    let places: Vec<Place> = works.iter().flat_map(|work| settings.iter().map(|setting| (*work, *setting))).collect();
    let stage = stage(lab, 2 * SETTINGS.len(), |guest| SETTINGS[guest / 2].lines.to_vec())?;
    let played = turns::rounds(lab, &works, |work| {
        let cases: Vec<_> =
            settings.iter().map(|at| Case { stage: &stage, load: load(lab, &WORKS[*work], *at) }).collect();
        let played = turns::play(lab, &cases, TURNS)?;
        let timed = played.iter().all(|played| played.all.latency_ns.is_some());
        ensure!(timed, "no packet was timed at {}", WORKS[*work].name);
        Ok(played)
    })?;
    Ok(Measured { works, settings, places, played })
}

fn load(lab: &Lab, work: &Work, setting: usize) -> Load {
    let load = Load::in_turns(work.workload, vec![2 * setting, 2 * setting + 1], lab.effort.seconds);
    GUEST.iter().chain(work.options).fold(load, |load, (name, value)| load.option(name, value))
}

fn calls(report: &Report) -> f64 {
    report.calls_per_packet
}

fn p50(report: &Report) -> f64 {
    report.latency_ns.map_or(f64::NAN, |latency| latency.p50 / 1e3)
}

fn p99(report: &Report) -> f64 {
    report.latency_ns.map_or(f64::NAN, |latency| latency.p99 / 1e3)
}

fn shown(figure: Option<Ratio>) -> String {
    figure.map_or("-".to_owned(), show)
}

fn table(measured: &Measured) -> Table {
    let head = [
        "load",
        "moderation",
        "calls a packet",
        "latency p50, µs",
        "latency p99, µs",
        "1,000 packets/s",
        "guests' CPU, %",
        "generator idle, %",
    ];
    let mut table = Table::new("Interrupts and latency", &head);
    for place in &measured.places {
        let cell = |figure: &dyn Fn(&Report) -> f64| shown(stats::estimate(&measured.of(*place, figure)));
        table.row([
            WORKS[place.0].name.to_owned(),
            SETTINGS[place.1].name.to_owned(),
            cell(&calls),
            cell(&p50),
            cell(&p99),
            cell(&|report| report.pps / 1e3),
            cell(&|report| report.generator_cpu * 100.0),
            cell(&|report| report.generator_idle * 100.0),
        ]);
    }
    table
}

fn chart(measured: &Measured, (name, title): (&str, &str), y: Axis, figure: fn(&Report) -> f64) -> Chart {
    let names: Vec<&str> = measured.works.iter().map(|work| WORKS[*work].name).collect();
    let series = measured.settings.iter().map(|setting| {
        let works = measured.works.iter().enumerate();
        let points = works.map(|(at, work)| Point::new(at as f64, &measured.of((*work, *setting), figure)));
        Series::new(SETTINGS[*setting].name, points.collect())
    });
    Chart {
        name: name.to_owned(),
        title: title.to_owned(),
        x: Axis::names("load", &names),
        y,
        kind: Kind::Bars,
        series: series.collect(),
        ..Chart::default()
    }
}

/// What fewer calls cost in latency, at the load where both differ.
fn trade(measured: &Measured) -> Chart {
    let work = WORKS.iter().position(|work| work.name == MEDIUM).unwrap_or_default();
    let series = measured.settings.iter().map(|setting| {
        let place = (work, *setting);
        let at = stats::median(&measured.of(place, calls)).unwrap_or_default();
        Series::new(SETTINGS[*setting].name, vec![Point::new(at, &measured.of(place, p99))])
    });
    Chart {
        name: "trade".to_owned(),
        title: format!("Interrupts for each packet against latency, at {MEDIUM}"),
        x: Axis::linear("calls a packet"),
        y: Axis::linear("latency p99, µs"),
        series: series.collect(),
        note: "Further left and further down is better. Calls are medians; intervals of them are in the table."
            .to_owned(),
        ..Chart::default()
    }
}

fn judge(finding: &mut Finding, measured: &Measured) {
    let mut claim = |text: String, figure, unit: &str, bound| {
        finding.claims.push(Claim::new(&text, figure, unit, bound, true));
    };
    let fewer = [MEDIUM, FULL_SPEED].map(|work| measured.to_none(work, DEFAULT, calls));
    // At full speed a guest is hardly ever without work, and so is hardly ever called, whatever the setting.
    for ((work, fewer), most) in [MEDIUM, FULL_SPEED].iter().zip(fewer).zip([0.5, 1.0]) {
        claim(format!("calls for each packet at {work}, {DEFAULT}, to none"), fewer, "times", Bound::AtMost(most));
    }
    let alone = measured.to_none(ONE_PING, DEFAULT, p50);
    claim(format!("median round trip of {ONE_PING}, {DEFAULT}, to none"), alone, "times", Bound::AtMost(1.05));
    let pings = measured.to_none(PINGS, DEFAULT, p50);
    claim(format!("median round trip of {PINGS}, {DEFAULT}, to none"), pings, "times", Bound::AtMost(1.25));
    let late = measured.against_none(MEDIUM, DEFAULT, |with, without| p99(with) - p99(without));
    claim(format!("latency p99 that {DEFAULT}, adds at {MEDIUM}"), late, "µs", Bound::AtMost(50.0));
    let speed = measured.to_none(FULL_SPEED, DEFAULT, |report| report.pps);
    let text = format!("throughput at {FULL_SPEED}, {DEFAULT}, to none");
    let claim = Claim::new(&text, speed, "times", Bound::AtLeast(0.98), true);
    // Where the generator is the limit it is 1 or so, whatever moderation costs.
    let idle = |setting| -> Vec<f64> {
        measured.named(FULL_SPEED, setting).iter().map(|played| played.all.generator_idle).collect()
    };
    finding.claims.push(claim.where_generator_idled(&idle("none")).where_generator_idled(&idle(DEFAULT)));
    let fixed = |work| measured.to_none(work, "fixed, 50 µs", p50);
    finding.answer.push(format!(
        "Adaptive moderation with a delay of 50 µs makes {} times the calls for each packet at {MEDIUM} and {} times at full speed, with {} times the \
         throughput. It makes a lone ping {} and each of 16 under way {} times as long (fixed: {} and {}), and adds {} µs to the 99th percentile at {MEDIUM}.",
        shown(fewer[0]),
        shown(fewer[1]),
        shown(speed),
        shown(alone),
        shown(pings),
        shown(fixed(ONE_PING)),
        shown(fixed(PINGS)),
        shown(late),
    ));
}
