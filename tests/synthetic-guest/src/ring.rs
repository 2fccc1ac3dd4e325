//! What split and packed rings have in common: the driver's side of a virtqueue.

use crate::memory::Window;
use crate::{PackedRing, SplitRing};

/// One buffer of a descriptor chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Guest-physical address.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
    /// Whether the device writes to it.
    pub writable: bool,
}

/// A chain that the device has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// What the caller gave to [`Ring::add`].
    pub token: u32,
    /// Bytes that the device says it has written.
    pub len: u32,
}

/// When chains go through an indirect table (if INDIRECT_DESC is negotiated).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Indirect {
    /// Never.
    Never,
    /// Chains of more than one segment, as Linux does.
    #[default]
    Chains,
    /// All chains, single segments too.
    Always,
}

/// When the guest wants to be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum CallMode {
    /// Never: the guest polls.
    #[default]
    Never,
    /// For every use (split rings with EVENT_IDX know only event positions: there, like `Event`).
    Always,
    /// For the next use after each poll of the ring (needs EVENT_IDX, else like `Always`).
    Event,
}

/// What was negotiated and chosen for a ring.
#[derive(Clone, Copy, Debug, Default)]
pub struct RingOptions {
    /// EVENT_IDX is negotiated.
    pub event_idx: bool,
    /// IN_ORDER is negotiated.
    pub in_order: bool,
    /// Use of indirect tables; give `Never` unless INDIRECT_DESC is negotiated.
    pub indirect: Indirect,
    /// Segments that an indirect table can hold.
    pub max_segments: u16,
    /// First call mode.
    pub calls: CallMode,
}

/// Whether a side that asked for a notification at `event` gets one for moving from `old` to `new` (virtio 1.2 §2.7.7.1).
#[inline]
pub(crate) fn event_passed(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// A ring of either format.
#[allow(clippy::large_enum_variant)]
pub enum Ring {
    /// virtio 1.2 §2.7.
    Split(SplitRing),
    /// virtio 1.2 §2.8.
    Packed(PackedRing),
}

macro_rules! either {
    ($self:expr, $ring:ident => $body:expr) => {
        match $self {
            Ring::Split($ring) => $body,
            Ring::Packed($ring) => $body,
        }
    };
}

impl Ring {
    /// Makes a chain of `segments` (device-readable ones first) available under `token`; `false` when the ring is full.
    /// The device sees nothing of it before [`Ring::publish`].
    #[inline]
    pub fn add(&mut self, token: u32, segments: &[Segment]) -> bool {
        either!(self, ring => ring.add(token, segments))
    }

    /// Like [`Ring::add`] for a chain of one segment, and quicker: descriptors come round in ring order, and a split
    /// ring does not write again what the device has been told before. A token must always come with the same address.
    #[inline]
    pub fn add_one(&mut self, token: u32, segment: Segment) -> bool {
        either!(self, ring => ring.add_one(token, segment))
    }

    /// [`Ring::add_one`] up to `count` times; `next` gives token and segment of each. Returns how many there was room for.
    #[inline]
    pub fn add_ones(&mut self, count: usize, next: impl FnMut(usize) -> (u32, Segment)) -> usize {
        either!(self, ring => ring.add_ones(count, next))
    }

    /// Shows all chains added so far to the device, with one release store.
    #[inline]
    pub fn publish(&mut self) {
        either!(self, ring => ring.publish());
    }

    /// Whether the device wants a kick for what was published since the last question.
    #[inline]
    pub fn kick_wanted(&mut self) -> bool {
        either!(self, ring => ring.kick_wanted())
    }

    /// The next used chain.
    #[inline]
    pub fn pop_used(&mut self) -> Option<Used> {
        either!(self, ring => ring.pop_used())
    }

    /// The next used chains, into `out`; returns how many.
    #[inline]
    pub fn pop_burst(&mut self, out: &mut [Used]) -> usize {
        either!(self, ring => ring.pop_burst(out))
    }

    /// Used chains that can be taken without looking at the device's index again.
    #[inline]
    pub fn has_used(&mut self) -> bool {
        either!(self, ring => ring.has_used())
    }

    /// Tells the device when to call, as of the present position.
    #[inline]
    pub fn arm_calls(&mut self) {
        either!(self, ring => ring.arm_calls());
    }

    /// Changes when the device is to call.
    pub fn set_calls(&mut self, mode: CallMode) {
        either!(self, ring => ring.set_calls(mode));
    }

    /// Chains that a device holds or that wait for [`Ring::publish`].
    pub fn in_flight(&self) -> usize {
        either!(self, ring => ring.in_flight())
    }

    /// Free descriptors.
    pub fn free_descriptors(&self) -> usize {
        either!(self, ring => ring.free_descriptors())
    }

    /// Used entries that no driver can accept: an id that is not outstanding, an index that jumps, a broken order.
    pub fn violations(&self) -> u64 {
        either!(self, ring => ring.violations())
    }

    /// Ring entries.
    pub fn size(&self) -> u16 {
        either!(self, ring => ring.size())
    }

    /// The position, as a vring base, from which a device must go on that has completed exactly what the driver has
    /// seen used: what QEMU restores when a backend was lost. Packed rings carry it in both halves.
    pub fn base_from_used(&self) -> u32 {
        either!(self, ring => ring.base_from_used())
    }

    /// The vring base of an untouched ring.
    pub fn fresh_base(&self) -> u32 {
        match self {
            Ring::Split(_) => 0,
            Ring::Packed(_) => 0x8000_8000,
        }
    }

    /// The three parts of the ring: descriptors, driver area, device area.
    pub fn parts(&self) -> [&Window; 3] {
        either!(self, ring => ring.parts())
    }
}

#[cfg(test)]
mod tests {
    use super::event_passed;

    #[test]
    fn event_index_wraps() {
        assert!(event_passed(5, 6, 5));
        assert!(!event_passed(6, 6, 5));
        assert!(!event_passed(4, 6, 5));
        assert!(event_passed(0xffff, 0, 0xffff));
        assert!(event_passed(0xfffe, 2, 0xfffd));
        assert!(!event_passed(2, 2, 0xfffd));
    }
}
