//! Addresses are types: what a guest calls an address, what its frontend calls one, and what this process calls one
//! are three different things, and nothing here turns one into another without a length and a bound.

use std::fmt;

/// An address in the guest's physical address space: what descriptors carry (virtio 1.2 §2.7.5, §2.8.13).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestPhysAddr(pub u64);

/// An address in the vhost-user frontend's virtual address space: what `SET_VRING_ADDR` carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendAddr(pub u64);

impl GuestPhysAddr {
    /// The address `bytes` further on, or `None` past the end of the address space.
    #[inline]
    pub fn checked_add(self, bytes: u64) -> Option<Self> {
        self.0.checked_add(bytes).map(Self)
    }
}

impl FrontendAddr {
    /// The address `bytes` further on, or `None` past the end of the address space.
    #[inline]
    pub fn checked_add(self, bytes: u64) -> Option<Self> {
        self.0.checked_add(bytes).map(Self)
    }
}

impl fmt::Display for GuestPhysAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "guest-physical {:#x}", self.0)
    }
}

impl fmt::Display for FrontendAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "frontend {:#x}", self.0)
    }
}
