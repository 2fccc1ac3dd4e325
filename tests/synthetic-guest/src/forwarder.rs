//! The device's side of two rings, in the simplest form there is: what one guest sends, another one receives, with one
//! copy and nothing in between. It is the yardstick of a generator's own speed, and, with something in between, a switch
//! that loses, duplicates, swaps or spoils packets for tests.
//!
//! It trusts its guests: chains of one descriptor, rings that never ask for notifications, frames that fit into one
//! buffer.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::memory::{Ram, Table, Window};
use crate::packed::tail;
use crate::ring::Ring;
use crate::split::DESC;
use crate::{Error, QueuePair};

const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;
const WRITE: u16 = 2;
/// Offset of num_buffers in a virtio-net header that has it.
const NUM_BUFFERS: usize = 10;

/// A buffer that the driver has made available.
#[derive(Clone, Copy, Debug)]
struct Buffer {
    id: u16,
    /// Offset in the guest's memory.
    at: usize,
    len: usize,
}

/// The device's side of one ring.
struct Device {
    descriptors: Table<DESC, 8>,
    driver: Window,
    device: Window,
    /// Entries of a split ring.
    avail_entries: Table<2, 2>,
    used_entries: Table<8, 4>,
    memory: Window,
    packed: bool,
    // Words, not half words: neighbours would be read together, and wait for each other's stores.
    size: u32,
    /// Position of the next buffer to take; with a packed ring, below the size.
    next: u32,
    /// Avail index last seen (split).
    seen: u32,
    /// Position of the next used entry.
    used: u32,
    next_wrap: bool,
    used_wrap: bool,
    /// Position and flags of the first used descriptor that is not published yet (packed).
    held: Option<(u32, u16)>,
    published: u32,
}

impl Device {
    fn new(ram: &Ram, ring: &mut Ring) -> Result<Device, Error> {
        let region = &ram.regions()[0];
        let packed = matches!(ring, Ring::Packed(_));
        let [descriptors, driver, device] = ring.parts().map(Window::clone);
        if packed {
            // DISABLE: no kicks.
            device.store_u32(0, 1 << 16, Relaxed);
        } else {
            // NO_NOTIFY. (With EVENT_IDX the driver looks elsewhere, and kicks now and then into the void.)
            device.store_u16(0, 1, Relaxed);
        }
        let memory = ram.window(region.guest, region.size as usize)?;
        let entries = if packed { 0 } else { usize::from(ring.size()) };
        let offset = if packed { 0 } else { 4 };
        Ok(Device {
            descriptors: descriptors.table(0, usize::from(ring.size())),
            avail_entries: driver.table(offset, entries),
            used_entries: device.table(offset, entries),
            driver,
            device,
            memory,
            packed,
            size: u32::from(ring.size()),
            next: 0,
            seen: 0,
            used: 0,
            next_wrap: true,
            used_wrap: true,
            held: None,
            published: 0,
        })
    }

    #[inline]
    fn peek(&mut self) -> Option<Buffer> {
        let index = if self.packed {
            // Pairs with the driver's release store of the flags: the rest of the descriptor is then visible.
            let flags = self.descriptors.load_u16::<14>(self.next as usize, Acquire);
            if (flags & AVAIL != 0) != self.next_wrap || (flags & USED != 0) == self.next_wrap {
                return None;
            }
            self.next as usize
        } else {
            if self.next == self.seen {
                // Pairs with the driver's release store of the avail index.
                self.seen = u32::from(self.driver.load_u16(2, Acquire));
                if self.next == self.seen {
                    return None;
                }
            }
            usize::from(self.avail_entries.load_u16::<0>((self.next & (self.size - 1)) as usize, Relaxed))
        };
        let addr = self.descriptors.load_u64::<0>(index, Relaxed);
        let len = self.descriptors.load_u32::<8>(index, Relaxed) as usize;
        let id = if self.packed { self.descriptors.load_u16::<12>(index, Relaxed) } else { index as u16 };
        Some(Buffer { id, at: (addr - self.memory.guest()) as usize, len })
    }

    #[inline]
    fn advance(&mut self) {
        self.next += 1;
        if !self.packed {
            self.next &= 0xffff;
        } else if self.next == self.size {
            (self.next, self.next_wrap) = (0, !self.next_wrap);
        }
    }

    #[inline]
    fn give_back(&mut self, id: u16, written: usize) {
        if !self.packed {
            let slot = (self.used & (self.size - 1)) as usize;
            self.used_entries.store_u32::<0>(slot, u32::from(id), Relaxed);
            self.used_entries.store_u32::<4>(slot, written as u32, Relaxed);
            self.used = (self.used + 1) & 0xffff;
            return;
        }
        let at = self.used as usize;
        let flags = if self.used_wrap { AVAIL | USED } else { 0 } | if written > 0 { WRITE } else { 0 };
        match self.held {
            None => {
                self.descriptors.store_u32::<8>(at, written as u32, Relaxed);
                self.descriptors.store_u16::<12>(at, id, Relaxed);
                self.held = Some((self.used, flags));
            }
            Some(_) => self.descriptors.store_u64::<8>(at, tail(written as u32, id, flags), Relaxed),
        }
        self.used += 1;
        if self.used == self.size {
            (self.used, self.used_wrap) = (0, !self.used_wrap);
        }
    }

    /// Shows what was given back, with one release store.
    #[inline]
    fn publish(&mut self) {
        if let Some((index, flags)) = self.held.take() {
            self.descriptors.store_u16::<14>(index as usize, flags, Release);
        } else if !self.packed && self.published != self.used {
            self.published = self.used;
            self.device.store_u16(2, self.used as u16, Release);
        }
    }
}

/// Moves packets from one guest's transmit ring into another one's receive ring.
pub struct Forwarder {
    from: Device,
    to: Device,
    header_len: usize,
    /// Packets that found no buffer.
    dropped: u64,
}

impl Forwarder {
    /// A forwarder from the transmit ring of `from` to the receive ring of `to`, neither of which was used before.
    /// `header_len` is the length of their virtio-net headers.
    ///
    /// # Errors
    /// Memory of more than one region.
    pub fn new(from: (&Ram, &mut QueuePair), to: (&Ram, &mut QueuePair), header_len: usize) -> Result<Self, Error> {
        if from.0.regions().len() + to.0.regions().len() != 2 {
            return Err(Error::Config("a forwarder knows guests with one region of memory only".into()));
        }
        let from = Device::new(from.0, from.1.tx.ring())?;
        Ok(Forwarder { from, to: Device::new(to.0, to.1.rx.ring())?, header_len, dropped: 0 })
    }

    /// Copies up to `max` packets; returns how many were taken. One for which there is no buffer is dropped.
    #[inline]
    pub fn step(&mut self, max: usize) -> usize {
        let mut count = 0;
        while count < max {
            let Some(packet) = self.from.peek() else { break };
            match self.to.peek().filter(|room| room.len >= packet.len) {
                Some(room) => {
                    self.from.memory.copy_to(packet.at, &self.to.memory, room.at, packet.len);
                    self.finish(room, packet.len);
                }
                None => self.dropped += 1,
            }
            self.from.advance();
            self.from.give_back(packet.id, 0);
            count += 1;
        }
        if count > 0 {
            self.to.publish();
            self.from.publish();
        }
        count
    }

    /// The same with something in between: `change` gets the packets, each with its virtio-net header, and delivers
    /// what it leaves, in the order in which it leaves it.
    pub fn step_through(&mut self, max: usize, change: impl FnOnce(&mut Vec<Vec<u8>>)) -> usize {
        let mut packets = Vec::new();
        while packets.len() < max {
            let Some(packet) = self.from.peek() else { break };
            let mut bytes = vec![0; packet.len];
            self.from.memory.read(packet.at, &mut bytes);
            packets.push(bytes);
            self.from.advance();
            self.from.give_back(packet.id, 0);
        }
        let count = packets.len();
        change(&mut packets);
        for packet in packets {
            match self.to.peek().filter(|room| room.len >= packet.len()) {
                Some(room) => {
                    self.to.memory.write(room.at, &packet);
                    self.finish(room, packet.len());
                }
                None => self.dropped += 1,
            }
        }
        self.to.publish();
        self.from.publish();
        count
    }

    #[inline]
    fn finish(&mut self, room: Buffer, len: usize) {
        if self.header_len > NUM_BUFFERS {
            self.to.memory.write(room.at + NUM_BUFFERS, &1u16.to_le_bytes());
        }
        self.to.advance();
        self.to.give_back(room.id, len);
    }

    /// Packets that found no buffer, or none that was long enough.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}
