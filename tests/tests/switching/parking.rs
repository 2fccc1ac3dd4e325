//! I/O cores that are parked while there is an uplink: its queue pairs go to another core first, and come back.

use std::time::Duration;

use sidecore_tests::process::eventually;
use synthetic_guest::packet::FrameSpec;

use crate::rig::{LIMIT, Plan, Rig};
use crate::stream::{Runner, Stream};

/// The only queue pair of the uplink is the first core's, …
const HOME: u32 = 0;

fn core_of_the_uplink(rig: &Rig) -> Option<u32> {
    rig.port("echo").queues[0].io_core
}

#[test]
fn the_queues_of_an_uplink_leave_a_core_before_it_is_parked_and_come_back_when_it_wakes() {
    // A net_ring device gives back what it is sent: each guest, alone in its VLAN, hears its echo. … and the guests that talk are on others.
    let rig = Plan::three_cores()
        .awake(2)
        .key("flood_rate_pps = 0")
        .guest("g0", &["io_core = 1", "vlan = { access = 10 }"])
        .guest("g1", &["io_core = 2", "vlan = { access = 20 }"])
        .guest("still", &["vlan = { access = 30 }"])
        .uplink("echo", "net_ring0", &["queues = 1"])
        .start();
    let mut nodes = ["g0", "g1", "still"].map(|name| rig.guest_with(name, |_| ()));
    let streams: Vec<Stream> = (0..2)
        .map(|n| Stream { frame: FrameSpec::udp4(n as u32, 99, 0, 300), window: 4, ..Stream::udp(n, n, 300, u64::MAX) })
        .collect();
    let mut runner = Runner::new(2, &streams);
    let [a, b, still] = &mut nodes;
    // Little enough for two cores, also where they lose their CPU now and then.
    let mut talk = || {
        runner.step(&mut [&mut *a, &mut *b]);
        std::thread::sleep(Duration::from_millis(2));
    };
    assert_eq!(core_of_the_uplink(&rig), Some(HOME));
    eventually("a parked core", 2 * LIMIT, || {
        (0..20).for_each(|_| talk());
        Ok((rig.parked() == [u64::from(HOME)]).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error}: {}", rig.json()));
    assert!(core_of_the_uplink(&rig).is_some_and(|core| core != HOME));
    (0..20).for_each(|_| talk());
    // Whoever is given a queue pair is awake.
    rig.switch.move_guest("still", Some(0), HOME as usize).unwrap();
    eventually("the queue pair back home", LIMIT, || {
        talk();
        Ok((core_of_the_uplink(&rig) == Some(HOME) && rig.parked().is_empty()).then_some(()))
    })
    .unwrap();
    (0..20).for_each(|_| talk());

    for name in ["g0", "g1", "echo"] {
        assert_eq!(rig.drops(name), Default::default(), "{name}");
    }
    let sent = || ["g0", "g1"].map(|name| rig.port(name).tx.packets);
    eventually("all echoes", LIMIT, || {
        runner.receive(&mut [&mut *a, &mut *b]);
        Ok(runner.reports().iter().map(|report| report.received).eq(sent()).then_some(()))
    })
    .unwrap();
    for (report, sent) in runner.reports().iter().zip(sent()) {
        assert!(report.is_perfect(sent) && sent > 100, "{report:?}");
    }
    rig.finish(&mut [a, b, still]);
}

/// Where nothing happens no queue pair is looked at: what comes, and what the scheduler itself has moved, is seen all the same.
#[test]
fn silent_queue_pairs_leave_a_core_that_is_to_be_parked() {
    let rig = Plan::three_cores().awake(2).mode("adaptive").guests(&["a", "b", "c"]).start();
    let mut nodes = rig.guests(["a", "b", "c"]);
    eventually("a parked core", 2 * LIMIT, || Ok((rig.parked() == [2]).then_some(())))
        .unwrap_or_else(|error| panic!("{error}: {}", rig.json()["scheduler"]));
    let scheduler = rig.json()["scheduler"].take();
    assert_eq!([&scheduler["moves"], &scheduler["failed"]], [1, 0], "{scheduler}");
    let [a, b, c] = &mut nodes;
    rig.finish(&mut [a, b, c]);
}
