//! Guest memory: mapping it, translating into it, and the only code that touches it.
//!
//! | file | |
//! |---|---|
//! | `map` | a guest's regions, and translation into them |
//! | `region` | one region, mapped |
//! | `bytes` | copying from and to guest memory |
//! | `ring` | rings' fields, by offset, and records in a row |
//! | `hints` | prefetches, the fence and the clock |
//! | `truncated` | what happens when a frontend truncates its memory file |
//!
//! This is the one place of the crate with `unsafe` in it, but for a signal's. What it promises to the rest:
//!
//! * a [`GuestSlice`], [`RingArea`] or [`RingArray`] lies wholly inside one mapping that stays mapped while the value lives;
//! * no Rust reference to guest memory is ever formed, but for atomics on aligned ring fields: bytes are copied
//!   through raw pointers, because the guest may write them at any moment;
//! * a frontend that truncates its memory file cannot kill the process: `SIGBUS` inside a mapping puts zeros there and marks
//!   the mapping, and the rings in it stop (see [`GuestMemory::is_truncated`]).

mod bytes;
mod hints;
mod map;
mod region;
mod ring;
mod truncated;

pub use self::bytes::{GuestSlice, Source};
pub(crate) use self::hints::{cpu_ns, cycles};
pub use self::hints::{fetch, fetch_to_write, full_fence};
pub use self::map::GuestMemory;
pub(crate) use self::map::Window;
pub use self::region::{MemoryError, MemorySlot};
pub use self::ring::RingWatch;
pub(crate) use self::ring::{RingArea, RingArray};

/// A pointer into this process's view of a guest's memory. It never leaves this module without a length.
#[derive(Debug, Clone, Copy)]
struct HostPtr(*mut u8);

// SAFETY: a HostPtr is an address in a shared mapping, not tied to a thread. Whoever holds one also holds, or borrows
// from, the Arc<Mapping> that keeps it mapped; concurrent access is through atomics or raw copies only.
unsafe impl Send for HostPtr {}
// SAFETY: as above; a HostPtr offers no interior mutability of its own.
unsafe impl Sync for HostPtr {}
