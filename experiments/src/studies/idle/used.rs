//! CPU time of a process, thread by thread.

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use anyhow::Result;

use crate::threads;

/// What the threads of a process have had of CPUs, in nanoseconds, by their names without numbers.
pub(super) struct Used {
    /// When the look began: one at a thousand threads takes its time.
    at: Instant,
    ns: BTreeMap<String, u64>,
}

impl Used {
    pub(super) fn until_now(pid: u32) -> Result<Self> {
        let mut used = Self { at: Instant::now(), ns: BTreeMap::new() };
        for thread in threads::of_process(pid)? {
            // The first number is the time on a CPU, in nanoseconds. A thread that has just ended has none.
            let stat = fs::read_to_string(format!("/proc/{pid}/task/{}/schedstat", thread.id)).unwrap_or_default();
            let ns: u64 = stat.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0);
            let name = thread.name.trim_end_matches(|last: char| last.is_ascii_digit() || last == '-');
            *used.ns.entry(name.to_owned()).or_default() += ns;
        }
        Ok(used)
    }

    /// Parts of a CPU since an earlier look.
    pub(super) fn since(&self, earlier: &Self) -> BTreeMap<String, f64> {
        let time = self.at.duration_since(earlier.at).as_nanos() as f64;
        let part = |(name, ns): (&String, &u64)| {
            let before = earlier.ns.get(name).copied().unwrap_or(0);
            (name.clone(), ns.saturating_sub(before) as f64 / time)
        };
        self.ns.iter().map(part).collect()
    }
}
