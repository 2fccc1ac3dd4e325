//! The `[switch]` section.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::check::access::{RawAccess, access};
use crate::check::{Section, Surroundings, between};
use crate::error::ValueError;
use crate::machine::NO_IDLE_DRIVER;
use crate::model::{IoCores, MAX_IO_CORES, SwitchConfig};
use crate::raw::{RawIoCores, RawSwitch};
use crate::report::{Key, Report};
use crate::types::CpuId;

const DEFAULT_CONTROL_SOCKET: &str = "/run/sidecore/control.sock";

/// None if anything in it is wrong; that is reported.
pub(crate) fn switch(
    raw: &RawSwitch,
    key: Key,
    around: &Surroundings<'_>,
    report: &mut Report<'_>,
) -> Option<SwitchConfig> {
    let mut section = Section::new(key, report);
    let io_cores = io_cores(&mut section, raw, around);
    let wake_latency_us = wake_latency(&mut section, raw, around);
    let memory_mib = section.number("memory_mib", raw.memory_mib, 64..=1 << 20);
    let socket = raw.control_socket.as_deref().unwrap_or(DEFAULT_CONTROL_SOCKET);
    let control_socket = section.socket_path("control_socket", socket).unwrap_or_default();
    let raw_access = RawAccess {
        mode: ("control_socket_mode", raw.control_socket_mode.as_deref()),
        owner: ("control_socket_owner", raw.control_socket_owner.as_ref()),
        group: ("control_socket_group", raw.control_socket_group.as_ref()),
    };
    let control_socket_access = access(&mut section, &raw_access, around);
    let http_listen = raw.http_listen.as_deref().and_then(|text| http_listen(&mut section, text));
    let state_file = raw.state_file.as_deref().and_then(|text| section.absolute_path("state_file", text));
    let fdb_entries = section.number("fdb_entries", raw.fdb_entries, 64..=1 << 20).unwrap_or(16_384);
    let fdb_ageing_s = section.number("fdb_ageing_s", raw.fdb_ageing_s, 1..=86_400).unwrap_or(300);
    let learn_limit_per_port = learn_limit(&mut section, raw.learn_limit_per_port, fdb_entries);
    let learn_rate_per_s = section.number("learn_rate_per_s", raw.learn_rate_per_s, 1..=10_000_000).unwrap_or(1000);
    let flood_rate_pps: u32 = section.number("flood_rate_pps", raw.flood_rate_pps, 0..=100_000_000).unwrap_or(50_000);
    section.finish(SwitchConfig {
        io_cores,
        allow_shared_cpu: raw.allow_shared_cpu.unwrap_or(false),
        mode: raw.mode.unwrap_or_default(),
        wake_latency_us,
        hugepages: raw.hugepages.unwrap_or_default(),
        memory_mib,
        control_socket,
        control_socket_access,
        http_listen,
        state_file,
        fdb_entries,
        fdb_ageing_s,
        learn_limit_per_port,
        learn_rate_per_s,
        flood_rate_pps: (flood_rate_pps > 0).then_some(flood_rate_pps),
        log_level: raw.log_level.unwrap_or_default(),
        log_format: raw.log_format.unwrap_or_default(),
    })
}

fn io_cores(section: &mut Section<'_, '_>, raw: &RawSwitch, around: &Surroundings<'_>) -> IoCores {
    let shared = raw.allow_shared_cpu == Some(true);
    match &raw.io_cores {
        RawIoCores::All(listed) => {
            let cpus = cpus(section, "io_cores", listed, shared, around);
            IoCores { min: cpus.len(), cpus }
        }
        RawIoCores::Elastic(elastic) => {
            let listed = elastic.cpus.as_deref().unwrap_or_default();
            let mut inner = Section::new(section.key.name("io_cores"), section.report);
            let cpus = cpus(&mut inner, "cpus", listed, shared, around);
            IoCores { min: min(&mut inner, elastic.min, listed.len()), cpus }
        }
    }
}

fn min(section: &mut Section<'_, '_>, raw: Option<i64>, listed: usize) -> usize {
    // That none is listed has been reported.
    let most = listed.max(1);
    let Some(asked) = raw.filter(|asked| usize::try_from(*asked).is_ok_and(|asked| asked > most)) else {
        return section.number("min", raw, 1..=most as i64).unwrap_or(1);
    };
    let (are, cpus) = if most == 1 { ("is", "CPU") } else { ("are", "CPUs") };
    let message = format!("{asked} I/O cores are to run at all times, and there {are} {most} {cpus} in cpus");
    section.problem("min", message, format!("write {}, or list more CPUs", between(1, most)));
    1
}

fn cpus(
    section: &mut Section<'_, '_>,
    name: &str,
    listed: &[i64],
    shared: bool,
    around: &Surroundings<'_>,
) -> Vec<CpuId> {
    let count = listed.len();
    if count == 0 {
        section.problem(name, "there is no I/O core, so nothing would forward", "list at least one CPU: [0]");
    } else if count > MAX_IO_CORES {
        let message = format!("{count} I/O cores are listed");
        section.problem(name, message, format!("list at most {MAX_IO_CORES}"));
    }
    let key = section.key.name(name);
    let mut first_use = BTreeMap::new();
    let mut offline = BTreeMap::new();
    let mut cpus = Vec::with_capacity(count);
    for (index, raw_cpu) in listed.iter().enumerate() {
        let Ok(cpu) = u32::try_from(*raw_cpu).map(CpuId) else {
            let error = ValueError::new(format!("{raw_cpu} is not a CPU"), "write a CPU's number, from 0");
            section.report.add(&key.index(index), error);
            continue;
        };
        if around.machine.online_cpus.as_ref().is_some_and(|online| !online.contains(&cpu)) {
            offline.entry(cpu).or_insert(index);
        }
        if let Some(first) = first_use.insert(cpu, index)
            && !shared
        {
            let message = format!("CPU {cpu} is listed twice: it is already I/O core {first}");
            let remedy =
                "list every CPU once, or set allow_shared_cpu = true if polling threads may wait for each other";
            section.report.add(&key.index(index), ValueError::new(message, remedy));
        }
        cpus.push(cpu);
    }
    refuse_offline(section, &key, &offline, around);
    cpus
}

/// CPUs that are not online, each with its first position in the list: one problem, however many there are.
fn refuse_offline(
    section: &mut Section<'_, '_>,
    key: &Key,
    offline: &BTreeMap<CpuId, usize>,
    around: &Surroundings<'_>,
) {
    let (Some(online), Some(first)) = (&around.machine.online_cpus, offline.values().next()) else { return };
    let cpus = ranges(offline.keys().map(|cpu| cpu.0));
    let remedy = format!("choose among the CPUs that are: {}", ranges(online.iter().map(|cpu| cpu.0)));
    let (key, message) = match offline.len() {
        1 => (key.index(*first), format!("CPU {cpus} is not online on this machine")),
        _ => (key.clone(), format!("CPUs {cpus} are not online on this machine")),
    };
    section.report.add(&key, ValueError::new(message, remedy));
}

fn wake_latency(section: &mut Section<'_, '_>, raw: &RawSwitch, around: &Surroundings<'_>) -> Option<u32> {
    let limit = section.number("wake_latency_us", raw.wake_latency_us, 0..=10_000)?;
    if around.machine.idle_driver.as_deref() == Some(NO_IDLE_DRIVER) {
        let message = "no cpuidle driver is at work on this machine, so nothing would keep this limit";
        let remedy = "take it out, or see to a driver: /sys/devices/system/cpu/cpuidle/current_driver names it (in a virtual \
                      machine it can be haltpoll, with cpuidle_haltpoll.force=1 for the kernel; with idle=poll no limit is needed)";
        section.problem("wake_latency_us", message, remedy);
    }
    Some(limit)
}

/// Beyond what the table holds it would be no limit.
fn learn_limit(section: &mut Section<'_, '_>, raw: Option<i64>, fdb_entries: u32) -> u32 {
    let Some(limit) = section.number("learn_limit_per_port", raw, 1..=1 << 20) else { return fdb_entries.min(1024) };
    if limit > fdb_entries && !section.has_problem("fdb_entries") {
        let message = format!("{limit} is more than the whole table holds: fdb_entries is {fdb_entries}");
        let remedy = format!("write at most {fdb_entries}, so that no guest can fill the table, or raise fdb_entries");
        section.problem("learn_limit_per_port", message, remedy);
    }
    limit
}

fn http_listen(section: &mut Section<'_, '_>, text: &str) -> Option<SocketAddr> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => {
            let message = format!("{text:?} has port 0, which stands for one that nobody knows");
            section.problem("http_listen", message, "name a port, such as 9464");
            None
        }
        Ok(address) => Some(address),
        Err(_) => {
            let message = format!("{text:?} is not an address with a port");
            section.problem("http_listen", message, "write numbers, such as \"127.0.0.1:9464\" or \"[::1]:9464\"");
            None
        }
    }
}

/// Rising numbers as the kernel writes lists: `0-3,8`.
fn ranges(numbers: impl Iterator<Item = u32>) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(number) => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let text = |(first, last): &(u32, u32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    runs.iter().map(text).collect::<Vec<_>>().join(",")
}

/// The control socket as it will be, for telling whether a guest's socket is the same.
pub(crate) fn control_socket(raw: &RawSwitch) -> PathBuf {
    PathBuf::from(raw.control_socket.as_deref().unwrap_or(DEFAULT_CONTROL_SOCKET))
}
