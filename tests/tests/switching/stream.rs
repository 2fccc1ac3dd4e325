//! Long streams between guests, none of them faster than its receiver.

use std::time::{Duration, Instant};

use synthetic_guest::packet::{FrameSpec, Stamp, Template};
use synthetic_guest::verify::{Report, Verdict, Verifier};

use crate::rig::{LIMIT, Node};

/// Frames from one guest to another. Its flow number is its place in the list of streams.
pub(crate) struct Stream {
    /// Place of the sender in the list of guests.
    pub(crate) from: usize,
    /// Queue pair that it is sent on.
    pub(crate) pair: usize,
    pub(crate) frame: FrameSpec,
    pub(crate) count: u64,
    /// Frames sent and not yet received, at most.
    pub(crate) window: u64,
}

impl Stream {
    /// A UDP stream between the stations that have the guests' places as numbers.
    pub(crate) fn udp(from: usize, to: usize, len: usize, count: u64) -> Self {
        let frame = FrameSpec::udp4(from as u32, to as u32, 0, len);
        Self { from, pair: 0, frame, count, window: 64 }
    }
}

struct Progress {
    template: Template,
    sent: u64,
    received: u64,
}

/// Runs all streams to their ends, and returns what each guest received.
pub(crate) fn run(nodes: &mut [&mut Node], streams: &[Stream]) -> Vec<Report> {
    let mut runner = Runner::new(nodes.len(), streams);
    let mut last_progress = Instant::now();
    while !runner.is_done() {
        if runner.step(nodes) {
            last_progress = Instant::now();
        } else {
            std::thread::yield_now();
            assert!(last_progress.elapsed() < LIMIT, "stuck: {:?}", runner.reports());
        }
    }
    runner.reports()
}

/// Streams under way, for tests that do something else meanwhile.
pub(crate) struct Runner<'s> {
    streams: &'s [Stream],
    progress: Vec<Progress>,
    verifiers: Vec<Verifier>,
}

impl<'s> Runner<'s> {
    pub(crate) fn new(nodes: usize, streams: &'s [Stream]) -> Self {
        let progress = |(flow, stream): (usize, &Stream)| {
            let frame = FrameSpec { flow: flow as u16, ..stream.frame };
            Progress { template: Template::new(frame), sent: 0, received: 0 }
        };
        Self {
            streams,
            progress: streams.iter().enumerate().map(progress).collect(),
            verifiers: (0..nodes).map(|_| Verifier::new()).collect(),
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.streams.iter().zip(&self.progress).all(|(stream, progress)| progress.received == stream.count)
    }

    /// What each guest received so far.
    pub(crate) fn reports(&self) -> Vec<Report> {
        self.verifiers.iter().map(Verifier::report).collect()
    }

    /// Steps for a while, or until all is done.
    pub(crate) fn step_for(&mut self, nodes: &mut [&mut Node], time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end && !self.is_done() {
            if !self.step(nodes) {
                std::thread::yield_now();
            }
        }
    }

    /// Sends and receives what can be at the moment. Whether there was anything.
    pub(crate) fn step(&mut self, nodes: &mut [&mut Node]) -> bool {
        let mut moved = false;
        for (flow, (stream, progress)) in self.streams.iter().zip(&mut self.progress).enumerate() {
            let credit = stream.window - (progress.sent - progress.received);
            let count = credit.min(stream.count - progress.sent).min(32) as usize;
            if count == 0 {
                continue;
            }
            let Progress { template, sent, .. } = progress;
            let tx = &mut nodes[stream.from].guest.pair(stream.pair).tx;
            let first = *sent;
            let done = tx.send_with(count, |number, slot| {
                template.stamp(Stamp { flow: flow as u16, sequence: first + number as u64, time_ns: 0 });
                slot.header(template.offload());
                slot.write(0, template.bytes());
                template.bytes().len()
            });
            *sent += done as u64;
            moved |= done > 0;
        }
        self.receive(nodes) || moved
    }

    /// Receives what has arrived. Whether there was anything.
    pub(crate) fn receive(&mut self, nodes: &mut [&mut Node]) -> bool {
        let mut moved = false;
        for (node, verifier) in nodes.iter_mut().zip(&mut self.verifiers) {
            for pair in node.guest.pairs() {
                let progress = &mut self.progress;
                let count = pair.rx.recv_burst(usize::MAX, |frame| {
                    if let Verdict::Good(stamp) = verifier.check_received(frame) {
                        progress[usize::from(stamp.flow)].received += 1;
                    }
                });
                moved |= count > 0;
            }
        }
        moved
    }
}
