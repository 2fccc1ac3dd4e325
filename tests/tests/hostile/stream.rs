//! Frontends that send what is no message.

use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sidecore_tests::rules;
use synthetic_guest::Channel;
use vhost::vhost_user::message::FrontendReq;

use crate::floods::Dice;
use crate::stage::{SOON, Stage};

/// The switch lets go of a frontend that makes no sense after a message that is half there has stayed so for a second.
const LET_GO: Duration = Duration::from_secs(4);

fn header(request: u32, flags: u32, size: u32) -> Vec<u8> {
    [request, flags, size].into_iter().flat_map(u32::to_ne_bytes).collect()
}

fn closed(channel: &Channel) -> Result<()> {
    ensure!(channel.wait_closed(SOON), "the connection is still there");
    Ok(())
}

/// Connects, sends these bytes and waits for the end.
fn rejected(stage: &Stage, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    let channel = stage.channel()?;
    // The switch may close it before all of it is sent.
    let _ = channel.send_bytes(bytes, fds);
    closed(&channel)
}

#[test]
fn bytes_that_are_no_messages() {
    let mut stage = Stage::start().unwrap();
    let features = FrontendReq::GET_FEATURES as u32;
    let table = FrontendReq::SET_MEM_TABLE as u32;
    let cases: [(&str, Vec<u8>); 9] = [
        ("request 0", header(0, 1, 0)),
        ("an unknown request", header(4711, 1, 0)),
        ("version 0", header(features, 0, 0)),
        ("version 3", header(features, 3, 0)),
        ("an answer", header(features, 5, 0)),
        ("a size of four gigabytes", header(table, 1, u32::MAX)),
        ("a size one too large", header(table, 1, 4097)),
        ("a body where there is none", [header(features, 1, 8), vec![0; 8]].concat()),
        ("a body too short", [header(FrontendReq::SET_FEATURES as u32, 1, 4), vec![0; 4]].concat()),
    ];
    for (name, bytes) in cases {
        stage.attack(name, |stage| rejected(stage, &bytes, &[])).unwrap();
    }
    let attack = |stage: &mut Stage| -> Result<()> {
        let mut dice = Dice(0xbad_5eed);
        for round in 0..if rules::full() { 500 } else { 12 } {
            let len = dice.roll() as usize % 3000 + 1;
            let mut bytes: Vec<u8> = (0..len).map(|_| dice.roll() as u8).collect();
            if round % 2 == 0 {
                // Further in than the first look: a request that exists, of a size that is there.
                let request = dice.roll() as u32 % 45;
                bytes.splice(..12.min(len), header(request, 1, len as u32 % 300));
            }
            let channel = stage.channel()?;
            let _ = channel.send_bytes(&bytes, &[]);
            // Some of it may be half a message, some even a good one: closing it is up to us then.
            channel.wait_closed(Duration::from_millis(300));
        }
        Ok(())
    };
    stage.attack("random bytes", attack).unwrap();
    stage.finish().unwrap();
}

#[test]
fn half_messages_are_not_waited_for() {
    let mut stage = Stage::start().unwrap();
    let table = FrontendReq::SET_MEM_TABLE as u32;
    for (name, bytes) in [
        ("one byte", vec![1]),
        ("half a header", header(1, 1, 0)[..6].to_vec()),
        ("a header without its body", header(table, 1, 72)),
        ("half a body", [header(table, 1, 72), vec![0; 71]].concat()),
    ] {
        let attack = |stage: &mut Stage| -> Result<()> {
            let start = Instant::now();
            rejected(stage, &bytes, &[])?;
            ensure!(start.elapsed() > Duration::from_millis(500), "patience of {:?}", start.elapsed());
            Ok(())
        };
        stage.attack(&format!("held for ever: {name}"), attack).unwrap();
    }
    let attack = |stage: &mut Stage| -> Result<()> {
        // Answers that nobody reads.
        let mut stream = UnixStream::connect(stage.config.socket("mallory"))?;
        stream.set_write_timeout(Some(LET_GO))?;
        let messages = header(FrontendReq::GET_FEATURES as u32, 1, 0).repeat(1000);
        while stream.write_all(&messages).is_ok() {}
        stream.set_read_timeout(Some(LET_GO))?;
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        ensure!(ended.is_ok() || ended.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset));
        Ok(())
    };
    stage.attack("answers that are not read", attack).unwrap();
    stage.finish().unwrap();
}

#[test]
fn wrong_numbers_of_descriptors() {
    let mut stage = Stage::start().unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let fds = vec![null.as_fd(); 32];
    let kick = [header(FrontendReq::SET_VRING_KICK as u32, 1, 8), vec![0; 8]].concat();
    let table = [header(FrontendReq::SET_MEM_TABLE as u32, 1, 40), 1u64.to_ne_bytes().to_vec(), vec![0; 32]].concat();
    for (name, bytes, count) in [
        ("a kick with two", &kick, 2),
        ("a kick without any", &kick, 0),
        ("a kick with thirty-two", &kick, 32),
        ("a table without any", &table, 0),
        ("a table with two", &table, 2),
        ("a question with one", &header(FrontendReq::GET_FEATURES as u32, 1, 0), 1),
    ] {
        let attack = |stage: &mut Stage| -> Result<()> {
            let channel = stage.channel()?;
            channel.send_bytes(bytes, &fds[..count])?;
            // Superfluous ones may be ignored and closed; the connection may then live on.
            channel.wait_closed(Duration::from_millis(200));
            Ok(())
        };
        stage.attack(&format!("descriptors: {name}"), attack).unwrap();
    }
    let attack = |stage: &mut Stage| -> Result<()> {
        // Each byte of a message brings thirty-two.
        let channel = stage.channel()?;
        for byte in &kick {
            if channel.send_bytes(&[*byte], &fds).is_err() {
                break;
            }
        }
        closed(&channel)
    };
    stage.attack("hundreds of descriptors in one message", attack).unwrap();
    let attack = |stage: &mut Stage| -> Result<()> {
        // The header without, the body with as many as the system lets through.
        let stream = UnixStream::connect(stage.config.socket("mallory"))?;
        let (head, body) = kick.split_at(12);
        (&stream).write_all(head)?;
        send_with(&stream, body, &vec![null.as_fd(); 250])?;
        let channel = Channel::new(stream, Duration::from_secs(1))?;
        channel.wait_closed(LET_GO);
        Ok(())
    };
    stage.attack("hundreds of descriptors with the body", attack).unwrap();
    stage.finish().unwrap();
}

/// Sends bytes with more descriptors than the library's channel takes.
fn send_with(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
    let mut space = vec![std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    ensure!(control.push(SendAncillaryMessage::ScmRights(fds)), "too many descriptors");
    rustix::net::sendmsg(stream, &[std::io::IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}
