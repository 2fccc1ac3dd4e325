//! The driver's side of a packed virtqueue (virtio 1.2 §2.8).

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::fence;

use crate::Error;
use crate::fifo::Fifo;
use crate::memory::{Arena, Table, Window};
use crate::ring::{CallMode, Indirect, RingOptions, Segment, Used, event_passed};
use crate::split::{DESC, INDIRECT, NEXT, WRITE};

const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;
/// Offset of the flags in a descriptor.
const FLAGS: usize = 14;
/// Values of the flags of an event suppression structure.
const EVENT_ENABLE: u16 = 0;
const EVENT_DISABLE: u16 = 1;
const EVENT_DESC: u16 = 2;

#[derive(Clone, Copy, Default)]
struct Chain {
    token: u32,
    /// Ring entries taken; 0 while the id is not outstanding.
    descriptors: u16,
    writable: u32,
}

/// The driver's side of a packed ring.
pub struct PackedRing {
    size: u16,
    descriptors: Window,
    descriptor_table: Table<DESC, 8>,
    driver_event: Window,
    device_event: Window,
    tables: Option<Window>,
    options: RingOptions,
    next_avail: u16,
    avail_wrap: bool,
    next_used: u16,
    used_wrap: bool,
    free_descriptors: u16,
    /// Free buffer ids; chains take the last freed first, with IN_ORDER the first, as [`PackedRing::add_one`] does.
    ids: Fifo<u16>,
    chains: Vec<Chain>,
    /// Outstanding ids, oldest first (IN_ORDER only).
    order: Fifo<u16>,
    in_flight: usize,
    /// Position and flags of the first descriptor of what is not published yet.
    head: Option<(u16, u16)>,
    /// Entries published since the last kick decision, and entries not published.
    since_asked: u16,
    unpublished: u16,
    /// Last id and length of an IN_ORDER batch that is being taken apart.
    batch: Option<(u16, u32)>,
    violations: u64,
    /// When it wants to be called, as the device was told last.
    wish: Option<u32>,
}

impl PackedRing {
    /// Lays the ring out in guest memory: `size` is anything from 1 to 32,768.
    pub(crate) fn new(arena: &mut Arena<'_>, region: usize, size: u16, options: RingOptions) -> Result<Self, Error> {
        if size == 0 || size > 32768 {
            return Err(Error::Config(format!("a packed ring of {size} entries: it must have 1 to 32768")));
        }
        let n = usize::from(size);
        let tables = match options.indirect {
            Indirect::Never => None,
            _ => Some(arena.take(region, n * usize::from(options.max_segments) * DESC, 16)?),
        };
        let descriptors = arena.take(region, n * DESC, 4096)?;
        let mut ring = PackedRing {
            size,
            descriptor_table: descriptors.table(0, n),
            descriptors,
            // On cache lines of their own: one is written by us, the other by the device.
            driver_event: arena.take(region, 4, 64)?,
            device_event: arena.take(region, 4, 64)?,
            tables,
            options,
            next_avail: 0,
            avail_wrap: true,
            next_used: 0,
            used_wrap: true,
            free_descriptors: size,
            ids: Fifo::full(0..size),
            chains: vec![Chain::default(); n],
            order: Fifo::with_capacity(n),
            in_flight: 0,
            head: None,
            since_asked: 0,
            unpublished: 0,
            batch: None,
            violations: 0,
            wish: None,
        };
        ring.arm_calls();
        Ok(ring)
    }

    #[inline]
    pub(crate) fn add(&mut self, token: u32, segments: &[Segment]) -> bool {
        let table = self.use_table(segments.len());
        let needed = if table { 1 } else { segments.len() };
        if needed == 0 || needed > usize::from(self.free_descriptors) {
            return false;
        }
        let id = if self.options.in_order { self.ids.pop_front() } else { self.ids.pop_back() };
        let id = id.expect("there are as many ids as descriptors");
        let writable = segments.iter().filter(|s| s.writable).map(|s| s.len).sum();
        self.chains[usize::from(id)] = Chain { token, descriptors: needed as u16, writable };
        if self.options.in_order {
            self.order.push_back(id);
        }
        if table {
            let addr = self.fill_table(id, segments);
            self.put(addr, (segments.len() * DESC) as u32, id, INDIRECT);
        } else {
            for (position, segment) in segments.iter().enumerate() {
                let next = if position + 1 < segments.len() { NEXT } else { 0 };
                let write = if segment.writable { WRITE } else { 0 };
                self.put(segment.addr, segment.len, id, next | write);
            }
        }
        self.in_flight += 1;
        true
    }

    /// A chain of one descriptor.
    #[inline]
    pub(crate) fn add_one(&mut self, token: u32, segment: Segment) -> bool {
        self.add_ones(1, |_| (token, segment)) == 1
    }

    /// Up to `count` such chains; `next` gives token and segment of each. Returns how many there was room for.
    #[inline]
    pub(crate) fn add_ones(&mut self, count: usize, mut next: impl FnMut(usize) -> (u32, Segment)) -> usize {
        let count = count.min(usize::from(self.free_descriptors));
        if self.options.indirect == Indirect::Always || self.options.in_order || count == 0 {
            return self.add_each(count, &mut next);
        }
        // Positions are local: half words that are neighbours in memory would be read together, and wait for stores.
        let (mut at, mut wrap, size) = (self.next_avail, self.avail_wrap, self.size);
        for n in 0..count {
            let (token, segment) = next(n);
            let id = self.ids.peek(n);
            let (flags, writable) = if segment.writable { (WRITE, segment.len) } else { (0, 0) };
            self.chains[usize::from(id)] = Chain { token, descriptors: 1, writable };
            let flags = flags | if wrap { AVAIL } else { USED };
            let (table, index) = (&self.descriptor_table, usize::from(at));
            table.store_u64::<0>(index, segment.addr, Relaxed);
            if n == 0 && self.head.is_none() {
                table.store_u32::<8>(index, segment.len, Relaxed);
                table.store_u16::<12>(index, id, Relaxed);
                self.head = Some((at, flags));
            } else {
                table.store_u64::<8>(index, tail(segment.len, id, flags), Relaxed);
            }
            at += 1;
            if at == size {
                (at, wrap) = (0, !wrap);
            }
        }
        self.ids.remove(count);
        (self.next_avail, self.avail_wrap) = (at, wrap);
        self.in_flight += count;
        self.free_descriptors -= count as u16;
        self.unpublished += count as u16;
        count
    }

    /// The same, one by one.
    #[inline(never)]
    fn add_each(&mut self, count: usize, next: &mut dyn FnMut(usize) -> (u32, Segment)) -> usize {
        for n in 0..count {
            let (token, segment) = next(n);
            if !self.add(token, &[segment]) {
                return n;
            }
        }
        count
    }

    fn use_table(&self, segments: usize) -> bool {
        let wanted = match self.options.indirect {
            Indirect::Never => false,
            Indirect::Chains => segments > 1,
            Indirect::Always => true,
        };
        wanted && segments <= usize::from(self.options.max_segments)
    }

    /// Entries of an indirect table follow each other; NEXT and ids mean nothing there (virtio 1.2 §2.8.7).
    fn fill_table(&self, id: u16, segments: &[Segment]) -> u64 {
        let tables = self.tables.as_ref().expect("there are tables when `use_table` says so");
        let first = usize::from(id) * usize::from(self.options.max_segments) * DESC;
        for (position, segment) in segments.iter().enumerate() {
            let at = first + position * DESC;
            let flags = if segment.writable { WRITE } else { 0 };
            tables.store_u64(at, segment.addr, Relaxed);
            tables.store_u64(at + 8, tail(segment.len, 0, flags), Relaxed);
        }
        tables.guest() + first as u64
    }

    /// Writes the next descriptor. The first one since the last publication keeps its old flags: the device, which
    /// goes through the ring in order, sees nothing of the rest before that.
    #[inline]
    fn put(&mut self, addr: u64, len: u32, id: u16, flags: u16) {
        let flags = flags | if self.avail_wrap { AVAIL } else { USED };
        let (table, at) = (&self.descriptor_table, usize::from(self.next_avail));
        table.store_u64::<0>(at, addr, Relaxed);
        if self.head.is_none() {
            table.store_u32::<8>(at, len, Relaxed);
            table.store_u16::<12>(at, id, Relaxed);
            self.head = Some((self.next_avail, flags));
        } else {
            table.store_u64::<8>(at, tail(len, id, flags), Relaxed);
        }
        self.next_avail += 1;
        if self.next_avail == self.size {
            self.next_avail = 0;
            self.avail_wrap = !self.avail_wrap;
        }
        self.free_descriptors -= 1;
        self.unpublished += 1;
    }

    #[inline]
    pub(crate) fn publish(&mut self) {
        if let Some((index, flags)) = self.head.take() {
            // Pairs with the device's acquire load of these flags: it then sees this and all later descriptors.
            self.descriptors.store_u16(usize::from(index) * DESC + FLAGS, flags, Release);
            self.since_asked += std::mem::take(&mut self.unpublished);
        }
    }

    #[inline]
    pub(crate) fn kick_wanted(&mut self) -> bool {
        if self.since_asked == 0 {
            return false;
        }
        // Orders the descriptors' flags before the read of the device's wish; pairs with the device's fence between
        // writing its event structure and looking at the ring again.
        fence(SeqCst);
        let count = std::mem::take(&mut self.since_asked);
        let event = self.device_event.load_u32(0, Relaxed);
        let (position, flags) = (event as u16, (event >> 16) as u16 & 3);
        if flags != EVENT_DESC || !self.options.event_idx {
            return flags != EVENT_DISABLE;
        }
        // Everything relative to the present lap: a position of the lap before lies `size` behind. What is not
        // published does not count.
        let mut new = self.next_avail.wrapping_sub(self.unpublished);
        let mut wrap = self.avail_wrap;
        if self.unpublished > self.next_avail {
            new = new.wrapping_add(self.size);
            wrap = !wrap;
        }
        let mut at = position & 0x7fff;
        if (position >> 15 != 0) != wrap {
            at = at.wrapping_sub(self.size);
        }
        event_passed(at, new, new.wrapping_sub(count))
    }

    #[inline]
    pub(crate) fn has_used(&mut self) -> bool {
        if self.batch.is_some() {
            return true;
        }
        if self.in_flight == 0 {
            return false;
        }
        self.is_used(self.next_used.into(), self.used_wrap)
    }

    #[inline]
    pub(crate) fn pop_used(&mut self) -> Option<Used> {
        if !self.has_used() {
            return None;
        }
        let (id, len) = match self.batch {
            Some(batch) => batch,
            None => {
                let at = usize::from(self.next_used);
                (self.descriptor_table.load_u16::<12>(at, Relaxed), self.descriptor_table.load_u32::<8>(at, Relaxed))
            }
        };
        if self.chains.get(usize::from(id)).is_none_or(|c| c.descriptors == 0) {
            // Nobody can say how far to skip: the ring stays where it is, like a driver's that declares it broken.
            self.violations += 1;
            return None;
        }
        if self.options.in_order {
            let front = self.order.pop_front()?;
            if front != id {
                // One used descriptor stands for a batch up to `id` (virtio 1.2 §2.8.9).
                self.batch = Some((id, len));
                let writable = self.chains[usize::from(front)].writable;
                return Some(self.complete(front, writable));
            }
            self.batch = None;
        }
        Some(self.complete(id, len))
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
        let most = out.len().min(self.in_flight);
        if most == 0 || !self.is_used(self.next_used.into(), self.used_wrap) {
            return 0;
        }
        self.claim(most);
        let (mut at, mut wrap, size) = (self.next_used, self.used_wrap, self.size);
        let mut freed = 0;
        while done < most {
            // Length, id and flags in one load. Pairs with the device's release store of the flags, as in `is_used`.
            let tail = self.descriptor_table.load_u64::<8>(at.into(), Acquire);
            if (tail >> 48) as u16 & (AVAIL | USED) != used_flags(wrap) {
                break;
            }
            let (id, len) = ((tail >> 32) as u16, tail as u32);
            let Some(chain) = self.chains.get_mut(usize::from(id)).filter(|c| c.descriptors > 0) else {
                // Nobody can say how far to skip: the ring stays where it is, like a driver's that declares it broken.
                self.violations += 1;
                break;
            };
            let descriptors = std::mem::take(&mut chain.descriptors);
            out[done] = Used { token: chain.token, len };
            self.ids.put(done, id);
            freed += descriptors;
            at += 1;
            if descriptors != 1 {
                at += further(descriptors);
            }
            if at >= size {
                (at, wrap) = (at - size, !wrap);
            }
            done += 1;
        }
        self.free_descriptors += freed;
        self.ids.extend(done);
        self.in_flight -= done;
        (self.next_used, self.used_wrap) = (at, wrap);
        done
    }

    #[inline(always)]
    fn is_used(&self, index: usize, wrap: bool) -> bool {
        // Pairs with the device's release store of these flags: id, length and buffers are then visible.
        let flags = self.descriptor_table.load_u16::<FLAGS>(index, Acquire);
        flags & (AVAIL | USED) == used_flags(wrap)
    }

    /// Takes the lines of the next `count` descriptors, at least one, over from the device's processor, if it has used all of them: they are
    /// read at once, and written soon.
    #[inline]
    fn claim(&self, count: usize) {
        let (first, size) = (usize::from(self.next_used), usize::from(self.size));
        let last = first + count - 1;
        let (last, wrap) = if last < size { (last, self.used_wrap) } else { (last - size, !self.used_wrap) };
        if self.is_used(last, wrap) {
            let end = ((first + count) * DESC).min(self.descriptors.len());
            (first * DESC..end).step_by(64).for_each(|at| self.descriptors.prefetch_write(at));
        }
    }

    #[inline]
    fn complete(&mut self, id: u16, len: u32) -> Used {
        let chain = &mut self.chains[usize::from(id)];
        let (token, descriptors) = (chain.token, std::mem::take(&mut chain.descriptors));
        self.next_used += descriptors;
        if self.next_used >= self.size {
            self.next_used -= self.size;
            self.used_wrap = !self.used_wrap;
        }
        self.free_descriptors += descriptors;
        self.ids.push_back(id);
        self.in_flight -= 1;
        Used { token, len }
    }

    pub(crate) fn arm_calls(&mut self) {
        let flags = match self.options.calls {
            CallMode::Never => EVENT_DISABLE,
            CallMode::Event if self.options.event_idx => EVENT_DESC,
            CallMode::Always | CallMode::Event => EVENT_ENABLE,
        };
        let position = if flags == EVENT_DESC { self.next_used | u16::from(self.used_wrap) << 15 } else { 0 };
        let wish = u32::from(position) | u32::from(flags) << 16;
        // The device has that line, as long as nothing changes.
        if self.wish.replace(wish) == Some(wish) {
            return;
        }
        // One store for both fields: the device sees a position together with the flags that make it count.
        self.driver_event.store_u32(0, wish, Relaxed);
        if flags != EVENT_DISABLE {
            // The caller looks at the ring once more; pairs with the device's fence between its used descriptors and
            // its read of the above.
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
        usize::from(self.free_descriptors)
    }

    pub(crate) fn violations(&self) -> u64 {
        self.violations
    }

    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    pub(crate) fn base_from_used(&self) -> u32 {
        let half = u32::from(self.next_used) | u32::from(self.used_wrap) << 15;
        half << 16 | half
    }

    pub(crate) fn parts(&self) -> [&Window; 3] {
        [&self.descriptors, &self.driver_event, &self.device_event]
    }
}

/// Descriptors behind the first one of a chain. Out of line, so that the place of the next used descriptor is a guess that
/// the processor can go on with, not a sum it has to wait for.
#[cold]
#[inline(never)]
fn further(descriptors: u16) -> u16 {
    descriptors - 1
}

/// AVAIL and USED of a used descriptor.
#[inline(always)]
fn used_flags(wrap: bool) -> u16 {
    if wrap { AVAIL | USED } else { 0 }
}

/// The second half of a packed descriptor: length, buffer id, flags.
#[inline]
pub(crate) fn tail(len: u32, id: u16, flags: u16) -> u64 {
    u64::from(len) | u64::from(id) << 32 | u64::from(flags) << 48
}
