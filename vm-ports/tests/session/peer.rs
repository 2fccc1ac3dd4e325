//! The two sides of a session under test: a host that keeps queue pairs as a core would, and a frontend that can say anything.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::MemfdFlags;
use tempfile::TempDir;
use vhost::vhost_user::message::FrontendReq as Req;
use vm_ports::session::{PortSettings, QueueHost, SessionEvent, SessionHandle, spawn};
use vm_ports::{QueueCounters, QueuePair};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

pub(crate) const VERSION_1: u64 = 1 << 32;
pub(crate) const RING_PACKED: u64 = 1 << 34;
pub(crate) const PROTOCOL_FEATURES: u64 = 1 << 30;
/// MQ, RARP, REPLY_ACK, NET_MTU, RESET_DEVICE, CONFIGURE_MEM_SLOTS.
pub(crate) const OFFERED_PROTOCOL: u64 = 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 13 | 1 << 15;
pub(crate) const MEMORY_BYTES: u64 = 1 << 20;
pub(crate) const FRONTEND: u64 = 0x7f00_0000_0000;
/// What ends at once ends within this, in one of some tries: in any of them others may have the CPUs.
const PROMPT: Duration = Duration::from_millis(200);
const TRIES: usize = 5;
/// What takes longer than this hangs.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// Keeps what it is given.
#[derive(Default)]
pub(crate) struct Host {
    /// Held by a test: whoever takes a pair back waits for it.
    pub(crate) gate: Mutex<()>,
    pairs: Mutex<BTreeMap<usize, QueuePair>>,
    counters: Mutex<BTreeMap<usize, Arc<QueueCounters>>>,
    events: Mutex<Vec<SessionEvent>>,
}

impl QueueHost for Host {
    fn attach(&self, index: usize, pair: QueuePair) {
        assert!(self.pairs.lock().unwrap().insert(index, pair).is_none());
    }

    fn take_back(&self, index: usize) -> Option<QueuePair> {
        let _open = self.gate.lock().unwrap();
        self.pairs.lock().unwrap().remove(&index)
    }

    fn event(&self, event: SessionEvent) {
        self.events.lock().unwrap().push(event);
    }

    fn counters(&self, index: usize) -> Arc<QueueCounters> {
        Arc::clone(self.counters.lock().unwrap().entry(index).or_default())
    }
}

impl Host {
    /// Pairs that are handed out, as (index, has RX, has TX).
    pub(crate) fn out(&self) -> Vec<(usize, bool, bool)> {
        let pairs = self.pairs.lock().unwrap();
        pairs.iter().map(|(&index, pair)| (index, pair.rx.is_some(), pair.tx.is_some())).collect()
    }

    pub(crate) fn events(&self) -> Vec<SessionEvent> {
        self.events.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, is: impl Fn(&SessionEvent) -> bool) -> usize {
        self.events().iter().filter(|event| is(event)).count()
    }

    pub(crate) fn disconnects(&self) -> usize {
        self.count(|event| matches!(event, SessionEvent::Disconnected { .. }))
    }

    pub(crate) fn negotiations(&self) -> usize {
        self.count(|event| matches!(event, SessionEvent::Negotiated(_)))
    }
}

/// A session, and where it is.
pub(crate) struct Port {
    pub(crate) host: Arc<Host>,
    pub(crate) session: SessionHandle,
    pub(crate) path: PathBuf,
    pub(crate) dir: TempDir,
}

impl Port {
    pub(crate) fn server() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut PortSettings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("port.sock");
        let mut settings = PortSettings::new("test", &path);
        change(&mut settings);
        let host = Arc::new(Host::default());
        let session = spawn(settings, Arc::clone(&host) as Arc<dyn QueueHost>).unwrap();
        Self { host, session, path, dir }
    }

    pub(crate) fn connect(&self) -> Peer {
        Peer::new(UnixStream::connect(&self.path).unwrap())
    }

    /// Stops the session, and checks that it leaves nothing. Returns how long it took.
    pub(crate) fn stop(self) -> Duration {
        let start = Instant::now();
        assert!(self.session.stop(start + LIMIT), "stopping takes more than {LIMIT:?}");
        let took = start.elapsed();
        assert_eq!(self.host.out(), []);
        assert!(!self.path.exists());
        took
    }

    /// Checks that a session ends at once, in the state that `prepare` brings it to; with it come those that are to stay as long.
    pub(crate) fn stops_at_once<K>(prepare: impl Fn() -> (Self, K)) {
        let mut took = Vec::new();
        while took.last().is_none_or(|took| *took >= PROMPT) {
            assert!(took.len() < TRIES, "stopping took {took:?}");
            let (port, _kept) = prepare();
            took.push(port.stop());
        }
    }

    /// The session still serves: a well-behaved frontend gets to traffic.
    pub(crate) fn check_alive(&self) {
        let before = self.host.negotiations();
        let mut peer = self.connect();
        peer.start_like_qemu(VERSION_1 | PROTOCOL_FEATURES);
        eventually("a healthy frontend runs", || self.host.negotiations() > before);
    }
}

/// Waits for something the session's thread does.
pub(crate) fn eventually(what: &str, is: impl Fn() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < LIMIT, "waited in vain until: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub(crate) fn memfd(bytes: u64) -> File {
    let file = File::from(rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(bytes).unwrap();
    file
}

pub(crate) fn event_file() -> File {
    File::from(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap())
}

pub(crate) fn kick(file: &File) {
    rustix::io::write(file, &1u64.to_ne_bytes()).unwrap();
}

pub(crate) fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

pub(crate) fn longs(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

/// A frontend that speaks in raw messages.
pub(crate) struct Peer {
    pub(crate) socket: UnixStream,
    memory: File,
}

impl Peer {
    pub(crate) fn new(socket: UnixStream) -> Self {
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        Self { socket, memory: memfd(MEMORY_BYTES) }
    }

    pub(crate) fn accept(path: &Path) -> (std::os::unix::net::UnixListener, Self) {
        let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
        let (socket, _) = listener.accept().unwrap();
        (listener, Self::new(socket))
    }

    pub(crate) fn raw(&self, request: u32, flags: u32, body: &[u8], files: &[&File]) {
        let mut message = words(&[request, flags, body.len() as u32]);
        message.extend_from_slice(body);
        let fds: Vec<_> = files.iter().map(|file| file.as_raw_fd()).collect();
        // The session may have hung up already: what a test wants to know is in what comes back.
        let _ = self.socket.send_with_fds(&[&message[..]], &fds);
    }

    pub(crate) fn send(&self, request: Req, body: &[u8], files: &[&File]) {
        self.raw(request.into(), 1, body, files);
    }

    /// The body of the next answer; `None` when the session hangs up.
    pub(crate) fn reply(&mut self) -> Option<Vec<u8>> {
        let mut header = [0; 12];
        self.socket.read_exact(&mut header).ok()?;
        let size = u32::from_ne_bytes(header[8..].try_into().unwrap());
        assert_eq!(header[4..8], 5u32.to_ne_bytes(), "flags of an answer");
        let mut body = vec![0; size as usize];
        self.socket.read_exact(&mut body).ok()?;
        Some(body)
    }

    pub(crate) fn ask(&mut self, request: Req, body: &[u8]) -> u64 {
        self.send(request, body, &[]);
        u64::from_ne_bytes(self.reply().expect("an answer").try_into().unwrap())
    }

    /// Sends with NEED_REPLY; tells whether the answer was yes.
    pub(crate) fn acknowledged(&mut self, request: Req, body: &[u8], files: &[&File]) -> Option<bool> {
        self.raw(request.into(), 9, body, files);
        self.reply().map(|body| body == 0u64.to_ne_bytes())
    }

    pub(crate) fn hangs_up(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.socket.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    /// What QEMU sends when the chardev connects.
    pub(crate) fn hello(&mut self) -> u64 {
        let features = self.ask(Req::GET_FEATURES, &[]);
        assert_eq!(self.ask(Req::GET_PROTOCOL_FEATURES, &[]), OFFERED_PROTOCOL);
        self.send(Req::SET_PROTOCOL_FEATURES, &longs(&[OFFERED_PROTOCOL]), &[]);
        self.send(Req::SET_OWNER, &[], &[]);
        features
    }

    pub(crate) fn set_memory(&mut self) {
        let memory = self.memory.try_clone().unwrap();
        self.send(Req::SET_MEM_TABLE, &table(&[[0, MEMORY_BYTES, FRONTEND, 0]]), &[&memory]);
    }

    /// Ring `index` at 16 KiB × `index`, with room for 256 entries.
    pub(crate) fn set_up_ring(&mut self, index: u32, base: u32, call: &File, kick: &File) {
        let at = FRONTEND + u64::from(index) * 0x4000;
        self.send(Req::SET_VRING_NUM, &words(&[index, 256]), &[]);
        self.send(Req::SET_VRING_BASE, &words(&[index, base]), &[]);
        self.send(Req::SET_VRING_ADDR, &ring_address(index, at, at + 0x2000, at + 0x1000), &[]);
        self.send(Req::SET_VRING_KICK, &longs(&[index.into()]), &[kick]);
        self.send(Req::SET_VRING_CALL, &longs(&[index.into()]), &[call]);
    }

    pub(crate) fn enable(&mut self, index: u32, enabled: bool) {
        self.send(Req::SET_VRING_ENABLE, &words(&[index, enabled.into()]), &[]);
    }

    /// Everything up to running rings, in QEMU's order. Returns the kick eventfds.
    pub(crate) fn start_like_qemu(&mut self, features: u64) -> [File; 2] {
        self.hello();
        self.run_like_qemu(features, 0)
    }

    /// What QEMU sends when the driver is ready: ENABLE first of all.
    pub(crate) fn run_like_qemu(&mut self, features: u64, base: u32) -> [File; 2] {
        self.enable(0, true);
        self.enable(1, true);
        self.send(Req::SET_FEATURES, &longs(&[features]), &[]);
        self.set_memory();
        let kicks = [event_file(), event_file()];
        for (index, kick) in kicks.iter().enumerate() {
            self.set_up_ring(index as u32, base, &event_file(), kick);
        }
        kicks
    }
}

/// The body of SET_VRING_ADDR.
pub(crate) fn ring_address(index: u32, descriptors: u64, used: u64, available: u64) -> Vec<u8> {
    [words(&[index, 0]), longs(&[descriptors, used, available, 0])].concat()
}

/// The body of SET_MEM_TABLE: regions as [guest, size, frontend, offset].
pub(crate) fn table(regions: &[[u64; 4]]) -> Vec<u8> {
    let mut body = words(&[regions.len() as u32, 0]);
    for region in regions {
        body.extend_from_slice(&longs(region));
    }
    body
}

/// The body of ADD_MEM_REG and REM_MEM_REG.
pub(crate) fn single(region: [u64; 4]) -> Vec<u8> {
    [longs(&[0]), longs(&region)].concat()
}
