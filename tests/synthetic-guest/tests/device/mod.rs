//! Minimal devices in this process: they move every frame from a transmit ring to a receive ring. The split one is the
//! `virtio-queue` crate; the packed one is written here, from the specification.

use std::collections::VecDeque;

use synthetic_guest::hostile::{self, AVAIL, INDIRECT, NEXT, PackedDescriptor, RawRing, USED, WRITE};
use synthetic_guest::{Ram, Ring};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};

/// One direction-agnostic ring of a device.
pub(crate) trait Device {
    /// The bytes of the next chain the driver made available, and its writable room, or nothing.
    fn take(&mut self, ram: &Ram) -> Option<Chain>;
    /// Gives `chain` back with `bytes` written to it.
    fn give_back(&mut self, ram: &Ram, chain: Chain, bytes: &[u8]);
    /// Publishes what was given back; whether the driver wants a call.
    fn publish(&mut self) -> bool;
    /// Asks for a kick at the next chain; whether there are chains already.
    fn ask_for_kicks(&mut self) -> bool;
}

/// A chain taken from a ring.
pub(crate) struct Chain {
    id: u16,
    descriptors: u16,
    /// Contents of its readable part.
    pub(crate) bytes: Vec<u8>,
    /// (address, length) of its writable parts.
    room: Vec<(u64, u32)>,
}

fn write_out(ram: &Ram, room: &[(u64, u32)], mut bytes: &[u8]) {
    for &(addr, len) in room {
        let (now, later) = bytes.split_at(bytes.len().min(len as usize));
        hostile::poke(ram, addr, now).expect("the driver's buffers are in memory");
        bytes = later;
    }
    assert!(bytes.is_empty(), "the buffer is too short");
}

/// A split ring on `virtio-queue`.
pub(crate) struct SplitDevice {
    queue: Queue,
    memory: GuestMemoryMmap,
    gave_back: bool,
}

impl SplitDevice {
    pub(crate) fn new(ram: &Ram, ring: &Ring, event_idx: bool) -> Self {
        let file = |r: &synthetic_guest::Region| r.file().try_clone_to_owned().expect("a second handle").into();
        let regions = ram.regions().iter();
        let ranges =
            regions.map(|r| (GuestAddress(r.guest), r.size as usize, Some(FileOffset::new(file(r), r.offset))));
        let memory = GuestMemoryMmap::from_ranges_with_files(ranges).expect("the memory can be mapped twice");
        let mut queue = Queue::new(32768).expect("a legal size");
        let halves = |addr: u64| (Some(addr as u32), Some((addr >> 32) as u32));
        let [descriptors, avail, used] = ring.parts().map(|w| halves(w.guest()));
        queue.set_size(ring.size());
        queue.set_desc_table_address(descriptors.0, descriptors.1);
        queue.set_avail_ring_address(avail.0, avail.1);
        queue.set_used_ring_address(used.0, used.1);
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        assert!(queue.is_valid(&memory), "virtio-queue takes the ring");
        SplitDevice { queue, memory, gave_back: false }
    }
}

impl Device for SplitDevice {
    fn take(&mut self, _ram: &Ram) -> Option<Chain> {
        let chain = self.queue.iter(&self.memory).expect("a sound avail index").next()?;
        let id = chain.head_index();
        let (mut bytes, mut room) = (Vec::new(), Vec::new());
        for descriptor in chain {
            if descriptor.is_write_only() {
                room.push((descriptor.addr().0, descriptor.len()));
                continue;
            }
            assert!(room.is_empty(), "readable descriptors come first");
            let at = bytes.len();
            bytes.resize(at + descriptor.len() as usize, 0);
            self.memory.read_slice(&mut bytes[at..], descriptor.addr()).expect("a sound address");
        }
        Some(Chain { id, descriptors: 1, bytes, room })
    }

    fn give_back(&mut self, ram: &Ram, chain: Chain, bytes: &[u8]) {
        write_out(ram, &chain.room, bytes);
        self.queue.add_used(&self.memory, chain.id, bytes.len() as u32).expect("a sound used ring");
        self.gave_back = true;
    }

    fn publish(&mut self) -> bool {
        std::mem::take(&mut self.gave_back) && self.queue.needs_notification(&self.memory).expect("a sound ring")
    }

    fn ask_for_kicks(&mut self) -> bool {
        self.queue.enable_notification(&self.memory).expect("a sound ring")
    }
}

/// A packed ring, from the device's side.
pub(crate) struct PackedDevice {
    raw: RawRing,
    event_idx: bool,
    /// With IN_ORDER: one used descriptor for all that one publication gives back.
    batched: bool,
    next: u16,
    wrap: bool,
    used: u16,
    used_wrap: bool,
    /// Used descriptors, not published: (id, entries, length).
    shadow: VecDeque<(u16, u16, u32)>,
}

impl PackedDevice {
    pub(crate) fn new(ring: &Ring, event_idx: bool, batched: bool) -> Self {
        let (raw, shadow) = (RawRing::of(ring), VecDeque::new());
        PackedDevice { raw, event_idx, batched, next: 0, wrap: true, used: 0, used_wrap: true, shadow }
    }

    fn available(&self) -> bool {
        let flags = self.raw.packed(self.next).flags;
        (flags & AVAIL != 0) == self.wrap && (flags & USED != 0) != self.wrap
    }

    fn take_descriptor(&mut self) -> PackedDescriptor {
        assert!(self.available(), "a chain is available as a whole");
        let descriptor = self.raw.packed(self.next);
        self.next += 1;
        if self.next == self.raw.size() {
            (self.next, self.wrap) = (0, !self.wrap);
        }
        descriptor
    }
}

fn collect(ram: &Ram, chain: &mut Chain, descriptor: PackedDescriptor) {
    if descriptor.flags & WRITE != 0 {
        chain.room.push((descriptor.addr, descriptor.len));
        return;
    }
    assert!(chain.room.is_empty(), "readable descriptors come first");
    let at = chain.bytes.len();
    chain.bytes.resize(at + descriptor.len as usize, 0);
    hostile::peek(ram, descriptor.addr, &mut chain.bytes[at..]).expect("a sound address");
}

impl Device for PackedDevice {
    fn take(&mut self, ram: &Ram) -> Option<Chain> {
        if !self.available() {
            return None;
        }
        let mut chain = Chain { id: 0, descriptors: 0, bytes: Vec::new(), room: Vec::new() };
        loop {
            let descriptor = self.take_descriptor();
            chain.descriptors += 1;
            chain.id = descriptor.id;
            if descriptor.flags & INDIRECT != 0 {
                assert_eq!((descriptor.flags & (NEXT | WRITE), descriptor.len % 16), (0, 0));
                let mut table = vec![0; descriptor.len as usize];
                hostile::peek(ram, descriptor.addr, &mut table).expect("a sound table");
                for entry in table.chunks(16) {
                    let word = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().expect("four bytes"));
                    let addr = u64::from(word(0)) | u64::from(word(4)) << 32;
                    let flags = (word(12) >> 16) as u16;
                    collect(ram, &mut chain, PackedDescriptor { addr, len: word(8), id: 0, flags });
                }
            } else {
                collect(ram, &mut chain, descriptor);
            }
            if descriptor.flags & NEXT == 0 {
                return Some(chain);
            }
        }
    }

    fn give_back(&mut self, ram: &Ram, chain: Chain, bytes: &[u8]) {
        write_out(ram, &chain.room, bytes);
        match self.shadow.back_mut() {
            Some((id, entries, len)) if self.batched => {
                (*id, *entries, *len) = (chain.id, *entries + chain.descriptors, bytes.len() as u32);
            }
            _ => self.shadow.push_back((chain.id, chain.descriptors, bytes.len() as u32)),
        }
    }

    fn publish(&mut self) -> bool {
        let old = self.used;
        let moved: u16 = self.shadow.iter().map(|s| s.1).sum();
        while let Some((id, entries, len)) = self.shadow.pop_front() {
            let flags = if self.used_wrap { AVAIL | USED } else { 0 };
            self.raw.set_packed(self.used, PackedDescriptor { addr: 0, len, id, flags });
            self.used += entries;
            if self.used >= self.raw.size() {
                (self.used, self.used_wrap) = (self.used - self.raw.size(), !self.used_wrap);
            }
        }
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        let event = self.raw.driver.load_u32(0, std::sync::atomic::Ordering::Relaxed);
        match event >> 16 {
            _ if moved == 0 => false,
            0 => true,
            1 => false,
            // Distance from where we were to the position asked for, in entries, on the ring of two laps.
            _ => {
                assert!(self.event_idx, "event positions need EVENT_IDX");
                let size = u32::from(self.raw.size());
                let lap = |wrap: bool| if wrap { 0 } else { size };
                let at = (event & 0x7fff) + lap(event & 0x8000 != 0);
                let old_wrap = if self.used < old { !self.used_wrap } else { self.used_wrap };
                let from = u32::from(old) + lap(if moved == self.raw.size() { !self.used_wrap } else { old_wrap });
                (at + 2 * size - from) % (2 * size) < u32::from(moved)
            }
        }
    }

    fn ask_for_kicks(&mut self) -> bool {
        if self.event_idx {
            self.raw.set_device_event(self.next | u16::from(self.wrap) << 15, 2);
        } else {
            self.raw.set_device_event(0, 0);
        }
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        self.available()
    }
}
