//! The README's picture of the switch's page, of a run with synthetic guests: `make screenshots`.
#![forbid(unsafe_code)]

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use sidecore_tests::browser::Browser;
use sidecore_tests::http;
use sidecore_tests::paths;
use sidecore_tests::process::{Process, must};
use sidecore_tests::rules::Machine;
use sidecore_tests::switch::{SwitchConfig, SwitchProcess};

/// How long lines and decisions are collected.
const WATCH: Duration = Duration::from_secs(45);
/// Between a move by hand and the picture.
const MOVED: Duration = Duration::from_millis(2500);

/// Who sends to whom: the workload, the guests, packets a second of each sender, bytes.
const LOADS: [(&str, &[&str], u32, u32); 3] = [
    ("stream", &["backup-1", "backup-2"], 12_000, 1518),
    ("mesh", &["web-1", "web-2", "db-1", "cache-1"], 6_000, 512),
    ("duplex", &["mail-1", "mail-2"], 2_000, 256),
];

fn main() -> Result<()> {
    let _machine = Machine::exclusive()?;
    let dir = SwitchProcess::folder()?;
    let port = http::free_port()?;
    let config = SwitchConfig::new(dir.path()).io_cores(2).key(&format!("http_listen = \"127.0.0.1:{port}\""));
    let names = LOADS.iter().flat_map(|(_, names, ..)| *names).chain(&["spare"]);
    let config = names.fold(config, |config, name| config.guest(name, &[])).uplink("wan", "net_null0,no-rx=1", &[]);
    let switch = SwitchProcess::start(&config)?;
    let mut first = 0;
    let traffic: Vec<Process> = LOADS
        .iter()
        .map(|(workload, names, rate, size)| {
            let numbers = [("--rate", *rate), ("--size", *size), ("--first-guest", first), ("--duration-s", 600)];
            first += names.len() as u32;
            let guests =
                names.iter().flat_map(|name| ["--guest".to_owned(), config.socket(name).display().to_string()]);
            let numbers = numbers.iter().flat_map(|(option, value)| [(*option).to_owned(), value.to_string()]);
            let args = std::iter::once((*workload).to_owned()).chain(guests).chain(numbers);
            Process::spawn("ringgen", paths::ringgen()?, args, &dir.path().join(format!("{workload}.log")))
        })
        .collect::<Result<_>>()?;
    let browser = Browser::start(&dir.path().join("chromedriver.log"))?;
    browser.look(1280, 800, false)?;
    browser.open(&format!("http://127.0.0.1:{port}/"))?;
    thread::sleep(WATCH);
    let status = switch.status()?;
    let mover =
        status.port("mail-1")?.queues.first().and_then(|queue| queue.io_core).context("mail-1 is not served")?;
    switch.move_guest("mail-1", Some(0), 1 - mover as usize)?;
    thread::sleep(MOVED);
    let (raw, picture) = (dir.path().join("page.png"), paths::workspace().join("docs/page.png"));
    std::fs::write(&raw, browser.screenshot()?)?;
    drop(traffic);
    let [raw, small] = [&raw, &picture].map(|path| path.display().to_string());
    must(&["pngquant", "--force", "--speed", "1", "--strip", "--output", &small, "64", &raw])?;
    println!("{}: {} KiB", picture.display(), std::fs::metadata(&picture)?.len() / 1024);
    switch.stop_within(rustix::process::Signal::TERM, Duration::from_secs(10))
}
