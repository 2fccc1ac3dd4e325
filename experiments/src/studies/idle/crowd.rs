//! A switch with its crowd: guests that are connected and silent. It is started once, and halted while others are measured.

use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use sidecore_tests::process::{Process, eventually};
use sidecore_tests::wake::WakeLimit;

use super::plan::Switch;
use super::used::Used;
use super::{AWAKE, configured, ports};
use crate::studies::Lab;
use crate::studies::stage::{Load, Stage};

/// What connecting all guests may take.
const CONNECTED: Duration = Duration::from_secs(60);
/// A switch rests whose threads have had less than this part of a CPU together from one look to the next.
const RESTING: f64 = 0.1;
const LOOK: Duration = Duration::from_millis(100);
/// The guests of a switch that come for its turns, where it has so many.
const PAIR: usize = 2;
/// Switches that start at the same time. More would wait for each other's memory.
const TOGETHER: usize = 2;

pub(super) struct Crowd {
    // The switch ends first: it would have to take leave of each guest.
    pub(super) stage: Stage,
    /// None where all of its guests come for its turns.
    guests: Option<Process>,
    /// How many these are.
    silent: usize,
    /// How many come for its turns.
    pub(super) visitors: usize,
}

impl Crowd {
    /// Starts switches together, with their guests, and halts them.
    fn start(lab: &Lab, switches: &[Switch]) -> Result<Vec<Self>> {
        let launch =
            |switch: &Switch| Stage::launch(lab, 1, |config| ports(configured(config, switch.mode), switch.guests));
        let mut stages: Vec<Stage> = switches.iter().map(launch).collect::<Result<_>>()?;
        stages.iter_mut().try_for_each(Stage::ready)?;
        let all = stages.into_iter().zip(switches);
        let crowds: Vec<Self> = all.map(|(stage, switch)| Self::fill(lab, stage, switch)).collect::<Result<_>>()?;
        crowds.iter().try_for_each(Self::connected)?;
        crowds.iter().try_for_each(Self::settled)?;
        crowds.iter().try_for_each(|crowd| crowd.halt(true))?;
        Ok(crowds)
    }

    fn fill(lab: &Lab, stage: Stage, switch: &Switch) -> Result<Self> {
        let first = if switch.has_pair { PAIR.min(switch.guests) } else { 0 };
        let load = Load::at("sink", (first..switch.guests).collect(), 3600.0)
            .option("first-guest", first)
            .option("announce", "off")
            .option("guest-mode", "interrupt")
            .option("buffers", 16);
        let silent = switch.guests - first;
        let start = || Process::spawn("ringgen", &lab.ringgen, stage.arguments(lab, &load), &stage.file("crowd.log"));
        let guests = (silent > 0).then(start).transpose()?;
        Ok(Self { stage, guests, silent, visitors: first })
    }

    /// Waits until all of them are.
    fn connected(&self) -> Result<()> {
        eventually("all guests connected", CONNECTED, || {
            let status = self.stage.status()?;
            let ports = status["ports"].as_array().context("no ports in the status")?;
            Ok((ports.iter().filter(|port| port["state"] == "running").count() == self.silent).then_some(()))
        })
        .with_context(|| self.guests.as_ref().map(Process::tail).unwrap_or_default())
    }

    /// Waits until its threads rest, but for a core that polls: ports run before all that is to be done for them has been done.
    fn settled(&self) -> Result<()> {
        let pid = self.stage.pid();
        let mut before = Used::until_now(pid)?;
        eventually("rest", CONNECTED, || {
            std::thread::sleep(LOOK);
            let now = Used::until_now(pid)?;
            let used: f64 =
                now.since(&before).iter().filter(|(name, _)| *name != "io-core").map(|(_, part)| part).sum();
            before = now;
            Ok((used < RESTING).then_some(()))
        })
    }

    /// Halts the switch and its guests, or lets them go on.
    pub(super) fn halt(&self, halted: bool) -> Result<()> {
        let signal = if halted { Signal::STOP } else { Signal::CONT };
        self.guests.as_ref().map_or(Ok(()), |guests| guests.signal(signal))?;
        self.stage.halt(halted)
    }
}

/// The limit by which the CPU of a switch in mode [`AWAKE`] does not halt. It is the CPU's, whoever runs there: so the experiment sets it for that
/// switch's turns alone.
pub(super) struct Awake {
    limit: WakeLimit,
    set: String,
}

impl Awake {
    /// With that switch just started. The CPU may halt from now on.
    pub(super) fn take_over(limit: WakeLimit) -> Result<Self> {
        let me = Self { set: limit.get()?, limit };
        me.hold(false)?;
        Ok(me)
    }

    /// Whether the CPU has to stay awake.
    pub(super) fn hold(&self, awake: bool) -> Result<()> {
        if awake { self.limit.set(&self.set) } else { self.limit.lift() }
    }
}

/// All crowds of a plan, and the limit of the one in mode [`AWAKE`].
pub(super) fn start_all(
    lab: &Lab,
    switches: &[Switch],
    mut limit: Option<WakeLimit>,
) -> Result<(Vec<Crowd>, Option<Awake>)> {
    let (mut crowds, mut awake) = (Vec::new(), None);
    for together in switches.chunks(TOGETHER) {
        lab.interrupt.check()?;
        crowds.extend(Crowd::start(lab, together)?);
        if together.iter().any(|switch| switch.mode == AWAKE) {
            awake = limit.take().map(Awake::take_over).transpose()?;
        }
    }
    Ok((crowds, awake))
}
