//! Traffic that goes round for ever: one testpmd with two virtio-user ports, each forwarding to the other through the
//! switch. Nothing is made or used up on the way, so a packet that is missing was lost.

use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::process::eventually;
use crate::switch::{Status, SwitchProcess};
use crate::testpmd::{Testpmd, TestpmdOptions};

/// Packets sent round: bursts of 32.
const BURSTS: u32 = 4;
const PACKETS: u64 = BURSTS as u64 * 32;

/// Time for the first packets to have gone round.
const LEARNING_LIMIT: Duration = Duration::from_secs(20);

/// A running circuit. Its ports are guests of the switch.
#[derive(Debug)]
pub struct Circuit {
    testpmd: Testpmd,
    names: [String; 2],
}

static NEXT_MAC: AtomicU8 = AtomicU8::new(0);

impl Circuit {
    /// The virtio-user device of a guest of the switch, with more device arguments such as `packed_vq=1`, and an address
    /// of its own.
    #[must_use]
    pub fn device(index: usize, socket: &Path, more: &str) -> String {
        device(index, socket, &new_mac(), more)
    }

    /// Starts testpmd on the sockets of two guests; nothing is sent yet. `more` are device arguments of both, `eal` are
    /// arguments of DPDK's.
    pub fn start(guests: [(&str, &Path); 2], more: &str, eal: &[&str]) -> Result<Self> {
        let macs = [new_mac(), new_mac()];
        let device = |index: usize| device(index, guests[index].1, &macs[index], more);
        let devices = [device(0), device(1)];
        let mut options = TestpmdOptions::new(&[&devices[0], &devices[1]]).with(&[
            "--forward-mode=mac",
            &format!("--eth-peer=0,{}", macs[1]),
            &format!("--eth-peer=1,{}", macs[0]),
        ]);
        options.eal = eal.iter().map(|arg| (*arg).to_owned()).collect();
        // The driver says which of its receive and transmit paths it has chosen.
        options.eal.push("--log-level=pmd.net.virtio.init:info".to_owned());
        let testpmd = Testpmd::start("circuit", &options)?;
        Ok(Self { testpmd, names: guests.map(|(name, _)| name.to_owned()) })
    }

    /// Lets the packets go round until each port of the switch has carried `packets` in each direction; see
    /// [`run_while`](Self::run_while).
    pub fn run(&mut self, switch: &SwitchProcess, packets: u64, timeout: Duration) -> Result<Status> {
        let names = self.names.clone();
        self.run_while(switch, |start| wait_for(switch, &names, start, packets, timeout))
    }

    /// Lets the packets go round while `during` does something; then stops and checks that none was lost or dropped, and
    /// that nobody kicked. Returns the switch's status after that.
    pub fn run_while(&mut self, switch: &SwitchProcess, during: impl FnOnce(&Status) -> Result<()>) -> Result<Status> {
        for name in &self.names {
            switch.wait_for_port(name, "served rings", |port| port.state == "running")?;
        }
        let before = self.lost()?;
        let earlier = switch.status()?;
        self.testpmd.command(&format!("start tx_first {BURSTS}"))?;
        // virtio-user rings every doorbell once when it has started, whatever it is told; and until the switch has learnt
        // both addresses it floods, also to guests that are not there. What counts comes after that.
        wait_for(switch, &self.names, &earlier, 4 * PACKETS, LEARNING_LIMIT)?;
        let start = switch.status()?;
        let outcome = during(&start);
        self.testpmd.command("stop")?;
        outcome?;
        let lost = self.lost()?.saturating_sub(before);
        // What was under way when forwarding stopped still waits in the rings: what both ports sent first.
        ensure!(lost <= 2 * PACKETS, "{lost} packets were lost on their way round");
        let status = switch.quiet_status()?;
        for name in &self.names {
            let (before, now) = (start.port(name)?, status.port(name)?);
            ensure!(now.drops == before.drops, "{name}: drops were {:?} and are {:?}", before.drops, now.drops);
            let kicks = now.kicks_polling - before.kicks_polling;
            ensure!(kicks == 0, "{name} kicked {kicks} times while its core polled");
        }
        Ok(status)
    }

    /// Packets that testpmd has sent and not received.
    fn lost(&mut self) -> Result<u64> {
        let ports = [self.testpmd.stats(0)?, self.testpmd.stats(1)?];
        let sent: u64 = ports.iter().map(|port| port.tx_packets).sum();
        let received: u64 = ports.iter().map(|port| port.rx_packets).sum();
        Ok(sent.saturating_sub(received))
    }

    /// The testpmd behind it.
    pub fn testpmd(&mut self) -> &mut Testpmd {
        &mut self.testpmd
    }

    /// Ends testpmd as its user would.
    pub fn quit(self) -> Result<()> {
        self.testpmd.quit()
    }
}

/// Waits until each port has carried `packets` in each direction since `start`.
fn wait_for(switch: &SwitchProcess, names: &[String], start: &Status, packets: u64, timeout: Duration) -> Result<()> {
    eventually(&format!("{packets} packets at each port"), timeout, || {
        let now = switch.status()?;
        let mut done = true;
        for name in names {
            let (before, now) = (start.port(name)?, now.port(name)?);
            done &= now.rx.packets.saturating_sub(before.rx.packets) >= packets;
            done &= now.tx.packets.saturating_sub(before.tx.packets) >= packets;
        }
        Ok(done.then_some(()))
    })
}

fn device(index: usize, socket: &Path, mac: &str, more: &str) -> String {
    let comma = if more.is_empty() { "" } else { "," };
    format!("net_virtio_user{index},path={},mac={mac}{comma}{more}", socket.display())
}

/// An address that no other port of this process has.
fn new_mac() -> String {
    format!("52:54:00:5c:01:{:02x}", NEXT_MAC.fetch_add(1, Ordering::Relaxed))
}
