//! The usual set-up of an end-to-end test: guests, a host outside, and the switch between them.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::guest::{GuestOptions, QemuGuest, SocketMode};
use crate::host::Host;
use crate::net::Outside;
use crate::rules::Machine;
use crate::switch::{PortKind, Status, SwitchConfig, SwitchProcess};
use crate::traffic::{self, OutsideServers};

/// The uplink's name in a lab's configuration.
pub const UPLINK: &str = "wan";

/// A set-up to be started.
#[derive(Debug)]
pub struct LabPlan {
    dir: TempDir,
    machine: Option<Machine>,
    config: SwitchConfig,
    guests: Vec<GuestOptions>,
    uplink: Option<String>,
    mtu: u32,
}

impl LabPlan {
    /// Nothing yet but the right to the machine.
    pub fn new() -> Result<Self> {
        Ok(Self { machine: Some(Machine::exclusive()?), ..Self::empty()? })
    }

    /// The same for somebody who has the machine already.
    pub fn on(_machine: &Machine) -> Result<Self> {
        Self::empty()
    }

    fn empty() -> Result<Self> {
        let dir = SwitchProcess::folder()?;
        let config = SwitchConfig::new(dir.path());
        Ok(Self { dir, machine: None, config, guests: Vec::new(), uplink: None, mtu: 1500 })
    }

    /// Changes the switch's configuration.
    #[must_use]
    pub fn configure(mut self, change: impl FnOnce(SwitchConfig) -> SwitchConfig) -> Self {
        self.config = change(self.config);
        self
    }

    /// Adds a guest, `vm1`, `vm2` and so on, changed from QEMU's defaults by `change`.
    #[must_use]
    pub fn guest(mut self, change: impl FnOnce(&mut GuestOptions)) -> Self {
        let number = self.guests.len() + 1;
        let name = format!("vm{number}");
        let mac = format!("52:54:00:5c:00:{number:02x}");
        let mut options = GuestOptions::new(&name, &self.config.socket(&name), &mac);
        change(&mut options);
        let mut lines = vec![format!("queue_pairs = {}", options.queue_pairs)];
        if let Some(mtu) = options.host_mtu {
            lines.push(format!("mtu = {mtu}"));
        }
        if options.socket_mode == SocketMode::Server {
            lines.push("socket_role = \"client\"".to_owned());
        }
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        self.config = self.config.guest(&name, &lines);
        self.guests.push(options);
        self
    }

    /// Adds a host outside, behind an uplink on this device; `{}` in it stands for the interface.
    #[must_use]
    pub fn outside(mut self, device: &str) -> Self {
        self.uplink = Some(device.to_owned());
        self
    }

    /// MTU of all hosts.
    #[must_use]
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = mtu;
        self
    }

    /// Starts everything and waits until every guest's rings are served.
    pub fn start(self) -> Result<Lab> {
        let Self { dir, machine, mut config, guests: options, uplink, mtu } = self;
        let outside = uplink.as_ref().map(|_| Outside::new(mtu)).transpose()?;
        if let (Some(device), Some(outside)) = (&uplink, &outside) {
            let device = device.replace("{}", outside.uplink_interface());
            config = config.uplink(UPLINK, &device, &[&format!("mtu = {mtu}")]);
        }
        let servers = outside.as_ref().map(|outside| OutsideServers::start(outside, dir.path())).transpose()?;
        let switch = SwitchProcess::start(&config)?;
        let guests = QemuGuest::start_all(&options).with_context(|| switch.log())?;
        let made_by_switch = |guest: &&GuestOptions| guest.socket_mode == SocketMode::Client;
        let switch_sockets = options.iter().filter(made_by_switch).map(|guest| guest.socket.clone()).collect();
        let lab = Lab { guests, switch, servers, outside, config, switch_sockets, _dir: dir, _machine: machine };
        lab.give_addresses(mtu)?;
        Ok(lab)
    }
}

/// Which Internet protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A running set-up. Hosts are numbered: the guests from 0, then the one outside.
#[derive(Debug)]
pub struct Lab {
    guests: Vec<QemuGuest>,
    switch: SwitchProcess,
    servers: Option<OutsideServers>,
    outside: Option<Outside>,
    config: SwitchConfig,
    /// Guests' sockets that the switch made, not QEMU.
    switch_sockets: Vec<PathBuf>,
    _dir: TempDir,
    _machine: Option<Machine>,
}

impl Lab {
    fn give_addresses(&self, mtu: u32) -> Result<()> {
        for (index, guest) in self.guests.iter().enumerate() {
            let [v4, v6] = [Family::V4, Family::V6].map(|family| self.address(index, family));
            guest.configure(&format!("{v4}/24"), &format!("{v6}/64"), mtu)?;
            self.switch().wait_for_port(guest.name(), "served rings", |port| port.state == "running")?;
        }
        if let Some(outside) = &self.outside {
            let [v4, v6] = [Family::V4, Family::V6].map(|family| self.address(self.guests.len(), family));
            outside.configure(&format!("{v4}/24"), &format!("{v6}/64"))?;
        }
        Ok(())
    }

    /// A host by its number.
    #[must_use]
    pub fn host(&self, number: usize) -> &dyn Host {
        match (self.guests.get(number), &self.outside) {
            (Some(guest), _) => guest,
            (None, Some(outside)) => outside,
            (None, None) => panic!("this lab has no host {number}"),
        }
    }

    /// A guest by its number.
    #[must_use]
    pub fn guest(&self, number: usize) -> &QemuGuest {
        &self.guests[number]
    }

    /// A host's address.
    #[must_use]
    pub fn address(&self, number: usize, family: Family) -> String {
        match family {
            Family::V4 => format!("10.9.0.{}", number + 1),
            Family::V6 => format!("fd09::{}", number + 1),
        }
    }

    /// The switch.
    #[must_use]
    pub fn switch(&self) -> &SwitchProcess {
        &self.switch
    }

    /// The switch's configuration.
    #[must_use]
    pub fn config(&self) -> &SwitchConfig {
        &self.config
    }

    /// Goes on with a switch that took over from the one before.
    pub fn take_over(&mut self, switch: SwitchProcess) {
        self.switch = switch;
    }

    /// Pings from one host to another.
    pub fn ping(&self, from: usize, to: usize, family: Family) -> Result<()> {
        traffic::ping(self.host(from), &self.address(to, family), 2).with_context(|| self.explain())
    }

    /// A transfer from one host to another, compared by SHA-256.
    pub fn transfer(&self, from: usize, to: usize, family: Family, mib: u32) -> Result<()> {
        traffic::transfer(self.host(from), &self.address(to, family), mib).with_context(|| self.explain())
    }

    /// What must hold after any traffic of well-behaved guests: every packet accounted for, no kick, no fault.
    pub fn check(&self) -> Result<Status> {
        let status = self.switch().quiet_status()?;
        for port in status.ports.iter().filter(|port| port.kind == PortKind::Guest) {
            let kicks = port.kicks_polling;
            ensure!(kicks == 0, "{} kicked {kicks} times while its core polled", port.name);
            ensure!(port.error.is_none(), "{}: {:?}", port.name, port.error);
        }
        Ok(status)
    }

    /// Ends the guests, then the switch, which must stop in time and leave nothing behind.
    pub fn stop(self) -> Result<()> {
        let Self { guests, switch, servers: _servers, outside: _outside, switch_sockets, .. } = self;
        drop(guests);
        switch.stop()?;
        for socket in switch_sockets {
            ensure!(!socket.exists(), "the switch left {} behind", socket.display());
        }
        Ok(())
    }

    /// The switch's view, for an error message.
    fn explain(&self) -> String {
        let status = self.switch.must(&["status"]).unwrap_or_else(|error| error.to_string());
        format!("the switch's status:\n{status}")
    }
}

/// Time in which a guest that lost its switch is served again: QEMU tries to reconnect every second.
pub const RECONNECT_LIMIT: Duration = Duration::from_secs(15);
