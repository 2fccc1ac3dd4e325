//! The processor's state at the beginning: long mode, ring 3, interrupts on.

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_dtable, kvm_segment, kvm_sregs, kvm_xcrs};
use kvm_ioctls::{Kvm, VcpuFd};

use super::Error;
use super::entry::{Privileged, TASK, USER_CODE, USER_DATA};

/// RFLAGS: interrupts, and the bit that is always set.
pub(super) const INTERRUPTS_ON: u64 = 1 << 9 | 1 << 1;

/// CR0: protected mode with paging, native x87 errors, read-only pages for ring 0 as well.
const CR0: u64 = 1 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31;
/// CR4: the page tables of long mode, SSE and its exceptions. SMEP and SMAP stay off: ring 0 runs on pages of ring 3.
const CR4: u64 = 1 << 5 | 1 << 9 | 1 << 10;
/// CR4: extended states (AVX), which the C library's memcpy uses when the processor has them.
const CR4_XSAVE: u64 = 1 << 18;
/// EFER: long mode, and no SYSCALL, so that a system call is a fault. (Where KVM lets it pass all the same, it leads to address 0, and is
/// one there.)
const EFER: u64 = 1 << 8 | 1 << 10;
/// Spurious interrupt vector register: the controller is on.
const APIC_ON: [u8; 2] = [0xff, 1];

/// Sets the processor up, and returns what it was set to.
pub(super) fn set_up(kvm: &Kvm, vcpu: &VcpuFd, root: u64, privileged: &Privileged) -> Result<kvm_sregs, Error> {
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(Error::kvm("the processor's features"))?;
    vcpu.set_cpuid2(&cpuid).map_err(Error::kvm("the processor's features"))?;
    let find = |function| cpuid.as_slice().iter().find(move |entry| entry.function == function && entry.index == 0);
    let states = find(0xd).map_or(0, |entry| u64::from(entry.eax) | u64::from(entry.edx) << 32);

    let mut sregs = vcpu.get_sregs().map_err(Error::kvm("the processor's registers"))?;
    let address = |start: *const ()| start.expose_provenance() as u64;
    let counters = address(privileged.interrupts.as_ptr().cast());
    let data = segment(USER_DATA, 3, 0);
    sregs.cs = segment(USER_CODE, 11, 1);
    (sregs.ss, sregs.ds, sregs.es, sregs.fs) = (data, data, data, data);
    sregs.gs = kvm_segment { base: counters, ..data };
    sregs.tr = kvm_segment {
        base: address(privileged.tss.as_ptr().cast()),
        limit: size_of_val(&privileged.tss) as u32 - 1,
        selector: TASK,
        type_: 11,
        present: 1,
        ..kvm_segment::default()
    };
    let table = |start, len: usize| kvm_dtable { base: address(start), limit: len as u16 - 1, ..kvm_dtable::default() };
    sregs.gdt = table(privileged.gdt.as_ptr().cast(), size_of_val(&privileged.gdt));
    sregs.idt = table(privileged.idt.as_ptr().cast(), size_of_val(&privileged.idt));
    (sregs.cr0, sregs.cr3, sregs.efer) = (CR0, root, EFER);
    sregs.cr4 = CR4 | if states == 0 { 0 } else { CR4_XSAVE };
    vcpu.set_sregs(&sregs).map_err(Error::kvm("long mode"))?;
    if states != 0 {
        let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..kvm_xcrs::default() };
        xcrs.xcrs[0].value = states;
        vcpu.set_xcrs(&xcrs).map_err(Error::kvm("extended states"))?;
    }

    let mut apic = vcpu.get_lapic().map_err(Error::kvm("the interrupt controller"))?;
    (apic.regs[0xf0], apic.regs[0xf1]) = (APIC_ON[0] as _, APIC_ON[1] as _);
    vcpu.set_lapic(&apic).map_err(Error::kvm("the interrupt controller"))?;
    Ok(sregs)
}

/// A flat segment of ring 3.
fn segment(selector: u16, type_: u8, long: u8) -> kvm_segment {
    kvm_segment {
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        dpl: 3,
        db: 1 - long,
        s: 1,
        l: long,
        g: 1,
        ..kvm_segment::default()
    }
}
