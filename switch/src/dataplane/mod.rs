//! The data plane: I/O cores, the ports they serve, and what is between them.
//!
//! ```text
//! guest      a vhost-user session hands queue pairs over ─┐
//! device     a DPDK port's queues, one for each core ─────┤
//!                                                         ▼
//! uplink_queues  whose they are while a core is parked    │
//! steering   rules in the NICs, as the table says         │
//! fabric     starts, tells and asks ──mailbox──▶ io_core  polls what it owns, burst by burst
//!            publishes ports (the table)         forwarder   source check, VLAN, FDB, output
//!                                                rota        which idle rings, and when
//!                                                sleep       waiting without losing a wake-up
//!                                                uplink      mbufs out
//!                                                xcore       to and from the other cores
//!                                                handover    from core to core: a queue pair
//! accounting what each core counts ◀─────────────┘        waiting    how long work waits in a ring
//!                                                interval    the same, and who talks to whom, from tick to tick
//! trace      what would become of a packet
//! load       counters into what the scheduler is told
//! report     counters into a snapshot
//! capture    what passes a port, as a pcapng file
//! histogram  how long things take, by bounds
//! wake_latency  how long the CPUs of I/O cores may take to wake up
//! rig        cores without threads, for benches and tests
//! ```

mod accounting;
mod capture;
mod cpu_wait;
mod device;
mod eal;
mod error;
mod fabric;
mod forwarder;
mod guest;
mod handover;
mod held;
mod histogram;
mod interval;
mod io_core;
mod load;
#[cfg(test)]
mod loom_finding;
mod mailbox;
mod ports;
mod reply;
mod report;
mod rescue;
pub mod rig;
mod rota;
mod scheduling;
mod sleep;
mod steering;
mod trace;
mod turns;
mod uplink;
mod uplink_queues;
mod waiting;
mod wake_latency;
mod watch;
mod xcore;

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use config::Mode;
use pmd_bindings::Eal;
use scheduler::{Demand, IoCore};

use self::accounting::{SOURCES_MAX, SourceId};
use self::capture::Captures;
pub(crate) use self::capture::{CaptureError, Missed};
use self::device::Uplink;
pub(crate) use self::error::DataplaneError;
use self::fabric::Fabric;
use self::guest::{Guest, GuestQueue, Moved};
pub(crate) use self::histogram::{LATENCY_BOUNDS_US, PAUSE_BOUNDS_US};
use self::load::{Loads, queue_id};
use self::ports::{PORTS_MAX, PortEntry, Way};
use self::report::SourceTotals;
pub(crate) use self::scheduling::DECISIONS;
use self::scheduling::Scheduling;
pub(crate) use self::sleep::WakeCause;
use self::steering::Steering;
use self::turns::Share;
use self::uplink_queues::Uplinks;
use self::wake_latency::WakeLatency;
use crate::control::protocol::{CaptureRequest, MovedQueue};
use crate::forwarding::{MacAddr, PortId, PortKind, PortVlans, SourceCheck, VlanId, VlanSet};

/// What ending a guest's session may take: milliseconds, unless its frontend prevents it. Less than whoever asks for the status waits.
const SESSION_ENDS: Duration = Duration::from_secs(2);
/// The same for all sessions at once, of which there may be hundreds.
const ALL_SESSIONS_END: Duration = Duration::from_secs(10);

/// Everything between the sockets of guests and the devices of uplinks. Owned by the control thread.
pub(crate) struct Dataplane {
    captures: Captures,
    // Guests and uplinks first: sessions are told to end and devices close while the cores still run.
    guests: Vec<Guest>,
    uplinks: Vec<Uplink>,
    steering: Steering,
    uplink_queues: Arc<Uplinks>,
    fabric: Arc<Fabric>,
    loads: Arc<Loads>,
    pub(crate) scheduling: Scheduling,
    eal: Arc<Eal>,
    started: Instant,
    next_port: u16,
    learn_limit: u32,
    fdb_capacity: u32,
    /// What the counters of a source were when its present owner got it.
    baselines: Vec<SourceTotals>,
    // Last: when it is given back no core sleeps any more.
    wake_latency: WakeLatency,
}

impl Dataplane {
    /// Starts DPDK and the I/O cores, and has these wake up as soon as the configuration says. There are no ports yet.
    pub(crate) fn start(
        config: &config::SwitchConfig,
        scheduler: &config::SchedulerConfig,
    ) -> Result<Self, DataplaneError> {
        let wake_latency = WakeLatency::hold(config)?;
        let eal = Arc::new(eal::start(config)?);
        let fabric = Arc::new(Fabric::start(&eal, config)?);
        let loads = Arc::new(Loads::new(Arc::clone(&fabric)));
        let uplink_queues = Arc::new(Uplinks::new(Arc::clone(&fabric)));
        Ok(Self {
            captures: Captures::new(&fabric),
            guests: Vec::new(),
            uplinks: Vec::new(),
            scheduling: Scheduling::start(&fabric, &loads, &uplink_queues, &config.io_cores, scheduler)
                .map_err(DataplaneError::Scheduler)?,
            steering: Steering::start(&fabric).map_err(DataplaneError::Steering)?,
            uplink_queues,
            fabric,
            loads,
            eal,
            started: Instant::now(),
            next_port: 0,
            learn_limit: config.learn_limit_per_port,
            fdb_capacity: config.fdb_entries,
            baselines: vec![SourceTotals::default(); SOURCES_MAX],
            wake_latency,
        })
    }

    /// Adds a guest's port. Its socket is there when this returns.
    pub(crate) fn add_guest(&mut self, config: &config::GuestConfig) -> Result<(), DataplaneError> {
        self.check_name(config.name.as_str())?;
        let port = self.take_port()?;
        let own = Share::of(config, self.fabric.mode()).mode == Mode::Trap;
        let queues = if own { self.place_on_own(config)? } else { self.place(config, port)? };
        let check = match config.mac {
            Some(mac) if config.anti_spoof => SourceCheck::only(MacAddr(mac.octets())),
            _ => SourceCheck::ANY,
        };
        let vlans = port_vlans(&config.vlan);
        self.open_port(port, PortKind::Guest);
        let addresses = guest::addresses(config);
        self.fix_stations(port, addresses.iter().copied(), &config.vlan);
        self.steering.set_addresses(port, addresses);
        let entry = PortEntry { id: port, vlans, check, way: Way::Guest(Vec::new()) };
        self.fabric.change_table(|table| table.set(entry));
        let sources: Vec<SourceId> = queues.iter().map(|queue| queue.source).collect();
        let core = queues.first().map(GuestQueue::home).filter(|_| own);
        match Guest::start(config, port, Arc::clone(&self.fabric), queues) {
            Ok(guest) => {
                if !own {
                    self.loads.add(Arc::clone(&guest.host));
                }
                self.guests.push(guest);
                Ok(())
            }
            Err(error) => {
                self.close_port(port);
                sources.into_iter().for_each(|source| self.fabric.release_source(source));
                core.into_iter().for_each(|core| self.fabric.release_own(core));
                Err(error)
            }
        }
    }

    /// Makes addresses those of a port, in every VLAN that it names.
    fn fix_stations(&self, port: PortId, addresses: impl Iterator<Item = [u8; 6]>, vlan: &config::Vlan) {
        let vlans = vlan_ids(vlan);
        for mac in addresses.map(MacAddr) {
            for &vlan in &vlans {
                self.fabric.fix_station(vlan, mac, port);
            }
        }
    }

    /// Shows a guest that is there as its configuration says now. Only what is shown of it differs.
    pub(crate) fn show_guest(&mut self, config: &config::GuestConfig) {
        if let Some(guest) = self.guests.iter_mut().find(|guest| guest.config.name == config.name) {
            guest.config = config.clone();
        }
    }

    /// Removes a guest's port: its connection is closed, its socket gone.
    pub(crate) fn remove_guest(&mut self, name: &str) -> Result<(), DataplaneError> {
        let index = self
            .guests
            .iter()
            .position(|guest| guest.config.name.as_str() == name)
            .ok_or_else(|| DataplaneError::NoSuchPort { kind: "guest", name: name.to_owned() })?;
        let guest = self.guests.remove(index);
        self.captures.port_is_removed(guest.host.port, name);
        let host = guest.stop(Instant::now() + SESSION_ENDS);
        self.loads.remove(host.port);
        self.close_port(host.port);
        host.queues.iter().for_each(|queue| self.fabric.release_source(queue.source));
        if host.is_own() {
            host.queues.first().into_iter().for_each(|queue| self.fabric.release_own(queue.home()));
        }
        Ok(())
    }

    /// Moves queue pairs of a guest to another I/O core: one, or all of them.
    pub(crate) fn move_guest(
        &self,
        name: &str,
        queue: Option<u16>,
        to: usize,
    ) -> Result<Vec<MovedQueue>, DataplaneError> {
        let guest = self
            .guests
            .iter()
            .find(|guest| guest.config.name.as_str() == name)
            .ok_or_else(|| DataplaneError::NoSuchPort { kind: "guest", name: name.to_owned() })?;
        if to >= self.fabric.io_cores() {
            return Err(DataplaneError::NoSuchCore { core: to, cores: self.fabric.io_cores() });
        }
        if guest.host.is_own() {
            return Err(DataplaneError::OwnThread(name.to_owned()));
        }
        if let Some(core) = guest.config.io_core.filter(|core| *core != to) {
            return Err(DataplaneError::Pinned { name: name.to_owned(), core });
        }
        let queues = guest.host.queues.len();
        let chosen = match queue.map(usize::from) {
            Some(queue) if queue >= queues => {
                return Err(DataplaneError::NoSuchQueue { name: name.to_owned(), queue, queues });
            }
            Some(queue) => queue..queue + 1,
            None => 0..queues,
        };
        let mut moved = Vec::with_capacity(chosen.len());
        for queue in chosen {
            let Moved { from, to, pause } = guest.host.move_queue(queue, to).ok_or(DataplaneError::Stopping)?;
            let pause_us = pause.map(|cycles| cycles as f64 * 1e6 / pmd_bindings::tsc_hz() as f64);
            moved.push(MovedQueue { guest: name.to_owned(), queue, from, to, pause_us });
        }
        Ok(moved)
    }

    /// Adds an uplink.
    pub(crate) fn add_uplink(&mut self, config: &config::UplinkConfig) -> Result<(), DataplaneError> {
        self.check_name(config.name.as_str())?;
        let port = self.take_port()?;
        let (uplink, shares) = Uplink::start(&self.eal, &self.fabric, config, port)?;
        shares.iter().for_each(|share| self.baselines[share.source.index()] = self.totals(share.source));
        self.open_port(port, PortKind::Uplink);
        self.fix_stations(port, config.stations.iter().map(|station| station.octets()), &config.vlan);
        let entry = PortEntry {
            id: port,
            vlans: port_vlans(&config.vlan),
            check: SourceCheck::ANY,
            way: uplink_queues::ways(config::MAX_IO_CORES, uplink.host.queues.len()),
        };
        self.fabric.change_table(|table| table.set(entry));
        device::hand_out(&self.fabric, shares);
        self.uplink_queues.add(Arc::clone(&uplink.host));
        self.steering.add(Arc::clone(&uplink.steered));
        self.loads.add_uplink(Arc::clone(&uplink.steered));
        self.uplinks.push(uplink);
        Ok(())
    }

    /// Removes an uplink and unplugs its device.
    pub(crate) fn remove_uplink(&mut self, name: &str) -> Result<(), DataplaneError> {
        let index = self
            .uplinks
            .iter()
            .position(|uplink| uplink.config.name.as_str() == name)
            .ok_or_else(|| DataplaneError::NoSuchPort { kind: "uplink", name: name.to_owned() })?;
        let uplink = self.uplinks.remove(index);
        self.captures.port_is_removed(uplink.host.port, name);
        self.uplink_queues.remove(uplink.host.port);
        self.loads.remove_uplink(uplink.host.port);
        self.steering.remove(uplink.host.port);
        self.close_port(uplink.host.port);
        // The uplink is gone, whatever becomes of its device.
        if let Err(error) = uplink.stop(&self.eal) {
            tracing::warn!("{error}");
        }
        Ok(())
    }

    /// Begins a capture. From now on `stream` belongs to it.
    pub(crate) fn capture(&mut self, request: &CaptureRequest, stream: &UnixStream) -> Result<(), DataplaneError> {
        let guests = self.guests.iter().map(|guest| (guest.config.name.as_str(), "guest", guest.host.port));
        let uplinks = self.uplinks.iter().map(|uplink| (uplink.config.name.as_str(), "uplink", uplink.host.port));
        let all: Vec<_> = guests.chain(uplinks).collect();
        let known = |wanted: &String| {
            let found = all.iter().find(|(name, ..)| name == wanted);
            let named = |(name, kind, port): &(&str, &str, PortId)| (wanted.clone(), format!("{kind} {name}"), *port);
            found.map(named).ok_or_else(|| CaptureError::NoSuchPort(wanted.clone()))
        };
        let ports = request.ports.iter().map(known).collect::<Result<Vec<_>, _>>()?;
        Ok(self.captures.begin(request, ports, stream)?)
    }

    /// Takes over those settings that can change while the switch runs.
    pub(crate) fn set_switch(&mut self, config: &config::SwitchConfig) {
        let limits = fabric::limits(config);
        self.learn_limit = limits.learn_max;
        self.fabric.tune(limits);
    }

    /// Ends everything: sessions, devices, cores.
    pub(crate) fn stop(mut self) {
        // All sessions at once: each has to wait for the cores, and they need not do so one after the other.
        self.captures.stop();
        self.scheduling.stop();
        self.steering.stop();
        self.guests.iter().for_each(Guest::begin_stop);
        let deadline = Instant::now() + ALL_SESSIONS_END;
        for guest in self.guests.drain(..) {
            self.loads.remove(guest.host.port);
            guest.stop(deadline);
        }
        for uplink in self.uplinks.drain(..) {
            self.loads.remove_uplink(uplink.host.port);
            self.steering.remove(uplink.host.port);
            if let Err(error) = uplink.stop(&self.eal) {
                tracing::warn!("{error}");
            }
        }
        self.fabric.stop();
    }

    fn check_name(&self, name: &str) -> Result<(), DataplaneError> {
        let guests = self.guests.iter().map(|guest| &guest.config.name);
        let uplinks = self.uplinks.iter().map(|uplink| &uplink.config.name);
        if guests.chain(uplinks).any(|taken| taken.as_str() == name) {
            return Err(DataplaneError::NameTaken(name.to_owned()));
        }
        Ok(())
    }

    /// A port number that has not been in use for as long as possible: packets under way may still name an old one.
    fn take_port(&mut self) -> Result<PortId, DataplaneError> {
        let guests = self.guests.iter().map(|guest| guest.host.port);
        let taken: Vec<PortId> = guests.chain(self.uplinks.iter().map(|uplink| uplink.host.port)).collect();
        for offset in 0..PORTS_MAX as u16 {
            let port = PortId((self.next_port + offset) % PORTS_MAX as u16);
            if !taken.contains(&port) {
                self.next_port = (port.0 + 1) % PORTS_MAX as u16;
                return Ok(port);
            }
        }
        Err(DataplaneError::TooManyPorts(PORTS_MAX))
    }

    fn open_port(&self, port: PortId, kind: PortKind) {
        self.fabric.open_port(port, kind, self.learn_limit);
    }

    fn close_port(&self, port: PortId) {
        self.steering.set_addresses(port, Vec::new());
        self.fabric.close_port(port);
    }

    /// Sources for a guest's queue pairs, and an I/O thread of its own.
    fn place_on_own(&mut self, config: &config::GuestConfig) -> Result<Vec<GuestQueue>, DataplaneError> {
        let core = self.fabric.take_own()?;
        let queues = self.take_sources((0..config.queue_pairs).map(|_| core));
        queues.inspect_err(|_| self.fabric.release_own(core))
    }

    /// A source for each queue pair, which is to be on this core.
    fn take_sources(&mut self, cores: impl Iterator<Item = usize>) -> Result<Vec<GuestQueue>, DataplaneError> {
        let mut queues: Vec<GuestQueue> = Vec::new();
        for core in cores {
            let Some(source) = self.fabric.take_source() else {
                queues.iter().for_each(|queue| self.fabric.release_source(queue.source));
                return Err(DataplaneError::TooManyQueues(SOURCES_MAX));
            };
            self.baselines[source.index()] = self.totals(source);
            queues.push(GuestQueue::new(source, core));
        }
        Ok(queues)
    }

    /// Sources and cores for a guest's queue pairs.
    fn place(&mut self, config: &config::GuestConfig, port: PortId) -> Result<Vec<GuestQueue>, DataplaneError> {
        let pairs = usize::from(config.queue_pairs);
        let demands: Vec<Demand> = (0..pairs)
            .map(|queue| Demand { queue: queue_id(port, queue), pinned: config.io_core.map(IoCore) })
            .collect();
        let plan = self
            .scheduling
            .place(&demands)
            .map_err(|source| DataplaneError::Placement { name: config.name.as_str().to_owned(), source })?;
        for placement in &plan.placements {
            let (queue, core, reason) = (placement.queue, placement.core, &placement.reason);
            tracing::info!(guest = config.name.as_str(), "{queue} on {core}: {reason}");
        }
        self.take_sources(plan.placements.iter().map(|placement| placement.core.0))
    }
}

fn vlan_id(id: config::VlanId) -> VlanId {
    VlanId::new(id.get()).unwrap_or(VlanId::DEFAULT)
}

fn port_vlans(vlan: &config::Vlan) -> PortVlans {
    match vlan {
        config::Vlan::Access(id) => PortVlans::access(vlan_id(*id)),
        config::Vlan::Trunk { tagged, native } => {
            let tagged = match tagged {
                config::Tagged::All => VlanSet::all(),
                config::Tagged::Only(ids) => ids.iter().copied().map(vlan_id).collect(),
            };
            PortVlans::trunk(tagged, native.map(vlan_id))
        }
    }
}

/// The VLANs in which a configured address is known to be behind its port: those the port names.
fn vlan_ids(vlan: &config::Vlan) -> Vec<VlanId> {
    let tagged = match vlan {
        config::Vlan::Trunk { tagged: config::Tagged::Only(ids), .. } => ids.iter().copied().map(vlan_id).collect(),
        // A trunk of all VLANs would need 4,094 entries: there the address is learnt like any other.
        _ => Vec::new(),
    };
    vlan.untagged().map(vlan_id).into_iter().chain(tagged).collect()
}
