//! Frontends with too much of everything.

use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sidecore_tests::rules;
use synthetic_guest::Guest;
use vhost::vhost_user::message::FrontendReq;

use crate::stage::{Stage, plain};

fn scale(count: usize) -> usize {
    if rules::full() { count * 10 } else { count }
}

#[test]
fn storms_of_messages() {
    let mut stage = Stage::start().unwrap();
    let attack = |stage: &mut Stage| -> Result<()> {
        let guest = stage.mallory(|_| ())?;
        let session = guest.session();
        let end = Instant::now() + Duration::from_secs(scale(2) as u64);
        let mut count = 0;
        while Instant::now() < end {
            // Each of these takes the queue pair from its core.
            session.enable(0, count % 2 == 0)?;
            session.set_notifier(FrontendReq::SET_VRING_CALL, 0, None)?;
            session.channel().ask_u64(FrontendReq::GET_FEATURES)?;
            count += 3;
        }
        println!("{count} messages");
        Ok(())
    };
    stage.attack("a storm of changes", attack).unwrap();
    let attack = |stage: &mut Stage| -> Result<()> {
        let guest = stage.mallory(|_| ())?;
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK)?;
        for _ in 0..scale(3000) {
            guest.session().set_notifier(FrontendReq::SET_VRING_KICK, 1, Some(event.as_fd()))?;
        }
        Ok(())
    };
    stage.attack("a ring that is started again and again", attack).unwrap();
    let attack = |stage: &mut Stage| -> Result<()> {
        let mut guest = stage.mallory(|_| ())?;
        let end = Instant::now() + Duration::from_secs(1);
        while Instant::now() < end {
            guest.pair(0).tx.bell().kick(1 << 40);
        }
        Ok(())
    };
    stage.attack("a storm of kicks", attack).unwrap();
    stage.finish().unwrap();
}

#[test]
fn storms_of_connections() {
    let mut stage = Stage::start().unwrap();
    let attack = |stage: &mut Stage| -> Result<()> {
        let socket = stage.config.socket("mallory");
        for _ in 0..scale(500) {
            // A full backlog is an answer, too.
            let _ = connect(&socket);
        }
        Ok(())
    };
    stage.attack("connections that are closed at once", attack).unwrap();
    let attack = |stage: &mut Stage| -> Result<()> {
        let socket = stage.config.socket("mallory");
        let open: Vec<UnixStream> = (0..100).filter_map(|_| connect(&socket).ok()).collect();
        ensure!(open.len() > 50, "only {} connections", open.len());
        std::thread::sleep(Duration::from_millis(500));
        Ok(())
    };
    stage.attack("a hundred connections at once", attack).unwrap();
    let attack = |stage: &mut Stage| -> Result<()> {
        for _ in 0..scale(30) {
            let guest = Guest::start(plain(&stage.config, "mallory"))?;
            guest.disconnect();
        }
        Ok(())
    };
    stage.attack("guests that come and go", attack).unwrap();
    stage.finish().unwrap();
}

/// Connects without waiting for room in the backlog.
fn connect(path: &std::path::Path) -> Result<UnixStream> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

#[test]
fn a_second_connection_waits_for_its_turn_and_disturbs_nobody() {
    let mut stage = Stage::start().unwrap();
    let attack = |stage: &mut Stage| -> Result<()> {
        let mut first = stage.mallory(|_| ())?;
        let second = stage.channel()?;
        second.send(FrontendReq::GET_FEATURES as u32, 0, &[], &[])?;
        stage.exchange_with(&mut first)?;
        ensure!(stage.port("mallory")?.connections > 0);
        let before = stage.port("mallory")?.connections;
        first.disconnect();
        stage.wait_for("mallory", "the second connection", |port| port.connections > before)?;
        let answer = second.receive()?;
        ensure!(answer.request == FrontendReq::GET_FEATURES as u32, "{answer:?}");
        drop(second);
        stage.wait_state("mallory", "waiting").map(drop)
    };
    stage.attack("a second connection", attack).unwrap();
    stage.finish().unwrap();
}
