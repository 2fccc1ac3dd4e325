//! Frontends whose eventfds are none, or block whoever writes to them.

use std::fs::File;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fs::OFlags;
use synthetic_guest::packet::{FrameSpec, Template, mac};
use synthetic_guest::{CallMode, Error, Features, Frame, Guest};
use vhost::vhost_user::message::FrontendReq;

use crate::stage::{EVE, MALLORY, PortState, QUEUE_PAIRS, Stage, text};

/// What hangs in one session must not keep a port from being removed and made anew: that takes less than this, and what hangs more.
const REMOVAL: Duration = Duration::from_secs(10);

/// The largest number an eventfd's counter holds: one more call would have to wait.
const FULL: u64 = u64::MAX - 1;

fn refused(result: Result<(), Error>) -> Result<()> {
    ensure!(matches!(result, Err(Error::Refused { .. } | Error::Disconnected)), "not refused: {result:?}");
    Ok(())
}

#[test]
fn descriptors_that_are_no_eventfds() {
    let mut stage = Stage::start().unwrap();
    let (read, write) = rustix::pipe::pipe().unwrap();
    rustix::fs::fcntl_setfl(&write, OFlags::NONBLOCK).unwrap();
    let full = || while rustix::io::write(&write, &[0; 4096]).is_ok() {};
    full();
    rustix::fs::fcntl_setfl(&write, OFlags::empty()).unwrap();
    let (stream, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    let timer =
        rustix::time::timerfd_create(rustix::time::TimerfdClockId::Monotonic, rustix::time::TimerfdFlags::empty());
    let cases: [(&str, OwnedFd); 6] = [
        ("a full pipe", write),
        ("the other end of a pipe", read),
        ("a socket", stream.into()),
        ("a file", File::open("/etc/hostname").unwrap().into()),
        ("/dev/zero", File::open("/dev/zero").unwrap().into()),
        ("a timer", timer.unwrap()),
    ];
    for (name, fd) in cases {
        for (what, request) in [("kick", FrontendReq::SET_VRING_KICK), ("call", FrontendReq::SET_VRING_CALL)] {
            let attack = |stage: &mut Stage| {
                let guest = stage.mallory(|_| ())?;
                refused(guest.session().set_notifier(request, 0, Some(fd.as_fd())))
            };
            stage.attack(&format!("{name} as {what}"), attack).unwrap();
        }
    }
    stage.finish().unwrap();
}

/// A guest that wants to be called for every packet.
fn called(stage: &Stage) -> Result<Guest> {
    stage.mallory(|config| config.calls = CallMode::Always)
}

/// Makes the next call wait: as much in the counter as it holds, and no O_NONBLOCK, which belongs to all who share it.
fn block(fd: BorrowedFd<'_>) -> Result<()> {
    let _ = rustix::io::read(fd, &mut [0; 8]);
    let _ = rustix::io::write(fd, &FULL.to_ne_bytes());
    let flags = rustix::fs::fcntl_getfl(fd)?;
    rustix::fs::fcntl_setfl(fd, flags - OFlags::NONBLOCK)?;
    Ok(())
}

#[test]
fn eventfds_that_are_full_or_were_blocking() {
    let mut stage = Stage::start().unwrap();
    let attack = |stage: &mut Stage| -> Result<()> {
        let mut guest = called(stage)?;
        let event = eventfd(0, EventfdFlags::empty())?;
        rustix::io::write(&event, &FULL.to_ne_bytes())?;
        guest.session().set_notifier(FrontendReq::SET_VRING_CALL, 0, Some(event.as_fd()))?;
        guest.session().set_notifier(FrontendReq::SET_VRING_KICK, 0, Some(event.as_fd()))?;
        guest.session().set_notifier(FrontendReq::SET_VRING_KICK, 1, Some(event.as_fd()))?;
        stage.exchange_with(&mut guest)
    };
    stage.attack("one full blocking eventfd as every call and kick", attack).unwrap();
    let attack = |stage: &mut Stage| -> Result<()> {
        let guest = called(stage)?;
        let event = eventfd(0, EventfdFlags::SEMAPHORE)?;
        rustix::io::write(&event, &FULL.to_ne_bytes())?;
        guest.session().set_notifier(FrontendReq::SET_VRING_KICK, 1, Some(event.as_fd()))?;
        std::thread::sleep(Duration::from_millis(500));
        Ok(())
    };
    stage.attack("a kick eventfd that never ends", attack).unwrap();
    stage.finish().unwrap();
}

/// Sets a call eventfd that blocks, on a ring that calls, and returns it.
fn set_blocking(guest: &Guest, ring: u32) -> Result<OwnedFd> {
    let event = eventfd(0, EventfdFlags::NONBLOCK)?;
    guest.session().set_notifier(FrontendReq::SET_VRING_CALL, ring, Some(event.as_fd()))?;
    block(event.as_fd())?;
    Ok(event)
}

/// Removes the attacker's port and adds it again.
fn add_mallory_again(stage: &Stage) -> Result<()> {
    stage.switch.must(&["guest", "remove", "mallory"])?;
    let socket = stage.config.socket("mallory");
    ensure!(!socket.exists(), "the socket is still there");
    let (socket, mac) = (socket.display().to_string(), text(mac(MALLORY)));
    stage.switch.must(&["guest", "add", "mallory", "--socket", &socket, "--queue-pairs", "8", "--mac", &mac])?;
    Ok(())
}

#[test]
fn a_call_eventfd_that_is_made_to_block_does_not_hold_up_its_core() {
    let mut stage = Stage::start().unwrap();
    for ring in 0..2 {
        let attack = |stage: &mut Stage| -> Result<()> {
            let mut guest = called(stage)?;
            let before = stage.port("mallory")?;
            let call = set_blocking(&guest, ring)?;
            if ring == 0 {
                stage.eve_sends(32, 60)?;
            } else {
                let template = Template::new(FrameSpec::udp4(MALLORY, EVE, 997, 60));
                guest.pair(0).tx.send_burst(&[Frame::from(template.bytes())]);
            }
            stage.faulted(&before, "call_blocked")?;
            drop(call);
            // Once was enough: there are no more calls until the port is made anew.
            let another = eventfd(0, EventfdFlags::NONBLOCK)?;
            refused(guest.session().set_notifier(FrontendReq::SET_VRING_CALL, 3, Some(another.as_fd())))?;
            guest.disconnect();
            drop(guest);
            stage.wait_state("mallory", "waiting")?;
            add_mallory_again(stage)
        };
        stage.attack(&format!("a call that blocks, ring {ring}"), attack).unwrap();
    }
    stage.finish().unwrap();
}

/// Has so many wait for an eventfd that a write to it, which tells each of them, takes milliseconds.
fn crowd(event: &OwnedFd) -> Result<(Vec<OwnedFd>, Vec<OwnedFd>)> {
    let copies: Vec<OwnedFd> = (0..500).map(|_| event.try_clone()).collect::<Result<_, _>>()?;
    let epolls = (0..200).map(|_| {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for copy in &copies {
            epoll::add(&epoll, copy, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        }
        Ok(epoll)
    });
    let epolls = epolls.collect::<Result<_>>()?;
    Ok((copies, epolls))
}

#[test]
fn a_call_eventfd_that_wakes_a_crowd_is_given_up() {
    let mut stage = Stage::start().unwrap();
    let attack = |stage: &mut Stage| -> Result<()> {
        let guest = called(stage)?;
        let before = stage.port("mallory")?;
        let event = eventfd(0, EventfdFlags::NONBLOCK)?;
        guest.session().set_notifier(FrontendReq::SET_VRING_CALL, 0, Some(event.as_fd()))?;
        let crowd = crowd(&event)?;
        for _ in 0..8 {
            stage.eve_sends(4, 60)?;
            std::thread::sleep(Duration::from_millis(20));
        }
        stage.faulted(&before, "call_blocked")?;
        drop(crowd);
        refused(guest.session().set_notifier(FrontendReq::SET_VRING_CALL, 0, Some(event.as_fd())))?;
        guest.disconnect();
        drop(guest);
        stage.wait_state("mallory", "waiting")?;
        add_mallory_again(stage)
    };
    stage.attack("a call that wakes a crowd", attack).unwrap();
    stage.finish().unwrap();
}

#[test]
fn all_calls_of_a_guest_that_block_at_once() {
    let mut stage = Stage::start().unwrap();
    let attack = |stage: &mut Stage| -> Result<()> {
        let mut guest = stage.mallory(|config| {
            config.calls = CallMode::Always;
            config.session.features = Features::VERSION_1 | Features::MQ;
            config.queue_pairs = QUEUE_PAIRS;
            config.ram.region_size = 64 << 20;
        })?;
        let before = stage.port("mallory")?;
        // A call that blocks while it is set holds up the session alone: those come first to be set, and last to block.
        let rings = 0..2 * QUEUE_PAIRS as u32;
        let events: Vec<OwnedFd> = rings.map(|_| eventfd(0, EventfdFlags::NONBLOCK)).collect::<Result<_, _>>()?;
        for (ring, event) in events.iter().enumerate() {
            guest.session().set_notifier(FrontendReq::SET_VRING_CALL, ring as u32, Some(event.as_fd()))?;
        }
        events.iter().try_for_each(|event| block(event.as_fd()))?;
        let template = Template::new(FrameSpec::udp4(MALLORY, EVE, 997, 60));
        for pair in guest.pairs() {
            pair.tx.send_burst(&[Frame::from(template.bytes()); 8]);
        }
        let stopped = |port: &PortState| port.faults_of("call_blocked") - before.faults_of("call_blocked");
        stage.wait_for("mallory", "a transmit ring stopped", |port| stopped(port) > 0)?;
        // The first says all: no other ring is called, nor does it hold its core up. Each would do so for 20 ms at least.
        std::thread::sleep(Duration::from_millis(40 * QUEUE_PAIRS as u64));
        let stopped = stopped(&stage.port("mallory")?);
        ensure!(stopped == 1, "{stopped} rings of one core were called");
        guest.disconnect();
        drop(guest);
        stage.wait_state("mallory", "waiting")?;
        add_mallory_again(stage)
    };
    stage.attack("sixteen calls that block", attack).unwrap();
    stage.finish().unwrap();
}

#[test]
fn a_session_that_is_made_to_wait_can_be_ended() {
    let mut stage = Stage::start().unwrap();
    let attack = |stage: &mut Stage| -> Result<()> {
        // A socket whose last close waits for a peer that reads nothing, as kick eventfd: the switch is the last to close it.
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let socket = TcpStream::connect(listener.local_addr()?)?;
        let _peer = listener.accept()?;
        rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::from_secs(20)))?;
        socket.set_nonblocking(true)?;
        while (&socket).write(&[0; 65_536]).is_ok() {}
        socket.set_nonblocking(false)?;
        let mut kick: Vec<u8> = Vec::new();
        [FrontendReq::SET_VRING_KICK as u32, 1, 8].iter().for_each(|word| kick.extend(word.to_ne_bytes()));
        kick.extend([0; 8]);
        let channel = stage.channel()?;
        channel.send_bytes(&kick[..12], &[socket.as_fd()])?;
        // The message is not complete, so its descriptor still is where it was sent.
        drop(socket);
        channel.send_bytes(&kick[12..], &[])?;
        std::thread::sleep(Duration::from_millis(200));
        let start = Instant::now();
        add_mallory_again(stage)?;
        ensure!(start.elapsed() < REMOVAL, "the removal took {:?}", start.elapsed());
        Ok(())
    };
    stage.attack("a descriptor whose close takes long", attack).unwrap();
    let attack = |stage: &mut Stage| -> Result<()> {
        // The switch signals a call eventfd when it gets it: here it blocks from the start, as soon as that was checked.
        let guest = called(stage)?;
        let event = eventfd(0, EventfdFlags::NONBLOCK)?;
        rustix::io::write(&event, &FULL.to_ne_bytes())?;
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| -> Result<()> {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let _ = rustix::fs::fcntl_setfl(&event, OFlags::empty());
                }
            });
            let body = 0u64.to_ne_bytes();
            for _ in 0..200 {
                // No answer is awaited: there may be none.
                let set = FrontendReq::SET_VRING_CALL as u32;
                if guest.session().channel().send(set, 0, &body, &[event.as_fd()]).is_err() {
                    break;
                }
            }
            std::thread::sleep(Duration::from_millis(200));
            let start = Instant::now();
            let added = add_mallory_again(stage);
            stop.store(true, Ordering::Relaxed);
            added?;
            ensure!(start.elapsed() < REMOVAL, "the removal took {:?}", start.elapsed());
            Ok(())
        })
    };
    stage.attack("a call that blocks while it is set", attack).unwrap();
    stage.finish().unwrap();
}
