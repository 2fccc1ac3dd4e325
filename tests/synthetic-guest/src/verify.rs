//! What became of stamped frames: lost, duplicated, reordered, corrupted.

use crate::Received;
use crate::packet::{STAMP_LEN, Stamp, hash, stamped_payload};

/// How far back, in sequence numbers, a frame is known to be new or a duplicate.
const WINDOW: u64 = 4096;

/// What one frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Intact, and seen for the first time (in order or not).
    Good(Stamp),
    /// Intact, but seen before.
    Duplicate(Stamp),
    /// One of ours whose contents are not what was sent.
    Corrupted,
    /// Not one of ours.
    Foreign,
}

/// Totals over all flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Different frames received intact.
    pub received: u64,
    /// Frames missing before the highest sequence number seen, or, with [`Verifier::report_against`], of those sent.
    pub lost: u64,
    /// Frames received again.
    pub duplicated: u64,
    /// Frames received after one with a higher number.
    pub reordered: u64,
    /// Frames too far behind to tell whether they are duplicates; neither received nor duplicated.
    pub late: u64,
    /// Frames with wrong contents.
    pub corrupted: u64,
    /// Frames of others.
    pub foreign: u64,
}

impl Report {
    /// Whether exactly `count` frames came, each once, intact and in order.
    pub fn is_perfect(&self, count: u64) -> bool {
        let Report { received, lost, duplicated, reordered, late, corrupted, foreign: _ } = *self;
        received == count && [lost, duplicated, reordered, late, corrupted] == [0; 5]
    }
}

#[derive(Clone)]
struct Flow {
    /// One more than the highest sequence number seen.
    next: u64,
    received: u64,
    duplicated: u64,
    reordered: u64,
    late: u64,
    /// Bit n % WINDOW: whether sequence number n, of the last WINDOW ones, was received.
    seen: [u64; (WINDOW / 64) as usize],
}

impl Flow {
    const NEW: Flow =
        Flow { next: 0, received: 0, duplicated: 0, reordered: 0, late: 0, seen: [0; (WINDOW / 64) as usize] };

    #[inline(always)]
    fn bit(sequence: u64) -> (usize, u64) {
        ((sequence % WINDOW / 64) as usize, 1 << (sequence % 64))
    }

    /// Notes `sequence`; `false` for what is not new.
    #[inline]
    fn note(&mut self, sequence: u64) -> bool {
        let (word, bit) = Self::bit(sequence);
        if sequence == self.next {
            self.next += 1;
            self.seen[word] |= bit;
            self.received += 1;
            return true;
        }
        self.note_out_of_turn(sequence, word, bit)
    }

    fn note_out_of_turn(&mut self, sequence: u64, word: usize, bit: u64) -> bool {
        if sequence > self.next {
            self.forget(sequence);
            self.next = sequence + 1;
            self.seen[word] |= bit;
            self.received += 1;
            return true;
        }
        if self.next - sequence > WINDOW {
            self.late += 1;
            return false;
        }
        if self.seen[word] & bit != 0 {
            self.duplicated += 1;
            return false;
        }
        self.seen[word] |= bit;
        self.reordered += 1;
        self.received += 1;
        true
    }

    /// Clears the bits of next..=sequence, which were those of numbers WINDOW before.
    fn forget(&mut self, sequence: u64) {
        if sequence - self.next >= WINDOW {
            self.seen.fill(0);
            return;
        }
        for number in self.next..=sequence {
            let (word, bit) = Self::bit(number);
            self.seen[word] &= !bit;
        }
    }
}

/// Sequence numbers of many flows, and what became of them. They start at 0 in each.
#[derive(Clone, Default)]
pub struct Sequences {
    flows: Vec<Flow>,
}

impl Sequences {
    /// Room for flows 0 to `flows` - 1, so that [`Sequences::note`] does not have to make any.
    pub fn with_flows(flows: usize) -> Self {
        Sequences { flows: vec![Flow::NEW; flows] }
    }

    /// Notes a frame; `false` for one that is not new (a duplicate, or too late to say).
    #[inline]
    pub fn note(&mut self, flow: u16, sequence: u64) -> bool {
        let flow = usize::from(flow);
        if flow >= self.flows.len() {
            self.flows.resize(flow + 1, Flow::NEW);
        }
        self.flows[flow].note(sequence)
    }

    /// Different frames of a flow that came.
    #[inline]
    pub fn received(&self, flow: u16) -> u64 {
        self.flows.get(usize::from(flow)).map_or(0, |flow| flow.received)
    }

    /// Number of flows there is room for.
    #[inline]
    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    /// Totals, as far as the frames seen tell.
    pub fn report(&self) -> Report {
        let mut report = Report::default();
        for flow in &self.flows {
            report.received += flow.received;
            report.lost += flow.next - flow.received;
            report.duplicated += flow.duplicated;
            report.reordered += flow.reordered;
            report.late += flow.late;
        }
        report
    }

    /// Totals, where flow n is known to have sent `sent[n]` frames: the end of a flow counts as lost too.
    pub fn report_against(&self, sent: &[u64]) -> Report {
        let received = |flow: usize| self.flows.get(flow).map_or(0, |f| f.received);
        let lost = sent.iter().enumerate().map(|(flow, sent)| sent.saturating_sub(received(flow))).sum();
        Report { lost, ..self.report() }
    }
}

/// The stamp of a frame: `None` when it is not one of this library's frames, an error when its contents are not what was
/// sent.
pub fn read_stamp(frame: &[u8]) -> Option<Result<Stamp, ()>> {
    let payload = stamped_payload(frame)?;
    let stamp = payload.ok().and_then(|payload| {
        let (stamp, body) = payload.split_first_chunk::<STAMP_LEN>()?;
        Stamp::from_bytes(stamp, hash(body))
    });
    Some(stamp.ok_or(()))
}

/// Checks frames and counts, flow by flow. Sequence numbers start at 0.
#[derive(Default)]
pub struct Verifier {
    sequences: Sequences,
    corrupted: u64,
    foreign: u64,
    scratch: Vec<u8>,
}

impl Verifier {
    /// A verifier that knows nothing yet.
    pub fn new() -> Self {
        Verifier::default()
    }

    /// Checks a frame still in its receive buffers.
    pub fn check_received(&mut self, frame: &Received<'_>) -> Verdict {
        let mut scratch = std::mem::take(&mut self.scratch);
        frame.copy_to(&mut scratch);
        let verdict = self.check(&scratch);
        self.scratch = scratch;
        verdict
    }

    /// Checks a frame.
    pub fn check(&mut self, frame: &[u8]) -> Verdict {
        match read_stamp(frame) {
            None => {
                self.foreign += 1;
                Verdict::Foreign
            }
            Some(Err(())) => {
                self.corrupted += 1;
                Verdict::Corrupted
            }
            Some(Ok(stamp)) if self.sequences.note(stamp.flow, stamp.sequence) => Verdict::Good(stamp),
            Some(Ok(stamp)) => Verdict::Duplicate(stamp),
        }
    }

    /// Totals, as far as the frames seen tell.
    pub fn report(&self) -> Report {
        Report { corrupted: self.corrupted, foreign: self.foreign, ..self.sequences.report() }
    }

    /// Totals, where flow n is known to have sent `sent[n]` frames: the end of a flow counts as lost too.
    pub fn report_against(&self, sent: &[u64]) -> Report {
        Report { corrupted: self.corrupted, foreign: self.foreign, ..self.sequences.report_against(sent) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{FrameSpec, Template};

    fn frames(flow: u16, sequence: &[u64]) -> Vec<Vec<u8>> {
        let mut template = Template::new(FrameSpec::udp4(1, 2, flow, 200));
        let make = |&sequence| {
            template.stamp(Stamp { flow, sequence, time_ns: 5 });
            template.bytes().to_vec()
        };
        sequence.iter().map(make).collect()
    }

    fn report(sequence: &[u64]) -> Report {
        let mut verifier = Verifier::new();
        frames(3, sequence).iter().for_each(|f| {
            verifier.check(f);
        });
        verifier.report()
    }

    #[test]
    fn perfect_stream() {
        assert!(report(&(0..10_000).collect::<Vec<_>>()).is_perfect(10_000));
    }

    #[test]
    fn loss_duplication_and_reordering_are_told_apart() {
        let seen = report(&[0, 1, 3, 2, 2, 6]);
        let expected = Report { received: 5, lost: 2, duplicated: 1, reordered: 1, ..Report::default() };
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_is_too_far_behind_is_late() {
        assert_eq!(report(&[0, 1, WINDOW + 2, 1]).late, 1);
        assert_eq!(report(&[0, 1, 5000, 20_000, 15_904]).reordered, 0);
        assert_eq!(report(&[0, 1, 5000, 20_000, 15_905]).reordered, 1);
    }

    #[test]
    fn lost_tail_counts_against_what_was_sent() {
        let mut verifier = Verifier::new();
        frames(0, &[0, 1]).iter().for_each(|f| {
            verifier.check(f);
        });
        assert_eq!(verifier.report().lost, 0);
        assert_eq!(verifier.report_against(&[4, 2]).lost, 4);
    }

    #[test]
    fn corruption_is_noticed_and_foreign_frames_are_not_ours() {
        let mut verifier = Verifier::new();
        let frame = frames(0, &[0]).remove(0);
        let mut bad = frame.clone();
        *bad.last_mut().unwrap() ^= 0x10;
        assert_eq!(verifier.check(&bad), Verdict::Corrupted);
        assert_eq!(verifier.check(&frame[..100]), Verdict::Corrupted);
        let mut arp = frame.clone();
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        assert_eq!(verifier.check(&arp), Verdict::Foreign);
        assert!(matches!(verifier.check(&frame), Verdict::Good(_)));
        assert_eq!(verifier.report().corrupted, 2);
    }
}
