//! What KVM counts of a guest's virtual CPUs, as QEMU tells it (QMP `query-stats`).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{QemuGuest, Qmp};

/// Counts since the guest was started, by KVM's name for them: `exits`, and causes such as `halt_exits`.
pub type Counters = BTreeMap<String, u64>;

/// The counters of a guest's virtual CPUs.
#[derive(Debug)]
pub struct VcpuStats {
    qmp: Qmp,
    /// What this kernel's KVM counts; nothing where the guest runs without KVM.
    names: BTreeSet<String>,
}

impl VcpuStats {
    /// Asks what there is. This is the guest's QMP session from now on: QEMU has one at a time.
    pub fn open(guest: &QemuGuest) -> Result<Self> {
        Self::of(guest.qmp()?)
    }

    fn of(mut qmp: Qmp) -> Result<Self> {
        let names = counts(&qmp.execute("query-stats-schemas", json!({ "provider": "kvm" }))?)?;
        Ok(Self { qmp, names })
    }

    /// Sums over all virtual CPUs. Empty where KVM counts nothing, as under TCG.
    pub fn read(&mut self) -> Result<Counters> {
        let arguments = json!({ "target": "vcpu", "providers": [{ "provider": "kvm" }] });
        sum(&self.qmp.execute("query-stats", arguments)?, &self.names)
    }
}

/// Names of what is counted of a virtual CPU. Times, which have a unit, histograms and present values are left out.
fn counts(schemas: &Value) -> Result<BTreeSet<String>> {
    let schemas = schemas.as_array().with_context(|| format!("unexpected schemas of counters: {schemas}"))?;
    let of_vcpus = schemas.iter().filter(|schema| schema["provider"] == "kvm" && schema["target"] == "vcpu");
    let all = of_vcpus.filter_map(|schema| schema["stats"].as_array()).flatten();
    let counts = all.filter(|stat| stat["type"] == "cumulative" && stat.get("unit").is_none());
    let names: BTreeSet<String> = counts.filter_map(|stat| stat["name"].as_str()).map(str::to_owned).collect();
    ensure!(names.is_empty() || names.contains("exits"), "KVM counts no exits here, but {names:?}");
    Ok(names)
}

/// The counts of these names. Every virtual CPU must have all of them.
fn sum(answer: &Value, names: &BTreeSet<String>) -> Result<Counters> {
    let vcpus = answer.as_array().with_context(|| format!("unexpected counters: {answer}"))?;
    ensure!(names.is_empty() == vcpus.is_empty(), "KVM should count {names:?}, and QEMU answers {answer}");
    let mut sums = Counters::new();
    for vcpu in vcpus {
        let stats = vcpu["stats"].as_array().with_context(|| format!("no counters of a virtual CPU: {vcpu}"))?;
        for name in names {
            let stat = stats.iter().find(|stat| stat["name"] == *name);
            let count = stat.and_then(|stat| stat["value"].as_u64());
            *sums.entry(name.clone()).or_default() += count.with_context(|| format!("no count {name} in {vcpu}"))?;
        }
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::process::{Process, eventually};
    use crate::rules;

    /// What QEMU 7.2 said of a guest with two virtual CPUs under Linux 6.18, in part.
    fn example() -> (Value, Value) {
        let schemas = json!([
            { "provider": "kvm", "target": "vcpu", "stats": [
                { "name": "guest_mode", "unit": "boolean", "exponent": 0, "type": "instant" },
                { "name": "irq_injections", "exponent": 0, "type": "cumulative" },
                { "name": "halt_exits", "exponent": 0, "type": "cumulative" },
                { "name": "exits", "exponent": 0, "type": "cumulative" },
                { "name": "halt_wait_hist", "unit": "seconds", "base": 10, "exponent": -9, "type": "log2-histogram" },
                { "name": "halt_wait_ns", "unit": "seconds", "base": 10, "exponent": -9, "type": "cumulative" }
            ]},
            { "provider": "kvm", "target": "vm", "stats": [
                { "name": "remote_tlb_flush", "exponent": 0, "type": "cumulative" }
            ]}
        ]);
        let vcpu = |path: &str, halts: u64, exits: u64| {
            json!({ "provider": "kvm", "qom-path": path, "stats": [
                { "name": "guest_mode", "value": false },
                { "name": "irq_injections", "value": 0 },
                { "name": "halt_exits", "value": halts },
                { "name": "exits", "value": exits },
                { "name": "halt_wait_hist", "value": [0, 0, 1] },
                { "name": "halt_wait_ns", "value": 7 }
            ]})
        };
        let device = "/machine/unattached/device";
        (schemas, json!([vcpu(&format!("{device}[2]"), 1, 47), vcpu(&format!("{device}[0]"), 0, 4421)]))
    }

    #[test]
    fn counts_are_summed_over_virtual_cpus_and_times_are_no_counts() {
        let (schemas, answer) = example();
        let names = counts(&schemas).unwrap();
        let expected = [("exits", 4468), ("halt_exits", 1), ("irq_injections", 0)];
        let expected: Counters = expected.map(|(name, count)| (name.to_owned(), count)).into();
        assert_eq!(sum(&answer, &names).unwrap(), expected);
    }

    #[test]
    fn what_is_missing_is_an_error_and_not_a_zero() {
        let (schemas, mut answer) = example();
        let names = counts(&schemas).unwrap();
        assert!(sum(&json!([]), &names).is_err(), "no virtual CPU");
        assert!(sum(&answer, &BTreeSet::new()).is_err(), "counters that nobody announced");
        answer[1]["stats"][3]["value"] = json!(-1);
        assert!(sum(&answer, &names).unwrap_err().to_string().contains("no count exits"));
        let without =
            json!([{ "provider": "kvm", "target": "vcpu", "stats": [{ "name": "hypercalls", "type": "cumulative" }] }]);
        assert!(counts(&without).is_err());
        assert!(counts(&json!({})).is_err());
    }

    /// QEMU with two virtual CPUs and no guest but its firmware.
    fn firmware(accel: &str, cpu: &str, dir: &Path) -> (Process, VcpuStats) {
        let socket = dir.join("qmp.sock");
        let machine = format!("q35,accel={accel}");
        let qmp = format!("unix:{},server=on,wait=off", socket.display());
        let nothing_else = ["-nodefaults", "-no-user-config", "-display", "none"];
        let args = [&nothing_else[..], &["-machine", &machine, "-cpu", cpu, "-m", "64M", "-smp", "2", "-qmp", &qmp]];
        let mut qemu = Process::spawn("firmware", "qemu-system-x86_64", args.concat(), &dir.join("log")).unwrap();
        let qmp = qemu.wait_until("QMP", Duration::from_secs(20), |_| Ok(Qmp::connect(&socket).ok())).unwrap();
        (qemu, VcpuStats::of(qmp).unwrap())
    }

    #[test]
    fn kvm_counts_the_exits_of_a_real_guest() {
        if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
            println!("{error}");
            return rules::skip("kvm_counts_the_exits_of_a_real_guest", "/dev/kvm does not open");
        }
        let dir = tempfile::tempdir().unwrap();
        // A model that a KVM without hardware can be given as well.
        let (_qemu, mut stats) = firmware("kvm", "kvm64", dir.path());
        let first = stats.read().unwrap();
        let more = eventually("more exits", Duration::from_secs(20), || {
            let now = stats.read()?;
            Ok((now["exits"] > first["exits"]).then_some(now))
        });
        let more = more.unwrap();
        assert!(more.contains_key("halt_exits") && more.contains_key("irq_injections"), "{more:?}");
        assert!(more.iter().all(|(name, count)| *count >= first[name]), "{first:?} {more:?}");
    }

    #[test]
    fn without_kvm_nothing_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let (_qemu, mut stats) = firmware("tcg", "max", dir.path());
        assert!(stats.read().unwrap().is_empty());
    }
}
