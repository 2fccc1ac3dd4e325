//! A frontend that takes its memory away while it is used (virtio has no word for that; the kernel's is SIGBUS).

use std::fs::{File, OpenOptions};
use std::io::Write;

use rustix::fs::{FallocateFlags, MemfdFlags};
use synthetic_guest::Features;
use vm_ports::{FrontendAddr, GuestMemory, GuestPhysAddr, MemorySlot, RingFault, RxDrop};

use crate::bench::{Neighbour, Setup, World, pattern, push};

fn world(packed: bool) -> World {
    let format = if packed { Features::RING_PACKED } else { Features::NONE };
    // Rings in the first region, receive buffers in the second, transmit buffers in the third.
    World::new(&Setup { regions: 3, region_size: 1 << 20, ..Setup::new(Features::VERSION_1 | format).ring(64) })
}

fn send(world: &mut World) {
    let frame = pattern(1000, 1);
    world.pair.tx.send_with(8, |_, slot| {
        slot.header(synthetic_guest::Offload::default());
        slot.write(0, &frame);
        frame.len()
    });
}

fn stops(mut world: World) {
    let mut neighbour = Neighbour::new();
    for _ in 0..5 {
        neighbour.talk(1);
        world.pull();
        let _ = push(&mut world.rx, &pattern(500, 1));
    }
    assert!(world.memory.is_truncated());
    assert!(
        world.tx.fault().is_some() && world.rx.fault().is_some(),
        "both stop: {:?} {:?}",
        world.tx.fault(),
        world.rx.fault()
    );
    let faults: u64 = RingFault::ALL.iter().map(|fault| world.tx_faults(*fault) + world.rx_faults(*fault)).sum();
    assert_eq!(faults, 2, "each is counted once");
    assert_eq!(push(&mut world.rx, &pattern(500, 1)), Err(RxDrop::NotReady));
    assert!(!world.tx.has_work());
    neighbour.lost_nothing();
}

#[test]
fn transmit_buffers_that_are_gone_stop_the_rings() {
    for packed in [false, true] {
        let mut world = world(packed);
        send(&mut world);
        world.ram.truncate(2, 0).expect("an unsealed file");
        // What is read there is zeros, once; then it is known.
        let first = world.pull();
        assert!(first.iter().all(|frame| frame.iter().all(|byte| *byte == 0)));
        world.pull();
        assert_eq!(world.tx.fault(), Some(RingFault::MemoryLost));
        stops(world);
    }
}

#[test]
fn receive_buffers_that_are_gone_stop_the_rings() {
    for packed in [false, true] {
        let mut world = world(packed);
        world.ram.truncate(1, 0).expect("an unsealed file");
        assert_eq!(push(&mut world.rx, &pattern(500, 1)), Ok(()), "into the zeros that took its place");
        assert_eq!(push(&mut world.rx, &pattern(500, 1)), Err(RxDrop::NotReady));
        assert_eq!(world.rx.fault(), Some(RingFault::MemoryLost));
        stops(world);
    }
}

#[test]
fn rings_that_are_gone_stop() {
    for packed in [false, true] {
        let mut world = world(packed);
        send(&mut world);
        world.ram.truncate(0, 0).expect("an unsealed file");
        stops(world);
    }
}

#[test]
fn memory_that_is_lost_while_it_is_polled() {
    for packed in [false, true] {
        let mut world = world(packed);
        let mut neighbour = Neighbour::new();
        std::thread::scope(|scope| {
            let ram = &world.ram;
            let region = if packed { 0 } else { 2 };
            let cut = scope.spawn(move || {
                std::thread::sleep(std::time::Duration::from_millis(20));
                ram.truncate(region, 0).expect("an unsealed file");
            });
            while !cut.is_finished() || world.tx.fault().is_none() {
                // Not through the driver, whose memory it was.
                let mut buffer = vm_ports::BurstBuffer::default();
                let mut burst = vm_ports::Burst::new(&mut buffer);
                world.tx.pull(&mut burst);
                drop(burst);
                world.tx.complete();
                let _ = push(&mut world.rx, &pattern(500, 1));
                if cut.is_finished() {
                    let frame = pattern(100, 1);
                    world.pair.tx.send_with(1, |_, slot| {
                        slot.write(0, &frame);
                        frame.len()
                    });
                    // The driver's writes go to pages of its own now: the device has to look by itself.
                    if world.tx.fault().is_none() && packed {
                        world.tx.has_work();
                    }
                }
                neighbour.talk(1);
                if cut.is_finished() && world.memory.is_truncated() {
                    break;
                }
            }
        });
        stops(world);
        neighbour.lost_nothing();
    }
}

/// A file of huge pages says any length that its owner likes; nothing but whole pages can be mapped, replaced and
/// unmapped.
#[test]
fn a_file_of_huge_pages_that_ends_within_one() {
    const PAGE: u64 = 2 << 20;
    const SIZE: u64 = PAGE + 4096;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    let file = rustix::fs::memfd_create("odd-huge-pages", flags).map(File::from);
    let Ok(file) = file.and_then(|file| {
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, SIZE)?;
        Ok(file)
    }) else {
        return skip("a_file_of_huge_pages_that_ends_within_one", "needs two free hugepages of 2 MiB");
    };
    assert_eq!(file.metadata().expect("a memfd").len(), SIZE);
    let slot = MemorySlot {
        guest: GuestPhysAddr(0),
        frontend: FrontendAddr(0),
        size: SIZE,
        mmap_offset: 0,
        file: file.try_clone().expect("a descriptor"),
    };
    let memory = GuestMemory::map(vec![slot]).expect("whole pages");
    let write = |at| {
        memory.translate(&mut 0, GuestPhysAddr(at), 8).expect("inside").write(&[7; 8]);
    };
    [0, PAGE, SIZE - 8].into_iter().for_each(write);
    file.set_len(0).expect("an unsealed file");
    [PAGE + 9, SIZE - 8, 0].into_iter().for_each(write);
    assert!(memory.is_truncated());
    drop(memory);
    let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
    assert!(!maps.contains("odd-huge-pages"), "it is unmapped: {maps}");
}

/// Reports that a test could not run here, where a run of the whole suite collects skips: one that `tests/skips.txt`
/// does not list fails it.
fn skip(test: &str, reason: &str) {
    println!("SKIP {test}: {reason}");
    let Some(log) = std::env::var_os("SIDECORE_SKIP_LOG") else { return };
    let file = OpenOptions::new().create(true).append(true).open(log);
    file.and_then(|mut file| writeln!(file, "{test}: {reason}")).expect("the skip is recorded");
}
