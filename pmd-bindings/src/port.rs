//! A running port: everything but its packets.

use std::ffi::c_int;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::configure::Negotiated;
use crate::error::{Error, check};
use crate::ethdev::{self, Claim, PortInfo};
use crate::ffi;
use crate::flow::FlowRule;
use crate::log::{self, LogLevel};
use crate::mempool::Mempool;
use crate::queue;

/// A port that runs. Its queues work without it and keep the port running: it is stopped and closed when this and
/// all of them are gone.
pub struct Port {
    inner: Arc<PortInner>,
    info: PortInfo,
    negotiated: Negotiated,
}

impl std::fmt::Debug for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Port")
            .field("name", &self.inner.name)
            .field("info", &self.info)
            .field("negotiated", &self.negotiated)
            .finish_non_exhaustive()
    }
}

/// The state of a port's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Whether there is one.
    pub up: bool,
    /// Its speed in Mbit/s, where the device knows.
    pub speed_mbps: Option<u32>,
    /// Whether both sides may send at once.
    pub full_duplex: bool,
    /// Whether speed and duplex were negotiated.
    pub autonegotiated: bool,
}

/// A port's counters, as the driver keeps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets the device dropped because no RX queue had room.
    pub rx_missed: u64,
    /// Packets received with errors.
    pub rx_errors: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Mbufs that could not be had for receiving.
    pub rx_no_mbuf: u64,
}

/// One of a driver's own counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtendedStat {
    /// The driver's name for it.
    pub name: String,
    /// Its value.
    pub value: u64,
}

/// DPDK's number for a link whose speed is not known.
const SPEED_UNKNOWN: u32 = u32::MAX;

impl Port {
    pub(crate) fn new(inner: Arc<PortInner>, info: PortInfo, negotiated: Negotiated) -> Self {
        Self { inner, info, negotiated }
    }

    pub(crate) fn settle(&mut self, negotiated: Negotiated) {
        self.negotiated = negotiated;
    }

    /// DPDK's name for the port.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// What the device can do.
    pub fn info(&self) -> &PortInfo {
        &self.info
    }

    /// What the port was configured with.
    pub fn negotiated(&self) -> &Negotiated {
        &self.negotiated
    }

    /// The link's state, without waiting for it to settle.
    ///
    /// # Errors
    /// DPDK's.
    pub fn link(&self) -> Result<Link, Error> {
        let mut raw = ffi::pmd_link { speed_mbps: 0, full_duplex: 0, autonegotiated: 0, up: 0 };
        self.control("rte_eth_link_get_nowait", |id| {
            // SAFETY: the port runs and the lock is held, see `control`; the shim fills the structure.
            unsafe { ffi::pmd_link_get(id, &mut raw) }
        })?;
        let known = raw.speed_mbps != 0 && raw.speed_mbps != SPEED_UNKNOWN;
        Ok(Link {
            up: raw.up != 0,
            speed_mbps: known.then_some(raw.speed_mbps),
            full_duplex: raw.full_duplex != 0,
            autonegotiated: raw.autonegotiated != 0,
        })
    }

    /// The port's counters.
    ///
    /// # Errors
    /// DPDK's.
    pub fn stats(&self) -> Result<PortStats, Error> {
        // SAFETY: a structure of integers, for which zero is a value.
        let mut raw: ffi::rte_eth_stats = unsafe { std::mem::zeroed() };
        self.control("rte_eth_stats_get", |id| {
            // SAFETY: the port runs and the lock is held, see `control`; DPDK fills the structure.
            unsafe { ffi::rte_eth_stats_get(id, &mut raw) }
        })?;
        Ok(PortStats {
            rx_packets: raw.ipackets,
            tx_packets: raw.opackets,
            rx_bytes: raw.ibytes,
            tx_bytes: raw.obytes,
            rx_missed: raw.imissed,
            rx_errors: raw.ierrors,
            tx_errors: raw.oerrors,
            rx_no_mbuf: raw.rx_nombuf,
        })
    }

    /// Sets the port's counters back to zero.
    ///
    /// # Errors
    /// DPDK's.
    pub fn reset_stats(&self) -> Result<(), Error> {
        // SAFETY: the port runs and the lock is held, see `control`.
        self.control("rte_eth_stats_reset", |id| unsafe { ffi::rte_eth_stats_reset(id) }).map(drop)
    }

    /// The driver's own counters.
    ///
    /// # Errors
    /// DPDK's.
    pub fn xstats(&self) -> Result<Vec<ExtendedStat>, Error> {
        let names = self.xstat_names()?;
        // SAFETY: a structure of integers, for which zero is a value.
        let mut values: Vec<ffi::rte_eth_xstat> = vec![unsafe { std::mem::zeroed() }; names.len()];
        let room = values.len() as u32;
        let count = self.control("rte_eth_xstats_get", |id| {
            // SAFETY: the port runs and the lock is held, see `control`; there is room for `room` values.
            unsafe { ffi::rte_eth_xstats_get(id, values.as_mut_ptr(), room) }
        })?;
        // More than there is room for means that none were written: a driver that changed its mind.
        values.truncate(if count as u32 > room { 0 } else { count as usize });
        let stat = |value: &ffi::rte_eth_xstat| {
            let name = names.get(usize::try_from(value.id).ok()?)?.clone();
            Some(ExtendedStat { name, value: value.value })
        };
        Ok(values.iter().filter_map(stat).collect())
    }

    fn xstat_names(&self) -> Result<Vec<String>, Error> {
        let call = "rte_eth_xstats_get_names";
        let count = self.control(call, |id| {
            // SAFETY: the port runs and the lock is held, see `control`; without room DPDK only counts.
            unsafe { ffi::rte_eth_xstats_get_names(id, std::ptr::null_mut(), 0) }
        })?;
        // SAFETY: an array of characters, for which zero is a value.
        let mut names: Vec<ffi::rte_eth_xstat_name> = vec![unsafe { std::mem::zeroed() }; count as usize];
        let room = names.len() as u32;
        let count = self.control(call, |id| {
            // SAFETY: as above; there is room for `room` names.
            unsafe { ffi::rte_eth_xstats_get_names(id, names.as_mut_ptr(), room) }
        })?;
        names.truncate(if count as u32 > room { 0 } else { count as usize });
        Ok(names.iter().map(|raw| ethdev::string_in(&raw.name.map(|byte| byte as u8))).collect())
    }

    /// The port's MAC address.
    ///
    /// # Errors
    /// DPDK's.
    pub fn mac(&self) -> Result<[u8; 6], Error> {
        let _lock = self.inner.lock();
        ethdev::mac(self.inner.id(), &self.inner.name)
    }

    /// The MTU.
    ///
    /// # Errors
    /// DPDK's.
    pub fn mtu(&self) -> Result<u16, Error> {
        let mut mtu = 0;
        self.control("rte_eth_dev_get_mtu", |id| {
            // SAFETY: the port runs and the lock is held, see `control`; DPDK writes one integer.
            unsafe { ffi::rte_eth_dev_get_mtu(id, &mut mtu) }
        })?;
        Ok(mtu)
    }

    /// Changes the MTU. Many drivers refuse that while the port runs, and a larger MTU may need larger mbufs:
    /// [`PortConfig::mtu`](crate::PortConfig::mtu) is the surer way.
    ///
    /// # Errors
    /// [`Error::MtuOutOfRange`], [`Error::DataRoom`], or DPDK's.
    pub fn set_mtu(&mut self, mtu: u16) -> Result<(), Error> {
        let (name, info) = (&self.inner.name, &self.info);
        if mtu < info.min_mtu || mtu > info.max_mtu {
            let (driver, min, max) = (info.driver.clone(), info.min_mtu, info.max_mtu);
            return Err(Error::MtuOutOfRange { name: name.clone(), driver, mtu, min, max });
        }
        let needed = u32::from(mtu) + info.frame_overhead;
        let data_room = self.inner.pool.data_room();
        let scattered = self.negotiated.rx_offloads.contains(crate::RxOffloads::SCATTER);
        if needed > u32::from(data_room) && !scattered {
            return Err(Error::DataRoom { name: name.clone(), mtu, needed, data_room });
        }
        self.control("rte_eth_dev_set_mtu", |id| {
            // SAFETY: the port runs and the lock is held, see `control`.
            unsafe { ffi::rte_eth_dev_set_mtu(id, mtu) }
        })?;
        self.negotiated.mtu = mtu;
        Ok(())
    }

    /// Receives frames for any MAC address, or for the port's own only.
    ///
    /// # Errors
    /// DPDK's: not every device can.
    pub fn set_promiscuous(&mut self, on: bool) -> Result<(), Error> {
        if on {
            // SAFETY: the port runs and the lock is held, see `control`.
            self.control("rte_eth_promiscuous_enable", |id| unsafe { ffi::rte_eth_promiscuous_enable(id) })?;
        } else {
            // SAFETY: as above.
            self.control("rte_eth_promiscuous_disable", |id| unsafe { ffi::rte_eth_promiscuous_disable(id) })?;
        }
        self.negotiated.promiscuous = on;
        Ok(())
    }

    /// Receives frames for any multicast address, or for joined groups only.
    ///
    /// # Errors
    /// DPDK's: not every device can.
    pub fn set_all_multicast(&mut self, on: bool) -> Result<(), Error> {
        if on {
            // SAFETY: the port runs and the lock is held, see `control`.
            self.control("rte_eth_allmulticast_enable", |id| unsafe { ffi::rte_eth_allmulticast_enable(id) })?;
        } else {
            // SAFETY: as above.
            self.control("rte_eth_allmulticast_disable", |id| unsafe { ffi::rte_eth_allmulticast_disable(id) })?;
        }
        self.negotiated.all_multicast = on;
        Ok(())
    }

    /// Whether the driver would take [this](Self::steer) rule.
    ///
    /// # Errors
    /// DPDK's, where it would not.
    pub fn can_steer(&self, mac: [u8; 6], queue: u16) -> Result<(), Error> {
        FlowRule::validate(&self.inner, mac, queue)
    }

    /// Has packets for one Ethernet address received by one RX queue, whatever RSS says, if the driver can: it is asked first.
    ///
    /// # Errors
    /// DPDK's: most virtual devices cannot, and a NIC has room for so many rules.
    pub fn steer(&self, mac: [u8; 6], queue: u16) -> Result<FlowRule, Error> {
        FlowRule::create(&self.inner, mac, queue)
    }

    /// Runs a control call with the port's id. ethdev's control functions are not thread-safe on one port, and a
    /// `Port` may be shared: the lock makes it so. The port runs as long as `inner` lives.
    fn control(&self, call: &'static str, run: impl FnOnce(u16) -> c_int) -> Result<c_int, Error> {
        let _lock = self.inner.lock();
        check(call, &self.inner.name, || run(self.inner.id()))
    }
}

/// These drivers lose the packets that wait in their rings when they are closed: the pool would miss them for ever.
const FORGETFUL_DRIVERS: [&str; 1] = ["net_ring"];

/// What a port and its queues share: it closes the port when the last of them goes.
pub(crate) struct PortInner {
    name: String,
    /// The pool the RX queues fill their rings from: the fields drop after the port is closed.
    pool: Mempool,
    rx_queues: u16,
    /// Whether the driver is one of [`FORGETFUL_DRIVERS`].
    forgetful: bool,
    started: bool,
    control: Mutex<()>,
    claim: Claim,
}

impl PortInner {
    /// For a port that is configured and not started.
    pub(crate) fn new(claim: Claim, name: String, driver: &str, pool: Mempool, rx_queues: u16) -> Self {
        let forgetful = FORGETFUL_DRIVERS.contains(&driver);
        Self { name, pool, rx_queues, forgetful, started: false, control: Mutex::new(()), claim }
    }

    pub(crate) fn start(&mut self) -> Result<(), Error> {
        check("rte_eth_dev_start", &self.name, || {
            // SAFETY: all queues are set up, and nobody else has the port yet.
            unsafe { ffi::rte_eth_dev_start(self.claim.id()) }
        })?;
        self.started = true;
        Ok(())
    }

    pub(crate) fn id(&self) -> u16 {
        self.claim.id()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, ()> {
        // It guards DPDK's state, not ours: a panic in between leaves nothing of ours half done.
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PortInner {
    fn drop(&mut self) {
        let id = self.claim.id();
        if self.started {
            let drained = if self.forgetful { self.rx_queues } else { 0 };
            for queue in 0..drained {
                // SAFETY: the port runs, and all RxQueues are gone: nobody else receives from it.
                unsafe { queue::drain(id, queue) };
            }
            // SAFETY: the last owner of the port; no queue is in use.
            report(check("rte_eth_dev_stop", &self.name, || unsafe { ffi::rte_eth_dev_stop(id) }));
        }
        let name = &self.name;
        self.claim.end(|id| {
            // SAFETY: as above. The pool is still alive for the mbufs that the driver gives back now.
            report(check("rte_eth_dev_close", name, || unsafe { ffi::rte_eth_dev_close(id) }));
        });
        self.pool.flush_cache();
    }
}

pub(crate) fn report(result: Result<c_int, Error>) {
    if let Err(error) = result {
        log::emit(LogLevel::Warning, &error.to_string());
    }
}
