//! What a scrape of many guests takes, and what it costs the I/O cores.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use sidecore_tests::process::{Process, eventually, must};
use sidecore_tests::rules::Machine;
use sidecore_tests::switch::{SwitchConfig, SwitchProcess};
use sidecore_tests::{http, paths};

const GUESTS: usize = 256;
const SCRAPES: usize = 40;

/// The values of a metric, added.
fn sum(metrics: &str, name: &str) -> f64 {
    let lines = metrics.lines().filter(|line| line.starts_with(name) && line[name.len()..].starts_with(['{', ' ']));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// All that can make an I/O core do anything but forward is a message: none is sent for a scrape, however many guests there are. So it costs
/// them no instruction, only cache misses. How long it takes is printed, not judged.
#[test]
fn a_scrape_of_256_guests_asks_nothing_of_the_io_cores() {
    let _machine = Machine::exclusive().unwrap();
    let dir = SwitchProcess::folder().unwrap();
    let port = http::free_port().unwrap();
    let names: Vec<String> = (0..GUESTS).map(|n| format!("g{n}")).collect();
    let config =
        SwitchConfig::new(dir.path()).key(&format!("http_listen = \"127.0.0.1:{port}\"")).without_rebalancing();
    let config = names.iter().fold(config, |config, name| config.guest(name, &[]));
    let switch = SwitchProcess::start(&config).unwrap();
    let mut args: Vec<OsString> =
        ["sink", "--duration-s", "600", "--connect-timeout-s", "60"].map(OsString::from).into();
    names.iter().for_each(|name| args.extend(["--guest".into(), config.socket(name).into_os_string()]));
    let guests = Process::spawn("ringgen", paths::ringgen().unwrap(), args, &dir.path().join("ringgen.log")).unwrap();
    let scrape = || http::ask(port, "/metrics", "").map(|answer| answer.body);
    let served = |metrics: &str| (sum(metrics, "sidecore_core_queue_pairs") as usize == GUESTS).then_some(());
    eventually("served guests", Duration::from_secs(90), || Ok(served(&scrape()?))).unwrap();

    // Attaching a queue pair takes several messages; the last of them may be under way when it is served, and for a while after.
    let told = |metrics: &str| sum(metrics, "sidecore_core_messages_total");
    let (mut times, mut last) = (Vec::new(), String::new());
    eventually("scrapes that tell the I/O cores nothing", Duration::from_secs(90), || {
        let before = told(&scrape()?);
        times.clear();
        for _ in 0..SCRAPES {
            let begin = Instant::now();
            last = scrape()?;
            times.push(begin.elapsed());
        }
        Ok((told(&last) == before).then_some(()))
    })
    .unwrap();
    assert!(told(&last) > GUESTS as f64, "messages are counted");
    assert!(sum(&last, "sidecore_core_polls_total") > 0.0);
    times.sort();
    let series = last.lines().filter(|line| !line.starts_with('#')).count();
    let (median, longest) = (times[SCRAPES / 2], times[SCRAPES - 1]);
    println!(
        "{GUESTS} guests: {series} series, {} KiB; a scrape took {median:.1?} in the median, {longest:.1?} at most",
        last.len() >> 10
    );

    // No more series than the documentation has them.
    let list = must(&[paths::sidecore().unwrap().as_os_str(), "metrics".as_ref(), "list".as_ref(), "--json".as_ref()]);
    let list: serde_json::Value = serde_json::from_str(&list.unwrap()).unwrap();
    let most = |per: &str| -> u64 {
        list.as_array().unwrap().iter().map(|metric| metric["series"][per].as_u64().unwrap()).sum()
    };
    let bound =
        most("per_switch") + most("per_core") + GUESTS as u64 * (most("per_guest") + most("per_guest_queue_pair"));
    assert!(series as u64 <= bound, "{series} series, {bound} at most");
    drop(guests);
    switch.stop().unwrap();
}
