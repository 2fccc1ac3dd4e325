//! The storage of the MAC table: slots in buckets of eight, found by a keyed hash.

use super::{MacAddr, PortId, VlanId};

/// Slots of a bucket.
pub(super) const SLOTS: usize = 8;

/// A key is (VLAN, MAC) below this bit, which is set in every key so that none is [`VACANT`].
const PRESENT: u64 = 1 << 63;
const VACANT: u64 = 0;

/// What is stored for a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value {
    pub(super) port: PortId,
    pub(super) fixed: bool,
    /// The port's, when the entry was made: one that is not the port's any more is as good as vacant.
    pub(super) generation: u32,
    pub(super) seen: u32,
    pub(super) since: u32,
}

/// Keys fill one cache line, values two.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Bucket {
    keys: [u64; SLOTS],
    values: [Value; SLOTS],
}

/// A slot of the table, counted through all buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(usize);

impl Place {
    #[inline]
    pub(super) fn new(bucket: usize, slot: usize) -> Self {
        Self(bucket * SLOTS + slot)
    }

    #[inline]
    pub(super) fn bucket(self) -> usize {
        self.0 / SLOTS
    }

    #[inline]
    fn slot(self) -> usize {
        self.0 % SLOTS
    }
}

/// All slots, and the secret that says which of them a key may be in.
pub(super) struct Slots {
    buckets: Box<[Bucket]>,
    seed: [u64; 4],
}

impl Slots {
    /// Vacant slots, at least twice as many as `entries`.
    pub(super) fn new(entries: usize, seed: [u64; 4]) -> Self {
        let value = Value { port: PortId(0), fixed: false, generation: 0, seen: 0, since: 0 };
        let bucket = Bucket { keys: [VACANT; SLOTS], values: [value; SLOTS] };
        let buckets = entries.div_ceil(SLOTS / 2).next_power_of_two().max(2);
        Self { buckets: vec![bucket; buckets].into_boxed_slice(), seed }
    }

    /// The slot that has `key`. The caller keeps it to one at most.
    #[inline]
    pub(super) fn find(&self, key: u64) -> Option<Place> {
        let [first, second] = self.buckets_of(key);
        if let Some(slot) = position(&self.buckets[first].keys, key) {
            return Some(Place::new(first, slot));
        }
        position(&self.buckets[second].keys, key).map(|slot| Place::new(second, slot))
    }

    /// The two buckets of a key. Two rounds of multiply and fold under a secret: what a guest sees (that an address was
    /// or was not learnt) does not lead back to it.
    #[inline]
    pub(super) fn buckets_of(&self, key: u64) -> [usize; 2] {
        let [a, b, c, d] = self.seed;
        let hash = fold(fold(key ^ a, b | 1) ^ c, d | 1);
        let mask = self.buckets.len() - 1;
        let (first, second) = (hash as usize & mask, (hash >> 32) as usize & mask);
        [first, if second == first { first ^ 1 } else { second }]
    }

    /// Number of buckets: a power of two.
    pub(super) fn buckets(&self) -> usize {
        self.buckets.len()
    }

    /// Whether no entry was put there since it was vacated last.
    pub(super) fn is_vacant(&self, place: Place) -> bool {
        self.key(place) == VACANT
    }

    /// The key of a slot.
    pub(super) fn key(&self, place: Place) -> u64 {
        self.buckets[place.bucket()].keys[place.slot()]
    }

    /// The value of a slot; of no meaning in a vacant one.
    #[inline]
    pub(super) fn value(&self, place: Place) -> &Value {
        &self.buckets[place.bucket()].values[place.slot()]
    }

    /// Makes the slot hold this.
    pub(super) fn set(&mut self, place: Place, key: u64, value: Value) {
        let bucket = &mut self.buckets[place.bucket()];
        bucket.keys[place.slot()] = key;
        bucket.values[place.slot()] = value;
    }

    /// Makes the slot hold nothing.
    pub(super) fn vacate(&mut self, place: Place) {
        self.buckets[place.bucket()].keys[place.slot()] = VACANT;
    }

    /// What is in `count` buckets from bucket `from` on.
    pub(super) fn iter(&self, from: usize, count: usize) -> impl Iterator<Item = (VlanId, MacAddr, &Value)> {
        let slots =
            self.buckets.iter().skip(from).take(count).flat_map(|bucket| bucket.keys.iter().zip(&bucket.values));
        slots.filter(|&(&key, _)| key != VACANT).map(|(&key, value)| {
            let (vlan, mac) = parts(key);
            (vlan, mac, value)
        })
    }
}

/// One number for both, never that of a vacant slot.
#[inline]
pub(super) fn key(vlan: VlanId, mac: MacAddr) -> u64 {
    PRESENT | u64::from(vlan.get()) << 48 | mac.to_bits()
}

/// What a key was made of.
pub(super) fn parts(key: u64) -> (VlanId, MacAddr) {
    // Keys are made of a VlanId, so the default is never taken.
    let vlan = VlanId::new((key >> 48) as u16 & 0x0fff).unwrap_or(VlanId::DEFAULT);
    (vlan, MacAddr::from_bits(key))
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

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: [u64; 4] = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89];

    #[test]
    fn every_bit_of_a_key_moves_it() {
        let slots = Slots::new(1 << 16, SEED);
        let base = key(VlanId::DEFAULT, MacAddr([0x52, 0x54, 0, 0, 0, 1]));
        for bit in 0..60 {
            let [first, second] = slots.buckets_of(base ^ 1 << bit);
            assert_ne!([first, second], slots.buckets_of(base));
            assert_ne!(first, second);
        }
    }

    #[test]
    fn consecutive_addresses_spread() {
        let slots = Slots::new(4096, SEED);
        let mut hits = vec![0u32; slots.buckets()];
        for n in 0..8 * slots.buckets() as u64 {
            hits[slots.buckets_of(key(VlanId::DEFAULT, MacAddr::from_bits(0x5254_0000_0000 + n)))[0]] += 1;
        }
        // Eight on average; more than 30 would be one chance in a million for any of these buckets.
        assert!(hits.iter().all(|&count| count < 30));
    }

    #[test]
    fn a_value_is_found_until_it_is_vacated() {
        let mut slots = Slots::new(8, SEED);
        let key = key(VlanId::DEFAULT, MacAddr([2, 0, 0, 0, 0, 1]));
        let place = Place::new(slots.buckets_of(key)[1], 7);
        assert!(slots.is_vacant(place) && slots.find(key).is_none());
        slots.set(place, key, Value { port: PortId(3), fixed: false, generation: 0, seen: 0, since: 0 });
        assert_eq!((slots.find(key), slots.value(place).port, slots.iter(0, 2).count()), (Some(place), PortId(3), 1));
        slots.vacate(place);
        assert!(slots.find(key).is_none());
    }
}
