//! DPDK as owned Rust types: EAL, pools, packets, ports and their queues.
//!
//! The raw bindings are generated from the libdpdk that is installed (22.11 or newer) and stay private. What is
//! public upholds DPDK's rules by ownership:
//!
//! - [`Eal`] is started once; every pool, port and registered thread keeps it running.
//! - [`EthDev`] is the right to a port. Configuring it gives a [`Port`] for control and its [`RxQueue`]s and
//!   [`TxQueue`]s for packets. The port is stopped and closed when the last of them goes.
//! - A queue is [`Send`] and neither [`Sync`] nor [`Clone`]: one thread at a time polls it.
//! - An [`Mbuf`] is owned and goes back to its [`Mempool`] when dropped; the pool is never freed before that.
//!
//! ```no_run
//! use arrayvec::ArrayVec;
//! use pmd_bindings::{Eal, EalConfig, Mempool, PoolUsers, PortConfig, pool_size};
//!
//! # fn main() -> Result<(), pmd_bindings::Error> {
//! let eal = Eal::init(EalConfig { memory_mib: Some(128), ..EalConfig::default() })?;
//! let device = eal.hotplug("net_af_packet0,iface=eth0")?;
//! let users = PoolUsers {
//!     rx_ring_mbufs: device.info().mbufs_per_rx_queue(None),
//!     tx_ring_mbufs: device.info().mbufs_per_tx_queue(None),
//!     cores: 1,
//!     cache: 256,
//!     in_flight_per_core: 64,
//! };
//! let pool = Mempool::new(&eal, "packets", pool_size(&users), users.cache, 2048, None)?;
//! let (port, mut rx, mut tx) = device.configure(&PortConfig::default(), &pool)?;
//! println!("{}: {:?}", port.name(), port.negotiated());
//!
//! let mut packets = ArrayVec::<_, 32>::new();
//! loop {
//!     rx[0].burst(&mut packets);
//!     tx[0].burst(&mut packets);
//!     packets.clear(); // what found no room
//! }
//! # }
//! ```

mod configure;
mod eal;
mod error;
mod ethdev;
mod ffi;
mod flow;
mod log;
mod mbuf;
mod mempool;
mod offload;
mod port;
mod queue;
mod sizing;
mod thread;
mod time;

pub use configure::{Negotiated, PortConfig};
pub use eal::{Eal, EalConfig, Hugepages, PciDevices};
pub use error::{DpdkError, Error};
pub use ethdev::{DescriptorLimits, EthDev, PortInfo};
pub use flow::FlowRule;
pub use log::{LogCallback, LogLevel, LogOutput};
pub use mbuf::{Mbuf, Segments};
pub use mempool::{MAX_CACHE, Mempool};
pub use offload::{ChecksumState, Network, OffloadError, RxChecksum, RxOffloads, Transport, TxOffload, TxOffloads};
pub use port::{ExtendedStat, Link, Port, PortStats};
pub use queue::{RxQueue, TxQueue};
pub use sizing::{PoolUsers, pool_size};
pub use thread::ThreadRegistration;
pub use time::{tsc, tsc_hz};
