//! The limit that Linux keeps on how long a CPU may take to wake up.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// That of one CPU. Dropping it gives back what was there.
#[derive(Debug)]
pub struct WakeLimit {
    path: PathBuf,
    found: String,
}

impl WakeLimit {
    /// None where nothing keeps such a limit, or this user may not change it.
    #[must_use]
    pub fn of(cpu: usize) -> Option<Self> {
        let driver = fs::read_to_string("/sys/devices/system/cpu/cpuidle/current_driver").ok()?;
        let path = PathBuf::from(format!("/sys/devices/system/cpu/cpu{cpu}/power/pm_qos_resume_latency_us"));
        let found = fs::read_to_string(&path).ok()?;
        let me = Self { path, found };
        (driver.trim() != "none" && me.lift().is_ok()).then_some(me)
    }

    /// What the kernel says: microseconds, `n/a` for none at all, `0` where there is no limit.
    pub fn get(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.path).with_context(|| self.path.display().to_string())?.trim().to_owned())
    }

    /// Sets it, in the same words.
    pub fn set(&self, limit: &str) -> Result<()> {
        fs::write(&self.path, limit).with_context(|| self.path.display().to_string())
    }

    /// Back to what was there.
    pub fn lift(&self) -> Result<()> {
        self.set(self.found.trim())
    }
}

impl Drop for WakeLimit {
    fn drop(&mut self) {
        // It could be changed before; nobody is left to be told.
        let _ = self.lift();
    }
}
