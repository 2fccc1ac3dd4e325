//! Everything that changes a running switch. One thread owns the switch and carries out one request after the other;
//! the control socket and HTTP send it theirs through a [`Mailbox`].

mod claim;
mod mailbox;
mod port;
pub(crate) mod protocol;
mod reload;
mod server;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use claim::ControlSocket;
pub(crate) use mailbox::{Mailbox, Message};
pub(crate) use port::Port;
pub(crate) use reload::given_up;
pub(crate) use server::{line_of, serve};

use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use config::{
    Config, ConfigError, GuestConfig, LogLevel, Machine, PortName, SchedulerConfig, SwitchConfig, UplinkConfig,
};
use serde_json::Value;
use tracing::{info, warn};

use crate::snapshot::{FdbSnapshot, PortKind, PortState, Snapshot};
use crate::state::{StateError, StateFile};
use crate::trace::{TraceQuery, TraceReport};
use crate::words;
use port::{find, insert, take_out};
use protocol::{Answer, CaptureRequest, Done, Listed, MovedQueue, Origin, PlanReport, Request, Response};

/// What the control plane needs of the switch it runs.
pub(crate) trait Switch {
    /// What goes wrong in it, in words for whoever asked.
    type Error: std::error::Error;

    fn add(&mut self, port: &Port) -> Result<(), Self::Error>;
    fn remove(&mut self, port: &Port) -> Result<(), Self::Error>;
    /// Shows a running port as this from now on; everything else about it is as it was.
    fn show(&mut self, port: &Port);
    /// Moves a guest's queue pair, or all of them, to an I/O core.
    fn move_guest(&mut self, name: &str, queue: Option<u16>, io_core: usize) -> Result<Vec<MovedQueue>, Self::Error>;
    /// Takes up the keys of `[switch]` that need no restart.
    fn set_switch(&mut self, config: &SwitchConfig);
    /// Takes up the keys of `[scheduler]`.
    fn set_scheduler(&mut self, config: &SchedulerConfig);
    /// What the scheduler would do now.
    fn plan(&self) -> PlanReport;
    /// Stops the scheduler from doing anything by itself, or lets it go on. Whether that changed anything.
    fn pause_scheduler(&self, pause: bool) -> bool;
    /// Begins a capture. `stream` is the connection it was asked for on, and belongs to it from now on.
    fn capture(&mut self, request: &CaptureRequest, stream: &UnixStream) -> Result<(), Self::Error>;
    fn snapshot(&self) -> Snapshot;
    fn fdb(&self) -> Vec<FdbSnapshot>;
    /// What would become of a packet.
    fn trace(&self, query: &TraceQuery) -> Result<TraceReport, Self::Error>;
}

/// Why a request was not carried out. Nothing has changed then, unless the text says so.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("there is no {kind} {name:?}; `sidecore {kind} list` shows those that are there")]
    NoSuchPort { kind: &'static str, name: String },
    #[error("{name} is a port of the other kind: use `sidecore {kind} remove {name}`")]
    OtherKind { kind: &'static str, name: String },
    /// In the switch's own words, which name the port.
    #[error("{0}")]
    Switch(String),
    #[error("{port} cannot run before the switch is started again: {why}")]
    NeedsRestart { port: String, why: String },
    #[error("a capture needs a connection to stream to: ask for it on the control socket")]
    NeedsConnection,
    #[error("{cause}; putting things back failed too, so these are gone: {}", lost.join(", "))]
    NotPutBack { cause: Box<ControlError>, lost: Vec<String> },
}

/// What a [`Control`] is made of, besides the switch.
pub(crate) struct Setup {
    /// The configuration file, for reloads.
    pub(crate) file: PathBuf,
    /// What it says.
    pub(crate) config: Config,
    /// Where ports added at run time are kept.
    pub(crate) state: Option<StateFile>,
    /// What the machine has, asked anew for each request: accounts come and go.
    pub(crate) machine: fn() -> Machine,
    /// Changes what is logged.
    pub(crate) set_log_level: Box<dyn Fn(LogLevel)>,
}

/// A running switch, and what it was told to run.
pub(crate) struct Control<S> {
    switch: S,
    setup: Setup,
    /// What runs. `setup.config` is what the file said, as far as it is in force.
    running: Config,
    /// Names of running ports that are not from the file.
    added: BTreeSet<PortName>,
}

impl<S: Switch> Control<S> {
    /// Takes over a switch without ports.
    pub(crate) fn new(switch: S, setup: Setup) -> Self {
        let Config { switch: keys, scheduler, .. } = &setup.config;
        let running = Config { switch: keys.clone(), scheduler: *scheduler, guests: Vec::new(), uplinks: Vec::new() };
        Self { switch, setup, running, added: BTreeSet::new() }
    }

    /// Starts the ports of the file, then those `kept` by the state file.
    pub(crate) fn start_ports(&mut self, kept: &[Port]) -> Result<(), ControlError> {
        for port in port::ports_of(&self.setup.config) {
            self.start(&port)?;
        }
        for port in kept {
            self.start(port).map_err(|error| match (error, &self.setup.state) {
                (ControlError::Switch(text), Some(state)) => ControlError::Switch(format!(
                    "{text}; {port} was added at run time: to give it up, take it out of {}",
                    state.path().display()
                )),
                (error, _) => error,
            })?;
            self.added.insert(port.name().clone());
        }
        Ok(())
    }

    pub(crate) fn switch(&mut self) -> &mut S {
        &mut self.switch
    }

    /// Gives the switch back, to be stopped.
    pub(crate) fn into_switch(self) -> S {
        self.switch
    }

    /// Carries out a request.
    pub(crate) fn handle(&mut self, request: Request) -> Response {
        let result = match request {
            Request::Status => Ok(Answer::Status(Box::new(self.switch.snapshot()))),
            Request::FdbShow => Ok(Answer::Fdb(self.switch.fdb())),
            Request::Trace { query } => self.trace(&query).map(|report| Answer::Trace(Box::new(report))),
            Request::GuestList => Ok(Answer::Guests(self.list(&self.running.guests, |guest| &guest.name))),
            Request::UplinkList => Ok(Answer::Uplinks(self.list(&self.running.uplinks, |uplink| &uplink.name))),
            Request::GuestAdd { guest } => self.add_guest(guest).map(Answer::Done),
            Request::UplinkAdd { uplink } => self.add_uplink(uplink).map(Answer::Done),
            Request::GuestRemove { name } => self.remove(PortKind::Guest, &name).map(Answer::Done),
            Request::GuestMove { name, queue, io_core } => self.move_guest(&name, queue, io_core).map(Answer::Moved),
            Request::UplinkRemove { name } => self.remove(PortKind::Uplink, &name).map(Answer::Done),
            Request::SchedulerPlan => Ok(Answer::Plan(self.switch.plan())),
            Request::SchedulerPause => Ok(Answer::Done(self.pause_scheduler(true))),
            Request::SchedulerResume => Ok(Answer::Done(self.pause_scheduler(false))),
            Request::Reload => self.reload().map(Answer::Reloaded),
            Request::Capture(_) => Err(ControlError::NeedsConnection),
        };
        match result {
            Ok(answer) => Response::Ok(answer),
            Err(error) => refusal(&error),
        }
    }

    /// Begins a capture, for whoever is on the other end of `stream`. The answer is sent there, and then the file.
    pub(crate) fn capture(&mut self, request: &CaptureRequest, stream: &UnixStream) {
        if let Err(error) = self.switch.capture(request, stream) {
            server::respond(stream, &refusal(&error));
        }
    }

    fn add_guest(&mut self, guest: Value) -> Result<Done, ControlError> {
        let guest = GuestConfig::from_json(guest, &self.running.context(&(self.setup.machine)()))?;
        self.add(Port::Guest(guest))
    }

    fn add_uplink(&mut self, uplink: Value) -> Result<Done, ControlError> {
        let uplink = UplinkConfig::from_json(uplink, &self.running.context(&(self.setup.machine)()))?;
        self.add(Port::Uplink(uplink))
    }

    fn add(&mut self, port: Port) -> Result<Done, ControlError> {
        self.start(&port)?;
        self.added.insert(port.name().clone());
        if let Err(error) = self.save() {
            self.added.remove(port.name());
            let error = ControlError::from(error);
            return Err(match self.stop(&port) {
                Ok(()) => error,
                Err(stop) => ControlError::Switch(format!("{error}; and {port} still runs: {stop}")),
            });
        }
        info!("{port} added");
        let mut done = Done { message: format!("{port} added"), warnings: Vec::new() };
        if self.setup.state.is_none() {
            done.warnings.push("it is forgotten when the switch stops: switch.state_file is not set".to_owned());
        }
        Ok(done)
    }

    fn remove(&mut self, kind: PortKind, name: &str) -> Result<Done, ControlError> {
        let port = find(&self.running, name)
            .ok_or_else(|| ControlError::NoSuchPort { kind: words::kind(kind), name: name.to_owned() })?;
        if port.kind() != kind {
            return Err(ControlError::OtherKind { kind: words::kind(port.kind()), name: name.to_owned() });
        }
        // Written first: a port that is gone could only be put back by disturbing its guest.
        let was_added = self.added.remove(port.name());
        let mut result = if was_added { self.save().map_err(ControlError::from) } else { Ok(()) };
        if result.is_ok() {
            result = self.stop(&port);
        }
        if let Err(error) = result {
            if was_added {
                self.added.insert(port.name().clone());
                self.save().unwrap_or_else(|error| warn!("{error}"));
            }
            return Err(error);
        }
        info!("{port} removed");
        let mut done = Done { message: format!("{port} removed"), warnings: Vec::new() };
        if find(&self.setup.config, name).is_some() {
            let file = self.setup.file.display();
            done.warnings.push(format!("it is in {file}, and comes back at the next start: take it out there too"));
        }
        Ok(done)
    }

    fn pause_scheduler(&mut self, pause: bool) -> Done {
        let changed = self.switch.pause_scheduler(pause);
        let message = match (pause, changed) {
            (true, true) => "the scheduler is paused: nothing is moved but by `sidecore guest move`",
            (true, false) => "the scheduler was paused already",
            (false, true) => "the scheduler goes on",
            (false, false) => "the scheduler was not paused",
        };
        info!("{message}");
        Done { message: message.to_owned(), warnings: Vec::new() }
    }

    fn move_guest(&mut self, name: &str, queue: Option<u16>, io_core: usize) -> Result<Vec<MovedQueue>, ControlError> {
        let moved = self.switch.move_guest(name, queue, io_core);
        moved.map_err(|error| ControlError::Switch(error.to_string()))
    }

    fn trace(&self, query: &TraceQuery) -> Result<TraceReport, ControlError> {
        self.switch.trace(query).map_err(|error| ControlError::Switch(error.to_string()))
    }

    /// Adds a port to the switch and to the list of what runs.
    fn start(&mut self, port: &Port) -> Result<(), ControlError> {
        self.switch.add(port).map_err(|error| ControlError::Switch(error.to_string()))?;
        insert(&mut self.running, port.clone());
        Ok(())
    }

    /// Undoes [`start`](Self::start).
    fn stop(&mut self, port: &Port) -> Result<(), ControlError> {
        self.switch.remove(port).map_err(|error| ControlError::Switch(error.to_string()))?;
        take_out(&mut self.running, port.name());
        Ok(())
    }

    /// Writes the state file, if there is one.
    pub(crate) fn save(&self) -> Result<(), StateError> {
        let Some(state) = &self.setup.state else { return Ok(()) };
        let ports = port::ports_of(&self.running);
        state.save(ports.iter().filter(|port| self.added.contains(port.name())))
    }

    fn list<C, R>(&self, configs: &[C], name: impl Fn(&C) -> &PortName) -> Vec<Listed<R>>
    where
        C: Clone,
        R: From<C>,
    {
        let snapshot = self.switch.snapshot();
        let state = |name: &PortName| -> Option<PortState> {
            snapshot.ports.iter().find(|port| port.name == name.as_str()).map(|port| port.state)
        };
        let listed = |config: &C| Listed {
            origin: if self.added.contains(name(config)) { Origin::RunTime } else { Origin::File },
            state: state(name(config)),
            settings: R::from(config.clone()),
        };
        configs.iter().map(listed).collect()
    }
}

fn refusal(error: &dyn std::error::Error) -> Response {
    warn!("request refused: {error}");
    Response::Error(error.to_string())
}

/// Sorts ports that the state file kept into those that can run beside the file's, and those that cannot, with why.
pub(crate) fn admit(config: &Config, kept: Vec<Port>, machine: &Machine) -> (Vec<Port>, Vec<(Port, ConfigError)>) {
    let mut running = config.clone();
    let (mut fit, mut rejected) = (Vec::new(), Vec::new());
    for port in kept {
        match port.check_against(&running, machine) {
            Ok(()) => {
                insert(&mut running, port.clone());
                fit.push(port);
            }
            Err(error) => rejected.push((port, error)),
        }
    }
    (fit, rejected)
}
