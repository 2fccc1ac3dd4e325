//! `sidecore run`: starts everything in an order in which bad input is found before anything is half started, carries
//! out requests, and takes everything down again.

mod api;
mod notify;
mod signals;

use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use config::{Config, LogFormat, Machine, SchedulerConfig, SwitchConfig};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

use crate::control::protocol::{CaptureRequest, MovedQueue, PlanReport, Request, Response};
use crate::control::{Control, ControlSocket, Mailbox, Message, Port, Setup, Switch, admit, given_up};
use crate::dataplane::{Dataplane, DataplaneError};
use crate::logging::{self, Limit};
use crate::snapshot::{FdbSnapshot, Snapshot};
use crate::state::StateFile;
use crate::trace::{TraceQuery, TraceReport};

/// Requests that may wait for the control thread: more than there are connections that could send one.
const MAILBOX_SIZE: usize = 64;

/// How often the data plane is looked after. What it costs with many guests is most of what a silent switch does on this thread.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

impl Switch for Dataplane {
    type Error = DataplaneError;

    fn add(&mut self, port: &Port) -> Result<(), DataplaneError> {
        match port {
            Port::Guest(guest) => self.add_guest(guest),
            Port::Uplink(uplink) => self.add_uplink(uplink),
        }
    }

    fn remove(&mut self, port: &Port) -> Result<(), DataplaneError> {
        match port {
            Port::Guest(guest) => self.remove_guest(guest.name.as_str()),
            Port::Uplink(uplink) => self.remove_uplink(uplink.name.as_str()),
        }
    }

    fn show(&mut self, port: &Port) {
        if let Port::Guest(guest) = port {
            self.show_guest(guest);
        }
    }

    fn move_guest(
        &mut self,
        name: &str,
        queue: Option<u16>,
        io_core: usize,
    ) -> Result<Vec<MovedQueue>, DataplaneError> {
        Dataplane::move_guest(self, name, queue, io_core)
    }

    fn set_switch(&mut self, config: &SwitchConfig) {
        self.set_switch(config);
    }

    fn set_scheduler(&mut self, config: &SchedulerConfig) {
        self.scheduling.set(config);
    }

    fn plan(&self) -> PlanReport {
        self.scheduling.plan()
    }

    fn pause_scheduler(&self, pause: bool) -> bool {
        self.scheduling.set_paused(pause)
    }

    fn capture(&mut self, request: &CaptureRequest, stream: &UnixStream) -> Result<(), DataplaneError> {
        self.capture(request, stream)
    }

    fn snapshot(&self) -> Snapshot {
        self.snapshot()
    }

    fn fdb(&self) -> Vec<FdbSnapshot> {
        self.fdb()
    }

    fn trace(&self, query: &TraceQuery) -> Result<TraceReport, DataplaneError> {
        self.trace(query)
    }
}

/// Runs a switch in the foreground until it is told to stop. Log lines look as the configuration says, or as `log_format` does.
pub(crate) fn run(file: &Path, log_format: Option<LogFormat>) -> Result<()> {
    let file = std::path::absolute(file)
        .map_err(|error| anyhow!("the path {} cannot be used: {error}; write another one", file.display()))?;
    let machine = Machine::detect();
    let config = Config::load(&file, &machine)?;
    let log = logging::start(config.switch.log_level, log_format.unwrap_or(config.switch.log_format))?;
    let limit = log.limit();
    raise_file_limit();
    let (sender, messages) = mpsc::sync_channel(MAILBOX_SIZE);
    signals::forward(sender.clone()).map_err(|error| anyhow!("signals cannot be handled: {error}"))?;

    // Claims, in the order of what is cheapest to give back.
    let control_socket =
        ControlSocket::claim(&config.switch.control_socket, &config.switch.control_socket_access, &machine)?;
    let http = config.switch.http_listen.map(listen).transpose()?;
    let _state_lock = config.switch.state_file.as_deref().map(StateFile::lock).transpose()?;
    let (state, kept) = match &config.switch.state_file {
        Some(path) => StateFile::open(path.clone()).map(|(state, kept)| (Some(state), kept))?,
        None => (None, Vec::new()),
    };
    let (kept, rejected) = admit(&config, kept, &machine);
    for (port, error) in &rejected {
        warn!("{}", given_up(port, error));
    }

    let switch = Dataplane::start(&config.switch, &config.scheduler)?;
    let set_log_level = Box::new(move |level| log.set_level(level));
    let setup = Setup { file, config, state, machine: Machine::detect, set_log_level };
    let mut control = Control::new(switch, setup);
    let listeners = (&control_socket, http);
    let served = start_and_serve(&mut control, &kept, !rejected.is_empty(), listeners, sender, &messages, &limit);
    notify::stopping();
    let start = Instant::now();
    control.into_switch().stop();
    drop(control_socket);
    limit.tell_all();
    info!("stopped in {} ms", start.elapsed().as_millis());
    served
}

/// Lets this process have as many files open as it may: each guest has some ten, and what shells and service managers allow at first (1,024) is
/// for programs that call select(2).
fn raise_file_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        warn!("the limit on open files stays at {current:?}: {error}");
    }
}

/// From a data plane without ports to a switch that was told to stop. Whatever happens, the caller stops the data plane.
fn start_and_serve(
    control: &mut Control<Dataplane>,
    kept: &[Port],
    forget_rejected: bool,
    (control_socket, http): (&ControlSocket, Option<TcpListener>),
    sender: mpsc::SyncSender<Message>,
    messages: &Receiver<Message>,
    limit: &Limit,
) -> Result<()> {
    control.start_ports(kept)?;
    if forget_rejected {
        control.save()?;
    }
    let api = control_socket.listener().and_then(|listener| api::start(listener, http, Mailbox::new(sender))).map_err(
        |error| anyhow!("the control socket cannot be served: {error}; are file descriptors short (ulimit -n)?"),
    )?;
    info!("ready");
    notify::ready();
    serve(control, messages, limit);
    api.stop();
    Ok(())
}

/// Carries out what comes in until told to stop.
fn serve(control: &mut Control<Dataplane>, messages: &Receiver<Message>, limit: &Limit) {
    let mut next_housekeeping = Instant::now();
    loop {
        let now = Instant::now();
        if now >= next_housekeeping {
            control.switch().housekeep();
            limit.tell();
            next_housekeeping = now + HOUSEKEEPING;
        }
        match messages.recv_timeout(next_housekeeping.saturating_duration_since(now)) {
            Ok(Message::Request(request, reply)) => {
                // Whoever asked may have gone away.
                let _ = reply.send(control.handle(request));
            }
            Ok(Message::Capture(request, stream)) => control.capture(&request, &stream),
            Ok(Message::Reload) => {
                if let Response::Error(error) = control.handle(Request::Reload) {
                    warn!("the configuration file was not reloaded: {error}");
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn listen(address: std::net::SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    listener.map_err(|error| {
        anyhow!("HTTP cannot listen on {address}: {error}; set switch.http_listen to another address, or take it out")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_files_as_may_be_can_be_open() {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: maximum.map(|most| most / 2), maximum }).unwrap();
        raise_file_limit();
        assert_eq!(getrlimit(Resource::Nofile).current, maximum);
    }
}
