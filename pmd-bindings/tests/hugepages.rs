//! EAL on hugepages, where some are free.

mod common;

use std::fs;

use pmd_bindings::{Eal, EalConfig, Hugepages, Mempool};

/// Free hugepages of all sizes, in MiB.
fn free_mib() -> u64 {
    let Ok(sizes) = fs::read_dir("/sys/kernel/mm/hugepages") else { return 0 };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    sizes
        .flatten()
        .filter_map(|size| {
            let name = size.file_name().into_string().ok()?;
            let kib = number(name.strip_prefix("hugepages-")?.strip_suffix("kB")?)?;
            let free = number(&fs::read_to_string(size.path().join("free_hugepages")).ok()?)?;
            Some(kib * free / 1024)
        })
        .sum()
}

#[test]
fn hugepages_serve_without_a_mount() {
    if free_mib() < 64 {
        common::skip("hugepages_serve_without_a_mount", "needs 64 MiB of free hugepages");
        return;
    }
    let config = EalConfig { hugepages: Hugepages::InMemory, memory_mib: Some(32), ..common::config() };
    let eal = Eal::init(config).unwrap();
    let pool = Mempool::new(&eal, "huge", 4096, 0, 2048, None).unwrap();
    assert!(pool.alloc().is_some());
}
