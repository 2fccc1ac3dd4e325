//! Uplinks on the kernel's own interfaces: net_af_packet and net_af_xdp on a veth pair whose other end is in a
//! network namespace. Needs root; without it the tests report that they were skipped.

mod common;

use std::process::Command;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use common::{eal, pool, skip};
use pmd_bindings::{EthDev, Mbuf, PortConfig, RxOffloads, RxQueue};

/// A veth pair, the far end in a namespace of its own; both go when it is dropped.
struct Veth {
    near: String,
    namespace: String,
}

fn ip(arguments: &str) -> bool {
    Command::new("ip").args(arguments.split_whitespace()).status().is_ok_and(|status| status.success())
}

impl Veth {
    /// `None` where namespaces cannot be made.
    fn new(test: &str, tag: char) -> Option<Self> {
        let pid = std::process::id();
        let (near, namespace) = (format!("p{tag}{pid}"), format!("pmd-{tag}-{pid}"));
        if !ip(&format!("netns add {namespace}")) {
            skip(test, "network namespaces need root and iproute2");
            return None;
        }
        let veth = Self { near, namespace };
        let Self { near, namespace } = &veth;
        assert!(ip(&format!("link add {near} type veth peer name far netns {namespace}")));
        assert!(ip(&format!("link set {near} up")));
        assert!(ip(&format!("-n {namespace} link set lo up")));
        assert!(ip(&format!("-n {namespace} link set far address 02:00:00:00:00:02 up")));
        assert!(ip(&format!("-n {namespace} addr add 192.0.2.2/24 dev far")));
        Some(veth)
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        // The far end goes with its namespace, and the near end with the far one; the kernel may take its time.
        ip(&format!("link del {}", self.near));
        ip(&format!("netns del {}", self.namespace));
    }
}

const ARP_REQUEST: [u8; 42] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0, 0, 0, 0, 0x01, 0x08, 0x06, // Ethernet: to all, from 02::01, ARP
    0, 1, 0x08, 0, 6, 4, 0, 1, // a request
    0x02, 0, 0, 0, 0, 0x01, 192, 0, 2, 1, // from
    0, 0, 0, 0, 0, 0, 192, 0, 2, 2, // who has
];

/// Waits for the answer to [`ARP_REQUEST`] among whatever else a kernel sends.
fn arp_reply(rx: &mut [RxQueue]) -> bool {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut packets = ArrayVec::<Mbuf, 32>::new();
    while Instant::now() < deadline {
        for queue in &mut *rx {
            queue.burst(&mut packets);
            let found = packets.iter().any(|packet| {
                let data = packet.data();
                data.len() >= 42
                    && data[12..14] == [0x08, 0x06]
                    && data[20..22] == [0, 2]
                    && data[28..32] == [192, 0, 2, 2]
            });
            if found {
                return true;
            }
            packets.clear();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    false
}

/// Sends a request through the device's port and waits for the kernel at the other end to answer.
fn exchange(device: EthDev, mbufs: u32) {
    let name = device.name().to_owned();
    let pool = pool(&name, mbufs);
    let (port, mut rx, mut tx) = device.configure(&PortConfig::default(), &pool).unwrap();
    assert_eq!(port.negotiated().mtu, 1500);
    assert!(!port.negotiated().rx_offloads.contains(RxOffloads::TCP_CHECKSUM));
    let mut packets = ArrayVec::<Mbuf, 1>::new();
    assert!(pool.alloc_bulk(&mut packets));
    packets[0].append(ARP_REQUEST.len()).unwrap().copy_from_slice(&ARP_REQUEST);
    assert_eq!(tx[0].burst(&mut packets), 1);
    assert!(arp_reply(&mut rx), "no answer through {name}");
    let stats = port.stats().unwrap();
    assert!(stats.rx_packets >= 1 && stats.tx_packets >= 1, "{stats:?}");
    assert_ne!(port.mac().unwrap(), [0; 6]);
    drop((port, rx, tx));
    eal().unplug(&name).unwrap();
}

#[test]
fn af_packet_talks_to_the_kernel_at_the_other_end() {
    let Some(veth) = Veth::new("af_packet_talks_to_the_kernel_at_the_other_end", 'a') else { return };
    let device = eal().hotplug(&format!("net_af_packet1,iface={}", veth.near)).unwrap();
    assert_eq!((device.info().max_mtu, device.info().driver.as_str()), (1500, "net_af_packet"));
    exchange(device, 4096);
}

#[test]
fn af_xdp_talks_to_the_kernel_at_the_other_end() {
    let Some(veth) = Veth::new("af_xdp_talks_to_the_kernel_at_the_other_end", 'x') else { return };
    let device = eal().hotplug(&format!("net_af_xdp1,iface={}", veth.near)).unwrap();
    assert!((3000..4096).contains(&device.info().max_mtu), "a page less what precedes the frame in it");
    assert!(device.info().rx_offloads.is_empty() && device.info().tx_offloads.is_empty());
    assert!(device.info().mbufs_per_rx_queue(Some(64)) >= 2048, "its rings have a size of their own");
    exchange(device, 8192);
}

#[test]
fn the_mtu_reaches_the_interface() {
    let Some(veth) = Veth::new("the_mtu_reaches_the_interface", 'm') else { return };
    let pool = pool("mtu", 8192);
    let device = eal().hotplug(&format!("net_af_xdp2,iface={}", veth.near)).unwrap();
    let config = PortConfig { mtu: Some(1400), ..PortConfig::default() };
    let (mut port, rx, tx) = device.configure(&config, &pool).unwrap();
    let kernels = || std::fs::read_to_string(format!("/sys/class/net/{}/mtu", veth.near)).unwrap().trim().to_owned();
    assert_eq!((port.mtu().unwrap(), kernels().as_str()), (1400, "1400"));
    port.set_mtu(1450).unwrap();
    assert_eq!((port.negotiated().mtu, kernels().as_str()), (1450, "1450"));
    assert!(port.set_mtu(9000).is_err());
    drop((port, rx, tx));
    eal().unplug("net_af_xdp2").unwrap();
}
