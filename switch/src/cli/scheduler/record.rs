//! `sidecore scheduler record`: a running switch's load, as `sidecore-simulate --shape recorded` reads it.
//!
//! The switch counts what guests send; this process asks it ten times a second, as `sidecore top` does, so that the switch does nothing for it otherwise.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow, bail};
use clap::{Args, value_parser};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::super::client::Client;
use super::super::{show, units};
use crate::snapshot::{PortKind, Snapshot};

/// Milliseconds of a line.
const LINE_MS: u64 = 100;
const LINES_A_SECOND: usize = 1000 / LINE_MS as usize;
/// A day. All lines are kept until the end.
const MOST_SECONDS: u64 = 86_400;

#[derive(Debug, Args)]
#[command(after_help = NOTES)]
pub(in crate::cli) struct RecordArgs {
    /// The file, which must not be there yet: CSV, so it may not end in .json.
    file: PathBuf,
    /// End after so many seconds, a day at the most; without it, at Ctrl-C.
    #[arg(long, value_name = "N", default_value_t = MOST_SECONDS, hide_default_value = true, value_parser = value_parser!(u64).range(1..=MOST_SECONDS))]
    seconds: u64,
}

const NOTES: &str = "\
Example:
  sidecore scheduler record monday.csv --seconds 600
  sidecore-simulate --shape recorded --recording monday.csv --cores 4     how would other policies do with that, on 4 I/O cores?

The file has a line for every 100 ms and a column for every queue pair that was served: packets pulled from it, which is all that the
simulator knows of load. Bursts shorter than that come out flat; what uplinks bring is not in it. The file is there when it is whole.";

/// Records until it is enough, until a signal, or for as long as the switch runs.
pub(in crate::cli) fn execute(client: &Client, args: &RecordArgs) -> Result<()> {
    let is_over = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The second of them does not wait for a switch that does not answer.
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&is_over))?;
        flag::register(signal, Arc::clone(&is_over))?;
    }
    let file = Unfinished::create(&args.file)?;
    let lines = args.seconds as usize * LINES_A_SECOND;
    let mut recording = Recording::new(&show::snapshot(client)?);
    say(&format!("recording into {}; Ctrl-C ends it", args.file.display()));
    let ended = follow(client, &mut recording, lines, &is_over);
    recording.lines = recording.lines.min(lines);
    let text = match recording.csv() {
        Some(text) => text,
        None => return Err(ended.err().unwrap_or_else(|| anyhow!("no guest was served: there is nothing to record"))),
    };
    file.finish(&text)?;
    say(&recording.summary(&args.file));
    ended
}

/// Asks the switch again and again.
fn follow(client: &Client, recording: &mut Recording, lines: usize, is_over: &AtomicBool) -> Result<()> {
    let line = Duration::from_millis(LINE_MS);
    let mut next = Instant::now();
    while recording.lines < lines && !is_over.load(Ordering::Relaxed) {
        next = (next + line).max(Instant::now());
        thread::sleep(next.saturating_duration_since(Instant::now()));
        let snapshot = show::snapshot(client).context("the recording ends here")?;
        if !recording.take(&snapshot) {
            bail!("the switch was started anew: the recording ends here");
        }
    }
    Ok(())
}

/// One queue pair.
#[derive(Debug, Default)]
struct Column {
    /// Totals, as of the last time.
    packets: u64,
    cycles: u64,
    /// Whether it was ever served.
    is_used: bool,
    /// Packets by line, as far as there were any.
    lines: Vec<f64>,
}

#[derive(Debug)]
struct Recording {
    pid: u32,
    tsc_hz: u64,
    /// Uptimes of the switch, in milliseconds.
    begun: u64,
    last: u64,
    columns: BTreeMap<(String, usize), Column>,
    /// Lines that are whole.
    lines: usize,
    packets: u64,
    cycles: u64,
}

impl Recording {
    fn new(first: &Snapshot) -> Self {
        let Snapshot { pid, tsc_hz, uptime_ms, .. } = *first;
        let mut recording = Self {
            pid,
            tsc_hz,
            begun: uptime_ms,
            last: uptime_ms,
            columns: BTreeMap::new(),
            lines: 0,
            packets: 0,
            cycles: 0,
        };
        recording.each(first, |column, packets, cycles| (column.packets, column.cycles) = (packets, cycles));
        recording
    }

    /// Does something with every queue pair of the guests, and what was pulled from it since the start at which cost.
    fn each(&mut self, snapshot: &Snapshot, mut with: impl FnMut(&mut Column, u64, u64)) {
        for port in snapshot.ports.iter().filter(|port| port.kind == PortKind::Guest) {
            for queue in &port.queues {
                let column = self.columns.entry((port.name.clone(), queue.index)).or_default();
                column.is_used |= queue.io_core.is_some();
                with(column, queue.tx.packets, queue.busy_cycles);
            }
        }
    }

    /// Takes what was counted since the last time. Whether it is still the same run of the switch.
    fn take(&mut self, now: &Snapshot) -> bool {
        if now.pid != self.pid || now.uptime_ms < self.last {
            return false;
        }
        // Milliseconds since the first line's beginning.
        let (from, to) = (self.last - self.begun, now.uptime_ms - self.begun);
        if from == to {
            return true;
        }
        let (mut packets, mut cycles) = (0, 0);
        self.each(now, |column, total, cost| {
            // One that was removed and added again begins at 0.
            let sent = total.checked_sub(column.packets).unwrap_or(total);
            packets += sent;
            cycles += cost.checked_sub(column.cycles).unwrap_or(cost);
            (column.packets, column.cycles) = (total, cost);
            column.spread(sent, from, to);
        });
        self.packets += packets;
        self.cycles += cycles;
        self.last = now.uptime_ms;
        self.lines = (to / LINE_MS) as usize;
        true
    }

    /// The file; nothing, where no queue pair was served for a line.
    fn csv(&self) -> Option<String> {
        let used: Vec<_> = self.columns.iter().filter(|(_, column)| column.is_used).collect();
        if used.is_empty() || self.lines == 0 {
            return None;
        }
        let name = |((port, queue), _): &(&(String, usize), &Column)| match queue {
            0 => format!("\"{port}\""),
            queue => format!("\"{port}/{queue}\""),
        };
        let mut text = format!("# tick_ms = {LINE_MS}\n{}\n", used.iter().map(name).collect::<Vec<_>>().join(","));
        // Parts of packets that lines before had too much.
        let mut left = vec![0.0; used.len()];
        for line in 0..self.lines {
            for (place, ((_, column), left)) in used.iter().zip(&mut left).enumerate() {
                *left += column.lines.get(line).copied().unwrap_or(0.0);
                let whole = (*left + 0.5).floor().max(0.0);
                *left -= whole;
                let _ = write!(text, "{}{whole}", if place == 0 { "" } else { "," });
            }
            text.push('\n');
        }
        Some(text)
    }

    fn summary(&self, file: &Path) -> String {
        let queues = self.columns.values().filter(|column| column.is_used).count();
        let seconds = self.lines as f64 / LINES_A_SECOND as f64;
        let mut text = format!(
            "{}: {seconds:.1} s, {queues} queue pairs, {} packets",
            file.display(),
            units::short(self.packets as f64)
        );
        if self.packets > 0 && self.tsc_hz > 0 {
            let ns = self.cycles as f64 * 1e9 / self.tsc_hz as f64 / self.packets as f64;
            let _ = write!(text, "; they cost {ns:.0} ns each: sidecore-simulate --packet-ns {ns:.0}");
        }
        text
    }
}

impl Column {
    /// Packets of some milliseconds into the lines that these are in, as if they had come evenly.
    fn spread(&mut self, packets: u64, from: u64, to: u64) {
        if packets == 0 {
            return;
        }
        self.is_used = true;
        for line in from / LINE_MS..=(to - 1) / LINE_MS {
            let within = to.min((line + 1) * LINE_MS) - from.max(line * LINE_MS);
            let line = line as usize;
            if self.lines.len() <= line {
                self.lines.resize(line + 1, 0.0);
            }
            self.lines[line] += packets as f64 * within as f64 / (to - from) as f64;
        }
    }
}

/// A file that has another name until it is whole.
struct Unfinished {
    path: PathBuf,
    part: PathBuf,
    file: File,
}

impl Unfinished {
    fn create(path: &Path) -> Result<Self> {
        if path.extension().is_some_and(|extension| extension == "json") {
            bail!("a recording is CSV: name {} so", path.display());
        }
        if path.exists() {
            bail!("{} is there already: name another file, or remove it first", path.display());
        }
        let mut part = OsString::from(path);
        part.push(".part");
        let part = PathBuf::from(part);
        let file = File::create(&part).with_context(|| format!("{} cannot be written", part.display()))?;
        Ok(Self { path: path.to_owned(), part, file })
    }

    fn finish(mut self, text: &str) -> Result<()> {
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_all());
        let renamed = written.and_then(|()| fs::rename(&self.part, &self.path));
        renamed.map_err(Error::from).with_context(|| format!("{} cannot be written", self.path.display()))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // It has its other name by now, or is of no use.
        let _ = fs::remove_file(&self.part);
    }
}

fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{PortSnapshot, QueueSnapshot, Traffic};

    /// Packets so far of the queue pairs of some guests; none is served that has sent nothing.
    fn snapshot(uptime_ms: u64, guests: &[(&str, &[u64])]) -> Snapshot {
        let queue = |(index, packets): (usize, &u64)| QueueSnapshot {
            index,
            io_core: (*packets > 0).then_some(0),
            tx: Traffic { packets: *packets, bytes: 0 },
            busy_cycles: packets * 500,
            ..QueueSnapshot::default()
        };
        let port = |(name, packets): &(&str, &[u64])| PortSnapshot {
            name: (*name).to_owned(),
            queues: packets.iter().enumerate().map(queue).collect(),
            ..PortSnapshot::default()
        };
        let ports = guests.iter().map(port).collect();
        Snapshot { pid: 7, uptime_ms, tsc_hz: 2_000_000_000, ports, ..Snapshot::default() }
    }

    #[test]
    fn packets_are_in_the_lines_in_which_they_came() {
        let mut recording = Recording::new(&snapshot(1050, &[("a", &[1000, 0]), ("idle", &[0])]));
        assert!(recording.take(&snapshot(1150, &[("a", &[1010, 0]), ("idle", &[0])])));
        assert!(recording.take(&snapshot(1150, &[("a", &[1011, 0])])), "no time has passed");
        // An answer that came late: 150 ms, of which two thirds are the second line's.
        assert!(recording.take(&snapshot(1300, &[("a", &[1040, 0]), ("idle", &[0])])));
        // One comes, another is added anew.
        assert!(recording.take(&snapshot(1350, &[("a", &[20, 7]), ("b", &[3])])));
        assert!(recording.take(&snapshot(1399, &[("a", &[1000, 7]), ("b", &[3])])));
        let text = recording.csv().unwrap();
        assert_eq!(text, "# tick_ms = 100\n\"a\",\"a/1\",\"b\"\n10,0,0\n20,0,0\n30,7,3\n");
        let summary = recording.summary(Path::new("x.csv"));
        assert!(summary.starts_with("x.csv: 0.3 s, 3 queue pairs, 1.05k packets; they cost 250 ns each"), "{summary}");
        assert!(!recording.take(&Snapshot { pid: 8, ..snapshot(2000, &[]) }));
        assert!(!recording.take(&snapshot(20, &[])));
    }

    #[test]
    fn nothing_is_lost_or_added_by_rounding() {
        let mut recording = Recording::new(&snapshot(0, &[("a", &[0])]));
        let mut total = 0;
        for step in 1..=300 {
            total += step % 7;
            assert!(recording.take(&snapshot(step * 37, &[("a", &[total])])));
        }
        let text = recording.csv().unwrap();
        let recorded: u64 = text.lines().skip(2).map(|line| line.parse::<u64>().unwrap()).sum();
        assert_eq!(recorded, total, "300 times 37 ms are 111 lines");
    }

    #[test]
    fn a_file_is_whole_or_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("load.csv");
        let names = || fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
        drop(Unfinished::create(&path).unwrap());
        assert!(names().is_empty());
        let file = Unfinished::create(&path).unwrap();
        assert!(!path.exists());
        file.finish("1\n").unwrap();
        assert_eq!((names(), fs::read_to_string(&path).unwrap().as_str()), (vec!["load.csv".into()], "1\n"));
        let error = Unfinished::create(&path).err().unwrap().to_string();
        assert!(error.ends_with("load.csv is there already: name another file, or remove it first"), "{error}");
        assert!(Unfinished::create(&folder.path().join("load.json")).is_err());
    }
}
