//! A guest without a VM: the *frontend* of vhost-user and the *driver side* of virtio-net rings, split and packed, in
//! shared memory. Tests and generators drive any vhost-user backend with it, from one process, with as many guests and
//! queue pairs as they need.
//!
//! - [`Guest`] connects (or listens), negotiates, shares memory, starts rings, stops and resumes them.
//! - [`TxQueue`] and [`RxQueue`] are the data path: bursts, no allocation and no system call but the kick a device asks for.
//! - [`hostile`] writes what a well-behaved driver never would; [`Channel`] does the same for the socket.
//! - [`forwarder`] is the other side of the rings, for guests that need no switch between them.
//! - [`packet`] builds frames that carry flow, sequence number, time and checksum; [`verify`] counts what became of them.
//!
//! RX and TX are named from the guest's side, as virtio does: the guest transmits on TX.
//!
//! All `unsafe` is in `memory.rs`.

#![deny(unsafe_code)]

mod channel;
mod echo;
mod error;
mod features;
mod fifo;
pub mod forwarder;
mod guest;
pub mod hostile;
#[allow(unsafe_code)]
mod memory;
mod napi;
mod net_header;
mod notify;
mod packed;
pub mod packet;
mod received;
mod ring;
mod rx;
mod session;
mod short_stamp;
mod split;
mod tx;
pub mod verify;

pub use channel::{Channel, Reply};
pub use echo::Echoed;
pub use error::Error;
pub use features::Features;
pub use guest::{Base, Guest, GuestConfig, QueuePair};
pub use memory::{Backing, Ram, RamConfig, Region, Window};
pub use napi::Interrupts;
pub use net_header::{Gso, Offload};
pub use notify::{Bell, KickPolicy};
pub use packed::PackedRing;
pub use received::Received;
pub use ring::{CallMode, Indirect, Ring, RingOptions, Segment, Used};
pub use rx::{RxQueue, RxShape, RxStats};
pub use session::{Negotiated, Notify, Order, Role, Session, SessionConfig, VringSetup};
pub use short_stamp::{SHORT_STAMP_LEN, ShortStamp};
pub use split::SplitRing;
pub use tx::{Frame, Slot, TxQueue, TxShape, TxStats};
