//! Tests of the MAC table: its rules one by one, a model of one replica, and two replicas that must agree.

use super::*;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

const HZ: u64 = 1_000_000;
const G1: PortId = PortId(0);
const G2: PortId = PortId(1);
const U1: PortId = PortId(2);
const U2: PortId = PortId(3);

fn settings(capacity: usize) -> FdbSettings {
    FdbSettings {
        capacity,
        ports: 4,
        ageing_s: NonZeroU32::new(100).expect("not zero"),
        learn_rate: NonZeroU32::new(1_000_000).expect("not zero"),
        learn_burst: NonZeroU32::new(1_000_000).expect("not zero"),
        cycles_per_s: HZ,
        seed: [1, 2, 3, 4].map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
    }
}

fn open(settings: &FdbSettings, limit: u32) -> Fdb {
    let mut fdb = Fdb::new(settings);
    for port in [G1, G2] {
        fdb.open_port(port, PortKind::Guest, limit);
    }
    for port in [U1, U2] {
        fdb.open_port(port, PortKind::Uplink, limit);
    }
    fdb
}

fn table() -> Fdb {
    open(&settings(1024), 1024)
}

fn at(seconds: u32) -> Now {
    Now { seconds, cycles: u64::from(seconds) * HZ }
}

fn mac(n: u64) -> MacAddr {
    MacAddr::from_bits(0x5254_0000_0000 + n)
}

fn vlan(id: u16) -> VlanId {
    VlanId::new(id).expect("a VLAN")
}

const V: VlanId = VlanId::DEFAULT;

fn message(learned: Learned) -> LearnMessage {
    match learned {
        Learned::New(message) | Learned::Moved(message) | Learned::Refreshed(message) => message,
        Learned::Known | Learned::Refused(_) => panic!("nothing to tell: {learned:?}"),
    }
}

fn all(fdb: &Fdb) -> Vec<Entry> {
    fdb.entries(0, fdb.buckets()).collect()
}

#[test]
fn learns_refreshes_and_ages() {
    let mut fdb = table();
    assert_eq!(fdb.lookup(V, mac(1)), None);
    assert!(matches!(fdb.learn(V, mac(1), G1, at(10)), Learned::New(_)));
    assert_eq!((fdb.lookup(V, mac(1)), fdb.lookup(vlan(2), mac(1))), (Some(G1), None));
    assert_eq!(fdb.learn(V, mac(1), G1, at(34)), Learned::Known);
    assert!(matches!(fdb.learn(V, mac(1), G1, at(35)), Learned::Refreshed(_)));
    assert_eq!(fdb.learn(V, mac(1), G1, at(36)), Learned::Known);
    assert_eq!(fdb.age(134, fdb.buckets()), 0);
    assert_eq!(fdb.age(135, fdb.buckets()), 1);
    assert_eq!((fdb.lookup(V, mac(1)), fdb.len(), fdb.port_len(G1)), (None, 0, (0, 0)));
}

#[test]
fn the_clock_may_wrap_and_lag() {
    let mut fdb = table();
    fdb.learn(V, mac(1), G1, at(u32::MAX - 5));
    assert_eq!(fdb.age(90, fdb.buckets()), 0);
    assert_eq!(fdb.age(u32::MAX - 9, fdb.buckets()), 0);
    assert_eq!(fdb.age(94, fdb.buckets()), 1);
}

#[test]
fn ageing_goes_round_in_steps() {
    let mut fdb = table();
    for n in 0..500 {
        fdb.learn(V, mac(n), G1, at(0));
    }
    let steps = fdb.buckets().div_ceil(7);
    let removed: Vec<usize> = (0..steps).map(|_| fdb.age(100, 7)).collect();
    assert!(removed.iter().all(|&count| count <= 7 * SLOTS));
    assert_eq!((removed.iter().sum::<usize>(), fdb.len()), (500, 0));
}

#[test]
fn a_guest_keeps_its_address() {
    let mut fdb = table();
    fdb.learn(V, mac(1), G1, at(0));
    for port in [G2, U1] {
        assert_eq!(fdb.learn(V, mac(1), port, at(99)), Learned::Refused(LearnRefusal::OwnedByGuest));
    }
    assert_eq!(fdb.lookup(V, mac(1)), Some(G1));
    assert!(matches!(fdb.learn(V, mac(1), G2, at(100)), Learned::Moved(_)), "aged out, though not yet swept");
    assert_eq!((fdb.lookup(V, mac(1)), fdb.len()), (Some(G2), 1));
    fdb.flush_port(G2);
    assert_eq!(fdb.lookup(V, mac(1)), None);
    assert!(matches!(fdb.learn(V, mac(1), U1, at(101)), Learned::New(_)));
}

#[test]
fn an_uplinks_address_moves() {
    let mut fdb = table();
    fdb.learn(V, mac(1), U1, at(0));
    for (port, count) in [(U2, (1, 0)), (U1, (1, 0)), (G1, (1, 0))] {
        assert!(matches!(fdb.learn(V, mac(1), port, at(1)), Learned::Moved(_)));
        assert_eq!((fdb.lookup(V, mac(1)), fdb.port_len(port), fdb.len()), (Some(port), count, 1));
    }
    assert_eq!(fdb.learn(V, mac(1), U1, at(2)), Learned::Refused(LearnRefusal::OwnedByGuest));
}

#[test]
fn a_fixed_address_never_moves() {
    let mut fdb = table();
    fdb.learn(V, mac(1), U1, at(0));
    assert_eq!(fdb.insert_fixed(V, mac(1), G1), Ok(()));
    assert_eq!((fdb.port_len(U1), fdb.port_len(G1)), ((0, 0), (0, 1)));
    assert_eq!(fdb.insert_fixed(V, mac(1), G2), Err(LearnRefusal::Fixed));
    assert_eq!(fdb.insert_fixed(V, mac(1), G1), Ok(()));
    assert_eq!(fdb.learn(V, mac(1), G1, at(5000)), Learned::Known);
    assert_eq!(fdb.learn(V, mac(1), U1, at(5000)), Learned::Refused(LearnRefusal::Fixed));
    fdb.flush_port(G1);
    assert_eq!(fdb.age(9999, fdb.buckets()), 0);
    assert_eq!(fdb.lookup(V, mac(1)), Some(G1));
    fdb.close_port(G1);
    assert_eq!((fdb.lookup(V, mac(1)), fdb.len()), (None, 0));
    assert_eq!(fdb.insert_fixed(V, mac(1), G1), Err(LearnRefusal::UnknownPort));
    assert_eq!(fdb.insert_fixed(V, mac(1), G2), Ok(()));
}

#[test]
fn what_is_not_a_station_is_refused() {
    let mut fdb = table();
    for bad in [MacAddr([0; 6]), MacAddr([0xff; 6]), MacAddr([1, 0, 0x5e, 0, 0, 1])] {
        assert_eq!(fdb.learn(V, bad, G1, at(0)), Learned::Refused(LearnRefusal::BadSource));
        assert_eq!(fdb.insert_fixed(V, bad, G1).is_err(), bad.is_multicast());
    }
    // What is for no station has a place if it was configured, and can be learnt from nobody.
    let nobody = MacAddr([0; 6]);
    assert_eq!((fdb.lookup(V, nobody), fdb.len()), (Some(G1), 1));
    assert_eq!(fdb.learn(V, nobody, G2, at(0)), Learned::Refused(LearnRefusal::BadSource));
    fdb.close_port(G1);
    assert_eq!(fdb.learn(V, mac(1), PortId(9), at(0)), Learned::Refused(LearnRefusal::UnknownPort));
    fdb.open_port(PortId(9), PortKind::Guest, 1);
    fdb.flush_port(PortId(9));
    assert_eq!(fdb.len(), 0);
}

#[test]
fn one_port_cannot_fill_the_table() {
    let mut fdb = open(&settings(1024), 100);
    fdb.learn(V, mac(5000), G2, at(0));
    fdb.learn(V, mac(6000), U1, at(0));
    let new = (0..400).filter(|&n| matches!(fdb.learn(V, mac(n), G1, at(0)), Learned::New(_))).count();
    assert_eq!((new, fdb.port_len(G1)), (100, (100, 0)));
    assert_eq!(fdb.learn(V, mac(999), G1, at(0)), Learned::Refused(LearnRefusal::PortLimit));
    assert_eq!(fdb.learn(V, mac(6000), G1, at(0)), Learned::Refused(LearnRefusal::PortLimit));
    assert_eq!((fdb.lookup(V, mac(5000)), fdb.lookup(V, mac(6000))), (Some(G2), Some(U1)));
    assert!(matches!(fdb.learn(V, mac(5001), G2, at(0)), Learned::New(_)));
}

#[test]
fn learning_has_a_rate() {
    let mut fdb = open(
        &FdbSettings {
            learn_rate: NonZeroU32::new(10).expect("not zero"),
            learn_burst: NonZeroU32::new(5).expect("not zero"),
            ..settings(1024)
        },
        1024,
    );
    let mut new = |from: u64, port, second| {
        (from..from + 50).filter(|&n| matches!(fdb.learn(V, mac(n), port, at(second)), Learned::New(_))).count()
    };
    assert_eq!(new(0, G1, 0), 5);
    assert_eq!(new(100, G2, 0), 5, "each port has its own");
    assert_eq!(new(200, G1, 60), 5);
    assert_eq!(fdb.learn(V, mac(299), G1, at(60)), Learned::Refused(LearnRefusal::RateLimit));
    assert_eq!(fdb.learn(V, mac(0), G1, at(1)), Learned::Known);
}

#[test]
fn a_full_table_refuses() {
    let mut fdb = open(&settings(64), 1000);
    let results: Vec<Learned> = (0..65).map(|n| fdb.learn(V, mac(n), U1, at(0))).collect();
    assert!(results[..64].iter().all(|learned| matches!(learned, Learned::New(_))));
    assert_eq!(results[64], Learned::Refused(LearnRefusal::TableFull));
    assert_eq!(fdb.insert_fixed(V, mac(64), G1), Err(LearnRefusal::TableFull));
    assert!((0..64).all(|n| fdb.lookup(V, mac(n)) == Some(U1)));
}

/// At half load, no key of a full table should find both its buckets full, whatever the seed.
#[test]
fn the_whole_capacity_can_be_used() {
    for seed in 1..20u64 {
        let seed = [seed, seed << 40, !seed, seed * 77].map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut fdb = open(&FdbSettings { seed, ..settings(4096) }, 5000);
        for n in 0..4096 {
            let learned = fdb.learn(V, mac(n), U1, at(0));
            assert!(matches!(learned, Learned::New(_)), "{n} {learned:?}");
        }
        let first = (0..4096).filter(|&n| {
            let key = key(V, mac(n));
            fdb.slots.find(key).is_some_and(|place| place.bucket() == fdb.slots.buckets_of(key)[0])
        });
        assert!(first.count() > 4096 * 7 / 10);
    }
}

/// More keys than a bucket pair holds, all of which were chosen with knowledge of the seed: the last is refused, and
/// nobody is pushed out.
#[test]
fn a_full_bucket_refuses() {
    let mut fdb = open(&settings(8), 1000);
    fdb.capacity = 1000;
    assert_eq!(fdb.buckets(), 2);
    let results: Vec<Learned> = (0..17).map(|n| fdb.learn(V, mac(n), U1, at(0))).collect();
    assert_eq!(results[16], Learned::Refused(LearnRefusal::BucketFull));
    assert!((0..16).all(|n| fdb.lookup(V, mac(n)) == Some(U1)));
    fdb.flush_port(U1);
    assert!(matches!(fdb.learn(V, mac(16), U2, at(0)), Learned::New(_)), "flushed slots are used again");
    assert_eq!((fdb.len(), all(&fdb).len()), (1, 1));
}

#[test]
fn a_message_from_before_a_flush_is_ignored() {
    let (mut here, mut there) = (table(), table());
    let old = message(here.learn(V, mac(1), G1, at(0)));
    there.flush_port(G1);
    assert!(!there.apply(&old));
    here.flush_port(G1);
    let new = message(here.learn(V, mac(1), G1, at(1)));
    assert!(there.apply(&new));
    assert_eq!(there.lookup(V, mac(1)), Some(G1));
    there.close_port(G1);
    assert!(!there.apply(&new));
    assert_eq!(there.len(), 0);
}

#[test]
fn a_replica_that_comes_late_takes_over_what_is_learnt_since_the_last_flush() {
    let (mut here, mut late) = (table(), table());
    here.flush_port(G1);
    let told = message(here.learn(V, mac(1), G1, at(1)));
    assert!(!late.apply(&told));
    late.resume(G1, told.generation);
    assert!(late.apply(&told));
    assert_eq!(all(&late), all(&here));
    [&mut here, &mut late].into_iter().for_each(|fdb| fdb.flush_port(G1));
    let told = message(here.learn(V, mac(2), G1, at(2)));
    assert!(!late.apply(&LearnMessage { generation: told.generation - 1, ..told }) && late.apply(&told));
}

#[test]
fn the_older_of_two_claims_wins_everywhere() {
    for (second, winner) in [(7, G1), (6, G2), (8, G1)] {
        let (mut a, mut b) = (table(), table());
        let from_a = message(a.learn(V, mac(1), G1, at(7)));
        let from_b = message(b.learn(V, mac(1), G2, at(second)));
        a.apply(&from_b);
        b.apply(&from_a);
        assert_eq!((a.lookup(V, mac(1)), b.lookup(V, mac(1))), (Some(winner), Some(winner)));
        assert_eq!((a.len(), b.len()), (1, 1));
    }
}

#[test]
fn a_guests_claim_beats_an_uplinks() {
    let (mut a, mut b) = (table(), table());
    let from_a = message(a.learn(V, mac(1), U1, at(7)));
    let from_b = message(b.learn(V, mac(1), G2, at(7)));
    assert!(a.apply(&from_b));
    assert!(!b.apply(&from_a));
    assert_eq!((a.lookup(V, mac(1)), b.lookup(V, mac(1))), (Some(G2), Some(G2)));
}

#[test]
fn a_flushed_slot_is_no_room_in_a_full_table() {
    let (mut a, mut b) = (table(), open(&settings(1), 10));
    b.learn(V, mac(1), G1, at(0));
    b.flush_port(G1);
    b.learn(V, mac(2), G2, at(0));
    assert_eq!(b.learn(V, mac(1), U1, at(0)), Learned::Refused(LearnRefusal::TableFull));
    assert_eq!(b.insert_fixed(V, mac(1), U1), Err(LearnRefusal::TableFull));
    assert!(!b.apply(&message(a.learn(V, mac(1), U1, at(0)))));
    assert_eq!((b.len(), all(&b).len()), (1, 1));
}

#[test]
fn messages_respect_fixed_entries_and_room() {
    let (mut a, mut b) = (table(), open(&settings(1), 10));
    b.insert_fixed(V, mac(1), G2).expect("room");
    assert!(!b.apply(&message(a.learn(V, mac(1), U1, at(0)))));
    assert!(!b.apply(&message(a.learn(V, mac(2), U1, at(0)))));
    assert_eq!(all(&b).len(), 1);
}

#[derive(Clone, Debug)]
enum Act {
    Learn { mac: u64, vlan: u16, port: u16 },
    Wait(u32),
    Age(usize),
    Flush(u16),
    Fix { mac: u64, port: u16 },
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        20 => (0u64..40, 1u16..3, 0u16..4).prop_map(|(mac, vlan, port)| Act::Learn { mac, vlan, port }),
        3 => (1u32..60).prop_map(Act::Wait),
        2 => (0usize..40).prop_map(Act::Age),
        1 => (0u16..4).prop_map(Act::Flush),
        1 => (0u64..40, 0u16..4).prop_map(|(mac, port)| Act::Fix { mac, port }),
    ]
}

/// What the rules say, without buckets: (VLAN, MAC) → port, fixed, last noted.
type Model = HashMap<(u16, u64), (u16, bool, u32)>;

fn model_learn(model: &mut Model, at: (u16, u64), port: u16, now: u32, limit: usize) -> bool {
    let held = model.values().filter(|entry| entry.0 == port && !entry.1).count();
    match model.get_mut(&at) {
        Some((owner, fixed, seen)) if *owner == port => {
            if !*fixed && now - *seen >= 25 {
                *seen = now;
            }
            true
        }
        Some((_, true, _)) => false,
        Some((owner, _, seen)) if *owner < 2 && now - *seen < 100 => false,
        _ if held >= limit => false,
        _ => {
            model.insert(at, (port, false, now));
            true
        }
    }
}

/// What learning came to, in the words of [`Fdb::foresee`]; `owner` had the address before.
fn in_advance(learned: Learned, owner: Option<PortId>) -> Option<Learning> {
    Some(match learned {
        Learned::Known => Learning::Known,
        Learned::Refreshed(_) => Learning::Refresh,
        Learned::New(_) => Learning::New,
        Learned::Moved(_) => Learning::Move(owner?),
        Learned::Refused(refusal) => Learning::Refused(refusal),
    })
}

/// In any table, what is foreseen is what learning then does, and what is foretold of every station is what is found then.
#[test]
fn what_is_foreseen_comes_true() {
    // Buckets for so many entries, and how many there may be: tables that are full, and ones whose buckets are.
    let sizes = prop_oneof![Just((8, 6)), Just((8, 1000)), Just((64, 1000))];
    let strategy = (sizes, prop::collection::vec(act(), 1..300));
    let count = RefCell::new(BTreeMap::new());
    let seen = |what: &'static str| *count.borrow_mut().entry(what).or_insert(0) += 1;
    let mut runner = TestRunner::new(ProptestConfig { cases: 100, ..ProptestConfig::default() });
    let outcome = runner.run(&strategy, |((buckets_for, capacity), acts)| {
        let (learn_rate, learn_burst) = (NonZeroU32::MIN, NonZeroU32::new(2).expect("not zero"));
        let mut fdb = open(&FdbSettings { learn_rate, learn_burst, ..settings(buckets_for) }, 6);
        fdb.capacity = capacity;
        // One station is none, and one port is not open.
        let station = |n| if n == 0 { MacAddr([0xff; 6]) } else { mac(n) };
        fdb.close_port(U2);
        let mut now = 1000;
        for act in acts {
            match act {
                Act::Learn { mac: n, vlan: id, port } => {
                    let (source, port) = (station(n), PortId(port));
                    let others = || (1..3).flat_map(|id| (0..40).map(move |n| (vlan(id), station(n))));
                    let before: Vec<_> = others().map(|(vlan, mac)| fdb.lookup(vlan, mac)).collect();
                    let owner = fdb.lookup(vlan(id), source);
                    let foreseen = fdb.foresee(vlan(id), source, port, at(now));
                    let told: Vec<_> = others().map(|(vlan, mac)| fdb.lookup_after(&foreseen, vlan, mac)).collect();
                    let learned = fdb.learn(vlan(id), source, port, at(now));
                    let found: Vec<_> = others().map(|(vlan, mac)| fdb.lookup(vlan, mac)).collect();
                    prop_assert_eq!(Some(foreseen.learning), in_advance(learned, owner));
                    prop_assert_eq!(&told, &found);
                    seen(match learned {
                        Learned::Known => "known",
                        Learned::Refreshed(_) => "refreshed",
                        Learned::New(_) => "new",
                        Learned::Moved(_) if owner.is_some_and(|owner| owner < U1) => "moved from a guest, aged",
                        Learned::Moved(_) => "moved from an uplink",
                        Learned::Refused(refusal) => refusal.as_str(),
                    });
                    if before.iter().zip(&found).any(|(before, found)| before.is_some() && found.is_none()) {
                        seen("in the place of another, aged");
                    }
                }
                Act::Wait(seconds) => now += seconds,
                Act::Age(buckets) => _ = fdb.age(now, buckets),
                Act::Flush(port) => fdb.flush_port(PortId(port)),
                Act::Fix { mac: n, port } => _ = fdb.insert_fixed(V, station(n), PortId(port)),
            }
        }
        Ok(())
    });
    outcome.expect("foreseen and done are the same");
    let count = count.into_inner();
    let learnt = ["known", "refreshed", "new", "moved from a guest, aged", "moved from an uplink"];
    let refused = LearnRefusal::ALL.map(LearnRefusal::as_str);
    for kind in learnt.into_iter().chain(["in the place of another, aged"]).chain(refused) {
        assert!(count.contains_key(kind), "{kind} is not among {count:?}");
    }
}

proptest! {
    /// In one second, the same edition finds the same: every station where it was, and everybody known who was known.
    #[test]
    fn an_edition_stands_for_what_is_found(acts in prop::collection::vec((act(), any::<bool>()), 1..400)) {
        let mut fdb = open(&settings(64), 12);
        let mut now = 1000;
        let mut before = None;
        for (act, here) in acts {
            match act {
                Act::Learn { mac: n, vlan: id, port } if here => {
                    fdb.learn(vlan(id), mac(n), PortId(port), at(now));
                }
                Act::Learn { mac: n, vlan: id, port } => {
                    let generation = fdb.ports[usize::from(port)].learnt_generation;
                    let (vlan, mac, port) = (vlan(id), mac(n), PortId(port));
                    fdb.apply(&LearnMessage { vlan, mac, port, generation, seen: now, since: now });
                }
                Act::Wait(seconds) => now += seconds,
                Act::Age(buckets) => _ = fdb.age(now, buckets),
                Act::Flush(port) if here => fdb.flush_port(PortId(port)),
                Act::Flush(port) => {
                    fdb.close_port(PortId(port));
                    fdb.open_port(PortId(port), PortKind::Guest, 12);
                }
                Act::Fix { mac: n, port } => _ = fdb.insert_fixed(V, mac(n), PortId(port)),
            }
            let stations = || (1..3).flat_map(|id| (0..40).map(move |n| (vlan(id), mac(n))));
            let found: Vec<_> = stations().map(|(vlan, mac)| fdb.lookup(vlan, mac)).collect();
            let known: Vec<_> = stations()
                .flat_map(|(vlan, mac)| [G1, G2, U1, U2].map(|port| fdb.foresee(vlan, mac, port, at(now)).learning))
                .map(|learning| learning == Learning::Known)
                .collect();
            let basis = (fdb.edition(), now);
            if let Some((last, found_last, known_last)) = before.replace((basis, found.clone(), known.clone()))
                && last == basis
            {
                prop_assert_eq!(found_last, found);
                // One that was to be noted again may have been.
                prop_assert!(known_last.iter().zip(&known).all(|(last, now)| !last || *now));
            }
        }
    }

    #[test]
    fn one_replica_follows_the_model(acts in prop::collection::vec(act(), 1..400)) {
        const LIMIT: usize = 12;
        let mut fdb = open(&settings(256), LIMIT as u32);
        let mut model = Model::new();
        let mut now = 1000;
        for act in acts {
            match act {
                Act::Learn { mac: n, vlan: id, port } => {
                    let learned = fdb.learn(vlan(id), mac(n), PortId(port), at(now));
                    let expected = model_learn(&mut model, (id, n), port, now, LIMIT);
                    prop_assert_eq!(!matches!(learned, Learned::Refused(_)), expected, "{:?}", learned);
                }
                Act::Wait(seconds) => now += seconds,
                Act::Age(budget) => {
                    fdb.age(now, budget);
                    // What the sweep has not reached yet is still there: compare after a whole round.
                    fdb.age(now, fdb.buckets());
                    model.retain(|_, entry| entry.1 || now - entry.2 < 100);
                }
                Act::Flush(port) => {
                    fdb.flush_port(PortId(port));
                    model.retain(|_, entry| entry.1 || entry.0 != port);
                }
                Act::Fix { mac: n, port } => {
                    let entry = model.get(&(1, n)).copied();
                    let allowed = entry.is_none_or(|entry| !entry.1 || entry.0 == port);
                    prop_assert_eq!(fdb.insert_fixed(V, mac(n), PortId(port)).is_ok(), allowed);
                    if allowed {
                        model.insert((1, n), (port, true, 0));
                    }
                }
            }
            prop_assert_eq!(fdb.len(), model.len());
        }
        for (&(id, n), &(port, ..)) in &model {
            prop_assert_eq!(fdb.lookup(vlan(id), mac(n)), Some(PortId(port)));
        }
        let shown = all(&fdb);
        prop_assert_eq!(shown.len(), model.len());
        for entry in shown {
            let n = entry.mac.to_bits() - mac(0).to_bits();
            prop_assert_eq!(model.get(&(entry.vlan.get(), n)).map(|entry| (entry.0, entry.1)), Some((entry.port.0, entry.fixed)));
        }
        for port in 0..4 {
            let learnt = model.values().filter(|entry| entry.0 == port && !entry.1).count();
            let fixed = model.values().filter(|entry| entry.0 == port && entry.1).count();
            prop_assert_eq!(fdb.port_len(PortId(port)), (learnt as u32, fixed as u32));
        }
    }

    /// Guests on two cores, with messages that arrive late: once all have arrived, both replicas say the same, and an
    /// address of a guest that nobody contested is still that guest's.
    #[test]
    fn two_replicas_agree_in_the_end(
        acts in prop::collection::vec((0u64..10, 0usize..2, prop::option::of(0u32..3)), 1..200), delay in 0usize..8,
    ) {
        let mut replicas = [table(), table()];
        let mut under_way: [std::collections::VecDeque<LearnMessage>; 2] = Default::default();
        let mut now = 50;
        for (n, core, wait) in acts {
            now += wait.unwrap_or(0);
            // Core 0 has guest G1, core 1 has guest G2.
            match replicas[core].learn(V, mac(n), [G1, G2][core], at(now)) {
                Learned::New(message) | Learned::Moved(message) | Learned::Refreshed(message) => under_way[1 - core].push_back(message),
                Learned::Known | Learned::Refused(_) => {}
            }
            for (replica, queue) in replicas.iter_mut().zip(&mut under_way) {
                while queue.len() > delay {
                    queue.pop_front().iter().for_each(|message| { replica.apply(message); });
                }
            }
        }
        for (replica, queue) in replicas.iter_mut().zip(&mut under_way) {
            queue.drain(..).for_each(|message| { replica.apply(&message); });
        }
        for n in 0..10 {
            prop_assert_eq!(replicas[0].lookup(V, mac(n)), replicas[1].lookup(V, mac(n)));
        }
        prop_assert_eq!(replicas[0].len(), replicas[1].len());
    }

    #[test]
    fn keys_name_their_entry(id in 1u16..4095, bits in 0u64..1 << 48) {
        // Not a group, not zero.
        let mac = MacAddr::from_bits(bits & !(1 << 40) | 1);
        let mut fdb = table();
        fdb.learn(vlan(id), mac, U1, at(3));
        prop_assert_eq!(all(&fdb), vec![Entry { vlan: vlan(id), mac, port: U1, fixed: false, seen: 3 }]);
        let message = LearnMessage { seen: 3, ..message(fdb.learn(vlan(id), mac, U2, at(3))) };
        prop_assert_eq!((message.vlan, message.mac, message.port), (vlan(id), mac, U2));
    }
}
