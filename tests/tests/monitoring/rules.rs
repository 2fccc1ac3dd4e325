//! The rules, judged by promtool.

use std::collections::BTreeSet;

use sidecore_tests::process::{must, run};

use crate::{LIMIT, file};

const RULES: &str = "rules/sidecore.rules.yml";
const TESTS: &str = "rules/sidecore.test.yml";

fn read(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap()
}

/// What stands after `key` in each line that begins with it.
fn values<'t>(text: &'t str, key: &str) -> BTreeSet<&'t str> {
    text.lines().filter_map(|line| line.trim_start().strip_prefix(key)).map(str::trim).collect()
}

#[test]
fn promtool_finds_nothing_wrong() {
    let path = |name: &str| file(name).display().to_string();
    must(&["promtool", "check", "config", "--lint-fatal", &path("prometheus.yml")]).unwrap();
    must(&["promtool", "check", "rules", "--lint-fatal", &path(RULES)]).unwrap();
    must(&["promtool", "test", "rules", &path(TESTS)]).unwrap();
}

/// For each alert a series that fires it is in the tests; that others do not is what they say, since they list all that fire.
#[test]
fn every_alert_has_a_test_and_a_runbook() {
    let (rules, tests) = (read(RULES), read(TESTS));
    let alerts = values(&rules, "- alert:");
    assert!(alerts.len() >= 10, "{alerts:?}");
    for alert in &alerts {
        let fires = format!("labels: 'ALERTS{{alertname=\"{alert}\"");
        let fires_in_a_block = format!("labels: ALERTS{{alertname=\"{alert}\"");
        assert!(tests.contains(&fires) || tests.contains(&fires_in_a_block), "no test fires {alert}");
    }
    for part in ["summary:", "description:", "runbook: |", "severity:"] {
        let there = rules.matches(part).count();
        assert_eq!(there, alerts.len(), "{part} is there {there} times for {} alerts", alerts.len());
    }
}

/// The tests can fail: rules that never fire, or fire at once, do not pass them.
#[test]
fn other_rules_do_not_pass_the_tests() {
    let rules = read(RULES);
    let changes = [
        ("up{job=\"sidecore\"} == 0", "up{job=\"sidecore\"} == 2"),
        ("> 0.001", "> 0.2"),
        ("> 0.01 and", "> 0.1 and"),
        ("> 0.01 and", "> 0.001 and"),
        (" and on (instance, job, core) sidecore_core_cpu\n", "\n"),
        ("[1m])) > 1\n", "[1m])) > 1000\n"),
        ("[10m]) > 5", "[10m]) > 1"),
        ("{reason!=\"receiver_not_ready\"}", ""),
        ("sidecore_scheduler_paused == 1", "sidecore_scheduler_paused == 2"),
        ("policy!~\"balance|least-loaded\"", "policy!=\"balance\""),
    ];
    for (from, to) in changes {
        let dir = tempfile::tempdir().unwrap();
        assert!(rules.contains(from), "{from}");
        std::fs::write(dir.path().join("sidecore.rules.yml"), rules.replacen(from, to, 1)).unwrap();
        let tests = dir.path().join("sidecore.test.yml");
        std::fs::write(&tests, read(TESTS)).unwrap();
        let output = run(&["promtool".as_ref(), "test".as_ref(), "rules".as_ref(), tests.as_os_str()], LIMIT).unwrap();
        assert!(!output.status.success(), "with {to} the tests pass as well");
    }
}
