//! Bytes as guest memory and ring state: a transmit and a receive ring are worked over them, a few bursts with changes
//! in between.
//!
//! Checked beyond "no panic": the bytes of memory that no slot covers stay as they were, a burst keeps its bounds, and so does what is said to be left in the ring.

#![no_main]
#![forbid(unsafe_code)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use vm_ports::{
    BURST_PACKETS, Burst, BurstBuffer, Features, FrontendAddr, GuestMemory, GuestPhysAddr, MemorySlot, QueueCounters,
    RingSetup, RxQueue, TxQueue,
};

/// Guest memory is [0, 64 KiB), the 64 KiB after it from elsewhere in the file, a hole, and a page; between them in the
/// file are canaries.
const SLOTS: [(u64, u64, u64); 3] =
    [(0, 0x1_0000, 0x1000), (0x1_0000, 0x1_0000, 0x1_2000), (0x2_1000, 0x1000, 0x2_3000)];
const FILE_BYTES: u64 = 0x2_5000;
const FRONTEND: u64 = 0x7f00_0000_0000;
const CANARIES: [(u64, usize); 4] = [(0, 0x1000), (0x1_1000, 0x1000), (0x2_2000, 0x1000), (0x2_4000, 0x1000)];
/// Where the rings are, in guest memory: descriptors, driver area, device area of each.
const TX: [u64; 3] = [0, 0x800, 0x900];
const RX: [u64; 3] = [0x400, 0xa00, 0xb00];

fn memory() -> &'static (File, Arc<GuestMemory>) {
    static MEMORY: OnceLock<(File, Arc<GuestMemory>)> = OnceLock::new();
    MEMORY.get_or_init(|| {
        let fd = rustix::fs::memfd_create("fuzz", rustix::fs::MemfdFlags::CLOEXEC).expect("a memfd");
        let file = File::from(fd);
        file.set_len(FILE_BYTES).expect("its size");
        let slot = |&(guest, size, mmap_offset): &(u64, u64, u64)| MemorySlot {
            guest: GuestPhysAddr(guest),
            frontend: FrontendAddr(FRONTEND + guest),
            size,
            mmap_offset,
            file: file.try_clone().expect("a handle"),
        };
        let memory = GuestMemory::map(SLOTS.iter().map(slot).collect()).expect("it maps");
        (file, memory)
    })
}

/// Writes at a guest address of the first slot.
fn poke(file: &File, guest: u64, bytes: &[u8]) {
    let room = (SLOTS[0].1 - guest) as usize;
    file.write_all_at(&bytes[..bytes.len().min(room)], SLOTS[0].2 + guest).expect("inside the file");
}

fn setup([descriptors, driver, device]: [u64; 3], size: u32, base: u32) -> RingSetup {
    let at = |guest: u64| FrontendAddr(FRONTEND + guest);
    RingSetup { index: 0, size, descriptors: at(descriptors), driver: at(driver), device: at(device), base }
}

fuzz_target!(|data: &[u8]| {
    let Some((head, mut data)) = data.split_first_chunk::<8>() else { return };
    let (file, memory) = memory();
    file.write_all_at(&vec![0; FILE_BYTES as usize], 0).expect("inside the file");
    for (at, len) in CANARIES {
        file.write_all_at(&vec![0xc3; len], at).expect("inside the file");
    }
    let bit = |n: u8, feature| if head[0] >> n & 1 == 1 { feature } else { Features::NONE };
    let features = Features::VERSION_1
        .with(bit(0, Features::RING_PACKED))
        .with(bit(1, Features::EVENT_IDX))
        .with(bit(2, Features::MRG_RXBUF))
        .with(bit(3, Features::CSUM.with(Features::HOST_TSO4).with(Features::HOST_TSO6)))
        .with(bit(4, Features::GUEST_CSUM))
        .with(bit(5, Features::GUEST_TSO4));
    let size = if features.has(Features::RING_PACKED) { u32::from(head[1] % 32) + 1 } else { 1 << (head[1] % 6) };
    let base =
        if features.has(Features::RING_PACKED) { 0x8000 } else { u32::from(u16::from_le_bytes([head[2], head[3]])) };
    let counters = Arc::new(QueueCounters::default());
    let ring = |areas| setup(areas, size, base);
    let mut tx = TxQueue::start(features, Arc::clone(memory), &ring(TX), Arc::clone(&counters)).expect("a ring");
    let mut rx = RxQueue::start(features, Arc::clone(memory), &ring(RX), Arc::clone(&counters)).expect("a ring");
    tx.set_enabled(true);
    rx.set_enabled(true);
    for _ in 0..4 {
        // A piece of the input for each turn: where it goes, then what.
        let Some((at, rest)) = data.split_first_chunk::<2>() else { break };
        let (piece, rest) = rest.split_at(rest.len().min(0xc00 + usize::from(head[4]) * 16));
        poke(file, u64::from(u16::from_le_bytes(*at) % 0xc00), piece);
        data = rest;
        if !features.has(Features::RING_PACKED) && head[5] & 1 == 1 {
            // An index that is plausible, or the rings would stop at once nearly always.
            for area in [TX, RX] {
                poke(
                    file,
                    area[1] + 2,
                    &(base as u16).wrapping_add(u16::from(head[6]) % (size as u16 + 1)).to_le_bytes(),
                );
            }
        }
        let mut buffer = BurstBuffer::default();
        let mut burst = Burst::new(&mut buffer);
        tx.pull(&mut burst);
        assert!(burst.len() <= BURST_PACKETS);
        for index in 0..burst.len() {
            if head[7] & 1 == 1 {
                burst.packet_mut(index).push_vlan(5);
            }
            if head[7] & 2 == 2 {
                burst.packet_mut(index).pop_vlan();
            }
            let _ = rx.push(burst.view(index));
        }
        drop(burst);
        assert!(tx.backlog() <= tx.size());
        rx.flush();
        tx.complete();
    }
    let _ = (tx.stop(), rx.stop());
    let mut canary = [0; 0x1000];
    for (at, len) in CANARIES {
        file.read_exact_at(&mut canary[..len], at).expect("inside the file");
        assert!(canary[..len].iter().all(|byte| *byte == 0xc3), "a byte outside of guest memory was written");
    }
});
