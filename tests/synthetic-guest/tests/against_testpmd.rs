//! The synthetic guest against a backend that is not ours: DPDK's vhost library in `dpdk-testpmd`, which forwards between
//! two guests. Every frame must arrive once, in order, with its contents.

mod testpmd;

use std::time::Duration;

use synthetic_guest::verify::Report;
use synthetic_guest::{
    Backing, Base, CallMode, Features, GuestConfig, Indirect, KickPolicy, Notify, Order, Ring, Role, RxShape, TxShape,
};
use testpmd::{Pair, Sockets, Testpmd};

const FRAMES: u64 = 6_000;

fn features(config: &mut GuestConfig, features: Features) {
    config.session.features = features;
    config.session.required = features;
}

fn assert_perfect(what: &str, reports: [Report; 2], count: u64) {
    for report in reports {
        assert!(report.is_perfect(count), "{what}: {report:?}");
    }
}

fn assert_sound(what: &str, pair: &mut Pair) {
    for guest in &mut pair.guests {
        for queue in guest.pairs() {
            let rx = queue.rx.stats();
            assert_eq!((rx.bad_frames, rx.incomplete), (0, 0), "{what}");
            assert_eq!(queue.rx.ring().violations() + queue.tx.ring().violations(), 0, "{what}");
        }
    }
}

fn run(testpmd: &Testpmd, what: &str, frames: u64, configure: &dyn Fn(&mut GuestConfig)) -> Pair {
    let mut pair = Pair::start(testpmd, configure);
    pair.warm_up();
    let queues = pair.guests[0].config().queue_pairs as u64;
    for len in [60, 1514] {
        let reports = pair.exchange(frames / 2, len);
        assert_perfect(&format!("{what}, {len} bytes"), reports, queues * frames / 2);
    }
    assert_sound(what, &mut pair);
    pair
}

#[test]
fn all_ring_features_in_all_combinations() {
    if !Testpmd::installed("all_ring_features_in_all_combinations") {
        return;
    }
    let testpmd = Testpmd::start(Sockets::Server, 1);
    let bits =
        [Features::RING_PACKED, Features::MRG_RXBUF, Features::INDIRECT_DESC, Features::EVENT_IDX, Features::IN_ORDER];
    for case in 0..1 << bits.len() {
        let chosen = |(n, bit): (usize, &Features)| if case & (1 << n) != 0 { *bit } else { Features::NONE };
        let wanted = bits.iter().enumerate().map(chosen).fold(Features::VERSION_1, |all, bit| all | bit);
        let configure = |config: &mut GuestConfig| {
            features(config, wanted);
            config.tx_shape = TxShape::HeaderSeparate;
            config.rx_buffer_len = if wanted.contains(Features::MRG_RXBUF) { 400 } else { 1600 };
        };
        run(&testpmd, &format!("{wanted:?}"), FRAMES, &configure);
    }
}

#[test]
fn descriptor_layouts() {
    if !Testpmd::installed("descriptor_layouts") {
        return;
    }
    let testpmd = Testpmd::start(Sockets::Server, 1);
    let shapes = [TxShape::OneBuffer, TxShape::HeaderSeparate, TxShape::SplitHeader, TxShape::Pieces(9)];
    let receive = [RxShape::OneBuffer, RxShape::HeaderSeparate, RxShape::Pieces(3)];
    for packed in [Features::NONE, Features::RING_PACKED] {
        for indirect in [Indirect::Never, Indirect::Chains, Indirect::Always] {
            for (number, tx_shape) in shapes.into_iter().enumerate() {
                let mut rx_shape = receive[number % receive.len()];
                if packed == Features::RING_PACKED && rx_shape == RxShape::Pieces(3) {
                    // DPDK's batches of four take each descriptor of a chain for a buffer of its own when it is long
                    // enough for the frame, in packed receive rings.
                    rx_shape = RxShape::HeaderSeparate;
                }
                let what = format!("{packed:?} {indirect:?} {tx_shape:?} {rx_shape:?}");
                run(&testpmd, &what, FRAMES / 10, &|config| {
                    features(config, Features::VERSION_1 | Features::INDIRECT_DESC | packed);
                    config.indirect = indirect;
                    config.tx_shape = tx_shape;
                    config.rx_shape = rx_shape;
                });
            }
        }
    }
}

#[test]
fn memory_notification_and_message_variants() {
    if !Testpmd::installed("memory_notification_and_message_variants") {
        return;
    }
    let testpmd = Testpmd::start(Sockets::Server, 1);
    type Change = fn(&mut GuestConfig);
    let variants: [(&str, Change); 10] = [
        ("legacy header", |c| features(c, Features::NONE)),
        ("legacy header, mergeable", |c| features(c, Features::MRG_RXBUF)),
        ("four regions in four files", |c| {
            c.ram.regions = 4;
            c.ram.backing = Backing::Pages;
        }),
        ("three regions in one file, one by one", |c| {
            c.ram.regions = 3;
            c.ram.one_file = true;
            c.session.add_regions = true;
        }),
        ("no kick and no call eventfd", |c| (c.kick, c.call) = (Notify::NoFd, Notify::NoFd)),
        ("kick always", |c| c.kick_policy = KickPolicy::Always),
        ("QEMU's order", |c| c.session.order = Order::Qemu),
        ("no protocol features", |c| c.session.protocol = None),
        ("rings of 32768 and 1024", |c| {
            (c.rx_ring, c.tx_ring) = (1024, 32768);
            (c.rx_buffers, c.tx_buffers) = (Some(512), Some(64));
        }),
        ("packed rings of 177 and 53", |c| {
            features(c, Features::VERSION_1 | Features::RING_PACKED | Features::EVENT_IDX);
            (c.rx_ring, c.tx_ring) = (177, 53);
        }),
    ];
    for (what, change) in variants {
        run(&testpmd, what, FRAMES / 4, &change);
    }
}

#[test]
fn several_queue_pairs_in_server_mode() {
    if !Testpmd::installed("several_queue_pairs_in_server_mode") {
        return;
    }
    // testpmd connects to sockets that do not exist yet, and tries again.
    let testpmd = Testpmd::start(Sockets::Client, 4);
    let configure = |config: &mut GuestConfig| {
        config.session.role = Role::Server;
        config.queue_pairs = 4;
        features(config, Features::VERSION_1 | Features::MQ);
    };
    let mut pair = run(&testpmd, "four queue pairs", FRAMES / 4, &configure);
    for guest in &mut pair.guests {
        guest.disconnect();
    }
    for guest in &mut pair.guests {
        guest.reconnect(Base::Fresh).expect("testpmd connects again");
    }
    pair.warm_up();
    assert_perfect("after a reconnect", pair.exchange(1000, 60), 4000);
}

#[test]
fn rings_stop_and_resume() {
    if !Testpmd::installed("rings_stop_and_resume") {
        return;
    }
    let testpmd = Testpmd::start(Sockets::Server, 1);
    for wanted in [Features::VERSION_1, Features::VERSION_1 | Features::RING_PACKED] {
        let mut pair = run(&testpmd, "before the stop", 2222, &|config| features(config, wanted));
        for round in 0..3 {
            for guest in &mut pair.guests {
                guest.stop().expect("rings stop");
            }
            for guest in &mut pair.guests {
                guest.start_rings(Base::Stopped).expect("rings resume");
            }
            pair.warm_up();
            assert_perfect(&format!("{wanted:?}, stop {round}"), pair.exchange(1111, 60), 1111);
        }
        for base in [Base::Used, Base::Fresh] {
            for guest in &mut pair.guests {
                guest.disconnect();
                std::thread::sleep(Duration::from_millis(100));
                guest.pair(0).tx.reclaim();
                guest.pair(0).rx.recv_burst(usize::MAX, |_| ());
                guest.reconnect(base).expect("the guest connects again");
            }
            pair.warm_up();
            assert_perfect(&format!("{wanted:?}, {base:?}"), pair.exchange(1111, 60), 1111);
        }
        assert_sound("after all", &mut pair);
        let other = Features::VERSION_1 | Features::MRG_RXBUF | Features::EVENT_IDX;
        for guest in &mut pair.guests {
            guest.reconnect_as(|config| features(config, other)).expect("other features");
            assert!(matches!(guest.pair(0).rx.ring(), Ring::Split(_)));
        }
        pair.warm_up();
        assert_perfect("other features", pair.exchange(1111, 60), 1111);
    }
}

#[test]
fn kicks_and_calls_follow_what_each_side_asks_for() {
    if !Testpmd::installed("kicks_and_calls_follow_what_each_side_asks_for") {
        return;
    }
    let testpmd = Testpmd::start(Sockets::Server, 1);
    let packed = Features::RING_PACKED;
    for base in [Features::VERSION_1, Features::VERSION_1 | packed] {
        for (bits, calls) in [
            (base, CallMode::Always),
            (base | Features::EVENT_IDX, CallMode::Event),
            (base, CallMode::Never),
            (base | Features::EVENT_IDX, CallMode::Never),
        ] {
            let mut pair = Pair::start(&testpmd, &|config| {
                features(config, bits);
                config.calls = calls;
            });
            pair.warm_up();
            let counts = |pair: &mut Pair| {
                let queue = pair.guests[1].pair(0);
                queue.rx.bell().drain_calls();
                (queue.rx.bell().calls(), queue.tx.bell().kicks_wanted(), queue.tx.bell().kicks_sent())
            };
            let before = counts(&mut pair);
            // Past the wrap of the 16-bit index, where a stale event position would be met.
            assert_perfect("counting", pair.exchange(70_000, 60), 70_000);
            let after = counts(&mut pair);
            let called = after.0 - before.0;
            assert_eq!(called > 0, calls != CallMode::Never, "{bits:?} {calls:?}: {called} calls");
            assert_eq!(after.1, after.2, "a kick for every one asked for");
            assert!(after.1 - before.1 <= 2, "{bits:?}: testpmd polls, yet it asked for {} kicks", after.1 - before.1);
        }
    }
}
