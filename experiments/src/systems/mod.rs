//! The systems that are compared, each as a value that is started for a row and gone when dropped.

mod capture;
mod ovs;
mod sidecore;
mod testpmd;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use sidecore_tests::process::eventually;

use crate::ringgen;
use crate::threads::{self, Thread};
use crate::work::{Row, Work};

const FORWARDING_DEADLINE: Duration = Duration::from_secs(10);

/// A system in one of the ways it can be set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Sidecore.
    Sidecore,
    /// OVS-DPDK with one flow for each direction.
    OvsDirect,
    /// OVS-DPDK as a learning switch.
    OvsNormal,
    /// testpmd, which passes packets on as they are.
    TestpmdIo,
    /// testpmd, which writes new MAC addresses.
    TestpmdMac,
}

impl Kind {
    /// The systems of the default run, in the order of their turns.
    pub const DEFAULT: [Self; 3] = [Self::Sidecore, Self::OvsDirect, Self::TestpmdIo];

    /// The systems of the full run.
    pub const FULL: [Self; 5] = [Self::Sidecore, Self::OvsDirect, Self::OvsNormal, Self::TestpmdIo, Self::TestpmdMac];

    /// Whether it can do this work. Packets that net_null delivers to OVS are all zeros: addressed to where they come from,
    /// for a switch that learns.
    #[must_use]
    pub fn can(self, work: Work) -> bool {
        !(self == Self::OvsNormal && work == Work::NicToGuest)
    }

    /// Whether its NIC delivers the very buffers that guests' packets were copied to before: OVS has a pool for each port.
    #[must_use]
    pub fn shares_buffers(self) -> bool {
        !matches!(self, Self::OvsDirect | Self::OvsNormal)
    }

    /// Its name in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sidecore => "sidecore",
            Self::OvsDirect => "ovs-direct",
            Self::OvsNormal => "ovs-normal",
            Self::TestpmdIo => "testpmd-io",
            Self::TestpmdMac => "testpmd-mac",
        }
    }

    /// Its name in tables.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Sidecore => "Sidecore",
            Self::OvsDirect => "OVS-DPDK, direct flow",
            Self::OvsNormal => "OVS-DPDK, NORMAL",
            Self::TestpmdIo => "testpmd io",
            Self::TestpmdMac => "testpmd mac",
        }
    }

    /// MiB of hugepages it is given.
    #[must_use]
    pub fn memory_mib(self) -> u64 {
        match self {
            Self::Sidecore => 192,
            Self::OvsDirect | Self::OvsNormal => u64::from(ovs::MEMORY_MIB),
            Self::TestpmdIo | Self::TestpmdMac => u64::from(testpmd::MEMORY_MIB),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// OVS's daemon that is linked with DPDK.
#[must_use]
pub fn ovs_daemon() -> &'static str {
    ovs::DAEMON
}

/// Whom packets are for that go to a NIC or come from it.
pub const NIC_MAC: &str = "02:5c:fe:00:00:01";

/// The first guest's VLAN, where each has one of its own.
const FIRST_VLAN: u32 = 10;

/// What a system is set up for: the same for all.
#[derive(Debug, Clone)]
pub struct Setup<'a> {
    /// The row.
    pub row: &'a Row,
    /// Whether packet buffers are on hugepages.
    pub hugepages: bool,
    /// The CPU that forwards.
    pub switch_cpu: usize,
    /// The CPU of everything else.
    pub other_cpu: usize,
    /// A folder of the system's own, with a short path.
    pub folder: &'a Path,
}

impl Setup<'_> {
    /// Where a guest's socket is, unless the system has its own opinion.
    fn socket(&self, guest: u32) -> PathBuf {
        self.folder.join(format!("vm{guest}.sock"))
    }

    fn sockets(&self) -> Vec<String> {
        (0..self.row.guests).map(|guest| self.socket(guest).display().to_string()).collect()
    }

    /// The guest's NIC of infinite speed, if the row has any: one for each guest. Sizes on the wire have an FCS that packet buffers lack.
    fn nic(&self, guest: u32) -> Option<String> {
        let bytes = self.row.size - 4;
        match self.row.work {
            Work::NicToGuest => Some(format!("net_null{guest},size={bytes}")),
            // One that delivers nothing: its packets would take the core's time.
            Work::GuestToNic => Some(format!("net_null{guest},size={bytes},no-rx=1")),
            // What comes back would end up in net_null's buffers, and go round once more.
            Work::NicEcho => Some(format!("net_pcap{guest},rx_pcap={},infinite_rx=1", self.capture(guest).display())),
            _ => None,
        }
    }

    /// The VLAN that a guest has with its NIC for itself, in a switch that looks at addresses: all NICs' packets have the same. None where there is
    /// nobody to be kept apart.
    fn vlan(&self, guest: u32) -> Option<u32> {
        (self.row.work.has_nic() && self.row.guests > 1).then_some(FIRST_VLAN + guest)
    }

    /// Packets for a guest, which its NIC delivers again and again.
    fn capture(&self, guest: u32) -> PathBuf {
        self.folder.join(format!("nic{guest}.pcap"))
    }

    fn is_tso(&self) -> bool {
        self.row.work == Work::Tso
    }

    fn taskset(&self) -> String {
        format!("taskset -c {}", self.other_cpu)
    }
}

/// A running system.
trait System {
    /// All its processes; the first has the thread that forwards.
    fn processes(&mut self) -> Vec<u32>;

    /// An error with the end of its log, if one of its processes has ended.
    fn ensure_running(&mut self) -> Result<()>;

    /// The end of its logs.
    fn tail(&mut self) -> String;

    /// Packets that all NICs were given.
    fn nic_sent(&mut self) -> Result<u64>;

    /// The NICs deliver packets for [`NIC_MAC`] from now on: they are for the guest that each belongs to.
    fn turn_round(&mut self) -> Result<()> {
        Ok(())
    }
}

/// A system, its guests' sockets, and how it was started.
type Start = (Box<dyn System>, Vec<String>, Vec<String>);

/// A system that was started, and is halted whenever it is not its turn.
pub struct Contender {
    system: Box<dyn System>,
    /// The guests' sockets, as the generator is told them.
    pub sockets: Vec<String>,
    /// How it was started, for the report.
    pub commands: Vec<String>,
    forwarding: Thread,
    /// When it was let run, and the CPU time that its forwarding thread had had by then.
    since: Option<(Instant, Duration)>,
    cpu: f64,
}

impl Contender {
    /// Starts a system for a row. It is halted afterwards.
    pub fn start(kind: Kind, setup: &Setup) -> Result<Self> {
        if setup.row.work == Work::NicEcho {
            for guest in 0..setup.row.guests {
                let to = ringgen::guest_mac(guest as usize);
                let frame = capture::frame(&to, NIC_MAC, setup.row.size as usize - 4)?;
                std::fs::write(setup.capture(guest), capture::file(&frame, 64))?;
            }
        }
        let (mut system, sockets, commands) = match kind {
            Kind::Sidecore => sidecore::start(setup)?,
            Kind::OvsDirect | Kind::OvsNormal => ovs::start(kind, setup)?,
            Kind::TestpmdIo | Kind::TestpmdMac => testpmd::start(kind, setup)?,
        };
        let folder = setup.folder.display().to_string();
        let commands = commands.into_iter().map(|command| command.replace(&folder, "$DIR")).collect();
        let main = system.processes()[0];
        let mut last = None;
        let forwarding = eventually("thread that forwards", FORWARDING_DEADLINE, || {
            system.ensure_running()?;
            let found = threads::of_process(main).and_then(|all| threads::forwarding(&all, setup.switch_cpu));
            Ok(found.map_err(|error| last = Some(error)).ok())
        })
        .with_context(|| last.map_or_else(String::new, |error| error.to_string()))?;
        for process in system.processes() {
            threads::give_way(&threads::of_process(process)?, &forwarding)?;
        }
        let mut me = Self { system, sockets, commands, forwarding, since: None, cpu: 0.0 };
        me.halt()?;
        Ok(me)
    }

    /// The process and the thread that forwards.
    pub fn member(&mut self) -> (u32, u32) {
        (self.system.processes()[0], self.forwarding.id)
    }

    /// Lets it run.
    pub fn resume(&mut self) -> Result<()> {
        self.signal(Signal::CONT)?;
        self.since = Some((Instant::now(), self.cpu_time()?));
        Ok(())
    }

    /// Halts all of it.
    pub fn halt(&mut self) -> Result<()> {
        if let Some((start, before)) = self.since.take() {
            let had = self.cpu_time()?.saturating_sub(before);
            self.cpu = (had.as_secs_f64() / start.elapsed().as_secs_f64()).min(1.0);
        }
        self.signal(Signal::STOP)
    }

    /// The share of a CPU that its forwarding thread had when it ran last.
    #[must_use]
    pub fn cpu(&self) -> f64 {
        self.cpu
    }

    fn cpu_time(&mut self) -> Result<Duration> {
        let (process, thread) = self.member();
        threads::cpu_time(process, thread)
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        self.system.ensure_running()?;
        self.system.processes().into_iter().try_for_each(|process| threads::signal_process(process, signal))
    }

    /// Packets that all NICs were given. It has to run.
    pub fn nic_sent(&mut self) -> Result<u64> {
        self.system.nic_sent()
    }

    /// The NICs deliver packets for [`NIC_MAC`] from now on: they are for the guest that each belongs to. It has to run.
    pub fn turn_round(&mut self) -> Result<()> {
        self.system.turn_round()
    }

    /// The end of its logs.
    pub fn tail(&mut self) -> String {
        self.system.tail()
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        // A halted process would not end when it is asked to.
        for process in self.system.processes() {
            let _ = threads::signal_process(process, Signal::CONT);
        }
    }
}
