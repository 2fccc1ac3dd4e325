//! The table of MAC addresses: one replica on each I/O core, kept alike by messages.
//!
//! **Who may hold an address.** One that was learnt on a guest's port stays there until it ages out or the port goes
//! down: no other port can take it. One that was learnt on an uplink may move to any port, since stations on the network
//! move and guests migrate in. A fixed one never moves. Nothing is ever removed to make room, and each port's learning
//! is limited in number and in rate: a guest can neither push out nor take over what others have.
//!
//! **Replicas.** What a core learns it tells the others ([`LearnMessage`]); all replicas must see the same ports opened,
//! flushed and closed. A lost message is repaired by the next refresh of the entry. Two guests that claim one address on
//! two cores at the same moment are both heard; the older claim wins everywhere, the lower port among equals.
//!
//! **Memory.** Capacity is fixed. A key has two buckets of eight slots, chosen by a keyed hash, so that which addresses
//! share a bucket cannot be known from outside; at most half of the slots are ever used, and a look-up reads one bucket's
//! keys, seldom two.

use super::learn::{LearnMessage, LearnRefusal, Learned, PortKind};
use super::police::TokenBucket;
use super::{MacAddr, Now, PortId, VlanId};
use std::num::NonZeroU32;

const SLOTS: usize = 8;

/// A key is (VLAN, MAC) below this bit, which is set in every key so that none is [`VACANT`].
const PRESENT: u64 = 1 << 63;
const VACANT: u64 = 0;

/// A new entry goes to its second bucket only when its first has fewer free slots than this: most look-ups then end
/// in the first.
const KEEP_FREE: usize = 3;

/// What a table is made for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FdbSettings {
    /// Entries at most.
    pub(crate) capacity: usize,
    /// Ports have numbers below this.
    pub(crate) ports: usize,
    /// Entries that were not seen for so long are removed.
    pub(crate) ageing_s: NonZeroU32,
    /// Entries that one port may add or move to itself, a second, on this core.
    pub(crate) learn_rate: NonZeroU32,
    /// And how many of them at once.
    pub(crate) learn_burst: NonZeroU32,
    /// Speed of the cycle counter in [`Now`].
    pub(crate) cycles_per_s: u64,
    /// Secret of the hash: random, and not told to guests.
    pub(crate) seed: [u64; 4],
}

/// An entry, as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) vlan: VlanId,
    pub(crate) mac: MacAddr,
    pub(crate) port: PortId,
    /// Configured, not learnt.
    pub(crate) fixed: bool,
    /// When it was last noted (seconds of [`Now`]); without meaning when fixed.
    pub(crate) seen: u32,
}

#[derive(Clone, Copy, Debug)]
struct Value {
    port: PortId,
    fixed: bool,
    /// The port's, when the entry was made: one that is not the port's any more is as good as vacant.
    generation: u32,
    seen: u32,
    since: u32,
}

/// Keys fill one cache line, values two.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Bucket {
    keys: [u64; SLOTS],
    values: [Value; SLOTS],
}

/// A slot of the table, counted through all buckets.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place(usize);

impl Place {
    #[inline]
    fn new(bucket: usize, slot: usize) -> Self {
        Self(bucket * SLOTS + slot)
    }

    #[inline]
    fn bucket(self) -> usize {
        self.0 / SLOTS
    }

    #[inline]
    fn slot(self) -> usize {
        self.0 % SLOTS
    }
}

struct Port {
    kind: Option<PortKind>,
    limit: u32,
    learnt: u32,
    fixed: u32,
    /// One count for learnt entries and one for fixed ones: a flush ends the learnt ones, closing the port ends both.
    learnt_generation: u32,
    fixed_generation: u32,
    rate: TokenBucket,
}

/// One core's replica of the MAC table.
pub(crate) struct Fdb {
    buckets: Box<[Bucket]>,
    ports: Box<[Port]>,
    seed: [u64; 4],
    capacity: usize,
    len: usize,
    ageing_s: u32,
    rate: TokenBucket,
    /// Where [`Fdb::age`] goes on.
    cursor: usize,
}

impl Fdb {
    /// An empty table, all memory allocated.
    pub(crate) fn new(settings: &FdbSettings) -> Self {
        let vacant = Value { port: PortId(0), fixed: false, generation: 0, seen: 0, since: 0 };
        let bucket = Bucket { keys: [VACANT; SLOTS], values: [vacant; SLOTS] };
        let buckets = settings.capacity.div_ceil(SLOTS / 2).next_power_of_two().max(2);
        let rate = TokenBucket::new(settings.learn_rate, settings.learn_burst, settings.cycles_per_s);
        let port =
            || Port { kind: None, limit: 0, learnt: 0, fixed: 0, learnt_generation: 0, fixed_generation: 0, rate };
        Self {
            buckets: vec![bucket; buckets].into_boxed_slice(),
            ports: (0..settings.ports).map(|_| port()).collect(),
            seed: settings.seed,
            capacity: settings.capacity,
            len: 0,
            ageing_s: settings.ageing_s.get(),
            rate,
            cursor: 0,
        }
    }

    /// Lets addresses be learnt on `port`, up to `limit` of them. A port number beyond the table's is not opened.
    pub(crate) fn open_port(&mut self, port: PortId, kind: PortKind, limit: u32) {
        let rate = self.rate;
        if let Some(state) = self.ports.get_mut(port.index()) {
            (state.kind, state.limit, state.rate) = (Some(kind), limit, rate);
        }
    }

    /// Forgets what was learnt on `port`: its link went down. Takes no time: the slots are found vacant later.
    pub(crate) fn flush_port(&mut self, port: PortId) {
        if let Some(state) = self.ports.get_mut(port.index()) {
            self.len -= state.learnt as usize;
            state.learnt = 0;
            state.learnt_generation = state.learnt_generation.wrapping_add(1);
        }
    }

    /// Forgets `port` with all its entries: it was removed.
    pub(crate) fn close_port(&mut self, port: PortId) {
        self.flush_port(port);
        if let Some(state) = self.ports.get_mut(port.index()) {
            self.len -= state.fixed as usize;
            state.fixed = 0;
            state.fixed_generation = state.fixed_generation.wrapping_add(1);
            state.kind = None;
        }
    }

    /// The port behind which `mac` is.
    #[inline]
    pub(crate) fn lookup(&self, vlan: VlanId, mac: MacAddr) -> Option<PortId> {
        let value = self.value(self.find(key(vlan, mac))?);
        self.is_live(value).then_some(value.port)
    }

    /// Notes that a packet from `mac` came in through `port`. The packet's source should have been checked before; a
    /// multicast or zero address is refused here too.
    #[inline]
    pub(crate) fn learn(&mut self, vlan: VlanId, mac: MacAddr, port: PortId, now: Now) -> Learned {
        let key = key(vlan, mac);
        let found = self.find(key);
        if let Some(place) = found {
            let value = self.value(place);
            if value.port == port && self.is_live(value) {
                let again = !value.fixed && elapsed(value.seen, now.seconds) >= self.refresh_s();
                return if again { self.refresh(place, now.seconds) } else { Learned::Known };
            }
        }
        match self.claim(key, found, port, now) {
            Ok(learned) => learned,
            Err(refusal) => Learned::Refused(refusal),
        }
    }

    /// Takes over what another core learnt. `false` when it was not: the port is not as it was for the sender, someone
    /// else has the address, or there is no room.
    pub(crate) fn apply(&mut self, message: &LearnMessage) -> bool {
        let Some(state) = self.ports.get(message.port.index()) else { return false };
        if state.kind.is_none() || state.learnt_generation != message.generation {
            return false;
        }
        let key = key(message.vlan, message.mac);
        let found = self.find(key);
        let mut value = Value {
            port: message.port,
            fixed: false,
            generation: message.generation,
            seen: message.seen,
            since: message.since,
        };
        let current = found.map(|place| self.value(place)).filter(|current| self.is_live(current));
        match current {
            Some(current) if current.fixed => return false,
            Some(current) if current.port == message.port => {
                if elapsed(value.seen, current.seen) > 0 {
                    value.seen = current.seen;
                }
                if elapsed(current.since, value.since) > 0 {
                    value.since = current.since;
                }
            }
            Some(current) if !self.gives_way(current, message) => return false,
            _ => {}
        }
        let place = match found {
            Some(place) => Some(place),
            None => self.room(key, message.seen).ok(),
        };
        place.inspect(|&place| self.put(place, key, value)).is_some()
    }

    /// Fixes `mac` to `port`, wherever it was learnt before.
    pub(crate) fn insert_fixed(&mut self, vlan: VlanId, mac: MacAddr, port: PortId) -> Result<(), LearnRefusal> {
        if !mac.is_station() {
            return Err(LearnRefusal::BadSource);
        }
        let state = self.ports.get(port.index()).filter(|state| state.kind.is_some());
        let generation = state.ok_or(LearnRefusal::UnknownPort)?.fixed_generation;
        let key = key(vlan, mac);
        let found = self.find(key);
        if let Some(current) = found.map(|place| self.value(place))
            && self.is_live(current)
            && current.fixed
            && current.port != port
        {
            return Err(LearnRefusal::Fixed);
        }
        let place = match found {
            Some(place) => place,
            None => self.room_at(key, None)?,
        };
        self.put(place, key, Value { port, fixed: true, generation, seen: 0, since: 0 });
        Ok(())
    }

    /// Removes entries that were not seen for the ageing time, and those of flushed ports, from the next `buckets`
    /// buckets. Gives the number removed. Called often enough, it goes round the table again and again.
    pub(crate) fn age(&mut self, now_s: u32, buckets: usize) -> usize {
        let before = self.len;
        for _ in 0..buckets.min(self.buckets.len()) {
            for slot in 0..SLOTS {
                let place = Place::new(self.cursor, slot);
                if self.is_free(place, Some(now_s)) {
                    self.clear(place);
                }
            }
            self.cursor = (self.cursor + 1) & (self.buckets.len() - 1);
        }
        before - self.len
    }

    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Number of entries of a port: learnt, fixed.
    pub(crate) fn port_len(&self, port: PortId) -> (u32, u32) {
        self.ports.get(port.index()).map_or((0, 0), |state| (state.learnt, state.fixed))
    }

    /// Number of buckets, for [`Fdb::age`] and [`Fdb::entries`].
    pub(crate) fn buckets(&self) -> usize {
        self.buckets.len()
    }

    /// The entries in `count` buckets from bucket `from` on: to show the table in steps.
    pub(crate) fn entries(&self, from: usize, count: usize) -> impl Iterator<Item = Entry> + '_ {
        let slots =
            self.buckets.iter().skip(from).take(count).flat_map(|bucket| bucket.keys.iter().zip(&bucket.values));
        slots.filter(|&(&key, value)| key != VACANT && self.is_live(value)).filter_map(|(&key, value)| {
            let vlan = VlanId::new((key >> 48) as u16 & 0x0fff)?;
            let mac = MacAddr::from_bits(key);
            Some(Entry { vlan, mac, port: value.port, fixed: value.fixed, seen: value.seen })
        })
    }

    /// A port other than the one that has the address, or the first, wants it.
    #[cold]
    #[inline(never)]
    fn claim(&mut self, key: u64, found: Option<Place>, port: PortId, now: Now) -> Result<Learned, LearnRefusal> {
        if !MacAddr::from_bits(key).is_station() {
            return Err(LearnRefusal::BadSource);
        }
        let state = self.ports.get(port.index()).filter(|state| state.kind.is_some());
        let state = state.ok_or(LearnRefusal::UnknownPort)?;
        let generation = state.learnt_generation;
        let full = state.learnt >= state.limit;
        let current = found.map(|place| self.value(place)).filter(|current| self.is_live(current));
        let moved = current.is_some();
        if let Some(current) = current {
            if current.fixed {
                return Err(LearnRefusal::Fixed);
            }
            if self.kind(current.port) == Some(PortKind::Guest) && !self.is_old(current, now.seconds) {
                return Err(LearnRefusal::OwnedByGuest);
            }
        }
        if full {
            return Err(LearnRefusal::PortLimit);
        }
        // A slot of this key that a flush left behind is as good as a new one, but counts as a new entry.
        let place = match found {
            Some(_) if !moved && self.len >= self.capacity => return Err(LearnRefusal::TableFull),
            Some(place) => place,
            None => self.room(key, now.seconds)?,
        };
        if !self.ports.get_mut(port.index()).is_some_and(|state| state.rate.take(now.cycles)) {
            return Err(LearnRefusal::RateLimit);
        }
        let value = Value { port, fixed: false, generation, seen: now.seconds, since: now.seconds };
        self.put(place, key, value);
        let message = self.message(place);
        Ok(if moved { Learned::Moved(message) } else { Learned::New(message) })
    }

    /// Whether an entry leaves its port for what `message` says.
    fn gives_way(&self, current: &Value, message: &LearnMessage) -> bool {
        if self.kind(current.port) != Some(PortKind::Guest) || self.is_old(current, message.seen) {
            return true;
        }
        let older = match elapsed(current.since, message.since) {
            0 => message.port < current.port,
            later => later < 0,
        };
        self.kind(message.port) == Some(PortKind::Guest) && older
    }

    #[cold]
    fn refresh(&mut self, place: Place, now_s: u32) -> Learned {
        self.buckets[place.bucket()].values[place.slot()].seen = now_s;
        Learned::Refreshed(self.message(place))
    }

    fn message(&self, place: Place) -> LearnMessage {
        let key = self.key(place);
        let value = self.value(place);
        // Keys are made of a VlanId, so this default is never taken.
        let vlan = VlanId::new((key >> 48) as u16 & 0x0fff).unwrap_or(VlanId::DEFAULT);
        let Value { port, generation, seen, since, .. } = *value;
        LearnMessage { vlan, mac: MacAddr::from_bits(key), port, generation, seen, since }
    }

    /// The slot that has `key`, live or not. There is at most one.
    #[inline]
    fn find(&self, key: u64) -> Option<Place> {
        let [first, second] = self.buckets_of(key);
        if let Some(slot) = position(&self.buckets[first].keys, key) {
            return Some(Place::new(first, slot));
        }
        position(&self.buckets[second].keys, key).map(|slot| Place::new(second, slot))
    }

    /// The two buckets of a key. Two rounds of multiply and fold under a secret: what a guest sees (that an address was
    /// or was not learnt) does not lead back to it.
    #[inline]
    fn buckets_of(&self, key: u64) -> [usize; 2] {
        let [a, b, c, d] = self.seed;
        let hash = fold(fold(key ^ a, b | 1) ^ c, d | 1);
        let mask = self.buckets.len() - 1;
        let (first, second) = (hash as usize & mask, (hash >> 32) as usize & mask);
        [first, if second == first { first ^ 1 } else { second }]
    }

    /// A slot for a new entry; that of an aged one only where there is no other.
    fn room(&self, key: u64, now_s: u32) -> Result<Place, LearnRefusal> {
        match self.room_at(key, None) {
            Err(LearnRefusal::BucketFull) => self.room_at(key, Some(now_s)),
            other => other,
        }
    }

    fn room_at(&self, key: u64, now_s: Option<u32>) -> Result<Place, LearnRefusal> {
        if self.len >= self.capacity {
            return Err(LearnRefusal::TableFull);
        }
        let [first, second] = self.buckets_of(key).map(|bucket| {
            let mut free = (0..SLOTS).map(|slot| Place::new(bucket, slot)).filter(|&place| self.is_free(place, now_s));
            (free.next(), free.count())
        });
        // Counts are of free slots behind the first one.
        let (place, _) =
            if first.1 + 1 >= KEEP_FREE || first.1 >= second.1 && first.0.is_some() { first } else { second };
        place.ok_or(LearnRefusal::BucketFull)
    }

    /// Makes `place` hold the entry. What was there is gone, and no longer counted.
    fn put(&mut self, place: Place, key: u64, value: Value) {
        self.clear(place);
        let bucket = &mut self.buckets[place.bucket()];
        bucket.keys[place.slot()] = key;
        bucket.values[place.slot()] = value;
        if let Some(state) = self.ports.get_mut(value.port.index()) {
            *state.count(value.fixed) += 1;
            self.len += 1;
        }
    }

    fn clear(&mut self, place: Place) {
        let value = *self.value(place);
        if self.key(place) != VACANT
            && self.is_live(&value)
            && let Some(state) = self.ports.get_mut(value.port.index())
        {
            *state.count(value.fixed) -= 1;
            self.len -= 1;
        }
        self.buckets[place.bucket()].keys[place.slot()] = VACANT;
    }

    /// Whether an entry can be put there: nothing is, or what is there has been flushed or has aged out.
    fn is_free(&self, place: Place, now_s: Option<u32>) -> bool {
        let value = self.value(place);
        self.key(place) == VACANT || !self.is_live(value) || now_s.is_some_and(|now_s| self.is_old(value, now_s))
    }

    #[inline]
    fn key(&self, place: Place) -> u64 {
        self.buckets[place.bucket()].keys[place.slot()]
    }

    #[inline]
    fn value(&self, place: Place) -> &Value {
        &self.buckets[place.bucket()].values[place.slot()]
    }

    #[inline]
    fn is_live(&self, value: &Value) -> bool {
        self.ports.get(value.port.index()).is_some_and(|state| {
            value.generation == if value.fixed { state.fixed_generation } else { state.learnt_generation }
        })
    }

    fn is_old(&self, value: &Value, now_s: u32) -> bool {
        !value.fixed && i64::from(elapsed(value.seen, now_s)) >= i64::from(self.ageing_s)
    }

    fn kind(&self, port: PortId) -> Option<PortKind> {
        self.ports.get(port.index()).and_then(|state| state.kind)
    }

    #[inline]
    fn refresh_s(&self) -> i32 {
        (self.ageing_s / 4).max(1) as i32
    }
}

impl Port {
    fn count(&mut self, fixed: bool) -> &mut u32 {
        if fixed { &mut self.fixed } else { &mut self.learnt }
    }
}

#[inline]
fn key(vlan: VlanId, mac: MacAddr) -> u64 {
    PRESENT | u64::from(vlan.get()) << 48 | mac.to_bits()
}

/// Where `key` is among `keys`. All are compared, without a branch that a guest's choice of addresses could mislead.
#[inline]
fn position(keys: &[u64; SLOTS], key: u64) -> Option<usize> {
    let mut found = 0u32;
    for (slot, candidate) in keys.iter().enumerate() {
        found |= u32::from(*candidate == key) << slot;
    }
    (found != 0).then(|| found.trailing_zeros() as usize % SLOTS)
}

/// The 128-bit product, its halves laid over each other.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ (product >> 64) as u64
}

/// Seconds from `then` to `now` on a clock that may wrap; negative when `then` is later, as another core's may be.
#[inline]
fn elapsed(then: u32, now: u32) -> i32 {
    now.wrapping_sub(then) as i32
}

#[cfg(test)]
#[path = "fdb_tests.rs"]
mod tests;
