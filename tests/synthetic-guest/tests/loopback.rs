//! The driver's rings against devices in this process that sleep until kicked, while the driver sleeps until called:
//! a notification that should have been sent and was not ends in frames that never arrive.

mod device;

use device::{Chain, Device, PackedDevice, SplitDevice};
use proptest::prelude::*;
use synthetic_guest::packet::{FrameSpec, Stamp, Template};
use synthetic_guest::verify::Verifier;
use synthetic_guest::{
    Backing, CallMode, Features, Frame, GuestConfig, Indirect, QueuePair, Ram, RamConfig, Ring, RxShape, TxShape,
};

#[derive(Clone, Debug)]
struct Case {
    features: Features,
    ring: u16,
    indirect: Indirect,
    tx_shape: TxShape,
    rx_shape: RxShape,
    bursts: Vec<usize>,
    len: usize,
    /// The driver looks at its ring after a call only, until it is empty, and without calls meanwhile.
    sleeps: bool,
}

fn cases() -> impl Strategy<Value = Case> {
    let bits = prop::collection::vec(any::<bool>(), 6);
    let shapes = prop_oneof![
        Just(TxShape::OneBuffer),
        Just(TxShape::HeaderSeparate),
        Just(TxShape::SplitHeader),
        (1u16..7).prop_map(TxShape::Pieces)
    ];
    let receive =
        prop_oneof![Just(RxShape::OneBuffer), Just(RxShape::HeaderSeparate), (1u16..5).prop_map(RxShape::Pieces)];
    let indirect = prop_oneof![Just(Indirect::Never), Just(Indirect::Chains), Just(Indirect::Always)];
    let bursts = prop::collection::vec(1usize..70, 1..60);
    (bits, 24u16..300, indirect, shapes, receive, bursts, 60usize..1515).prop_map(
        |(bits, ring, indirect, tx_shape, rx_shape, bursts, len)| {
            let all = [
                Features::RING_PACKED,
                Features::MRG_RXBUF,
                Features::EVENT_IDX,
                Features::INDIRECT_DESC,
                Features::IN_ORDER,
            ];
            let chosen = all.iter().zip(&bits).filter(|(_, on)| **on);
            let features = chosen.fold(Features::VERSION_1, |sum, (bit, _)| sum | *bit);
            let ring = if bits[0] { ring } else { ring.next_power_of_two() };
            Case { features, ring, indirect, tx_shape, rx_shape, bursts, len, sleeps: bits[5] }
        },
    )
}

struct Loop {
    ram: Ram,
    pair: QueuePair,
    tx: Box<dyn Device>,
    rx: Box<dyn Device>,
    /// Kicks that the devices have heard.
    heard: u64,
    calls: u64,
    mergeable: bool,
    buffer_len: usize,
}

impl Loop {
    fn new(case: &Case) -> Loop {
        let mut config = GuestConfig::new("");
        config.ram = RamConfig { region_size: 4 << 20, backing: Backing::Pages, ..RamConfig::default() };
        (config.rx_ring, config.tx_ring) = (case.ring, case.ring);
        (config.indirect, config.tx_shape, config.rx_shape) = (case.indirect, case.tx_shape, case.rx_shape);
        config.calls = if case.sleeps { CallMode::Never } else { CallMode::Event };
        let mergeable = case.features.contains(Features::MRG_RXBUF);
        config.rx_buffer_len = if mergeable { 400 } else { 1600 };
        let ram = Ram::new(&config.ram).unwrap();
        let mut pair = QueuePair::standalone(&ram, &config, case.features).unwrap().remove(0);
        if case.sleeps {
            pair.rx.interrupts().turn_on();
            assert_eq!(pair.rx.recv_burst(1, |_| ()), 0);
            assert!(pair.rx.interrupts().is_asleep());
        }
        let event_idx = case.features.contains(Features::EVENT_IDX);
        let batched = case.features.contains(Features::IN_ORDER);
        let device = |ring: &Ring, batched| -> Box<dyn Device> {
            match ring {
                Ring::Split(_) => Box::new(SplitDevice::new(&ram, ring, event_idx)),
                Ring::Packed(_) => Box::new(PackedDevice::new(ring, event_idx, batched)),
            }
        };
        // Lengths of received frames must stay known, so only the transmit ring is completed in batches.
        let (tx, rx) = (device(pair.tx.ring(), batched), device(pair.rx.ring(), false));
        Loop { ram, pair, tx, rx, heard: 0, calls: 0, mergeable, buffer_len: config.rx_buffer_len }
    }

    /// What the device does when kicked: everything there is, then it asks for the next kick.
    fn serve(&mut self) {
        let kicks = self.pair.tx.bell().kicks_sent();
        if kicks == self.heard {
            return;
        }
        self.heard = kicks;
        loop {
            while let Some(mut chain) = self.tx.take(&self.ram) {
                let frame = std::mem::take(&mut chain.bytes);
                self.tx.give_back(&self.ram, chain, &[]);
                self.deliver(&frame);
            }
            self.tx.publish();
            self.calls += u64::from(self.rx.publish());
            if !self.tx.ask_for_kicks() {
                return;
            }
        }
    }

    fn deliver(&mut self, frame: &[u8]) {
        let pieces: Vec<&[u8]> = if self.mergeable { frame.chunks(self.buffer_len).collect() } else { vec![frame] };
        let chains: Vec<Chain> = pieces.iter().map_while(|_| self.rx.take(&self.ram)).collect();
        assert_eq!(chains.len(), pieces.len(), "the test keeps fewer frames under way than there are buffers");
        for (number, (chain, piece)) in chains.into_iter().zip(&pieces).enumerate() {
            let mut piece = piece.to_vec();
            if number == 0 {
                piece[10..12].copy_from_slice(&(pieces.len() as u16).to_le_bytes());
            }
            self.rx.give_back(&self.ram, chain, &piece);
        }
    }
}

fn run(case: &Case) -> Result<(), TestCaseError> {
    let mut world = Loop::new(case);
    let mut template = Template::new(FrameSpec::udp4(1, 2, 0, case.len));
    let mut verifier = Verifier::new();
    let (mut sent, mut received, mut calls) = (0u64, 0u64, 0);
    world.tx.ask_for_kicks();
    let buffers = if world.mergeable { case.len.div_ceil(400) + 1 } else { 1 };
    let chains = case.ring as usize / case.rx_shape.segments() as usize;
    for burst in &case.bursts {
        for _ in 0..(*burst).min(chains / buffers) {
            template.stamp(Stamp { flow: 0, sequence: sent, time_ns: 0 });
            let frame = Frame { bytes: template.bytes(), offload: template.offload() };
            let before = sent;
            sent += world.pair.tx.send_burst(&[frame]) as u64;
            if sent == before {
                break;
            }
            if sent % 3 == 0 {
                world.serve();
            }
        }
        world.serve();
        if world.calls > calls {
            calls = world.calls;
            world.pair.rx.interrupts().called();
            received += world.pair.rx.recv_burst(usize::MAX, |frame| {
                verifier.check_received(frame);
            }) as u64;
        }
        prop_assert_eq!(received, sent, "every frame of a burst arrives");
    }
    prop_assert!(sent > 0 && verifier.report_against(&[sent]).is_perfect(sent), "{:?}", verifier.report());
    world.pair.tx.reclaim();
    prop_assert_eq!(world.pair.tx.in_flight(), 0);
    prop_assert_eq!(world.pair.tx.ring().violations() + world.pair.rx.ring().violations(), 0);
    prop_assert_eq!(world.pair.tx.ring().free_descriptors(), usize::from(case.ring));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn nothing_is_lost_between_a_sleeping_driver_and_a_sleeping_device(case in cases()) {
        run(&case)?;
    }
}

#[test]
fn indices_wrap() {
    for features in
        [Features::NONE, Features::RING_PACKED, Features::EVENT_IDX, Features::EVENT_IDX | Features::RING_PACKED]
    {
        let case = Case {
            features: Features::VERSION_1 | features,
            ring: 64,
            indirect: Indirect::Never,
            tx_shape: TxShape::OneBuffer,
            rx_shape: RxShape::OneBuffer,
            bursts: vec![31; 3000],
            len: 60,
            sleeps: false,
        };
        run(&case).unwrap();
        run(&Case { sleeps: true, ..case }).unwrap();
    }
}
