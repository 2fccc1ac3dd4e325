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

use super::learn::{LearnMessage, LearnRefusal, Learned, Learning, PortKind};
use super::police::TokenBucket;
use super::slots::{Place, SLOTS, Slots, Value, key, parts};
use super::{MacAddr, Now, PortId, VlanId};
use std::num::NonZeroU32;

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

impl Entry {
    /// For a replica that comes late. Since when the port has the address is told with the next refresh.
    pub(crate) fn to_message(self, generation: u32) -> LearnMessage {
        let Self { vlan, mac, port, seen, .. } = self;
        LearnMessage { vlan, mac, port, generation, seen, since: seen }
    }
}

/// What a port that may have an address gets.
struct Claim {
    place: Place,
    /// The port that had it.
    from: Option<PortId>,
    generation: u32,
}

/// What learning would come to, and whose place in the table it would take.
pub(crate) struct Foreseen {
    pub(crate) learning: Learning,
    claimed: Option<(Place, u64, PortId)>,
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
    slots: Slots,
    ports: Box<[Port]>,
    capacity: usize,
    len: usize,
    /// As many of them are fixed.
    fixed: usize,
    ageing_s: u32,
    rate: TokenBucket,
    /// Where [`Fdb::age`] goes on.
    cursor: usize,
    /// Counts the changes of what is found.
    edition: u32,
}

impl Fdb {
    /// An empty table, all memory allocated.
    pub(crate) fn new(settings: &FdbSettings) -> Self {
        let rate = TokenBucket::new(settings.learn_rate, settings.learn_burst, settings.cycles_per_s);
        let port =
            || Port { kind: None, limit: 0, learnt: 0, fixed: 0, learnt_generation: 0, fixed_generation: 0, rate };
        Self {
            slots: Slots::new(settings.capacity, settings.seed),
            ports: (0..settings.ports).map(|_| port()).collect(),
            capacity: settings.capacity,
            len: 0,
            fixed: 0,
            ageing_s: settings.ageing_s.get(),
            rate,
            cursor: 0,
            edition: 0,
        }
    }

    /// As long as this is the same, look-ups find the same; and a source that was known ([`Learned::Known`]) is, in the same second.
    #[inline]
    pub(crate) fn edition(&self) -> u32 {
        self.edition
    }

    fn note_change(&mut self) {
        self.edition = self.edition.wrapping_add(1);
    }

    /// Changes the ageing time, and what each port may learn from now on: how fast, and up to how many addresses. What is there stays.
    pub(crate) fn tune(&mut self, ageing_s: NonZeroU32, rate: TokenBucket, limit: u32) {
        self.note_change();
        self.ageing_s = ageing_s.get();
        self.rate = rate;
        for port in self.ports.iter_mut().filter(|port| port.kind.is_some()) {
            (port.rate, port.limit) = (rate, limit);
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
        self.note_change();
        if let Some(state) = self.ports.get_mut(port.index()) {
            self.len -= state.learnt as usize;
            state.learnt = 0;
            state.learnt_generation = state.learnt_generation.wrapping_add(1);
        }
    }

    /// The other replicas have flushed `port` so often before this one was made, which has learnt nothing there yet: from now on it takes over
    /// what they learn.
    pub(crate) fn resume(&mut self, port: PortId, generation: u32) {
        self.note_change();
        if let Some(state) = self.ports.get_mut(port.index()) {
            state.learnt_generation = generation;
        }
    }

    /// Forgets `port` with all its entries: it was removed.
    pub(crate) fn close_port(&mut self, port: PortId) {
        self.flush_port(port);
        if let Some(state) = self.ports.get_mut(port.index()) {
            self.len -= state.fixed as usize;
            self.fixed -= state.fixed as usize;
            state.fixed = 0;
            state.fixed_generation = state.fixed_generation.wrapping_add(1);
            state.kind = None;
        }
    }

    /// The port behind which `mac` is.
    #[inline]
    pub(crate) fn lookup(&self, vlan: VlanId, mac: MacAddr) -> Option<PortId> {
        let value = self.slots.value(self.slots.find(key(vlan, mac))?);
        self.is_live(value).then_some(value.port)
    }

    /// Notes that a packet from `mac` came in through `port`. The packet's source should have been checked before; a
    /// multicast or zero address is refused here too.
    #[inline]
    pub(crate) fn learn(&mut self, vlan: VlanId, mac: MacAddr, port: PortId, now: Now) -> Learned {
        let key = key(vlan, mac);
        let found = self.slots.find(key);
        if let Some(place) = found
            && let Some(again) = self.is_known(place, port, now.seconds)
        {
            return if again { self.refresh(place, now.seconds) } else { Learned::Known };
        }
        match self.claim(key, found, port, now) {
            Ok(learned) => learned,
            Err(refusal) => Learned::Refused(refusal),
        }
    }

    /// What [`Fdb::learn`] would come to. Nothing is changed.
    pub(crate) fn foresee(&self, vlan: VlanId, mac: MacAddr, port: PortId, now: Now) -> Foreseen {
        let key = key(vlan, mac);
        let found = self.slots.find(key);
        if let Some(again) = found.and_then(|place| self.is_known(place, port, now.seconds)) {
            return Foreseen { learning: if again { Learning::Refresh } else { Learning::Known }, claimed: None };
        }
        match self.judge(key, found, port, now) {
            Ok(Claim { place, from, .. }) => {
                let learning = from.map_or(Learning::New, Learning::Move);
                Foreseen { learning, claimed: Some((place, key, port)) }
            }
            Err(refusal) => Foreseen { learning: Learning::Refused(refusal), claimed: None },
        }
    }

    /// What [`Fdb::lookup`] would find once what was foreseen is done.
    pub(crate) fn lookup_after(&self, foreseen: &Foreseen, vlan: VlanId, mac: MacAddr) -> Option<PortId> {
        match foreseen.claimed {
            Some((_, claimed, port)) if claimed == key(vlan, mac) => Some(port),
            // A place that an entry had which had aged is another's then.
            Some((place, ..)) if self.slots.find(key(vlan, mac)) == Some(place) => None,
            _ => self.lookup(vlan, mac),
        }
    }

    /// The entry of a station.
    pub(crate) fn entry(&self, vlan: VlanId, mac: MacAddr) -> Option<Entry> {
        let value = self.slots.value(self.slots.find(key(vlan, mac))?);
        let Value { port, fixed, seen, .. } = *value;
        self.is_live(value).then_some(Entry { vlan, mac, port, fixed, seen })
    }

    /// Takes over what another core learnt. `false` when it was not: the port is not as it was for the sender, someone
    /// else has the address, or there is no room.
    pub(crate) fn apply(&mut self, message: &LearnMessage) -> bool {
        let Some(state) = self.ports.get(message.port.index()) else { return false };
        if state.kind.is_none() || state.learnt_generation != message.generation {
            return false;
        }
        let key = key(message.vlan, message.mac);
        let found = self.slots.find(key);
        let mut value = Value {
            port: message.port,
            fixed: false,
            generation: message.generation,
            seen: message.seen,
            since: message.since,
        };
        let current = found.map(|place| self.slots.value(place)).filter(|current| self.is_live(current));
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
        let place = self.room(key, found, current.is_some(), Some(message.seen));
        place.map(|place| self.put(place, key, value)).is_ok()
    }

    /// Fixes `mac` to `port`, wherever it was learnt before. It may be all zeros: no station has that address, and frames for it still have
    /// to go somewhere.
    pub(crate) fn insert_fixed(&mut self, vlan: VlanId, mac: MacAddr, port: PortId) -> Result<(), LearnRefusal> {
        if mac.is_multicast() {
            return Err(LearnRefusal::BadSource);
        }
        let state = self.ports.get(port.index()).filter(|state| state.kind.is_some());
        let generation = state.ok_or(LearnRefusal::UnknownPort)?.fixed_generation;
        let key = key(vlan, mac);
        let found = self.slots.find(key);
        let current = found.map(|place| self.slots.value(place)).filter(|current| self.is_live(current));
        if current.is_some_and(|current| current.fixed && current.port != port) {
            return Err(LearnRefusal::Fixed);
        }
        let place = self.room(key, found, current.is_some(), None)?;
        self.put(place, key, Value { port, fixed: true, generation, seen: 0, since: 0 });
        Ok(())
    }

    /// Removes entries that were not seen for the ageing time, and those of flushed ports, from the next `buckets`
    /// buckets. Gives the number removed. Called often enough, it goes round the table again and again.
    pub(crate) fn age(&mut self, now_s: u32, buckets: usize) -> usize {
        let before = self.len;
        for _ in 0..buckets.min(self.slots.buckets()) {
            for slot in 0..SLOTS {
                let place = Place::new(self.cursor, slot);
                if self.is_free(place, Some(now_s)) {
                    self.clear(place);
                }
            }
            self.cursor = (self.cursor + 1) & (self.slots.buckets() - 1);
        }
        before - self.len
    }

    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether there are entries that age.
    pub(crate) fn has_learnt(&self) -> bool {
        self.len > self.fixed
    }

    /// After so many seconds entries that were not seen are removed.
    pub(crate) fn ageing_s(&self) -> u32 {
        self.ageing_s
    }

    /// Number of entries of a port: learnt, fixed.
    #[cfg(test)]
    pub(crate) fn port_len(&self, port: PortId) -> (u32, u32) {
        self.ports.get(port.index()).map_or((0, 0), |state| (state.learnt, state.fixed))
    }

    /// Number of buckets, for [`Fdb::age`] and [`Fdb::entries`].
    pub(crate) fn buckets(&self) -> usize {
        self.slots.buckets()
    }

    /// The entries in `count` buckets from bucket `from` on: to show the table in steps.
    pub(crate) fn entries(&self, from: usize, count: usize) -> impl Iterator<Item = Entry> + '_ {
        let live = self.slots.iter(from, count).filter(|&(_, _, value)| self.is_live(value));
        live.map(|(vlan, mac, value)| Entry { vlan, mac, port: value.port, fixed: value.fixed, seen: value.seen })
    }

    /// Whether the entry at `place` is this port's, and then, whether it is to be noted that it was seen again.
    #[inline]
    fn is_known(&self, place: Place, port: PortId, now_s: u32) -> Option<bool> {
        let value = self.slots.value(place);
        let known = value.port == port && self.is_live(value);
        known.then(|| !value.fixed && elapsed(value.seen, now_s) >= self.refresh_s())
    }

    /// A port other than the one that has the address, or the first, wants it.
    #[cold]
    #[inline(never)]
    fn claim(&mut self, key: u64, found: Option<Place>, port: PortId, now: Now) -> Result<Learned, LearnRefusal> {
        let Claim { place, from, generation } = self.judge(key, found, port, now)?;
        if let Some(state) = self.ports.get_mut(port.index()) {
            state.rate.take(now.cycles);
        }
        let value = Value { port, fixed: false, generation, seen: now.seconds, since: now.seconds };
        self.put(place, key, value);
        let message = self.message(place);
        Ok(if from.is_some() { Learned::Moved(message) } else { Learned::New(message) })
    }

    /// Whether the port may have the address, and where its entry would be.
    fn judge(&self, key: u64, found: Option<Place>, port: PortId, now: Now) -> Result<Claim, LearnRefusal> {
        if !MacAddr::from_bits(key).is_station() {
            return Err(LearnRefusal::BadSource);
        }
        let state = self.ports.get(port.index()).filter(|state| state.kind.is_some());
        let state = state.ok_or(LearnRefusal::UnknownPort)?;
        let current = found.map(|place| self.slots.value(place)).filter(|current| self.is_live(current));
        if let Some(current) = current {
            if current.fixed {
                return Err(LearnRefusal::Fixed);
            }
            if self.kind(current.port) == Some(PortKind::Guest) && !self.is_old(current, now.seconds) {
                return Err(LearnRefusal::OwnedByGuest);
            }
        }
        if state.learnt >= state.limit {
            return Err(LearnRefusal::PortLimit);
        }
        let place = self.room(key, found, current.is_some(), Some(now.seconds))?;
        if !state.rate.has(now.cycles) {
            return Err(LearnRefusal::RateLimit);
        }
        Ok(Claim { place, from: current.map(|current| current.port), generation: state.learnt_generation })
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
        let value = Value { seen: now_s, ..*self.slots.value(place) };
        self.slots.set(place, self.slots.key(place), value);
        Learned::Refreshed(self.message(place))
    }

    fn message(&self, place: Place) -> LearnMessage {
        let (vlan, mac) = parts(self.slots.key(place));
        let Value { port, generation, seen, since, .. } = *self.slots.value(place);
        LearnMessage { vlan, mac, port, generation, seen, since }
    }

    /// The slot for the entry of `key`: `found`, which has the key already, or a vacant one; that of an aged entry only
    /// where there is no other. Without a time nothing has aged. A new entry needs room in the table; one that is
    /// `live` has it.
    fn room(&self, key: u64, found: Option<Place>, live: bool, now_s: Option<u32>) -> Result<Place, LearnRefusal> {
        if !live && self.len >= self.capacity {
            return Err(LearnRefusal::TableFull);
        }
        found.or_else(|| self.free(key, None)).or_else(|| self.free(key, now_s)).ok_or(LearnRefusal::BucketFull)
    }

    fn free(&self, key: u64, now_s: Option<u32>) -> Option<Place> {
        let [first, second] = self.slots.buckets_of(key).map(|bucket| {
            let places = (0..SLOTS).map(|slot| Place::new(bucket, slot));
            let mut free = places.filter(|&place| self.is_free(place, now_s));
            free.next().map(|place| (place, 1 + free.count()))
        });
        let (place, count) = first.or(second)?;
        match second {
            Some((other, more)) if count < KEEP_FREE && more > count => Some(other),
            _ => Some(place),
        }
    }

    /// Makes `place` hold the entry. What was there is gone, and no longer counted.
    fn put(&mut self, place: Place, key: u64, value: Value) {
        self.clear(place);
        self.note_change();
        self.slots.set(place, key, value);
        if let Some(state) = self.ports.get_mut(value.port.index()) {
            *state.count(value.fixed) += 1;
            self.len += 1;
            self.fixed += usize::from(value.fixed);
        }
    }

    fn clear(&mut self, place: Place) {
        let value = *self.slots.value(place);
        if !self.slots.is_vacant(place)
            && self.is_live(&value)
            && let Some(state) = self.ports.get_mut(value.port.index())
        {
            *state.count(value.fixed) -= 1;
            self.len -= 1;
            self.fixed -= usize::from(value.fixed);
            self.note_change();
        }
        self.slots.vacate(place);
    }

    /// Whether an entry can be put there: nothing is, or what is there has been flushed or has aged out.
    fn is_free(&self, place: Place, now_s: Option<u32>) -> bool {
        let value = self.slots.value(place);
        self.slots.is_vacant(place) || !self.is_live(value) || now_s.is_some_and(|now_s| self.is_old(value, now_s))
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

/// Seconds from `then` to `now` on a clock that may wrap; negative when `then` is later, as another core's may be.
#[inline]
fn elapsed(then: u32, now: u32) -> i32 {
    now.wrapping_sub(then) as i32
}

#[cfg(test)]
#[path = "fdb_tests.rs"]
mod tests;
