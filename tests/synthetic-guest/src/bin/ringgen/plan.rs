//! Who sends what to whom.

use std::net::Ipv4Addr;

use synthetic_guest::packet::{Checksum, FrameSpec, Ip, Template, Transport};

use crate::error::Error;
use crate::options::{Options, Size, Workload};
use crate::pingpong::PINGING;

/// MSS of the segments that `tso` asks for.
const GSO_SIZE: u16 = 1448;

/// A flow of packets, always on the same queue pair of its sender.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    /// Sending guest.
    pub(crate) from: usize,
    /// Its queue pair.
    pub(crate) pair: usize,
    /// Receiving guest; `None` when it is none of ours.
    pub(crate) to: Option<usize>,
    /// Number of the flow among those of its receiver.
    pub(crate) id: u16,
    /// The frames, but for their length.
    pub(crate) frame: FrameSpec,
}

impl Flow {
    /// What tells stamps of this receiver from those of others.
    pub(crate) fn key(&self) -> u64 {
        key(self.frame.to)
    }

    /// Everything before the stamp.
    fn headers(&self) -> Vec<u8> {
        let template = Template::new(self.frame);
        template.bytes()[..template.stamp_at()].to_vec()
    }
}

/// What a guest is to receive.
pub(crate) struct Incoming {
    /// Its first address.
    pub(crate) address: [u8; 6],
    /// Of the stamps' checksums.
    pub(crate) key: u64,
    /// Number of flows.
    pub(crate) flows: usize,
    /// The headers of each flow, where they are known.
    pub(crate) headers: Vec<Vec<u8>>,
    /// Where stamps are.
    pub(crate) stamp_at: usize,
    /// Whatever comes counts.
    pub(crate) sink: bool,
}

/// All flows of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) flows: Vec<Flow>,
    /// Number of flows to each guest.
    pub(crate) into: Vec<usize>,
    /// Number of the first guest.
    pub(crate) first: usize,
}

/// MAC address of a guest, by its number, that of the first one added.
pub(crate) fn mac(guest: usize, alias: usize) -> [u8; 6] {
    let [high, low] = (guest as u16).to_be_bytes();
    [0x02, 0x5c, high, low, alias as u8, 0x01]
}

/// The part of a MAC address that a stamp's checksum covers: all aliases of a guest share it.
pub(crate) fn key(mac: [u8; 6]) -> u64 {
    u64::from(mac[2]) << 16 | u64::from(mac[3]) << 8 | u64::from(mac[5])
}

impl Plan {
    /// The flows that `options` ask for between `guests` guests.
    pub(crate) fn new(options: &Options, guests: usize) -> Result<Plan, Error> {
        let mut plan = Plan { flows: Vec::new(), into: vec![0; guests], first: options.first_guest };
        let flows = options.flows.max(options.queue_pairs);
        match options.workload {
            Workload::Stream | Workload::Bursty | Workload::Ceiling => {
                (0..guests).step_by(2).for_each(|from| plan.add(options, from, Some(from + 1), flows));
            }
            Workload::Duplex => (0..guests).step_by(2).for_each(|left| {
                plan.add(options, left, Some(left + 1), flows);
                plan.add(options, left + 1, Some(left), flows);
            }),
            Workload::Mesh => {
                for (from, to) in (0..guests).flat_map(|from| (0..guests).map(move |to| (from, to))) {
                    if from != to {
                        plan.add(options, from, Some(to), flows);
                    }
                }
            }
            Workload::Pingpong => {
                // The first flow each way is the ping and its answer; the others are the background.
                plan.add(options, 0, Some(1), 1 + if options.background_pps > 0.0 { flows } else { 0 });
                plan.add(options, 1, Some(0), 1);
                // The others are neighbours.
                (PINGING..guests).step_by(2).for_each(|from| plan.add(options, from, Some(from + 1), flows));
            }
            Workload::Source => (0..guests).for_each(|from| plan.add(options, from, None, flows)),
            Workload::Sink | Workload::Echo => {}
        }
        if plan.into.iter().any(|count| *count > usize::from(u16::MAX)) {
            let most = plan.into.iter().max().unwrap_or(&0);
            return Err(Error::Options(format!("{most} flows into one guest: 65535 at most, lower --flows")));
        }
        Ok(plan)
    }

    fn add(&mut self, options: &Options, from: usize, to: Option<usize>, flows: usize) {
        for flow in 0..flows {
            let alias = flow % options.macs;
            let id = match to {
                Some(to) => {
                    self.into[to] += 1;
                    self.into[to] - 1
                }
                None => flow,
            };
            let number = |guest: usize| self.first + guest;
            let target = to.map_or(options.to.0, |to| mac(number(to), alias));
            let frame = frame(options.size, (number(from), alias), (to.map(number), alias), target, id as u16);
            self.flows.push(Flow { from, pair: flow % options.queue_pairs, to, id: id as u16, frame });
        }
    }

    /// What guest `guest` receives: the flows to it; what `source` sent and somebody sends back; in a sink whatever comes.
    pub(crate) fn incoming(&self, options: &Options, guest: usize) -> Incoming {
        let own: Vec<&Flow> = self.flows.iter().filter(|f| f.from == guest).collect();
        let to: Vec<&Flow> = self.flows.iter().filter(|f| f.to == Some(guest)).collect();
        let address = mac(self.first + guest, 0);
        let stamp_at = if options.size == Size::Tso { 54 } else { 42 };
        let incoming = Incoming { address, key: key(address), flows: 0, headers: Vec::new(), stamp_at, sink: false };
        match options.workload {
            Workload::Source => Incoming { key: key(options.to.0), flows: own.len(), ..incoming },
            Workload::Sink | Workload::Echo => Incoming { flows: options.flows, sink: true, ..incoming },
            _ => Incoming { flows: to.len(), headers: to.iter().map(|flow| flow.headers()).collect(), ..incoming },
        }
    }

    /// Pairs of guests, one of which sends to the other: each once.
    pub(crate) fn talks(&self) -> Vec<(usize, usize)> {
        let mut talks: Vec<_> = self.flows.iter().filter_map(|f| Some((f.from, f.to?))).collect();
        talks.sort_unstable();
        talks.dedup();
        talks
    }
}

fn frame(size: Size, from: (usize, usize), to: (Option<usize>, usize), target: [u8; 6], id: u16) -> FrameSpec {
    let ip = |guest: usize, alias: usize| Ipv4Addr::new(10, guest as u8, alias as u8, 1 + (guest >> 8) as u8);
    let outside = Ipv4Addr::new(172, 16, 0, 1);
    let tso = size == Size::Tso;
    FrameSpec {
        to: target,
        from: mac(from.0, from.1),
        vlan: None,
        ip: Ip::V4(ip(from.0, from.1), to.0.map_or(outside, |guest| ip(guest, to.1))),
        transport: if tso { Transport::Tcp } else { Transport::Udp },
        checksum: if tso { Checksum::Partial } else { Checksum::Absent },
        flow: id,
        len: 0,
        gso_size: tso.then_some(GSO_SIZE),
    }
}
