//! Where the workspace keeps what the tests need.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The workspace's root folder.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// A folder under the workspace's `target/`, made when it is not there. Guest images and demo reports live here, whatever
/// `CARGO_TARGET_DIR` says.
pub fn target(sub: &str) -> Result<PathBuf> {
    let dir = workspace().join("target").join(sub);
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}

/// The `sidecore` binary under test: `SIDECORE_BIN`, or the one built beside the running test or demo binary.
pub fn sidecore() -> Result<PathBuf> {
    built("sidecore", "sidecore", "SIDECORE_BIN")
}

/// A switch that was built with `--features fault-injection`: `SIDECORE_FAULTY_BIN`, or the binary `sidecore-faulty` beside the
/// running one.
pub fn sidecore_faulty() -> Result<PathBuf> {
    built("sidecore-faulty", "sidecore --features fault-injection, then rename it", "SIDECORE_FAULTY_BIN")
}

/// The packet generator `ringgen`: `RINGGEN_BIN`, or the one built beside the running binary.
pub fn ringgen() -> Result<PathBuf> {
    built("ringgen", "synthetic-guest", "RINGGEN_BIN")
}

/// The simulator `sidecore-simulate`: `SIDECORE_SIMULATE_BIN`, or the one built beside the running binary.
pub fn simulator() -> Result<PathBuf> {
    built("sidecore-simulate", "sidecore-simulator", "SIDECORE_SIMULATE_BIN")
}

/// The program `guest-traffic`, which runs in Linux guests: `GUEST_TRAFFIC_BIN`, or the one built beside the running binary.
pub fn guest_traffic() -> Result<PathBuf> {
    built("guest-traffic", "sidecore-tests --bin guest-traffic", "GUEST_TRAFFIC_BIN")
}

/// The program `exits`, which counts VM exits: `EXITS_BIN`, or the one built beside the running binary.
pub fn exits() -> Result<PathBuf> {
    built("exits", "sidecore-exits", "EXITS_BIN")
}

fn built(binary: &str, package: &str, variable: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(PathBuf::from(path));
    }
    let me = std::env::current_exe().context("cannot find the running binary's own path")?;
    // target/PROFILE/sidecore-demo or target/PROFILE/deps/test-HASH
    for dir in me.ancestors().skip(1).take(2) {
        let candidate = dir.join(binary);
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    bail!("no {binary} beside {}: build it first (cargo build -p {package}), or set {variable}", me.display());
}
