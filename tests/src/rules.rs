//! What holds for every end-to-end test: one at a time on the machine, and no silent skip.

use std::fs::{File, OpenOptions};
use std::io::Write as _;

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};

use crate::{net, paths};

/// The right to load the machine: guests, pinned cores and namespaces of two tests would disturb each other's measurements
/// and time limits.
#[derive(Debug)]
pub struct Machine(#[expect(dead_code, reason = "held for its lock")] File);

impl Machine {
    /// Waits until no other test, of any process, holds the machine. Then removes what killed tests have left.
    pub fn exclusive() -> Result<Self> {
        let path = paths::target("guest")?.join("machine.lock");
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        flock(&file, FlockOperation::LockExclusive)?;
        net::remove_stale();
        Ok(Self(file))
    }
}

/// File that collects the skips of a run; `run-tests` sets it.
pub const SKIP_LOG: &str = "SIDECORE_SKIP_LOG";

/// Reports that a test could not run here. The run fails unless tests/skips.txt has the name and the reason.
pub fn skip(name: &str, reason: &str) {
    println!("SKIP {name}: {reason}");
    let Some(path) = std::env::var_os(SKIP_LOG) else { return };
    let line = format!("{name}: {reason}\n");
    let written =
        OpenOptions::new().create(true).append(true).open(&path).and_then(|mut log| log.write_all(line.as_bytes()));
    // A skip that cannot be reported must not look like a pass.
    assert!(written.is_ok(), "cannot write {}: {written:?}", path.display());
}

/// True in `make test-full`.
#[must_use]
pub fn full() -> bool {
    std::env::var("SIDECORE_TEST_FULL").is_ok_and(|value| value == "1")
}

/// MiB that every transfer of the matrix moves: 4, or 64 in the long form.
#[must_use]
pub fn transfer_mib() -> u32 {
    if full() { 64 } else { 4 }
}
