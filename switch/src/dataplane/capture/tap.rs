//! What an I/O core does for captures: it looks at the bursts of captured ports, and copies what is asked for into a ring of bytes.
//!
//! Nothing here locks, allocates or waits. What there is no time, no rate or no room for is counted as missed. A core that has spent its time is blind for
//! as long as it takes to earn some: until then packets are counted, and neither they nor the clock are looked at.

use std::sync::Arc;

use arrayvec::ArrayVec;
use pmd_bindings::tsc;
use ringbuf::traits::{Observer, Producer, Split};
use ringbuf::{HeapProd, HeapRb};
use vm_ports::{Burst, Counter, FRAME_MAX, View};

use super::allowance::Allowance;
use super::filter::{Filter, Verdict};
use super::record::{Direction, HEADER, Reader, Record};
use crate::forwarding::{PortId, TokenBucket};

/// Captures that run at once, at most.
pub(crate) const CAPTURES_MAX: usize = 4;
/// Ports in one capture, at most.
pub(crate) const INTERFACES_MAX: usize = 16;
/// Of a port that is not captured.
const NONE: u8 = u8::MAX;
/// Packets of a burst between two looks at the clock.
const PORTION: usize = 8;

/// Why a packet was missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missed {
    /// The core had spent the time it may.
    Time,
    /// There were more in a second than were asked for.
    Rate,
    /// The ring was full: whoever reads is too slow.
    Room,
}

impl Missed {
    pub(crate) const ALL: [Self; 3] = [Self::Time, Self::Rate, Self::Room];

    /// Its name in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Time => "core_time",
            Self::Rate => "rate",
            Self::Room => "slow_reader",
        }
    }
}

/// What one core counts of one port of a capture. Each packet seen is one of the others.
#[derive(Debug, Default)]
pub(super) struct TapCounters {
    pub(super) seen: Counter,
    /// Those that the filter does not match.
    pub(super) unmatched: Counter,
    pub(super) recorded: Counter,
    pub(super) missed: [Counter; Missed::ALL.len()],
}

/// What is recorded of which packets.
#[derive(Debug, Clone)]
pub(super) struct Selection {
    /// By port: its number in the capture.
    interfaces: Arc<[u8]>,
    pub(super) from: bool,
    pub(super) to: bool,
    pub(super) filter: Option<Arc<Filter>>,
    /// Bytes kept of a packet, at most.
    pub(super) snaplen: usize,
    /// For each core.
    pub(super) rate: TokenBucket,
    /// Hundredths of a core's time.
    pub(super) core_share: u32,
    pub(super) cycles_per_s: u64,
}

impl Selection {
    /// Everything of these ports.
    pub(super) fn all(ports: &[PortId], ports_max: usize, cycles_per_s: u64) -> Self {
        let mut interfaces = vec![NONE; ports_max];
        for (interface, port) in ports.iter().enumerate() {
            interfaces[port.index()] = interface as u8;
        }
        let interfaces = interfaces.into();
        let rate = TokenBucket::UNLIMITED;
        Self { interfaces, from: true, to: true, filter: None, snaplen: FRAME_MAX, rate, core_share: 100, cycles_per_s }
    }

    /// The port's number, if packets that go this way are wanted.
    #[inline]
    fn interface(&self, port: PortId, direction: Direction) -> Option<u8> {
        let wanted = match direction {
            Direction::From => self.from,
            Direction::To => self.to,
        };
        self.interfaces.get(port.index()).copied().filter(|interface| wanted && *interface != NONE)
    }
}

/// The captures that a core has a part in.
#[derive(Default)]
pub(in super::super) struct Taps {
    taps: ArrayVec<Box<Tap>, CAPTURES_MAX>,
    /// When the core began the burst at hand, in cycles: what it knows without a look at the clock.
    now: u64,
}

impl Taps {
    /// Whether there is any.
    #[inline]
    pub(in super::super) fn are_there(&self) -> bool {
        !self.taps.is_empty()
    }

    /// Has a part in one more, of which there are never more than [`CAPTURES_MAX`].
    pub(in super::super) fn add(&mut self, tap: Box<Tap>) {
        let _ = self.taps.try_push(tap);
    }

    /// Has no part in this capture any more.
    pub(in super::super) fn remove(&mut self, capture: u64) -> Option<Box<Tap>> {
        let at = self.taps.iter().position(|tap| tap.capture == capture)?;
        Some(self.taps.remove(at))
    }

    /// A burst begins, at the time `now`.
    #[inline]
    pub(in super::super) fn begin_burst(&mut self, now: u64) {
        self.now = now;
    }

    /// These packets have come from the port. The burst begins.
    #[inline]
    pub(in super::super) fn see_burst(&mut self, port: PortId, burst: &Burst<'_>, now: u64) {
        if self.are_there() {
            self.begin_burst(now);
            self.see(port, Direction::From, (0..burst.len()).map(|index| burst.view(index)));
        }
    }

    /// These packets come from the port, or were put out to it.
    #[cold]
    pub(in super::super) fn see<'b>(
        &mut self,
        port: PortId,
        direction: Direction,
        views: impl Iterator<Item = View<'b>> + Clone,
    ) {
        for tap in &mut self.taps {
            if let Some(interface) = tap.selection.interface(port, direction) {
                tap.see(interface, direction, self.now, views.clone());
            }
        }
    }
}

/// A core's part in a capture. Made, and freed, by others.
pub(in super::super) struct Tap {
    capture: u64,
    selection: Selection,
    allowance: Allowance,
    ring: HeapProd<u8>,
    /// A record as it goes into the ring.
    record: Box<[u8]>,
    counters: Arc<[TapCounters]>,
    /// Missed since the last record, by interface.
    missed: [u32; INTERFACES_MAX],
}

/// A core's part in a capture of so many ports, who reads its ring, of so many bytes, and what it counts.
pub(super) fn tap(
    capture: u64,
    interfaces: usize,
    selection: Selection,
    ring_bytes: usize,
) -> (Tap, Reader, Arc<[TapCounters]>) {
    let (mut ring, mut reader) = HeapRb::new(ring_bytes).split();
    // Once round, so that no core is the first to touch its pages.
    let zeros = [0; 4096];
    while ring.push_slice(&zeros) > 0 {}
    ringbuf::traits::Consumer::clear(&mut reader);
    let counters: Arc<[TapCounters]> = (0..interfaces).map(|_| TapCounters::default()).collect();
    let tap = Tap {
        capture,
        allowance: Allowance::new(selection.core_share, selection.cycles_per_s),
        ring,
        // Not zeros: those would be pages that are made when a core first touches them.
        record: vec![1; HEADER + FRAME_MAX].into(),
        selection,
        counters: Arc::clone(&counters),
        missed: [0; INTERFACES_MAX],
    };
    (tap, Reader::new(reader), counters)
}

impl Tap {
    fn see<'b>(&mut self, interface: u8, direction: Direction, now: u64, mut views: impl Iterator<Item = View<'b>>) {
        if self.allowance.is_blind(now) {
            return self.overlook(interface, views);
        }
        let time = tsc();
        self.allowance.earn(time);
        let mut start = time;
        let mut next = views.next();
        while next.is_some() {
            for _ in 0..PORTION {
                let Some(view) = next.take() else { break };
                self.look(interface, direction, time, view);
                next = views.next();
            }
            let end = tsc();
            self.allowance.pay(end.saturating_sub(start));
            start = end;
            if self.allowance.is_blind(time) {
                return self.overlook(interface, next.into_iter().chain(views));
            }
        }
    }

    /// There is no time for these.
    fn overlook<'b>(&mut self, interface: u8, views: impl Iterator<Item = View<'b>>) {
        let count = views.count();
        self.counters[usize::from(interface)].seen.add(count as u64);
        self.miss(interface, Missed::Time, count);
    }

    /// Records a packet, if it is one of those that are asked for.
    fn look(&mut self, interface: u8, direction: Direction, time: u64, view: View<'_>) {
        let len = view.packet().len();
        let kept = len.min(self.selection.snaplen);
        self.counters[usize::from(interface)].seen.add(1);
        // Bytes of it that are in `record`.
        let mut there = 0;
        if let Some(filter) = &self.selection.filter {
            let mut verdict = filter.run(view.packet().head(), len);
            if verdict == Verdict::NeedsMore {
                there = view.read(&mut self.record[HEADER..]);
                verdict = filter.run(&self.record[HEADER..HEADER + there], len);
            }
            if verdict != Verdict::Match {
                self.counters[usize::from(interface)].unmatched.add(1);
                return;
            }
        }
        if !self.selection.rate.take(time) {
            return self.miss(interface, Missed::Rate, 1);
        }
        if self.ring.vacant_len() < HEADER + kept {
            return self.miss(interface, Missed::Room, 1);
        }
        // What the filter has judged is what is recorded.
        if there == 0 {
            there = view.read(&mut self.record[HEADER..HEADER + kept]);
        }
        let kept = kept.min(there);
        let missed = std::mem::take(&mut self.missed[usize::from(interface)]);
        let record = Record { time, len: len as u32, kept: kept as u32, missed, interface, direction };
        self.record[..HEADER].copy_from_slice(&record.to_bytes());
        self.ring.push_slice(&self.record[..HEADER + kept]);
        self.counters[usize::from(interface)].recorded.add(1);
    }

    fn miss(&mut self, interface: u8, why: Missed, count: usize) {
        self.counters[usize::from(interface)].missed[why as usize].add(count as u64);
        let missed = &mut self.missed[usize::from(interface)];
        *missed = missed.saturating_add(count as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;
    use vm_ports::{BurstBuffer, Offload};

    const RING: usize = 1 << 16;
    const PORTS: usize = 8;
    const PORT: PortId = PortId(5);

    struct Bench {
        taps: Taps,
        reader: Reader,
        counters: Arc<[TapCounters]>,
    }

    impl Bench {
        fn new(change: impl FnOnce(&mut Selection)) -> Self {
            let mut selection = Selection::all(&[PortId(2), PORT], PORTS, 1_000_000_000);
            change(&mut selection);
            let (tap, reader, counters) = tap(7, 2, selection, RING);
            let mut taps = Taps::default();
            taps.add(Box::new(tap));
            Self { taps, reader, counters }
        }

        fn see(&mut self, port: PortId, direction: Direction, frames: &[Vec<u8>]) {
            self.taps.begin_burst(tsc());
            self.see_more(port, direction, frames);
        }

        /// In the same burst.
        fn see_more(&mut self, port: PortId, direction: Direction, frames: &[Vec<u8>]) {
            let mut buffer = BurstBuffer::default();
            let mut burst = Burst::new(&mut buffer);
            frames.iter().for_each(|frame| assert!(burst.push_frame(frame.chunks(1000), Offload::NONE)));
            let burst = &burst;
            self.taps.see(port, direction, (0..burst.len()).map(|index| burst.view(index)));
        }

        fn records(&mut self) -> Vec<(Record, Vec<u8>)> {
            let mut bytes = Vec::new();
            std::iter::from_fn(|| {
                let record = self.reader.peek()?;
                self.reader.take(&mut bytes);
                Some((record, bytes.clone()))
            })
            .collect()
        }

        fn missed(&self, why: Missed) -> u64 {
            self.counters[1].missed[why as usize].get()
        }

        fn assert_identity(&self) {
            for c in self.counters.iter() {
                let missed: u64 = c.missed.iter().map(Counter::get).sum();
                assert_eq!(c.seen.get(), c.unmatched.get() + c.recorded.get() + missed, "{c:?}");
            }
        }
    }

    fn frame(len: usize, first: u8) -> Vec<u8> {
        (0..len).map(|i| if i == 0 { first } else { i as u8 }).collect()
    }

    #[test]
    fn what_is_asked_for_is_recorded_and_nothing_else() {
        let mut bench = Bench::new(|selection| selection.to = false);
        bench.see(PORT, Direction::From, &[frame(60, 1), frame(1514, 2)]);
        bench.see(PORT, Direction::To, &[frame(60, 3)]);
        bench.see(PortId(0), Direction::From, &[frame(60, 4)]);
        bench.see(PortId(900), Direction::From, &[frame(60, 4)]);
        bench.see(PortId(2), Direction::From, &[frame(14, 5)]);
        let records = bench.records();
        let seen: Vec<_> = records.iter().map(|(r, bytes)| (r.interface, r.direction, r.len, bytes.clone())).collect();
        let expected = [(1, frame(60, 1)), (1, frame(1514, 2)), (0, frame(14, 5))];
        let expected = expected.map(|(interface, f)| (interface, Direction::From, f.len() as u32, f));
        assert_eq!(seen, expected);
        assert!(records[0].0.time > 0 && records[0].0.time == records[1].0.time, "one time for a burst");
        bench.assert_identity();
        assert!(bench.taps.remove(6).is_none() && bench.taps.remove(7).is_some() && !bench.taps.are_there());
    }

    #[test]
    fn frames_are_cut_and_their_length_is_told() {
        let mut bench = Bench::new(|selection| selection.snaplen = 100);
        bench.see(PORT, Direction::To, &[frame(99, 1), frame(100, 1), frame(101, 1), frame(FRAME_MAX, 1)]);
        let lens: Vec<_> = bench.records().iter().map(|(r, bytes)| (r.len as usize, r.kept, bytes.len())).collect();
        assert_eq!(lens, [(99, 99, 99), (100, 100, 100), (101, 100, 100), (FRAME_MAX, 100, 100)]);
    }

    #[test]
    fn filters_look_as_far_as_they_have_to() {
        // Byte 0 is 1, and byte 1000 is what `frame` puts there.
        let lines = ["48 0 0 0", "21 0 3 1", "48 0 0 1000", "21 0 1 232", "6 0 0 1", "6 0 0 0"];
        let mut bench = Bench::new(|s| (s.filter, s.snaplen) = (Some(Arc::new(Filter::parse(&lines).unwrap())), 20));
        bench.see(PORT, Direction::From, &[frame(1514, 1), frame(1514, 2), frame(900, 1), frame(1001, 1)]);
        let records = bench.records();
        assert_eq!(records.iter().map(|(r, _)| r.len).collect::<Vec<_>>(), [1514, 1001]);
        assert!(records.iter().all(|(r, bytes)| r.kept == 20 && *bytes == frame(20, 1)));
        assert_eq!((bench.counters[1].unmatched.get(), bench.missed(Missed::Room)), (2, 0));
        bench.assert_identity();
    }

    #[test]
    fn a_full_ring_misses_and_says_how_many() {
        let mut bench = Bench::new(|_| ());
        for _ in 0..3 {
            let mut sent = 0;
            while bench.missed(Missed::Room).is_multiple_of(10) || sent == 0 {
                bench.see(PORT, Direction::From, &[frame(1000, 1)]);
                sent += 1;
            }
            (0..9).for_each(|_| bench.see(PORT, Direction::From, &[frame(1000, 1)]));
            assert_eq!(bench.records().len(), RING / (1000 + HEADER));
            bench.see(PORT, Direction::From, &[frame(1000, 1), frame(1000, 1)]);
            assert_eq!(bench.records().iter().map(|(r, _)| r.missed).collect::<Vec<_>>(), [10, 0]);
        }
        bench.assert_identity();
    }

    #[test]
    fn a_rate_is_kept() {
        let rate = NonZeroU32::new(5).unwrap();
        let mut bench = Bench::new(|s| s.rate = TokenBucket::new(rate, rate, u64::MAX / 100));
        (0..10).for_each(|_| bench.see(PORT, Direction::To, &[frame(60, 1), frame(60, 2)]));
        assert_eq!((bench.records().len(), bench.missed(Missed::Rate)), (5, 15));
        bench.assert_identity();
    }

    #[test]
    fn who_has_spent_its_time_looks_at_nothing() {
        // So slow a clock that ten of its cycles are carried over, and a portion is charged fifty: with the first one, everything is spent.
        let mut bench = Bench::new(|s| (s.core_share, s.cycles_per_s) = (1, 100_000));
        let frames = vec![frame(1514, 1); 2 * PORTION + 3];
        bench.see(PORT, Direction::To, &frames);
        assert_eq!((bench.records().len(), bench.missed(Missed::Time)), (PORTION, PORTION as u64 + 3));
        // Packets that come one by one in this burst are not looked at either.
        (0..5).for_each(|_| bench.see_more(PORT, Direction::To, &frames[..1]));
        assert_eq!((bench.records().len(), bench.missed(Missed::Time)), (0, PORTION as u64 + 8));
        bench.taps.begin_burst(tsc() + 10_000_000);
        bench.see_more(PORT, Direction::To, &frames[..1]);
        assert_eq!(bench.records().iter().map(|(r, _)| r.missed).collect::<Vec<_>>(), [PORTION as u32 + 8]);
        bench.assert_identity();
    }
}
