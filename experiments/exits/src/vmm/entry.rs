//! The way into the program, out of it, and through interrupts: what runs in the guest besides the program itself.

use std::arch::naked_asm;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use synthetic_guest::Bell;

use crate::program::{Cpu, Program};

/// Most virtqueues: each has an interrupt handler.
pub const QUEUES: usize = 4;

/// Addresses without memory behind them, the same guest-physical and virtual. Doorbells have eventfds; the others end
/// [`Vm::run`](super::Vm::run).
pub(super) const DOORBELLS: u64 = 0xd000_0000;
pub(super) const DONE: u64 = 0xd000_1000;
pub(super) const FAULT: u64 = 0xd000_2000;
/// The local interrupt controller's registers, where KVM emulates them.
pub(super) const APIC: u64 = 0xfee0_0000;
/// All of these pages.
pub(super) const MMIO: &[u64] = &[DOORBELLS, DONE, FAULT, APIC];

/// Bytes from one queue's doorbell to the next.
pub(super) const DOORBELL_STEP: usize = 4;
const END_OF_INTERRUPT: u64 = APIC + 0xb0;

/// Vector of the first queue's interrupt.
pub(super) const FIRST_VECTOR: u8 = 0x40;

/// Selectors of the descriptor table below.
pub(super) const KERNEL_CODE: u16 = 1 << 3;
pub(super) const USER_DATA: u16 = 2 << 3 | 3;
pub(super) const USER_CODE: u16 = 3 << 3 | 3;
pub(super) const TASK: u16 = 4 << 3;

const TSS_LEN: usize = 104;
/// Words of the stack for ring 0.
const STACK: usize = 512;

/// What the processor itself needs: descriptor tables, a stack for ring 0, counters. The guest has it at its address here.
#[repr(C, align(4096))]
pub(super) struct Privileged {
    pub(super) idt: [[u64; 2]; 256],
    pub(super) gdt: [u64; 6],
    /// In words, because the stack's address stands at byte 4 (AMD64 manual, volume 2, §12.2.5).
    pub(super) tss: [u32; TSS_LEN / 4],
    pub(super) interrupts: [AtomicU64; QUEUES],
    stack: Stack,
}

#[repr(C, align(16))]
struct Stack([AtomicU64; STACK]);

impl Privileged {
    /// Tables whose addresses are missing: [`Privileged::link`] puts them in once they are known.
    pub(super) fn new() -> Self {
        let fault = gate(fault as *const ());
        let mut idt = [fault; 256];
        for (queue, handler) in HANDLERS.into_iter().enumerate() {
            idt[usize::from(FIRST_VECTOR) + queue] = gate(handler as *const ());
        }
        Privileged {
            idt,
            // Null, then 64-bit code in ring 0, data and 64-bit code in ring 3; the task segment comes later.
            gdt: [0, 0x00af_9b00_0000_ffff, 0x00cf_f300_0000_ffff, 0x00af_fb00_0000_ffff, 0, 0],
            tss: [0; TSS_LEN / 4],
            interrupts: [const { AtomicU64::new(0) }; QUEUES],
            stack: Stack([const { AtomicU64::new(0) }; STACK]),
        }
    }

    /// Puts in the addresses of what must not move from here on.
    pub(super) fn link(mut self: Box<Self>) -> Box<Self> {
        let stack = self.stack.0.as_ptr_range().end.expose_provenance() as u64;
        (self.tss[1], self.tss[2]) = (stack as u32, (stack >> 32) as u32);
        let tss = self.tss.as_ptr().expose_provenance() as u64;
        self.gdt[4] = (TSS_LEN as u64 - 1) | (tss & 0xff_ffff) << 16 | 0x8b << 40 | (tss >> 24 & 0xff) << 56;
        self.gdt[5] = tss >> 32;
        self
    }

    /// Where the program faulted and the error code, from the frame on the stack. Some faults have a code, below the
    /// instruction's address, and others have not: the code segment shows which.
    pub(super) fn fault(&self, rsp: u64) -> (u64, u64) {
        let start = self.stack.0.as_ptr().addr() as u64;
        let word = |n: u64| {
            let at = rsp.wrapping_sub(start) / 8 + n;
            self.stack.0.get(at as usize).map_or(0, |word| word.load(Ordering::Relaxed))
        };
        if word(1) == u64::from(USER_CODE) { (word(0), 0) } else { (word(1), word(0)) }
    }
}

/// A gate to a handler in ring 0, with interrupts off.
fn gate(handler: *const ()) -> [u64; 2] {
    let address = handler.expose_provenance() as u64;
    let low = (address & 0xffff) | u64::from(KERNEL_CODE) << 16 | 0x8e00 << 32 | (address >> 16 & 0xffff) << 48;
    [low, address >> 32]
}

type Handler = unsafe extern "sysv64" fn();
const HANDLERS: [Handler; QUEUES] = [interrupt::<0>, interrupt::<1>, interrupt::<2>, interrupt::<3>];

/// Counts a queue's interrupt and goes back.
///
/// # Safety
/// Only for the interrupt table: entered by the processor, in ring 0, with GS at the counters.
#[unsafe(naked)]
unsafe extern "sysv64" fn interrupt<const QUEUE: usize>() {
    naked_asm!(
        "inc qword ptr gs:[{counter}]",
        "push rax",
        "mov eax, {end}",
        "mov dword ptr [rax], 0",
        "pop rax",
        "iretq",
        counter = const 8 * QUEUE,
        end = const END_OF_INTERRUPT,
    )
}

/// Ends the run, whatever it was.
///
/// # Safety
/// As for [`interrupt`].
#[unsafe(naked)]
unsafe extern "sysv64" fn fault() {
    naked_asm!("mov eax, {fault}", "mov byte ptr [rax], 1", "2: jmp 2b", fault = const FAULT)
}

/// Where ring 3 begins: calls RDX with the arguments in RDI and RSI, then ends the run.
///
/// # Safety
/// Only for [`Vm::run`](super::Vm::run), which sets these registers.
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn start() {
    naked_asm!("call rdx", "mov eax, {done}", "mov byte ptr [rax], 1", "2: jmp 2b", done = const DONE)
}

/// The program, called by [`start`].
///
/// # Safety
/// `program` and `interrupts` are what [`Vm::run`](super::Vm::run) has exclusive and shared references to. Only in ring 3 of
/// the guest.
pub(super) unsafe extern "sysv64" fn execute<P: Program>(program: *mut P, interrupts: *const [AtomicU64; QUEUES]) {
    // SAFETY: `Vm::run` lends us both until we return: it waits for that.
    let (program, interrupts) = unsafe { (&mut *program, &*interrupts) };
    program.run(&Ring3 { interrupts });
}

/// The virtual processor, for the program that runs on it.
pub struct Ring3<'a> {
    interrupts: &'a [AtomicU64; QUEUES],
}

impl Cpu for Ring3<'_> {
    #[inline(always)]
    fn kick(&self, queue: usize, _: &mut Bell) {
        debug_assert!(queue < QUEUES);
        let doorbell = ptr::with_exposed_provenance_mut::<u16>(DOORBELLS as usize + DOORBELL_STEP * queue);
        // SAFETY: a `Ring3` exists only in the guest (`execute` makes it), whose page tables have this page; there is no
        // memory behind it, only KVM, which takes the store for a kick.
        unsafe { doorbell.write_volatile(queue as u16) }
    }

    #[inline(always)]
    fn calls(&self, queue: usize, _: &mut Bell) -> u64 {
        self.interrupts[queue].load(Ordering::Relaxed)
    }
}

/// The processor's cycle counter.
#[inline(always)]
#[must_use]
pub fn cycles() -> u64 {
    // SAFETY: RDTSC is part of x86-64, and neither Linux nor this guest forbids it to ring 3.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_task_segment_leads_to_the_stack() {
        let privileged = Box::new(Privileged::new()).link();
        let [low, high] = [privileged.gdt[4], privileged.gdt[5]];
        let base = (low >> 16 & 0xff_ffff) | (low >> 56) << 24 | high << 32;
        assert_eq!(base, privileged.tss.as_ptr().addr() as u64);
        let stack = u64::from(privileged.tss[1]) | u64::from(privileged.tss[2]) << 32;
        assert_eq!(stack, privileged.stack.0.as_ptr_range().end.addr() as u64);
        assert!(stack.is_multiple_of(16));
    }

    #[test]
    fn faults_are_read_with_and_without_a_code() {
        let privileged = Box::new(Privileged::new()).link();
        let top = privileged.stack.0.as_ptr_range().end.addr() as u64;
        for (n, word) in [0x1234, u64::from(USER_CODE), 2, 3, 4].into_iter().enumerate() {
            privileged.stack.0[STACK - 5 + n].store(word, Ordering::Relaxed);
        }
        assert_eq!(privileged.fault(top - 40), (0x1234, 0));
        privileged.stack.0[STACK - 6].store(6, Ordering::Relaxed);
        assert_eq!(privileged.fault(top - 48), (0x1234, 6));
        assert_eq!(privileged.fault(0), (0, 0));
    }
}
