//! Which options make sense together.

use super::{GUESTS_MAX, GuestMode, Options, RingFormat, Switch, Verify, Workload};
use crate::error::Error;

/// Most packets that are sent beside pings at a time.
const BACKGROUND_BURST_MAX: usize = 8;

fn wrong(text: String) -> Result<(), Error> {
    Err(Error::Options(text))
}

impl Options {
    /// These options, if they make sense together.
    pub(crate) fn check(self) -> Result<Options, Error> {
        self.check_guests()?;
        self.check_counts()?;
        self.check_rings()?;
        self.check_times()?;
        Ok(self)
    }

    /// As many guests as the workload needs.
    fn check_guests(&self) -> Result<(), Error> {
        let count = self.guests.len();
        let (least, what) = match self.workload {
            Workload::Stream | Workload::Duplex | Workload::Mesh | Workload::Pingpong | Workload::Bursty => {
                (2, "two guests at least")
            }
            Workload::Source | Workload::Sink | Workload::Echo => (1, "a guest at least"),
            Workload::Ceiling if count > 0 => return wrong("ceiling has no switch and takes no --guest".into()),
            Workload::Ceiling => (0, ""),
        };
        if self.workload == Workload::Ceiling && self.indirect == Switch::On {
            return wrong("the forwarder of ceiling knows no indirect tables".to_owned());
        }
        if count < least {
            return wrong(format!("{} needs {what}: --guest SOCKET, once for each", self.name()));
        }
        if count + self.first_guest > GUESTS_MAX {
            return wrong(format!("{count} guests from number {} on: {GUESTS_MAX} at most", self.first_guest));
        }
        if self.workload == Workload::Ceiling && self.guest_mode == GuestMode::Interrupt {
            return wrong("the forwarder of ceiling calls nobody: --guest-mode poll".to_owned());
        }
        if count % 2 == 1
            && matches!(self.workload, Workload::Stream | Workload::Duplex | Workload::Bursty | Workload::Pingpong)
        {
            return wrong(format!("{} pairs its guests: {count} is an odd number of them", self.name()));
        }
        Ok(())
    }

    /// Nothing is counted that nobody looks at.
    fn check_counts(&self) -> Result<(), Error> {
        if self.in_flight.is_some_and(|limit| limit > 0) && self.verify == Verify::None {
            return wrong("--in-flight counts what has arrived: --verify order or full".to_owned());
        }
        if self.workload == Workload::Pingpong && self.verify == Verify::None {
            return wrong("pingpong tells packets by their numbers: --verify order or full".to_owned());
        }
        let streams = [Workload::Stream, Workload::Duplex, Workload::Mesh, Workload::Bursty];
        if self.live.is_some() && !streams.contains(&self.workload) {
            return wrong("--live counts flows from guest to guest: stream, duplex, mesh or bursty".to_owned());
        }
        if self.rates.is_some() && !streams.contains(&self.workload) && self.workload != Workload::Pingpong {
            return wrong("--rates is for guests that send to guests: stream, duplex, mesh or pingpong".to_owned());
        }
        Ok(())
    }

    /// Rings, bursts and buffers.
    fn check_rings(&self) -> Result<(), Error> {
        if !(1..=8).contains(&self.queue_pairs) {
            return wrong(format!("--queue-pairs {}: 1 to 8", self.queue_pairs));
        }
        if self.ring == RingFormat::Split && !self.ring_size.is_power_of_two() {
            return wrong(format!("--ring-size {}: a split ring has a power of two of entries", self.ring_size));
        }
        if !(2..=32768).contains(&self.ring_size) {
            return wrong(format!("--ring-size {}: 2 to 32768", self.ring_size));
        }
        if !(1..=256).contains(&self.macs) || !(1..=4096).contains(&self.flows) {
            return wrong("--macs is 1 to 256, --flows 1 to 4096".to_owned());
        }
        if self.buffers.is_some_and(|n| n == 0 || n > usize::from(self.ring_size)) {
            return wrong("--buffers is 1 to the ring size".to_owned());
        }
        if self.burst == 0 || self.window == 0 || self.window > usize::from(self.ring_size) {
            return wrong("--burst is 1 at least, --window 1 to the ring size".to_owned());
        }
        if !(1..=BACKGROUND_BURST_MAX).contains(&self.background_burst) {
            return wrong(format!("--background-burst is 1 to {BACKGROUND_BURST_MAX}"));
        }
        if self.rx_buffer.is_some_and(|n| !(128..=1 << 20).contains(&n)) {
            return wrong("--rx-buffer is 128 to 1048576".to_owned());
        }
        Ok(())
    }

    /// Times and rates.
    fn check_times(&self) -> Result<(), Error> {
        let times = [self.duration_s, self.connect_timeout_s, self.on_us, self.drain_s];
        if times.iter().any(|t| !t.is_finite() || *t <= 0.0) {
            return wrong("--duration-s, --connect-timeout-s, --on-us and --drain-s are greater than 0".to_owned());
        }
        let others = [self.warmup_s, self.off_us, self.rate, self.background_pps, self.patience_s];
        if others.iter().any(|t| !t.is_finite() || *t < 0.0) {
            return wrong("--warmup-s, --off-us, --rate, --background-pps and --patience-s are 0 or more".to_owned());
        }
        Ok(())
    }
}
