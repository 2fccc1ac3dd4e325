//! Ports that DPDK knows, before they are configured, and what their devices can do.

use std::ffi::{CStr, c_char};
use std::sync::Arc;

use crate::configure::{self, PortConfig};
use crate::eal::{Claims, Eal, Runtime};
use crate::error::{Error, c_string, check};
use crate::ffi;
use crate::mempool::Mempool;
use crate::offload::{RxOffloads, TxOffloads};
use crate::port::Port;
use crate::queue::{RxQueue, TxQueue};

/// A port nobody has configured yet. It belongs to its holder: a second one for the same port is an error, and a
/// dropped one leaves the port to others.
pub struct EthDev {
    claim: Claim,
    name: String,
    info: PortInfo,
}

impl std::fmt::Debug for EthDev {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EthDev").field("name", &self.name).field("info", &self.info).finish_non_exhaustive()
    }
}

impl EthDev {
    /// The port of that name: a virtual device's name (`net_ring0`, arguments ignored) or a PCI address.
    ///
    /// # Errors
    /// [`Error::NoSuchPort`] with the names there are, [`Error::PortInUse`].
    pub fn by_name(eal: &Eal, name: &str) -> Result<Self, Error> {
        let name = name.split(',').next().unwrap_or(name);
        let c_name = c_string("port name", name)?;
        let mut claims = eal.runtime.claims();
        let mut id = 0;
        // SAFETY: the name is terminated, and DPDK writes one port id on success.
        if unsafe { ffi::rte_eth_dev_get_port_by_name(c_name.as_ptr(), &mut id) } < 0 {
            return Err(Error::NoSuchPort { name: name.to_owned(), known: port_names() });
        }
        Self::claim(eal, &mut claims, id)
    }

    /// All ports that have no owner yet.
    ///
    /// # Errors
    /// DPDK's, when a device does not say what it can do.
    pub fn all(eal: &Eal) -> Result<Vec<Self>, Error> {
        let claimed: Vec<Result<Self, Error>> = {
            let mut claims = eal.runtime.claims();
            let free: Vec<u16> = port_ids().filter(|id| !claims.contains(*id)).collect();
            free.into_iter().map(|id| Self::claim(eal, &mut claims, id)).collect()
        };
        // Only now: after an error the others are dropped, which takes the lock again.
        claimed.into_iter().collect()
    }

    /// Takes a port. The caller holds the lock on the claims and has seen that the port exists.
    pub(crate) fn claim(eal: &Eal, claims: &mut Claims, id: u16) -> Result<Self, Error> {
        let name = port_name(id);
        if claims.contains(id) {
            return Err(Error::PortInUse { name });
        }
        let info = PortInfo::read(id, &name)?;
        claims.insert(id);
        Ok(Self { claim: Claim { runtime: Arc::clone(&eal.runtime), id, held: true }, name, info })
    }

    /// DPDK's name for the port.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the device can do.
    pub fn info(&self) -> &PortInfo {
        &self.info
    }

    /// Negotiates the configuration against what the device can do, sets up the queues and starts the port.
    /// [`Port::negotiated`] says what came out.
    ///
    /// # Errors
    /// What is wrong with the configuration: the port is then as it was. What DPDK refused: the port is then
    /// closed, and the device has to be unplugged and plugged in again before another attempt.
    pub fn configure(self, config: &PortConfig, pool: &Mempool) -> Result<(Port, Vec<RxQueue>, Vec<TxQueue>), Error> {
        configure::configure(self.claim, self.name, self.info, config, pool)
    }
}

/// The right to a port, given back when dropped.
pub(crate) struct Claim {
    runtime: Arc<Runtime>,
    id: u16,
    held: bool,
}

impl Claim {
    pub(crate) fn id(&self) -> u16 {
        self.id
    }

    /// Closes the port and gives up the right to it in one step: from the moment it is closed, DPDK may give its
    /// number to the next device.
    pub(crate) fn end(&mut self, close: impl FnOnce(u16)) {
        let mut claims = self.runtime.claims();
        close(self.id);
        claims.remove(self.id);
        self.held = false;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.held {
            self.runtime.claims().remove(self.id);
        }
    }
}

/// The sizes of descriptor ring a device takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DescriptorLimits {
    /// What the driver suggests.
    pub default: u16,
    /// The fewest.
    pub min: u16,
    /// The most.
    pub max: u16,
    /// The count must be a multiple of this.
    pub align: u16,
}

/// Ring size where neither caller nor driver has an opinion.
const DEFAULT_DESCRIPTORS: u16 = 1024;

impl DescriptorLimits {
    fn new(limits: &ffi::rte_eth_desc_lim, suggested: u16) -> Self {
        Self {
            default: if suggested == 0 { DEFAULT_DESCRIPTORS } else { suggested },
            min: limits.nb_min.max(1),
            max: if limits.nb_max == 0 { u16::MAX } else { limits.nb_max },
            align: limits.nb_align.max(1),
        }
    }

    /// The size a ring gets when `wanted` descriptors are asked for, or nothing in particular: at least as many
    /// where the device has them, and a power of two, which some drivers insist on without saying so.
    pub fn fit(&self, wanted: Option<u16>) -> u16 {
        let wanted = wanted.unwrap_or(self.default).clamp(self.min, self.max);
        let rounded = wanted.checked_next_power_of_two().filter(|size| *size <= self.max).unwrap_or(wanted);
        let aligned = rounded.checked_next_multiple_of(self.align).filter(|size| *size <= self.max);
        aligned.unwrap_or(self.max - self.max % self.align)
    }
}

/// What a device is and can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortInfo {
    /// The driver's name, such as `net_af_xdp`.
    pub driver: String,
    /// The MAC address, all zeros where there is none.
    pub mac: [u8; 6],
    /// NUMA node, if known.
    pub socket: Option<u32>,
    /// RX queues at most.
    pub max_rx_queues: u16,
    /// TX queues at most.
    pub max_tx_queues: u16,
    /// Sizes of RX rings.
    pub rx_descriptors: DescriptorLimits,
    /// Sizes of TX rings.
    pub tx_descriptors: DescriptorLimits,
    /// RX offloads the whole port can do, of those this crate knows.
    pub rx_offloads: RxOffloads,
    /// TX offloads the whole port can do, of those this crate knows.
    pub tx_offloads: TxOffloads,
    /// Segments a packet may have at most when sent, per the driver.
    pub max_tx_segments: u16,
    /// The smallest MTU.
    pub min_mtu: u16,
    /// The largest MTU.
    pub max_mtu: u16,
    /// What a frame has beyond its MTU, as the device counts it, in bytes.
    pub frame_overhead: u32,
    /// Whether the device itself can spread flows over RX queues.
    pub rss: bool,
    /// The flow types it can tell apart (`RTE_ETH_RSS_*`).
    pub(crate) rss_types: u64,
    /// Entries of the redirection table, 0 where there is none to write.
    pub(crate) redirection_entries: u16,
}

impl PortInfo {
    fn read(id: u16, name: &str) -> Result<Self, Error> {
        let raw = device_info(id, name)?;
        let (max_mtu, frame_overhead) = mtu_limits(raw.max_mtu, raw.max_rx_pktlen);
        let rss_types = raw.flow_type_rss_offloads & (ffi::PMD_RSS_IP | ffi::PMD_RSS_TCP | ffi::PMD_RSS_UDP);
        let segments = raw.tx_desc_lim.nb_seg_max;
        // SAFETY: reads the port's NUMA node; the port exists.
        let socket = unsafe { ffi::rte_eth_dev_socket_id(id) };
        // SAFETY: ethdev points driver_name at the driver's constant name, or leaves the null of the zeroed struct.
        let driver = unsafe { string_at(raw.driver_name) };
        Ok(Self {
            driver,
            mac: mac(id, name).unwrap_or_default(),
            socket: u32::try_from(socket).ok(),
            max_rx_queues: raw.max_rx_queues,
            max_tx_queues: raw.max_tx_queues,
            rx_descriptors: DescriptorLimits::new(&raw.rx_desc_lim, raw.default_rxportconf.ring_size),
            tx_descriptors: DescriptorLimits::new(&raw.tx_desc_lim, raw.default_txportconf.ring_size),
            rx_offloads: RxOffloads::from_bits_truncate(raw.rx_offload_capa),
            tx_offloads: TxOffloads::from_bits_truncate(raw.tx_offload_capa),
            max_tx_segments: if segments == 0 { u16::MAX } else { segments },
            min_mtu: raw.min_mtu,
            max_mtu,
            frame_overhead,
            rss: rss_types != 0,
            rss_types,
            redirection_entries: raw.reta_size,
        })
    }

    /// The mbufs an RX queue of `descriptors` holds at most: some drivers (net_af_xdp) fill rings of their own size
    /// whatever they are asked for. This is what a pool should reckon with.
    pub fn mbufs_per_rx_queue(&self, descriptors: Option<u16>) -> u32 {
        u32::from(self.rx_descriptors.fit(descriptors).max(self.rx_descriptors.default))
    }

    /// The mbufs a TX queue of `descriptors` holds at most, likewise.
    pub fn mbufs_per_tx_queue(&self, descriptors: Option<u16>) -> u32 {
        u32::from(self.tx_descriptors.fit(descriptors).max(self.tx_descriptors.default))
    }
}

/// The largest MTU and what a frame has beyond it, from what a driver reports; DPDK checks an MTU by the same rule:
/// a driver that gives no MTU limit of its own is taken to count an Ethernet header and a checksum.
fn mtu_limits(max_mtu: u16, max_frame: u32) -> (u16, u32) {
    if max_mtu != u16::MAX && max_frame > u32::from(max_mtu) {
        return (max_mtu, max_frame - u32::from(max_mtu));
    }
    let overhead = ffi::PMD_ETHER_OVERHEAD;
    let by_frame = u16::try_from(max_frame.saturating_sub(overhead)).unwrap_or(u16::MAX);
    (max_mtu.min(by_frame), overhead)
}

pub(crate) fn device_info(id: u16, name: &str) -> Result<ffi::rte_eth_dev_info, Error> {
    // SAFETY: integers, pointers and arrays of them, for all of which zero is a value.
    let mut raw: ffi::rte_eth_dev_info = unsafe { std::mem::zeroed() };
    check("rte_eth_dev_info_get", name, || {
        // SAFETY: DPDK checks the id and fills the structure.
        unsafe { ffi::rte_eth_dev_info_get(id, &mut raw) }
    })?;
    Ok(raw)
}

pub(crate) fn mac(id: u16, name: &str) -> Result<[u8; 6], Error> {
    let mut mac = [0; 6];
    check("rte_eth_macaddr_get", name, || {
        // SAFETY: DPDK checks the id; the shim writes six bytes.
        unsafe { ffi::pmd_mac(id, mac.as_mut_ptr()) }
    })?;
    Ok(mac)
}

/// The ports there are, without those that belong to another port (of a bond, for instance).
fn port_ids() -> impl Iterator<Item = u16> {
    let next = |from: u16| {
        // SAFETY: looks through DPDK's table of ports; any start is valid.
        let id = unsafe { ffi::rte_eth_find_next_owned_by(from, ffi::PMD_NO_OWNER) };
        u16::try_from(id).ok().filter(|id| u32::from(*id) < ffi::PMD_MAX_PORTS)
    };
    std::iter::successors(next(0), move |id| next(id + 1))
}

/// The names of all ports there are.
pub(crate) fn port_names() -> Vec<String> {
    port_ids().map(port_name).collect()
}

/// The ports that belong to the device of that name.
pub(crate) fn ports_of_device(device: &str) -> Vec<u16> {
    port_ids()
        .filter(|id| {
            let Ok(raw) = device_info(*id, device) else { return false };
            // SAFETY: the device of a port that exists, or null; the name of a device is part of it.
            !raw.device.is_null() && unsafe { string_at(ffi::rte_dev_name(raw.device)) } == device
        })
        .collect()
}

fn port_name(id: u16) -> String {
    let mut name = [0u8; ffi::PMD_NAME_LENGTH as usize];
    // SAFETY: the buffer has RTE_ETH_NAME_MAX_LEN bytes, which is what DPDK copies at most, terminator included.
    if unsafe { ffi::rte_eth_dev_get_name_by_port(id, name.as_mut_ptr().cast()) } < 0 {
        return format!("port {id}");
    }
    string_in(&name)
}

/// The text before the first NUL of a buffer.
pub(crate) fn string_in(buffer: &[u8]) -> String {
    let end = buffer.iter().position(|byte| *byte == 0).unwrap_or(buffer.len());
    String::from_utf8_lossy(&buffer[..end]).into_owned()
}

/// A copy of a C string, empty for a null pointer.
///
/// # Safety
/// The pointer is null or points to a terminated string that does not change meanwhile.
unsafe fn string_at(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not null, and a terminated string as the caller promises.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mtu_limits_follow_the_frame_length_where_the_driver_gives_no_mtu() {
        // net_af_packet: no MTU limit, 1518 byte frames. net_ring: no limit at all. net_af_xdp: both.
        assert_eq!(mtu_limits(u16::MAX, 1518), (1500, 18));
        assert_eq!(mtu_limits(u16::MAX, u32::MAX), (u16::MAX, 18));
        assert_eq!(mtu_limits(3520, 3534), (3520, 14));
    }

    #[test]
    fn rings_fit_the_device() {
        let limits = DescriptorLimits { default: 512, min: 64, max: 4096, align: 32 };
        assert_eq!(limits.fit(None), 512);
        assert_eq!(limits.fit(Some(1)), 64);
        assert_eq!(limits.fit(Some(1000)), 1024);
        assert_eq!(limits.fit(Some(u16::MAX)), 4096);
        let odd = DescriptorLimits { default: 512, min: 1, max: 1000, align: 8 };
        assert_eq!(odd.fit(Some(900)), 904);
        assert_eq!(odd.fit(Some(2000)), 1000);
    }
}
