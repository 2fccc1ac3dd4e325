//! Traffic between any two hosts: pings, streams whose SHA-256 is compared, iperf3.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::guest::DIGEST_PORT;
use crate::host::Host;
use crate::net::Outside;
use crate::process::Process;

/// Slowest rate at which a stream is still waited for: TCG guests on two busy CPUs manage several times this.
const SLOWEST_BYTES_PER_SECOND: u64 = 200_000;

/// Sends `count` pings from `from` to `address` (IPv4 or IPv6). Every one must be answered.
pub fn ping(from: &dyn Host, address: &str, count: u32) -> Result<()> {
    // The first one may wait for ARP and for ports that are just coming up.
    let warm_up = format!("for i in 1 2 3 4 5 6 7 8; do busybox ping -c 1 -W 1 {address} && exit 0; done; exit 1");
    from.sh_within(&warm_up, Duration::from_secs(20)).with_context(|| format!("{address} cannot be reached"))?;
    // Apart by 200 ms: a lost answer shows as lost, not as late.
    let output = from.sh_within(
        &format!("for i in $(busybox seq {count}); do busybox ping -c 1 -W 3 {address} || exit 1; done"),
        Duration::from_secs(u64::from(count) * 4 + 5),
    )?;
    let answered = output.matches("1 packets received").count();
    ensure!(answered == count as usize, "{answered} of {count} pings from {} to {address} were answered", from.name());
    Ok(())
}

/// Sends `mib` MiB of random data over TCP to the digest server at `address` and compares its SHA-256 with the sender's.
pub fn transfer(from: &dyn Host, address: &str, mib: u32) -> Result<()> {
    let bytes = u64::from(mib) << 20;
    let timeout = Duration::from_secs(30 + bytes / SLOWEST_BYTES_PER_SECOND);
    let data = format!("/tmp/random-{mib}M");
    let script = format!(
        "test -f {data} || busybox dd if=/dev/urandom of={data} bs=1048576 count={mib} 2>/dev/null; \
         busybox sha256sum <{data}; busybox nc {address} {DIGEST_PORT} <{data}"
    );
    let output = from
        .sh_within(&script, timeout)
        .with_context(|| format!("{mib} MiB from {} to {address} did not arrive", from.name()))?;
    let sums: Vec<&str> = output.lines().filter_map(|line| line.strip_suffix("  -")).collect();
    match sums[..] {
        [sent, received] if sent == received => Ok(()),
        [sent, received] => bail!("{} sent SHA-256 {sent} to {address}, which received {received}", from.name()),
        _ => bail!("{} to {address}: unexpected output: {output}", from.name()),
    }
}

/// What an outside host needs to take part: the servers that every guest has by itself.
#[derive(Debug)]
pub struct OutsideServers {
    _digest: Process,
    _iperf3: Process,
}

impl OutsideServers {
    /// Starts the servers in the namespace. `dir` holds their logs.
    pub fn start(outside: &Outside, dir: &Path) -> Result<Self> {
        let port = DIGEST_PORT.to_string();
        let serve = |name: &str, args: &[&str]| {
            let command = outside.netns().command(args);
            Process::spawn(name, &command[0], &command[1..], &dir.join(format!("{name}.log")))
        };
        Ok(Self {
            _digest: serve("digest", &["busybox", "nc", "-ll", "-p", &port, "-e", "/bin/busybox", "sha256sum"])?,
            _iperf3: serve("iperf3", &["iperf3", "-s"])?,
        })
    }
}

/// One iperf3 run: who sends, who receives.
pub struct Stream<'a> {
    /// The sending host.
    pub from: &'a dyn Host,
    /// The receiving host.
    pub to: &'a dyn Host,
    /// The receiver's address.
    pub address: &'a str,
}

/// What an iperf3 run has moved.
#[derive(Debug, Clone, Copy)]
pub struct StreamResult {
    /// Bytes that the receiver got.
    pub bytes: u64,
    /// How long that took.
    pub seconds: f64,
}

impl Stream<'_> {
    /// Runs iperf3 over TCP for `seconds`.
    pub fn run_for(&self, seconds: u32) -> Result<StreamResult> {
        self.run(&format!("-t {seconds}"), Duration::from_secs(u64::from(seconds) + 20))
    }

    /// Runs iperf3 over TCP until `bytes` are sent. The receiver's count may end a little short of that.
    pub fn run_bytes(&self, bytes: u64) -> Result<StreamResult> {
        self.run(&format!("-n {bytes}"), Duration::from_secs(30 + bytes / SLOWEST_BYTES_PER_SECOND))
    }

    fn run(&self, amount: &str, timeout: Duration) -> Result<StreamResult> {
        let name = format!("{} to {}", self.from.name(), self.to.name());
        // What still waits in the sender's buffer at the end is not counted by the receiver: keep the buffer small.
        let client = format!("iperf3 -J -w 256K --connect-timeout 5000 -c {} {amount}", self.address);
        let output = self.from.sh_within(&client, timeout).with_context(|| name.clone())?;
        let report: Value = serde_json::from_str(&output).with_context(|| format!("{name}: {output}"))?;
        if let Some(error) = report["error"].as_str() {
            bail!("{name}: iperf3: {error}");
        }
        let received = &report["end"]["sum_received"];
        let bytes = received["bytes"].as_u64().with_context(|| format!("{name}: no byte count from iperf3"))?;
        Ok(StreamResult { bytes, seconds: received["seconds"].as_f64().unwrap_or_default() })
    }
}
