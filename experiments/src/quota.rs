//! The same share of a CPU for every system's forwarding thread, so that the switch is the limit and not the generator.
//!
//! A `cpu` control group of its own with the shortest quota the kernel takes: half a CPU is one of every two milliseconds.
//! Version 1 takes thread ids in any group. Version 2 takes them only in a threaded group below one that holds their whole
//! processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};

/// The shortest quota, and period, that the kernel takes.
const QUOTA_US: u32 = 1000;

/// Where control groups are mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// A control group that limits the threads put into it. Dropping it lets them go and removes it.
#[derive(Debug)]
pub struct Quota {
    /// The group whose limit counts.
    limit: PathBuf,
    /// Groups to be removed, inner ones first.
    made: Vec<PathBuf>,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Version {
    /// The file of a group that takes thread ids.
    fn threads(self) -> &'static str {
        match self {
            Self::One => "tasks",
            Self::Two => "cgroup.threads",
        }
    }
}

impl Quota {
    /// Makes a group that gives its threads `share` of a CPU, and puts `thread` of process `pid` into it for every pair.
    pub fn new(share: f64, members: &[(u32, u32)]) -> Result<Self> {
        let one = [format!("{ROOT}/cpu"), format!("{ROOT}/cpu,cpuacct")];
        let one = one.iter().map(Path::new).find(|folder| folder.join("cpu.cfs_quota_us").exists());
        match one {
            Some(parent) => Self::version_one(parent, share, members),
            None => Self::version_two(Path::new(ROOT), share, members),
        }
    }

    fn version_one(parent: &Path, share: f64, members: &[(u32, u32)]) -> Result<Self> {
        let group = parent.join(name());
        fs::create_dir(&group).with_context(|| format!("cannot make {}", group.display()))?;
        let quota = Self { limit: group.clone(), made: vec![group.clone()], version: Version::One };
        write(&group, "cpu.cfs_period_us", period_us(share))?;
        write(&group, "cpu.cfs_quota_us", QUOTA_US)?;
        for (_, thread) in members {
            quota.take(*thread)?;
        }
        Ok(quota)
    }

    fn version_two(parent: &Path, share: f64, members: &[(u32, u32)]) -> Result<Self> {
        let controllers = fs::read_to_string(parent.join("cgroup.subtree_control")).unwrap_or_default();
        ensure!(
            controllers.split_whitespace().any(|word| word == "cpu"),
            "there is no cpu controller in {}, neither version 1 nor 2",
            parent.display()
        );
        let outer = parent.join(name());
        let inner = outer.join("forwarding");
        fs::create_dir(&outer).with_context(|| format!("cannot make {}", outer.display()))?;
        let mut quota = Self { limit: inner.clone(), made: vec![outer.clone()], version: Version::Two };
        for (process, _) in members {
            write(&outer, "cgroup.procs", process)?;
        }
        fs::create_dir(&inner).with_context(|| format!("cannot make {}", inner.display()))?;
        quota.made.insert(0, inner.clone());
        write(&inner, "cgroup.type", "threaded")?;
        write(&outer, "cgroup.subtree_control", "+cpu")?;
        write(&inner, "cpu.max", format!("{QUOTA_US} {}", period_us(share)))?;
        for (_, thread) in members {
            quota.take(*thread)?;
        }
        Ok(quota)
    }

    fn take(&self, thread: u32) -> Result<()> {
        write(&self.limit, self.version.threads(), thread)
    }

    fn release(&self) -> Result<()> {
        for group in &self.made {
            let Some(parent) = group.parent() else { continue };
            // A process of version 2 leaves with all its threads; a thread by itself could not.
            let (file, last) = match self.version {
                Version::One => ("tasks", true),
                Version::Two => ("cgroup.procs", parent == Path::new(ROOT)),
            };
            if last {
                for member in fs::read_to_string(group.join(file)).unwrap_or_default().lines() {
                    // One that has just ended is where it should be.
                    let _ = fs::write(parent.join(file), member);
                }
            }
        }
        for group in &self.made {
            fs::remove_dir(group).with_context(|| format!("cannot remove {}", group.display()))?;
        }
        Ok(())
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        if let Err(error) = self.release() {
            eprintln!("left behind: {error:#}");
        }
    }
}

/// A name that no other group has.
fn name() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("sidecore-bench-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

fn period_us(share: f64) -> u32 {
    (f64::from(QUOTA_US) / share).round() as u32
}

fn write(group: &Path, file: &str, value: impl ToString) -> Result<()> {
    let path = group.join(file);
    let value = value.to_string();
    fs::write(&path, &value).with_context(|| format!("cannot write {value} to {}", path.display()))
}

#[cfg(test)]
mod tests {
    use sidecore_tests::process::Process;
    use sidecore_tests::rules;

    use super::*;

    #[test]
    fn half_a_cpu_is_half_of_every_period() {
        assert_eq!(period_us(0.5), 2000);
        assert_eq!(period_us(0.8), 1250);
    }

    #[test]
    fn version_two_without_the_cpu_controller_is_refused_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.subtree_control"), "memory pids\n").unwrap();
        let error = Quota::version_two(dir.path(), 0.5, &[(1, 1)]).unwrap_err().to_string();
        assert!(error.contains("no cpu controller"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_group_takes_a_thread_and_is_gone_when_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let sleeper = Process::spawn("sleeper", "sleep", ["60"], &dir.path().join("log")).unwrap();
        let member = sleeper.pid();
        let Ok(quota) = Quota::new(0.5, &[(member, member)]) else {
            rules::skip(
                "a_group_takes_a_thread_and_is_gone_when_dropped",
                "control groups need root and a cpu controller",
            );
            return;
        };
        let group = quota.limit.clone();
        let members = fs::read_to_string(group.join(quota.version.threads())).unwrap();
        assert_eq!(members.trim(), member.to_string());
        drop(quota);
        assert!(!group.exists());
        assert!(Path::new(&format!("/proc/{member}")).exists(), "the thread is let go, not ended");
    }
}
