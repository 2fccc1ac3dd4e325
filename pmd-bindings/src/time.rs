//! The time-stamp counter: the only clock cheap enough to read in every burst.

use crate::ffi;

/// Reads the time-stamp counter. It is not ordered with the instructions around it, which a burst's accounting
/// does not need.
#[inline(always)]
pub fn tsc() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: RDTSC touches no memory; every x86_64 CPU has it, and Linux leaves it enabled in user mode.
        unsafe { core::arch::x86_64::_rdtsc() }
    }
    #[cfg(target_arch = "aarch64")]
    {
        let ticks: u64;
        // SAFETY: reading the virtual counter has no side effect; Linux allows it at EL0.
        unsafe { core::arch::asm!("mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack)) };
        ticks
    }
}

/// Ticks of [`tsc`] in a second, as EAL measured it when it started; 0 before [`Eal::init`](crate::Eal::init).
pub fn tsc_hz() -> u64 {
    // SAFETY: returns a global that rte_eal_init wrote before it returned, and that is 0 until then.
    unsafe { ffi::rte_get_tsc_hz() }
}
