//! What the results were measured on, and with what.

use std::fs;

use sidecore_tests::paths;
use sidecore_tests::process::must;

use crate::systems::ovs_daemon;

/// A machine and the programs on it, as lines of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Processor, kernel and memory.
    pub machine: Vec<String>,
    /// Name and version of every program.
    pub versions: Vec<String>,
}

impl Machine {
    /// This one.
    #[must_use]
    pub fn detect(hugepages: bool) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let machine = vec![
            processor(&cpuinfo),
            format!("Linux {}", kernel.trim()),
            if hugepages { "packet buffers and guests' memory on 2 MiB pages" } else { "no hugepages, for anyone" }
                .to_owned(),
        ];
        Self { machine, versions: versions() }
    }
}

/// Memory that can be had without swapping, in MiB. None where the kernel does not say.
#[must_use]
pub fn available_mib() -> Option<u64> {
    available(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn available(meminfo: &str) -> Option<u64> {
    let kib: u64 = field(meminfo, "MemAvailable")?.strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024)
}

fn processor(cpuinfo: &str) -> String {
    let model = field(cpuinfo, "model name").unwrap_or("unknown processor");
    let cpus = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let guest = field(cpuinfo, "flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
    format!("{cpus} CPUs, {model}{}", if guest { ", a virtual machine" } else { "" })
}

fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let line = text.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
    line.split_once(':').map(|(_, value)| value.trim())
}

fn versions() -> Vec<String> {
    let first_line = |command: &[&str]| -> Option<String> {
        let text = must(command).ok()?;
        text.lines().next().map(|line| line.trim().to_owned())
    };
    let root = paths::workspace().display().to_string();
    let binary = paths::sidecore().map(|path| path.display().to_string()).unwrap_or_default();
    let sidecore = first_line(&[&binary, "--version"]);
    let commit = first_line(&["git", "-C", &root, "describe", "--always", "--dirty", "--abbrev=12"]);
    let package = |name: &str| first_line(&["dpkg-query", "-W", "-f=${Package} ${Version}", name]);
    [
        sidecore.map(|name| commit.map_or(name.clone(), |commit| format!("{name}, commit {commit}"))),
        first_line(&[ovs_daemon(), "--version"]),
        package("openvswitch-switch-dpdk"),
        package("dpdk-dev").map(|name| format!("{name} (dpdk-testpmd)")),
        first_line(&["rustc", "--version"]),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_described_from_cpuinfo() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2.0\nflags\t\t: fpu hypervisor avx\n\nprocessor\t: 1\n";
        assert_eq!(processor(text), "2 CPUs, Some CPU @ 2.0, a virtual machine");
        assert_eq!(processor("processor : 0\nflags : fpu\n"), "1 CPUs, unknown processor");
    }

    #[test]
    fn memory_that_is_available_is_not_all_that_is_free() {
        let text = "MemTotal:       24683968 kB\nMemFree:        17478000 kB\nMemAvailable:   23636012 kB\n";
        assert_eq!(available(text), Some(23082));
        assert_eq!(available("MemTotal: 24683968 kB\n"), None);
    }

    #[test]
    fn this_machine_is_described() {
        let machine = Machine::detect(false);
        assert!(machine.machine[1].starts_with("Linux "), "{machine:?}");
    }
}
