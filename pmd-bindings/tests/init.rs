//! EAL's life: one start, the thread's CPUs, the log, and what is left when it ends.

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use pmd_bindings::{Eal, EalConfig, Error, EthDev, LogLevel, LogOutput, tsc, tsc_hz};

/// Where DPDK keeps run-time files, depending on who runs it.
fn runtime_files() -> BTreeSet<PathBuf> {
    let folders =
        ["/run/dpdk".into(), "/tmp/dpdk".into(), std::env::var("XDG_RUNTIME_DIR").unwrap_or_default() + "/dpdk"];
    let mut found = BTreeSet::new();
    for folder in folders {
        let Ok(entries) = std::fs::read_dir(Path::new(&folder)) else { continue };
        found.extend(entries.flatten().map(|entry| entry.path()));
    }
    found
}

fn allowed_cpus() -> String {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    status.lines().find(|line| line.starts_with("Cpus_allowed_list")).unwrap().to_owned()
}

#[test]
fn eal_starts_once_and_leaves_nothing_behind() {
    let (files, cpus) = (runtime_files(), allowed_cpus());
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&lines);
    let callback = move |level: LogLevel, line: &str| sink.lock().unwrap().push((level, line.to_owned()));
    assert_eq!(tsc_hz(), 0);

    let bad = EalConfig { program: "nul\0byte".into(), ..common::config() };
    assert!(matches!(Eal::init(bad), Err(Error::NulByte { .. })), "caught before EAL is touched");
    let eal = Eal::init(EalConfig {
        log_level: LogLevel::Debug,
        log_output: LogOutput::Callback(Box::new(callback)),
        vdevs: vec!["net_null0".into()],
        ..common::config()
    })
    .unwrap();
    assert!(matches!(Eal::init(common::config()), Err(Error::AlreadyInitialised)));

    assert_eq!(allowed_cpus(), cpus, "EAL pins the thread, and it must not stay pinned");
    assert!(Eal::version().starts_with("DPDK "));
    assert!(tsc_hz() > 1_000_000);
    assert!(tsc() < tsc());
    assert_eq!(runtime_files(), files);

    let ports = EthDev::all(&eal).unwrap();
    assert_eq!(ports.iter().map(EthDev::name).collect::<Vec<_>>(), ["net_null0"]);
    assert!(EthDev::all(&eal).unwrap().is_empty(), "they are taken");
    drop(ports);
    assert_eq!(EthDev::all(&eal).unwrap().len(), 1);

    {
        let lines = lines.lock().unwrap();
        assert!(lines.iter().any(|(level, _)| *level == LogLevel::Debug));
        assert!(lines.iter().all(|(_, line)| !line.is_empty() && !line.ends_with('\n')));
    }
    drop(eal);
    assert_eq!(runtime_files(), files);
    assert!(matches!(Eal::init(common::config()), Err(Error::AlreadyInitialised)), "not even after its end");
}
