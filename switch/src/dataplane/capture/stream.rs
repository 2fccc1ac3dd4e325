//! The thread of a capture: takes what the cores have recorded, in the order of time, and sends it as a pcapng file to whoever asked for it. Only this thread
//! waits for a reader that is slow; meanwhile the rings fill up, and what does not fit any more is missed.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pmd_bindings::tsc;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::pcapng::{File, PACKET_OVERHEAD, STATISTICS_MAX};
use super::record::{Reader, Record};
use super::{Capture, End, Shared};
use crate::control;
use crate::control::protocol::{Answer, Response};

/// Bytes that are collected before they are sent.
const PORTION: usize = 256 << 10;
/// Between two looks at rings in which there was little.
const PAUSE: Duration = Duration::from_millis(2);
/// How long a reader that takes nothing is waited for before anything else is looked at.
const PATIENCE: Duration = Duration::from_millis(50);
/// At the end, a reader that takes nothing for so long gets no more.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Nor does one that was waited for so long in all: until then the capture keeps its place among those that run.
const ALL_LAST_WORDS: Duration = Duration::from_secs(5);
/// Where the switch stops, it has so long for everything.
const LAST_WORDS_AT_STOP: Duration = Duration::from_millis(200);
/// A core that recorded something has shown it after so many microseconds: what is older is in its order.
const SETTLED_US: u64 = 1000;

/// Streams a capture until it ends, and takes it away from the cores.
pub(super) fn run(shared: &Shared, capture: &Arc<Capture>, readers: Vec<Reader>, socket: UnixStream) {
    let mut streamer = Streamer::begin(capture, &shared.stops, readers, socket);
    let end = streamer.as_mut().map_or(End::Reader, Streamer::stream);
    shared.fabric.end_capture(capture.number);
    let finished = streamer.and_then(|streamer| streamer.finish(&end));
    let counts = shared.has_ended(capture, &end);
    // Not before: whoever sees the end of this one may begin another in its place.
    let ended = finished.and_then(|socket| socket.shutdown(std::net::Shutdown::Write));
    let [core_time, rate, slow_reader] = counts.missed;
    let whole = if ended.is_ok() { "" } else { "; whoever read it has not got all of it" };
    let ports = capture.port_names();
    tracing::info!(
        capture = capture.number,
        packets = counts.written,
        unmatched = counts.unmatched,
        missed_core_time = core_time,
        missed_rate = rate,
        missed_slow_reader = slow_reader,
        "capture of {ports} ended: {end}{whole}"
    );
}

/// What the thread works on.
struct Streamer<'c> {
    capture: &'c Capture,
    /// Whether the switch is being stopped.
    stops: &'c AtomicBool,
    /// When everything is over then.
    stop_by: Option<Instant>,
    /// How long the reader was waited for at the end.
    waited: Duration,
    socket: UnixStream,
    file: File,
    readers: Vec<Reader>,
    /// The packet at hand.
    packet: Vec<u8>,
    clock: Clock,
    began_ns: u64,
    /// Packets in the file.
    written: u64,
    /// The time of the packet before: the file never goes back.
    last_ns: u64,
    deadline: Option<Instant>,
}

impl<'c> Streamer<'c> {
    fn begin(
        capture: &'c Capture,
        stops: &'c AtomicBool,
        readers: Vec<Reader>,
        socket: UnixStream,
    ) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let answer = control::line_of(&Response::Ok(Answer::Capturing))?;
        let (snaplen, filter) = (capture.selection.snaplen as u32, capture.filter.as_deref());
        let file = File::begin(answer, &capture.interfaces, snaplen, filter).map_err(io::Error::other)?;
        let clock = Clock::new(capture.selection.cycles_per_s);
        Ok(Self {
            capture,
            stops,
            stop_by: None,
            waited: Duration::ZERO,
            socket,
            file,
            readers,
            packet: Vec::new(),
            began_ns: clock.ns,
            written: 0,
            last_ns: clock.ns,
            clock,
            deadline: capture.limits.duration.map(|duration| capture.began + duration),
        })
    }

    /// Sends what is recorded, until something ends that.
    fn stream(&mut self) -> End {
        loop {
            if let Some(end) = self.capture.end() {
                return end;
            }
            if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return End::Duration;
            }
            let mut full = false;
            if self.file.waiting().is_empty() {
                self.clock.read();
                let settled = self.clock.cycles.saturating_sub(self.clock.cycles_per_s / 1_000_000 * SETTLED_US);
                match self.collect(settled) {
                    Collected::Limit(end) => return end,
                    Collected::Full => full = true,
                    Collected::All => {}
                }
            }
            if self.send().is_err() {
                return End::Reader;
            }
            let patience = match (self.file.waiting().is_empty(), full) {
                (true, true) => Duration::ZERO,
                (true, false) => PAUSE,
                (false, _) => PATIENCE,
            };
            // Whatever the reader says, and be it that it goes, ends the capture.
            if self.wait(patience).is_none_or(|heard| heard) {
                return End::Reader;
            }
        }
    }

    /// The rest, and what was counted. What is left is to end the connection.
    fn finish(mut self, end: &End) -> io::Result<UnixStream> {
        self.clock.read();
        // All that was recorded, unless that would be more than was asked for.
        let mut more = !matches!(end, End::Packets | End::Bytes);
        while more {
            self.send_all()?;
            more = matches!(self.collect(u64::MAX), Collected::Full);
        }
        for (interface, shown) in self.capture.interfaces.iter().enumerate() {
            let counts = self.capture.counts_of(interface);
            let says = [super::words(&shown.name, &counts), end.to_string()];
            self.file.statistics(interface as u32, (self.began_ns, self.clock.ns), &counts, &says);
        }
        self.send_all()?;
        Ok(self.socket)
    }

    /// Takes packets that were recorded up to a time, the oldest first.
    fn collect(&mut self, until: u64) -> Collected {
        let limits = &self.capture.limits;
        let reserve = STATISTICS_MAX * self.capture.interfaces.len() as u64;
        while self.file.waiting().len() < PORTION {
            let Some((reader, record)) = oldest(&mut self.readers).filter(|(_, record)| record.time <= until) else {
                return Collected::All;
            };
            if self.file.len() + u64::from(record.kept) + PACKET_OVERHEAD + reserve > limits.bytes {
                return Collected::Limit(End::Bytes);
            }
            reader.take(&mut self.packet);
            let ns = self.clock.ns_of(record.time).max(self.last_ns);
            self.last_ns = ns;
            self.file.packet(&record, ns, &self.packet);
            self.capture.count_written(record.interface, record.kept);
            self.written += 1;
            if limits.packets.is_some_and(|most| self.written >= most) {
                return Collected::Limit(End::Packets);
            }
        }
        Collected::Full
    }

    /// Sends as much as the reader takes now.
    fn send(&mut self) -> io::Result<()> {
        while !self.file.waiting().is_empty() {
            match self.socket.write(self.file.waiting()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => self.file.take(sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends everything, as long as the reader takes some of it again and again: it may be slow, and so may this thread, whose priority is the lowest.
    fn send_all(&mut self) -> io::Result<()> {
        let mut deadline = Instant::now() + LAST_WORDS;
        loop {
            let before = self.file.waiting().len();
            self.send()?;
            let left = self.file.waiting().len();
            if left == 0 {
                return Ok(());
            }
            let now = Instant::now();
            if left < before {
                deadline = now + LAST_WORDS;
            }
            if self.stops.load(Ordering::Relaxed) {
                deadline = deadline.min(*self.stop_by.get_or_insert(now + LAST_WORDS_AT_STOP));
            }
            if now >= deadline || self.waited >= ALL_LAST_WORDS {
                return Err(io::ErrorKind::TimedOut.into());
            }
            poll_socket(&self.socket, PollFlags::OUT, PATIENCE)?;
            // Beyond that it was this thread that waited, for a CPU.
            self.waited += now.elapsed().min(PATIENCE);
        }
    }

    /// Waits until the reader takes more, says something or goes: whether it did one of the last two. `None` where that cannot be known.
    fn wait(&self, patience: Duration) -> Option<bool> {
        let mut wanted = PollFlags::IN | PollFlags::RDHUP;
        wanted.set(PollFlags::OUT, !self.file.waiting().is_empty());
        let got = poll_socket(&self.socket, wanted, patience).ok()?;
        Some(got.intersects(PollFlags::IN | PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR))
    }
}

/// What became of an attempt to collect packets.
enum Collected {
    /// There are no more now.
    All,
    /// There may be more, but what is there is to be sent first.
    Full,
    /// There are as many as were asked for.
    Limit(End),
}

/// Who has the packet that was recorded first.
fn oldest(readers: &mut [Reader]) -> Option<(&mut Reader, Record)> {
    let with_next = readers.iter_mut().filter_map(|reader| reader.peek().map(|record| (reader, record)));
    with_next.min_by_key(|(_, record)| record.time)
}

fn poll_socket(socket: &UnixStream, wanted: PollFlags, patience: Duration) -> io::Result<PollFlags> {
    let mut fds = [PollFd::new(socket, wanted)];
    let patience = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: patience.subsec_nanos().into() };
    match poll(&mut fds, Some(&patience)) {
        Ok(_) => Ok(fds[0].revents()),
        Err(rustix::io::Errno::INTR) => Ok(PollFlags::empty()),
        Err(error) => Err(error.into()),
    }
}

/// The time of day for a cycle counter. It is looked up again and again, so that an error in the counter's speed does not add up.
struct Clock {
    cycles: u64,
    ns: u64,
    cycles_per_s: u64,
}

impl Clock {
    fn new(cycles_per_s: u64) -> Self {
        let mut clock = Self { cycles: 0, ns: 0, cycles_per_s: cycles_per_s.max(1) };
        clock.read();
        clock
    }

    fn read(&mut self) {
        self.cycles = tsc();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    }

    /// Nanoseconds since 1970 when the counter was, or will be, there.
    fn ns_of(&self, cycles: u64) -> u64 {
        let away = |cycles: u64| (u128::from(cycles) * 1_000_000_000 / u128::from(self.cycles_per_s)) as u64;
        match cycles.checked_sub(self.cycles) {
            Some(later) => self.ns.saturating_add(away(later)),
            None => self.ns.saturating_sub(away(self.cycles - cycles)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cycles_become_times() {
        let clock = Clock { cycles: 5_000_000_000, ns: 1_790_000_000_000_000_000, cycles_per_s: 2_500_000_000 };
        assert_eq!(clock.ns_of(5_000_000_000), clock.ns);
        assert_eq!(clock.ns_of(7_500_000_000), clock.ns + 1_000_000_000);
        assert_eq!(clock.ns_of(4_999_999_995), clock.ns - 2);
        assert_eq!(clock.ns_of(0), clock.ns - 2_000_000_000);
    }
}
