//! A switch with everything going on that there is to be watched: traffic on one core and across two, floods, an uplink that brings back
//! what it is sent, a guest that takes nothing, one that breaks its ring, moves, decisions.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Result, ensure};
use sidecore_tests::process::Process;
use sidecore_tests::switch::{SwitchConfig, SwitchProcess};
use sidecore_tests::{http, paths};
use synthetic_guest::hostile::RawRing;
use synthetic_guest::{Guest, GuestConfig};
use tempfile::TempDir;

/// The running switch, and who is at its ports.
pub(crate) struct Stage {
    // Dropped in this order.
    _traffic: Vec<Process>,
    _guests: Vec<Guest>,
    pub(crate) switch: SwitchProcess,
    pub(crate) http: u16,
    pub(crate) dir: TempDir,
}

impl Stage {
    /// Both I/O cores share the last CPU: the others are for who watches.
    pub(crate) fn start() -> Result<Self> {
        let dir = SwitchProcess::folder()?;
        let http = http::free_port()?;
        let last = std::thread::available_parallelism().map_or(1, usize::from) - 1;
        let vm = ["vm_name = \"first\"", "vm_uuid = \"3e2f0c4e-8a51-4c0f-9d3b-6f2a54e0c1d7\""];
        let config = SwitchConfig::new(dir.path())
            .on_cpus(vec![last, last])
            .key(&format!("http_listen = \"127.0.0.1:{http}\""))
            .without_rebalancing()
            .guest("a", &vm)
            .guest("b", &[])
            .guest("c", &[])
            .guest("deaf", &[])
            .guest("broken", &[])
            .guest("nobody", &[])
            .uplink("up", "net_ring0", &[]);
        let switch = SwitchProcess::start(&config)?;
        let socket = |name: &str| config.socket(name);
        let deaf = Guest::start(GuestConfig::new(socket("deaf")))?;
        let mut broken = Guest::start(GuestConfig::new(socket("broken")))?;
        switch.wait_for_port("broken", "served rings", |port| port.state == "running")?;
        // Further ahead than the ring is long.
        RawRing::of(broken.pair(0).tx.ring()).set_avail_index(1 << 15);
        let traffic = vec![
            ringgen("duplex --rate 3000", &[&socket("a"), &socket("b")], &dir.path().join("duplex.log"))?,
            ringgen("source --rate 1000 --first-guest 20", &[&socket("c")], &dir.path().join("source.log"))?,
        ];
        for name in ["a", "b", "c"] {
            switch.wait_for_port(name, "traffic", |port| port.tx.packets > 100)?;
        }
        switch.wait_for_port("broken", "stopped ring", |port| port.state == "stopped")?;
        Ok(Self { _traffic: traffic, _guests: vec![deaf, broken], switch, http, dir })
    }

    /// Moves a queue pair here and there, and at last the two that talk to different cores; the scheduler decides something.
    pub(crate) fn stir(&self) -> Result<()> {
        for (guest, core) in [("a", 1), ("a", 0), ("b", 0), ("b", 1)] {
            let moved = self.switch.move_guest(guest, None, core)?;
            ensure!(moved.len() == 1, "{moved:?}");
        }
        self.switch.must(&["scheduler", "resume"])?;
        self.switch.must(&["scheduler", "pause"]).map(drop)
    }
}

/// Plays guests until it is dropped.
fn ringgen(line: &str, sockets: &[&Path], log: &Path) -> Result<Process> {
    let mut args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
    args.extend(["--duration-s", "600", "--announce", "off"].map(OsString::from));
    sockets.iter().for_each(|socket| args.extend(["--guest".into(), socket.as_os_str().to_owned()]));
    Process::spawn("ringgen", paths::ringgen()?, args, log)
}
