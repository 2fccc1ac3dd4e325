//! Frontends that mean harm, or are broken: each is answered with "no" or hung up on, and the next one is served.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use vhost::vhost_user::message::FrontendReq as Req;
use vm_ports::session::SessionEvent;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use crate::peer::*;

/// Sends something as the first thing after the greeting, and checks that the session ends the connection and lives on.
fn is_hung_up_on(name: &str, send: impl FnOnce(&mut Peer)) {
    let port = Port::server();
    let mut peer = port.connect();
    peer.hello();
    send(&mut peer);
    assert!(peer.hangs_up(), "{name}");
    eventually(name, || port.host.disconnects() == 1);
    assert_eq!(port.host.out(), [], "{name}");
    assert!(port.session.counters().refused.get() >= 1, "{name}: not counted");
    port.check_alive();
    port.stop();
}

#[test]
fn malformed_messages_end_the_connection() {
    let null = || File::open("/dev/null").unwrap();
    is_hung_up_on("an unknown request", |p| p.raw(250, 1, &[], &[]));
    is_hung_up_on("request 0", |p| p.raw(0, 1, &[], &[]));
    is_hung_up_on("another version", |p| p.raw(1, 2, &[], &[]));
    is_hung_up_on("a reply as a request", |p| p.raw(Req::SET_OWNER.into(), 5, &[], &[]));
    is_hung_up_on("reserved flags", |p| p.raw(1, 0x101, &[], &[]));
    is_hung_up_on("a body too long", |p| p.send(Req::SET_FEATURES, &[0; 9], &[]));
    is_hung_up_on("a body too short", |p| p.send(Req::SET_VRING_NUM, &[0; 4], &[]));
    is_hung_up_on("a size beyond all", |p| p.write(&words(&[2, 1, u32::MAX])));
    is_hung_up_on("a descriptor where none belongs", |p| p.send(Req::GET_FEATURES, &[], &[&null()]));
    is_hung_up_on("a kick without its descriptor", |p| p.send(Req::SET_VRING_KICK, &longs(&[0]), &[]));
    is_hung_up_on("two kicks", |p| p.send(Req::SET_VRING_KICK, &longs(&[0]), &[&event_file(), &event_file()]));
    is_hung_up_on("a kick that is no eventfd", |p| p.send(Req::SET_VRING_KICK, &longs(&[0]), &[&null()]));
    is_hung_up_on("a call that is no eventfd", |p| p.send(Req::SET_VRING_CALL, &longs(&[0]), &[&null()]));
    is_hung_up_on("a table without files", |p| p.send(Req::SET_MEM_TABLE, &table(&[[0, 4096, 0, 0]]), &[]));
    is_hung_up_on("a table of nothing", |p| p.send(Req::SET_MEM_TABLE, &table(&[]), &[&null()]));
    let large = |tib: u64| memfd(tib << 40);
    is_hung_up_on("addresses for many guests", |p| {
        p.send(Req::SET_MEM_TABLE, &table(&[[0, 5 << 40, FRONTEND, 0]]), &[&large(5)]);
    });
    is_hung_up_on("the same in two regions", |p| {
        let regions = table(&[[0, 3 << 40, FRONTEND, 0], [3 << 40, 4096, 0, (2 << 40) - 4096]]);
        p.send(Req::SET_MEM_TABLE, &regions, &[&large(3), &large(2)]);
    });
    is_hung_up_on("what was not offered", |p| p.send(Req::GET_CONFIG, &words(&[0, 4, 0, 0]), &[]));
    is_hung_up_on("a log", |p| p.send(Req::SET_LOG_BASE, &longs(&[4096, 0]), &[&memfd(4096)]));
    is_hung_up_on("features not offered", |p| p.send(Req::SET_FEATURES, &longs(&[u64::MAX]), &[]));
    is_hung_up_on("protocol not offered", |p| p.send(Req::SET_PROTOCOL_FEATURES, &longs(&[u64::MAX]), &[]));
    is_hung_up_on("a ring that is not there", |p| p.send(Req::GET_VRING_BASE, &words(&[2, 0]), &[]));
}

#[test]
fn a_frontend_that_connects_again_and_again_has_one_budget() {
    const FIRST: u64 = 3000;
    /// At once, and then so many a millisecond.
    const BUDGET: u64 = 4096;
    let port = Port::server();
    let handled = |requests| eventually("requests", || port.session.counters().requests.get() >= requests);
    let connect_and_send = |requests: u64| {
        let mut peer = port.connect();
        peer.write(&words(&[Req::SET_OWNER.into(), 1, 0]).repeat(requests as usize));
        peer
    };
    let start = Instant::now();
    let peer = connect_and_send(FIRST);
    handled(FIRST);
    drop(peer);
    let (more, peer) = (500, connect_and_send(BUDGET));
    handled(BUDGET + more);
    assert!(start.elapsed() >= Duration::from_millis(more), "handled within {:?}", start.elapsed());
    drop(peer);
    port.stop();
}

#[test]
fn refusals_are_answered_and_told_of_once() {
    let port = Port::server();
    let mut peer = port.connect();
    peer.hello();
    for _ in 0..10 {
        assert_eq!(peer.acknowledged(Req::SET_VRING_NUM, &words(&[0, 3]), &[]), Some(false));
        assert_eq!(peer.acknowledged(Req::SET_VRING_NUM, &words(&[77, 256]), &[]), Some(false));
    }
    eventually("all are counted", || port.session.counters().refused.get() == 20);
    assert_eq!(port.host.count(|e| matches!(e, SessionEvent::RequestRefused { .. })), 1);
    peer.run_like_qemu(VERSION_1 | PROTOCOL_FEATURES, 0);
    eventually("the connection is still good", || port.host.negotiations() == 1);
    port.stop();
}

#[test]
fn bad_memory_is_refused_and_the_old_stays() {
    let port = Port::server();
    let mut peer = port.connect();
    peer.start_like_qemu(VERSION_1 | PROTOCOL_FEATURES);
    eventually("it runs", || port.host.negotiations() == 1);
    let (a, b) = (memfd(MEMORY_BYTES), memfd(MEMORY_BYTES));
    let one = |region: [u64; 4]| table(&[region]);
    let m = MEMORY_BYTES;
    let tables = [
        ("huge", one([0, 1 << 62, 0, 0]), vec![&a]),
        ("longer than its file", one([0, 2 * m, 0, 0]), vec![&a]),
        ("an offset past its file", one([0, m, 0, m]), vec![&a]),
        ("overlapping guest addresses", table(&[[0, m, 0, 0], [m - 1, m, 2 * m, 0]]), vec![&a, &b]),
        ("overlapping frontend addresses", table(&[[0, m, 0, 0], [2 * m, m, m - 1, 0]]), vec![&a, &b]),
    ];
    for (name, body, files) in tables {
        assert_eq!(peer.acknowledged(Req::SET_MEM_TABLE, &body, &files), Some(false), "{name}");
    }
    let overlap = single([m / 2, m, FRONTEND + 4 * m, 0]);
    assert_eq!(peer.acknowledged(Req::ADD_MEM_REG, &overlap, &[&a]), Some(false));
    // A part of a region, one beside its frontend address, more than a region; only what touches no memory is as good as gone.
    for (region, gone) in [
        ([0, m / 2, FRONTEND, 0], false),
        ([0, m, FRONTEND + m, 0], false),
        ([m - 1, u64::MAX, FRONTEND, 0], false),
        ([m, m, FRONTEND + m, 0], true),
    ] {
        assert_eq!(peer.acknowledged(Req::REM_MEM_REG, &single(region), &[]), Some(gone), "{region:x?}");
    }
    assert_eq!(port.host.out(), [(0, true, true)]);
    port.stop();
}

#[test]
fn a_ring_outside_of_memory_is_not_started() {
    let port = Port::server();
    let mut peer = port.connect();
    peer.hello();
    peer.send(Req::SET_FEATURES, &longs(&[VERSION_1 | PROTOCOL_FEATURES]), &[]);
    peer.set_memory();
    peer.send(Req::SET_VRING_NUM, &words(&[0, 256]), &[]);
    for at in [0, FRONTEND - 16, FRONTEND + MEMORY_BYTES - 16, !0xf] {
        peer.send(Req::SET_VRING_ADDR, &ring_address(0, at, at, at), &[]);
        peer.send(Req::SET_VRING_KICK, &longs(&[0x100]), &[]);
        // An answer means that all before it was dealt with.
        peer.ask(Req::GET_FEATURES, &[]);
        assert_eq!(port.host.out(), [], "{at:#x}");
    }
    assert!(port.session.counters().ring_refusals.get() >= 4);
    assert_eq!(port.host.count(|e| matches!(e, SessionEvent::RingRefused { .. })), 1);
    port.stop();
}

#[test]
fn more_descriptors_than_a_message_has_room_for_do_not_hang_the_session() {
    for count in [33, 100, 253] {
        let port = Port::server();
        let mut peer = port.connect();
        let file = File::open("/dev/null").unwrap();
        let fds = vec![std::os::fd::AsRawFd::as_raw_fd(&file); count];
        let message = words(&[Req::GET_FEATURES.into(), 1, 0]);
        peer.socket.send_with_fds(&[&message[..]], &fds).unwrap();
        assert!(peer.hangs_up(), "{count} descriptors");
        port.stop();
    }
}

#[test]
fn half_a_message_is_waited_for_and_then_given_up() {
    let port = Port::server();
    let mut peer = port.connect();
    let message = words(&[Req::GET_FEATURES.into(), 1, 0]);
    // In few pieces: on a busy machine each pause can be long, and all of them together must stay far below a second.
    for piece in message.chunks(5) {
        peer.write(piece);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(peer.reply().is_some(), "a slow message is a message");
    let start = Instant::now();
    peer.write(&message[..7]);
    assert!(peer.hangs_up());
    assert!((Duration::from_millis(900)..LIMIT / 2).contains(&start.elapsed()), "{:?}", start.elapsed());
    port.check_alive();
    port.stop();
}

#[test]
fn answers_that_are_not_read_do_not_hang_the_session() {
    Port::stops_at_once(|| {
        let port = Port::server();
        let mut peer = port.connect();
        peer.socket.set_nonblocking(true).unwrap();
        let message = words(&[Req::GET_FEATURES.into(), 1, 0]);
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(300) {
            if peer.socket.write(&message).is_err() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        (port, peer)
    });
}

#[test]
fn a_flood_of_requests_is_slowed_down() {
    let port = Port::server();
    let mut peer = port.connect();
    peer.hello();
    let message = [words(&[Req::SET_VRING_NUM.into(), 1, 8]), words(&[0, 256])].concat().repeat(64);
    peer.socket.set_nonblocking(true).unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(500) {
        if peer.socket.write(&message).is_err() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let handled = port.session.counters().requests.get();
    // Some 4,000 at once, and one in a millisecond; its time began a little before.
    let most = 5000 + start.elapsed().as_millis() as u64;
    assert!((100..most).contains(&handled), "{handled} requests in {:?}", start.elapsed());
    port.stop();
}

#[test]
fn a_storm_of_kicks_is_counted_and_does_not_keep_messages_out() {
    let port = Port::server();
    let mut peer = port.connect();
    let kicks = peer.start_like_qemu(VERSION_1 | PROTOCOL_FEATURES);
    eventually("it runs", || port.host.negotiations() == 1);
    for _ in 0..20_000 {
        kick(&kicks[1]);
    }
    peer.ask(Req::GET_FEATURES, &[]);
    let counters = vm_ports::session::QueueHost::counters(&*port.host, 0);
    eventually("all are counted", || counters.kicks.get() == 20_000);
    port.stop();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Bytes of any kind, with headers that are plausible or not, then silence: the session ends the connection or waits, and
    /// stops in time either way.
    #[test]
    fn any_bytes_are_survived(
        chunks in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..80), any::<bool>()), 1..20),
    ) {
        let port = Port::server();
        let mut peer = port.connect();
        let file = event_file();
        for (request, body, plausible) in chunks {
            if plausible {
                let files = [&file];
                peer.raw(u32::from(request % 46), 1 | u32::from(request & 8), &body, &files[..usize::from(request & 1)]);
            } else {
                let _ = peer.socket.write_all(&body);
            }
        }
        port.stop();
    }
}
