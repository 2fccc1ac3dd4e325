//! The generator, and what it counts.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde::Deserialize;
use sidecore_tests::interrupt::Interrupt;
use sidecore_tests::paths;
use sidecore_tests::process::Process;

use crate::phases::Phase;

/// What connecting, learning and stopping may take where others want the CPUs, too.
const LIMIT: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(5);
/// Packets that show that traffic flows.
const FLOWING: u64 = 1000;

/// One generator under way.
pub(crate) struct Traffic {
    process: Process,
    live: PathBuf,
    json: PathBuf,
}

/// What became of the packets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Counts {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) reordered: u64,
    pub(crate) corrupted: u64,
    /// Too far behind to say whether they are duplicates.
    pub(crate) late: u64,
    /// For another guest.
    pub(crate) misdelivered: u64,
    /// What no driver could accept in a ring.
    pub(crate) ring_faults: u64,
}

/// A flow's row in the generator's file of counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    from: usize,
    queue: usize,
    to: usize,
    sent: u64,
    received: u64,
}

/// All flows at one moment.
pub(crate) struct Live(Vec<Row>);

impl Live {
    fn parse(bytes: &[u8]) -> Self {
        const WORD: usize = 8;
        let words: Vec<u64> =
            bytes.chunks_exact(WORD).map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default())).collect();
        let row = |row: &[u64]| Row {
            from: row[0] as usize,
            queue: row[1] as usize,
            to: row[2] as usize,
            sent: row[3],
            received: row[4],
        };
        Self(words.chunks_exact(5).map(row).collect())
    }

    /// Packets that have arrived.
    pub(crate) fn received(&self) -> u64 {
        self.0.iter().map(|row| row.received).sum()
    }

    /// Packets under way that a queue pair has sent, or that are for its guest.
    pub(crate) fn in_flight(&self, guest: usize, queue: usize) -> u64 {
        let concerned = |row: &&Row| (row.from, row.queue) == (guest, queue) || row.to == guest;
        self.0.iter().filter(concerned).map(|row| row.sent.saturating_sub(row.received)).sum()
    }
}

impl Traffic {
    pub(crate) fn start(phase: &Phase, sockets: &[PathBuf], cpu: usize, folder: &Path) -> Result<Self> {
        let (live, json) = (folder.join("ringgen.live"), folder.join("ringgen.json"));
        for old in [&live, &json] {
            // What the last one wrote must not be taken for this one's.
            let _ = std::fs::remove_file(old);
        }
        let args = phase.arguments(sockets, cpu, &live, &json);
        let process = Process::spawn("ringgen", paths::ringgen()?, args, &folder.join("ringgen.log"))?;
        Ok(Self { process, live, json })
    }

    pub(crate) fn wait_until_it_flows(&mut self, interrupt: &Interrupt) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while self.live().is_none_or(|live| live.received() < FLOWING) {
            interrupt.check()?;
            self.ensure_running()?;
            ensure!(Instant::now() < deadline, "no traffic within {LIMIT:?}\n{}", self.process.tail());
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    pub(crate) fn ensure_running(&mut self) -> Result<()> {
        self.process.ensure_running()
    }

    /// The counts of this moment, once there are some.
    pub(crate) fn live(&self) -> Option<Live> {
        std::fs::read(&self.live).ok().map(|bytes| Live::parse(&bytes))
    }

    /// Lets it stop sending and receive what is under way, and reads what it has counted.
    pub(crate) fn finish(mut self, interrupt: &Interrupt) -> Result<Counts> {
        self.process.signal(Signal::INT)?;
        let deadline = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.process.exited()? {
                break status;
            }
            interrupt.check()?;
            ensure!(Instant::now() < deadline, "ringgen did not stop within {LIMIT:?}\n{}", self.process.tail());
            std::thread::sleep(POLL);
        };
        if !status.success() {
            bail!("ringgen ended with {status}\n{}", self.process.tail());
        }
        let text = std::fs::read_to_string(&self.json).with_context(|| self.json.display().to_string())?;
        serde_json::from_str(&text).with_context(|| format!("unexpected report of ringgen: {text}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_in_flight_are_those_that_a_move_concerns() {
        let rows = [[0, 0, 1, 100, 90], [0, 1, 1, 50, 20], [1, 0, 0, 70, 65], [2, 0, 3, 900, 100]];
        let bytes: Vec<u8> = rows.iter().flatten().flat_map(|word: &u64| word.to_le_bytes()).collect();
        let live = Live::parse(&bytes);
        assert_eq!(live.received(), 275);
        assert_eq!(live.in_flight(0, 0), 10 + 5);
        assert_eq!(live.in_flight(0, 1), 30 + 5);
        assert_eq!(live.in_flight(1, 0), 10 + 30 + 5);
        assert_eq!(live.in_flight(4, 0), 0);
    }

    #[test]
    fn a_report_that_lacks_a_count_is_refused() {
        let text = r#"{"sent":1,"received":1,"lost":0,"duplicated":0,"reordered":0,"corrupted":0,"late":0,
            "misdelivered":0,"ring_faults":0,"pps":1.0}"#;
        assert_eq!(serde_json::from_str::<Counts>(text).unwrap().received, 1);
        assert!(serde_json::from_str::<Counts>(&text.replace("\"lost\":0,", "")).is_err());
        assert!(serde_json::from_str::<Counts>(&text.replace("\"late\":0", "\"late\":null")).is_err());
    }
}
