//! The virtual machine by itself: programs run, and what they must not do is a fault, not a crash or a hang.
#![forbid(unsafe_code)]

use sidecore_exits::program::{Cpu, Program};
use sidecore_exits::vmm::{self, Error, Vm, cycles};
use sidecore_tests::rules;

/// A machine without devices, if there is KVM.
fn machine(test: &str) -> Option<Vm> {
    if vmm::available().is_err() {
        rules::skip(test, "/dev/kvm does not open");
        return None;
    }
    Some(Vm::new(&[], &[]).unwrap())
}

fn run(vm: &mut Vm, program: &mut (impl Program + Send)) -> Result<(), Error> {
    vm.run(program, || false)
}

struct Sum(Vec<u64>, u64);

impl Program for Sum {
    fn run<C: Cpu>(&mut self, _: &C) {
        self.1 += self.0.iter().sum::<u64>();
    }
}

#[test]
fn a_program_works_on_the_memory_of_this_process() {
    let mut program = Box::new(Sum((0..1000).collect(), 0));
    let Some(mut vm) = machine("a_program_works_on_the_memory_of_this_process") else { return };
    for runs in 1..=3 {
        run(&mut vm, &mut *program).unwrap();
        assert_eq!(program.1, runs * 499_500);
    }
}

struct Spin(u64);

impl Program for Spin {
    fn run<C: Cpu>(&mut self, _: &C) {
        let start = cycles();
        while cycles() - start < self.0 {}
    }
}

#[test]
fn the_end_of_a_run_is_an_exit_that_is_counted() {
    let mut program = Box::new(Spin(1000));
    let Some(mut vm) = machine("the_end_of_a_run_is_an_exit_that_is_counted") else { return };
    let exits = |vm: &Vm| vm.counters().unwrap()["exits"];
    let before = exits(&vm);
    for _ in 0..100 {
        run(&mut vm, &mut *program).unwrap();
    }
    assert!(exits(&vm) - before >= 100);
}

struct Misbehave(fn());

impl Program for Misbehave {
    fn run<C: Cpu>(&mut self, _: &C) {
        (self.0)();
    }
}

#[test]
fn what_ring_3_cannot_do_is_a_fault() {
    let deeds: [(&str, fn()); 3] = [
        ("a system call", std::thread::yield_now),
        ("a panic", || panic!("on purpose")),
        ("endless recursion", || {
            fn down(n: u64) -> u64 {
                if n == u64::MAX { 0 } else { std::hint::black_box(n) + down(n + 1) }
            }
            std::hint::black_box(down(0));
        }),
    ];
    // What a program touches has to be there when the machine is made.
    let mut misbehave = Box::new(Misbehave(|| ()));
    let mut behave = Box::new(Spin(1000));
    let Some(mut vm) = machine("what_ring_3_cannot_do_is_a_fault") else { return };
    for (what, deed) in deeds {
        misbehave.0 = deed;
        let outcome = run(&mut vm, &mut *misbehave);
        assert!(matches!(outcome, Err(Error::Fault { .. })), "{what}: {outcome:?}");
        // The machine is as good as before.
        run(&mut vm, &mut *behave).unwrap();
    }
}
