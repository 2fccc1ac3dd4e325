//! How the switch waits for packets: cores that sleep hear of everything, and guests are asked to kick when they have been idle.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sidecore_tests::process::eventually;
use synthetic_guest::{Features, Frame, GuestConfig, KickPolicy, Notify};

use crate::frames::{addressed, one};
use crate::rig::{LIMIT, Node, Plan, Rig};
use crate::stream::{Runner, Stream, run};

const BROADCAST: [u8; 6] = [0xff; 6];

/// The ring formats, and the ways to ask for a kick.
const FORMATS: [Features; 4] = [
    Features::NONE,
    Features::EVENT_IDX,
    Features::RING_PACKED,
    Features(Features::RING_PACKED.0 | Features::EVENT_IDX.0),
];

/// Sleeps that a packet has to end in each of the tests of that: SIDECORE_SLEEPS (`make soak-sleeps`).
fn sleeps() -> u64 {
    std::env::var("SIDECORE_SLEEPS").ok().and_then(|count| count.parse().ok()).unwrap_or(250)
}

/// Packets for each sleep at most: a busy machine lets one come before its core lies down.
const PACKETS_A_SLEEP: u64 = 20;
/// Packets between two looks at how many sleeps they have ended.
const CHUNK: u64 = 250;

/// Pauses before packets in microseconds: while an adaptive core looks for more, while it lies down, while it sleeps.
const ADAPTIVE: Range<u64> = 150..350;
/// The same for a guest's own thread, which lies down at once.
const TRAP: Range<u64> = 0..100;
/// Any time at all for an adaptive core.
const ANY: Range<u64> = 0..600;

/// A pause, another one each time.
fn pause(nth: u64, us: &Range<u64>) {
    // An LCG's high bits.
    let random = nth.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407) >> 33;
    let part = random as f64 / f64::from(1u32 << 31);
    let end = Instant::now() + Duration::from_nanos(us.start * 1000 + ((us.end - us.start) as f64 * 1e3 * part) as u64);
    while Instant::now() < end {
        std::thread::yield_now();
    }
}

/// One packet at a time, some time after the one before has arrived: while the core looks, while it lies down, while it sleeps.
fn one_by_one(from: (&mut Node, u32), to: (&mut Node, u32), count: u64, pauses: Range<u64>) {
    let packet = one(from.1, to.1);
    let frame = Frame::from(packet.bytes.as_slice());
    for nth in 0..count {
        pause(nth, &pauses);
        let tx = &mut from.0.guest.pair(0).tx;
        tx.reclaim();
        assert_eq!(tx.send_burst(&[frame]), 1, "no room for packet {nth}");
        let end = Instant::now() + LIMIT;
        while to.0.guest.pair(0).rx.recv_burst(1, |_| ()) == 0 {
            std::thread::yield_now();
            assert!(Instant::now() < end, "packet {nth} of {count} did not arrive");
        }
    }
}

/// The same until so many sleeps have been ended. Returns the number of packets.
fn until_slept(from: (&mut Node, u32), to: (&mut Node, u32), pauses: &Range<u64>, slept: impl Fn() -> u64) -> u64 {
    let (mut ended, mut sent) = (0, 0);
    while ended < sleeps() {
        let before = slept();
        one_by_one((from.0, from.1), (to.0, to.1), CHUNK, pauses.clone());
        // A packet ends one sleep: where a core sleeps again before the session has told of the kick, that is another wake-up and no other packet.
        ended += (slept() - before).min(CHUNK);
        sent += CHUNK;
        assert!(sent <= PACKETS_A_SLEEP * sleeps() + CHUNK, "{sent} packets ended {ended} sleeps only");
    }
    sent
}

/// Both guests are known to the switch.
fn introduce(rig: &Rig, a: &mut Node, b: &mut Node) {
    a.send(&[addressed(0, BROADCAST)]);
    assert_eq!(b.receive(1).len(), 1);
    b.send(&[addressed(1, BROADCAST)]);
    assert_eq!(a.receive(1).len(), 1);
    rig.settle();
}

fn pair(rig: &Rig, features: Features) -> [Node; 2] {
    ["a", "b"].map(|name| rig.guest_with(name, |config| config.session.features = config.session.features | features))
}

impl Rig {
    /// Sleeps of all cores, or of one, that ended for this cause.
    fn wakes(&self, core: Option<usize>, cause: &str) -> u64 {
        let status = self.json();
        let cores = status["cores"].as_array().unwrap().iter().enumerate();
        cores
            .filter(|(n, _)| core.is_none_or(|core| core == *n))
            .map(|(_, c)| c["wakes"][cause].as_u64().unwrap_or(0))
            .sum()
    }

    fn armed(&self) -> u64 {
        self.json()["cores"].as_array().unwrap().iter().map(|core| core["armed_rings"].as_u64().unwrap()).sum()
    }
}

/// Whatever the moment at which a guest sends, its packet arrives; and the guest is asked for as many kicks as it sends.
fn a_sleeping_core_hears_its_guests(mode: &str, pauses: &Range<u64>) {
    for features in FORMATS {
        let rig = Plan::new().mode(mode).guests(&["a", "b"]).start();
        let [mut a, mut b] = pair(&rig, features);
        introduce(&rig, &mut a, &mut b);
        let before = (rig.wakes(None, "kick"), rig.port("a").kicks);
        let packets = until_slept((&mut a, 0), (&mut b, 1), pauses, || rig.wakes(None, "kick"));
        let woken = rig.wakes(None, "kick") - before.0;
        let kicks = rig.port("a").kicks - before.1;
        println!(
            "{mode}, {features:?}: {} sleeps at least ended by {packets} packets; {kicks} kicks, {woken} wake-ups",
            sleeps()
        );
        assert!(kicks > 0 && kicks <= packets + 1, "{features:?}: {kicks} kicks");
        rig.finish(&mut [&mut a, &mut b]);
    }
}

#[test]
fn an_adaptive_core_hears_its_guests() {
    a_sleeping_core_hears_its_guests("adaptive", &ADAPTIVE);
}

/// Each guest on a thread of its own, which sleeps after every packet.
#[test]
fn the_threads_of_guests_hear_them() {
    a_sleeping_core_hears_its_guests("trap", &TRAP);
}

/// The threads of a switch of mode `trap` that forward, with two guests.
const TRAP_THREADS: [&str; 3] = ["io-core-0", "io-guest-1", "io-guest-2"];

/// A switch of mode `trap` whose guests know each other.
fn trap(key: &str) -> (Rig, Node, Node) {
    let rig = Plan::new().mode("trap").key(key).guests(&["a", "b"]).start();
    let [mut a, mut b] = rig.guests(["a", "b"]);
    introduce(&rig, &mut a, &mut b);
    (rig, a, b)
}

/// A thread sleeps until it is woken, also where it knows stations; and its sleep is accounted for while it lasts.
#[test]
fn the_threads_of_silent_guests_are_not_woken_by_a_timer() {
    let (rig, mut a, mut b) = trap("fdb_ageing_s = 300");
    let slept = || {
        let status = rig.json();
        let cycles = |core: &serde_json::Value| core["slept_cycles"].as_u64().unwrap();
        let cores = status["cores"].as_array().unwrap().iter().map(cycles).collect::<Vec<_>>();
        (cores, status["tsc_hz"].as_u64().unwrap())
    };
    let switches = || TRAP_THREADS.map(|thread| rig.switch.thread_switches(thread).unwrap());
    let (before, hz) = slept();
    // That look reads kicks, which their threads are told of: they lie down again when they get their CPU.
    eventually("threads that sleep on", LIMIT, || {
        let start = switches();
        std::thread::sleep(Duration::from_millis(500));
        Ok((switches() == start).then_some(()))
    })
    .unwrap();
    let (after, _) = slept();
    for (thread, (after, before)) in TRAP_THREADS.iter().zip(after.iter().zip(&before)) {
        assert!(after - before >= hz / 2, "{thread}: asleep for {} of {hz} cycles a second", after - before);
    }
    rig.finish(&mut [&mut a, &mut b]);
}

#[test]
fn stations_age_while_threads_sleep_and_then_nothing_wakes_them() {
    let (rig, mut a, mut b) = trap("fdb_ageing_s = 2");
    eventually("no stations", LIMIT, || Ok(rig.stations().is_empty().then_some(()))).unwrap();
    let switches = || TRAP_THREADS.map(|thread| rig.switch.thread_switches(thread).unwrap());
    eventually("threads that sleep on", LIMIT, || {
        let before = switches();
        std::thread::sleep(Duration::from_millis(1200));
        Ok((switches() == before).then_some(()))
    })
    .unwrap();
    rig.finish(&mut [&mut a, &mut b]);
}

/// What a guest kicks for is its own thread's: its session sleeps on. Kicks are counted all the same.
#[test]
fn a_kick_wakes_the_guests_own_thread_and_not_its_session() {
    let (rig, mut a, mut b) = trap("fdb_ageing_s = 300");
    let sessions = || ["vhost-user-a", "vhost-user-b"].map(|thread| rig.switch.thread_switches(thread).unwrap());
    let before = (sessions(), rig.port("a").kicks, rig.wakes(Some(1), "kick"));
    one_by_one((&mut a, 0), (&mut b, 1), 300, TRAP);
    let (kicks, woken) = (rig.port("a").kicks - before.1, rig.wakes(Some(1), "kick") - before.2);
    println!("{kicks} kicks, {woken} wake-ups");
    assert!(kicks > 0 && kicks <= 301 && woken > 0, "{kicks} kicks, {woken} wake-ups");
    // One may have been about to sleep.
    let awake: u64 = sessions().iter().zip(before.0).map(|(after, before)| after - before).sum();
    assert!(awake < 10, "sessions were woken {awake} times, by {kicks} kicks");
    rig.finish(&mut [&mut a, &mut b]);
}

/// Whoever wants to know how many kicks there were reads them, at any moment: packets arrive all the same.
#[test]
fn whoever_counts_kicks_keeps_no_thread_asleep() {
    let (rig, mut a, mut b) = trap("fdb_ageing_s = 300");
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (rig, is_over) = (&rig, &is_over);
        scope.spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                rig.switch.status().unwrap();
            }
        });
        one_by_one((&mut a, 0), (&mut b, 1), 1000, TRAP);
        is_over.store(true, Ordering::Relaxed);
    });
    rig.finish(&mut [&mut a, &mut b]);
}

#[test]
fn a_guest_of_its_own_thread_talks_to_those_on_io_cores() {
    let pairs = "queue_pairs = 2";
    let rig = Plan::three_still_cores()
        .asks()
        .guests(&["a"])
        .guest("own", &["mode = \"trap\"", pairs])
        .guest("other", &["mode = \"trap\""])
        .start();
    let mut a = rig.guest_with("a", |_| ());
    let multiqueue = |config: &mut GuestConfig| {
        config.queue_pairs = 2;
        config.session.features = config.session.features | Features::MQ | Features::RING_PACKED;
    };
    let mut own = rig.guest_with("own", multiqueue);
    let mut other = rig.guest_with("other", |_| ());
    for (number, node) in [&mut a, &mut own, &mut other].into_iter().enumerate() {
        node.send(&[addressed(number as u32, BROADCAST)]);
    }
    [&mut a, &mut own, &mut other].into_iter().for_each(|node| assert_eq!(node.receive(2).len(), 2));
    rig.settle();
    let stream = |from, to, pair, len| Stream { pair, window: 32, ..Stream::udp(from, to, len, 5_000) };
    let streams = [
        stream(0, 1, 0, 60),
        stream(1, 0, 0, 1000),
        stream(1, 0, 1, 60),
        stream(1, 2, 1, 300),
        stream(2, 1, 0, 1514),
        stream(2, 0, 0, 60),
    ];
    let reports = run(&mut [&mut a, &mut own, &mut other], &streams);
    assert!(reports.iter().all(|report| report.is_perfect(report.received)), "{reports:?}");
    // On threads beyond the three cores, which are nobody's to move.
    let core = |name: &str| rig.port(name).queues.iter().map(|queue| queue.io_core).collect::<Vec<_>>();
    assert_eq!((core("own"), core("other")), (vec![Some(3), Some(3)], vec![Some(4)]));
    let refused = rig.switch.move_guest("own", Some(0), 1).unwrap_err();
    assert!(format!("{refused:#}").contains("own I/O thread"), "{refused:#}");
    // A thread is kept for the next guest.
    drop(other);
    rig.switch.must(&["guest", "remove", "other"]).unwrap();
    let socket = rig.config("next").session.socket.display().to_string();
    rig.switch.must(&["guest", "add", "next", "--socket", &socket, "--mode", "trap"]).unwrap();
    let mut next = rig.guest_with("next", |_| ());
    next.send(&[addressed(7, BROADCAST)]);
    assert_eq!((a.receive(1).len(), own.receive(1).len()), (1, 1));
    one_by_one((&mut a, 0), (&mut next, 7), 20, TRAP);
    assert_eq!(core("next"), [Some(4)]);
    rig.finish_but(&mut [&mut a, &mut own, &mut next], &["own I/O thread"]);
}

/// What cores learnt before a thread was made, and what they learn from then on, is known to it, also of ports that were down before: nothing is
/// flooded.
#[test]
fn a_thread_that_comes_late_knows_where_stations_are() {
    let rig = Plan::new().asks().guests(&["a", "b"]).start();
    for name in ["a", "b"] {
        drop(rig.guest_with(name, |_| ()));
        rig.switch.wait_for_port(name, "its link down", |port| port.state == "waiting").unwrap();
    }
    let [mut a, mut b] = rig.guests(["a", "b"]);
    a.send(&[addressed(0, BROADCAST)]);
    assert_eq!(b.receive(1).len(), 1);
    let socket = rig.config("late").session.socket.display().to_string();
    rig.switch.must(&["guest", "add", "late", "--socket", &socket, "--mode", "trap"]).unwrap();
    let mut late = rig.guest_with("late", |_| ());
    let mut sends = |to: u32, there: &mut Node, elsewhere: &mut Node| {
        late.send(&[one(2, to)]);
        assert_eq!(there.receive(1).len(), 1);
        rig.settle();
        assert_eq!(elsewhere.received(), [], "a packet for station {to} was flooded");
        late.received().len()
    };
    assert_eq!(sends(0, &mut a, &mut b), 0);
    b.send(&[addressed(1, BROADCAST)]);
    assert_eq!(a.receive(1).len(), 1);
    rig.settle();
    assert_eq!(sends(1, &mut b, &mut a), 1);
    rig.finish_but(&mut [&mut a, &mut b, &mut late], &["own I/O thread"]);
}

#[test]
fn cores_that_sleep_hear_of_each_other() {
    let rig =
        Plan::three_still_cores().mode("adaptive").guest("a", &["io_core = 0"]).guest("b", &["io_core = 2"]).start();
    let [mut a, mut b] = pair(&rig, Features::EVENT_IDX);
    introduce(&rig, &mut a, &mut b);
    // The timer would wake them, too: `finish` asserts that it has not had to.
    let packets = [
        until_slept((&mut a, 0), (&mut b, 1), &ADAPTIVE, || rig.wakes(Some(2), "packets")),
        until_slept((&mut b, 1), (&mut a, 0), &ADAPTIVE, || rig.wakes(Some(0), "packets")),
    ];
    println!("from core to core: {} sleeps at least ended by {packets:?} packets, each way", sleeps());
    rig.finish(&mut [&mut a, &mut b]);
}

#[test]
fn queue_pairs_move_between_cores_that_sleep() {
    let rig = Plan::three_still_cores().mode("adaptive").guests(&["a", "b"]).start();
    let [mut a, mut b] = pair(&rig, Features::RING_PACKED);
    introduce(&rig, &mut a, &mut b);
    for step in 0..30 {
        rig.switch.move_guest(["a", "b"][step % 2], Some(0), (step / 2 + step) % 3).unwrap();
        // Long enough for all of them to sleep, half of the time.
        one_by_one((&mut a, 0), (&mut b, 1), 5, ANY);
        one_by_one((&mut b, 1), (&mut a, 0), 5, ANY);
    }
    rig.finish(&mut [&mut a, &mut b]);
}

#[test]
fn a_core_with_nothing_to_do_uses_no_cpu() {
    let share = |mode: &str| {
        let rig = Plan::new().mode(mode).guests(&["a", "b"]).start();
        let [mut a, mut b] = pair(&rig, Features::NONE);
        introduce(&rig, &mut a, &mut b);
        // Until the rings have been left to their kicks.
        eventually("idle core", LIMIT, || Ok((mode == "poll" || rig.armed() == 2).then_some(()))).unwrap();
        let rounds = || rig.json()["cores"][0]["polls"].as_u64().unwrap();
        let (start, before, cpu) = (Instant::now(), rounds(), rig.switch.thread_time("io-core-0").unwrap());
        std::thread::sleep(Duration::from_millis(500));
        let used = (rig.switch.thread_time("io-core-0").unwrap() - cpu).as_secs_f64() / start.elapsed().as_secs_f64();
        let rounds = rounds() - before;
        rig.finish(&mut [&mut a, &mut b]);
        (used, rounds)
    };
    let (polling, sleeping) = (share("poll"), share("adaptive"));
    assert!(sleeping.0 <= 0.05, "{sleeping:?}");
    assert!(polling.1 > 100 * sleeping.1, "{polling:?} {sleeping:?}");
}

/// A guest that has been idle beside busy ones is asked to kick; its first packet arrives, and then it is polled.
#[test]
fn an_idle_guest_of_a_busy_core_is_left_to_its_kick() {
    for features in FORMATS {
        // "poll" beside, so that the core never sleeps, and adaptive ones among them.
        let idle = &["mode = \"adaptive\""];
        let rig = Plan::new().asks().guests(&["a", "b"]).guest("idle", idle).guest("other", idle).start();
        let [mut a, mut b] = pair(&rig, features);
        let [mut idle, mut other] = ["idle", "other"]
            .map(|name| rig.guest_with(name, |config| config.session.features = config.session.features | features));
        introduce(&rig, &mut a, &mut b);
        other.send(&[addressed(3, BROADCAST)]);
        idle.send(&[addressed(2, BROADCAST)]);
        rig.settle();
        // What each has heard of the others up to now.
        [&mut a, &mut b, &mut idle, &mut other].into_iter().for_each(|node| assert!(!node.received().is_empty()));
        let stream = |from, to| Stream { window: 48, ..Stream::udp(from, to, 60, u64::MAX) };
        let streams = [stream(0, 1), stream(1, 0)];
        let mut runner = Runner::new(2, &streams);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let rig = &rig;
            let quiet = scope.spawn(|| {
                for _ in 0..5 {
                    eventually("rings left to their kicks", LIMIT, || Ok((rig.armed() == 2).then_some(()))).unwrap();
                    one_by_one((&mut idle, 2), (&mut other, 3), 1, 0..0);
                }
                is_over.store(true, Ordering::Relaxed);
            });
            while !is_over.load(Ordering::Relaxed) && !quiet.is_finished() {
                runner.step_for(&mut [&mut a, &mut b], Duration::from_millis(5));
            }
        });
        assert_eq!((rig.port("a").kicks, rig.port("b").kicks), (0, 0));
        let kicks = rig.port("idle").kicks;
        assert!((5..=6).contains(&kicks), "{features:?}: {kicks} kicks for 5 packets after a rest");
        let sleeps = ["kick", "packets", "message", "timer"].map(|cause| rig.wakes(None, cause));
        assert_eq!(sleeps, [0; 4], "a core of mode poll does not sleep");
        eventually("all packets", LIMIT, || {
            runner.receive(&mut [&mut a, &mut b]);
            Ok((rig.switch.status()?.accounting.unaccounted() == 0).then_some(()))
        })
        .unwrap();
        rig.finish(&mut [&mut a, &mut b, &mut idle, &mut other]);
    }
}

#[test]
fn a_guest_of_mode_poll_keeps_its_core_awake() {
    let rig = Plan::new().mode("adaptive").guest("a", &["mode = \"poll\""]).guest("b", &[]).start();
    let [mut a, mut b] = pair(&rig, Features::NONE);
    introduce(&rig, &mut a, &mut b);
    let all = || ["kick", "packets", "message", "timer"].map(|cause| rig.wakes(None, cause));
    let before = all();
    one_by_one((&mut a, 0), (&mut b, 1), 100, ANY);
    assert_eq!((all(), rig.port("a").kicks), (before, 0));
    rig.finish(&mut [&mut a, &mut b]);
}

/// A kick that nobody had asked for, and that is never looked at, does not keep a parked core from its sleep.
#[test]
fn a_parked_core_sleeps_whatever_its_last_guest_did() {
    let rig = Plan::three_cores().awake(1).guest("a", &["io_core = 1"]).guest("eve", &["io_core = 0"]).start();
    let mut a = rig.guest_with("a", |_| ());
    let mut eve = rig.guest_with("eve", |_| ());
    eve.guest.pair(0).tx.bell().kick(1);
    rig.switch.wait_for_port("eve", "its kick", |port| port.kicks == 1).unwrap();
    drop(eve);
    rig.switch.must(&["guest", "remove", "eve"]).unwrap();
    eventually("a parked core", 2 * LIMIT, || Ok(rig.parked().contains(&0).then_some(()))).unwrap();
    let before = rig.wakes(Some(0), "timer");
    eventually("sleeps", LIMIT, || Ok((rig.wakes(Some(0), "timer") > before + 1).then_some(()))).unwrap();
    rig.finish(&mut [&mut a]);
}

/// Whoever cannot kick is looked for now and then.
#[test]
fn a_guest_without_a_kick_is_not_forgotten() {
    let rig = Plan::new().mode("adaptive").guests(&["a", "b"]).start();
    let mut a = rig.guest_with("a", |config| config.kick = Notify::NoFd);
    let mut b = rig.guest_with("b", |_| ());
    introduce(&rig, &mut a, &mut b);
    one_by_one((&mut a, 0), (&mut b, 1), 50, 0..2000);
    assert!(rig.wakes(None, "timer") > 0);
    rig.finish(&mut [&mut a, &mut b]);
}

/// A kick that does not come is made up for by the timer, and told: what the tests of sleep rely on.
#[test]
fn a_kick_that_is_lost_is_noticed() {
    for features in FORMATS {
        let rig = Plan::new().mode("adaptive").guests(&["a", "b"]).start();
        let [mut a, mut b] = pair(&rig, features);
        introduce(&rig, &mut a, &mut b);
        eventually("rings left to their kicks", LIMIT, || Ok((rig.armed() == 2).then_some(()))).unwrap();
        let missed = || rig.json()["cores"][0]["missed_kicks"].as_u64().unwrap();
        assert_eq!(missed(), 0);
        a.guest.pair(0).tx.bell().set_policy(KickPolicy::Never);
        one_by_one((&mut a, 0), (&mut b, 1), 1, ANY);
        assert_eq!(missed(), 1, "{features:?}");
    }
}

/// Kicks without end, asked for or not: every one is counted, and the others' packets arrive.
fn a_storm_of_kicks_does_not_stop_others(mode: &str) {
    let rig = Plan::new().mode(mode).guests(&["a", "b", "eve"]).start();
    let [mut a, mut b] = pair(&rig, Features::EVENT_IDX);
    let mut eve = rig.guest_with("eve", |_| ());
    introduce(&rig, &mut a, &mut b);
    let is_over = AtomicBool::new(false);
    let kicks = std::thread::scope(|scope| {
        let storm = scope.spawn(|| {
            let mut kicks = 0;
            while !is_over.load(Ordering::Relaxed) {
                eve.guest.pair(0).tx.bell().kick(1);
                kicks += 1;
            }
            kicks
        });
        one_by_one((&mut a, 0), (&mut b, 1), 500, ANY);
        is_over.store(true, Ordering::Relaxed);
        storm.join().unwrap()
    });
    assert!(kicks > 1000, "{kicks}");
    rig.switch.wait_for_port("eve", "all kicks", |port| port.kicks >= kicks).unwrap();
    assert_eq!(rig.port("eve").kicks, kicks);
    rig.finish(&mut [&mut a, &mut b, &mut eve]);
}

#[test]
fn a_storm_of_kicks_to_an_adaptive_core_does_not_stop_others() {
    a_storm_of_kicks_does_not_stop_others("adaptive");
}

#[test]
fn a_storm_of_kicks_to_a_guests_own_thread_does_not_stop_others() {
    a_storm_of_kicks_does_not_stop_others("trap");
}

/// A session that is woken by the same kick as its core is not in that core's way. Guests' own threads have the CPUs of I/O cores, where these
/// do not poll.
fn nothing_else_runs_on_the_cpu_of_an_io_core(mode: &str) {
    let rig = Plan::new().mode(mode).guests(&["a"]).start();
    let mut a = rig.guest_with("a", |_| ());
    let may_run = |thread: &str| {
        let status = rig.switch.of_thread(thread, "status").unwrap();
        status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:\t")).unwrap().to_owned()
    };
    let core = may_run("io-core-0");
    for thread in ["sidecore", "scheduler", "rescue", "vhost-user-a", "api"] {
        let cpus = may_run(thread);
        let (first, last) = cpus.split_once('-').unwrap_or((&cpus, &cpus));
        let all: Vec<usize> = [first, last].iter().map(|cpu| cpu.parse().unwrap()).collect();
        let beside = !(all[0]..=all[1]).contains(&core.parse().unwrap());
        // Where there is no other CPU they have to.
        assert!(
            beside || std::thread::available_parallelism().unwrap().get() == 1,
            "{thread} on {cpus}, core on {core}"
        );
    }
    if mode == "trap" {
        assert_eq!(may_run("io-guest-1"), core);
    }
    rig.finish(&mut [&mut a]);
}

#[test]
fn nothing_else_runs_on_the_cpu_of_an_adaptive_core() {
    nothing_else_runs_on_the_cpu_of_an_io_core("adaptive");
}

#[test]
fn the_threads_of_guests_have_the_cpu_of_the_io_core_and_nothing_else_has() {
    nothing_else_runs_on_the_cpu_of_an_io_core("trap");
}
