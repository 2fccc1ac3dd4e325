//! A QEMU process and the shell inside it.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

use super::console::Console;
use super::{Accel, GuestImage, GuestOptions, Qmp};
use crate::host::{Host, Outcome};
use crate::process::Process;

/// The guest's network interface.
pub const GUEST_INTERFACE: &str = "eth0";

/// Time for a guest to boot: 4 to 5 s under TCG on an idle machine, several times that beside busy ones.
const BOOT_DEADLINE: Duration = Duration::from_secs(90);

/// A running guest. Dropping it ends it.
#[derive(Debug)]
pub struct QemuGuest {
    name: String,
    process: Process,
    listener: UnixListener,
    console: Mutex<Option<Console>>,
    dir: TempDir,
    ready: bool,
}

impl QemuGuest {
    /// Starts a guest. It boots while the caller goes on: [`wait_ready`](Self::wait_ready) waits for it.
    pub fn start(options: &GuestOptions) -> Result<Self> {
        let image = GuestImage::get()?;
        let accel = Accel::detect(&image)?;
        let around = Around { programs: &options.programs, host_cpus: &options.host_cpus };
        Self::launch(&options.name, &image, accel, around, &options.arguments(accel))
    }

    /// Starts guests side by side and waits for all.
    pub fn start_all(options: &[GuestOptions]) -> Result<Vec<Self>> {
        let guests: Vec<Self> = options.iter().map(Self::start).collect::<Result<_>>()?;
        guests.into_iter().map(|mut guest| guest.wait_ready().map(|()| guest)).collect()
    }

    fn launch(name: &str, image: &GuestImage, accel: Accel, around: Around, more: &[String]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("sidecore-qemu-").tempdir()?;
        // QEMU drops what a guest writes while nobody is connected, so the listener is ours and there first.
        let agent = dir.path().join("agent.sock");
        let listener = UnixListener::bind(&agent)?;
        listener.set_nonblocking(true)?;

        let image = image.with_programs(around.programs, &dir.path().join("initramfs.cpio"))?;
        let mut command = around.command();
        command.extend(machine_arguments(&image, accel, dir.path()));
        command.extend(more.iter().cloned());
        let log = dir.path().join("qemu.log");
        let process = Process::spawn(&format!("guest {name}"), &command[0], &command[1..], &log)?;
        Ok(Self { name: name.to_owned(), process, listener, console: Mutex::new(None), dir, ready: false })
    }

    /// Waits until the guest has booted and answers commands.
    pub fn wait_ready(&mut self) -> Result<()> {
        self.wait_ready_within(BOOT_DEADLINE)
    }

    fn wait_ready_within(&mut self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        while !self.poll_ready()? {
            ensure!(
                Instant::now() < deadline,
                "{} did not boot within {timeout:?}\n{}",
                self.name,
                self.boot_messages()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Whether the guest has booted. An error when QEMU has ended.
    pub fn poll_ready(&mut self) -> Result<bool> {
        let console = self.console.get_mut().unwrap_or_else(PoisonError::into_inner);
        if console.is_none() {
            *console = Console::accept(&self.listener)?;
        }
        let ready = match console {
            Some(console) if !self.ready => console.is_ready(),
            Some(_) => Ok(true),
            None => Ok(false),
        };
        self.process.ensure_running().with_context(|| boot_messages(self.dir.path()))?;
        self.ready = ready?;
        Ok(self.ready)
    }

    /// Kills QEMU, so that whoever waits for the guest gets an error.
    pub fn abort(&self) {
        // It may have ended by itself meanwhile.
        let _ = self.process.signal(Signal::KILL);
    }

    /// The QEMU process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Opens a QMP session.
    pub fn qmp(&self) -> Result<Qmp> {
        Qmp::connect(&self.dir.path().join("qmp.sock"))
    }

    /// Gives the network interface its addresses and brings it up.
    pub fn configure(&self, ipv4: &str, ipv6: &str, mtu: u32) -> Result<()> {
        self.sh(&format!(
            "ip link set {GUEST_INTERFACE} mtu {mtu} && ip addr add {ipv4} dev {GUEST_INTERFACE} && \
             ip link set {GUEST_INTERFACE} up && ip addr add {ipv6} dev {GUEST_INTERFACE}"
        ))?;
        Ok(())
    }

    /// Takes the driver off the network device and puts it on again: the device is reset, its rings and its addresses are new.
    pub fn restart_driver(&self) -> Result<()> {
        self.sh("cd /sys/bus/virtio/drivers/virtio_net && device=$(ls -d virtio*) && echo $device >unbind && \
             echo $device >bind")?;
        Ok(())
    }

    /// What the guest's kernel has printed.
    #[must_use]
    pub fn boot_messages(&self) -> String {
        boot_messages(self.dir.path())
    }
}

impl Host for QemuGuest {
    fn name(&self) -> &str {
        &self.name
    }

    fn exec(&self, script: &str, timeout: Duration) -> Result<Outcome> {
        let mut slot = self.console.lock().unwrap_or_else(PoisonError::into_inner);
        let console = slot.as_mut().with_context(|| format!("{} has not booted", self.name))?;
        let outcome = console.exec(script, timeout).with_context(|| self.name.clone())?;
        // `timeout -s KILL` in the guest reports a command it killed with 128 + 9.
        ensure!(outcome.status != 137, "{}: no end within {timeout:?}: {script}", self.name);
        Ok(outcome)
    }
}

impl Drop for QemuGuest {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.boot_messages());
        }
    }
}

/// What a guest is given beside QEMU's arguments.
#[derive(Clone, Copy, Default)]
struct Around<'a> {
    programs: &'a [PathBuf],
    host_cpus: &'a [usize],
}

impl Around<'_> {
    /// The beginning of the command line.
    fn command(self) -> Vec<String> {
        let qemu = "qemu-system-x86_64".to_owned();
        if self.host_cpus.is_empty() {
            return vec![qemu];
        }
        let cpus: Vec<String> = self.host_cpus.iter().map(usize::to_string).collect();
        vec!["taskset".to_owned(), "-c".to_owned(), cpus.join(","), qemu]
    }
}

/// Boots a guest without a network, ends it, and returns how long it took to boot. The error says in one line what it did instead.
pub(super) fn boot_probe(image: &GuestImage, accel: Accel, timeout: Duration) -> Result<Duration> {
    let memory = ["-m", "192M", "-object", "memory-backend-memfd,id=memory,size=192M,share=on"].map(str::to_owned);
    let begin = Instant::now();
    let mut guest = QemuGuest::launch("probe", image, accel, Around::default(), &memory)?;
    if guest.wait_ready_within(timeout).is_ok() {
        return Ok(begin.elapsed());
    }
    // A QEMU that ends closes the serial line first, and is gone a moment later.
    match guest.process.wait(Duration::from_secs(1)) {
        Ok((status, _)) => {
            let output = guest.process.output();
            bail!("QEMU ended ({status}): {}", output.lines().next().unwrap_or("without a word"))
        }
        Err(_) => bail!("no sign of life within {} s", timeout.as_secs()),
    }
}

fn boot_messages(dir: &Path) -> String {
    let text = std::fs::read(dir.join("kernel.log")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    format!("--- the guest's kernel:\n{}", lines[lines.len().saturating_sub(20)..].join("\n"))
}

fn machine_arguments(image: &GuestImage, accel: Accel, dir: &Path) -> Vec<String> {
    let at = |file: &str| -> PathBuf { dir.join(file) };
    let kernel = image.kernel.display().to_string();
    let initramfs = image.initramfs.display().to_string();
    let machine = format!("q35,accel={},memory-backend=memory", accel.name());
    let kernel_log = format!("file:{}", at("kernel.log").display());
    let agent = format!("socket,id=agent,path={}", at("agent.sock").display());
    let qmp = format!("unix:{},server=on,wait=off", at("qmp.sock").display());
    [
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-machine",
        &machine,
        "-cpu",
        accel.cpu(),
        "-kernel",
        &kernel,
        "-initrd",
        &initramfs,
        // panic=-1 with -no-reboot: a guest that panics ends its QEMU, so nobody waits for it.
        "-append",
        "console=ttyS0 quiet panic=-1 rdinit=/init net.ifnames=0 tsc=reliable mitigations=off",
        "-serial",
        &kernel_log,
        "-chardev",
        &agent,
        "-serial",
        "chardev:agent",
        "-qmp",
        &qmp,
    ]
    .map(str::to_owned)
    .to_vec()
}
