//! A virtual machine with one processor and no firmware, whose guest is a function of this program.
//!
//! The guest's page tables show it this process's own memory at the same addresses ([`memory`]), so that code, heap and
//! guest memory are where the compiler and the ring driver believe them to be. It is entered in long mode, in ring 3, with a
//! stack of its own and no thread-local storage. What it must not do (a system call, a panic, memory that was not there when
//! the machine was made) is a fault, and [`Vm::run`] says so. The few instructions in ring 0 count interrupts ([`entry`]).
//!
//! All `unsafe` rests on one rule: while [`Vm::run`] runs, the guest is this thread. It executes what this thread would have
//! executed by calling the function, on memory that this thread may use, and nothing else of it runs meanwhile.

mod entry;
mod memory;
mod processor;
mod stats;

use std::os::fd::{AsFd as _, BorrowedFd, FromRawFd as _, IntoRawFd as _};

use kvm_bindings::{
    KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_msi, kvm_regs, kvm_sregs,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{IoEventAddress, Kvm, NoDatamatch, VcpuExit, VcpuFd, VmFd};
use synthetic_guest::Ram;
use vmm_sys_util::eventfd::EventFd;

pub use entry::{QUEUES, Ring3, cycles};
pub use stats::Counters;

use self::entry::{DONE, DOORBELLS, FAULT, FIRST_VECTOR, MMIO, Privileged};
use self::memory::{AddressSpace, PAGE};
use self::stats::VcpuStats;
use crate::program::Program;

/// Bytes of the program's stack.
const STACK: usize = 256 << 10;

/// Where KVM may keep what Intel processors need for real mode; nothing of the guest is there.
const REAL_MODE_HELPERS: usize = 0xfffb_d000;

/// The first interrupt line behind those of the chips that KVM emulates.
const FIRST_LINE: u32 = 24;

/// What can go wrong with a virtual machine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// KVM refuses.
    #[error("{what}: {source}")]
    Kvm {
        /// What was asked for.
        what: &'static str,
        /// Why not.
        source: vmm_sys_util::errno::Error,
    },
    /// A file.
    #[error("{what}: {source}")]
    Io {
        /// Which.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// Memory that cannot be shown to the guest.
    #[error("the guest's address space: {0}")]
    AddressSpace(String),
    /// KVM's counters are not as documented.
    #[error("KVM's counters: {0}")]
    Stats(String),
    /// The program did what a guest in ring 3 cannot do: most likely it panicked.
    #[error("the guest program faulted at {rip:#x} (error code {code:#x}, address {address:#x})")]
    Fault {
        /// Where.
        rip: u64,
        /// The processor's error code, if the fault has one.
        code: u64,
        /// The address of a page fault.
        address: u64,
    },
    /// The processor stopped for a reason that no program here has.
    #[error("the virtual processor stopped: {0}")]
    Stopped(String),
    /// A signal came, and the user has had enough.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    fn kvm(what: &'static str) -> impl Fn(vmm_sys_util::errno::Error) -> Error {
        move |source| Error::Kvm { what, source }
    }

    fn io(what: &'static str) -> impl Fn(std::io::Error) -> Error {
        move |source| Error::Io { what, source }
    }
}

/// One virtqueue's notifications. Queues are numbered by their place in [`Vm::new`]'s list.
#[derive(Clone, Copy, Debug)]
pub struct Wires<'a> {
    /// Written by KVM when the guest kicks.
    pub kick: BorrowedFd<'a>,
    /// Makes KVM interrupt the guest when it is written.
    pub call: BorrowedFd<'a>,
}

/// Whether hardware virtualisation is behind /dev/kvm: the processor has it, and KVM's module for it is there.
#[must_use]
pub fn has_hardware() -> bool {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    [("vmx", "kvm_intel"), ("svm", "kvm_amd")].into_iter().any(|(flag, module)| {
        flags.split_whitespace().any(|f| f == flag) && std::path::Path::new("/sys/module").join(module).exists()
    })
}

/// Whether /dev/kvm opens.
///
/// # Errors
/// It does not.
pub fn available() -> Result<(), Error> {
    Kvm::new().map(drop).map_err(Error::kvm("/dev/kvm"))
}

/// The virtual machine.
pub struct Vm {
    vcpu: VcpuFd,
    /// The state in which programs begin; a fault leaves another one.
    ring3: kvm_sregs,
    stats: VcpuStats,
    privileged: Box<Privileged>,
    stack: Box<[u128]>,
    _memory: AddressSpace,
    _vm: VmFd,
}

impl Vm {
    /// A machine whose guest memory is `rams` and whose queues are wired as `queues` says. The guest sees this process's
    /// memory as it is now: what a program needs has to be allocated before.
    ///
    /// # Errors
    /// /dev/kvm does not open, or KVM lacks something.
    pub fn new(rams: &[&Ram], queues: &[Wires<'_>]) -> Result<Vm, Error> {
        assert!(queues.len() <= QUEUES, "more queues than there are interrupt handlers");
        let kvm = Kvm::new().map_err(Error::kvm("/dev/kvm"))?;
        let vm = kvm.create_vm().map_err(Error::kvm("a virtual machine"))?;
        vm.set_tss_address(REAL_MODE_HELPERS).map_err(Error::kvm("its helpers for real mode"))?;
        vm.create_irq_chip().map_err(Error::kvm("interrupt controllers"))?;
        let vcpu = vm.create_vcpu(0).map_err(Error::kvm("a virtual processor"))?;
        wire(&vm, queues)?;
        let stats = VcpuStats::open(&vcpu)?;
        let privileged = Box::new(Privileged::new()).link();
        let stack: Box<[u128]> = vec![0; STACK / size_of::<u128>()].into_boxed_slice();
        // Below what is used of the stack there is nothing: a program that needs more faults, and writes to nobody's memory.
        let hole = (stack.as_ptr().expose_provenance() as u64).next_multiple_of(PAGE);
        let memory = AddressSpace::new(rams, MMIO, hole)?;
        for (number, slot) in memory.slots().iter().enumerate() {
            let region = kvm_userspace_memory_region {
                slot: number as u32,
                flags: 0,
                guest_phys_addr: slot.guest,
                memory_size: slot.len,
                userspace_addr: slot.host,
            };
            // SAFETY: a slot is a mapping of this process, or the page tables, which live as long as the machine. KVM touches
            // only what the guest touches, and the guest touches what this thread may (see above); page tables are not
            // looked at here any more. Should a mapping go away, KVM takes it away from the guest as well.
            unsafe { vm.set_user_memory_region(region) }.map_err(Error::kvm("a memory slot"))?;
        }
        let ring3 = processor::set_up(&kvm, &vcpu, memory.root(), &privileged)?;
        Ok(Vm { vcpu, ring3, stats, privileged, stack, _memory: memory, _vm: vm })
    }

    /// Runs the program in ring 3 until it returns. `enough` is asked when a signal arrives.
    ///
    /// # Errors
    /// A fault of the program, or a signal. The program's state is then what it was at that moment.
    pub fn run<P: Program + Send>(&mut self, program: &mut P, enough: impl Fn() -> bool) -> Result<(), Error> {
        let regs = kvm_regs {
            rip: (entry::start as *const ()).expose_provenance() as u64,
            rdi: std::ptr::from_mut(program).expose_provenance() as u64,
            rsi: std::ptr::from_ref(&self.privileged.interrupts).expose_provenance() as u64,
            rdx: (entry::execute::<P> as *const ()).expose_provenance() as u64,
            rsp: self.stack.as_mut_ptr_range().end.expose_provenance() as u64,
            rflags: processor::INTERRUPTS_ON,
            ..kvm_regs::default()
        };
        self.vcpu.set_regs(&regs).map_err(Error::kvm("the processor's registers"))?;
        loop {
            match self.vcpu.run() {
                Ok(VcpuExit::MmioWrite(DONE, _)) => return Ok(()),
                Ok(VcpuExit::MmioWrite(FAULT, _)) => return Err(self.fault()?),
                Ok(other) => return Err(Error::Stopped(format!("{other:?}"))),
                Err(error) if error.errno() == rustix::io::Errno::INTR.raw_os_error() => {
                    if enough() {
                        return Err(Error::Interrupted);
                    }
                }
                Err(error) => return Err(Error::kvm("running the processor")(error)),
            }
        }
    }

    /// KVM's counters of the processor, by name.
    pub fn counters(&self) -> Result<Counters, Error> {
        self.stats.read()
    }

    /// Tells what happened, and goes back to ring 3.
    fn fault(&self) -> Result<Error, Error> {
        let rsp = self.vcpu.get_regs().map_err(Error::kvm("the processor's registers"))?.rsp;
        let address = self.vcpu.get_sregs().map_err(Error::kvm("the processor's registers"))?.cr2;
        let (rip, code) = self.privileged.fault(rsp);
        self.vcpu.set_sregs(&self.ring3).map_err(Error::kvm("the processor's registers"))?;
        Ok(Error::Fault { rip, code, address })
    }
}

/// A kick is a store to the queue's doorbell, a call a message-signalled interrupt with the queue's vector.
fn wire(vm: &VmFd, queues: &[Wires<'_>]) -> Result<(), Error> {
    let mut routes = Vec::new();
    for (number, queue) in queues.iter().enumerate() {
        let doorbell = IoEventAddress::Mmio(DOORBELLS + (entry::DOORBELL_STEP * number) as u64);
        vm.register_ioevent(&event(queue.kick)?, &doorbell, NoDatamatch).map_err(Error::kvm("a kick (ioeventfd)"))?;
        let mut route =
            kvm_irq_routing_entry { gsi: FIRST_LINE + number as u32, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
        let data = u32::from(FIRST_VECTOR) + number as u32;
        route.u.msi = kvm_irq_routing_msi { address_lo: entry::APIC as u32, data, ..Default::default() };
        routes.push(route);
    }
    let routes =
        KvmIrqRouting::from_entries(&routes).map_err(|e| Error::Stopped(format!("interrupt routes: {e:?}")))?;
    vm.set_gsi_routing(&routes).map_err(Error::kvm("interrupt routes"))?;
    for (number, queue) in queues.iter().enumerate() {
        let line = FIRST_LINE + number as u32;
        vm.register_irqfd(&event(queue.call)?, line).map_err(Error::kvm("a call (irqfd)"))?;
    }
    Ok(())
}

/// The eventfd in the type that the KVM bindings want. KVM keeps a reference of its own.
fn event(fd: BorrowedFd<'_>) -> Result<EventFd, Error> {
    let own = fd.as_fd().try_clone_to_owned().map_err(Error::io("duplicating an eventfd"))?;
    // SAFETY: `into_raw_fd` gives up the only owner of this descriptor, and `EventFd` becomes it.
    Ok(unsafe { EventFd::from_raw_fd(own.into_raw_fd()) })
}
