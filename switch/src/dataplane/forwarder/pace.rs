//! How much of a burst goes out before others are looked at, who are not to wait for all of it.

use std::ops::Range;

use vm_ports::{Burst, Packet};

use super::super::turns::cost;
use super::Forwarder;

/// Whoever has a turn while a burst is forwarded.
pub(in super::super) trait Between {
    /// Whether anybody has something to send, and may.
    fn is_wanted(&mut self) -> bool;

    /// Other bursts may be forwarded, and what was forwarded of this one is shown to its receivers with theirs.
    fn take_turn(&mut self, forwarder: &mut Forwarder);
}

/// What goes out between two looks, by what packets cost: one of 1518 bytes, three of the shortest ones, one of any length.
const PART: i64 = 5 << 9;

/// In what parts a burst goes out.
pub(super) trait Pacing {
    /// The packets at the beginning of these, which follow each other, that may go out now: one at least.
    fn part(&self, burst: &Burst<'_>, packets: Range<usize>) -> Range<usize>;

    /// Counts packets that went out. Where it is time for that, others are looked at, and have their turn if they want it.
    fn count(&mut self, burst: &Burst<'_>, packets: Range<usize>, forwarder: &mut Forwarder);
}

/// All of it at once: there is nobody else.
pub(super) struct Whole;

impl Pacing for Whole {
    #[inline]
    fn part(&self, _: &Burst<'_>, packets: Range<usize>) -> Range<usize> {
        packets
    }

    #[inline]
    fn count(&mut self, _: &Burst<'_>, _: Range<usize>, _: &mut Forwarder) {}
}

/// In parts, between which others are looked at.
pub(super) struct Parts<'b> {
    between: &'b mut dyn Between,
    /// What has gone out since the last look.
    spent: i64,
}

impl<'b> Parts<'b> {
    pub(super) fn new(between: &'b mut dyn Between) -> Self {
        Self { between, spent: 0 }
    }
}

impl Pacing for Parts<'_> {
    #[inline]
    fn part(&self, burst: &Burst<'_>, packets: Range<usize>) -> Range<usize> {
        let most = within(PART - self.spent, burst.run(packets.clone()).packets());
        packets.start..packets.start + most
    }

    #[inline]
    fn count(&mut self, burst: &Burst<'_>, packets: Range<usize>, forwarder: &mut Forwarder) {
        self.spent += burst.run(packets).packets().iter().map(|packet| cost(1, packet.len())).sum::<i64>();
        if self.spent >= PART {
            self.spent = 0;
            if self.between.is_wanted() {
                self.between.take_turn(forwarder);
            }
        }
    }
}

/// How many of these packets cost so much together, the last of them being beyond it: one at least.
fn within(most: i64, packets: &[Packet]) -> usize {
    let mut left = most;
    let fits = |packet: &&Packet| {
        left -= cost(1, packet.len());
        left > 0
    };
    (packets.iter().take_while(fits).count() + 1).min(packets.len())
}
