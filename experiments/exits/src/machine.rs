//! Where the guest's program runs.

use synthetic_guest::Bell;

use crate::program::{Cpu, Guest, Program as _};
use crate::vmm::{Counters, Error, Vm};

/// What drives the rings.
pub enum Machine {
    /// Ring 3 of a virtual machine.
    Virtual(Box<Vm>),
    /// An ordinary thread, where there is no KVM: there are kicks and calls, and no exits to be counted.
    Thread,
}

impl Machine {
    /// Carries out the guest's job.
    pub fn run(&mut self, guest: &mut Guest, enough: impl Fn() -> bool) -> Result<(), Error> {
        match self {
            Machine::Virtual(vm) => vm.run(guest, enough),
            Machine::Thread => {
                guest.run(&Thread);
                Ok(())
            }
        }
    }

    /// KVM's counters, where there is KVM.
    pub fn counters(&self) -> Result<Option<Counters>, Error> {
        match self {
            Machine::Virtual(vm) => vm.counters().map(Some),
            Machine::Thread => Ok(None),
        }
    }
}

/// A thread of this process: kicks and calls are eventfds.
struct Thread;

impl Cpu for Thread {
    fn kick(&self, _: usize, bell: &mut Bell) {
        bell.kick(1);
    }

    fn calls(&self, _: usize, bell: &mut Bell) -> u64 {
        bell.drain_calls();
        bell.calls()
    }
}
