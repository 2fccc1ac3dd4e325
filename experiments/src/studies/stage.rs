//! The stage of an experiment: a switch with guests' ports, I/O cores that may be limited, and the generator.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde_json::{Value, json};
use sidecore_tests::process::eventually;
use sidecore_tests::switch::{SwitchConfig, SwitchProcess};
use tempfile::TempDir;

use super::Lab;
use super::turns::TURNS;
use crate::occupied::Occupier;
use crate::ringgen::{self, Report, Session};
use crate::threads::{self, Preferred};

/// Seconds before the measured time, and the longest wait after it.
const WARM_UP_S: f64 = 0.15;
const DRAIN_S: f64 = 0.1;

/// The same for each of several turns.
const TURN_WARM_UP_S: f64 = 0.01;
const TURN_DRAIN_S: f64 = 0.004;
/// What the generator takes to report one.
const REPORT_S: f64 = 0.001;

const THREADS_DEADLINE: Duration = Duration::from_secs(10);

/// A switch on a stage.
pub struct Stage {
    occupiers: Vec<Occupier>,
    /// The switch.
    pub switch: SwitchProcess,
    config: SwitchConfig,
    folder: TempDir,
    /// The CPU of each I/O core.
    cpus: Vec<usize>,
    /// Whether an I/O core has the generator's CPU, or would have if there were two.
    pub gives_way: bool,
}

/// What the generator is to do: its command line but for where it runs and what it writes.
#[derive(Debug, Clone)]
pub struct Load {
    args: Vec<String>,
    ports: Vec<usize>,
    seconds: f64,
}

impl Load {
    /// A workload of `ringgen` with so many guests, the first ones of the stage.
    #[must_use]
    pub fn new(workload: &str, guests: usize, seconds: f64) -> Self {
        Self::at(workload, (0..guests).collect(), seconds)
    }

    /// The same with guests at these ports, by number.
    #[must_use]
    pub fn at(workload: &str, ports: Vec<usize>, seconds: f64) -> Self {
        Self::with_waits(workload, ports, [seconds, WARM_UP_S, DRAIN_S])
    }

    /// The same for a session of turns, of so many seconds together. There can be others at the stage: guests have their ports' numbers.
    #[must_use]
    pub fn in_turns(workload: &str, ports: Vec<usize>, seconds: f64) -> Self {
        Self::in_so_many_turns(workload, ports, seconds, TURNS)
    }

    /// The same with another number of turns.
    #[must_use]
    pub fn in_so_many_turns(workload: &str, ports: Vec<usize>, seconds: f64, turns: usize) -> Self {
        let first = ports.first().copied().unwrap_or_default();
        let seconds = (seconds / turns as f64 * 1e4).round() / 1e4;
        let load = Self::with_waits(workload, ports, [seconds, TURN_WARM_UP_S, TURN_DRAIN_S]);
        if first == 0 { load } else { load.option("first-guest", first) }
    }

    fn with_waits(workload: &str, ports: Vec<usize>, [seconds, warm_up, drain]: [f64; 3]) -> Self {
        let load = Self { args: vec![workload.to_owned()], ports, seconds };
        load.option("duration-s", seconds).option("warmup-s", warm_up).option("drain-s", drain)
    }

    /// Adds an option.
    #[must_use]
    pub fn option(mut self, name: &str, value: impl ToString) -> Self {
        self.args.extend([format!("--{name}"), value.to_string()]);
        self
    }

    /// Its command line, for the report.
    #[must_use]
    pub fn shown(&self) -> String {
        format!("ringgen {} --guest … ({} guests)", self.args.join(" "), self.ports.len())
    }
}

impl Stage {
    /// Starts a switch with so many I/O cores, on the CPUs for that, and what `ports` adds to its configuration.
    pub fn start(lab: &Lab, io_cores: usize, ports: impl FnOnce(SwitchConfig) -> SwitchConfig) -> Result<Self> {
        let mut stage = Self::launch(lab, io_cores, ports)?;
        stage.ready()?;
        Ok(stage)
    }

    /// The same without waiting for it, so that several can start together.
    pub fn launch(lab: &Lab, io_cores: usize, ports: impl FnOnce(SwitchConfig) -> SwitchConfig) -> Result<Self> {
        Self::launch_on(lab.cpus.io_cores(io_cores), ports)
    }

    /// Waits until the switch answers.
    pub fn ready(&mut self) -> Result<()> {
        self.switch.ready()
    }

    /// Starts a switch of mode `trap`: instead of an I/O core, the threads of all guests have its CPU. All else of the switch runs where it does
    /// beside an I/O core.
    pub fn start_traditional(lab: &Lab, ports: impl FnOnce(SwitchConfig) -> SwitchConfig) -> Result<Self> {
        Self::start(lab, 1, |config| ports(config.key("mode = \"trap\"")))
    }

    /// The same with I/O cores on as many CPUs as there are. One that has the generator's gives way to it and to all other threads of the
    /// switch, whenever these want to run: they have to sleep nearly always.
    pub fn spread(lab: &Lab, io_cores: usize, ports: impl FnOnce(SwitchConfig) -> SwitchConfig) -> Result<Self> {
        let cpus = lab.cpus.spread(io_cores);
        let gives_way = !lab.cpus.are_enough_for(io_cores.max(2));
        let mut stage = Self { gives_way, ..Self::launch_on(cpus, ports)? };
        stage.ready()?;
        if gives_way {
            let io_cores = stage.io_core_threads()?;
            // The first that is favoured would have the CPU nearly for itself while the others' turn is yet to come.
            let _first = Preferred::this_thread()?;
            for thread in threads::of_process(stage.pid())? {
                let is_io_core = io_cores.contains(&thread.id);
                if is_io_core { threads::favour(thread.id) } else { threads::prefer(thread.id) }?;
            }
        }
        Ok(stage)
    }

    /// This thread, and what it starts, before an I/O core that has the generator's CPU, until that is dropped. None where none has.
    pub fn preferred(&self) -> Result<Option<Preferred>> {
        self.gives_way.then(Preferred::this_thread).transpose()
    }

    fn launch_on(cpus: Vec<usize>, ports: impl FnOnce(SwitchConfig) -> SwitchConfig) -> Result<Self> {
        let folder = SwitchProcess::folder()?;
        let config = ports(SwitchConfig::new(folder.path()).on_cpus(cpus.clone()));
        let switch = SwitchProcess::launch(&config)?;
        Ok(Self { occupiers: Vec::new(), switch, config, folder, cpus, gives_way: false })
    }

    /// Halts the switch while another one is measured on its CPUs, or lets it go on.
    pub fn halt(&self, halted: bool) -> Result<()> {
        self.switch.signal(if halted { Signal::STOP } else { Signal::CONT })
    }

    /// The switch's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.switch.pid()
    }

    /// Gives each I/O core a share of its CPU, so that the switch is the limit and not the generator.
    pub fn limit(&mut self, share: f64) -> Result<()> {
        self.occupiers = self.cpus.iter().map(|cpu| Occupier::leave(share, *cpu)).collect::<Result<_>>()?;
        Ok(())
    }

    /// The threads of all I/O cores.
    fn io_core_threads(&mut self) -> Result<Vec<u32>> {
        let (pid, cores) = (self.pid(), self.cpus.len());
        eventually("threads of all I/O cores", THREADS_DEADLINE, || {
            let threads = threads::of_process(pid)?;
            let ids: Vec<u32> =
                threads.iter().filter(|thread| thread.name.starts_with("io-core-")).map(|thread| thread.id).collect();
            Ok((ids.len() == cores).then_some(ids))
        })
    }

    /// A file of the stage's own.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The vhost-user socket of a port.
    #[must_use]
    pub fn socket(&self, port: usize) -> PathBuf {
        self.config.socket(&name(port))
    }

    /// The generator's arguments for a load.
    #[must_use]
    pub fn arguments(&self, lab: &Lab, load: &Load) -> Vec<String> {
        let mut args = load.args.clone();
        for port in &load.ports {
            args.extend(["--guest".to_owned(), self.socket(*port).display().to_string()]);
        }
        args.extend(["--cpu".to_owned(), lab.cpus.generator.to_string(), "--hugepages".to_owned(), "off".to_owned()]);
        args
    }

    /// Runs the generator to its end. Nothing may have been spoiled, and the switch still runs.
    pub fn play(&mut self, lab: &Lab, load: &Load) -> Result<Report> {
        let args = self.arguments(lab, load);
        let report = ringgen::run(&lab.ringgen, &args, load.seconds, self.folder.path(), &lab.interrupt)
            .with_context(|| self.switch.process().tail())?;
        self.switch.process().ensure_running()?;
        report.ensure_unspoiled()?;
        Ok(report)
    }

    /// Starts a generator that measures whenever it is asked to. There can be others, with other ports.
    pub fn session(&self, lab: &Lab, load: &Load) -> Result<Session> {
        let log = self.file(&format!("ringgen-{}.log", load.ports.first().context("no guests")?));
        let least = TURN_WARM_UP_S + load.seconds + TURN_DRAIN_S + REPORT_S;
        Session::start(&lab.ringgen, self.arguments(lab, load), least, &log)
    }

    /// The end of the switch's log, for an error message.
    #[must_use]
    pub fn tail(&self) -> String {
        self.switch.tail()
    }

    /// All that the switch says about itself.
    pub fn status(&self) -> Result<Value> {
        Ok(self.switch.ask(&json!({"command": "status"}))?["status"].take())
    }
}

/// What a guest is called.
#[must_use]
pub fn name(guest: usize) -> String {
    format!("vm{guest}")
}
