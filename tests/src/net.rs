//! Network namespaces and veth pairs, uniquely named, removed with their values.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::host::{Host, Outcome};
use crate::process::{must, run};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A name no other test of this machine uses: at most 15 bytes, as interface names must be.
fn unique(prefix: &str) -> String {
    format!("{prefix}{}n{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Removes namespaces of test processes that were killed before they could; their veths go with them.
pub(crate) fn remove_stale() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return };
    for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let pid =
            name.strip_prefix("sc").and_then(|rest| rest.split_once('n')).and_then(|(pid, _)| pid.parse::<u32>().ok());
        if let Some(pid) = pid
            && !std::path::Path::new("/proc").join(pid.to_string()).exists()
        {
            let _ = must(&["ip", "netns", "del", &name]);
        }
    }
}

/// A network namespace: a host of its own on the far side of a veth.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// A new namespace with a unique name.
    pub fn new() -> Result<Self> {
        Self::named(&unique("sc"))
    }

    /// A new namespace of this name. One that exists already is somebody else's, and an error.
    pub fn named(name: &str) -> Result<Self> {
        must(&["ip", "netns", "add", name]).context("cannot create a network namespace (are you root?)")?;
        let me = Self { name: name.to_owned() };
        me.sh("ip link set lo up")?;
        // Duplicate address detection would hold back IPv6 for the first seconds.
        me.sh(
            "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad; echo 0 > /proc/sys/net/ipv6/conf/default/accept_ra",
        )?;
        Ok(me)
    }

    /// Ends every process inside. All are ours: so is the namespace.
    pub fn kill_all(&self) {
        let Ok(pids) = must(&["ip", "netns", "pids", &self.name]) else { return };
        for pid in pids.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)) {
            // It may have ended by itself meanwhile.
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// Command and arguments that run `args` inside, for processes that keep running.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Vec<String> {
        ["ip", "netns", "exec", &self.name].iter().chain(args).map(|arg| (*arg).to_owned()).collect()
    }
}

impl Host for Netns {
    fn name(&self) -> &str {
        &self.name
    }

    fn exec(&self, script: &str, timeout: Duration) -> Result<Outcome> {
        let script = format!("exec 2>&1; {script}");
        let output = run(&["ip", "netns", "exec", &self.name, "/bin/sh", "-c", &script], timeout)?;
        Ok(Outcome {
            status: output.status.code().unwrap_or(255),
            output: String::from_utf8_lossy(&output.stdout).into_owned(),
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = must(&["ip", "netns", "del", &self.name]) {
            eprintln!("left behind: network namespace {}: {error}", self.name);
        }
    }
}

/// A veth pair: `near` here, for the switch; `far` in a namespace.
#[derive(Debug)]
pub struct Veth {
    near: String,
    far: String,
}

impl Veth {
    /// A pair with unique names whose far end is in `netns`.
    pub fn new(netns: &Netns, mtu: u32) -> Result<Self> {
        Self::named(&unique("sca"), &unique("scb"), netns, mtu)
    }

    /// A pair with these names whose far end is in `netns`. Both ends are up, with the MTU set.
    pub fn named(near: &str, far: &str, netns: &Netns, mtu: u32) -> Result<Self> {
        ensure!(near.len() <= 15 && far.len() <= 15, "interface names hold at most 15 bytes: {near}, {far}");
        must(&["ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", netns.name()])?;
        let me = Self { near: near.to_owned(), far: far.to_owned() };
        let mtu = mtu.to_string();
        // net_af_packet and net_af_xdp see what the kernel hands over: a checksum left to be filled in later or a segment
        // of 64 KiB would reach the switch as it is.
        must(&["ethtool", "-K", near, "tx", "off", "rx", "off", "tso", "off", "gso", "off", "gro", "off"])?;
        netns.sh(&format!(
            "ethtool -K {far} tx off rx off tso off gso off gro off txvlan off rxvlan off && \
             ip link set {far} mtu {mtu} && ip link set {far} up"
        ))?;
        // The switch's end is a wire, not an address of this machine.
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{near}/disable_ipv6"), "1").ok();
        must(&["ip", "link", "set", near, "mtu", &mtu, "up"])?;
        Ok(me)
    }

    /// The end that stays here.
    #[must_use]
    pub fn near(&self) -> &str {
        &self.near
    }

    /// The end in the namespace.
    #[must_use]
    pub fn far(&self) -> &str {
        &self.far
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        // The pair also goes with the namespace, should that be dropped first.
        let exists = std::path::Path::new("/sys/class/net").join(&self.near).exists();
        if exists && let Err(error) = must(&["ip", "link", "del", &self.near]) {
            eprintln!("left behind: interface {}: {error}", self.near);
        }
    }
}

/// A host outside the switch: a namespace at the far end of a veth whose near end an uplink uses.
#[derive(Debug)]
pub struct Outside {
    // Dropped in this order: the pair first, then the namespace that holds its far end.
    veth: Veth,
    netns: Netns,
}

impl Outside {
    /// A new host on a new veth.
    pub fn new(mtu: u32) -> Result<Self> {
        let netns = Netns::new()?;
        Ok(Self { veth: Veth::new(&netns, mtu)?, netns })
    }

    /// The same with given names.
    pub fn named(netns: &str, near: &str, far: &str, mtu: u32) -> Result<Self> {
        let netns = Netns::named(netns)?;
        Ok(Self { veth: Veth::named(near, far, &netns, mtu)?, netns })
    }

    /// The namespace.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Interface for the uplink.
    #[must_use]
    pub fn uplink_interface(&self) -> &str {
        self.veth.near()
    }

    /// Gives the interface inside its addresses.
    pub fn configure(&self, ipv4: &str, ipv6: &str) -> Result<()> {
        let interface = self.interface();
        self.sh(&format!("ip addr add {ipv4} dev {interface} && ip addr add {ipv6} dev {interface}"))?;
        Ok(())
    }

    /// Interface inside the namespace.
    #[must_use]
    pub fn interface(&self) -> &str {
        self.veth.far()
    }
}

impl Host for Outside {
    fn name(&self) -> &str {
        "outside"
    }

    fn exec(&self, script: &str, timeout: Duration) -> Result<Outcome> {
        self.netns.exec(script, timeout)
    }
}
