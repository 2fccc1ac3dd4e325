//! DPDK's testpmd: a virtio guest (virtio-user) or a vhost backend (net_vhost), driven through its prompt.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::Process;

const START_DEADLINE: Duration = Duration::from_secs(30);
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// How a testpmd is started.
#[derive(Debug, Clone, Default)]
pub struct TestpmdOptions {
    /// CPUs: the first for the prompt, the others to forward. They may be the same.
    pub cpus: Vec<usize>,
    /// `--vdev` arguments, one port each.
    pub vdevs: Vec<String>,
    /// More EAL arguments.
    pub eal: Vec<String>,
    /// Arguments after `--`.
    pub args: Vec<String>,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Whether its memory is on hugepages. It cannot be shared then, so virtio-user ports do not work.
    pub hugepages: bool,
}

impl TestpmdOptions {
    /// A testpmd with these ports, all of it on CPU 0: the tests' switch polls on the last one.
    #[must_use]
    pub fn new(vdevs: &[&str]) -> Self {
        Self {
            cpus: vec![0, 0],
            vdevs: vdevs.iter().map(|vdev| (*vdev).to_owned()).collect(),
            eal: Vec::new(),
            args: Vec::new(),
            memory_mib: 256,
            hugepages: false,
        }
    }

    /// Adds arguments after `--`.
    #[must_use]
    pub fn with(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    fn command(&self, prefix: &str) -> Vec<String> {
        let lcores: Vec<String> = self.cpus.iter().enumerate().map(|(lcore, cpu)| format!("{lcore}@{cpu}")).collect();
        let mut args = vec![
            "dpdk-testpmd".to_owned(),
            format!("--lcores={}", lcores.join(",")),
            if self.hugepages { "--in-memory" } else { "--no-huge" }.to_owned(),
            "--no-pci".to_owned(),
            "--no-telemetry".to_owned(),
            "-m".to_owned(),
            self.memory_mib.to_string(),
            format!("--file-prefix={prefix}"),
        ];
        args.extend(self.eal.iter().cloned());
        args.extend(self.vdevs.iter().map(|vdev| format!("--vdev={vdev}")));
        args.extend(["--", "--interactive", "--no-mlockall", "--total-num-mbufs=16384"].map(str::to_owned));
        args.extend(self.args.iter().cloned());
        args
    }
}

/// Counters of one testpmd port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Packets received by testpmd.
    pub rx_packets: u64,
    /// Packets sent by testpmd.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
}

/// A running testpmd. Dropping it ends it.
#[derive(Debug)]
pub struct Testpmd {
    process: Process,
    _dir: TempDir,
    /// EAL's own folder, which a DPDK program leaves behind.
    runtime_dir: PathBuf,
    command_line: String,
    prompts_used: u32,
}

impl Testpmd {
    /// Starts testpmd and waits for its prompt.
    ///
    /// Without hugepages its memory can still be shared with a backend, as virtio-user needs: EAL takes it from one memfd.
    pub fn start(name: &str, options: &TestpmdOptions) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("sidecore-testpmd-").tempdir()?;
        let prefix = format!("sct{}n{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let command = options.command(&prefix);
        // Through stdbuf, or answers would wait in a buffer while the echo of the next command overtakes them.
        let mut args = vec!["-oL".to_owned()];
        args.extend(command.iter().cloned());
        let log = dir.path().join("testpmd.log");
        let mut process = Process::spawn(&format!("testpmd {name}"), "stdbuf", &args, &log)?;
        process.wait_for_output("testpmd> ", START_DEADLINE)?;
        let runtime_dir = Path::new("/var/run/dpdk").join(prefix);
        Ok(Self { process, _dir: dir, runtime_dir, command_line: command.join(" "), prompts_used: 0 })
    }

    /// How it was started.
    #[must_use]
    pub fn command_line(&self) -> &str {
        &self.command_line
    }

    /// Types a command and returns what testpmd printed before its next prompt.
    pub fn command(&mut self, line: &str) -> Result<String> {
        let from = self.process.output().len();
        // A marker that testpmd echoes as an error of its own: prompts alone can come from ports that change their state.
        self.prompts_used += 1;
        let marker = format!("marker{}", self.prompts_used);
        self.process.say(line)?;
        self.process.say(&marker)?;
        self.process.wait_until(&format!("answer to {line:?}"), ANSWER_DEADLINE, |process| {
            let output = process.output();
            let answer = output.get(from..).unwrap_or_default();
            let Some(at) = answer.find(&marker) else { return Ok(None) };
            let end = answer[at..].contains('\n');
            Ok(end.then(|| answer[..at].to_owned()))
        })
    }

    /// Counters of a port.
    pub fn stats(&mut self, port: u32) -> Result<PortStats> {
        let text = self.command(&format!("show port stats {port}"))?;
        let values = numbers(&text);
        let get = |name: &str| values.get(name).copied().with_context(|| format!("no {name} in {text}"));
        Ok(PortStats {
            rx_packets: get("RX-packets")?,
            tx_packets: get("TX-packets")?,
            rx_bytes: get("RX-bytes")?,
            tx_bytes: get("TX-bytes")?,
        })
    }

    /// Extended counters of a port, by name.
    pub fn xstats(&mut self, port: u32) -> Result<BTreeMap<String, u64>> {
        Ok(numbers(&self.command(&format!("show port xstats {port}"))?))
    }

    /// Waits until a port's counters satisfy `condition`.
    pub fn wait_for_stats(
        &mut self,
        port: u32,
        timeout: Duration,
        condition: impl Fn(&PortStats) -> bool,
    ) -> Result<PortStats> {
        let deadline = Instant::now() + timeout;
        loop {
            let stats = self.stats(port)?;
            if condition(&stats) {
                return Ok(stats);
            }
            ensure!(Instant::now() < deadline, "port {port} stays at {stats:?}\n{}", self.process.tail());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// All it has printed.
    #[must_use]
    pub fn output(&self) -> String {
        self.process.output()
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Ends testpmd as its user would, so that it closes its ports.
    pub fn quit(mut self) -> Result<()> {
        self.process.say("quit")?;
        if self.process.wait(Duration::from_secs(15)).is_err() {
            self.process.stop(Signal::TERM, Duration::from_secs(15))?;
        }
        Ok(())
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        // Ended or not, and there or not.
        let _ = self.process.kill();
        let _ = std::fs::remove_dir_all(&self.runtime_dir);
    }
}

/// All `name: number` pairs of a text.
fn numbers(text: &str) -> BTreeMap<String, u64> {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.windows(2).filter_map(|pair| Some((pair[0].strip_suffix(':')?.to_owned(), pair[1].parse().ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_in_testpmds_tables() {
        let text =
            "  RX-packets: 12   RX-missed: 0   RX-bytes:  720\n rx_q0_packets: 5\nThroughput (since last show)\n";
        let values = numbers(text);
        assert_eq!(values.get("RX-bytes"), Some(&720));
        assert_eq!(values.get("rx_q0_packets"), Some(&5));
    }
}
