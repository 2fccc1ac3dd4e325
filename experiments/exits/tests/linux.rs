//! Rows of Linux guests, made the way `exits` makes them, with guests that run as they can here. Under TCG there are no exits to be
//! counted, and none are made up.
#![forbid(unsafe_code)]

use std::time::Duration;

use sidecore_exits::linux::{self, Bench, Row, StockGuests, Turn};
use sidecore_exits::measure::{Mode, RingFormat};
use sidecore_tests::guest::{Accel, GuestImage};
use sidecore_tests::rules;

fn turn(mode: Mode, ring: RingFormat) -> (Row, Turn) {
    let machine = rules::Machine::exclusive().unwrap();
    let switch_cpu = std::thread::available_parallelism().unwrap().get() - 1;
    let bench = Bench { machine: &machine, switch_cpu, window: Duration::from_millis(500) };
    let row = Row { mode, ring, pause: Duration::ZERO };
    let turn = bench.turn(&row).unwrap();
    println!("{turn:#?}");
    (row, turn)
}

#[test]
fn linux_guests_kick_a_sleeping_switch_and_never_a_polling_one() {
    let under_kvm = Accel::detect(&GuestImage::get().unwrap()).unwrap() == Accel::Kvm;
    let stock_guests = StockGuests { run_under_kvm: Some(under_kvm), found: "a test".to_owned() };
    for (mode, ring) in [(Mode::Poll, RingFormat::Split), (Mode::Trap, RingFormat::Packed)] {
        let (row, turn) = turn(mode, ring);
        let (trips, asked) = &turn.asked;
        let (stream, streamed) = turn.streamed.as_ref().unwrap();
        assert!(trips.requests > 10 && 0.0 < trips.p50_us && trips.p50_us <= trips.p99_us, "{trips:?}");
        assert!(stream.bytes > 1 << 20 && stream.seconds > 0.5, "{stream:?}");
        assert!(asked.packets > 10 && streamed.packets > 10 && turn.idle_packets < asked.packets / 5);
        assert!(asked.calls > 0 && streamed.calls > 0, "a driver that sleeps is interrupted");

        let outcome = linux::outcome(&row, std::slice::from_ref(&turn), &stock_guests);
        let kicks = outcome.measured.cost.kicks_per_packet;
        match mode {
            Mode::Trap => assert!(kicks > 0.3, "a packet by itself is kicked for: {kicks}"),
            _ => assert_eq!((asked.kicks, streamed.kicks, turn.switch_counts.0), (0, 0, 0)),
        }
        assert!((kicks * asked.packets as f64 - asked.kicks as f64).abs() < 0.5);
        let time = asked.time.as_secs_f64();
        assert!((0.5..5.0).contains(&time), "the window is as long as it should be: {time}");
        let exits = [outcome.measured.cost.exits_raw, outcome.measured.cost.exits_baseline];
        assert_eq!(exits.map(|exits| exits.is_some()), [under_kvm; 2], "KVM counts, or nobody does");
        assert_eq!(outcome.measured.cost.exits_per_packet.is_some(), under_kvm);
        assert_eq!((asked.busy.is_empty(), outcome.measured.cost.exits_by_cause.is_empty()), (!under_kvm, !under_kvm));
    }
}
