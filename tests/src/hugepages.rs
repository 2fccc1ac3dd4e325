//! 2 MiB hugepages, reserved where the machine lets us and given back afterwards.

use std::fs;

use anyhow::{Context, Result};

const COUNT: &str = "/proc/sys/vm/nr_hugepages";

/// A raised hugepage count. Dropping it sets the count back.
#[derive(Debug)]
pub struct Reservation {
    before: u64,
}

impl Reservation {
    /// Makes sure that `mib` of free 2 MiB pages are there. `Ok(None)` says that this machine does not give them: then
    /// nothing has changed.
    pub fn at_least(mib: u64) -> Result<Option<Self>> {
        let needed = mib.div_ceil(2);
        let (Some(free), Ok(before)) = (free_pages()?, total()) else { return Ok(None) };
        let missing = needed.saturating_sub(free);
        let reservation = Self { before };
        if missing > 0 && fs::write(COUNT, (before + missing).to_string()).is_err() {
            return Ok(None);
        }
        // The kernel takes the number and gives what it can find.
        if free_pages()?.unwrap_or(0) < needed {
            return Ok(None);
        }
        Ok(Some(reservation))
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if total().is_ok_and(|now| now != self.before)
            && let Err(error) = fs::write(COUNT, self.before.to_string())
        {
            eprintln!("left behind: {COUNT} is not set back to {}: {error}", self.before);
        }
    }
}

/// The present count of 2 MiB pages.
pub fn total() -> Result<u64> {
    fs::read_to_string(COUNT)?.trim().parse().context(COUNT)
}

/// Free pages, or nothing where the default size is not 2 MiB.
fn free_pages() -> Result<Option<u64>> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let field = |name: &str| -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    if field("Hugepagesize:") != Some(2048) {
        return Ok(None);
    }
    Ok(field("HugePages_Free:"))
}
