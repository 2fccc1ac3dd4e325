//! The driver's side of a split virtqueue (virtio 1.2 §2.7).

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::fence;

use crate::Error;
use crate::fifo::Fifo;
use crate::memory::{Arena, Table, Window};
use crate::ring::{CallMode, Indirect, RingOptions, Segment, Used, event_passed};

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;
const AVAIL_NO_INTERRUPT: u16 = 1;
const USED_NO_NOTIFY: u16 = 1;
/// Bytes of a descriptor.
pub(crate) const DESC: usize = 16;

/// What the driver remembers of a chain it has handed over; never read back from shared memory.
#[derive(Clone, Copy, Default)]
struct Chain {
    token: u32,
    /// Bytes the device may write: what a buffer skipped by IN_ORDER batching counts as (virtio 1.2 §2.7.9).
    writable: u32,
    /// What the head's descriptor says since [`SplitRing::add_one`] wrote it for this token: the second half's lower part,
    /// length and flags; 0 when it may say anything else.
    said: u64,
    /// Descriptors taken; 0 while the head is not outstanding.
    descriptors: u32,
}

/// The driver's side of a split ring.
pub struct SplitRing {
    size: u16,
    descriptors: Window,
    avail: Window,
    used: Window,
    descriptor_table: Table<DESC, 8>,
    avail_entries: Table<2, 2>,
    used_entries: Table<8, 4>,
    tables: Option<Window>,
    options: RingOptions,
    /// Free descriptors. Chains are taken from the back: the last freed is the hottest. IN_ORDER takes from the front,
    /// which places descriptors in ring order as virtio 1.2 §2.7.9 demands; so does [`SplitRing::add_one`].
    free: Fifo<u16>,
    /// The driver's own copy of the links of the descriptor table.
    next: Vec<u16>,
    chains: Vec<Chain>,
    /// Outstanding heads, oldest first (IN_ORDER only).
    order: Fifo<u16>,
    /// What stands in the avail ring.
    offered: Vec<u16>,
    in_flight: usize,
    /// Avail index including what is not published.
    avail_idx: u16,
    published: u16,
    /// Avail index at the last kick decision.
    asked: u16,
    used_idx: u16,
    /// Used index the device had when it was last read.
    used_seen: u16,
    /// Last head and length of an IN_ORDER batch that is being taken apart.
    batch: Option<(u16, u32)>,
    violations: u64,
    /// When it wants to be called, as the device was told last.
    wish: Option<u16>,
}

impl SplitRing {
    /// Lays the ring out in guest memory: `size` is a power of two up to 32,768.
    pub(crate) fn new(arena: &mut Arena<'_>, region: usize, size: u16, options: RingOptions) -> Result<Self, Error> {
        if !size.is_power_of_two() || size > 32768 {
            return Err(Error::Config(format!(
                "a split ring of {size} entries: it must be a power of two up to 32768"
            )));
        }
        let n = usize::from(size);
        let tables = match options.indirect {
            Indirect::Never => None,
            _ => Some(arena.take(region, n * usize::from(options.max_segments) * DESC, 16)?),
        };
        // 4096: what a legacy driver uses, legal for all.
        let descriptors = arena.take(region, n * DESC, 4096)?;
        let avail = arena.take(region, 6 + 2 * n, 64)?;
        let used = arena.take(region, 6 + 8 * n, 4096)?;
        let mut ring = SplitRing {
            size,
            descriptor_table: descriptors.table(0, n),
            avail_entries: avail.table(4, n),
            used_entries: used.table(4, n),
            descriptors,
            avail,
            used,
            tables,
            options,
            free: Fifo::full(0..size),
            next: vec![0; n],
            chains: vec![Chain::default(); n],
            order: Fifo::with_capacity(n),
            // No head is as large as that: nothing stands there yet.
            offered: vec![u16::MAX; n],
            in_flight: 0,
            avail_idx: 0,
            published: 0,
            asked: 0,
            used_idx: 0,
            used_seen: 0,
            batch: None,
            violations: 0,
            wish: None,
        };
        ring.arm_calls();
        Ok(ring)
    }

    #[inline]
    pub(crate) fn add(&mut self, token: u32, segments: &[Segment]) -> bool {
        let indirect = self.use_table(segments.len());
        let needed = if indirect { 1 } else { segments.len() };
        if needed == 0 || needed > self.free.len() {
            return false;
        }
        let head = if indirect { self.add_table(segments) } else { self.add_chain(segments) };
        let writable = segments.iter().filter(|s| s.writable).map(|s| s.len).sum();
        self.chains[usize::from(head)] = Chain { token, writable, said: 0, descriptors: needed as u32 };
        self.offer(head);
        true
    }

    /// A chain of one descriptor. Descriptors come round in ring order, and what the device has been told before is not
    /// written again: in a steady stream from fixed buffers no line of the descriptor table and of the avail ring goes
    /// from one CPU to the other, but that of the avail index. A token must always come with the same address.
    #[inline]
    pub(crate) fn add_one(&mut self, token: u32, segment: Segment) -> bool {
        self.add_ones(1, |_| (token, segment)) == 1
    }

    /// Up to `count` such chains; `next` gives token and segment of each. Returns how many there was room for.
    #[inline]
    pub(crate) fn add_ones(&mut self, count: usize, mut next: impl FnMut(usize) -> (u32, Segment)) -> usize {
        let count = count.min(self.free.len());
        if self.options.indirect == Indirect::Always || self.options.in_order {
            for n in 0..count {
                let (token, segment) = next(n);
                if !self.add(token, &[segment]) {
                    return n;
                }
            }
            return count;
        }
        // Positions are local: half words that are neighbours in memory would be read together, and wait for stores.
        let (mut at, mask) = (self.avail_idx, self.size - 1);
        for n in 0..count {
            let (token, segment) = next(n);
            let head = self.free.peek(n);
            let (flags, writable) = if segment.writable { (WRITE, segment.len) } else { (0, 0) };
            let tail = tail(segment.len, flags, 0);
            let chain = &mut self.chains[usize::from(head)];
            if chain.said != tail || chain.token != token {
                self.descriptor_table.store_u64::<0>(usize::from(head), segment.addr, Relaxed);
                self.descriptor_table.store_u64::<8>(usize::from(head), tail, Relaxed);
            }
            *chain = Chain { token, writable, said: tail, descriptors: 1 };
            let slot = usize::from(at & mask);
            let offered = &mut self.offered[slot];
            if *offered != head {
                *offered = head;
                self.avail_entries.store_u16::<0>(slot, head, Relaxed);
            }
            at = at.wrapping_add(1);
        }
        self.free.remove(count);
        self.in_flight += count;
        self.avail_idx = at;
        count
    }

    #[inline(always)]
    fn offer(&mut self, head: u16) {
        if self.options.in_order {
            self.order.push_back(head);
        }
        self.in_flight += 1;
        let slot = usize::from(self.avail_idx & (self.size - 1));
        let offered = &mut self.offered[slot];
        if *offered != head {
            *offered = head;
            self.avail_entries.store_u16::<0>(slot, head, Relaxed);
        }
        self.avail_idx = self.avail_idx.wrapping_add(1);
    }

    fn use_table(&self, segments: usize) -> bool {
        let wanted = match self.options.indirect {
            Indirect::Never => false,
            Indirect::Chains => segments > 1,
            Indirect::Always => true,
        };
        wanted && segments <= usize::from(self.options.max_segments)
    }

    #[inline]
    fn take_descriptor(&mut self) -> u16 {
        let free = if self.options.in_order { self.free.pop_front() } else { self.free.pop_back() };
        free.expect("the caller has counted the free descriptors")
    }

    #[inline]
    fn add_chain(&mut self, segments: &[Segment]) -> u16 {
        let head = self.take_descriptor();
        let mut index = head;
        for (position, segment) in segments.iter().enumerate() {
            let mut flags = if segment.writable { WRITE } else { 0 };
            let mut next = 0;
            if position + 1 < segments.len() {
                flags |= NEXT;
                next = self.take_descriptor();
            }
            write_descriptor(&self.descriptors, index, segment.addr, segment.len, flags, next);
            self.chains[usize::from(index)].said = 0;
            self.next[usize::from(index)] = next;
            index = next;
        }
        head
    }

    fn add_table(&mut self, segments: &[Segment]) -> u16 {
        let head = self.take_descriptor();
        let tables = self.tables.as_ref().expect("there are tables when `use_table` says so");
        let first = usize::from(head) * usize::from(self.options.max_segments);
        for (position, segment) in segments.iter().enumerate() {
            let last = position + 1 == segments.len();
            let flags = if segment.writable { WRITE } else { 0 } | if last { 0 } else { NEXT };
            let next = if last { 0 } else { position as u16 + 1 };
            let at = (first + position) * DESC;
            tables.store_u64(at, segment.addr, Relaxed);
            tables.store_u64(at + 8, tail(segment.len, flags, next), Relaxed);
        }
        let addr = tables.guest() + (first * DESC) as u64;
        write_descriptor(&self.descriptors, head, addr, (segments.len() * DESC) as u32, INDIRECT, 0);
        head
    }

    #[inline]
    pub(crate) fn publish(&mut self) {
        if self.published != self.avail_idx {
            self.published = self.avail_idx;
            // Pairs with the device's acquire load of the avail index: it then sees descriptors and entries.
            self.avail.store_u16(2, self.avail_idx, Release);
        }
    }

    #[inline]
    pub(crate) fn kick_wanted(&mut self) -> bool {
        if self.asked == self.published {
            return false;
        }
        // Orders our avail index before the read of the device's wish; pairs with the fence between the device's
        // request for a kick and its re-check of the avail index. Without both, each could miss the other.
        fence(SeqCst);
        let old = std::mem::replace(&mut self.asked, self.published);
        if self.options.event_idx {
            let event = self.used.load_u16(4 + 8 * usize::from(self.size), Relaxed);
            event_passed(event, self.published, old)
        } else {
            self.used.load_u16(0, Relaxed) & USED_NO_NOTIFY == 0
        }
    }

    #[inline]
    pub(crate) fn has_used(&mut self) -> bool {
        if self.used_idx == self.used_seen {
            // Pairs with the device's release store of the used index: used entries and buffers are then visible.
            let seen = self.used.load_u16(2, Acquire);
            if usize::from(seen.wrapping_sub(self.used_idx)) > self.in_flight {
                self.violations += 1;
                return false;
            }
            self.used_seen = seen;
        }
        self.used_idx != self.used_seen
    }

    #[inline]
    pub(crate) fn pop_used(&mut self) -> Option<Used> {
        if !self.has_used() {
            return None;
        }
        let (head, len) = if self.options.in_order { self.next_in_order()? } else { self.used_entry() };
        self.used_idx = self.used_idx.wrapping_add(1);
        self.complete(head, len)
    }

    #[inline]
    fn used_entry(&self) -> (u32, u32) {
        let slot = usize::from(self.used_idx & (self.size - 1));
        (self.used_entries.load_u32::<0>(slot, Relaxed), self.used_entries.load_u32::<4>(slot, Relaxed))
    }

    /// Used chains into `out`, as many as there are room and chains; returns how many.
    #[inline]
    pub(crate) fn pop_burst(&mut self, out: &mut [Used]) -> usize {
        let mut done = 0;
        if self.options.in_order {
            while done < out.len() {
                let Some(used) = self.pop_used() else { break };
                out[done] = used;
                done += 1;
            }
            return done;
        }
        if !self.has_used() {
            return 0;
        }
        // A local copy: half words that are neighbours in memory would be read together, and wait for each other's stores.
        let (mut at, mask) = (self.used_idx, self.size - 1);
        let count = usize::from(self.used_seen.wrapping_sub(at)).min(out.len());
        let mut freed = 0;
        for _ in 0..count {
            let slot = usize::from(at & mask);
            let head = self.used_entries.load_u32::<0>(slot, Relaxed);
            let len = self.used_entries.load_u32::<4>(slot, Relaxed);
            at = at.wrapping_add(1);
            let used = match self.chains.get_mut(head as usize) {
                Some(chain) if chain.descriptors == 1 => {
                    chain.descriptors = 0;
                    self.free.put(freed, head as u16);
                    freed += 1;
                    Some(Used { token: chain.token, len })
                }
                _ => {
                    self.settle_freed(&mut freed);
                    self.complete(head, len)
                }
            };
            if let Some(used) = used {
                out[done] = used;
                done += 1;
            }
        }
        self.settle_freed(&mut freed);
        self.used_idx = at;
        done
    }

    /// Accounts for the descriptors that a burst has freed so far.
    #[inline(always)]
    fn settle_freed(&mut self, freed: &mut usize) {
        self.free.extend(*freed);
        self.in_flight -= std::mem::take(freed);
    }

    /// A device that uses buffers in order may write one entry, with the last head, for a batch and skip the others.
    fn next_in_order(&mut self) -> Option<(u32, u32)> {
        let (last, len) = match self.batch {
            Some(batch) => batch,
            None => {
                let (id, len) = self.used_entry();
                let outstanding = id < u32::from(self.size) && self.chains[id as usize].descriptors > 0;
                if !outstanding {
                    self.violations += 1;
                    self.used_idx = self.used_idx.wrapping_add(1);
                    return None;
                }
                (id as u16, len)
            }
        };
        let head = self.order.pop_front()?;
        if head == last {
            self.batch = None;
            return Some((u32::from(head), len));
        }
        self.batch = Some((last, len));
        Some((u32::from(head), self.chains[usize::from(head)].writable))
    }

    #[inline]
    fn complete(&mut self, head: u32, len: u32) -> Option<Used> {
        let Some(chain) = self.chains.get_mut(head as usize).filter(|chain| chain.descriptors > 0) else {
            self.violations += 1;
            return None;
        };
        let descriptors = std::mem::take(&mut chain.descriptors);
        let mut index = head as u16;
        self.free.push_back(index);
        for _ in 1..descriptors {
            index = self.next[usize::from(index)];
            self.free.push_back(index);
        }
        self.in_flight -= 1;
        Some(Used { token: chain.token, len })
    }

    pub(crate) fn arm_calls(&mut self) {
        let wants = self.options.calls != CallMode::Never;
        let (at, wish) = if self.options.event_idx {
            // used_event: called when the used index passes it. Half of the index space ahead is out of the device's
            // reach until the ring is polled again. Just behind the used index would not do: a device between its used
            // index and its look at used_event would find the event inside what it has just used.
            let event = if wants { self.used_idx } else { self.used_idx.wrapping_add(1 << 15) };
            (4 + 2 * usize::from(self.size), event)
        } else {
            (0, if wants { 0 } else { AVAIL_NO_INTERRUPT })
        };
        // The device has that line, as long as nothing changes.
        if self.wish.replace(wish) == Some(wish) {
            return;
        }
        self.avail.store_u16(at, wish, Relaxed);
        if wants {
            // The caller looks at the ring once more; pairs with the device's fence between its used index and its
            // read of the above.
            fence(SeqCst);
        }
    }

    pub(crate) fn set_calls(&mut self, mode: CallMode) {
        self.options.calls = mode;
        self.arm_calls();
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(crate) fn free_descriptors(&self) -> usize {
        self.free.len()
    }

    pub(crate) fn violations(&self) -> u64 {
        self.violations
    }

    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    pub(crate) fn base_from_used(&self) -> u32 {
        u32::from(self.used.load_u16(2, Acquire))
    }

    pub(crate) fn parts(&self) -> [&Window; 3] {
        [&self.descriptors, &self.avail, &self.used]
    }
}

/// The second half of a split descriptor: length, flags, next.
#[inline]
pub(crate) fn tail(len: u32, flags: u16, next: u16) -> u64 {
    u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48
}

#[inline]
pub(crate) fn write_descriptor(table: &Window, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
    let at = usize::from(index) * DESC;
    table.store_u64(at, addr, Relaxed);
    table.store_u64(at + 8, tail(len, flags, next), Relaxed);
}
