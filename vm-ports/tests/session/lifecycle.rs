//! Sessions that come and go: sockets, reconnects, links, stops.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vhost::vhost_user::message::FrontendReq as Req;
use vm_ports::session::{Disconnect, PortSettings, SessionError, SessionEvent, SocketRole, spawn};

use crate::peer::*;

#[test]
fn the_next_frontend_is_served_and_may_want_something_else() {
    let port = Port::server();
    let mut first = port.connect();
    first.start_like_qemu(VERSION_1 | PROTOCOL_FEATURES);
    eventually("the first runs", || port.host.negotiations() == 1);
    let mut second = port.connect();
    second.send(Req::GET_FEATURES, &[], &[]);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(port.host.disconnects(), 0, "one frontend at a time");
    drop(first);
    assert!(second.reply().is_some());
    assert_eq!(port.host.out(), [], "the first one's rings are gone before the second one is answered");
    second.hello();
    second.run_like_qemu(VERSION_1 | RING_PACKED | PROTOCOL_FEATURES, 0x8000);
    eventually("the second runs", || port.host.negotiations() == 2);
    assert_eq!(port.session.counters().connections.get(), 2);
    port.stop();
}

#[test]
fn a_second_session_on_a_live_socket_is_an_error_and_leaves_it_alone() {
    let port = Port::server();
    let settings = PortSettings::new("other", &port.path);
    let refused = spawn(settings, Arc::new(Host::default())).map(drop);
    assert!(matches!(refused, Err(SessionError::InUse { .. })), "{refused:?}");
    port.check_alive();
    port.stop();
}

#[test]
fn a_stale_socket_is_taken_over_with_its_own_mode() {
    let dir = tempfile::tempdir().unwrap();
    let stale = dir.path().join("stale.sock");
    drop(UnixListener::bind(&stale).unwrap());
    let port = Port::with(|settings| {
        settings.socket.clone_from(&stale);
        settings.access.mode = Some(0o620);
    });
    assert_eq!(std::fs::metadata(&stale).unwrap().permissions().mode() & 0o777, 0o620);
    assert!(UnixStream::connect(&stale).is_ok());
    assert!(port.session.stop(Instant::now() + LIMIT));
    assert!(!stale.exists());
}

#[test]
fn settings_out_of_range_are_errors() {
    for asked in [0, PortSettings::MAX_QUEUE_PAIRS + 1] {
        let mut settings = PortSettings::new("p", "/tmp/never-made");
        settings.queue_pairs = asked;
        let refused = spawn(settings, Arc::new(Host::default())).map(drop);
        assert!(matches!(refused, Err(SessionError::QueuePairs { .. })));
    }
    let mut settings = PortSettings::new("p", "/".repeat(200));
    settings.role = SocketRole::Client;
    let refused = spawn(settings, Arc::new(Host::default())).map(drop);
    assert!(matches!(refused, Err(SessionError::PathTooLong { .. })));
}

#[test]
fn client_mode_connects_retries_quietly_and_connects_again() {
    let port = Port::with(|settings| settings.role = SocketRole::Client);
    std::thread::sleep(Duration::from_millis(350));
    let (listener, mut peer) = Peer::accept(&port.path);
    assert_eq!(port.host.count(|e| matches!(e, SessionEvent::ConnectFailed { .. })), 1, "told once");
    peer.start_like_qemu(VERSION_1 | PROTOCOL_FEATURES);
    eventually("it runs", || port.host.negotiations() == 1);
    drop(peer);
    let mut again = Peer::new(listener.accept().unwrap().0);
    again.start_like_qemu(VERSION_1 | RING_PACKED | PROTOCOL_FEATURES);
    eventually("it runs again", || port.host.negotiations() == 2);
    assert!(port.session.stop(Instant::now() + LIMIT));
    assert!(port.path.exists(), "the frontend's socket is not ours to remove");
}

#[test]
fn a_session_that_hangs_is_out_of_the_way_at_the_deadline() {
    let port = Port::server();
    let mut peer = port.connect();
    peer.start_like_qemu(VERSION_1 | PROTOCOL_FEATURES);
    eventually("it runs", || port.host.negotiations() == 1);
    let gate = port.host.gate.lock().unwrap();
    assert!(!port.session.stop(Instant::now() + Duration::from_millis(50)), "it cannot have ended");
    assert!(peer.hangs_up(), "its frontend is told");
    assert!(UnixStream::connect(&port.path).is_err() && !port.path.exists());
    // The next one, where it was, and what the first does to it in the end.
    let next = spawn(PortSettings::new("next", &port.path), Arc::new(Host::default())).unwrap();
    drop(gate);
    assert!(port.session.stop(Instant::now() + LIMIT));
    drop(port.session);
    assert!(UnixStream::connect(&port.path).is_ok());
    assert!(next.stop(Instant::now() + LIMIT));
}

#[test]
fn client_mode_stops_at_once_while_it_waits() {
    Port::stops_at_once(|| {
        let port = Port::with(|settings| settings.role = SocketRole::Client);
        // Long enough for the longest pause between attempts.
        std::thread::sleep(Duration::from_millis(1000));
        (port, ())
    });
}

#[test]
fn link_down_closes_the_connection_and_turns_others_away_until_it_is_up() {
    let port = Port::server();
    let mut peer = port.connect();
    peer.start_like_qemu(VERSION_1 | PROTOCOL_FEATURES);
    eventually("it runs", || port.host.negotiations() == 1);
    port.session.set_link(false);
    assert!(peer.hangs_up());
    eventually("it is told", || port.host.disconnects() == 1);
    assert_eq!(port.host.out(), []);
    let reason = port.host.events().into_iter().find_map(|event| match event {
        SessionEvent::Disconnected { reason, .. } => Some(reason),
        _ => None,
    });
    assert_eq!(reason, Some(Disconnect::LinkDown));
    assert!(port.connect().hangs_up());
    assert_eq!(port.host.disconnects(), 1, "one that is turned away is no session");
    port.session.set_link(true);
    port.check_alive();
    port.stop();
}

#[test]
fn stop_is_prompt_with_a_silent_peer_and_with_half_a_message() {
    let connected = |port: &Port| eventually("it is connected", || port.session.counters().connections.get() == 1);
    Port::stops_at_once(|| (Port::server(), ()));
    Port::stops_at_once(|| {
        let port = Port::server();
        let silent = port.connect();
        connected(&port);
        (port, silent)
    });
    Port::stops_at_once(|| {
        let port = Port::server();
        let mut half = port.connect();
        half.write(&words(&[1, 1]));
        connected(&port);
        std::thread::sleep(Duration::from_millis(20));
        (port, half)
    });
    Port::stops_at_once(|| {
        let port = Port::server();
        let mut peer = port.connect();
        peer.start_like_qemu(VERSION_1 | PROTOCOL_FEATURES);
        eventually("it runs", || port.host.negotiations() == 1);
        (port, peer)
    });
}

#[test]
fn a_session_that_stops_hangs_up() {
    let port = Port::server();
    let mut peer = port.connect();
    peer.start_like_qemu(VERSION_1 | PROTOCOL_FEATURES);
    eventually("it runs", || port.host.negotiations() == 1);
    port.stop();
    assert!(peer.hangs_up());
}

#[test]
fn a_dropped_handle_stops_the_session() {
    let Port { host, session, path, dir } = Port::server();
    drop(session);
    eventually("its socket is gone", || !path.exists());
    drop((host, dir));
}
