//! The I/O cores' threads, and the CPUs that they and all others run on.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

use pmd_bindings::{Eal, ThreadRegistration};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::super::cpu_wait::CpuWait;
use super::super::error::DataplaneError;
use super::super::io_core::{CoreSetup, IoCore};

/// Has this thread, and all that it starts, run on the CPUs that it has and that are no I/O core's, if there are any.
pub(super) fn keep_off_io_cores(config: &config::SwitchConfig) {
    let mut others = sched_getaffinity(None).unwrap_or_default();
    config.io_cores.cpus.iter().for_each(|cpu| others.unset(cpu.0 as usize));
    if others.count() > 0 {
        // Where that is not allowed, they run where the process does.
        let _ = sched_setaffinity(None, &others);
    }
}

/// Starts one core's thread; it works from the moment it is on its CPU and known to DPDK, or, where it has none, on one of `own`.
pub(super) fn start_core(
    eal: Arc<Eal>,
    setup: CoreSetup,
    cpu: Option<usize>,
    own: Option<CpuSet>,
) -> Result<(JoinHandle<IoCore>, CpuWait), DataplaneError> {
    let index = setup.index;
    let name = if cpu.is_some() { "io-core" } else { "io-guest" };
    let (ready, started) = sync_channel(1);
    let thread = std::thread::Builder::new()
        .name(format!("{name}-{index}"))
        .spawn(move || {
            let core = IoCore::new(setup);
            let registration = match cpu {
                Some(cpu) if !core_affinity::set_for_current(core_affinity::CoreId { id: cpu }) => {
                    let _ = ready.send(Err(DataplaneError::Pin { core: index, cpu }));
                    return core;
                }
                // Pools keep a cache for threads that EAL knows.
                Some(_) => Some(ThreadRegistration::new(&eal)),
                None => {
                    // Where that is not allowed, it runs where the process does.
                    own.iter().for_each(|cpus| _ = sched_setaffinity(None, cpus));
                    None
                }
            };
            let failure = registration.as_ref().and_then(|registration| registration.as_ref().err());
            let failed = failure.is_some();
            let outcome = match failure {
                Some(e) => Err(DataplaneError::CoreThread(index, e.to_string())),
                None => Ok(CpuWait::of_this_thread()),
            };
            let _ = ready.send(outcome);
            if failed { core } else { core.run() }
        })
        .map_err(|source| DataplaneError::CoreThread(index, source.to_string()))?;
    let ended = || Err(DataplaneError::CoreThread(index, "it ended at once".into()));
    let cpu_wait = started.recv().unwrap_or_else(|_| ended())?;
    Ok((thread, cpu_wait))
}
