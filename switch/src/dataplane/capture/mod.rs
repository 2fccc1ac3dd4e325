//! Captures: what passes a port, as a pcapng file for whoever asks for it on the control socket.
//!
//! ```text
//! tap        a core's part: looks at bursts of captured ports, copies into a ring ─┐ one for each core
//! allowance  how much of its time the core may spend on that                        │
//! filter     which packets: a classic BPF program                                   │
//! record     a packet in that ring                                                  ▼
//! stream     the capture's thread: out of the rings, in the order of time, into the socket
//! pcapng     the file
//! ```
//!
//! Every core has a part in every capture, so that it goes on wherever a port's queue pairs go.

mod allowance;
mod error;
mod filter;
mod pcapng;
mod record;
mod rig;
mod stream;
mod tap;

use std::fmt;
use std::num::NonZeroU32;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pmd_bindings::tsc_hz;
use vm_ports::Counter;

pub(crate) use self::error::CaptureError;
use self::filter::Filter;
use self::pcapng::{Counts, Interface};
pub(super) use self::record::Direction;
use self::record::Reader;
pub(super) use self::rig::RigTaps;
pub(crate) use self::tap::{CAPTURES_MAX, INTERFACES_MAX, Missed};
use self::tap::{Selection, TapCounters};
pub(super) use self::tap::{Tap, Taps};
use super::fabric::Fabric;
use super::ports::PORTS_MAX;
use crate::control::protocol::{CaptureDirection, CaptureRequest};
use crate::forwarding::{PortId, TokenBucket};
use crate::snapshot::{CaptureSnapshot, CapturesSnapshot};

/// Bytes of all rings of a capture together, about, and of each at the least and at the most.
const RINGS_TOTAL: usize = 32 << 20;
const RING_MIN: usize = 512 << 10;
const RING_MAX: usize = 4 << 20;
/// Hundredths of a core's time that all captures together may take.
const SHARES_MAX: u32 = CaptureRequest::CORE_SHARE_MAX;
/// Niceness of a capture's thread: where it shares a CPU with a core that polls, it waits.
const NICENESS: i32 = 19;

/// All captures.
pub(super) struct Captures {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What captures and their threads share.
struct Shared {
    fabric: Arc<Fabric>,
    state: Mutex<State>,
    /// The switch is being stopped.
    stops: AtomicBool,
}

#[derive(Default)]
struct State {
    begun: u64,
    running: Vec<Arc<Capture>>,
    /// Of those that have ended.
    ended: Counts,
    ended_bytes: u64,
}

/// A capture.
struct Capture {
    number: u64,
    interfaces: Vec<Interface>,
    ports: Vec<PortId>,
    selection: Selection,
    direction: CaptureDirection,
    /// The filter, as it was written.
    filter: Option<String>,
    limits: Limits,
    began: Instant,
    /// Why it is to end.
    end: Mutex<Option<End>>,
    /// Of each core.
    counters: Vec<Arc<[TapCounters]>>,
    /// Packets written, by interface, and bytes of all. Counted by the thread.
    written: Box<[Counter]>,
    bytes: Counter,
}

/// When a capture has enough.
struct Limits {
    packets: Option<u64>,
    bytes: u64,
    duration: Option<Duration>,
}

/// Why a capture ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Packets,
    Bytes,
    Duration,
    Reader,
    PortRemoved(String),
    Stopping,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packets => f.write_str("it has as many packets as were asked for"),
            Self::Bytes => f.write_str("it is as large as it may be"),
            Self::Duration => f.write_str("its time is over"),
            Self::Reader => f.write_str("its reader ended it"),
            Self::PortRemoved(name) => write!(f, "port {name} was removed"),
            Self::Stopping => f.write_str("the switch was stopped"),
        }
    }
}

/// What was counted of a port, for people.
fn words(name: &str, counts: &Counts) -> String {
    let [time, rate, room] = counts.missed;
    format!(
        "{name}: {} packets captured, {} did not match the filter, {} missed ({time} for lack of I/O core time, {rate} above the rate, \
         {room} because the reader was slow)",
        counts.written,
        counts.unmatched,
        time + rate + room,
    )
}

impl Captures {
    pub(super) fn new(fabric: &Arc<Fabric>) -> Self {
        let shared = Shared { fabric: Arc::clone(fabric), state: Mutex::default(), stops: AtomicBool::new(false) };
        Self { shared: Arc::new(shared), threads: Vec::new() }
    }

    /// Begins a capture of these ports, given by name, what they are, and number; from now on `stream` belongs to it.
    pub(super) fn begin(
        &mut self,
        request: &CaptureRequest,
        ports: Vec<(String, String, PortId)>,
        stream: &UnixStream,
    ) -> Result<(), CaptureError> {
        self.reap();
        let cores = self.shared.fabric.cores().count();
        let socket = stream.try_clone().map_err(CaptureError::Connection)?;
        // Nobody else begins one meanwhile.
        let number = self.shared.state().number_of_next(request.core_share_percent)?;
        let (capture, taps, readers) = Capture::new(number, request, ports, cores)?;
        let capture = Arc::new(capture);
        self.shared.state().begins(&capture);
        self.shared.fabric.begin_capture(taps);
        let (shared, mine) = (Arc::clone(&self.shared), Arc::clone(&capture));
        let thread = std::thread::Builder::new().name(format!("capture-{}", capture.number)).spawn(move || {
            let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICENESS);
            stream::run(&shared, &mine, readers, socket);
        });
        match thread {
            Ok(thread) => {
                self.threads.push(thread);
                let (number, ports) = (capture.number, capture.port_names());
                tracing::info!(capture = number, filter = capture.filter.as_deref(), "capture of {ports} begins");
                Ok(())
            }
            Err(error) => {
                self.shared.fabric.end_capture(capture.number);
                self.shared.has_ended(&capture, &End::Reader);
                Err(CaptureError::Thread(error))
            }
        }
    }

    /// Ends what captures a port that goes.
    pub(super) fn port_is_removed(&self, port: PortId, name: &str) {
        let state = self.shared.state();
        let concerned = state.running.iter().filter(|capture| capture.ports.contains(&port));
        concerned.for_each(|capture| capture.end_with(End::PortRemoved(name.to_owned())));
    }

    /// Ends all of them, while the cores still run.
    pub(super) fn stop(&mut self) {
        self.shared.stops.store(true, Ordering::Relaxed);
        self.shared.state().running.iter().for_each(|capture| capture.end_with(End::Stopping));
        self.threads.drain(..).for_each(|thread| drop(vm_ports::join(thread)));
    }

    /// Frees what is left of threads that have ended.
    pub(super) fn reap(&mut self) {
        for thread in self.threads.extract_if(.., |thread| thread.is_finished()) {
            drop(vm_ports::join(thread));
        }
    }

    pub(super) fn snapshot(&self) -> CapturesSnapshot {
        let state = self.shared.state();
        let (mut sum, mut bytes) = (state.ended, state.ended_bytes);
        for capture in &state.running {
            sum.add(&capture.counts());
            bytes += capture.bytes.get();
        }
        CapturesSnapshot {
            running: state.running.iter().map(|capture| capture.snapshot()).collect(),
            begun: state.begun,
            packets: sum.written,
            bytes,
            missed: sum.missed_by_reason(),
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A capture has ended, and no core has a part in it any more. What was counted: what was recorded and never sent was missed too, unless the
    /// capture had enough.
    fn has_ended(&self, capture: &Arc<Capture>, end: &End) -> Counts {
        let mut counts = capture.counts();
        if !matches!(end, End::Packets | End::Bytes) {
            counts.missed[Missed::Room as usize] += counts.recorded.saturating_sub(counts.written);
        }
        let mut state = self.state();
        state.running.retain(|other| !Arc::ptr_eq(other, capture));
        state.ended.add(&counts);
        state.ended_bytes += capture.bytes.get();
        counts
    }
}

impl State {
    /// Which capture the next one would be, if there is room for one with this share.
    fn number_of_next(&self, core_share: u32) -> Result<u64, CaptureError> {
        if self.running.len() >= CAPTURES_MAX {
            return Err(CaptureError::TooMany(CAPTURES_MAX));
        }
        if !(1..=SHARES_MAX).contains(&core_share) {
            let (what, most) = ("core_share_percent", SHARES_MAX.into());
            return Err(CaptureError::OutOfRange { what, least: 1, most, is: core_share.into() });
        }
        let taken: u32 = self.running.iter().map(|capture| capture.selection.core_share).sum();
        if taken + core_share > SHARES_MAX {
            return Err(CaptureError::NoTimeLeft { taken, most: SHARES_MAX });
        }
        Ok(self.begun)
    }

    fn begins(&mut self, capture: &Arc<Capture>) {
        self.begun += 1;
        self.running.push(Arc::clone(capture));
    }
}

impl Capture {
    /// A capture, the parts of so many cores in it, and what those record.
    #[allow(clippy::type_complexity, reason = "each goes its own way")]
    fn new(
        number: u64,
        request: &CaptureRequest,
        ports: Vec<(String, String, PortId)>,
        cores: usize,
    ) -> Result<(Self, Vec<Tap>, Vec<Reader>), CaptureError> {
        let at_least = |what, is: u64, least: u64| {
            if is >= least { Ok(()) } else { Err(CaptureError::TooSmall { what, least, is }) }
        };
        let named_twice = (1..ports.len()).any(|nth| ports[..nth].iter().any(|port| port.2 == ports[nth].2));
        if ports.is_empty() || ports.len() > INTERFACES_MAX || named_twice {
            return Err(CaptureError::Ports { most: INTERFACES_MAX });
        }
        at_least("snaplen", request.snaplen.into(), CaptureRequest::SNAPLEN_MIN.into())?;
        at_least("bytes", request.bytes, CaptureRequest::BYTES_MIN)?;
        at_least("packets", request.packets.unwrap_or(1), 1)?;
        at_least("rate_pps", request.rate_pps.into(), 1)?;
        let cycles_per_s = tsc_hz();
        let rate = NonZeroU32::new(request.rate_pps).unwrap_or(NonZeroU32::MIN);
        // A tenth of a second's worth at once.
        let burst = NonZeroU32::new(request.rate_pps / 10).unwrap_or(NonZeroU32::MIN);
        let filter = request.filter.as_ref().map(|filter| Filter::parse(&filter.program)).transpose()?;
        let ids: Vec<PortId> = ports.iter().map(|port| port.2).collect();
        let mut selection = Selection::all(&ids, PORTS_MAX, cycles_per_s);
        selection.from = request.direction != CaptureDirection::To;
        selection.to = request.direction != CaptureDirection::From;
        selection.filter = filter.map(Arc::new);
        selection.snaplen = selection.snaplen.min(request.snaplen as usize);
        selection.rate = TokenBucket::new(rate, burst, cycles_per_s);
        selection.core_share = request.core_share_percent;
        let ring_bytes = (RINGS_TOTAL / cores.max(1)).clamp(RING_MIN, RING_MAX);
        let tap = |_| tap::tap(number, ids.len(), selection.clone(), ring_bytes);
        let (taps, readers, counters) = (0..cores).map(tap).collect();
        let capture = Self {
            number,
            written: ids.iter().map(|_| Counter::default()).collect(),
            interfaces: ports.into_iter().map(|(name, description, _)| Interface { name, description }).collect(),
            ports: ids,
            selection,
            direction: request.direction,
            filter: request.filter.as_ref().map(|filter| filter.expression.clone()),
            limits: Limits {
                packets: request.packets,
                bytes: request.bytes,
                duration: request.duration_ms.map(Duration::from_millis),
            },
            began: Instant::now(),
            end: Mutex::new(None),
            counters,
            bytes: Counter::default(),
        };
        Ok((capture, taps, readers))
    }

    fn end(&self) -> Option<End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn end_with(&self, end: End) {
        self.end.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(end);
    }

    fn count_written(&self, interface: u8, bytes: u32) {
        self.written[usize::from(interface)].add(1);
        self.bytes.add(bytes.into());
    }

    fn counts_of(&self, interface: usize) -> Counts {
        let mut sum = Counts { written: self.written[interface].get(), ..Counts::default() };
        for counters in &self.counters {
            let counters = &counters[interface];
            sum.seen += counters.seen.get();
            sum.unmatched += counters.unmatched.get();
            sum.recorded += counters.recorded.get();
            sum.missed.iter_mut().zip(&counters.missed).for_each(|(sum, missed)| *sum += missed.get());
        }
        sum
    }

    fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        (0..self.interfaces.len()).for_each(|interface| sum.add(&self.counts_of(interface)));
        sum
    }

    fn port_names(&self) -> String {
        self.interfaces.iter().map(|interface| interface.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    fn snapshot(&self) -> CaptureSnapshot {
        let counts = self.counts();
        CaptureSnapshot {
            number: self.number,
            ports: self.interfaces.iter().map(|interface| interface.name.clone()).collect(),
            direction: self.direction,
            filter: self.filter.clone(),
            running_ms: self.began.elapsed().as_millis() as u64,
            packets: counts.written,
            bytes: self.bytes.get(),
            unmatched: counts.unmatched,
            missed: counts.missed_by_reason(),
        }
    }
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.seen += other.seen;
        self.unmatched += other.unmatched;
        self.recorded += other.recorded;
        self.written += other.written;
        self.missed.iter_mut().zip(other.missed).for_each(|(sum, missed)| *sum += missed);
    }

    fn missed_by_reason(&self) -> std::collections::BTreeMap<String, u64> {
        Missed::ALL.iter().map(|why| (why.as_str().to_owned(), self.missed[*why as usize])).collect()
    }
}
