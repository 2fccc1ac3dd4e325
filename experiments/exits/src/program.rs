//! What the guest does. No system call, no allocation, no panic: it runs in ring 3 of a machine without a kernel.

use hdrhistogram::Histogram;
use synthetic_guest::{Bell, CallMode, Offload, QueuePair, Received};

use crate::vmm::cycles;

/// Bytes of a frame, without FCS: the smallest there is.
const FRAME: usize = 60;
/// Where the number stands, behind the Ethernet header.
const NUMBER: usize = 14;
/// A local experimental EtherType (IEEE 802).
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
/// Frames of a stream that are under way, at most: fewer than the receiver has buffers, so that none is dropped.
const WINDOW: u64 = 128;
/// Frames taken from a ring before the other ring is looked at again.
const BURST: usize = 32;

/// What runs on a [`Cpu`].
pub trait Program {
    /// Runs to the end.
    fn run<C: Cpu>(&mut self, cpu: &C);
}

/// How the program's processor kicks and is called. Queues are numbered: receive queue of device 0, its transmit queue,
/// receive queue of device 1, …
pub trait Cpu {
    /// Kicks the backend.
    fn kick(&self, queue: usize, bell: &mut Bell);

    /// Calls of a queue so far.
    fn calls(&self, queue: usize, bell: &mut Bell) -> u64;
}

/// What the guest is to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// Device 0 sends a frame, device 1 answers it, so many times; between two of them the guest waits so many cycles.
    RoundTrips {
        /// How many.
        count: u64,
        /// Cycles from an answer to the next frame.
        pause: u64,
    },
    /// Device 0 sends, device 1 receives. Every frame is published by itself, as a driver does that has one at a time.
    Stream {
        /// Frames.
        count: u64,
    },
    /// The guest waits for frames that do not come, for so many cycles.
    Idle {
        /// Cycles.
        cycles: u64,
    },
}

/// Totals since the guest was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Frames received: each has gone through the switch once.
    pub packets: u64,
    /// Frames that were not the next one.
    pub wrong: u64,
    /// Kicks.
    pub kicks: u64,
    /// Calls.
    pub calls: u64,
    /// Jobs that were given up because nothing arrived any more.
    pub stalled: u64,
}

/// A device of the guest.
struct Nic {
    pair: QueuePair,
    /// The frame that it sends, but for the number.
    frame: [u8; FRAME],
    next: u64,
    expected: u64,
    /// Kicks that the device has wanted of each queue, as far as they were carried out.
    kicked: [u64; 2],
    /// Calls of the receive queue when it was last seen empty.
    calls: u64,
    /// There may be frames that no further call will announce.
    awake: bool,
}

/// The guest: two devices, one processor.
pub struct Guest {
    nics: [Nic; 2],
    interrupts: bool,
    patience: u64,
    totals: Totals,
    /// What to do next.
    pub job: Job,
    /// Cycles of each round trip.
    pub times: Histogram<u64>,
}

impl Guest {
    /// A guest with these queue pairs, which polls, or waits for interrupts. It gives a job up when nothing arrives for
    /// `patience` cycles.
    #[must_use]
    pub fn new(pairs: [QueuePair; 2], interrupts: bool, patience: u64) -> Self {
        let [a, b] = pairs;
        let times = Histogram::new_with_bounds(1, patience.max(2), 3).expect("bounds and precision are sound");
        Guest {
            nics: [Nic::new(a, 0), Nic::new(b, 1)],
            interrupts,
            patience,
            totals: Totals::default(),
            job: Job::Idle { cycles: 0 },
            times,
        }
    }

    /// Totals so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    fn round_trips<C: Cpu>(&mut self, cpu: &C, count: u64, pause: u64) {
        for _ in 0..count {
            let start = cycles();
            self.send(cpu, 0);
            if !self.wait(cpu, 1) {
                return;
            }
            self.send(cpu, 1);
            if !self.wait(cpu, 0) {
                return;
            }
            self.times.saturating_record(cycles() - start);
            if pause > 0 {
                self.idle(cpu, pause);
            }
        }
    }

    fn stream<C: Cpu>(&mut self, cpu: &C, count: u64) {
        let (mut sent, mut received, mut last) = (0, 0, cycles());
        while received < count {
            while sent < count && sent - received < WINDOW && self.send(cpu, 0) {
                sent += 1;
            }
            let arrived = self.receive(cpu, 1);
            received += arrived;
            let now = cycles();
            if arrived > 0 {
                last = now;
            } else if now - last > self.patience {
                self.totals.stalled += 1;
                return;
            }
        }
    }

    fn idle<C: Cpu>(&mut self, cpu: &C, time: u64) {
        let start = cycles();
        while cycles() - start < time {
            self.receive(cpu, 0);
            self.receive(cpu, 1);
        }
    }

    /// Waits for one frame; `false` when none comes.
    fn wait<C: Cpu>(&mut self, cpu: &C, nic: usize) -> bool {
        let start = cycles();
        while self.receive(cpu, nic) == 0 {
            if cycles() - start > self.patience {
                self.totals.stalled += 1;
                return false;
            }
        }
        true
    }

    /// Sends the next frame, and kicks if that is wanted; `false` when the ring is full.
    #[inline]
    fn send<C: Cpu>(&mut self, cpu: &C, nic: usize) -> bool {
        let me = &mut self.nics[nic];
        let (frame, number) = (&me.frame, me.next);
        let sent = me.pair.tx.send_with(1, |_, slot| {
            slot.header(Offload::default());
            slot.write(0, frame);
            slot.write(NUMBER, &number.to_le_bytes());
            FRAME
        });
        if sent == 0 {
            return false;
        }
        me.next += 1;
        let bell = me.pair.tx.bell();
        if std::mem::replace(&mut me.kicked[1], bell.kicks_wanted()) != bell.kicks_wanted() {
            cpu.kick(2 * nic + 1, bell);
            self.totals.kicks += 1;
        }
        true
    }

    /// Takes what has arrived, if the guest has been told or polls; returns the number of frames.
    #[inline]
    fn receive<C: Cpu>(&mut self, cpu: &C, nic: usize) -> u64 {
        let me = &mut self.nics[nic];
        if self.interrupts && !me.awake {
            let calls = cpu.calls(2 * nic, me.pair.rx.bell());
            if calls == me.calls {
                return 0;
            }
            (me.calls, me.awake) = (calls, true);
        }
        let (expected, wrong) = (&mut me.expected, &mut self.totals.wrong);
        let arrived = me.pair.rx.recv_burst(BURST, |frame| {
            let good = number(frame) == Some(*expected);
            *wrong += u64::from(!good);
            *expected += 1;
        });
        // `recv_burst` has asked for the next call before this look found nothing: what comes from now on is announced.
        me.awake = arrived > 0;
        let bell = me.pair.rx.bell();
        if std::mem::replace(&mut me.kicked[0], bell.kicks_wanted()) != bell.kicks_wanted() {
            cpu.kick(2 * nic, bell);
            self.totals.kicks += 1;
        }
        self.totals.packets += arrived as u64;
        arrived as u64
    }
}

impl Program for Guest {
    fn run<C: Cpu>(&mut self, cpu: &C) {
        match self.job {
            Job::RoundTrips { count, pause } => self.round_trips(cpu, count, pause),
            Job::Stream { count } => self.stream(cpu, count),
            Job::Idle { cycles } => self.idle(cpu, cycles),
        }
        self.totals.calls = 0;
        for (number, nic) in self.nics.iter_mut().enumerate() {
            self.totals.calls += cpu.calls(2 * number, nic.pair.rx.bell());
            self.totals.calls += cpu.calls(2 * number + 1, nic.pair.tx.bell());
        }
    }
}

impl Nic {
    fn new(mut pair: QueuePair, number: u8) -> Self {
        // As drivers do: sent buffers are looked for when new ones are needed, nobody has to say that they are free.
        pair.tx.ring().set_calls(CallMode::Never);
        let mut frame = [0; FRAME];
        frame[..6].copy_from_slice(&mac(1 - number));
        frame[6..12].copy_from_slice(&mac(number));
        frame[12..14].copy_from_slice(&ETHERTYPE);
        Nic { pair, frame, next: 0, expected: 0, kicked: [0; 2], calls: 0, awake: true }
    }
}

fn mac(device: u8) -> [u8; 6] {
    [0x02, 0x5c, 0xee, 0, 0, device]
}

fn number(frame: &Received<'_>) -> Option<u64> {
    frame.array(NUMBER).map(u64::from_le_bytes)
}
