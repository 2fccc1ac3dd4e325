//! The short stamp: flow and sequence number, and nothing else, in the first cache line of what a guest receives.

/// Bytes of a [`ShortStamp`] in a frame. Behind the virtio-net header and the headers of UDP over IPv4, they end at byte
/// 64 of a receive buffer.
pub const SHORT_STAMP_LEN: usize = 10;

/// What a frame carries, instead of a [`Stamp`](crate::packet::Stamp), where reading all of it would cost too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShortStamp {
    /// Flow number.
    pub flow: u16,
    /// Sequence number in the flow, 48 bits.
    pub sequence: u64,
}

impl ShortStamp {
    /// The stamp as it stands in a frame, little-endian: a word and its checksum. `key` is whose frame it is: it is in the
    /// checksum, not in the frame.
    #[inline(always)]
    pub fn to_words(self, key: u64) -> (u64, u16) {
        let word = u64::from(self.flow) | self.sequence << 16;
        (word, check(word, key))
    }

    /// Reads a stamp; `None` when it is not one for `key`.
    #[inline(always)]
    pub fn from_words((word, sum): (u64, u16), key: u64) -> Option<ShortStamp> {
        let stamp = ShortStamp { flow: word as u16, sequence: word >> 16 };
        (sum == check(word, key)).then_some(stamp)
    }
}

#[inline(always)]
fn check(word: u64, key: u64) -> u16 {
    let mixed = word ^ key.rotate_left(32);
    // The upper bits of a product depend on all bits of its factors.
    ((mixed ^ mixed >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_for_its_receiver_only() {
        let stamp = ShortStamp { flow: 0xabcd, sequence: 0x1234_5678_9abc };
        let words = stamp.to_words(7);
        assert_eq!(ShortStamp::from_words(words, 7), Some(stamp));
        assert_eq!(ShortStamp::from_words(words, 8), None);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        for sequence in [0, 1, 77, 1 << 40] {
            let (word, sum) = ShortStamp { flow: 3, sequence }.to_words(1);
            for bit in 0..64 {
                assert_eq!(ShortStamp::from_words((word ^ 1 << bit, sum), 1), None, "sequence {sequence}, bit {bit}");
            }
            for bit in 0..16 {
                assert_eq!(ShortStamp::from_words((word, sum ^ 1 << bit), 1), None, "sequence {sequence}, bit {bit}");
            }
        }
    }
}
