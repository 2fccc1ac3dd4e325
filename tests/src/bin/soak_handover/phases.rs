//! What the guests do, one phase after the other.

use std::fmt;
use std::path::{Path, PathBuf};

/// Guests, each at a port of the switch.
pub(crate) const GUESTS: usize = 6;
/// Queue pairs that each port offers.
pub(crate) const QUEUE_PAIRS: usize = 4;

/// Packets that may be under way in all: fewer than a ring between two I/O cores has room for, should all of them be there.
const UNDER_WAY: usize = 1700;
/// Receive buffers that may not be in the ring, because the guest gives them back 32 at a time, or that the frames take by which the
/// switch learns addresses.
const NOT_THERE: usize = 32 + 32;

/// Who sends to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Talk {
    /// Every guest to every other.
    Mesh,
    /// Guests in pairs, in both directions.
    Duplex,
}

/// A phase.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Phase {
    talk: Talk,
    ring: &'static str,
    ring_size: usize,
    /// Of each guest.
    pub(crate) queue_pairs: usize,
    size: &'static str,
    more: &'static [&'static str],
}

/// Name of a guest's port.
pub(crate) fn name(guest: usize) -> String {
    format!("g{guest}")
}

/// All phases.
pub(crate) fn all() -> Vec<Phase> {
    let phase =
        |talk, ring, ring_size, queue_pairs, size, more| Phase { talk, ring, ring_size, queue_pairs, size, more };
    vec![
        phase(Talk::Mesh, "split", 1024, 1, "64", &[]),
        phase(Talk::Duplex, "packed", 1024, 4, "mix", &[]),
        phase(Talk::Mesh, "packed", 1024, 2, "1518", &[]),
        phase(Talk::Duplex, "split", 256, 1, "mix", &[]),
        phase(Talk::Mesh, "split", 1024, 4, "mix", &["--event-idx", "on"]),
        phase(Talk::Duplex, "packed", 1024, 1, "64", &["--event-idx", "on"]),
        phase(Talk::Mesh, "packed", 1024, 1, "mix", &["--in-order", "on"]),
        phase(Talk::Duplex, "split", 1024, 2, "1518", &["--indirect", "on"]),
        phase(Talk::Mesh, "packed", 1024, 4, "64", &["--indirect", "on"]),
        phase(Talk::Duplex, "split", 1024, 1, "594", &["--in-order", "on", "--rx-buffer", "256"]),
    ]
}

impl Phase {
    /// Packets that each queue pair may have under way, so that none is without a place, wherever all of them wait.
    pub(crate) fn in_flight(&self) -> usize {
        let senders = match self.talk {
            Talk::Mesh => GUESTS - 1,
            Talk::Duplex => 1,
        };
        // A frame may take several small buffers.
        let buffers_each = if self.more.contains(&"--rx-buffer") { 3 } else { 1 };
        // All of the packets to a guest may be for one of its queue pairs.
        let by_receiver = (self.ring_size - NOT_THERE) / buffers_each / (senders * self.queue_pairs);
        by_receiver.min(UNDER_WAY / (GUESTS * self.queue_pairs))
    }

    /// The generator's arguments.
    pub(crate) fn arguments(&self, sockets: &[PathBuf], cpu: usize, live: &Path, json: &Path) -> Vec<String> {
        let workload = match self.talk {
            Talk::Mesh => "mesh",
            Talk::Duplex => "duplex",
        };
        let mut args = vec![workload.to_owned()];
        let mut add = |name: &str, value: String| args.extend([format!("--{name}"), value]);
        sockets.iter().for_each(|socket| add("guest", socket.display().to_string()));
        add("ring", self.ring.to_owned());
        add("ring-size", self.ring_size.to_string());
        add("queue-pairs", self.queue_pairs.to_string());
        // More flows than queue pairs, or some receive rings would have none.
        add("flows", (2 * self.queue_pairs).to_string());
        add("size", self.size.to_owned());
        add("verify", "full".to_owned());
        add("in-flight", self.in_flight().to_string());
        // Not one packet more, and all the time it takes for the last ones: CPUs may be shared.
        add("patience-s", "0".to_owned());
        add("drain-s", "4".to_owned());
        // Until it is told to stop.
        add("duration-s", "86400".to_owned());
        add("connect-timeout-s", "60".to_owned());
        add("cpu", cpu.to_string());
        add("hugepages", "off".to_owned());
        add("live", live.display().to_string());
        add("json", json.display().to_string());
        args.extend(self.more.iter().map(|word| (*word).to_owned()));
        args
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let talk = match self.talk {
            Talk::Mesh => "everybody to everybody",
            Talk::Duplex => "two by two",
        };
        write!(f, "{talk}, {} rings of {}, {} queue pairs, ", self.ring, self.ring_size, self.queue_pairs)?;
        write!(f, "size {}, {} in flight each", self.size, self.in_flight())?;
        if self.more.is_empty() { Ok(()) } else { write!(f, ", {}", self.more.join(" ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_shapes_are_there() {
        let phases = all();
        let some = |what: &dyn Fn(&Phase) -> bool| phases.iter().any(what);
        for talk in [Talk::Mesh, Talk::Duplex] {
            for ring in ["split", "packed"] {
                assert!(some(&|p| (p.talk, p.ring) == (talk, ring)), "{talk:?} {ring}");
            }
        }
        assert!(["64", "1518", "mix"].iter().all(|size| some(&|p| p.size == *size)));
        assert!([1, 2, 4].iter().all(|pairs| some(&|p| p.queue_pairs == *pairs)));
    }

    #[test]
    fn there_is_room_for_all_that_may_be_under_way() {
        for phase in all() {
            let senders = if phase.talk == Talk::Mesh { GUESTS - 1 } else { 1 };
            let to_one = phase.in_flight() * phase.queue_pairs * senders;
            assert!(to_one < phase.ring_size, "{phase}");
            assert!(phase.in_flight() * phase.queue_pairs * GUESTS <= UNDER_WAY, "{phase}");
            // And enough for the goal: those from the queue pair and those to its guest.
            assert!(phase.in_flight() + to_one >= 200, "{phase}");
        }
    }
}
