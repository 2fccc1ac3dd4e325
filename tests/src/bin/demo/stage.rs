//! Everything the demo takes from the machine, and gives back.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sidecore_tests::guest::{Accel, GuestImage, GuestOptions, QemuGuest};
use sidecore_tests::host::Host;
use sidecore_tests::hugepages::Reservation;
use sidecore_tests::net::Outside;
use sidecore_tests::switch::SwitchProcess;
use sidecore_tests::traffic::OutsideServers;
use tempfile::TempDir;

use crate::plan::{NAMESPACE, Plan};
use sidecore_tests::interrupt::Interrupt;

/// Hugepages for the switch's packet buffers, where the machine gives them.
const HUGEPAGES_MIB: u64 = 256;

const BOOT_DEADLINE: Duration = Duration::from_secs(120);
const UPLINK_MTU: u32 = 1500;

/// The running set-up. Its parts are given back in the order of its fields.
pub(crate) struct Stage {
    guests: Vec<QemuGuest>,
    switch: SwitchProcess,
    _servers: OutsideServers,
    outside: Outside,
    _folder: Folder,
    hugepages: Option<Reservation>,
    _logs: TempDir,
}

impl Stage {
    /// Takes what the plan names, starts the switch and the guests, and gives everybody an address.
    pub(crate) fn set_up(plan: &Plan, interrupt: &Interrupt) -> Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "the demo makes interfaces and namespaces: run it as root");
        let logs = tempfile::Builder::new().prefix("sidecore-demo-").tempdir()?;
        let folder = Folder::create(&plan.folder)?;
        let hugepages = Reservation::at_least(HUGEPAGES_MIB)?;
        say(match hugepages {
            Some(_) => "hugepages: reserved",
            None => "hugepages: this machine gives none, going on without",
        });

        let outside = Outside::named(NAMESPACE, &plan.interface, "outside0", UPLINK_MTU).context(
            "is another demo running? What one that was killed has left is removed by: ip netns del sidecore-demo",
        )?;
        let servers = OutsideServers::start(&outside, logs.path())?;
        interrupt.check()?;

        say(&format!("switch: starting on {}", plan.config.display()));
        let switch = SwitchProcess::start_file(&plan.config, &plan.control, &logs.path().join("sidecore.log"))?;
        let guests = boot(plan, interrupt).with_context(|| format!("the switch's log:\n{}", switch.log()))?;

        let me = Self { guests, switch, _servers: servers, outside, _folder: folder, hugepages, _logs: logs };
        me.configure(plan)?;
        Ok(me)
    }

    fn configure(&self, plan: &Plan) -> Result<()> {
        for (guest, party) in self.guests.iter().zip(&plan.parties) {
            guest.configure(&format!("{}/24", party.ipv4), &format!("{}/64", party.ipv6), UPLINK_MTU)?;
        }
        let party = plan.parties.last().context("no parties")?;
        self.outside.configure(&format!("{}/24", party.ipv4), &format!("{}/64", party.ipv6))
    }

    /// The host behind a party, by its position in the plan.
    pub(crate) fn host(&self, party: usize) -> &(dyn Host + Sync) {
        match self.guests.get(party) {
            Some(guest) => guest,
            None => &self.outside,
        }
    }

    pub(crate) fn switch(&self) -> &SwitchProcess {
        &self.switch
    }

    pub(crate) fn has_hugepages(&self) -> bool {
        self.hugepages.is_some()
    }

    /// Makes every command that still runs on a host fail at once.
    pub(crate) fn abort(&self) {
        self.guests.iter().for_each(QemuGuest::abort);
        self.outside.netns().kill_all();
    }

    /// Ends the guests, then the switch as its user would. The rest is given back when the value is gone.
    pub(crate) fn tear_down(self) -> Result<()> {
        let Self { guests, switch, _servers: servers, outside, _folder: folder, hugepages, _logs: logs } = self;
        drop(guests);
        let stopped = switch.stop();
        // What the switch was to remove by itself, and only then the rest.
        let left = folder.sockets();
        drop((servers, outside, folder, hugepages, logs));
        stopped?;
        ensure!(left.is_empty(), "the switch left sockets behind: {left:?}");
        Ok(())
    }
}

fn boot(plan: &Plan, interrupt: &Interrupt) -> Result<Vec<QemuGuest>> {
    let image = GuestImage::get()?;
    let accel = Accel::detect(&image)?;
    say(&format!("guests: booting Linux {} under {}", image.version, accel.name()));
    let begin = Instant::now();
    let mut guests = Vec::new();
    for (index, (socket, party)) in plan.sockets.iter().zip(&plan.parties).enumerate() {
        let mac = format!("52:54:00:5c:00:{:02x}", index + 1);
        guests.push(QemuGuest::start(&GuestOptions::new(&party.port, socket, &mac))?);
    }
    for guest in &mut guests {
        while !guest.poll_ready()? {
            interrupt.check()?;
            if begin.elapsed() > BOOT_DEADLINE {
                bail!("{} did not boot within {BOOT_DEADLINE:?}\n{}", guest.name(), guest.boot_messages());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        say(&format!("guests: {} is up after {:.1} s", guest.name(), begin.elapsed().as_secs_f64()));
    }
    Ok(guests)
}

/// Which accelerator and which kernel the guests run on, for the report.
pub(crate) fn describe_guests() -> Result<(String, String)> {
    let image = GuestImage::get()?;
    Ok((Accel::detect(&image)?.name().to_owned(), image.version))
}

pub(crate) fn say(line: &str) {
    println!("demo: {line}");
}

/// The folder of the demo's sockets. It is made here, so it is ours to remove.
struct Folder(PathBuf);

impl Folder {
    fn create(path: &Path) -> Result<Self> {
        fs::DirBuilder::new().mode(0o700).create(path).with_context(|| {
            format!("cannot create {} (left by a demo that was killed? then remove it)", path.display())
        })?;
        Ok(Self(path.to_owned()))
    }

    fn sockets(&self) -> Vec<PathBuf> {
        fs::read_dir(&self.0).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("left behind: {}: {error}", self.0.display());
        }
    }
}
