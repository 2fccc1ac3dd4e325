//! A `dpdk-testpmd` process that forwards between two vhost-user ports, and traffic through it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use synthetic_guest::packet::{FrameSpec, Template, now_ns};
use synthetic_guest::verify::{Report, Verifier};
use synthetic_guest::{Frame, Guest, GuestConfig, QueuePair};

/// Which end of its sockets testpmd is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sockets {
    /// testpmd listens.
    Server,
    /// testpmd connects.
    Client,
}

/// The running process; killed when dropped.
pub(crate) struct Testpmd {
    child: Child,
    folder: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

/// Two testpmd processes at a time would starve each other, and the guests, on a small machine.
static ALONE: Mutex<()> = Mutex::new(());

/// Reports a skipped test where the run collects them.
fn skip(test: &str, reason: &str) {
    println!("SKIP {test}: {reason}");
    let Some(log) = std::env::var_os("SIDECORE_SKIP_LOG") else { return };
    let file = std::fs::OpenOptions::new().create(true).append(true).open(log);
    file.and_then(|mut file| writeln!(file, "{test}: {reason}")).expect("the skip is recorded");
}

impl Testpmd {
    /// Whether there is a testpmd on this machine; reports `test` as skipped when there is not.
    pub(crate) fn installed(test: &str) -> bool {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&paths).any(|folder| folder.join("dpdk-testpmd").is_file());
        if !found {
            skip(test, "dpdk-testpmd is not installed");
        }
        found
    }

    /// Starts testpmd with two vhost ports of `queues` queue pairs in io mode.
    pub(crate) fn start(sockets: Sockets, queues: usize) -> Testpmd {
        // A test that failed while it held the machine leaves nothing behind that matters.
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let client = u8::from(sockets == Sockets::Client);
        let vdev = |port: usize| {
            let path = folder.path().join(format!("{port}.sock"));
            format!("--vdev=net_vhost{port},iface={},queues={queues},client={client}", path.display())
        };
        let log = std::fs::File::create(folder.path().join("log")).expect("a log file");
        let mut command = Command::new("dpdk-testpmd");
        // It wants two threads, the second of which forwards.
        let last = std::thread::available_parallelism().map_or(0, |cpus| cpus.get().min(2) - 1);
        let lcores = format!("--lcores=0@0,1@{last}");
        command.args([&lcores, "--no-huge", "-m", "256", "--no-pci", "--no-telemetry", "--no-shconf"]);
        command.args([vdev(0), vdev(1)]).arg("--");
        command.args(["--forward-mode=io", "--auto-start", "--no-mlockall", "--total-num-mbufs=8192", "--rxd=512"]);
        command.args(["--txd=512".into(), format!("--rxq={queues}"), format!("--txq={queues}")]);
        // It runs until its standard input ends.
        command.stdin(Stdio::piped()).stdout(log.try_clone().expect("a second handle")).stderr(log);
        let child = command.spawn().expect("dpdk-testpmd starts");
        Testpmd { child, folder, _alone: alone }
    }

    /// Socket of port 0 or 1.
    pub(crate) fn socket(&self, port: usize) -> PathBuf {
        self.folder.path().join(format!("{port}.sock"))
    }

    /// What it has printed.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(Path::join(self.folder.path(), "log")).unwrap_or_default()
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("testpmd said:\n{}", self.log());
        }
    }
}

/// Two guests, one on each port.
pub(crate) struct Pair {
    pub(crate) guests: [Guest; 2],
}

impl Pair {
    /// Starts both with the same settings.
    pub(crate) fn start(testpmd: &Testpmd, configure: &dyn Fn(&mut GuestConfig)) -> Pair {
        let start = |port: usize| {
            let mut config = GuestConfig::new(testpmd.socket(port));
            configure(&mut config);
            Guest::start(config).unwrap_or_else(|e| panic!("guest {port}: {e}"))
        };
        Pair { guests: [start(0), start(1)] }
    }

    /// Sends frames that are not ours until one comes through on every queue in both directions: testpmd serves a port
    /// a moment after it has acknowledged the last message.
    pub(crate) fn warm_up(&mut self) {
        let [left, right] = &mut self.guests;
        for (a, b) in left.pairs().iter_mut().zip(right.pairs()) {
            warm_up_one(a, b);
            warm_up_one(b, a);
        }
    }

    /// Sends `count` frames of `len` bytes in both directions on every queue pair at the same time; returns what each
    /// side saw.
    pub(crate) fn exchange(&mut self, count: u64, len: usize) -> [Report; 2] {
        let mut verifiers = [Verifier::new(), Verifier::new()];
        let [left, right] = &mut self.guests;
        for (number, (a, b)) in left.pairs().iter_mut().zip(right.pairs()).enumerate() {
            exchange_one(number as u16, [a, b], &mut verifiers, count, len);
        }
        let flows = self.guests[0].config().queue_pairs;
        verifiers.map(|v| v.report_against(&vec![count; flows]))
    }
}

fn warm_up_one(from: &mut QueuePair, to: &mut QueuePair) {
    let mut arp = [0xff; 60];
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        from.tx.send_burst(&[Frame::from(&arp[..])]);
        std::thread::sleep(Duration::from_millis(2));
        if to.rx.recv_burst(32, |_| ()) > 0 {
            std::thread::sleep(Duration::from_millis(20));
            while to.rx.recv_burst(32, |_| ()) > 0 {}
            return;
        }
    }
    panic!("nothing comes through testpmd: {:?}", from.tx.stats());
}

/// Frames under way in one direction: fewer than fit into any ring of these tests, since testpmd drops what does not.
const WINDOW: u64 = 24;

fn exchange_one(flow: u16, ends: [&mut QueuePair; 2], verifiers: &mut [Verifier; 2], count: u64, len: usize) {
    let mut templates = [0, 1].map(|from| {
        let template = Template::new(FrameSpec::udp4(from, 1 - from, flow, len));
        (template.bytes().to_vec(), template)
    });
    let mut sent = [0, 0];
    let mut received = [0, 0];
    let mut deadline = Instant::now() + Duration::from_secs(30);
    while received != [count; 2] && Instant::now() < deadline {
        for side in [0, 1] {
            let room = (WINDOW + received[1 - side] - sent[side]).min(count - sent[side]);
            let (bytes, template) = &mut templates[side];
            let burst = room.min(1 + sent[side] % 9) as usize;
            let done = ends[side].tx.send_with(burst, |number, slot| {
                let stamp = template.stamp_bytes(sent[side] + number as u64, now_ns());
                slot.header(template.offload());
                slot.write(0, bytes);
                slot.write(template.stamp_at(), &stamp);
                bytes.len()
            });
            sent[side] += done as u64;
            let new = ends[side].rx.recv_burst(32, |frame| {
                assert_eq!(frame.len(), len);
                verifiers[side].check_received(frame);
            });
            received[side] += new as u64;
            if new > 0 {
                deadline = Instant::now() + Duration::from_secs(30);
            }
        }
        std::thread::yield_now();
    }
}
