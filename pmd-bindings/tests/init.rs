//! EAL's life: one start, the thread's CPUs, the log, and what is left when it ends.

mod common;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use pmd_bindings::{Eal, EalConfig, Error, EthDev, LogLevel, LogOutput, tsc, tsc_hz};

/// What DPDK keeps in the file system for a process that runs under `prefix`, wherever it does so for this user.
fn runtime_files(prefix: &str) -> Vec<PathBuf> {
    let user = std::env::var("XDG_RUNTIME_DIR").unwrap_or_default() + "/dpdk";
    let folders = ["/run/dpdk", "/tmp/dpdk", &user];
    folders.iter().map(|folder| Path::new(folder).join(prefix)).filter(|path| path.exists()).collect()
}

fn allowed_cpus() -> String {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    status.lines().find(|line| line.starts_with("Cpus_allowed_list")).unwrap().to_owned()
}

#[test]
fn eal_starts_once_and_leaves_nothing_behind() {
    let (prefix, cpus) = (format!("init-test-{}", std::process::id()), allowed_cpus());
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
        file_prefix: Some(prefix.clone()),
        ..common::config()
    })
    .unwrap();
    assert!(matches!(Eal::init(common::config()), Err(Error::AlreadyInitialised)));

    assert_eq!(allowed_cpus(), cpus, "EAL pins the thread, and it must not stay pinned");
    assert!(Eal::version().starts_with("DPDK "));
    assert!(tsc_hz() > 1_000_000);
    assert!(tsc() < tsc());
    assert_eq!(runtime_files(&prefix), Vec::<PathBuf>::new());

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
    assert_eq!(runtime_files(&prefix), Vec::<PathBuf>::new());
    assert!(matches!(Eal::init(common::config()), Err(Error::AlreadyInitialised)), "not even after its end");
}
