//! Virtual machines' network ports: a vhost-user backend whose virtqueues are polled.
//!
//! A [`session`] speaks the vhost-user protocol with one frontend and turns what it learns into [`QueuePair`]s: values that own
//! their rings and a reference to the guest's memory. Whoever holds a queue pair — an I/O core of the switch — pulls packets from
//! [`TxQueue`]s as [`Burst`]s and pushes them into [`RxQueue`]s. Nothing here knows where a packet goes.
//!
//! Everything a guest or a frontend writes is hostile: each field is read once, checked, and used from the local copy.

#![deny(unsafe_code)]

#[cfg(not(target_endian = "little"))]
compile_error!("the fields of rings are little-endian, and are loaded and stored as they are");

mod address;
mod call;
mod counters;
mod egress;
mod features;
#[allow(unsafe_code, reason = "a signal handler and a signal to one thread")]
mod interrupt;
mod kick;
#[allow(unsafe_code, reason = "the one module that touches mapped guest memory")]
mod memory;
mod moderation;
mod net_header;
pub mod offload;
mod packed;
mod packet;
mod queue;
mod ring;
mod rx;
pub mod session;
mod split;
mod tx;

pub use address::{FrontendAddr, GuestPhysAddr};
pub use counters::{Counter, QueueCounters, RingFault, RxCounters, RxDrop, TxCounters, TxDrop};
pub use egress::{FrameSink, deliver};
pub use features::Features;
pub use interrupt::{interrupt, join};
pub use kick::KickFd;
pub use memory::{
    GuestMemory, GuestSlice, MemoryError, MemorySlot, RingWatch, Source, fetch, fetch_to_write, full_fence as fence,
};
pub use moderation::{FIXED_BATCH, Moderation};
pub use net_header::{Gso, NET_HEADER_MAX, Offload};
pub use packet::{
    BURST_BYTES, BURST_PACKETS, Burst, BurstBuffer, ETHERNET_BYTES, FRAME_MAX, FRAME_MIN, Packet, Run, SHORT_MAX, View,
};
pub use queue::QueuePair;
pub use ring::{RingError, RingSetup};
pub use rx::RxQueue;
pub use tx::{Pulled, TxQueue};
