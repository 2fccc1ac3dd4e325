//! What the integration tests share. Each test file is a process, and a process has one EAL: a file's tests share
//! one through [`eal`], or there is only one test in it.
#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::io::Write as _;
use std::sync::{Mutex, OnceLock};

use pmd_bindings::{Eal, EalConfig, LogOutput, Mempool};

/// An EAL that needs nothing of the machine: no hugepages, no PCI devices.
pub(crate) fn config() -> EalConfig {
    EalConfig { program: "test".into(), memory_mib: Some(128), log_output: LogOutput::Discard, ..EalConfig::default() }
}

/// The process's EAL.
pub(crate) fn eal() -> &'static Eal {
    static EAL: OnceLock<Eal> = OnceLock::new();
    static STARTING: Mutex<()> = Mutex::new(());
    let _one = STARTING.lock().unwrap();
    EAL.get_or_init(|| Eal::init(config()).expect("EAL starts without hugepages"))
}

/// A pool with no cache, so that counts are exact on any thread.
pub(crate) fn pool(name: &str, count: u32) -> Mempool {
    Mempool::new(eal(), name, count, 0, 2048, None).expect("there is memory for a small pool")
}

/// A packet whose bytes can be told from any other's.
pub(crate) fn fill(bytes: &mut [u8], seed: u8) {
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = (index as u8).wrapping_mul(31).wrapping_add(seed);
    }
}

/// Reports that a test could not run here, where a run of the whole suite collects skips: one that `tests/skips.txt` does not list
/// fails it.
pub(crate) fn skip(test: &str, reason: &str) {
    println!("SKIP {test}: {reason}");
    let Some(log) = std::env::var_os("SIDECORE_SKIP_LOG") else { return };
    let file = std::fs::OpenOptions::new().create(true).append(true).open(log);
    file.and_then(|mut file| writeln!(file, "{test}: {reason}")).expect("the skip is recorded");
}
