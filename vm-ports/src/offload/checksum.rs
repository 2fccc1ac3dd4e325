//! The Internet checksum (RFC 1071), kept as a running sum so that bytes can be summed while they are copied.

use super::OffloadError;

/// A running one's complement sum over bytes that may arrive in pieces of any length.
///
/// The sum is kept in the byte order of the machine, which RFC 1071 §2(B) allows, and modulo 2^64 − 1, of which 2^16 − 1
/// is a divisor. It remembers whether an odd number of bytes has gone in: the next byte is then the low half of a word.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    acc: u64,
    odd: bool,
}

impl Sum {
    /// The sum of no bytes.
    pub const fn new() -> Self {
        Self { acc: 0, odd: false }
    }

    /// The pseudo header of TCP and UDP over IPv4 (RFC 9293 §3.1): addresses, protocol, length of header and payload.
    pub fn pseudo_v4(source: [u8; 4], destination: [u8; 4], protocol: u8, length: u16) -> Self {
        let mut sum = Self::new();
        sum.add_word(u64::from(u32::from_ne_bytes(source)));
        sum.add_word(u64::from(u32::from_ne_bytes(destination)));
        sum.add_u16(u16::from(protocol));
        sum.add_u16(length);
        sum
    }

    /// The pseudo header of upper layers over IPv6 (RFC 8200 §8.1): addresses, length of header and payload, protocol.
    pub fn pseudo_v6(source: [u8; 16], destination: [u8; 16], protocol: u8, length: u32) -> Self {
        let mut sum = Self::new();
        sum.add_bytes(&source);
        sum.add_bytes(&destination);
        sum.add_word(u64::from(length.to_be()));
        sum.add_u16(u16::from(protocol));
        sum
    }

    /// Goes on with `bytes`, wherever the last piece ended.
    #[inline]
    pub fn add_bytes(&mut self, bytes: &[u8]) {
        self.add_word(sum_words(bytes));
        self.odd ^= bytes.len() & 1 == 1;
    }

    /// Goes on with one 16-bit field, given as a number.
    #[inline]
    pub fn add_u16(&mut self, value: u16) {
        self.add_word(u64::from(value.to_be()));
    }

    /// Goes on with what `next` summed: the bytes of `next` follow those of `self`.
    #[inline]
    pub fn add_sum(&mut self, next: Sum) {
        self.add_word(next.acc);
        self.odd ^= next.odd;
    }

    /// The 16-bit sum as a number (not complemented), as a pseudo header is stored in a checksum field that another is
    /// to complete.
    #[inline]
    pub fn fold(self) -> u16 {
        let sum = (self.acc & 0xffff_ffff) + (self.acc >> 32);
        let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        u16::from_be(sum as u16)
    }

    /// The checksum as a number: the complement of the sum. Zero over bytes that hold their own right checksum.
    #[inline]
    pub fn checksum(self) -> u16 {
        !self.fold()
    }

    /// Adds a word in memory order. Multiplying by 2^8 modulo 2^16 − 1 swaps the bytes of every 16-bit word, and that
    /// is what an odd start does to all that follow; modulo 2^64 − 1 the multiplication is a rotation.
    #[inline]
    fn add_word(&mut self, word: u64) {
        let word = if self.odd { word.rotate_left(8) } else { word };
        self.acc = add_around(self.acc, word);
    }
}

/// One's complement addition: the carry comes back in at the bottom.
#[inline]
fn add_around(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u64::from(carry)
}

/// The sum of `bytes` as if they began at an even offset. Eight independent sums of 32-bit halves need no carries for
/// 2^31 additions (more than memory holds), and the compiler turns them into vector code.
#[inline]
fn sum_words(bytes: &[u8]) -> u64 {
    let (blocks, rest) = bytes.as_chunks::<64>();
    let mut lanes = [0u64; 8];
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<8>().0) {
            *lane += halves(*word);
        }
    }
    let (words, tail) = rest.as_chunks::<8>();
    let sum = words.iter().fold(0, |sum, word| sum + halves(*word));
    lanes.into_iter().fold(sum + short(tail), add_around)
}

/// Both halves of a word, which sum to the same.
#[inline]
fn halves(word: [u8; 8]) -> u64 {
    let word = u64::from_ne_bytes(word);
    (word & 0xffff_ffff) + (word >> 32)
}

/// The sum of fewer than eight bytes. It does not matter which 16-bit word of a sum they are added to.
#[inline]
fn short(bytes: &[u8]) -> u64 {
    let (four, rest) = bytes.as_chunks::<4>();
    let (two, last) = rest.as_chunks::<2>();
    let mut sum = four.first().map_or(0, |four| u64::from(u32::from_ne_bytes(*four)));
    sum += two.first().map_or(0, |two| u64::from(u16::from_ne_bytes(*two)));
    sum + last.first().map_or(0, |last| u64::from(u16::from_ne_bytes([*last, 0])))
}

/// A checksum field's new value after one 16-bit word under it changed from `old` to `new` (RFC 1624, equation 3).
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    let sum = u32::from(!checksum) + u32::from(!old) + u32::from(new);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// Completes a checksum that the sender left to the device (virtio 1.2 §5.1.6.2, `VIRTIO_NET_HDR_F_NEEDS_CSUM`).
///
/// `head` begins the packet and holds the checksum field, into which the sender put the pseudo header's sum;
/// `payload_sum` is over all bytes after `head`. The sum runs from `start` to the packet's end and is stored at
/// `start + offset`. A result of zero is stored as 0xffff: both verify, and in UDP zero would say that there is no
/// checksum (RFC 768).
///
/// Errors: [`OffloadError::ChecksumOutside`] when the field is not inside `head`, which is then unchanged.
pub fn finish_checksum(head: &mut [u8], start: u16, offset: u16, payload_sum: Sum) -> Result<(), OffloadError> {
    let covered = head.get_mut(usize::from(start)..).ok_or(OffloadError::ChecksumOutside)?;
    let mut sum = Sum::new();
    sum.add_bytes(covered);
    sum.add_sum(payload_sum);
    let field = covered
        .get_mut(usize::from(offset)..)
        .and_then(|rest| rest.first_chunk_mut::<2>())
        .ok_or(OffloadError::ChecksumOutside)?;
    *field = stored(sum).to_be_bytes();
    Ok(())
}

/// The number to store in a TCP or UDP checksum field: never zero.
pub(super) fn stored(sum: Sum) -> u16 {
    match sum.checksum() {
        0 => 0xffff,
        checksum => checksum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 word by word, on the whole of the bytes.
    fn oracle(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    fn of(bytes: &[u8]) -> Sum {
        let mut sum = Sum::new();
        sum.add_bytes(bytes);
        sum
    }

    #[test]
    fn rfc_1071_example() {
        assert_eq!(of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]).fold(), 0xddf2);
    }

    #[test]
    fn all_ones_do_not_lose_carries() {
        for len in [1, 2, 7, 8, 31, 32, 33, 64, 65_535, 1 << 20] {
            let bytes = vec![0xff; len];
            assert_eq!(of(&bytes).fold(), oracle(&bytes), "{len}");
        }
    }

    #[test]
    fn checksum_outside_is_refused() {
        let mut head = [0u8; 20];
        for (start, offset) in [(21, 0), (20, 0), (19, 0), (0, 19), (0, 20), (u16::MAX, u16::MAX), (4, 15)] {
            assert_eq!(
                finish_checksum(&mut head, start, offset, Sum::new()),
                Err(OffloadError::ChecksumOutside),
                "{start} {offset}"
            );
        }
        assert_eq!(finish_checksum(&mut head, 4, 14, Sum::new()), Ok(()));
    }

    #[test]
    fn zero_is_stored_as_ffff() {
        let mut head = [0xff, 0xff, 0, 0];
        finish_checksum(&mut head, 0, 2, Sum::new()).expect("inside");
        assert_eq!(head, [0xff; 4]);
    }

    #[test]
    fn udp_with_etherparse() {
        for len in [0usize, 1, 2, 199, 1472] {
            let payload: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            let mut packet = Vec::new();
            etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
                .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
                .udp(5000, 53)
                .write(&mut packet, &payload)
                .expect("valid packet");
            let right = [packet[40], packet[41]];
            let pseudo = Sum::pseudo_v4([10, 0, 0, 1], [10, 0, 0, 2], 17, (len + 8) as u16);
            packet[40..42].copy_from_slice(&pseudo.fold().to_be_bytes());
            let (head, tail) = packet.split_at_mut(42 + len.min(3));
            finish_checksum(head, 34, 6, of(tail)).expect("inside");
            assert_eq!([packet[40], packet[41]], right, "{len}");
        }
    }

    proptest! {
        #[test]
        fn pieces_sum_like_the_whole(bytes in prop::collection::vec(any::<u8>(), 0..400), cuts in prop::collection::vec(0usize..400, 0..6)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            let mut running = Sum::new();
            let mut joined = Sum::new();
            let mut from = 0;
            for to in cuts.into_iter().chain([bytes.len()]) {
                running.add_bytes(&bytes[from..to]);
                joined.add_sum(of(&bytes[from..to]));
                from = to;
            }
            prop_assert_eq!(running.fold(), oracle(&bytes));
            prop_assert_eq!(joined.fold(), oracle(&bytes));
        }

        #[test]
        fn pseudo_headers_are_their_bytes(source: [u8; 16], destination: [u8; 16], protocol: u8, length: u32) {
            let mut bytes = [&source[..], &destination[..]].concat();
            bytes.extend(length.to_be_bytes());
            bytes.extend([0, 0, 0, protocol]);
            prop_assert_eq!(Sum::pseudo_v6(source, destination, protocol, length).fold(), oracle(&bytes));

            let (source, destination) = ([1, source[1], source[2], source[3]], [destination[0], 2, 3, destination[3]]);
            let length = length as u16;
            let bytes = [&source[..], &destination[..], &[0, protocol], &length.to_be_bytes()].concat();
            prop_assert_eq!(Sum::pseudo_v4(source, destination, protocol, length).fold(), oracle(&bytes));
        }

        #[test]
        fn update_is_a_new_checksum(mut words in prop::collection::vec(any::<u16>(), 2..20), new: u16) {
            // A sum of only zeros is the one case in which the two forms of zero differ (RFC 1624 §3).
            words[0] |= 1;
            let bytes = |words: &[u16]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
            let before = of(&bytes(&words)).checksum();
            let updated = update(before, words[1], new);
            words[1] = new;
            prop_assert_eq!(updated, of(&bytes(&words)).checksum());
        }
    }
}
