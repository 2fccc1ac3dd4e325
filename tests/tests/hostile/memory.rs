//! A guest that takes its memory away, one that dies, and one that sends from every address there is.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sidecore_tests::circuit::Circuit;
use sidecore_tests::process::eventually;
use sidecore_tests::testpmd::{Testpmd, TestpmdOptions};
use synthetic_guest::packet::{FrameSpec, Template, mac};
use synthetic_guest::{Base, Features, Frame, Guest};

use crate::floods::Dice;
use crate::stage::{EVE, LEFT, MALLORY, SOON, Stage, text};

/// Sends full frames to the accomplice, as many as there is room for.
fn send(guest: &mut Guest, template: &Template) -> usize {
    guest.pair(0).tx.send_burst(&[Frame::from(template.bytes()); 32])
}

fn to_eve() -> Template {
    Template::new(FrameSpec::udp4(MALLORY, EVE, 998, 1500))
}

#[test]
fn a_guest_that_truncates_its_memory_stops_its_own_port() {
    let mut stage = Stage::start().unwrap();
    for (format, features) in [("split", Features::NONE), ("packed", Features::RING_PACKED)] {
        for (what, keep) in [("buffers", 64 << 10), ("everything", 0)] {
            let attack = |stage: &mut Stage| -> Result<()> {
                let mut guest = stage.mallory(|config| config.session.features = Features::VERSION_1 | features)?;
                let before = stage.port("mallory")?;
                let template = to_eve();
                // In the middle of a stream.
                let start = Instant::now();
                while start.elapsed() < Duration::from_millis(50) {
                    send(&mut guest, &template);
                }
                guest.ram().truncate(0, keep)?;
                eventually("a fault", SOON, || {
                    // Behind the end, what is sent and received here is in memory of our own.
                    send(&mut guest, &template);
                    stage.eve_sends(32, 500)?;
                    Ok((stage.port("mallory")?.faults_of("memory_lost") > before.faults_of("memory_lost"))
                        .then_some(()))
                })?;
                let port = stage.wait_state("mallory", "stopped")?;
                ensure!(port.error.contains("memory"), "{port:?}");
                Ok(())
            };
            stage.attack(&format!("{format}: truncation of {what}"), attack).unwrap();
        }
    }
    stage.finish().unwrap();
}

#[test]
fn memory_that_is_gone_before_its_rings_start() {
    let mut stage = Stage::start().unwrap();
    let attack = |stage: &mut Stage| -> Result<()> {
        let mut config = crate::stage::plain(&stage.config, "mallory");
        config.ram.regions = 2;
        let mut guest = Guest::negotiate(config)?;
        guest.session().set_features()?;
        guest.session().set_memory(guest.ram())?;
        guest.ram().truncate(0, 0)?;
        // The session itself writes the first bytes of a ring.
        guest.start_pair(0, [0, 0])?;
        guest.enable_all(true)?;
        stage.eve_sends(32, 60)?;
        // New memory on the same connection would do; this one has none, so it goes.
        guest.disconnect();
        ensure!(guest.stop().is_err());
        Ok(())
    };
    stage.attack("memory gone before the start", attack).unwrap();
    stage.finish().unwrap();
}

#[test]
fn guests_that_disappear_in_the_middle_of_a_burst() {
    let mut stage = Stage::start().unwrap();
    let attack = |stage: &mut Stage| -> Result<()> {
        for round in 0..20 {
            let mut guest = stage.mallory(|_| ())?;
            let template = to_eve();
            let until = Instant::now() + Duration::from_millis(round);
            while Instant::now() < until {
                send(&mut guest, &template);
            }
            send(&mut guest, &template);
            guest.disconnect();
            // Its memory goes with it.
            drop(guest);
            stage.wait_state("mallory", "waiting")?;
        }
        Ok(())
    };
    stage.attack("sockets closed in mid-burst", attack).unwrap();
    stage.finish().unwrap();
}

#[test]
fn a_guest_process_that_is_killed_in_the_middle_of_a_burst() {
    let mut stage = Stage::start().unwrap();
    let attack = |stage: &mut Stage| -> Result<()> {
        for ring in ["", "packed_vq=1"] {
            let before = stage.port("mallory")?;
            let device = Circuit::device(0, &stage.config.socket("mallory"), ring);
            let options = TestpmdOptions::new(&[&device]).with(&[
                "--forward-mode=txonly",
                "--auto-start",
                &format!("--eth-peer=0,{}", text(mac(EVE))),
            ]);
            let mut testpmd = Testpmd::start("victim", &options)?;
            let sends = |port: &crate::stage::PortState| port.tx > before.tx + 10_000;
            eventually("packets of testpmd", SOON * 2, || Ok(Some(stage.port("mallory")?).filter(sends)))?;
            testpmd.process().kill()?;
            stage.wait_state("mallory", "waiting")?;
        }
        Ok(())
    };
    stage.attack("SIGKILL in mid-burst", attack).unwrap();
    stage.finish().unwrap();
}

/// Stations behind a port.
fn stations(stage: &Stage, port: &str) -> Result<Vec<String>> {
    let answer = stage.ask(&json!({"command": "fdb_show"}))?;
    let stations = answer["ok"]["fdb"].as_array().context("no stations")?.clone();
    let behind = stations.iter().filter(|station| station["port"] == port);
    Ok(behind.map(|station| station["mac"].as_str().unwrap_or_default().to_owned()).collect())
}

#[test]
fn random_source_addresses_fill_no_more_than_their_share_of_the_mac_table() {
    let mut stage = Stage::start_with(|config| config.key("fdb_entries = 1024")).unwrap();
    let attack = |stage: &mut Stage| -> Result<()> {
        ensure!(stations(stage, "left")? == [text(mac(LEFT))], "{:?}", stations(stage, "left"));
        let mut guest = stage.mallory(|_| ())?;
        let mut frame = Template::new(FrameSpec::udp4(MALLORY, EVE, 998, 60)).bytes().to_vec();
        let mut dice = Dice(4711);
        let mut sent = 0;
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end {
            // Good addresses, multicast ones, zero, and, again and again, a neighbour's.
            let mut source = dice.roll().to_le_bytes();
            if source[7] & 7 == 0 {
                source[..6].copy_from_slice(&mac(LEFT));
            }
            frame[6..12].copy_from_slice(&source[..6]);
            sent += guest.pair(0).tx.send_burst(&[Frame::from(frame.as_slice())]);
            stage.eve().pair(0).rx.recv_burst(64, |_| ());
        }
        println!("{sent} addresses");
        ensure!(sent > 2000, "{sent} packets are no attack");
        ensure!(stations(stage, "left")? == [text(mac(LEFT))], "{:?}", stations(stage, "left"));
        let learnt = stations(stage, "mallory")?.len();
        // A hundred learnt ones and the configured one.
        ensure!((2..=101).contains(&learnt), "{learnt} stations behind the attacker");
        let refusals = &stage.status()?["cores"][0]["learn_refusals"];
        for reason in ["port_limit", "owned_by_guest"] {
            ensure!(refusals[reason].as_u64().unwrap_or_default() > 0, "no {reason} in {refusals}");
        }
        ensure!(stage.port("mallory")?.drops_of("bad_source") > 0, "addresses of groups were taken");
        Ok(())
    };
    stage.attack("random source addresses", attack).unwrap();
    stage.finish().unwrap();
}

#[test]
fn rings_that_start_and_memory_that_changes_under_traffic() {
    let mut stage = Stage::start_with(|config| config.io_cores(2)).unwrap();
    let rounds = if sidecore_tests::rules::full() { 2000 } else { 200 };
    let attack = |stage: &mut Stage| -> Result<()> {
        let mut guest = stage.mallory(|config| config.ram.regions = 3)?;
        for round in 0..rounds {
            stage.eve_sends(32, 200)?;
            match round % 4 {
                0 => guest.session().set_memory(guest.ram())?,
                1 => {
                    guest.stop()?;
                    guest.start_rings(Base::Fresh)?;
                }
                2 => {
                    guest.enable_all(false)?;
                    guest.enable_all(true)?;
                }
                _ => {
                    // A region with buffers goes and comes back.
                    guest.session().remove_region(&guest.ram().regions()[1])?;
                    guest.session().add_region(&guest.ram().regions()[1])?;
                }
            }
            send(&mut guest, &to_eve());
            guest.pair(0).rx.recv_burst(usize::MAX, |_| ());
            stage.eve().pair(0).rx.recv_burst(usize::MAX, |_| ());
        }
        // Whatever became of packets that met no memory, a driver that starts anew is served.
        guest.stop()?;
        guest.start_rings(Base::Fresh)?;
        stage.exchange_with(&mut guest)
    };
    stage.attack("rings and memory that change", attack).unwrap();
    stage.finish().unwrap();
}
