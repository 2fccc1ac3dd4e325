//! A driver and a device in one process, on the same memory: the driver's side is `synthetic_guest`, the device's this
//! crate.

use std::sync::Arc;

use synthetic_guest::hostile::RawRing;
use synthetic_guest::packet::{FrameSpec, Stamp, Template};
use synthetic_guest::verify::Verifier;
use synthetic_guest::{
    Backing, CallMode, Features, Frame, GuestConfig, Indirect, QueuePair, Ram, RamConfig, Ring, RxShape, TxShape,
};
use vm_ports::{
    Burst, BurstBuffer, FrontendAddr, GuestMemory, GuestPhysAddr, MemorySlot, QueueCounters, RingFault, RingSetup,
    RxDrop, RxQueue, TxDrop, TxQueue,
};

/// What a guest is made of.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) features: Features,
    pub(crate) ring: u16,
    pub(crate) indirect: Indirect,
    pub(crate) tx_shape: TxShape,
    pub(crate) rx_shape: RxShape,
    /// Longest frame that can be sent.
    pub(crate) tx_frame_len: usize,
    /// Bytes of a receive buffer, header included.
    pub(crate) rx_buffer_len: usize,
    pub(crate) calls: CallMode,
    pub(crate) regions: usize,
    pub(crate) region_size: u64,
}

impl Setup {
    pub(crate) fn new(features: Features) -> Self {
        Self {
            features,
            ring: 256,
            indirect: Indirect::Never,
            tx_shape: TxShape::OneBuffer,
            rx_shape: RxShape::OneBuffer,
            tx_frame_len: 1536,
            rx_buffer_len: 1600,
            calls: CallMode::Never,
            regions: 1,
            region_size: 16 << 20,
        }
    }

    pub(crate) fn ring(self, ring: u16) -> Self {
        Self { ring, ..self }
    }

    pub(crate) fn calls(self, calls: CallMode) -> Self {
        Self { calls, ..self }
    }

    /// For packets of 64 KiB.
    pub(crate) fn large(self, rx_buffer_len: usize) -> Self {
        Self { tx_frame_len: 66_000, rx_buffer_len, ring: 128, region_size: 32 << 20, ..self }
    }
}

/// One guest: both sides of a queue pair, enabled.
pub(crate) struct World {
    pub(crate) ram: Ram,
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) pair: QueuePair,
    pub(crate) tx: TxQueue,
    pub(crate) rx: RxQueue,
    pub(crate) counters: Arc<QueueCounters>,
    features: vm_ports::Features,
    kicks_before: u64,
}

/// The same memory, as the device maps it.
pub(crate) fn map(ram: &Ram) -> Arc<GuestMemory> {
    let slots = ram.regions().iter().map(|region| MemorySlot {
        guest: GuestPhysAddr(region.guest),
        frontend: FrontendAddr(region.frontend),
        size: region.size,
        mmap_offset: region.offset,
        file: region.file().try_clone_to_owned().expect("a second handle").into(),
    });
    GuestMemory::map(slots.collect()).expect("the driver could map it")
}

/// Where a ring of the driver is, from its beginning.
pub(crate) fn setup_of(ring: &Ring, index: u32) -> RingSetup {
    let [descriptors, driver, device] = ring.parts().map(|part| FrontendAddr(part.frontend()));
    RingSetup { index, size: u32::from(ring.size()), descriptors, driver, device, base: ring.fresh_base() }
}

impl World {
    pub(crate) fn new(setup: &Setup) -> Self {
        let mut config = GuestConfig::new("");
        config.ram = RamConfig {
            regions: setup.regions,
            region_size: setup.region_size,
            backing: Backing::Pages,
            ..RamConfig::default()
        };
        (config.rx_ring, config.tx_ring) = (setup.ring, setup.ring);
        (config.indirect, config.tx_shape, config.rx_shape) = (setup.indirect, setup.tx_shape, setup.rx_shape);
        (config.tx_frame_len, config.rx_buffer_len) = (setup.tx_frame_len, setup.rx_buffer_len);
        config.calls = setup.calls;
        let ram = Ram::new(&config.ram).expect("memory for a guest");
        let pair = QueuePair::standalone(&ram, &config, setup.features).expect("rings that fit").remove(0);
        Self::over(ram, pair, setup.features)
    }

    fn over(ram: Ram, mut pair: QueuePair, features: Features) -> Self {
        let memory = map(&ram);
        let counters = Arc::new(QueueCounters::default());
        let features = vm_ports::Features(features.0);
        let (rx_setup, tx_setup) = (setup_of(pair.rx.ring(), 0), setup_of(pair.tx.ring(), 1));
        let (m, c) = (Arc::clone(&memory), Arc::clone(&counters));
        let mut rx = RxQueue::start(features, m, &rx_setup, c).expect("a sound ring");
        let (m, c) = (Arc::clone(&memory), Arc::clone(&counters));
        let mut tx = TxQueue::start(features, m, &tx_setup, c).expect("a sound ring");
        rx.set_enabled(true);
        tx.set_enabled(true);
        let eventfd = |bell: &synthetic_guest::Bell| {
            bell.call_fd().map(|fd| fd.try_clone_to_owned().expect("a second handle").into())
        };
        rx.set_call(eventfd(pair.rx.bell()));
        tx.set_call(eventfd(pair.tx.bell()));
        // A new call eventfd is signalled once, unless the driver says that it polls.
        assert!(pair.rx.bell().drain_calls() <= 1 && pair.tx.bell().drain_calls() <= 1);
        // The driver filled its receive ring before there was a device to say that it polls.
        let kicks_before = pair.rx.bell().kicks_wanted();
        Self { ram, memory, pair, tx, rx, counters, features, kicks_before }
    }

    /// Kicks the device asked for since it started.
    pub(crate) fn kicks(&mut self) -> u64 {
        self.pair.tx.bell().kicks_wanted() + self.pair.rx.bell().kicks_wanted() - self.kicks_before
    }

    pub(crate) fn raw_tx(&mut self) -> RawRing {
        RawRing::of(self.pair.tx.ring())
    }

    pub(crate) fn raw_rx(&mut self) -> RawRing {
        RawRing::of(self.pair.rx.ring())
    }

    /// The device's part of one turn: whatever is in the transmit ring, up to a burst of it. Returns the frames pulled.
    pub(crate) fn pull(&mut self) -> Vec<Vec<u8>> {
        let mut buffer = BurstBuffer::default();
        let mut burst = Burst::new(&mut buffer);
        self.tx.pull(&mut burst);
        let frames = (0..burst.len()).map(|index| contents(&burst, index)).collect();
        drop(burst);
        self.tx.complete();
        frames
    }

    /// Stops the transmit ring and starts it from where it stood, as a frontend does around a change of memory.
    pub(crate) fn restart_tx(&mut self) {
        let start = |base: u32, pair: &mut QueuePair| {
            let setup = RingSetup { base, ..setup_of(pair.tx.ring(), 1) };
            let (memory, counters) = (Arc::clone(&self.memory), Arc::clone(&self.counters));
            let mut tx = TxQueue::start(self.features, memory, &setup, counters).expect("a sound ring");
            tx.set_enabled(true);
            tx
        };
        let placeholder = start(0, &mut self.pair);
        let (base, _call) = std::mem::replace(&mut self.tx, placeholder).stop();
        self.tx = start(base, &mut self.pair);
    }

    pub(crate) fn drops(&self, reason: TxDrop) -> u64 {
        self.counters.tx.drops[reason as usize].get()
    }

    pub(crate) fn all_drops(&self) -> u64 {
        self.counters.tx.drops.iter().map(vm_ports::Counter::get).sum()
    }

    pub(crate) fn refused(&self, reason: RxDrop) -> u64 {
        self.counters.rx.refused[reason as usize].get()
    }

    pub(crate) fn tx_faults(&self, fault: RingFault) -> u64 {
        self.counters.tx.faults[fault as usize].get()
    }

    pub(crate) fn rx_faults(&self, fault: RingFault) -> u64 {
        self.counters.rx.faults[fault as usize].get()
    }
}

/// All bytes of packet `index`.
pub(crate) fn contents(burst: &Burst<'_>, index: usize) -> Vec<u8> {
    let view = burst.view(index);
    let mut bytes = vec![0; view.packet().len()];
    assert_eq!(view.copy_to(0, &mut bytes), bytes.len());
    bytes
}

/// One burst from one guest to another, as an I/O core moves it; what became of each packet.
pub(crate) fn forward(from: &mut TxQueue, to: &mut RxQueue) -> Vec<Result<(), RxDrop>> {
    let results = carry(from, to);
    to.flush();
    from.complete();
    results
}

/// The same, with nothing shown to the guests yet.
pub(crate) fn carry(from: &mut TxQueue, to: &mut RxQueue) -> Vec<Result<(), RxDrop>> {
    let mut buffer = BurstBuffer::default();
    let mut burst = Burst::new(&mut buffer);
    from.pull(&mut burst);
    (0..burst.len()).map(|index| to.push(burst.view(index))).collect()
}

/// Pushes one frame of this process's own and shows it to the guest.
pub(crate) fn push(rx: &mut RxQueue, frame: &[u8]) -> Result<(), RxDrop> {
    push_offloaded(rx, frame, vm_ports::Offload::NONE)
}

pub(crate) fn push_offloaded(rx: &mut RxQueue, frame: &[u8], offload: vm_ports::Offload) -> Result<(), RxDrop> {
    let mut buffer = BurstBuffer::default();
    let mut burst = Burst::new(&mut buffer);
    assert!(burst.push_frame([frame], offload), "a legal frame");
    let pushed = rx.push(burst.view(0));
    rx.flush();
    pushed
}

/// Pushes frames of this process's own as one run and shows them to the guest; how many went, and which others did not, and why.
pub(crate) fn push_run(rx: &mut RxQueue, frames: &[Vec<u8>]) -> (usize, Vec<(usize, RxDrop)>) {
    let mut buffer = BurstBuffer::default();
    let mut burst = Burst::new(&mut buffer);
    for frame in frames {
        assert!(burst.push_frame([&frame[..]], vm_ports::Offload::NONE), "a legal frame, and room in the burst");
    }
    let mut refused = Vec::new();
    let pushed = rx.push_run(burst.run(0..burst.len()), |nth, reason| refused.push((nth, reason)));
    rx.flush();
    (pushed, refused)
}

/// A frame of `len` bytes whose every byte says where it is.
pub(crate) fn pattern(len: usize, seed: u8) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|at| (at as u8).wrapping_mul(7).wrapping_add(seed)).collect();
    if let Some(ethertype) = frame.get_mut(12..14) {
        ethertype.copy_from_slice(&[0x88, 0xb5]);
    }
    frame
}

/// All frames that wait for a guest.
pub(crate) fn received(pair: &mut QueuePair) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    pair.rx.recv_burst(usize::MAX, |frame| {
        let mut bytes = Vec::new();
        frame.copy_to(&mut bytes);
        frames.push(bytes);
    });
    frames
}

/// A guest that is measured while another misbehaves: it talks to itself and must not lose a frame.
pub(crate) struct Neighbour {
    world: World,
    template: Template,
    verifier: Verifier,
    sent: u64,
}

impl Neighbour {
    pub(crate) fn new() -> Self {
        let world = World::new(&Setup::new(Features::VERSION_1 | Features::MRG_RXBUF).ring(64));
        let template = Template::new(FrameSpec::udp4(1, 2, 0, 300));
        Self { world, template, verifier: Verifier::new(), sent: 0 }
    }

    /// `count` bursts of eight frames.
    pub(crate) fn talk(&mut self, count: usize) {
        for _ in 0..count {
            for _ in 0..8 {
                self.template.stamp(Stamp { flow: 0, sequence: self.sent, time_ns: 0 });
                let frame = Frame { bytes: self.template.bytes(), offload: self.template.offload() };
                self.sent += self.world.pair.tx.send_burst(&[frame]) as u64;
            }
            forward(&mut self.world.tx, &mut self.world.rx);
            let Self { world, verifier, .. } = self;
            world.pair.rx.recv_burst(usize::MAX, |frame| {
                verifier.check_received(frame);
            });
        }
    }

    pub(crate) fn lost_nothing(mut self) {
        self.talk(1);
        let report = self.verifier.report_against(&[self.sent]);
        assert!(self.sent > 0 && report.is_perfect(self.sent), "the neighbour: {report:?}");
        assert_eq!(self.world.all_drops(), 0);
    }
}
