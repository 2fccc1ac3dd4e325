//! `make dashboards-up`.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use sidecore_tests::http;
use sidecore_tests::process::Process;
use sidecore_tests::rules::Machine;
use sidecore_tests::switch::{SwitchConfig, SwitchProcess};

use crate::{LIMIT, file};

#[test]
fn dashboards_up_scrapes_a_switch_and_gives_back_what_it_took() {
    let _machine = Machine::exclusive().unwrap();
    let dir = SwitchProcess::folder().unwrap();
    let [switch_port, port, grafana] = [(); 3].map(|()| http::free_port().unwrap());
    let config = SwitchConfig::new(dir.path()).key(&format!("http_listen = \"127.0.0.1:{switch_port}\""));
    let switch = SwitchProcess::start(&config).unwrap();
    let folder = dir.path().join("tmp");
    std::fs::create_dir(&folder).unwrap();
    let args = [
        format!("TMPDIR={}", folder.display()),
        file("up").display().to_string(),
        format!("--switch=127.0.0.1:{switch_port}"),
        format!("--prometheus-port={port}"),
        format!("--grafana-port={grafana}"),
    ];
    let mut up = Process::spawn("dashboards-up", "env", args, &dir.path().join("up.log")).unwrap();
    up.wait_until("answer of the switch", LIMIT, |_| {
        let answer =
            http::ask(port, &format!("/api/v1/query?query={}", http::encoded("up{job=\"sidecore\"} == 1")), "");
        Ok(answer.ok().filter(|answer| answer.body.contains("\"sidecore\"")).map(drop))
    })
    .unwrap();
    let (status, _) = up.stop(Signal::INT, LIMIT).unwrap();
    assert!(status.success(), "{status}\n{}", up.tail());
    assert!(http::ask(port, "/-/ready", "").is_err(), "Prometheus is gone");
    assert_eq!(files_in(&folder), 0, "its data is gone");
    switch.stop_within(Signal::TERM, Duration::from_secs(10)).unwrap();
}

fn files_in(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}
