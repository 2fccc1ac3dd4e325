//! `/healthz` and `/readyz` of a real switch.

use sidecore_tests::http;
use sidecore_tests::rules::Machine;
use sidecore_tests::switch::{SwitchConfig, SwitchProcess};

/// From its first answer on, every port is there; and it is healthy at the first question.
#[test]
fn a_switch_is_ready_when_its_ports_are() {
    let _machine = Machine::exclusive().unwrap();
    let dir = SwitchProcess::folder().unwrap();
    let port = http::free_port().unwrap();
    let names: Vec<String> = (0..16).map(|n| format!("g{n}")).collect();
    let config = SwitchConfig::new(dir.path()).key(&format!("http_listen = \"127.0.0.1:{port}\""));
    let config = names.iter().fold(config, |config, name| config.guest(name, &[]));
    let sockets: Vec<_> = names.iter().map(|name| config.socket(name)).collect();
    // Asked all the while that it starts: whatever the answer is, it must be true.
    let asks = std::thread::spawn(move || {
        loop {
            match http::ask(port, "/readyz", "") {
                Ok(answer) if answer.status() == 200 => {
                    return sockets.iter().filter(|socket| !socket.exists()).count();
                }
                _ => std::thread::sleep(std::time::Duration::from_millis(1)),
            }
        }
    });
    let switch = SwitchProcess::start(&config).unwrap();
    assert_eq!(asks.join().unwrap(), 0, "sockets were missing when the switch said that it is ready");
    let healthy = http::ask(port, "/healthz", "").unwrap();
    assert_eq!((healthy.status(), healthy.body.as_str()), (200, "ok\n"));
    switch.stop().unwrap();
    assert!(http::ask(port, "/readyz", "").is_err(), "nobody is ready any more");
}

/// Threads that nothing wakes for longer than a core that polls may stand still.
#[test]
fn a_switch_that_sleeps_is_healthy() {
    let _machine = Machine::exclusive().unwrap();
    for mode in ["trap", "adaptive"] {
        let dir = SwitchProcess::folder().unwrap();
        let port = http::free_port().unwrap();
        let keys = format!("mode = \"{mode}\"\nhttp_listen = \"127.0.0.1:{port}\"");
        let config = SwitchConfig::new(dir.path()).key(&keys).guest("one", &[]).guest("other", &[]);
        let switch = SwitchProcess::start(&config).unwrap();
        for _ in 0..2 {
            let answer = http::ask(port, "/healthz", "").unwrap();
            assert_eq!((answer.status(), answer.body.as_str()), (200, "ok\n"), "mode {mode}");
            std::thread::sleep(std::time::Duration::from_millis(1500));
        }
        switch.stop().unwrap();
    }
}
