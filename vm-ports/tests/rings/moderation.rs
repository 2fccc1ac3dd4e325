//! Calls that are held back: none is lost, none is late, and only guests that want calls have any.

use proptest::prelude::*;
use synthetic_guest::{CallMode, Features};
use vm_ports::{Moderation, RxQueue, TxQueue};

use crate::bench::{Setup, World, carry, pattern, received};

const DELAY: u64 = 50_000;
const ADAPTIVE: Moderation = Moderation { delay: DELAY, adaptive: true };
const FIXED: Moderation = Moderation { delay: DELAY, adaptive: false };
const KINDS: [Features; 4] = [
    Features::NONE,
    Features::EVENT_IDX,
    Features::RING_PACKED,
    Features(Features::RING_PACKED.0 | Features::EVENT_IDX.0),
];

/// One ring of an interrupt-driven driver.
#[derive(Default)]
struct Ring {
    /// When the oldest of what it has not looked at was published.
    since: Option<u64>,
    /// Calls it has not answered.
    calls: u64,
    all_calls: u64,
    publications: u64,
}

impl Ring {
    fn published(&mut self, now: u64) {
        self.since.get_or_insert(now);
        self.publications += 1;
    }

    fn called(&mut self, calls: u64) {
        self.calls += calls;
        self.all_calls += calls;
    }

    fn looked(&mut self) {
        (self.since, self.calls) = (None, 0);
    }
}

/// A driver and a device that moderates, each in steps, and a clock.
struct Play {
    world: World,
    now: u64,
    rx: Ring,
    tx: Ring,
    /// Whether the driver wants calls at this time.
    polls: bool,
    mode: CallMode,
}

impl Play {
    fn new(features: Features, ring: u16, mode: CallMode, moderation: Moderation) -> Self {
        let setup = Setup { tx_frame_len: 64, rx_buffer_len: 128, ..Setup::new(Features::VERSION_1 | features) };
        let mut world = World::new(&setup.ring(ring).calls(mode));
        world.rx.set_moderation(moderation);
        world.tx.set_moderation(moderation);
        Self { world, now: 0, rx: Ring::default(), tx: Ring::default(), polls: mode == CallMode::Never, mode }
    }

    /// The driver sends so many frames, as far as there is room, and the device takes them to where it receives.
    fn send(&mut self, frames: usize) {
        let frame = pattern(60, 1);
        let World { pair, tx, rx, .. } = &mut self.world;
        let queued = pair.tx.queue_with(frames, |_, slot| {
            slot.header(synthetic_guest::Offload::default());
            slot.write(0, &frame);
            frame.len()
        });
        pair.tx.ring().publish();
        assert!(!pair.tx.ring().kick_wanted());
        if queued == 0 {
            return;
        }
        let delivered = carry(tx, rx).iter().filter(|result| result.is_ok()).count();
        rx.publish();
        tx.publish();
        vm_ports::fence();
        let until = [rx.notify(self.now), tx.notify(self.now)];
        assert!(until.into_iter().flatten().all(|until| until > self.now && until <= self.now + DELAY), "{until:?}");
        if delivered > 0 {
            self.rx.published(self.now);
        }
        self.tx.published(self.now);
        self.hear();
    }

    fn hear(&mut self) {
        self.rx.called(self.world.pair.rx.bell().drain_calls());
        self.tx.called(self.world.pair.tx.bell().drain_calls());
    }

    /// Time passes, and the device looks at its clock. What was published so long ago has been called for.
    fn pass(&mut self, cycles: u64) {
        self.now += cycles;
        let World { tx, rx, .. } = &mut self.world;
        assert!(rx.release_by(self.now, self.now).is_none_or(|until| until > self.now));
        assert!(tx.release_by(self.now, self.now).is_none_or(|until| until > self.now));
        self.hear();
        self.check(DELAY);
    }

    /// What was published before `age` has been called for, where the driver wants calls.
    fn check(&self, age: u64) {
        for (name, ring) in [("rx", &self.rx), ("tx", &self.tx)] {
            let late = ring.since.is_some_and(|since| since + age <= self.now);
            assert!(!late || self.polls || ring.calls > 0, "{name}: no call at {} since {:?}", self.now, ring.since);
        }
    }

    /// The driver looks at its rings: because it was called, or `anyway`.
    fn look(&mut self, anyway: bool) {
        if anyway || self.rx.calls > 0 {
            received(&mut self.world.pair);
            self.rx.looked();
        }
        if anyway || self.tx.calls > 0 {
            self.world.pair.tx.reclaim();
            self.tx.looked();
        }
    }

    /// The driver wants calls from now on or none, and looks whether something came before that.
    fn set_polls(&mut self, polls: bool) {
        self.polls = polls;
        let mode = if polls { CallMode::Never } else { self.mode };
        self.world.pair.rx.ring().set_calls(mode);
        self.world.pair.tx.ring().set_calls(mode);
        self.look(true);
    }

    /// Every publication is counted once: called for, not wanted, or saved.
    fn counted(&self) {
        let (rx, tx) = (&self.world.counters.rx, &self.world.counters.tx);
        let rx = [&rx.calls, &rx.calls_suppressed, &rx.calls_saved].map(vm_ports::Counter::get);
        let tx = [&tx.calls, &tx.calls_suppressed, &tx.calls_saved].map(vm_ports::Counter::get);
        assert_eq!(rx.iter().sum::<u64>(), self.rx.publications, "{rx:?}");
        assert_eq!(tx.iter().sum::<u64>(), self.tx.publications, "{tx:?}");
        assert_eq!((rx[0], tx[0]), (self.rx.all_calls, self.tx.all_calls));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Send(usize),
    Pass(u64),
    Look { anyway: bool },
    Polls(bool),
    Release,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1usize..40).prop_map(Step::Send),
        4 => (0u64..DELAY / 2).prop_map(Step::Pass),
        1 => (DELAY..3 * DELAY).prop_map(Step::Pass),
        4 => any::<bool>().prop_map(|anyway| Step::Look { anyway }),
        1 => any::<bool>().prop_map(Step::Polls),
        1 => Just(Step::Release),
    ]
}

proptest! {
    /// Whatever the driver does and whenever: what it has not looked at is called for within the delay, and at once before the device gives the
    /// ring away.
    #[test]
    fn no_call_is_lost_or_late(
        steps in prop::collection::vec(step(), 1..300),
        kind in 0usize..4,
        sizes in 0usize..4,
        always: bool,
        fixed: bool,
    ) {
        let features = KINDS[kind];
        let packed = features.contains(Features::RING_PACKED);
        let ring = if packed { [1, 3, 53, 256] } else { [1, 4, 64, 256] }[sizes];
        let mode = if always { CallMode::Always } else { CallMode::Event };
        let mut play = Play::new(features, ring, mode, if fixed { FIXED } else { ADAPTIVE });
        for step in steps {
            match step {
                Step::Send(frames) => play.send(frames),
                Step::Pass(cycles) => play.pass(cycles),
                Step::Look { anyway } => play.look(anyway),
                Step::Polls(polls) => play.set_polls(polls),
                Step::Release => {
                    play.world.rx.release();
                    play.world.tx.release();
                    play.hear();
                    play.check(0);
                }
            }
        }
        play.pass(2 * DELAY);
        play.counted();
    }
}

#[test]
fn a_lone_packet_is_called_for_in_its_own_burst() {
    for features in KINDS {
        for moderation in [ADAPTIVE, FIXED] {
            let mut play = Play::new(features, 256, CallMode::Event, moderation);
            for _ in 0..1000 {
                play.send(1);
                play.check(0);
                play.look(false);
                play.pass(DELAY);
            }
            assert_eq!((play.rx.all_calls, play.tx.all_calls), (1000, 1000), "{features:?}");
            play.counted();
        }
    }
}

#[test]
fn a_guest_that_polls_has_no_call_and_none_is_held_back() {
    for features in KINDS {
        let mut play = Play::new(features, 256, CallMode::Never, ADAPTIVE);
        for round in 0..100_000 {
            play.send(round % 33);
            let World { rx, tx, .. } = &mut play.world;
            assert_eq!((rx.release_by(0, 0), tx.release_by(0, 0)), (None, None), "{features:?}");
            play.look(true);
            play.pass(1000);
        }
        assert_eq!((play.rx.all_calls, play.tx.all_calls), (0, 0), "{features:?}");
        play.counted();
    }
}

#[test]
fn a_stream_has_fewer_calls() {
    for features in KINDS {
        // A microsecond for each packet, or for bursts of eight; the guest looks whenever it is called.
        for burst in [1, 8] {
            let calls = [Moderation::default(), FIXED, ADAPTIVE].map(|moderation| {
                let mut play = Play::new(features, 256, CallMode::Event, moderation);
                for _ in 0..10_000 {
                    play.send(burst);
                    play.pass(1000 * burst as u64);
                    play.look(false);
                }
                play.pass(DELAY);
                play.counted();
                play.rx.all_calls
            });
            assert_eq!(calls[0], 10_000, "{features:?}");
            assert!(calls[1] <= 400 * burst as u64, "{features:?} {burst}: {calls:?}");
            assert!(calls[2] <= 400 * burst as u64, "{features:?} {burst}: {calls:?}");
        }
    }
}

/// Whoever will not look at the clock for a while lets all calls go, before their time. From then on the next one is held back, as after any call.
#[test]
fn a_call_let_go_early_is_a_call_at_that_time() {
    for features in KINDS {
        let mut play = Play::new(features, 256, CallMode::Event, FIXED);
        play.send(1);
        play.look(false);
        play.send(1);
        play.now += DELAY / 2;
        let World { tx, rx, .. } = &mut play.world;
        assert_eq!((rx.release_by(u64::MAX, play.now), tx.release_by(u64::MAX, play.now)), (None, None));
        play.hear();
        assert_eq!((play.rx.calls, play.tx.calls), (1, 1), "let go");
        play.look(false);
        play.now += 1;
        play.send(1);
        assert_eq!((play.rx.calls, play.tx.calls), (0, 0), "{features:?}: held back");
        play.pass(DELAY - 2);
        assert_eq!((play.rx.calls, play.tx.calls), (0, 0), "{features:?}: for the delay since that call");
        play.pass(1);
        assert_eq!((play.rx.calls, play.tx.calls), (1, 1), "{features:?}");
        play.counted();
    }
}

/// The driver has seen everything before the time of the call had come, so there was none, and the next packet does not wait as after one.
#[test]
fn a_call_that_became_unnecessary_holds_no_other_back() {
    for features in KINDS {
        let mut play = Play::new(features, 256, CallMode::Event, FIXED);
        play.send(1);
        play.look(false);
        play.send(1);
        assert_eq!((play.rx.calls, play.tx.calls), (0, 0), "held back");
        play.set_polls(true);
        play.pass(DELAY);
        play.set_polls(false);
        play.send(1);
        play.check(0);
        assert_eq!((play.rx.all_calls, play.tx.all_calls), (2, 2), "{features:?}");
        play.counted();
    }
}

/// A call is held back, and then the queue is stopped, or what it has is shown to the guest in another way.
#[test]
fn whoever_ends_a_queue_lets_its_call_go() {
    type End = fn(World) -> (u64, u64);
    let ends: [End; 2] = [
        |mut world| {
            world.rx.flush();
            world.tx.complete();
            (world.pair.rx.bell().drain_calls(), world.pair.tx.bell().drain_calls())
        },
        |World { mut pair, rx, tx, .. }| {
            drop::<(_, _)>((RxQueue::stop(rx), TxQueue::stop(tx)));
            (pair.rx.bell().drain_calls(), pair.tx.bell().drain_calls())
        },
    ];
    for features in KINDS {
        for end in ends {
            let mut play = Play::new(features, 256, CallMode::Event, FIXED);
            play.send(1);
            play.look(false);
            play.send(1);
            assert_eq!((play.rx.calls, play.tx.calls), (0, 0), "held back");
            assert_eq!(end(play.world), (1, 1), "{features:?}");
        }
    }
}
