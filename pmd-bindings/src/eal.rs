//! EAL: DPDK's run time, started once a process.

use std::ffi::{CString, c_char};
use std::io;
use std::mem::size_of;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, c_string, check, check_errno};
use crate::ethdev::{self, EthDev};
use crate::ffi;
use crate::log::{self, LogLevel, LogOutput};

/// Where packet memory comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hugepages {
    /// Ordinary pages: works everywhere, but every packet costs TLB misses, and NICs behind vfio need an IOMMU.
    #[default]
    Off,
    /// Hugepages without files: nothing to mount, nothing left behind.
    InMemory,
    /// Hugepages from a hugetlbfs mount, unlinked as soon as they are mapped.
    Mounted,
}

/// Which PCI devices EAL takes when it starts. Others can be added later with [`Eal::hotplug`], except after `Off`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PciDevices {
    /// The PCI bus is not looked at.
    Off,
    /// These addresses (`0000:03:00.0`, device arguments may follow after a comma) and no others.
    Only(Vec<String>),
    /// Every device that is bound to a driver DPDK can use.
    All,
}

/// How to start EAL.
#[derive(Debug)]
pub struct EalConfig {
    /// The name EAL runs under.
    pub program: String,
    /// Where packet memory comes from.
    pub hugepages: Hugepages,
    /// Memory for mbufs and queues in MiB. Without hugepages this is all there will ever be (EAL's own default is
    /// 64); with them it is what EAL reserves at once.
    pub memory_mib: Option<u32>,
    /// PCI devices to take.
    pub pci: PciDevices,
    /// Virtual devices to create, such as `net_af_packet0,iface=veth0`. One that fails is only logged, and missing
    /// later: [`Eal::hotplug`] reports why.
    pub vdevs: Vec<String>,
    /// Sets this process's hugepage files apart from other DPDK processes'.
    pub file_prefix: Option<String>,
    /// The least grave messages to log.
    pub log_level: LogLevel,
    /// Where the log goes.
    pub log_output: LogOutput,
    /// Further EAL options, as they are.
    pub extra_args: Vec<String>,
}

impl Default for EalConfig {
    fn default() -> Self {
        Self {
            program: "pmd-bindings".into(),
            hugepages: Hugepages::Off,
            memory_mib: None,
            pci: PciDevices::Only(Vec::new()),
            vdevs: Vec::new(),
            file_prefix: None,
            log_level: LogLevel::Notice,
            log_output: LogOutput::Stderr,
            extra_args: Vec::new(),
        }
    }
}

/// An address that no NIC has (it is the host bridge's): with it alone on the list of allowed devices EAL takes
/// none when it starts, but still knows the bus when one is plugged in later.
const NO_DEVICE: &str = "0000:00:00.0";

impl EalConfig {
    /// EAL's command line. `cpus` are those the calling thread may run on.
    fn arguments(&self, cpus: &[usize]) -> Vec<String> {
        let mut arguments = vec![self.program.clone()];
        // No secondary process ever attaches: nothing needs to be written to /run/dpdk.
        arguments.extend(["--no-telemetry", "--no-shconf"].map(String::from));
        match self.hugepages {
            Hugepages::Off => arguments.push("--no-huge".into()),
            Hugepages::InMemory => arguments.push("--in-memory".into()),
            Hugepages::Mounted => arguments.push("--huge-unlink".into()),
        }
        if let Some(mib) = self.memory_mib {
            arguments.extend(["-m".into(), mib.to_string()]);
        }
        match &self.pci {
            PciDevices::Off => arguments.push("--no-pci".into()),
            PciDevices::Only(addresses) if addresses.is_empty() => arguments.push(format!("--allow={NO_DEVICE}")),
            PciDevices::Only(addresses) => arguments.extend(addresses.iter().map(|a| format!("--allow={a}"))),
            PciDevices::All => {}
        }
        arguments.extend(self.vdevs.iter().map(|vdev| format!("--vdev={vdev}")));
        arguments.extend(self.file_prefix.iter().map(|prefix| format!("--file-prefix={prefix}")));
        // One lcore, free to run wherever the caller may: by default EAL starts a thread for each CPU.
        let cpus: Vec<String> =
            cpus.iter().filter(|cpu| **cpu < ffi::PMD_MAX_LCORES as usize).map(usize::to_string).collect();
        if !cpus.is_empty() {
            arguments.push(format!("--lcores=0@({})", cpus.join(",")));
        }
        // The first is the ceiling; each component also has a level of its own, most of them at notice.
        arguments.push(format!("--log-level={}", self.log_level as u8));
        if self.log_level > LogLevel::Notice {
            arguments.push(format!("--log-level=*:{}", self.log_level as u8));
        }
        arguments.extend(self.extra_args.iter().cloned());
        arguments
    }
}

/// The running EAL. Handles are cheap to clone; pools and ports hold one themselves, and the last to go shuts EAL
/// down. It cannot be started again afterwards.
#[derive(Clone)]
pub struct Eal {
    pub(crate) runtime: Arc<Runtime>,
}

impl std::fmt::Debug for Eal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Eal").finish_non_exhaustive()
    }
}

impl Eal {
    /// Starts EAL. The calling thread becomes EAL's main lcore; its CPU affinity, which EAL changes, is put back.
    ///
    /// # Errors
    /// [`Error::AlreadyInitialised`] on every call but the first; whatever keeps EAL from starting.
    pub fn init(config: EalConfig) -> Result<Self, Error> {
        static CALLED: AtomicBool = AtomicBool::new(false);

        let affinity = Affinity::current()?;
        let arguments: Vec<CString> = config
            .arguments(&affinity.cpus())
            .iter()
            .map(|argument| c_string("EAL argument", argument))
            .collect::<Result<_, _>>()?;
        if CALLED.swap(true, Ordering::Relaxed) {
            return Err(Error::AlreadyInitialised);
        }
        log::open(config.log_output)?;

        // EAL keeps pointers into its arguments and may reorder them: they are given to it for good.
        let mut argv: Vec<*mut c_char> = arguments.into_iter().map(CString::into_raw).collect();
        let argc = argv.len() as i32;
        argv.push(std::ptr::null_mut());
        let argv = argv.leak();
        let started = check_errno("rte_eal_init", &config.program, || {
            // SAFETY: argv has argc strings and a null after them, none of which is ever freed or used again by us;
            // CALLED makes this the only call in the process's life.
            (unsafe { ffi::rte_eal_init(argc, argv.as_mut_ptr()) } >= 0).then_some(())
        });
        let restored = affinity.restore();
        remove_runtime_directory();
        started?;
        let eal = Self { runtime: Arc::new(Runtime { ports: Mutex::new(Claims::default()) }) };
        restored?;
        Ok(eal)
    }

    /// DPDK's version, as in `DPDK 22.11.7`.
    pub fn version() -> String {
        // SAFETY: returns a string that lives as long as the process, and needs no EAL.
        unsafe { std::ffi::CStr::from_ptr(ffi::rte_version()) }.to_string_lossy().into_owned()
    }

    /// Adds a device: a PCI address or a virtual device, with its arguments (`net_af_xdp0,iface=veth0`). Returns
    /// its first port; the others of a device with several are in [`EthDev::all`].
    ///
    /// # Errors
    /// The device is unknown, exists already, or its driver refuses it.
    pub fn hotplug(&self, devargs: &str) -> Result<EthDev, Error> {
        let c_devargs = c_string("device", devargs)?;
        let name = device_name(devargs)?.1;
        let mut claims = self.runtime.claims();
        check("rte_dev_probe", devargs, || {
            // SAFETY: the string is terminated and copied by DPDK. The lock on the claims, which everything that
            // adds or removes devices holds, keeps two of these from running at once.
            unsafe { ffi::rte_dev_probe(c_devargs.as_ptr()) }
        })?;
        let ports = ethdev::ports_of_device(&name);
        let Some(&id) = ports.first() else {
            return Err(Error::NoSuchPort { name: devargs.to_owned(), known: ethdev::port_names() });
        };
        EthDev::claim(self, &mut claims, id)
    }

    /// Removes a device that [`Eal::hotplug`] or the configuration added; arguments after the name are ignored.
    ///
    /// # Errors
    /// [`Error::PortInUse`] while an [`EthDev`], a [`Port`](crate::Port) or one of its queues still exists.
    pub fn unplug(&self, devargs: &str) -> Result<(), Error> {
        let (bus, name) = device_name(devargs)?;
        let claims = self.runtime.claims();
        if ethdev::ports_of_device(&name).iter().any(|id| claims.contains(*id)) {
            return Err(Error::PortInUse { name });
        }
        let (c_bus, c_name) = (c_string("bus", &bus)?, c_string("device", &name)?);
        check("rte_eal_hotplug_remove", &name, || {
            // SAFETY: both strings are terminated. No port of the device is claimed, and none can be while the lock
            // is held: the driver closes what nobody uses.
            unsafe { ffi::rte_eal_hotplug_remove(c_bus.as_ptr(), c_name.as_ptr()) }
        })?;
        Ok(())
    }
}

/// The bus and the name in a device string.
fn device_name(devargs: &str) -> Result<(String, String), Error> {
    let text = c_string("device", devargs)?;
    let mut bus = [0u8; ffi::PMD_DEVICE_NAME_LENGTH as usize];
    let mut name = bus;
    check("rte_devargs_parse", devargs, || {
        // SAFETY: the string is terminated, and both buffers have the length the shim writes at most.
        unsafe { ffi::pmd_parse_device(text.as_ptr(), bus.as_mut_ptr().cast(), name.as_mut_ptr().cast()) }
    })?;
    Ok((ethdev::string_in(&bus), ethdev::string_in(&name)))
}

/// EAL makes a directory for files that other processes attach by. There are none (`--no-shconf`, `--no-telemetry`), and a
/// process that is killed could not remove it later. One that is not empty after all stays.
fn remove_runtime_directory() {
    // SAFETY: returns a constant buffer of EAL's, terminated, and empty before rte_eal_init has filled it.
    let path = unsafe { std::ffi::CStr::from_ptr(ffi::rte_eal_get_runtime_dir()) };
    if let Ok(path) = path.to_str() {
        let _ = std::fs::remove_dir(path);
    }
}

/// EAL's life: whoever holds one keeps DPDK's memory mapped.
pub(crate) struct Runtime {
    ports: Mutex<Claims>,
}

impl Runtime {
    /// The ports that are spoken for. Held while devices come and go, so that no claim races with that.
    pub(crate) fn claims(&self) -> MutexGuard<'_, Claims> {
        // A panic between claim and release cannot leave the mask half written.
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // SAFETY: the last handle. Every pool, port, queue and registered thread holds one, and pools with mbufs
        // still out leak theirs, so nothing of DPDK's memory can be reached any more.
        unsafe { ffi::rte_eal_cleanup() };
    }
}

/// Which ports have an owner.
#[derive(Default)]
pub(crate) struct Claims([bool; ffi::PMD_MAX_PORTS as usize]);

impl Claims {
    pub(crate) fn contains(&self, id: u16) -> bool {
        self.0[usize::from(id)]
    }

    /// False if it was taken.
    pub(crate) fn insert(&mut self, id: u16) -> bool {
        !std::mem::replace(&mut self.0[usize::from(id)], true)
    }

    pub(crate) fn remove(&mut self, id: u16) {
        self.0[usize::from(id)] = false;
    }
}

/// The CPUs a thread may run on.
struct Affinity(libc::cpu_set_t);

impl Affinity {
    fn current() -> Result<Self, Error> {
        // SAFETY: cpu_set_t is an array of integers, for which zero is a value.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes at most the given size to `set`.
        if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) } < 0 {
            return Err(Error::Affinity(io::Error::last_os_error()));
        }
        Ok(Self(set))
    }

    fn cpus(&self) -> Vec<usize> {
        // SAFETY: every index is below CPU_SETSIZE, the number of bits in the set.
        (0..libc::CPU_SETSIZE as usize).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &self.0) }).collect()
    }

    fn restore(&self) -> Result<(), Error> {
        // SAFETY: the kernel reads the given size from the set.
        if unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &self.0) } < 0 {
            return Err(Error::Affinity(io::Error::last_os_error()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_option_excludes_another() {
        let config = EalConfig { hugepages: Hugepages::InMemory, ..EalConfig::default() };
        let arguments = config.arguments(&[0, 1]);
        assert!(arguments.contains(&"--in-memory".to_owned()));
        assert!(!arguments.contains(&"--no-huge".to_owned()));
        assert!(arguments.contains(&"--lcores=0@(0,1)".to_owned()));
    }

    #[test]
    fn without_a_pci_list_nothing_is_probed_and_the_bus_stays_known() {
        let arguments = EalConfig::default().arguments(&[]);
        assert!(arguments.contains(&format!("--allow={NO_DEVICE}")));
        assert!(!arguments.iter().any(|a| a == "--no-pci" || a.starts_with("--lcores")));
    }

    #[test]
    fn a_level_below_notice_is_set_for_every_component() {
        let config = EalConfig { log_level: LogLevel::Debug, ..EalConfig::default() };
        assert!(config.arguments(&[0]).contains(&"--log-level=*:8".to_owned()));
    }
}
