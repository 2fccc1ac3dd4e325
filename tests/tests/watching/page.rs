//! The page that the switch serves, in a headless Chromium.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde_json::Value;
use sidecore_tests::browser::{Browser, is_installed};
use sidecore_tests::http;
use sidecore_tests::rules::skip;
use sidecore_tests::switch::SwitchProcess;

use crate::scene::{LIMIT, Scene, TALKERS, talk};

/// Functions for what tests look at.
const EYES: &str = r#"
window.digits = (text) => Number(text.replace(/[^0-9]/g, ""));
window.field = (table, row, name) => document.querySelector(`#${table} tr[data-key="row:${row}"] [data-field="${name}"]`)?.textContent;
window.seats = (core) => [...document.querySelectorAll(`[data-core="${core}"] .seats a`)].map((link) => link.textContent);
window.log = (kind) => document.querySelector(`.log li.${kind}`)?.textContent ?? "";
window.total = (name) => digits(document.querySelector(`[data-total="${name}"]`).textContent);
"#;

/// Lets a test say what /status answers: `change(snapshot)` returns it.
const INTERCEPT: &str = r#"
window.ask = window.fetch;
window.fetch = async (path, options) => {
  const response = await ask(path, options);
  return path === "/status" ? new Response(JSON.stringify(change(await response.json()))) : response;
};
"#;

struct Stage {
    // Dropped in this order.
    browser: Browser,
    scene: Scene,
}

impl Stage {
    /// A switch and a browser, unless there is none.
    fn start(test: &str) -> Option<Self> {
        if !is_installed() {
            skip(test, "chromium and chromium-driver cannot be installed");
            return None;
        }
        let scene = Scene::start().unwrap();
        let browser = Browser::start(&scene.dir.path().join("chromedriver.log")).unwrap();
        browser.inject(EYES).unwrap();
        browser.look(1400, 1000, false).unwrap();
        Some(Self { browser, scene })
    }

    fn open(&self, hash: &str) {
        // Another hash alone loads nothing anew.
        self.browser.open("about:blank").unwrap();
        self.browser.open(&format!("http://127.0.0.1:{}/{hash}", self.scene.port)).unwrap();
        self.browser
            .wait("snapshot on the page", "return Number(document.getElementById('main').dataset.uptime) > 0")
            .unwrap();
    }

    fn run(&self, script: &str) -> Value {
        self.browser.run(script).unwrap()
    }

    fn wait(&self, what: &str, script: &str) {
        self.browser.wait(what, script).unwrap();
    }

    /// Waits until the page shows what is from now, or later.
    fn refresh(&self) {
        let now: Value = serde_json::from_str(&http::get(self.scene.port, "/status").unwrap().body).unwrap();
        let script = format!("return Number(document.getElementById('main').dataset.uptime) >= {}", now["uptime_ms"]);
        self.wait("newer snapshot on the page", &script);
    }

    /// Nothing that the browser would complain about, but for what is known.
    fn assert_calm(&self, known: &str) {
        let complaints: Vec<_> = self.browser.console().unwrap();
        let unknown: Vec<_> = complaints.iter().filter(|text| known.is_empty() || !text.contains(known)).collect();
        assert!(unknown.is_empty(), "{unknown:#?}");
    }

    /// Numbers in the table of guests, and totals of each guest's own view, against the metrics.
    fn assert_equals_metrics(&self) -> Result<()> {
        let scene = &self.scene;
        self.open("");
        let dropped = scene.metric("sidecore_queue_dropped_packets_total")?;
        let cores = scene.metric("sidecore_queue_io_core")?;
        let mut reasons = BTreeMap::<String, u64>::new();
        for (labels, count) in dropped.iter().filter(|(_, count)| **count > 0.0) {
            *reasons.entry(labels[2].clone()).or_default() += *count as u64;
        }
        assert!(reasons["spoofed_source"] > 0, "{reasons:?}");
        let shown = self.run(
            "return Object.fromEntries([...document.querySelectorAll('#drops tbody tr')].map((row) => \
             [row.querySelector('[data-field=reason]').textContent, digits(row.querySelector('[data-field=total]').textContent)]))",
        );
        assert_eq!(shown, serde_json::to_value(&reasons)?);
        for name in TALKERS {
            let field = |field: &str| self.run(&format!("return digits(field('guests', '{name}', '{field}'))"));
            let of_port: f64 = dropped.iter().filter(|(labels, _)| labels[0] == name).map(|(_, count)| count).sum();
            assert_eq!(field("dropped"), of_port as u64, "{name}");
            assert_eq!(field("kicks"), scene.port_metric("sidecore_queue_kicks_total", name)?, "{name}");
            let core = cores[&vec![name.to_owned(), "0".to_owned()]];
            assert_eq!(field("core"), core as u64, "{name}");
            let seats = self.run(&format!("return seats({core})"));
            assert!(seats.as_array().context("no seats")?.iter().any(|seat| seat == name), "{name} on {core}: {seats}");
        }
        for name in TALKERS {
            self.open(&format!("#/port/{name}"));
            for (total, metric) in [
                ("tx-packets", "sidecore_queue_tx_packets_total"),
                ("tx-bytes", "sidecore_queue_tx_bytes_total"),
                ("rx-packets", "sidecore_queue_rx_packets_total"),
                ("rx-bytes", "sidecore_queue_rx_bytes_total"),
                ("kicks", "sidecore_queue_kicks_total"),
                ("calls", "sidecore_queue_calls_total"),
                ("calls-suppressed", "sidecore_queue_calls_suppressed_total"),
            ] {
                let shown = self.run(&format!("return total('{total}')"));
                assert_eq!(shown, scene.port_metric(metric, name)?, "{name} {total}");
            }
            assert!(self.run("return total('tx-packets')").as_u64() > Some(100), "{name}");
        }
        Ok(())
    }

    /// The heads of the table can be used from the keyboard, and keep the focus while the page goes on.
    fn assert_keyboard(&self) {
        self.open("");
        self.run("document.querySelector('[data-sort=\"guests:dropped\"]').focus()");
        self.browser.press("\u{e007}").unwrap();
        let sorted = "return document.querySelector('#guests th[aria-sort]').textContent";
        assert_eq!(self.run(sorted), "Dropped");
        self.refresh();
        self.refresh();
        assert_eq!(self.run("return document.activeElement.dataset.sort"), "guests:dropped");
        let dropped = self.run("return [...document.querySelectorAll('#guests [data-field=dropped]')].map((cell) => digits(cell.textContent))");
        let dropped: Vec<_> = dropped.as_array().unwrap().iter().filter_map(Value::as_u64).collect();
        assert!(dropped.len() == 3 && dropped.is_sorted_by(|a, b| a >= b), "{dropped:?}");
        self.run("document.getElementById('filter').focus()");
        self.browser.press("wait").unwrap();
        self.wait("filtered table", "return document.querySelectorAll('#guests tbody tr').length === 1");
        let left = "return document.querySelector('#guests tbody [data-field=name]').textContent";
        assert_eq!(self.run(left), "late");
    }
}

#[test]
fn the_page_shows_what_the_metrics_say() {
    let Some(mut stage) = Stage::start("the_page_shows_what_the_metrics_say") else { return };
    let head = http::get(stage.scene.port, "/").unwrap().head;
    for policy in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "require-trusted-types-for"] {
        assert!(head.contains(policy), "{policy}: {head}");
    }
    let mut guests = stage.scene.guests().unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let traffic = scope.spawn(|| talk(&mut guests, &over));
        // Whatever fails, the traffic ends.
        let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            stage.open("");
            let switch = stage.scene.switch();
            stage.wait("load", "return parseFloat(field('guests', 'web-1', 'load')) > 0");
            stage.wait("rates", "return parseFloat(field('guests', 'db.2', 'tx-packets')) > 0");
            stage.wait("drops by the second", "return parseFloat(field('drops', 'spoofed_source', 'rate')) > 0");
            let to = if switch.status().unwrap().port("web-1").unwrap().queues[0].io_core == Some(2) { 1 } else { 2 };
            let moved = switch.move_guest("web-1", Some(0), to).unwrap();
            stage.wait("its new seat", &format!("return seats({to}).includes('web-1')"));
            let step = format!("web-1 queue pair 0: I/O core {} → {to}", moved[0].from);
            stage.wait("word of the move", &format!("return log('seen').includes('{step}')"));
            stage.wait("its reason", "return log('seen').includes('an operator moved it')");
            assert!(
                stage
                    .run("return document.getElementById('news').textContent")
                    .as_str()
                    .unwrap()
                    .contains("web-1 moved")
            );
            switch.must(&["scheduler", "resume"]).unwrap();
            switch.must(&["scheduler", "pause"]).unwrap();
            for kind in ["resume", "pause"] {
                stage.wait("its decision", &format!("return log('{kind}').includes('an operator said so')"));
            }
        }));
        over.store(true, Ordering::Relaxed);
        traffic.join().unwrap();
        looked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    stage.scene.switch().quiet_status().unwrap();
    stage.refresh();
    stage.assert_equals_metrics().unwrap();
    stage.assert_keyboard();
    stage.assert_calm("");

    // It goes, and another one comes.
    stage.open("");
    drop(guests);
    stage.scene.switch.take().unwrap().stop_within(Signal::TERM, LIMIT).unwrap();
    stage.wait(
        "word of it",
        "return document.getElementById('trouble').textContent.startsWith('No answer from the switch since')",
    );
    assert_eq!(stage.run("return document.getElementById('trouble').hidden"), false);
    stage.scene.switch = Some(SwitchProcess::start(&stage.scene.config).unwrap());
    stage.wait("the new one", "return document.getElementById('trouble').hidden");
    stage.wait(
        "note",
        "return document.querySelector('.attention').textContent.includes('The switch was started again')",
    );
    stage.wait("zeros", "return digits(field('guests', 'web-1', 'dropped')) === 0");
    stage.assert_calm("ERR_CONNECTION_REFUSED");
}

#[test]
fn names_are_text_and_many_are_served() {
    let Some(stage) = Stage::start("names_are_text_and_many_are_served") else { return };
    stage.browser.inject(INTERCEPT).unwrap();
    stage.browser.inject(HOSTILE).unwrap();
    for hash in
        ["", "#/decisions", "#/port/<img src=x onerror=hacked()>", "#/port/%3Cimg%20src%3Dx%20onerror%3Dhacked()%3E"]
    {
        stage.open(hash);
        stage.refresh();
        assert_eq!(stage.run("return document.querySelectorAll('#main :is(img, script, iframe, style)').length"), 0);
        assert_eq!(
            stage.run("return window.isHacked === undefined && !document.title.includes('hacked')"),
            true,
            "{hash}"
        );
        assert_eq!(stage.run("return document.getElementById('main').innerText.includes(EVIL)"), true, "{hash}");
        let links = "return [...document.querySelectorAll('#main a')].every((link) => link.origin === location.origin)";
        assert_eq!(stage.run(links), true, "{hash}");
    }
    let gains =
        "return ['25.0', '21.0', '13.0'].every((text) => document.getElementById('main').textContent.includes(text))";
    stage.open("#/decisions");
    assert_eq!(stage.run(gains), true);
    stage.open("");
    assert_eq!(stage.run("return document.querySelectorAll('#guests tbody tr').length"), 257);
    assert_eq!(stage.run("return seats(0).length"), 16, "the fullest of them");
    stage.run("document.querySelector('[data-filter=\"core:0\"]').click()");
    assert_eq!(stage.run("return document.querySelectorAll('#guests tbody tr').length"), 257);
    for (width, dark) in [(360, true), (800, false), (1920, true)] {
        stage.browser.look(width, 900, dark).unwrap();
        let overflow = "return document.documentElement.scrollWidth - document.documentElement.clientWidth";
        assert_eq!(stage.run(overflow), 0, "the page is wider than {width}");
    }
    stage.assert_calm("");
}

/// 257 guests on core 0, one of them hostile, and a decision about it.
const HOSTILE: &str = r#"
window.EVIL = "<img src=x onerror=hacked()>";
window.hacked = () => { window.isHacked = true; };
window.change = (snapshot) => {
  const [guest] = snapshot.ports.filter((port) => port.kind === "guest");
  const like = (name) => ({ ...guest, name, state: "running", queues: [{ ...guest.queues[0], index: 0, io_core: 0 }] });
  const evil = { ...like(EVIL), error: EVIL, socket: EVIL, mac: EVIL, drops: { [EVIL]: 5 }, refused: { [EVIL]: 5 }, faults: { [EVIL]: 1 } };
  snapshot.ports = [evil, ...Array.from({ length: 256 }, (_, number) => like(`vm${number}`))];
  snapshot.scheduler.policy = EVIL;
  snapshot.scheduler.cannot_fix = EVIL;
  snapshot.scheduler.decisions = [{
    number: 0, time_ms: Date.now(), kind: "move", what: EVIL, why: EVIL, step: { guest: EVIL, queue: 0, from: 0, to: 1 },
    expected_gain: 0.25, measured_gain: 0.21, pause_us: 13, failed: EVIL,
  }];
  return snapshot;
};
"#;
