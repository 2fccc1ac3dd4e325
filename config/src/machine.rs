//! What validation knows of the machine: passed in as data, so that tests can be any machine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::types::{Account, CpuId};

/// What Linux calls the driver of idle CPUs where there is none: then they halt whatever limit is set.
pub(crate) const NO_IDLE_DRIVER: &str = "none";

/// What there is on the machine that a configuration can name. What is not known is not checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// CPUs that are online; none: not known.
    pub online_cpus: Option<BTreeSet<CpuId>>,
    /// The driver that has idle CPUs sleep, as Linux calls it, `none` included; none: not known.
    pub idle_driver: Option<String>,
    /// Users and their ids; none: not known.
    pub users: Option<BTreeMap<String, u32>>,
    /// Groups and their ids; none: not known.
    pub groups: Option<BTreeMap<String, u32>>,
}

impl Machine {
    /// Nothing is known of it.
    pub(crate) const UNKNOWN: Self = Self { online_cpus: None, idle_driver: None, users: None, groups: None };

    /// This machine: CPUs from sysfs, users and groups from `/etc/passwd` and `/etc/group`. Accounts that only a
    /// directory service knows must be given by number.
    pub fn detect() -> Self {
        let read = |path: &str| std::fs::read_to_string(Path::new(path)).ok();
        Self {
            online_cpus: read("/sys/devices/system/cpu/online").and_then(|text| parse_cpu_list(&text)),
            // A kernel without cpuidle has no such file.
            idle_driver: Some(
                read("/sys/devices/system/cpu/cpuidle/current_driver")
                    .map_or_else(|| NO_IDLE_DRIVER.to_owned(), |name| name.trim().to_owned()),
            ),
            users: read("/etc/passwd").map(|text| parse_accounts(&text)),
            groups: read("/etc/group").map(|text| parse_accounts(&text)),
        }
    }

    /// Any machine: for checking a file that is meant for another one.
    pub fn any() -> Self {
        Self::default()
    }

    /// The uid of a user; none: there is no user of that name.
    pub fn uid(&self, user: &Account) -> Option<u32> {
        resolve(user, self.users.as_ref())
    }

    /// The gid of a group; none: there is no group of that name.
    pub fn gid(&self, group: &Account) -> Option<u32> {
        resolve(group, self.groups.as_ref())
    }
}

fn resolve(account: &Account, known: Option<&BTreeMap<String, u32>>) -> Option<u32> {
    match account {
        Account::Id(id) => Some(*id),
        Account::Name(name) => known?.get(name).copied(),
    }
}

/// Reads the kernel's list format, such as `0-3,8`. None if it is anything else.
fn parse_cpu_list(text: &str) -> Option<BTreeSet<CpuId>> {
    let mut cpus = BTreeSet::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        cpus.extend((first..=last).map(CpuId));
    }
    Some(cpus)
}

/// Reads `name:password:id:…` lines (passwd(5), group(5)); lines of another form are left out.
fn parse_accounts(text: &str) -> BTreeMap<String, u32> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let id = fields.nth(1)?.parse().ok()?;
            Some((name.to_owned(), id))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists() {
        let cpus = |ids: &[u32]| ids.iter().copied().map(CpuId).collect::<BTreeSet<_>>();
        assert_eq!(parse_cpu_list("0-3,8\n"), Some(cpus(&[0, 1, 2, 3, 8])));
        assert_eq!(parse_cpu_list("0\n"), Some(cpus(&[0])));
        assert_eq!(parse_cpu_list(""), None);
        assert_eq!(parse_cpu_list("a-b"), None);
    }

    #[test]
    fn accounts() {
        let machine = Machine {
            users: Some(parse_accounts("root:x:0:0:root:/root:/bin/sh\nlibvirt-qemu:x:64055:103::/:/bin/false\n# x\n")),
            ..Machine::any()
        };
        assert_eq!(machine.uid(&Account::Name("libvirt-qemu".into())), Some(64055));
        assert_eq!(machine.uid(&Account::Name("nobody".into())), None);
        assert_eq!(machine.gid(&Account::Id(7)), Some(7));
    }
}
