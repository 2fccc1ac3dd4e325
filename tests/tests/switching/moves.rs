//! Queue pairs that move between I/O cores: nothing is lost, whatever their guests and the operator do meanwhile.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sidecore_tests::process::eventually;
use sidecore_tests::switch::{Moved, SwitchProcess};
use synthetic_guest::packet::FrameSpec;
use synthetic_guest::{Base, CallMode, Features, Frame, GuestConfig};

use crate::frames::{addressed, bytes, one, udp};
use crate::rig::{LIMIT, Node, Plan, Rig};
use crate::stream::{Runner, Stream};

const BROADCAST: [u8; 6] = [0xff; 6];

/// All ways from one of three cores to another. After three of them everything is where it was.
const DIRECTIONS: [(usize, usize); 6] = [(0, 1), (1, 2), (2, 0), (1, 0), (0, 2), (2, 1)];

/// Moves of the short form: a few hundred.
const MOVES: usize = 300;

/// Requests that have to come in the middle of a move.
const OVERLAPS: u64 = 5;

/// Numbers of the guests in a VLAN of their own, which are disturbed.
const EVE: u32 = 3;
const VICTIM: u32 = 4;

fn several_pairs(features: Features) -> impl FnOnce(&mut GuestConfig) {
    move |config| {
        config.queue_pairs = 2;
        config.session.features = config.session.features | features | Features::MQ;
    }
}

/// Moves one queue pair; it must have moved.
fn move_one(switch: &SwitchProcess, guest: &str, queue: usize, to: usize) -> Moved {
    let moved = switch.move_guest(guest, Some(queue), to).unwrap();
    let [moved] = &moved[..] else { panic!("{moved:?}") };
    assert_eq!((moved.guest.as_str(), moved.queue, moved.to), (guest, queue, to));
    moved.clone()
}

/// The core that each queue pair is on.
fn cores(rig: &Rig, guest: &str) -> Vec<Option<u32>> {
    rig.port(guest).queues.iter().map(|queue| queue.io_core).collect()
}

#[test]
fn hundreds_of_moves_in_all_directions_lose_nothing() {
    let pairs = ["queue_pairs = 2"];
    let rig = Plan::three_still_cores().guest("g0", &pairs).guest("g1", &pairs).guest("g2", &pairs).start();
    let kinds = [Features::NONE, Features::RING_PACKED, Features::EVENT_IDX];
    let [mut a, mut b, mut c] = [0, 1, 2].map(|n| rig.guest_with(&format!("g{n}"), several_pairs(kinds[n])));
    for (number, node) in [&mut a, &mut b, &mut c].into_iter().enumerate() {
        node.send(&[addressed(number as u32, BROADCAST)]);
    }
    [&mut a, &mut b, &mut c].into_iter().for_each(|node| assert_eq!(node.receive(2).len(), 2));
    rig.settle();

    // A stream from each queue pair of each guest to each other guest. Less is under way than a receive ring holds.
    let streams: Vec<Stream> = (0..12)
        .map(|n| {
            let (from, to, pair) = (n / 4, (n / 4 + 1 + n % 2) % 3, n / 2 % 2);
            Stream { pair, window: 48, ..Stream::udp(from, to, [60, 300, 1514][n % 3], u64::MAX) }
        })
        .collect();
    let mut runner = Runner::new(3, &streams);
    let moves = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let mover = scope.spawn(|| {
            // One of each guest on each core, to begin with.
            let mut places: Vec<(usize, usize, usize)> = (0..6).map(|n| (n % 3, n / 3, n % 3)).collect();
            for (guest, queue, core) in &places {
                move_one(&rig.switch, &format!("g{guest}"), *queue, *core);
            }
            for round in 0..MOVES {
                let (from, to) = DIRECTIONS[round % 6];
                let there: Vec<usize> = (0..6).filter(|n| places[*n].2 == from).collect();
                let chosen = there[round / 6 % there.len()];
                let (guest, queue, core) = &mut places[chosen];
                let moved = move_one(&rig.switch, &format!("g{guest}"), *queue, to);
                assert_eq!(moved.from, from);
                assert!(moved.pause_us.is_some_and(|us| us > 0.0), "{moved:?}");
                *core = to;
                moves.fetch_add(1, Ordering::Relaxed);
            }
            places
        });
        while !mover.is_finished() {
            runner.step_for(&mut [&mut a, &mut b, &mut c], Duration::from_millis(5));
        }
        for (guest, queue, core) in mover.join().unwrap() {
            assert_eq!(cores(&rig, &format!("g{guest}"))[queue], Some(core as u32));
        }
    });
    assert_eq!(moves.load(Ordering::Relaxed), MOVES);
    finish(rig, &mut runner, ["g0", "g1", "g2"], &mut [&mut a, &mut b, &mut c], &[]);
}

/// Receives what is under way, and checks that all of it has come: each packet that the switch took, but for the word each guest said first.
fn finish(rig: Rig, runner: &mut Runner<'_>, names: impl AsRef<[&'static str]>, nodes: &mut [&mut Node], log: &[&str]) {
    let names = names.as_ref();
    // Guests that share the CPUs with the switch give back their buffers while it settles.
    eventually("all packets", LIMIT, || {
        runner.receive(nodes);
        let accounting = rig.switch.status()?.accounting;
        Ok((accounting.in_flight == 0 && accounting.unaccounted() == 0).then_some(()))
    })
    .unwrap();
    rig.settle();
    while runner.receive(nodes) {}
    let said: u64 = names.iter().map(|name| rig.port(name).tx.packets - 1).sum();
    let reports = runner.reports();
    for (report, name) in reports.iter().zip(names) {
        assert!(report.is_perfect(report.received) && report.received > 1000, "{name}: {report:?}");
        assert_eq!(rig.drops(name), BTreeMap::new(), "{name}");
    }
    assert_eq!(reports.iter().map(|report| report.received).sum::<u64>(), said);
    rig.finish_but(nodes, log);
}

/// Two neighbours that move and stream to each other, and in another VLAN `eve` and the `victim`, who moves as well.
fn neighbours() -> Rig {
    let pairs = "queue_pairs = 2";
    let vlan = "vlan = { access = 7 }";
    Plan::three_still_cores()
        .guest("a", &[pairs])
        .guest("b", &[pairs])
        .guest("eve", &[vlan])
        .guest("victim", &[vlan, pairs])
        .start()
}

/// Does `disturb` while the queue pairs of the neighbours and of the victim move from core to core. The neighbours lose nothing.
fn while_moving(rig: Rig, log: &[&str], disturb: impl FnOnce(&Rig) + Send) {
    let [mut a, mut b] = ["a", "b"].map(|name| rig.guest_with(name, several_pairs(Features::NONE)));
    a.send(&[addressed(0, BROADCAST)]);
    assert_eq!(b.receive(1).len(), 1);
    b.send(&[addressed(1, BROADCAST)]);
    assert_eq!(a.receive(1).len(), 1);
    rig.settle();
    let stream = |from, to, pair, len| Stream { pair, window: 48, ..Stream::udp(from, to, len, u64::MAX) };
    let streams = [stream(0, 1, 0, 60), stream(0, 1, 1, 1000), stream(1, 0, 0, 1000), stream(1, 0, 1, 60)];
    let mut runner = Runner::new(2, &streams);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mover = scope.spawn(|| move_until(&rig.switch, &is_over));
        let disturber = scope.spawn(|| disturb(&rig));
        while !disturber.is_finished() && !mover.is_finished() {
            runner.step_for(&mut [&mut a, &mut b], Duration::from_millis(5));
        }
        is_over.store(true, Ordering::Relaxed);
        let (moves, refused) = mover.join().unwrap();
        disturber.join().unwrap();
        assert!(moves > 50 && refused < moves, "{moves} moves, {refused} were refused");
    });
    assert!(in_the_middle(&rig) >= OVERLAPS);
    finish(rig, &mut runner, ["a", "b"], &mut [&mut a, &mut b], log);
}

/// How often a queue pair was to be taken back, or handed out, while one of its guest was on its way: by now.
fn in_the_middle(rig: &Rig) -> u64 {
    rig.json()["move_waits"].as_u64().unwrap()
}

/// Does it so many times, and again until enough has come in the middle of a move.
fn repeat(rig: &Rig, times: usize, mut what: impl FnMut(usize)) {
    let deadline = Instant::now() + 3 * LIMIT;
    let mut round = 0;
    while round < times || in_the_middle(rig) < OVERLAPS {
        what(round);
        round += 1;
        assert!(Instant::now() < deadline, "{} in the middle of moves after {round} rounds", in_the_middle(rig));
    }
}

/// Moves one queue pair after the other to the next core until it is over. Returns how many moved, and how often there was no victim.
fn move_until(switch: &SwitchProcess, is_over: &AtomicBool) -> (usize, usize) {
    let (mut moves, mut refused) = (0, 0);
    while !is_over.load(Ordering::Relaxed) {
        for (guest, queue) in [("victim", 0), ("a", 0), ("victim", 1), ("b", 1), ("victim", 0), ("a", 1), ("b", 0)] {
            match switch.move_guest(guest, Some(queue), (moves + queue) % 3) {
                Ok(_) => moves += 1,
                Err(error) if guest == "victim" && format!("{error:#}").contains("victim") => refused += 1,
                Err(error) => panic!("{guest} {queue}: {error:#}"),
            }
        }
    }
    (moves, refused)
}

/// Frames that are sent whether the other side takes them or not. Too many of them would fill the rings between the cores, which the
/// neighbours use as well.
fn send_some(node: &mut Node, from: u32, to: u32) {
    let template = one(from, to);
    let frames = [Frame::from(template.bytes.as_slice()); 32];
    let pairs = node.guest.pairs();
    pairs.iter_mut().for_each(|pair| {
        pair.tx.reclaim();
        pair.tx.send_burst(&frames);
        pair.rx.recv_burst(64, |_| ());
    });
}

/// Both directions between eve and the victim, wherever they are.
fn talk(eve: &mut Node, victim: &mut Node) {
    // What arrived before.
    eve.received();
    victim.received();
    victim.send(&[addressed(VICTIM, BROADCAST)]);
    assert_eq!(eve.receive(1).len(), 1);
    for _ in 0..4 {
        let (there, back) = (udp(EVE, VICTIM, 300, 50), udp(VICTIM, EVE, 300, 50));
        eve.send(&there);
        let (mut arrived, mut sent) = (bytes(&victim.receive(50)), bytes(&there));
        arrived.sort();
        sent.sort();
        assert!(arrived == sent, "{} of 50 arrived", arrived.len());
        victim.send(&back);
        assert_eq!(bytes(&eve.receive(50)), bytes(&back));
    }
}

fn victim(rig: &Rig) -> Node {
    rig.guest_with("victim", |config| {
        several_pairs(Features::NONE)(config);
        config.ram.regions = 3;
    })
}

#[test]
fn a_guest_disconnects_in_the_middle_of_moves() {
    while_moving(neighbours(), &[], |rig| {
        let mut eve = rig.guest_with("eve", |_| ());
        repeat(rig, 25, |round| {
            let mut victim = victim(rig);
            for _ in 0..1 + round % 4 {
                std::thread::sleep(Duration::from_micros(700 * (round % 25) as u64));
                send_some(&mut victim, VICTIM, EVE);
                send_some(&mut eve, EVE, VICTIM);
            }
            victim.guest.disconnect();
            drop(victim);
            rig.switch.wait_for_port("victim", "an end of the connection", |port| port.state == "waiting").unwrap();
        });
        talk(&mut eve, &mut victim(rig));
    });
}

#[test]
fn a_guest_changes_its_memory_and_its_rings_in_the_middle_of_moves() {
    while_moving(neighbours(), &[], |rig| {
        let mut eve = rig.guest_with("eve", |_| ());
        let mut victim = victim(rig);
        repeat(rig, 60, |round| {
            send_some(&mut eve, EVE, VICTIM);
            send_some(&mut victim, VICTIM, EVE);
            let guest = &mut victim.guest;
            match round % 4 {
                0 => guest.session().set_memory(guest.ram()).unwrap(),
                1 => {
                    guest.stop().unwrap();
                    guest.start_rings(Base::Fresh).unwrap();
                }
                2 => {
                    guest.enable_all(false).unwrap();
                    guest.enable_all(true).unwrap();
                }
                _ => {
                    let region = &guest.ram().regions()[1];
                    guest.session().remove_region(region).unwrap();
                    guest.session().add_region(region).unwrap();
                }
            }
        });
        // Whatever became of packets that met no memory, a driver that starts anew is served.
        victim.guest.stop().unwrap();
        victim.guest.start_rings(Base::Fresh).unwrap();
        talk(&mut eve, &mut victim);
    });
}

#[test]
fn rings_that_are_stopped_in_the_middle_of_moves_go_on_where_they_stood() {
    while_moving(neighbours(), &[], |rig| {
        let mut eve = rig.guest_with("eve", |_| ());
        let mut victim = victim(rig);
        repeat(rig, 20, |_| {
            talk(&mut eve, &mut victim);
            victim.guest.stop().unwrap();
            victim.guest.start_rings(Base::Stopped).unwrap();
        });
        assert_eq!(rig.drops("victim"), BTreeMap::new());
        assert_eq!(rig.drops("eve"), BTreeMap::new());
    });
}

#[test]
fn a_guest_is_removed_in_the_middle_of_moves() {
    while_moving(neighbours(), &["request refused"], |rig| {
        let mut eve = rig.guest_with("eve", |_| ());
        let socket = rig.config("victim").session.socket.display().to_string();
        repeat(rig, 15, |_| {
            let mut node = victim(rig);
            for _ in 0..3 {
                send_some(&mut node, VICTIM, EVE);
                send_some(&mut eve, EVE, VICTIM);
            }
            rig.switch.must(&["guest", "remove", "victim"]).unwrap();
            assert!(node.guest.stop().is_err(), "its backend is gone");
            let add = ["guest", "add", "victim", "--socket", &socket, "--queue-pairs", "2", "--vlan", "7"];
            rig.switch.must(&add).unwrap();
        });
        talk(&mut eve, &mut victim(rig));
    });
}

#[test]
fn a_queue_pair_that_is_not_started_starts_where_it_was_moved() {
    let rig = Plan::three_still_cores().guest("a", &["queue_pairs = 2"]).guests(&["b"]).start();
    for core in [2, 0, 1] {
        let moved = rig.switch.move_guest("a", None, core).unwrap();
        assert_eq!(
            moved.iter().map(|m| (m.queue, m.to, m.pause_us)).collect::<Vec<_>>(),
            [(0, core, None), (1, core, None)]
        );
    }
    assert_eq!(cores(&rig, "a"), [None, None]);
    let mut a = rig.guest_with("a", several_pairs(Features::NONE));
    let mut b = rig.guest_with("b", |_| ());
    assert_eq!(cores(&rig, "a"), [Some(1), Some(1)]);
    // To where it is: done, and nothing happens.
    let stayed = move_one(&rig.switch, "a", 0, 1);
    assert_eq!((stayed.from, stayed.to, stayed.pause_us), (1, 1, None));
    // It is still there when its guest comes back.
    assert!(move_one(&rig.switch, "a", 1, 2).pause_us.is_some());
    a.reconnect_as(|_| ());
    assert_eq!(cores(&rig, "a"), [Some(1), Some(2)]);
    a.send_on(1, &udp(1, 2, 100, 10));
    assert_eq!(b.receive(10).len(), 10);
    rig.finish(&mut [&mut a, &mut b]);
}

#[test]
fn moves_that_cannot_be_are_refused_in_words() {
    let rig = Plan::three_still_cores()
        .guest("pinned", &["io_core = 1"])
        .guests(&["a"])
        .uplink("wan", "net_ring0", &[])
        .start();
    let [mut a] = rig.guests(["a"]);
    let before = cores(&rig, "a");
    let cases: [(&[&str], &[&str]); 5] = [
        (&["a", "--io-core", "3"], &["no I/O core 3", "io_cores"]),
        (&["nobody", "--io-core", "1"], &["nobody"]),
        (&["wan", "--io-core", "1"], &["wan"]),
        (&["a", "--io-core", "1", "--queue", "1"], &["queue pair 1", "\"a\""]),
        (&["pinned", "--io-core", "2"], &["pinned", "I/O core 1", "io_core"]),
    ];
    for (args, words) in cases {
        let output = rig.switch.cli(&[&["guest", "move"], args].concat()).unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {error}");
        assert!(error.starts_with("error: ") && words.iter().all(|word| error.contains(word)), "{args:?}: {error}");
    }
    assert_eq!(cores(&rig, "a"), before);
    // Where it is pinned, it is.
    assert_eq!(move_one(&rig.switch, "pinned", 0, 1).pause_us, None);
    rig.finish_but(&mut [&mut a], &["request refused"]);
}

#[test]
fn the_command_line_says_what_was_moved() {
    let rig = Plan::three_still_cores().guest("a", &["queue_pairs = 2"]).start();
    let mut a = rig.guest_with("a", several_pairs(Features::NONE));
    move_one(&rig.switch, "a", 0, 0);
    move_one(&rig.switch, "a", 1, 0);
    let text = rig.switch.must(&["guest", "move", "a", "--io-core", "2", "--json"]).unwrap();
    let moved: Vec<Moved> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(moved.iter().map(|m| (m.queue, m.from, m.to)).collect::<Vec<_>>(), [(0, 0, 2), (1, 0, 2)]);
    let text = rig.switch.must(&["guest", "move", "a", "--queue", "1", "--io-core", "1"]).unwrap();
    assert_eq!(text.lines().count(), 1);
    assert!(text.contains("queue pair 1") && text.contains("I/O core"), "{text}");
    assert_eq!(cores(&rig, "a"), [Some(2), Some(1)]);
    rig.finish(&mut [&mut a]);
}

/// A guest that sleeps until it is called answers every packet, while its queue pair moves.
fn sleeper(features: Features, calls: CallMode) {
    const ROUND_TRIPS: usize = 100;
    const MOVES: usize = 60;
    let rig = Plan::three_still_cores().guests(&["a", "b"]).start();
    let mut a = rig.guest_with("a", |_| ());
    let mut b = rig.guest_with("b", |config| {
        config.session.features = Features::VERSION_1 | features;
        config.calls = calls;
    });
    a.send(&[addressed(1, BROADCAST)]);
    assert_eq!(b.receive(1).len(), 1);
    b.send(&[addressed(2, BROADCAST)]);
    assert_eq!(a.receive(1).len(), 1);
    let is_over = AtomicBool::new(false);
    let moves = AtomicUsize::new(0);
    // How often the guest has gone to sleep.
    let sleeps = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let mover = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let number = moves.fetch_add(1, Ordering::Relaxed);
                move_one(&rig.switch, ["b", "a"][number % 2], 0, number / 2 % 3);
            }
        });
        let sleeper = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                // It looks, so that it is called for the next packet, and sleeps where there is none.
                let arrived = b.frames().len();
                if arrived > 0 {
                    b.send(&vec![one(2, 1); arrived]);
                    continue;
                }
                sleeps.fetch_add(1, Ordering::Relaxed);
                let called = b.guest.pair(0).rx.bell().wait_call(LIMIT);
                assert!(called > 0, "nobody called, and {} packets are there", b.frames().len());
            }
        });
        let mut trips = 0;
        let runs = || !mover.is_finished() && !sleeper.is_finished();
        while (trips < ROUND_TRIPS || moves.load(Ordering::Relaxed) < MOVES) && runs() {
            trips += 1;
            eventually("sleep", LIMIT, || Ok((sleeps.load(Ordering::Relaxed) >= trips).then_some(()))).unwrap();
            a.send(&[one(1, 2)]);
            assert_eq!(a.receive(1).len(), 1, "no answer");
        }
        is_over.store(true, Ordering::Relaxed);
        // Wakes the sleeper once more.
        a.send(&[one(1, 2)]);
        mover.join().unwrap();
        sleeper.join().unwrap();
    });
    rig.finish(&mut [&mut a, &mut b]);
}

#[test]
fn a_sleeping_guest_is_called_wherever_its_queue_pair_is() {
    sleeper(Features::NONE, CallMode::Always);
    sleeper(Features::EVENT_IDX, CallMode::Event);
    sleeper(Features::RING_PACKED | Features::EVENT_IDX, CallMode::Event);
}

#[test]
fn a_switch_stops_in_the_middle_of_moves() {
    let rig = Plan::three_still_cores().guests(&["a", "b"]).start();
    let [mut a, mut b] = rig.guests(["a", "b"]);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mover = scope.spawn(|| {
            // Until the switch is gone.
            let mut moves = 0;
            while rig.switch.move_guest("a", None, moves % 3).is_ok() && !is_over.load(Ordering::Relaxed) {
                moves += 1;
            }
            moves
        });
        let template = FrameSpec::udp4(1, 2, 0, 300);
        let streams = [Stream { frame: template, ..Stream::udp(0, 1, 300, u64::MAX) }];
        let mut runner = Runner::new(2, &streams);
        runner.step_for(&mut [&mut a, &mut b], Duration::from_millis(500));
        rig.switch.signal(Signal::TERM).unwrap();
        let end = Instant::now() + LIMIT;
        while !mover.is_finished() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(mover.join().unwrap() > 10);
    });
    rig.has_stopped();
}
