//! The driver of the oracle's rings: it writes chains, and knows what a device has to make of each.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use proptest::prelude::*;
use synthetic_guest::hostile::{INDIRECT, NEXT, SplitDescriptor, WRITE};
use synthetic_guest::{Backing, Ram, RamConfig, Window};
use vm_ports::{FrontendAddr, RingSetup, TxDrop};

use super::{
    AVAIL, BUFFERS, Case, ChainSpec, DESCRIPTORS, Damage, HEADER, ORACLE_USED, SIZE, TABLE_BYTES, TABLES, USED,
};

/// The driver: writes chains, and knows which of them a device has to take and which not.
pub(super) struct Driver {
    pub(super) ram: Ram,
    pub(super) base: u64,
    pub(super) size: u16,
    pub(super) avail_idx: u16,
    pub(super) used_idx: u16,
    free: VecDeque<u16>,
    /// Descriptors of each outstanding head.
    held: Vec<Vec<u16>>,
    next_buffer: u64,
    write: bool,
}

impl Driver {
    pub(super) fn new(case: &Case, write: bool) -> Self {
        let config = RamConfig { region_size: SIZE, backing: Backing::Pages, ..RamConfig::default() };
        let ram = Ram::new(&config).expect("memory for a guest");
        let base = ram.regions()[0].guest;
        let held = vec![Vec::new(); usize::from(case.size)];
        let free = (0..case.size).collect();
        let driver = Self {
            ram,
            base,
            size: case.size,
            avail_idx: case.base,
            used_idx: case.base,
            free,
            held,
            next_buffer: BUFFERS,
            write,
        };
        driver.at(BUFFERS, (SIZE - BUFFERS) as usize).fill(0, (SIZE - BUFFERS) as usize, 0xa5);
        driver.at(AVAIL, 4).store_u16(2, case.base, Release);
        driver.at(USED, 4).store_u16(2, case.base, Release);
        driver.at(ORACLE_USED, 4).store_u16(2, case.base, Release);
        driver
    }

    pub(super) fn at(&self, offset: u64, len: usize) -> Window {
        self.ram.window(self.base + offset, len).expect("inside the region")
    }

    /// Writes a descriptor of the table at guest-physical `table`.
    fn put(&self, table: u64, index: u16, descriptor: SplitDescriptor) {
        let window = self.ram.window(table + 16 * u64::from(index), 16).expect("inside the region");
        window.write(0, &descriptor.to_bytes());
    }

    /// Makes a chain available; false when the ring has no room for it. `damage` that needs another shape of chain is
    /// left out.
    pub(super) fn add(&mut self, spec: &ChainSpec) -> Option<Expected> {
        let table =
            spec.direct < spec.parts.len() || matches!(spec.damage, Some(Damage::TableLength | Damage::EmptyTable));
        let direct = spec.direct.min(spec.parts.len());
        let needed = direct + usize::from(table);
        if needed > self.free.len() || needed == 0 {
            return None;
        }
        let indices: Vec<u16> = self.free.drain(..needed).collect();
        let mut buffers = Vec::new();
        let mut descriptors: Vec<SplitDescriptor> =
            spec.parts.iter().map(|&len| self.buffer(len, spec.noise, &mut buffers)).collect();
        let mut bad = None;
        if let Some(damage @ (Damage::WrongDirection | Damage::BadAddress)) = spec.damage {
            // In a part that has bytes, if there is one: a part without is not looked at.
            let at = spec.parts.iter().position(|&len| len > 0).unwrap_or(0);
            if damage == Damage::WrongDirection {
                descriptors[at].flags ^= WRITE;
                bad = Some(TxDrop::MalformedChain);
            } else if spec.parts[at] > 0 {
                descriptors[at].addr = self.base + SIZE - 1;
                descriptors[at].len = descriptors[at].len.max(2);
                bad = Some(TxDrop::BadAddress);
            }
        }
        let rest = descriptors.split_off(direct);
        if table {
            let (descriptor, why) = self.table(&indices, rest, spec.damage);
            descriptors.push(descriptor);
            bad = bad.or(why);
        }
        let last = descriptors.len() - 1;
        for (at, descriptor) in descriptors.iter_mut().enumerate() {
            if at < last {
                descriptor.flags |= NEXT;
                descriptor.next = indices[at + 1];
            }
        }
        match spec.damage {
            Some(Damage::NextOutOfRange) if !table => {
                (descriptors[last].flags, descriptors[last].next) = (descriptors[last].flags | NEXT, self.size);
                bad = bad.or(Some(TxDrop::MalformedChain));
            }
            Some(Damage::Loop) if !table => {
                (descriptors[last].flags, descriptors[last].next) = (descriptors[last].flags | NEXT, indices[0]);
                bad = bad.or(Some(TxDrop::MalformedChain));
            }
            _ => {}
        }
        for (&index, descriptor) in indices.iter().zip(&descriptors) {
            self.put(self.base + DESCRIPTORS, index, *descriptor);
        }
        Some(self.publish(indices, bad, buffers))
    }

    fn publish(&mut self, indices: Vec<u16>, bad: Option<TxDrop>, buffers: Vec<(u64, u32)>) -> Expected {
        let head = indices[0];
        let slot = usize::from(self.avail_idx & (self.size - 1));
        self.at(AVAIL, 0x1000).store_u16(4 + 2 * slot, head, Relaxed);
        self.avail_idx = self.avail_idx.wrapping_add(1);
        self.at(AVAIL, 4).store_u16(2, self.avail_idx, Release);
        self.held[usize::from(head)] = indices;
        if !self.write && bad.is_none() {
            self.clear_header(&buffers);
        }
        Expected { head, bad, buffers }
    }

    /// Zeros where the virtio-net header will be: no offload.
    fn clear_header(&self, buffers: &[(u64, u32)]) {
        let mut left = HEADER;
        for &(addr, len) in buffers {
            let here = left.min(len as usize);
            self.ram.window(addr, here).expect("inside the region").fill(0, here, 0);
            left -= here;
        }
    }

    /// A buffer nobody else has at the moment.
    fn buffer(&mut self, len: u32, noise: u16, buffers: &mut Vec<(u64, u32)>) -> SplitDescriptor {
        if self.next_buffer + u64::from(len) > SIZE {
            self.next_buffer = BUFFERS;
        }
        let addr = self.base + self.next_buffer;
        self.next_buffer += u64::from(len);
        if len > 0 {
            buffers.push((addr, len));
        }
        SplitDescriptor { addr, len, flags: noise | if self.write { WRITE } else { 0 }, next: 0 }
    }

    fn table(
        &self,
        indices: &[u16],
        mut rest: Vec<SplitDescriptor>,
        damage: Option<Damage>,
    ) -> (SplitDescriptor, Option<TxDrop>) {
        let last_index = *indices.last().expect("a table has a descriptor");
        let at = self.base + TABLES + TABLE_BYTES * u64::from(last_index);
        let count = rest.len();
        let mut bad = None;
        for (index, descriptor) in rest.iter_mut().enumerate() {
            if index + 1 < count {
                (descriptor.flags, descriptor.next) = (descriptor.flags | NEXT, index as u16 + 1);
            }
        }
        let mut flags = INDIRECT;
        let mut len = 16 * count as u32;
        match damage {
            Some(Damage::IndirectInIndirect) => {
                rest[count - 1].flags |= INDIRECT;
                bad = Some(TxDrop::MalformedChain);
            }
            Some(Damage::NextOutOfRange) => {
                (rest[count - 1].flags, rest[count - 1].next) = (rest[count - 1].flags | NEXT, count as u16);
                bad = Some(TxDrop::MalformedChain);
            }
            Some(Damage::Loop) => {
                (rest[count - 1].flags, rest[count - 1].next) = (rest[count - 1].flags | NEXT, 0);
                bad = Some(TxDrop::MalformedChain);
            }
            Some(Damage::IndirectWithNext) => {
                flags |= NEXT;
                bad = Some(TxDrop::MalformedChain);
            }
            Some(Damage::TableLength) => {
                len += 8;
                bad = Some(TxDrop::MalformedChain);
            }
            Some(Damage::EmptyTable) => {
                len = 0;
                bad = Some(TxDrop::MalformedChain);
            }
            _ => {}
        }
        for (index, descriptor) in rest.iter().enumerate() {
            self.put(at, index as u16, *descriptor);
        }
        (SplitDescriptor { addr: at, len, flags, next: 0 }, bad)
    }

    /// Takes back what the device has used; checks that the oracle has used the same.
    pub(super) fn reclaim(&mut self) -> Result<(), TestCaseError> {
        let (ours, oracle) = (self.at(USED, 0x2000), self.at(ORACLE_USED, 0x2000));
        prop_assert_eq!(ours.load_u16(2, Acquire), oracle.load_u16(2, Acquire), "used index");
        while self.used_idx != ours.load_u16(2, Acquire) {
            let at = 4 + 8 * usize::from(self.used_idx & (self.size - 1));
            let entry = |window: &Window| (window.load_u32(at, Relaxed), window.load_u32(at + 4, Relaxed));
            prop_assert_eq!(entry(&ours), entry(&oracle), "used entry {}", self.used_idx);
            let head = entry(&ours).0 as usize;
            prop_assert!(!self.held[head].is_empty(), "head {} is not outstanding", head);
            let freed = std::mem::take(&mut self.held[head]);
            self.free.extend(freed);
            self.used_idx = self.used_idx.wrapping_add(1);
        }
        Ok(())
    }

    pub(super) fn set_event(&self, event: i16, event_idx: bool) {
        let avail = self.at(AVAIL, 0x1000);
        if event_idx {
            avail.store_u16(4 + 2 * usize::from(self.size), self.used_idx.wrapping_add_signed(event), Relaxed);
        } else {
            avail.store_u16(0, event as u16 & 1, Relaxed);
        }
    }

    pub(super) fn setup(&self, base: u16) -> RingSetup {
        let frontend = |offset| FrontendAddr(self.ram.frontend(self.base + offset).expect("inside the region"));
        RingSetup {
            index: 0,
            size: u32::from(self.size),
            descriptors: frontend(DESCRIPTORS),
            driver: frontend(AVAIL),
            device: frontend(USED),
            base: u32::from(base),
        }
    }
}

/// What a device must make of a chain.
pub(super) struct Expected {
    pub(super) head: u16,
    pub(super) bad: Option<TxDrop>,
    pub(super) buffers: Vec<(u64, u32)>,
}

impl Expected {
    pub(super) fn room(&self) -> usize {
        self.buffers.iter().map(|b| b.1 as usize).sum()
    }
}
