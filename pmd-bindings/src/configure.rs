//! From what is wanted of a port to a port that runs: negotiation first, on plain values, then DPDK's calls.

use std::sync::Arc;

use crate::error::{Error, check};
use crate::ethdev::{self, Claim, PortInfo};
use crate::ffi;
use crate::mempool::Mempool;
use crate::offload::{RxOffloads, TxOffloads};
use crate::port::{Port, PortInner};
use crate::queue::{RxQueue, TxQueue};

/// What is wanted of a port. Counts and offloads are wishes: the device's limits decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortConfig {
    /// RX queues.
    pub rx_queues: u16,
    /// TX queues.
    pub tx_queues: u16,
    /// Descriptors of each RX ring; `None` leaves it to the driver.
    pub rx_descriptors: Option<u16>,
    /// Descriptors of each TX ring; `None` leaves it to the driver.
    pub tx_descriptors: Option<u16>,
    /// The MTU to set on the device; `None` leaves the device's alone and reckons with 1500.
    pub mtu: Option<u16>,
    /// Receive frames for any MAC address.
    pub promiscuous: bool,
    /// Receive frames for any multicast address.
    pub all_multicast: bool,
    /// Let the device spread flows over the RX queues.
    pub rss: bool,
    /// RX offloads wanted.
    pub rx_offloads: RxOffloads,
    /// TX offloads wanted.
    pub tx_offloads: TxOffloads,
}

impl Default for PortConfig {
    /// One queue each way, promiscuous, and every offload that the device has.
    fn default() -> Self {
        Self {
            rx_queues: 1,
            tx_queues: 1,
            rx_descriptors: None,
            tx_descriptors: None,
            mtu: None,
            promiscuous: true,
            all_multicast: true,
            rss: true,
            // Only where the MTU asks for it: some drivers fall back to a slower receive path.
            rx_offloads: RxOffloads::all().difference(RxOffloads::SCATTER),
            tx_offloads: TxOffloads::all(),
        }
    }
}

/// What a port was configured with in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// RX queues there are.
    pub rx_queues: u16,
    /// TX queues there are.
    pub tx_queues: u16,
    /// Descriptors of each RX ring.
    pub rx_descriptors: u16,
    /// Descriptors of each TX ring.
    pub tx_descriptors: u16,
    /// RX offloads that are on.
    pub rx_offloads: RxOffloads,
    /// TX offloads that are on; packets that ask for another are refused by [`TxQueue::burst`].
    pub tx_offloads: TxOffloads,
    /// Whether the device spreads flows over the RX queues.
    pub rss: bool,
    /// The MTU.
    pub mtu: u16,
    /// Whether the port receives frames for any MAC address.
    pub promiscuous: bool,
    /// Whether the port receives frames for any multicast address.
    pub all_multicast: bool,
}

/// The MTU of Ethernet.
const DEFAULT_MTU: u16 = 1500;

/// These drivers open one socket for both directions of a queue and want as many RX as TX queues.
const PAIRED_DRIVERS: [&str; 1] = ["net_af_xdp"];

/// Brings wishes and capabilities together.
fn negotiate(name: &str, config: &PortConfig, info: &PortInfo, data_room: u16) -> Result<Negotiated, Error> {
    let (mut rx_queues, mut tx_queues) = (config.rx_queues, config.tx_queues);
    if rx_queues == 0 || tx_queues == 0 {
        return Err(Error::NoQueues { name: name.to_owned(), rx: rx_queues, tx: tx_queues });
    }
    if PAIRED_DRIVERS.contains(&info.driver.as_str()) {
        rx_queues = rx_queues.max(tx_queues);
        tx_queues = rx_queues;
    }
    let rx_queues = rx_queues.min(info.max_rx_queues);
    let tx_queues = tx_queues.min(info.max_tx_queues);

    let mtu = config.mtu.unwrap_or_else(|| DEFAULT_MTU.min(info.max_mtu).max(info.min_mtu));
    if mtu < info.min_mtu || mtu > info.max_mtu {
        return Err(Error::MtuOutOfRange {
            name: name.to_owned(),
            driver: info.driver.clone(),
            mtu,
            min: info.min_mtu,
            max: info.max_mtu,
        });
    }
    let rss = config.rss && info.rss && rx_queues > 1;
    let mut rx_offloads = config.rx_offloads & info.rx_offloads;
    if !rss {
        rx_offloads -= RxOffloads::RSS_HASH;
    }
    let frame = u32::from(mtu) + info.frame_overhead;
    if frame > u32::from(data_room) {
        // Drivers that say nothing about scattering split frames in software or deliver what fits; they report no
        // frame limit of their own either, and get to decide when the queue is set up.
        if info.rx_offloads.contains(RxOffloads::SCATTER) {
            rx_offloads |= RxOffloads::SCATTER;
        } else if config.mtu.is_some() {
            return Err(Error::DataRoom { name: name.to_owned(), mtu, needed: frame, data_room });
        }
    }
    Ok(Negotiated {
        rx_queues,
        tx_queues,
        rx_descriptors: info.rx_descriptors.fit(config.rx_descriptors),
        tx_descriptors: info.tx_descriptors.fit(config.tx_descriptors),
        rx_offloads,
        tx_offloads: config.tx_offloads & info.tx_offloads,
        rss,
        mtu,
        promiscuous: config.promiscuous,
        all_multicast: config.all_multicast,
    })
}

/// See [`EthDev::configure`](crate::EthDev::configure).
pub(crate) fn configure(
    claim: Claim,
    name: String,
    info: PortInfo,
    config: &PortConfig,
    pool: &Mempool,
) -> Result<(Port, Vec<RxQueue>, Vec<TxQueue>), Error> {
    let mut negotiated = negotiate(&name, config, &info, pool.data_room())?;
    let id = claim.id();
    apply(id, &name, &info, &negotiated)?;
    // From here on the device may hold mbufs: dropping `inner` on an early return closes the port.
    let mut inner = PortInner::new(claim, name, &info.driver, pool.clone(), negotiated.rx_queues);
    set_up_queues(id, inner.name(), &negotiated, pool)?;
    if config.mtu.is_some() {
        set_mtu(id, inner.name(), negotiated.mtu)?;
    }
    inner.start()?;
    if negotiated.rss && info.redirection_entries > 0 {
        // SAFETY: the port runs. A driver that does not let the table be written keeps its own, which is even too
        // wherever that is the case: the status does not matter.
        unsafe { ffi::pmd_spread_reta(id, info.redirection_entries, negotiated.rx_queues) };
    }
    let inner = Arc::new(inner);
    let mut port = Port::new(Arc::clone(&inner), info, negotiated.clone());
    negotiated.promiscuous = config.promiscuous && port.set_promiscuous(true).is_ok();
    negotiated.all_multicast = config.all_multicast && port.set_all_multicast(true).is_ok();
    port.settle(negotiated.clone());
    // What the RX rings left over would otherwise stay with a thread that never allocates again.
    pool.flush_cache();

    let segments = port.info().max_tx_segments;
    let rx = (0..negotiated.rx_queues).map(|queue| RxQueue::new(Arc::clone(&inner), queue)).collect();
    let tx = (0..negotiated.tx_queues)
        .map(|queue| TxQueue::new(Arc::clone(&inner), queue, negotiated.tx_offloads, segments))
        .collect();
    Ok((port, rx, tx))
}

fn apply(id: u16, name: &str, info: &PortInfo, negotiated: &Negotiated) -> Result<(), Error> {
    // SAFETY: integers, pointers and arrays of them, for all of which zero is a value, and DPDK's default.
    let mut raw: ffi::rte_eth_conf = unsafe { std::mem::zeroed() };
    raw.rxmode.mtu = negotiated.mtu.into();
    raw.rxmode.offloads = negotiated.rx_offloads.bits();
    raw.txmode.offloads = negotiated.tx_offloads.bits();
    raw.rxmode.mq_mode = ffi::PMD_MQ_RX_NONE;
    if negotiated.rss {
        raw.rxmode.mq_mode = ffi::PMD_MQ_RX_RSS;
        raw.rx_adv_conf.rss_conf.rss_hf = info.rss_types;
    }
    check("rte_eth_dev_configure", name, || {
        // SAFETY: the claim makes this the only user of the port; DPDK copies the configuration.
        unsafe { ffi::rte_eth_dev_configure(id, negotiated.rx_queues, negotiated.tx_queues, &raw) }
    })?;
    Ok(())
}

fn set_up_queues(id: u16, name: &str, negotiated: &Negotiated, pool: &Mempool) -> Result<(), Error> {
    let defaults = ethdev::device_info(id, name)?;
    // SAFETY: asks for the NUMA node of a port that exists.
    let socket = unsafe { ffi::rte_eth_dev_socket_id(id) } as u32;
    for queue in 0..negotiated.rx_queues {
        let mut raw = defaults.default_rxconf;
        raw.offloads = negotiated.rx_offloads.bits();
        check("rte_eth_rx_queue_setup", name, || {
            // SAFETY: the port is configured and stopped, and nobody else has it. The pool outlives the queue: the
            // PortInner that closes the port holds it.
            unsafe { ffi::rte_eth_rx_queue_setup(id, queue, negotiated.rx_descriptors, socket, &raw, pool.raw()) }
        })?;
    }
    for queue in 0..negotiated.tx_queues {
        let mut raw = defaults.default_txconf;
        raw.offloads = negotiated.tx_offloads.bits();
        check("rte_eth_tx_queue_setup", name, || {
            // SAFETY: as for the RX queues.
            unsafe { ffi::rte_eth_tx_queue_setup(id, queue, negotiated.tx_descriptors, socket, &raw) }
        })?;
    }
    Ok(())
}

/// Sets the MTU on the device. A driver without a call for it took the MTU with the configuration.
fn set_mtu(id: u16, name: &str, mtu: u16) -> Result<(), Error> {
    let set = check("rte_eth_dev_set_mtu", name, || {
        // SAFETY: the caller owns the port, which no other thread can use yet.
        unsafe { ffi::rte_eth_dev_set_mtu(id, mtu) }
    });
    match set {
        Err(Error::Dpdk(error)) if error.code == libc::ENOTSUP => Ok(()),
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ethdev::DescriptorLimits;

    fn info(driver: &str) -> PortInfo {
        let descriptors = DescriptorLimits { default: 512, min: 64, max: 4096, align: 1 };
        PortInfo {
            driver: driver.into(),
            mac: [0; 6],
            socket: None,
            max_rx_queues: 4,
            max_tx_queues: 4,
            rx_descriptors: descriptors,
            tx_descriptors: descriptors,
            rx_offloads: RxOffloads::TCP_CHECKSUM | RxOffloads::SCATTER | RxOffloads::RSS_HASH,
            tx_offloads: TxOffloads::TCP_CHECKSUM,
            max_tx_segments: 8,
            min_mtu: 68,
            max_mtu: 9000,
            frame_overhead: 18,
            rss: true,
            rss_types: ffi::PMD_RSS_TCP,
            redirection_entries: 128,
        }
    }

    #[test]
    fn wishes_end_at_the_devices_limits() {
        let config = PortConfig { rx_queues: 8, tx_queues: 2, ..PortConfig::default() };
        let got = negotiate("p", &config, &info("net_x"), 2048).unwrap();
        assert_eq!((got.rx_queues, got.tx_queues, got.mtu), (4, 2, 1500));
        assert_eq!(got.rx_offloads, RxOffloads::TCP_CHECKSUM | RxOffloads::RSS_HASH);
        assert_eq!(got.tx_offloads, TxOffloads::TCP_CHECKSUM);
        assert!(got.rss);
    }

    #[test]
    fn one_queue_needs_no_rss() {
        let got = negotiate("p", &PortConfig::default(), &info("net_x"), 2048).unwrap();
        assert!(!got.rss && !got.rx_offloads.contains(RxOffloads::RSS_HASH));
    }

    #[test]
    fn frames_larger_than_mbufs_are_scattered_or_refused() {
        let config = PortConfig { mtu: Some(9000), ..PortConfig::default() };
        let got = negotiate("p", &config, &info("net_x"), 2048).unwrap();
        assert!(got.rx_offloads.contains(RxOffloads::SCATTER));
        let mut rigid = info("net_x");
        rigid.rx_offloads = RxOffloads::empty();
        assert!(matches!(negotiate("p", &config, &rigid, 2048), Err(Error::DataRoom { needed: 9018, .. })));
        assert!(negotiate("p", &config, &rigid, 9018).is_ok());
    }

    #[test]
    fn impossible_wishes_are_errors() {
        let mtu = PortConfig { mtu: Some(9001), ..PortConfig::default() };
        assert!(matches!(negotiate("p", &mtu, &info("net_x"), 2048), Err(Error::MtuOutOfRange { max: 9000, .. })));
        let none = PortConfig { tx_queues: 0, ..PortConfig::default() };
        assert!(matches!(negotiate("p", &none, &info("net_x"), 2048), Err(Error::NoQueues { .. })));
    }

    #[test]
    fn paired_drivers_get_pairs() {
        let config = PortConfig { rx_queues: 1, tx_queues: 3, ..PortConfig::default() };
        let got = negotiate("p", &config, &info("net_af_xdp"), 2048).unwrap();
        assert_eq!((got.rx_queues, got.tx_queues), (3, 3));
    }
}
