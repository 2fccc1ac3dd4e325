//! What a guest can be asked to be, and the QEMU arguments that say so.

use std::path::{Path, PathBuf};

use super::Accel;

/// Who listens on the vhost-user socket, from QEMU's point of view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketMode {
    /// The switch listens, QEMU connects and reconnects every second.
    Client,
    /// QEMU listens, the switch connects. QEMU starts the machine once somebody has.
    Server,
}

/// Features of the virtio-net device. The defaults are what QEMU offers by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VirtioOptions {
    /// Packed ring instead of split.
    pub packed: bool,
    /// Mergeable receive buffers.
    pub mrg_rxbuf: bool,
    /// Event index: notifications by position instead of by flag.
    pub event_idx: bool,
    /// Indirect descriptors.
    pub indirect_desc: bool,
    /// Checksum and segmentation offloads, in both directions.
    pub offloads: bool,
}

impl Default for VirtioOptions {
    fn default() -> Self {
        Self { packed: false, mrg_rxbuf: true, event_idx: true, indirect_desc: true, offloads: true }
    }
}

impl VirtioOptions {
    fn device_properties(&self) -> String {
        let switch = |on| if on { "on" } else { "off" };
        let mut properties = format!(
            "packed={},mrg_rxbuf={},event_idx={},indirect_desc={}",
            switch(self.packed),
            switch(self.mrg_rxbuf),
            switch(self.event_idx),
            switch(self.indirect_desc)
        );
        // UFO is left out on purpose: no backend here offers it, and Linux no longer sends it.
        for offload in
            ["csum", "gso", "host_tso4", "host_tso6", "host_ecn", "guest_csum", "guest_tso4", "guest_tso6", "guest_ecn"]
        {
            properties.push_str(&format!(",{offload}={}", switch(self.offloads)));
        }
        properties
    }
}

/// A guest to start.
#[derive(Debug, Clone)]
pub struct GuestOptions {
    /// Name, for messages and files.
    pub name: String,
    /// The vhost-user socket.
    pub socket: PathBuf,
    /// Who listens on it.
    pub socket_mode: SocketMode,
    /// MAC address of the network device.
    pub mac: String,
    /// Features of the network device.
    pub virtio: VirtioOptions,
    /// Queue pairs; more than one turns multiqueue on.
    pub queue_pairs: u32,
    /// Entries of every ring, or QEMU's default (256).
    pub ring_size: Option<u32>,
    /// MTU that the host advises.
    pub host_mtu: Option<u32>,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory, in MiB.
    pub memory_mib: u32,
    /// Memory that may be plugged in later, in MiB, in two slots.
    pub hotplug_mib: u32,
    /// Programs of this machine that the guest has in /bin.
    pub programs: Vec<PathBuf>,
    /// CPUs of this machine that QEMU, with its virtual CPUs, keeps to; all if there is none.
    pub host_cpus: Vec<usize>,
}

impl GuestOptions {
    /// A guest with QEMU's defaults on a socket that the switch listens on.
    #[must_use]
    pub fn new(name: &str, socket: &Path, mac: &str) -> Self {
        Self {
            name: name.to_owned(),
            socket: socket.to_owned(),
            socket_mode: SocketMode::Client,
            mac: mac.to_owned(),
            virtio: VirtioOptions::default(),
            queue_pairs: 1,
            ring_size: None,
            host_mtu: None,
            cpus: 1,
            memory_mib: 192,
            hotplug_mib: 0,
            programs: Vec::new(),
            host_cpus: Vec::new(),
        }
    }

    /// The arguments for memory and network.
    pub(super) fn arguments(&self, accel: Accel) -> Vec<String> {
        let memory = self.memory_mib;
        // For a machine that can only ever have one CPU, TCG leaves the guest's memory barriers out (QEMU 7.2), although the
        // switch is another CPU to the guest's rings: interrupts would be lost now and then.
        let smp = format!("{},maxcpus={}", self.cpus, self.cpus.max(2));
        let mut args = vec!["-smp".to_owned(), smp, "-m".to_owned()];
        if self.hotplug_mib > 0 {
            args.push(format!("{memory}M,slots=2,maxmem={}M", memory + self.hotplug_mib));
        } else {
            args.push(format!("{memory}M"));
        }
        args.extend(["-object".to_owned(), format!("memory-backend-memfd,id=memory,size={memory}M,share=on")]);

        let role = match self.socket_mode {
            SocketMode::Client => "reconnect=1",
            SocketMode::Server => "server=on,wait=on",
        };
        args.extend(["-chardev".to_owned(), format!("socket,id=vhost,path={},{role}", self.socket.display())]);
        args.extend([
            "-netdev".to_owned(),
            format!("vhost-user,id=net0,chardev=vhost,queues={}", self.queue_pairs),
            "-device".to_owned(),
            self.device(accel),
        ]);
        args
    }

    fn device(&self, accel: Accel) -> String {
        let mut device =
            format!("virtio-net-pci,id=nic0,netdev=net0,romfile=,mac={},{}", self.mac, self.virtio.device_properties());
        match accel {
            // QEMU 7.2 crashes in msix_set_vector_notifiers when vhost starts under TCG; with INTx it does not.
            Accel::Tcg => device.push_str(",vectors=0"),
            Accel::Kvm => device.push_str(&format!(",vectors={}", 2 * self.queue_pairs + 2)),
        }
        if self.queue_pairs > 1 {
            device.push_str(",mq=on");
        }
        if let Some(size) = self.ring_size {
            device.push_str(&format!(",rx_queue_size={size},tx_queue_size={size}"));
        }
        if let Some(mtu) = self.host_mtu {
            device.push_str(&format!(",host_mtu={mtu}"));
        }
        device
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_says_what_the_options_say() {
        let mut options = GuestOptions::new("vm1", Path::new("/tmp/vm1.sock"), "52:54:00:00:00:01");
        options.virtio.packed = true;
        options.virtio.offloads = false;
        options.queue_pairs = 2;
        options.ring_size = Some(1024);
        let args = options.arguments(Accel::Tcg).join(" ");
        for expected in
            ["queues=2", "mq=on", "vectors=0", "packed=on", "csum=off", "rx_queue_size=1024", "reconnect=1", "share=on"]
        {
            assert!(args.contains(expected), "{expected} is missing in {args}");
        }
        assert!(options.arguments(Accel::Kvm).join(" ").contains("vectors=6"));
    }
}
