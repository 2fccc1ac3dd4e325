//! Starting DPDK's run time: with hugepages where there are any, without where there are none.

use pmd_bindings::{Eal, EalConfig, Hugepages, LogLevel, LogOutput};

use super::error::DataplaneError;

/// Packet memory without hugepages, in MiB: it cannot grow later, and is only used as far as it is touched.
const MEMORY_MIB: u32 = 512;
/// Hugepage memory that must be free before `auto` uses it, in MiB, where the configuration does not say how much is needed.
const HUGE_MEMORY_MIB: u32 = 128;

/// Starts EAL. It starts once in a process, so hugepages are looked for before.
pub(super) fn start(config: &config::SwitchConfig) -> Result<Eal, DataplaneError> {
    let wanted = config.memory_mib.unwrap_or(HUGE_MEMORY_MIB);
    let free = free_hugepage_mib();
    let huge = match config.hugepages {
        config::Hugepages::Off => false,
        config::Hugepages::Require => true,
        config::Hugepages::Auto => {
            if free < u64::from(wanted) {
                tracing::warn!(
                    free_mib = free,
                    wanted_mib = wanted,
                    "running without hugepages: mbufs cost TLB misses, and NICs behind vfio need an IOMMU; \
                     reserve some (echo 512 > /proc/sys/vm/nr_hugepages) and restart to do better"
                );
            }
            free >= u64::from(wanted)
        }
    };
    if let Some(wanted_mib) = config.memory_mib {
        let (available_mib, kind) = if huge { (free, "hugepages") } else { (available_mib(), "memory") };
        // EAL would take what there is, and the machine with it, before it said so.
        if u64::from(wanted_mib) > available_mib {
            return Err(DataplaneError::Memory { wanted_mib, available_mib, kind });
        }
    }
    let eal = Eal::init(EalConfig {
        program: "sidecore".into(),
        hugepages: if huge { Hugepages::InMemory } else { Hugepages::Off },
        memory_mib: if huge { config.memory_mib } else { Some(config.memory_mib.unwrap_or(MEMORY_MIB)) },
        file_prefix: Some(format!("sidecore-{}", std::process::id())),
        log_level: LogLevel::Notice,
        log_output: LogOutput::Callback(Box::new(log)),
        ..EalConfig::default()
    });
    eal.map_err(Box::new)
        .map_err(|source| if huge { DataplaneError::Hugepages(source) } else { DataplaneError::Eal(source) })
}

/// DPDK's log lines among our own. What DPDK calls a notice is for its developers.
fn log(level: LogLevel, line: &str) {
    match level {
        LogLevel::Emergency | LogLevel::Alert | LogLevel::Critical | LogLevel::Error => tracing::error!("dpdk: {line}"),
        LogLevel::Warning => tracing::warn!("dpdk: {line}"),
        _ => tracing::debug!("dpdk: {line}"),
    }
}

/// Memory that can be had without swapping, in MiB.
fn available_mib() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    // A kernel that does not say is taken at its word by EAL.
    kib.map_or(u64::MAX, |kib| kib / 1024)
}

/// Free hugepages of every size together, in MiB.
fn free_hugepage_mib() -> u64 {
    let sizes = std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    sizes
        .filter_map(|entry| {
            let name = entry.file_name();
            let kib: u64 = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let free: u64 = std::fs::read_to_string(entry.path().join("free_hugepages")).ok()?.trim().parse().ok()?;
            Some(kib * free / 1024)
        })
        .sum()
}
