//! How much of a burst goes out before others are looked at, who are not to wait for all of it.

use std::ops::Range;

use vm_ports::{Burst, Packet};

use super::super::turns::cost;
use super::Forwarder;

/// Whoever has a turn while a burst is forwarded.
pub(in super::super) trait Between {
    /// Whether anybody has something to send, and may.
    fn is_wanted(&mut self) -> bool;

    /// What was forwarded of the burst may be shown to its receivers, and other bursts be forwarded.
    fn take_turn(&mut self, forwarder: &mut Forwarder);
}

/// What goes out between two looks, by what packets cost: two of 1518 bytes, five of the shortest ones, one of any length.
const PART: i64 = 5 << 10;

/// What has gone out since others were looked at.
pub(super) struct Pace<'b> {
    between: Option<&'b mut dyn Between>,
    spent: i64,
}

impl<'b> Pace<'b> {
    #[inline]
    pub(super) fn new(between: Option<&'b mut dyn Between>) -> Self {
        Self { between, spent: 0 }
    }

    /// How many of these packets, which follow each other, may go out until then: one at least.
    #[inline]
    pub(super) fn most(&self, packets: &[Packet]) -> usize {
        if self.between.is_none() { packets.len() } else { within(PART - self.spent, packets) }
    }

    /// Counts packets that went out. Where it is time for that, others are looked at, and have their turn if they want it.
    #[inline]
    pub(super) fn count(&mut self, burst: &Burst<'_>, packets: Range<usize>, forwarder: &mut Forwarder) {
        let Some(between) = &mut self.between else { return };
        self.spent += burst.run(packets).packets().iter().map(|packet| cost(1, packet.len())).sum::<i64>();
        if self.spent >= PART {
            self.spent = 0;
            if between.is_wanted() {
                between.take_turn(forwarder);
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
