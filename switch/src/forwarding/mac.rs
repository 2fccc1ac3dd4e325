//! MAC addresses, and what a bridge does with a destination because of its address alone.

use std::fmt;

/// A MAC address as it is on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct MacAddr(pub(crate) [u8; 6]);

/// What a destination address says before any table is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// One station: look it up.
    Unicast,
    /// All of the VLAN, or a group that is not tracked and is therefore treated as all.
    Flood,
    /// One of 01-80-C2-00-00-00 to -0F, which IEEE 802.1Q §8.6.3 tells bridges not to forward: spanning tree, pause,
    /// LACP, LLDP. They concern the link that they were sent on. The Linux bridge and Open vSwitch hold them back by
    /// default too, except that both let spanning tree frames through where they run no spanning tree themselves or are
    /// told to. Sidecore does not: guests have no say in the network's topology.
    Reserved,
}

impl MacAddr {
    /// Whether the group bit is set: multicast, of which broadcast is one.
    #[inline]
    pub(crate) fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// Whether a station can have this address, that is, whether a frame may come from it.
    #[inline]
    pub(crate) fn is_station(self) -> bool {
        !self.is_multicast() && self.0 != [0; 6]
    }

    /// What the address says as a destination.
    #[inline]
    pub(crate) fn destination(self) -> Destination {
        match self.0 {
            [0x01, 0x80, 0xc2, 0x00, 0x00, last] if last < 0x10 => Destination::Reserved,
            _ if self.is_multicast() => Destination::Flood,
            _ => Destination::Unicast,
        }
    }

    /// As a number below 2^48.
    #[inline]
    pub(crate) fn to_bits(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from(u32::from_be_bytes([a, b, c, d])) << 16 | u64::from(u16::from_be_bytes([e, f]))
    }

    /// The address that [`MacAddr::to_bits`] made the low 48 bits of `bits` from.
    pub(crate) fn from_bits(bits: u64) -> Self {
        let [_, _, a, b, c, d, e, f] = bits.to_be_bytes();
        Self([a, b, c, d, e, f])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations() {
        let cases = [
            ([0x01, 0x80, 0xc2, 0, 0, 0x00], Destination::Reserved),
            ([0x01, 0x80, 0xc2, 0, 0, 0x0f], Destination::Reserved),
            ([0x01, 0x80, 0xc2, 0, 0, 0x10], Destination::Flood),
            ([0x01, 0x00, 0x5e, 0, 0, 0x01], Destination::Flood),
            ([0x33, 0x33, 0, 0, 0, 0x01], Destination::Flood),
            ([0xff; 6], Destination::Flood),
            ([0x52, 0x54, 0, 0, 0, 1], Destination::Unicast),
            ([0; 6], Destination::Unicast),
        ];
        for (mac, expected) in cases {
            assert_eq!(MacAddr(mac).destination(), expected, "{}", MacAddr(mac));
        }
    }

    #[test]
    fn stations() {
        assert!(MacAddr([0x52, 0x54, 0, 0, 0, 1]).is_station());
        assert!(!MacAddr([0; 6]).is_station());
        assert!(!MacAddr([0xff; 6]).is_station());
        assert!(!MacAddr([0x01, 0, 0x5e, 0, 0, 1]).is_station());
    }

    #[test]
    fn bits_and_text() {
        let mac = MacAddr([0x52, 0x54, 0, 0xab, 0, 1]);
        assert_eq!(MacAddr::from_bits(mac.to_bits() | 0xffff << 48), mac);
        assert_eq!(mac.to_string(), "52:54:00:ab:00:01");
    }
}
