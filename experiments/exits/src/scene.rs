//! A switch with two ports, and a guest with a device at each of them.

use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use sidecore_tests::switch::{SwitchConfig, SwitchProcess};
use synthetic_guest::{Backing, CallMode, Features, GuestConfig, KickPolicy, QueuePair, RamConfig};
use tempfile::TempDir;

use crate::machine::Machine;
use crate::measure::{Mode, RingFormat, Row};
use crate::program::Guest;
use crate::vmm::{Vm, Wires};

/// Names of the ports.
const PORTS: [&str; 2] = ["a", "b"];

/// Guest-physical address of the first device's memory, and bytes from one to the next.
const RAM_BASE: u64 = 0x1_0000_0000;
const RAM_STEP: u64 = 0x4000_0000;

/// A running switch and a guest connected to it.
pub struct Scene {
    /// The guest's program.
    pub guest: Box<Guest>,
    /// What it runs on.
    pub machine: Machine,
    switch: SwitchProcess,
    _frontends: Vec<synthetic_guest::Guest>,
    _folder: TempDir,
}

impl Scene {
    /// Starts the switch on `switch_cpu` and connects the guest. `with_kvm`: in a virtual machine. It gives up after
    /// `patience` cycles without a packet.
    pub fn start(row: &Row, switch_cpu: usize, with_kvm: bool, patience: u64) -> Result<Scene> {
        let folder = SwitchProcess::folder()?;
        let mut config = SwitchConfig::new(folder.path()).on_cpus(vec![switch_cpu]).without_rebalancing();
        if row.mode != Mode::Poll {
            config = config.key(&format!("mode = \"{}\"", row.mode.name()));
        }
        config = PORTS.iter().fold(config, |config, name| config.guest(name, &[]));
        let switch = SwitchProcess::start(&config)?;
        let mut frontends = Vec::new();
        for (number, name) in PORTS.into_iter().enumerate() {
            let device = device(&config, name, number as u64, row);
            frontends.push(synthetic_guest::Guest::start(device).with_context(|| format!("port {name}"))?);
            let port = switch.wait_for_port(name, "served rings", |port| port.state == "running")?;
            let ring = port.negotiated.map(|negotiated| negotiated.ring).unwrap_or_default();
            ensure!(ring == row.ring.name(), "port {name} has {ring} rings");
        }
        let pairs: Vec<QueuePair> = frontends.iter_mut().flat_map(|frontend| frontend.take_pairs()).collect();
        let mut pairs = <[QueuePair; 2]>::try_from(pairs).map_err(|_| anyhow::anyhow!("a device has no queue pair"))?;
        let mut wires = Vec::new();
        for queue in pairs.iter_mut().flat_map(|pair| [pair.rx.bell(), pair.tx.bell()]) {
            let kick = queue.kick_fd().context("no kick eventfd")?.try_clone_to_owned()?;
            wires.push((kick, queue.call_fd().context("no call eventfd")?.try_clone_to_owned()?));
        }
        let guest = Box::new(Guest::new(pairs, row.interrupts, patience));
        let machine = if with_kvm {
            let rams: Vec<_> = frontends.iter().map(|frontend| frontend.ram()).collect();
            let wires: Vec<_> =
                wires.iter().map(|(kick, call)| Wires { kick: kick.as_fd(), call: call.as_fd() }).collect();
            Machine::Virtual(Box::new(Vm::new(&rams, &wires)?))
        } else {
            Machine::Thread
        };
        Ok(Scene { guest, machine, switch, _frontends: frontends, _folder: folder })
    }

    /// Halts the switch, or lets it go on.
    pub fn halt(&self, halted: bool) -> Result<()> {
        self.switch.signal(if halted { Signal::STOP } else { Signal::CONT })
    }

    /// Kicks and calls as the switch has counted them.
    pub fn switch_counts(&self) -> Result<(u64, u64)> {
        let status = self.switch.status()?;
        Ok(status.ports.iter().fold((0, 0), |(kicks, calls), port| (kicks + port.kicks, calls + port.calls)))
    }

    /// Ends the switch. It must have dropped nothing.
    pub fn stop(self) -> Result<()> {
        let status = self.switch.quiet_status()?;
        ensure!(status.accounting.dropped == 0, "the switch dropped packets: {:?}", status.ports);
        self.switch.stop()
    }
}

fn device(config: &SwitchConfig, name: &str, number: u64, row: &Row) -> GuestConfig {
    let mut device = GuestConfig::new(config.socket(name));
    device.session.features = Features::VERSION_1 | Features::EVENT_IDX;
    if row.ring == RingFormat::Packed {
        device.session.features = device.session.features | Features::RING_PACKED;
    }
    device.session.required = device.session.features;
    // The program kicks by itself: a store, not a write to an eventfd.
    device.kick_policy = KickPolicy::Never;
    device.calls = if row.interrupts { CallMode::Event } else { CallMode::Never };
    device.ram = RamConfig {
        region_size: device.memory_needed(),
        backing: Backing::Pages,
        guest_base: RAM_BASE + RAM_STEP * number,
        ..RamConfig::default()
    };
    device
}
