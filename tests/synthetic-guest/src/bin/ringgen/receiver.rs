//! What one guest receives, and what became of it on the way.

use hdrhistogram::Histogram;
use synthetic_guest::packet::{PORT, Stamp};
use synthetic_guest::verify::{Report, Sequences, read_stamp};
use synthetic_guest::{Received, SHORT_STAMP_LEN, ShortStamp};

use crate::clock::Clock;
use crate::options::Verify;
use crate::plan::Incoming;
use crate::settle::is_probe;

/// Longest latency that is told from longer ones.
const LONGEST_NS: u64 = 60_000_000_000;
/// No packet has this number.
const NO_PROBE: u64 = u64::MAX;
const ETHERNET: usize = 14;

/// A histogram of nanoseconds with three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("sound bounds")
}

/// What a guest got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Packets that count: each once, intact, for this guest. In a sink: all.
    pub(crate) received: u64,
    /// Bytes of them, as they are in the ring, without header.
    pub(crate) bytes: u64,
    /// Ours, for us, and not what was sent.
    pub(crate) corrupted: u64,
    /// Not ours.
    pub(crate) foreign: u64,
    /// For somebody else: a switch that floods.
    pub(crate) misdelivered: u64,
    /// Intact but for a source address that is not the sender's.
    pub(crate) rewritten: u64,
}

/// A packet whose time is taken.
#[derive(Clone, Copy)]
struct Probe {
    sequence: u64,
    sent: u64,
}

/// Receives for one guest.
pub(crate) struct Receiver {
    incoming: Incoming,
    verify: Verify,
    sequences: Sequences,
    probes: Vec<Probe>,
    scratch: Vec<u8>,
    counts: Counts,
    /// Nanoseconds from sending to receiving.
    pub(crate) latency: Histogram<u64>,
}

impl Receiver {
    /// A receiver of frames of up to `longest` bytes.
    pub(crate) fn new(incoming: Incoming, verify: Verify, longest: usize) -> Self {
        Receiver {
            verify,
            sequences: Sequences::with_flows(incoming.flows),
            probes: vec![Probe { sequence: NO_PROBE, sent: 0 }; incoming.flows],
            scratch: Vec::with_capacity(longest + 64),
            counts: Counts::default(),
            latency: histogram(),
            incoming,
        }
    }

    /// From now on the time of packet `sequence` of `flow`, sent at `now`, is taken, unless another one is being waited
    /// for. One that was lost is given up when the flow is 16,384 packets further.
    #[inline]
    pub(crate) fn expect(&mut self, flow: u16, sequence: u64, now: u64) {
        let probe = &mut self.probes[usize::from(flow)];
        if probe.sequence == NO_PROBE || sequence.wrapping_sub(probe.sequence) > 16_384 {
            *probe = Probe { sequence, sent: now };
        }
    }

    /// Takes note of a frame.
    #[inline(always)]
    pub(crate) fn take(&mut self, frame: &Received<'_>, clock: &Clock, now: u64) -> Option<Stamp> {
        match self.verify {
            Verify::None => {
                self.count(frame);
                None
            }
            Verify::Order => self.take_short(frame, clock, now),
            Verify::Full => self.take_full(frame, clock, now),
        }
    }

    #[inline(always)]
    fn take_short(&mut self, frame: &Received<'_>, clock: &Clock, now: u64) -> Option<Stamp> {
        let at = self.incoming.stamp_at;
        let words = match (frame.array(at), frame.array(at + 8)) {
            (Some(word), Some(sum)) => (u64::from_le_bytes(word), u16::from_le_bytes(sum)),
            _ => read_slowly(frame, at),
        };
        let stamp = ShortStamp::from_words(words, self.incoming.key);
        match stamp.filter(|stamp| usize::from(stamp.flow) < self.sequences.flows()) {
            Some(stamp) => {
                let probe = &mut self.probes[usize::from(stamp.flow)];
                if probe.sequence == stamp.sequence {
                    probe.sequence = NO_PROBE;
                    self.latency.saturating_record(clock.ns(probe.sent, now));
                }
                self.note(frame, Stamp { flow: stamp.flow, sequence: stamp.sequence, time_ns: 0 })
            }
            None => {
                self.take_odd(frame);
                None
            }
        }
    }

    fn take_full(&mut self, frame: &Received<'_>, clock: &Clock, now: u64) -> Option<Stamp> {
        let mut scratch = std::mem::take(&mut self.scratch);
        frame.copy_to(&mut scratch);
        let stamp = match read_stamp(&scratch) {
            Some(Ok(stamp)) if usize::from(stamp.flow) < self.sequences.flows() => {
                self.check_headers(stamp.flow, &scratch).then_some(stamp)
            }
            _ => None,
        };
        self.scratch = scratch;
        let Some(stamp) = stamp else {
            self.take_odd(frame);
            return None;
        };
        let noted = self.note(frame, stamp);
        if noted.is_some() {
            // 48 bits of nanoseconds, as in the stamp.
            let time = clock.ns(0, now).wrapping_sub(stamp.time_ns) & ((1 << 48) - 1);
            self.latency.saturating_record(time);
        }
        noted
    }

    /// Everything before the stamp but lengths and checksums: those are part of what [`read_stamp`] checks, or are summed
    /// here.
    fn check_headers(&mut self, flow: u16, frame: &[u8]) -> bool {
        let Some(expected) = self.incoming.headers.get(usize::from(flow)) else { return true };
        let same = |from: usize, to: usize| frame.get(from..to) == expected.get(from..to);
        let ip = &frame[ETHERNET..ETHERNET + 20];
        let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        let sum: u32 = ip.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
        let sound = (sum & 0xffff) + (sum >> 16) == 0xffff && frame.len() == ETHERNET + total;
        // UDP: the length is that of the datagram, the checksum stays absent. TCP: the checksum may have been completed.
        let transport = match expected.len() {
            42 => frame[38..40] == (total as u16).wrapping_sub(20).to_be_bytes() && same(40, 42),
            _ => same(38, 50) && same(52, 54),
        };
        let good = sound && transport && same(0, 6) && same(12, 16) && same(18, 24) && same(26, 38);
        self.counts.rewritten += u64::from(good && !same(6, 12));
        good
    }

    #[inline]
    fn note(&mut self, frame: &Received<'_>, stamp: Stamp) -> Option<Stamp> {
        let new = self.sequences.note(stamp.flow, stamp.sequence);
        if new || self.incoming.sink {
            self.count(frame);
        }
        new.then_some(stamp)
    }

    #[inline]
    fn count(&mut self, frame: &Received<'_>) {
        self.counts.received += 1;
        self.counts.bytes += frame.len() as u64;
    }

    /// A frame that is not as expected.
    #[cold]
    fn take_odd(&mut self, frame: &Received<'_>) {
        let mut headers = [0; 54];
        let len = frame.read(0, &mut headers);
        if is_probe(&headers) {
            return;
        }
        // All of a guest's addresses are one but for their last byte but one.
        let address = self.incoming.address;
        let mine = headers[..4] == address[..4] && headers[5] == address[5];
        let transport = if headers[23] == 6 || headers[23] == 17 { 36 } else { 0 };
        let stamped = len >= 42 && transport > 0 && headers[transport..transport + 2] == PORT.to_be_bytes();
        match (mine, stamped) {
            (true, true) => self.counts.corrupted += 1,
            (false, true) => self.counts.misdelivered += 1,
            _ => self.counts.foreign += 1,
        }
        if self.incoming.sink {
            self.count(frame);
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// Packets of a flow that have arrived.
    #[inline]
    pub(crate) fn received_of(&self, flow: u16) -> u64 {
        self.sequences.received(flow)
    }

    /// Sequence numbers against the numbers of packets sent, by flow.
    pub(crate) fn sequences(&self, sent: &[u64]) -> Report {
        self.sequences.report_against(sent)
    }
}

/// A stamp that lies across buffers, or is not there.
#[cold]
fn read_slowly(frame: &Received<'_>, at: usize) -> (u64, u16) {
    let mut bytes = [0; SHORT_STAMP_LEN];
    frame.read(at, &mut bytes);
    let [a, b, c, d, e, f, g, h, sum @ ..] = bytes;
    (u64::from_le_bytes([a, b, c, d, e, f, g, h]), u16::from_le_bytes(sum))
}
