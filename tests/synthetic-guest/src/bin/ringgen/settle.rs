//! Before anything is counted: every guest says where it is, and the switch shows that it has understood.
//!
//! A learning switch floods what it does not know. So each guest broadcasts a frame from each of its addresses; then
//! every sender sends to each address of each of its receivers, round after round, until a round arrives where it should
//! and nowhere else.

use std::time::{Duration, Instant};

use synthetic_guest::{Offload, QueuePair, Received};

use crate::error::Error;
use crate::node::Node;
use crate::plan::{Plan, mac};

/// Length of the frames.
const LEN: usize = 60;
/// An ethertype for local experiments.
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
const MAGIC: [u8; 4] = *b"ring";
const BROADCAST: [u8; 6] = [0xff; 6];
/// What a round waits for the last of its frames, and what makes sure that nothing is under way any more.
const PAUSE: Duration = Duration::from_millis(20);

/// Whether these are the first bytes of one of the frames sent here: other generators at the switch send them too.
pub(crate) fn is_probe(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&ETHERTYPE) && frame.get(14..18) == Some(&MAGIC)
}

/// A frame of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Probe {
    round: u32,
    /// Place in the list of probes, or [`ANNOUNCEMENT`].
    number: u32,
}

const ANNOUNCEMENT: u32 = u32::MAX;

impl Probe {
    fn to_bytes(self, from: [u8; 6], to: [u8; 6]) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[..6].copy_from_slice(&to);
        bytes[6..12].copy_from_slice(&from);
        bytes[12..14].copy_from_slice(&ETHERTYPE);
        bytes[14..18].copy_from_slice(&MAGIC);
        bytes[18..22].copy_from_slice(&self.round.to_le_bytes());
        bytes[22..26].copy_from_slice(&self.number.to_le_bytes());
        bytes
    }

    fn read(frame: &Received<'_>) -> Option<Probe> {
        let mut bytes = [0; 26];
        let read = frame.read(0, &mut bytes);
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        (read == bytes.len() && is_probe(&bytes)).then(|| Probe { round: word(18), number: word(22) })
    }
}

/// A frame that has to arrive: from a guest to an address of another one.
#[derive(Clone, Copy, Debug)]
struct Route {
    from: usize,
    to: usize,
    alias: usize,
}

struct Settling<'a> {
    nodes: &'a mut [Node],
    first: usize,
    routes: Vec<Route>,
    /// Of this round: which probes arrived, and where some arrived that should not.
    arrived: Vec<bool>,
    astray: Option<(Route, usize)>,
}

/// Makes the switch learn the addresses of all guests, and returns when frames between those that will talk arrive, and
/// arrive nowhere else.
pub(crate) fn settle(
    nodes: &mut [Node],
    plan: &Plan,
    macs: usize,
    limit: Duration,
    forward: &mut dyn FnMut(),
) -> Result<(), Error> {
    let route = |&(from, to): &(usize, usize)| (0..macs).map(move |alias| Route { from, to, alias });
    let routes: Vec<Route> = plan.talks().iter().flat_map(route).collect();
    let mut settling = Settling { nodes, first: plan.first, arrived: vec![false; routes.len()], routes, astray: None };
    let deadline = Instant::now() + limit;
    for round in 0.. {
        settling.announce(round, macs, forward);
        if settling.routes.is_empty() {
            break;
        }
        settling.probe(round, forward);
        let complete = settling.arrived.iter().all(|arrived| *arrived);
        if complete && settling.astray.is_none() {
            break;
        }
        if Instant::now() >= deadline {
            return Err(settling.verdict());
        }
    }
    settling.poll_for(PAUSE, None, forward);
    Ok(())
}

impl Settling<'_> {
    fn announce(&mut self, round: u32, macs: usize, forward: &mut dyn FnMut()) {
        for guest in 0..self.nodes.len() {
            for alias in 0..macs {
                let probe = Probe { round, number: ANNOUNCEMENT };
                self.send(guest, probe.to_bytes(mac(self.first + guest, alias), BROADCAST), forward);
            }
            self.poll(None, forward);
        }
        self.poll_for(PAUSE, None, forward);
    }

    fn probe(&mut self, round: u32, forward: &mut dyn FnMut()) {
        self.arrived.fill(false);
        self.astray = None;
        for number in 0..self.routes.len() {
            let Route { from, to, alias } = self.routes[number];
            let probe = Probe { round, number: number as u32 };
            self.send(from, probe.to_bytes(mac(self.first + from, alias), mac(self.first + to, alias)), forward);
            // Not more at a time than a receive ring has room for.
            if number % 32 == 31 {
                self.poll(Some(round), forward);
            }
        }
        self.poll_for(PAUSE, Some(round), forward);
    }

    /// A frame out of every queue pair would do no good: addresses are a guest's, not a queue's.
    fn send(&mut self, guest: usize, frame: [u8; LEN], forward: &mut dyn FnMut()) {
        let deadline = Instant::now() + PAUSE;
        loop {
            let tx = &mut self.nodes[guest].pairs[0].tx;
            if tx.room() == 0 {
                tx.reclaim();
            }
            let sent = tx.send_with(1, |_, slot| {
                slot.header(Offload::default());
                slot.write(0, &frame);
                LEN
            });
            forward();
            // A switch that takes nothing shows in what does not arrive.
            if sent == 1 || Instant::now() >= deadline {
                return;
            }
        }
    }

    fn poll_for(&mut self, time: Duration, round: Option<u32>, forward: &mut dyn FnMut()) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.poll(round, forward);
        }
    }

    fn poll(&mut self, round: Option<u32>, forward: &mut dyn FnMut()) {
        forward();
        for (guest, node) in self.nodes.iter_mut().enumerate() {
            for QueuePair { rx, .. } in &mut node.pairs {
                rx.recv_burst(64, |frame| {
                    let Some(probe) = Probe::read(frame).filter(|p| Some(p.round) == round) else { return };
                    let Some(route) = self.routes.get(probe.number as usize) else { return };
                    if route.to == guest {
                        self.arrived[probe.number as usize] = true;
                    } else {
                        self.astray = Some((*route, guest));
                    }
                });
            }
        }
    }

    fn verdict(&self) -> Error {
        let missing = self.routes.iter().zip(&self.arrived).find(|(_, arrived)| !**arrived);
        Error::Settle(match (missing, self.astray) {
            (Some((Route { from, to, .. }, _)), _) => format!(
                "no frame of guest {from} reaches guest {to}: does the switch connect the two? \
                 (--connect-timeout-s waits longer)"
            ),
            (None, Some((Route { from, to, .. }, at))) => format!(
                "frames of guest {from} for guest {to} also reach guest {at}: the switch does not learn addresses \
                 (--announce off goes on without this check)"
            ),
            (None, None) => "the switch did not settle".into(),
        })
    }
}
