//! A row, from starting the systems to the figures of every round.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::judge::{self, Limit};
use crate::options::Options;
use crate::quota::Quota;
use crate::results::{self, Beside, Outcome, Series};
use crate::ringgen::{Generator, Report, Run, Session, Verify};
use crate::systems::{Contender, Kind, Setup};
use crate::work::{Row, Work};
use sidecore_tests::interrupt::Interrupt;

/// Time in which a system sees that its guests have gone, before it is halted.
const SETTLE: Duration = Duration::from_millis(100);

/// Seconds of the runs that only decide how the row is measured.
const PILOT_SECONDS: f64 = 0.5;

/// Turns of each system in which the load beside round trips is found, at the beginning of every round: the machine may be half as fast in the
/// next one. The slowest of all counts.
const LOAD_TURNS: usize = 2;

/// Rounds after which it shows that the generator is the limit.
const ROUNDS_TO_JUDGE: usize = 3;

/// Everything a row needs besides itself.
#[derive(Debug)]
pub struct Bench {
    /// The command line.
    pub options: Options,
    /// CPU of the systems' other threads.
    pub other_cpu: usize,
    /// The generator.
    pub generator: Generator,
    /// Ctrl-C.
    pub interrupt: Interrupt,
    /// A temporary folder.
    pub folder: PathBuf,
}

/// A system with what is known of it in this row.
struct Lane {
    kind: Kind,
    contender: Option<Contender>,
    /// The generator's guests, for a round.
    guests: Option<Guests>,
    series: Series,
}

/// Guests that are connected, and what the NIC had been given before.
struct Guests {
    session: Session,
    nic_sent: Option<u64>,
}

impl Lane {
    fn is_in(&self) -> bool {
        self.series.error.is_none()
    }

    /// Takes the system out of the row.
    fn fail(&mut self, why: String) {
        println!("  {}: {}", self.kind, why.lines().next().unwrap_or_default());
        self.series.error = Some(why);
        (self.contender, self.guests) = (None, None);
    }
}

fn is_generator_bound(row: &Row, lanes: &[Lane]) -> bool {
    results::limit(row, 0, lanes.iter().map(|lane| &lane.series)) == Limit::Generator
}

/// What came of a turn.
struct Turn {
    figures: Vec<f64>,
    report: Report,
    /// The share of a CPU that the forwarding thread had.
    cpu: f64,
}

impl Bench {
    /// Measures a row. An error means that the user has had enough; what goes wrong with a system is in its series.
    pub fn row(&self, row: &Row) -> Result<Outcome> {
        println!("{}", row.key());
        let mut lanes = Vec::new();
        for kind in self.options.systems().iter().filter(|kind| kind.can(row.work)) {
            self.interrupt.check()?;
            lanes.push(self.start(*kind, row));
        }
        let mut quota = if self.may_limit(row, &mut lanes)? { self.limit(&mut lanes) } else { None };
        self.verify(row, &mut lanes)?;
        let may_begin_again = quota.is_none() && self.has_quota(row);
        if !self.rounds(row, &mut lanes, may_begin_again)? {
            quota = self.limit(&mut lanes);
            lanes.iter_mut().for_each(|lane| lane.series.begin_again());
            self.rounds(row, &mut lanes, false)?;
        }
        ensure_delivered(&mut lanes);
        let share = quota.is_some().then_some(self.options.quota);
        let systems = lanes.drain(..).map(|lane| (lane.kind, lane.series)).collect();
        // The threads are gone with their systems: nothing is left in the group.
        drop(quota);
        Ok(Outcome { row: row.clone(), systems, quota: share })
    }

    /// The generator's command line in a round of a row, for the report.
    #[must_use]
    pub fn shown(&self, row: &Row) -> String {
        let sockets: Vec<String> = (0..row.guests).map(|guest| format!("vm{guest}.sock")).collect();
        let seconds = self.options.turn_seconds();
        let run = Run { row, sockets: &sockets, seconds, verify: Verify::Order, background_pps: None };
        format!("ringgen {}", self.generator.session_arguments(&run).join(" "))
    }

    fn start(&self, kind: Kind, row: &Row) -> Lane {
        let mut lane = Lane {
            kind,
            contender: None,
            guests: None,
            series: Series { rounds: vec![Vec::new(); row.metrics().len()], ..Series::default() },
        };
        match self.try_start(kind, row) {
            Ok(contender) => {
                lane.series.commands.clone_from(&contender.commands);
                lane.contender = Some(contender);
            }
            Err(error) => lane.fail(format!("it did not start: {error:#}")),
        }
        lane
    }

    fn try_start(&self, kind: Kind, row: &Row) -> Result<Contender> {
        let folder = self.folder.join(kind.name());
        // A folder of this row alone: sockets and databases of the last one are no good.
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        let setup = Setup {
            row,
            hugepages: self.generator.hugepages,
            switch_cpu: self.options.switch_cpu,
            other_cpu: self.other_cpu,
            folder: &folder,
        };
        let mut contender = Contender::start(kind, &setup)?;
        if row.work == Work::NicToGuest {
            self.fill(&mut contender, row).with_context(|| contender.tail())?;
        }
        Ok(contender)
    }

    /// net_null delivers buffers as it finds them. So the guest sends packets to the NIC first: it leaves them in the
    /// buffers, and those that were used last are used next.
    fn fill(&self, contender: &mut Contender, row: &Row) -> Result<()> {
        let row = row.with_work(Work::GuestToNic);
        let sockets = contender.sockets.clone();
        let run = Run { row: &row, sockets: &sockets, seconds: 0.3, verify: Verify::Full, background_pps: None };
        contender.resume()?;
        self.generator.run(&run, &self.folder, &self.interrupt)?;
        std::thread::sleep(SETTLE);
        contender.turn_round()?;
        contender.halt()
    }

    fn has_quota(&self, row: &Row) -> bool {
        !row.work.is_round_trip() && self.options.quota > 0.0
    }

    /// Whether a short run shows that the generator could be the limit.
    fn may_limit(&self, row: &Row, lanes: &mut [Lane]) -> Result<bool> {
        if !self.has_quota(row) {
            return Ok(false);
        }
        let mut figures = Vec::new();
        for lane in lanes.iter_mut().filter(|lane| lane.is_in()) {
            if let Some(Turn { figures: all, report, cpu }) =
                self.turn(row, lane, PILOT_SECONDS, Verify::Order, None)?
            {
                figures.push((all[0], judge::idle_while_running(report.generator_idle, cpu)));
            }
        }
        Ok(judge::limit(&figures) == Limit::Generator)
    }

    /// Gives every system the same share of a CPU.
    fn limit(&self, lanes: &mut [Lane]) -> Option<Quota> {
        println!("  the generator could be the limit: every system gets {} of a CPU", self.options.quota);
        let members: Vec<(u32, u32)> =
            lanes.iter_mut().filter_map(|lane| lane.contender.as_mut()).map(Contender::member).collect();
        Quota::new(self.options.quota, &members)
            .map_err(|error| println!("  no such limit can be set, so the row may not count: {error:#}"))
            .ok()
    }

    /// A run in which every packet is looked at; whoever spoils one is out. What was negotiated has to be the same.
    fn verify(&self, row: &Row, lanes: &mut [Lane]) -> Result<()> {
        let seconds = self.options.seconds.min(1.0);
        let background = self.background(row, lanes)?;
        for lane in lanes.iter_mut().filter(|lane| lane.is_in()) {
            let Some(Turn { report, .. }) = self.turn(row, lane, seconds, Verify::Full, background)? else { continue };
            lane.series.negotiated.clone_from(&report.negotiated);
            match judge::verified(row.work, lane.kind.shares_buffers(), &report) {
                Ok(verified) => lane.series.verified = verified,
                Err(fault) => lane.fail(format!("void: {fault}")),
            }
        }
        let terms: Vec<_> = lanes
            .iter()
            .filter(|lane| lane.is_in())
            .map(|lane| (lane.kind.name(), lane.series.negotiated.as_slice()))
            .collect();
        if let Some(difference) = judge::difference(&terms) {
            for lane in lanes.iter_mut().filter(|lane| lane.is_in()) {
                lane.fail(format!("the terms are not equal: {difference}"));
            }
        }
        Ok(())
    }

    /// Half of what the slowest system forwards now, for round trips under load.
    fn background(&self, row: &Row, lanes: &mut [Lane]) -> Result<Option<f64>> {
        if row.work != Work::RttHalfLoad {
            return Ok(None);
        }
        let stream = row.with_work(Work::GuestToGuest);
        let mut slowest = f64::INFINITY;
        for _ in 0..LOAD_TURNS {
            for lane in lanes.iter_mut().filter(|lane| lane.is_in()) {
                let turn = self.turn(&stream, lane, self.options.turn_seconds(), Verify::Order, None)?;
                slowest = turn.map_or(slowest, |turn| slowest.min(turn.figures[0]));
            }
        }
        Ok(slowest.is_finite().then_some(slowest * 1e6 / 2.0))
    }

    /// All rounds, or, where that may help, only so many as show that the generator is the limit: then the answer is false.
    fn rounds(&self, row: &Row, lanes: &mut [Lane], may_begin_again: bool) -> Result<bool> {
        for round in 1..=self.options.rounds {
            let shown = self.round(row, lanes)?;
            let units: Vec<&str> = row.metrics().iter().map(|metric| metric.unit()).collect();
            println!("  round {round:2}: {} ({})", shown.join(", "), units.join(", "));
            let enough = round >= ROUNDS_TO_JUDGE.min(self.options.rounds);
            if may_begin_again && enough && is_generator_bound(row, lanes) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// One round, in which each system has several turns: its figures are their means. Guests stay connected for a round, so that turns can be
    /// short, and connect anew for the next one: where their memory lies is not the same in all of them. Returns the figures in words.
    fn round(&self, row: &Row, lanes: &mut [Lane]) -> Result<Vec<String>> {
        let turns = self.options.turns;
        let background = self.background(row, lanes)?;
        // Of each system: its figures, how long the generator idled, what CPU the switch had, and what arrived beside round trips.
        let mut sums: Vec<Vec<f64>> = lanes.iter().map(|lane| vec![0.0; lane.series.rounds.len() + 3]).collect();
        for _ in 0..turns {
            for (lane, sums) in lanes.iter_mut().zip(&mut sums).filter(|(lane, _)| lane.is_in()) {
                self.interrupt.check()?;
                let measured = self.measure_connected(row, lane, background);
                let Some(Turn { figures, report, cpu }) = self.take(lane, measured)? else { continue };
                let beside = report.background.unwrap_or_default().pps;
                let figures = figures.into_iter().chain([report.generator_idle, cpu, beside]);
                sums.iter_mut().zip(figures).for_each(|(sum, figure)| *sum += figure);
            }
        }
        for lane in lanes.iter_mut().filter(|lane| lane.is_in()) {
            let left = disconnect(row, lane);
            self.take(lane, left)?;
        }
        let mut shown = Vec::new();
        for (lane, sums) in lanes.iter_mut().zip(&sums).filter(|(lane, _)| lane.is_in()) {
            let means: Vec<f64> = sums.iter().map(|sum| sum / turns as f64).collect();
            let Series { rounds, idle, cpu, beside, .. } = &mut lane.series;
            let figures: Vec<String> = means[..rounds.len()].iter().map(|figure| format!("{figure:.3}")).collect();
            let arrived = means[rounds.len() + 2];
            let series = rounds.iter_mut().chain([idle, cpu]);
            series.zip(&means).for_each(|(all, figure)| all.push(*figure));
            beside.extend(background.map(|asked| Beside { asked, arrived }));
            shown.push(format!("{} {}", lane.kind, figures.join(" ")));
        }
        shown.extend(background.map(|pps| format!("beside {:.2} Mpps", pps / 1e6)));
        Ok(shown)
    }

    /// A run of the generator from connecting to leaving, while only this system runs. None: it is out now. An error: the user has had enough.
    fn turn(
        &self,
        row: &Row,
        lane: &mut Lane,
        seconds: f64,
        verify: Verify,
        background_pps: Option<f64>,
    ) -> Result<Option<Turn>> {
        self.interrupt.check()?;
        let Some(contender) = lane.contender.as_mut() else { return Ok(None) };
        let sockets = contender.sockets.clone();
        let run = Run { row, sockets: &sockets, seconds, verify, background_pps };
        let measured = self.measure(contender, &run);
        self.take(lane, measured)
    }

    /// What came of a system's turn. None: it is out now. An error: the user has had enough.
    fn take<T>(&self, lane: &mut Lane, outcome: Result<T>) -> Result<Option<T>> {
        let Err(error) = outcome else { return outcome.map(Some) };
        // A run that was broken off is not the system's fault.
        self.interrupt.check()?;
        let tail = lane.contender.as_mut().map(Contender::tail).unwrap_or_default();
        lane.fail(format!("{error:#}\n{tail}"));
        Ok(None)
    }

    fn measure(&self, contender: &mut Contender, run: &Run) -> Result<Turn> {
        contender.resume()?;
        let before = nic_sent(run.row, contender)?;
        let report = self.generator.run(run, &self.folder, &self.interrupt);
        std::thread::sleep(SETTLE);
        let after = nic_sent(run.row, contender)?;
        contender.halt()?;
        let report = report?;
        check_count(&report, before, after)?;
        Ok(Turn { figures: figures(run.row, &report)?, report, cpu: contender.cpu() })
    }

    /// The same with guests that stay connected afterwards, and connect first if they are not.
    fn measure_connected(&self, row: &Row, lane: &mut Lane, background_pps: Option<f64>) -> Result<Turn> {
        let Lane { kind, contender: Some(contender), guests, .. } = lane else { bail!("it is out") };
        contender.resume()?;
        let guests = match guests {
            Some(guests) => guests,
            None => {
                let (sockets, seconds) = (contender.sockets.clone(), self.options.turn_seconds());
                let run = Run { row, sockets: &sockets, seconds, verify: Verify::Order, background_pps };
                let nic_sent = nic_sent(row, contender)?;
                let session = self.generator.session(&run, &self.folder.join(kind.name()).join("ringgen.log"))?;
                guests.insert(Guests { session, nic_sent })
            }
        };
        let report = guests.session.turn(&self.interrupt);
        contender.halt()?;
        let report = report?;
        Ok(Turn { figures: figures(row, &report)?, report, cpu: contender.cpu() })
    }
}

/// Whoever delivers less than all of a stream beside round trips has had less to do than the others.
fn ensure_delivered(lanes: &mut [Lane]) {
    for lane in lanes.iter_mut().filter(|lane| lane.is_in()) {
        if let Some(lack) = judge::lack(&lane.series.beside) {
            lane.fail(format!("void: {lack}"));
        }
    }
}

/// A round's guests leave: whatever they have sent to the NIC has to have got there.
fn disconnect(row: &Row, lane: &mut Lane) -> Result<()> {
    let (Some(contender), Some(guests)) = (&mut lane.contender, lane.guests.take()) else { return Ok(()) };
    contender.resume()?;
    let report = guests.session.end();
    std::thread::sleep(SETTLE);
    let after = nic_sent(row, contender)?;
    contender.halt()?;
    check_count(&report?, guests.nic_sent, after)
}

/// Packets that the NIC was given, in a row that ends there.
fn nic_sent(row: &Row, contender: &mut Contender) -> Result<Option<u64>> {
    row.work.ends_at_nic().then(|| contender.nic_sent()).transpose()
}

fn check_count(report: &Report, before: Option<u64>, after: Option<u64>) -> Result<()> {
    let reached = before.zip(after).map(|(before, after)| after.saturating_sub(before));
    match reached.and_then(|reached| judge::miscount(report, reached)) {
        Some(difference) => bail!("void: {difference}"),
        None => Ok(()),
    }
}

/// The figures of a turn, if no packet was spoilt.
fn figures(row: &Row, report: &Report) -> Result<Vec<f64>> {
    if let Some(fault) = judge::fault(row.work, report) {
        bail!("void: {fault}");
    }
    row.metrics().iter().map(|metric| report.figure(*metric)).collect()
}
