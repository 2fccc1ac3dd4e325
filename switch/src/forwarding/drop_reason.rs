//! Why a packet, or one copy of a flooded packet, went no further.

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why the switch dropped a packet. Every drop has one reason, and every reason is one counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub(crate) enum DropReason {
            $($(#[$doc])* $variant,)*
        }

        impl DropReason {
            /// All reasons, in the order of [`DropReason::index`].
            pub(crate) const ALL: [Self; [$(Self::$variant),*].len()] = [$(Self::$variant),*];

            /// The value of the `reason` label in metrics: stable.
            pub(crate) const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

drop_reasons! {
    /// Shorter than an Ethernet header (or than the VLAN tag that it announces).
    Runt = "runt",
    /// Checksum or segmentation metadata that does not fit the packet.
    BadOffload = "bad_offload",
    /// The source address is multicast or zero: nobody's address.
    BadSource = "bad_source",
    /// The source address is not the one that this guest was given.
    SpoofedSource = "spoofed_source",
    /// The source port is not a member of the packet's VLAN, or may not send it with (or without) a tag.
    VlanNotAllowed = "vlan_not_allowed",
    /// A destination that bridges must not forward: 01-80-C2-00-00-00 to -0F.
    ReservedMulticast = "reserved_multicast",
    /// Nobody else is in the VLAN.
    NoDestination = "no_destination",
    /// The destination is behind the port that the packet came from.
    Hairpin = "hairpin",
    /// The source port floods faster than it may.
    FloodPoliced = "flood_policed",
    /// Longer than the receiver's MTU, and not to be segmented.
    TooLong = "too_long",
    /// The receiver has no started and enabled RX queue.
    ReceiverNotReady = "receiver_not_ready",
    /// The receiving guest has too few buffers in its RX ring.
    RxFull = "rx_full",
    /// The receiving guest posted a buffer that cannot be used; it was given back empty.
    BadBuffer = "bad_buffer",
    /// The ring to the receiver's I/O core is full.
    XcoreFull = "xcore_full",
    /// The uplink's TX queue is full.
    UplinkFull = "uplink_full",
    /// No mbuf was left to copy the packet into.
    NoMbuf = "no_mbuf",
    /// The receiver was removed while the packet was under way to it.
    PortGone = "port_gone",
}

impl DropReason {
    /// The reason's place in a table of counters.
    #[inline]
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn one_to_one_with_counters() {
        let names: HashSet<_> = DropReason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(names.len(), DropReason::ALL.len());
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert!(reason.as_str().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
        }
    }
}
