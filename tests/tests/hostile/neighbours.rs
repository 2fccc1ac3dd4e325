//! The two well-behaved guests that must notice nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use synthetic_guest::packet::{FrameSpec, Stamp, Template, mac};
use synthetic_guest::verify::{Report, Verdict, Verifier};
use synthetic_guest::{Backing, Features, Frame, Guest, GuestConfig};

use crate::stage::{LEFT, RIGHT};

/// Packets under way in one direction, at most. What else the VLAN floods has the rest of the receive ring.
const CREDIT: u64 = 64;
const RX_RING: u16 = 4096;
/// Frames sent at once.
const BURST: usize = 16;
const FRAME_LEN: usize = 200;
/// Between looks that find nothing: the CPU is not ours alone.
const PAUSE: Duration = Duration::from_micros(50);
/// How long the last packets may take.
const LAST: Duration = Duration::from_secs(15);

/// What became of the packets of both directions.
#[derive(Debug)]
pub(crate) struct Outcome {
    sent: [u64; 2],
    reports: [Report; 2],
}

impl Outcome {
    /// An error unless every packet arrived once, intact, in order.
    pub(crate) fn check(&self) -> Result<()> {
        for (sent, report) in self.sent.iter().zip(&self.reports) {
            ensure!(report.is_perfect(*sent) && *sent > 0, "the neighbours were disturbed: {self:?}");
        }
        Ok(())
    }
}

/// A running pair.
#[derive(Debug)]
pub(crate) struct Neighbours {
    thread: JoinHandle<Outcome>,
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    /// Longest wait since it was last asked for, in nanoseconds.
    wait: Arc<AtomicU64>,
}

/// One direction.
struct Way {
    template: Template,
    sent: u64,
    verifier: Verifier,
    received: u64,
    /// When the last packet arrived, or the first of those under way was sent.
    since: Instant,
}

impl Way {
    fn new(from: u32, to: u32) -> Self {
        let spec = FrameSpec::udp4(from, to, from as u16, FRAME_LEN);
        Self { template: Template::new(spec), sent: 0, verifier: Verifier::new(), received: 0, since: Instant::now() }
    }

    fn under_way(&self) -> u64 {
        self.sent - self.received
    }

    fn send(&mut self, from: &mut Guest, most: u64) {
        if self.under_way() == 0 {
            self.since = Instant::now();
        }
        let count = most.saturating_sub(self.under_way()).min(BURST as u64);
        let mut frames = Vec::with_capacity(BURST);
        for offset in 0..count {
            let stamp = Stamp { flow: 0, sequence: self.sent + offset, time_ns: 0 };
            self.template.stamp(stamp);
            frames.push(self.template.bytes().to_vec());
        }
        let frames: Vec<Frame<'_>> = frames.iter().map(|frame| frame.as_slice().into()).collect();
        self.sent += from.pair(0).tx.send_burst(&frames) as u64;
    }

    /// True when something arrived.
    fn receive(&mut self, at: &mut Guest, from: u32) -> bool {
        let before = self.received;
        at.pair(0).rx.recv_burst(64, |frame| {
            let mut source = [0; 6];
            frame.read(6, &mut source);
            // Floods of others are not ours to judge.
            if source == mac(from) && matches!(self.verifier.check_received(frame), Verdict::Good(_)) {
                self.received += 1;
            }
        });
        if self.received > before {
            self.since = Instant::now();
        }
        self.received > before
    }
}

/// Configuration of a neighbour.
fn config(socket: std::path::PathBuf) -> GuestConfig {
    let mut config = GuestConfig::new(socket);
    config.ram.backing = Backing::Pages;
    config.session.features = Features::VERSION_1 | Features::EVENT_IDX;
    config.rx_ring = RX_RING;
    config.session.reply_timeout = LAST;
    config
}

impl Neighbours {
    /// Connects both and starts the stream.
    pub(crate) fn start(sockets: [std::path::PathBuf; 2]) -> Result<Self> {
        let [left, right] = sockets;
        let mut guests = [Guest::start(config(left))?, Guest::start(config(right))?];
        let (stop, received, wait) = (Arc::default(), Arc::default(), Arc::default());
        let me = (Arc::clone(&stop), Arc::clone(&received), Arc::clone(&wait));
        let thread = std::thread::Builder::new()
            .name("neighbours".to_owned())
            .spawn(move || stream(&mut guests, &me.0, &me.1, &me.2))?;
        let neighbours = Self { thread, stop, received, wait };
        neighbours.wait_progress()?;
        Ok(neighbours)
    }

    /// Waits until more packets have arrived.
    pub(crate) fn wait_progress(&self) -> Result<()> {
        let before = self.received.load(Ordering::Relaxed);
        sidecore_tests::process::eventually("packets between the neighbours", LAST, || {
            Ok((self.received.load(Ordering::Relaxed) > before + CREDIT).then_some(()))
        })
    }

    /// The longest wait since the last question.
    pub(crate) fn take_wait(&self) -> Duration {
        Duration::from_nanos(self.wait.swap(0, Ordering::Relaxed))
    }

    /// Ends the stream and says what became of it.
    pub(crate) fn stop(self) -> Result<Outcome> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the neighbours panicked"))
    }
}

fn stream(guests: &mut [Guest; 2], stop: &AtomicBool, received: &AtomicU64, wait: &AtomicU64) -> Outcome {
    let mut ways = [Way::new(LEFT, RIGHT), Way::new(RIGHT, LEFT)];
    let numbers = [LEFT, RIGHT];
    let mut longest_wait = Duration::ZERO;
    let mut end: Option<Instant> = None;
    loop {
        if end.is_none() && stop.load(Ordering::Relaxed) {
            end = Some(Instant::now() + LAST);
        }
        let mut progress = false;
        for (index, way) in ways.iter_mut().enumerate() {
            if end.is_none() {
                // Until both addresses are known one packet at a time: it is flooded.
                way.send(&mut guests[index], if way.received < 4 { 1 } else { CREDIT });
            }
            let arrived = way.receive(&mut guests[1 - index], numbers[index]);
            if !arrived && way.under_way() > 0 {
                // Only a look that found nothing counts: this thread itself may have had to wait for its CPU.
                longest_wait = longest_wait.max(way.since.elapsed());
            }
            progress |= arrived;
        }
        received.store(ways.iter().map(|way| way.received).sum(), Ordering::Relaxed);
        wait.fetch_max(longest_wait.as_nanos() as u64, Ordering::Relaxed);
        longest_wait = Duration::ZERO;
        let over = end.is_some_and(|end| Instant::now() > end || ways.iter().all(|way| way.under_way() == 0));
        if over {
            let sent = ways.each_ref().map(|way| way.sent);
            let reports = ways.each_ref().map(|way| way.verifier.report_against(&[way.sent]));
            return Outcome { sent, reports };
        }
        if !progress {
            std::thread::sleep(PAUSE);
        }
    }
}
