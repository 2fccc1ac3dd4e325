//! What no driver should write: arbitrary descriptors, indices, event structures. Everything goes straight into the
//! shared memory of a live ring, behind the back of its [`Ring`](crate::Ring), whose own bookkeeping is then void: use a
//! guest that is given up afterwards, or reset with [`Guest::reconnect`](crate::Guest::reconnect) and
//! [`Base::Fresh`](crate::Base::Fresh).
//!
//! More weapons elsewhere: [`Ram::truncate`](crate::Ram::truncate), [`Guest::disconnect`](crate::Guest::disconnect) and
//! the raw messages of [`Channel`](crate::Channel).

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::memory::{Ram, Window};
use crate::ring::Ring;
use crate::split::{DESC, tail, write_descriptor};
use crate::{Error, packed};

/// The descriptor continues in another one.
pub const NEXT: u16 = 1;
/// The device writes to the buffer.
pub const WRITE: u16 = 2;
/// The buffer is a table of descriptors.
pub const INDIRECT: u16 = 4;
/// Packed rings: the avail bit.
pub const AVAIL: u16 = 1 << 7;
/// Packed rings: the used bit.
pub const USED: u16 = 1 << 15;

/// A descriptor of a split ring or table, every field at will.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SplitDescriptor {
    /// Guest-physical address.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
    /// Flags.
    pub flags: u16,
    /// Next descriptor.
    pub next: u16,
}

/// A descriptor of a packed ring or table, every field at will.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackedDescriptor {
    /// Guest-physical address.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
    /// Buffer id.
    pub id: u16,
    /// Flags, avail and used bits included.
    pub flags: u16,
}

impl SplitDescriptor {
    /// As it stands in memory.
    pub fn to_bytes(self) -> [u8; DESC] {
        descriptor_bytes(self.addr, tail(self.len, self.flags, self.next))
    }
}

impl PackedDescriptor {
    /// As it stands in memory.
    pub fn to_bytes(self) -> [u8; DESC] {
        descriptor_bytes(self.addr, packed::tail(self.len, self.id, self.flags))
    }
}

fn descriptor_bytes(addr: u64, tail: u64) -> [u8; DESC] {
    let mut bytes = [0; DESC];
    bytes[..8].copy_from_slice(&addr.to_le_bytes());
    bytes[8..].copy_from_slice(&tail.to_le_bytes());
    bytes
}

/// Raw access to the three parts of a ring. Lives as long as it likes: it keeps the memory mapped.
pub struct RawRing {
    /// Descriptor table or packed ring.
    pub descriptors: Window,
    /// Avail ring or driver event structure.
    pub driver: Window,
    /// Used ring or device event structure.
    pub device: Window,
    size: u16,
}

impl RawRing {
    /// Raw access to `ring`.
    pub fn of(ring: &Ring) -> RawRing {
        let [descriptors, driver, device] = ring.parts().map(Window::clone);
        RawRing { descriptors, driver, device, size: ring.size() }
    }

    /// Ring entries.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Split: overwrites descriptor `index`.
    pub fn set_split(&self, index: u16, descriptor: SplitDescriptor) {
        let SplitDescriptor { addr, len, flags, next } = descriptor;
        write_descriptor(&self.descriptors, index, addr, len, flags, next);
    }

    /// Split: overwrites avail ring entry `slot` with `head`.
    pub fn set_avail_entry(&self, slot: u16, head: u16) {
        self.driver.store_u16(4 + 2 * usize::from(slot), head, Relaxed);
    }

    /// Split: moves the avail index to `index`.
    pub fn set_avail_index(&self, index: u16) {
        self.driver.store_u16(2, index, Release);
    }

    /// Split: the avail index as it stands.
    pub fn avail_index(&self) -> u16 {
        self.driver.load_u16(2, Relaxed)
    }

    /// Split: the used index as it stands.
    pub fn used_index(&self) -> u16 {
        self.device.load_u16(2, Acquire)
    }

    /// Split: overwrites the used index, which is the device's.
    pub fn set_used_index(&self, index: u16) {
        self.device.store_u16(2, index, Release);
    }

    /// Split: used entry `slot`: (id, length).
    pub fn used_entry(&self, slot: u16) -> (u32, u32) {
        let at = 4 + 8 * usize::from(slot);
        (self.device.load_u32(at, Relaxed), self.device.load_u32(at + 4, Relaxed))
    }

    /// Split: overwrites the avail flags.
    pub fn set_avail_flags(&self, flags: u16) {
        self.driver.store_u16(0, flags, Relaxed);
    }

    /// Split: overwrites used_event.
    pub fn set_used_event(&self, event: u16) {
        self.driver.store_u16(4 + 2 * usize::from(self.size), event, Relaxed);
    }

    /// Split: the device's wishes: (used flags, avail_event).
    pub fn split_device_wishes(&self) -> (u16, u16) {
        (self.device.load_u16(0, Relaxed), self.device.load_u16(4 + 8 * usize::from(self.size), Relaxed))
    }

    /// Packed: overwrites descriptor `index`, flags last.
    pub fn set_packed(&self, index: u16, descriptor: PackedDescriptor) {
        let at = usize::from(index) * DESC;
        self.descriptors.store_u64(at, descriptor.addr, Relaxed);
        self.descriptors.store_u32(at + 8, descriptor.len, Relaxed);
        self.descriptors.store_u16(at + 12, descriptor.id, Relaxed);
        self.descriptors.store_u16(at + 14, descriptor.flags, Release);
    }

    /// Packed: descriptor `index` as it stands.
    pub fn packed(&self, index: u16) -> PackedDescriptor {
        let at = usize::from(index) * DESC;
        PackedDescriptor {
            flags: self.descriptors.load_u16(at + 14, Acquire),
            addr: self.descriptors.load_u64(at, Relaxed),
            len: self.descriptors.load_u32(at + 8, Relaxed),
            id: self.descriptors.load_u16(at + 12, Relaxed),
        }
    }

    /// Packed: overwrites the driver's event structure.
    pub fn set_driver_event(&self, off_wrap: u16, flags: u16) {
        self.driver.store_u32(0, u32::from(off_wrap) | u32::from(flags) << 16, Relaxed);
    }

    /// Packed: overwrites the device's event structure.
    pub fn set_device_event(&self, off_wrap: u16, flags: u16) {
        self.device.store_u32(0, u32::from(off_wrap) | u32::from(flags) << 16, Relaxed);
    }

    /// Packed: the device's wishes: (off_wrap, flags).
    pub fn device_event(&self) -> (u16, u16) {
        let event = self.device.load_u32(0, Relaxed);
        (event as u16, (event >> 16) as u16)
    }
}

/// Writes `bytes` at guest-physical `addr`: an indirect table, a frame, anything.
pub fn poke(ram: &Ram, addr: u64, bytes: &[u8]) -> Result<(), Error> {
    ram.window(addr, bytes.len())?.write(0, bytes);
    Ok(())
}

/// Reads guest memory at guest-physical `addr`.
pub fn peek(ram: &Ram, addr: u64, bytes: &mut [u8]) -> Result<(), Error> {
    ram.window(addr, bytes.len())?.read(0, bytes);
    Ok(())
}
