//! An uplink: a DPDK port, its queues spread over the I/O cores.

use std::sync::Arc;

use pmd_bindings::{Eal, EthDev, Mempool, PoolUsers, Port, PortConfig, RxOffloads, TxOffloads, pool_size};

use vm_ports::Features;

use super::accounting::{SOURCES_MAX, SourceId, UplinkCounters};
use super::error::DataplaneError;
use super::fabric::Fabric;
use super::mailbox::{Message, UplinkQueues, UplinkShare};
use super::steering::Steered;
use super::uplink::UplinkLimits;
use super::uplink_queues::{UplinkHost, UplinkQueue};
use crate::forwarding::PortId;

/// Bytes of an Ethernet header and one VLAN tag: what a frame has beyond its MTU.
const FRAME_OVERHEAD: usize = 14 + 4;
/// Mbufs each core's cache holds.
const POOL_CACHE: u32 = 256;
/// Mbufs a core holds outside of rings: a burst received, and frames staged to be sent.
const IN_HAND: u32 = 32 + 320;
/// Data room of mbufs for the standard MTU.
const DATA_ROOM: u16 = 2048;

/// A running uplink.
pub(super) struct Uplink {
    pub(super) config: config::UplinkConfig,
    pub(super) host: Arc<UplinkHost>,
    pub(super) device: Arc<Port>,
    pub(super) pool: Mempool,
    pub(super) steered: Arc<Steered>,
}

impl Uplink {
    /// Plugs the device in, configures it and gives each core its queue. The port table does not know of it yet.
    pub(super) fn start(
        eal: &Eal,
        fabric: &Arc<Fabric>,
        config: &config::UplinkConfig,
        port: PortId,
    ) -> Result<(Self, Vec<UplinkShare>), DataplaneError> {
        let devargs = config.device.to_string();
        let device = eal.hotplug(&devargs).map_err(|source| failed(config, source))?;
        let configured = configure(eal, device, fabric.io_cores(), config, port);
        let (device, pool, pairs) =
            configured.inspect_err(|_| drop(eal.unplug(&devargs))).map_err(|source| failed(config, source))?;
        let sources: Vec<SourceId> = pairs.iter().map_while(|_| fabric.take_source()).collect();
        if sources.len() < pairs.len() {
            sources.into_iter().for_each(|source| fabric.release_source(source));
            drop((device, pairs, pool));
            drop(eal.unplug(&devargs));
            return Err(DataplaneError::TooManyQueues(SOURCES_MAX));
        }
        let limits = limits(&device);
        let mut queues = Vec::new();
        let mut shares = Vec::new();
        for (core, (source, pair)) in sources.into_iter().zip(pairs).enumerate() {
            let counters = Arc::new(UplinkCounters::default());
            queues.push(UplinkQueue::new(source, Arc::clone(&counters), core));
            shares.push(UplinkShare { port, source, queues: pair, pool: pool.clone(), limits, counters });
        }
        let host = Arc::new(UplinkHost::new(port, Arc::clone(fabric), queues));
        let device = Arc::new(device);
        let steered = Arc::new(Steered::new(config.name.as_str(), &host, &device));
        Ok((Self { config: config.clone(), host, device, pool, steered }, shares))
    }

    /// Takes the queues from the cores and unplugs the device. The port table does not know it any more, and it is not steered.
    pub(super) fn stop(self, eal: &Eal) -> Result<(), DataplaneError> {
        let Self { config, host, device, pool, .. } = self;
        host.take_away();
        drop((device, pool));
        let kept = |source| DataplaneError::Unplug { name: config.name.as_str().to_owned(), source: Box::new(source) };
        eal.unplug(&config.device.to_string()).map_err(kept)
    }
}

fn failed(config: &config::UplinkConfig, source: pmd_bindings::Error) -> DataplaneError {
    DataplaneError::Uplink { name: config.name.as_str().to_owned(), source: Box::new(source) }
}

/// Gives each core its part.
pub(super) fn hand_out(fabric: &Fabric, shares: Vec<UplinkShare>) {
    for (core, share) in shares.into_iter().enumerate() {
        fabric.tell(core, Message::AttachUplink(Box::new(share)));
    }
}

/// What came out of the negotiation with the device, as a queue needs it.
pub(super) fn limits(device: &Port) -> UplinkLimits {
    let negotiated = device.negotiated();
    let has = |offloads| negotiated.tx_offloads.contains(offloads);
    let mut accepts = Features::NONE;
    // The two go together: a packet says that it needs a checksum, not whose.
    if has(TxOffloads::TCP_CHECKSUM | TxOffloads::UDP_CHECKSUM) {
        accepts = accepts.with(Features::GUEST_CSUM);
    }
    // A packet to be segmented is longer than one mbuf. Its IPv4 header checksum goes with it.
    let segments = TxOffloads::TCP_SEGMENTATION | TxOffloads::TCP_CHECKSUM | TxOffloads::MULTI_SEGMENT;
    if accepts.has(Features::GUEST_CSUM) && has(segments | TxOffloads::IPV4_CHECKSUM) {
        accepts = accepts.with(Features::GUEST_TSO4);
    }
    if accepts.has(Features::GUEST_CSUM) && has(segments) {
        accepts = accepts.with(Features::GUEST_TSO6).with(Features::GUEST_ECN);
    }
    let pieces_max = if has(TxOffloads::MULTI_SEGMENT) { usize::from(device.info().max_tx_segments) } else { 1 };
    UplinkLimits { frame_max: usize::from(negotiated.mtu) + FRAME_OVERHEAD, accepts, pieces_max }
}

/// One queue pair for each core, or as many as there can be.
pub(super) fn configure(
    eal: &Eal,
    device: EthDev,
    cores: usize,
    config: &config::UplinkConfig,
    port: PortId,
) -> Result<(Port, Mempool, Vec<UplinkQueues>), pmd_bindings::Error> {
    let info = device.info();
    let cores = u16::try_from(cores).unwrap_or(u16::MAX);
    let wanted = config.queues.unwrap_or(cores).min(cores).min(info.max_rx_queues).min(info.max_tx_queues).max(1);
    let users = PoolUsers {
        rx_ring_mbufs: u32::from(wanted) * info.mbufs_per_rx_queue(None),
        tx_ring_mbufs: u32::from(wanted) * info.mbufs_per_tx_queue(None),
        cores: cores.into(),
        cache: POOL_CACHE,
        in_flight_per_core: IN_HAND,
    };
    let mtu = usize::from(config.mtu.unwrap_or(1500));
    let data_room = u16::try_from(mtu + FRAME_OVERHEAD).unwrap_or(u16::MAX).max(DATA_ROOM);
    let pool = Mempool::new(eal, &format!("uplink-{}", port.0), pool_size(&users), POOL_CACHE, data_room, info.socket)?;
    let wishes = PortConfig {
        rx_queues: wanted,
        tx_queues: wanted,
        mtu: config.mtu,
        promiscuous: true,
        all_multicast: true,
        rss: wanted > 1,
        rx_offloads: RxOffloads::all().difference(RxOffloads::SCATTER),
        tx_offloads: TxOffloads::all(),
        ..PortConfig::default()
    };
    let (port, rx, tx) = device.configure(&wishes, &pool)?;
    let pairs = rx.into_iter().zip(tx).map(|(rx, tx)| UplinkQueues { rx, tx }).collect();
    Ok((port, pool, pairs))
}
