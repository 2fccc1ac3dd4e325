//! The dashboards: as the generator writes them, as Grafana's schema wants them, of metrics that there are.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use sidecore_tests::process::{must, run};
use sidecore_tests::{paths, rules};

use crate::{LIMIT, file, metrics_in};

/// A dashboard's name and content.
pub(crate) fn all() -> Vec<(String, Value)> {
    let entries = std::fs::read_dir(file("grafana")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|ext| ext == "json")).collect();
    files.sort();
    let read = |path: &Path| {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        (name, serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap())
    };
    files.iter().map(|path| read(path)).collect()
}

/// An expression of a dashboard, and where it is.
#[derive(Debug, Clone)]
pub(crate) struct Expression {
    pub(crate) panel: String,
    pub(crate) place: String,
    pub(crate) expr: String,
}

/// Every expression of a dashboard's panels.
pub(crate) fn expressions(name: &str, dashboard: &Value) -> Vec<Expression> {
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| {
        let title = panel["title"].as_str().unwrap();
        let targets = panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
        targets.iter().map(move |target| Expression {
            panel: title.to_owned(),
            place: format!("{name}, {title:?}, {}", target["refId"]),
            expr: target["expr"].as_str().unwrap().to_owned(),
        })
    });
    targets.collect()
}

#[test]
fn they_are_what_the_generator_writes() {
    must(&["python3", &file("generate.py").display().to_string(), "--check"]).unwrap();
    assert_eq!(
        all().iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["cores", "guest", "overview", "uplink"]
    );
}

#[test]
fn they_are_as_grafanas_schema_says() {
    let python = paths::workspace().join("target/grafana-sdk/bin/python");
    if !python.exists() {
        return rules::skip("they_are_as_grafanas_schema_says", "grafana-foundation-sdk cannot be had from PyPI");
    }
    let check = file("check-schema.py");
    let valid = must(&[python.as_os_str(), check.as_os_str()]).unwrap();
    assert!(valid.starts_with("4 dashboards"), "{valid}");
    // And others are not.
    let good = std::fs::read_to_string(file("grafana/guest.json")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (from, to) in [
        ("\"refresh\": \"5s\"", "\"refreshh\": \"5s\""),
        ("\"schemaVersion\": 39", "\"schemaVersion\": \"39\""),
        ("\"mode\": \"absolute\"", "\"mode\": \"absolut\""),
        ("\"lineWidth\": 1", "\"lineWidht\": 1"),
        ("\"h\": 8", "\"h\": \"8\""),
    ] {
        assert!(good.contains(from), "{from}");
        let bad = dir.path().join("bad.json");
        std::fs::write(&bad, good.replacen(from, to, 1)).unwrap();
        let output = run(&[python.as_os_str(), check.as_os_str(), bad.as_os_str()], LIMIT).unwrap();
        assert!(!output.status.success(), "with {to} it is valid as well");
    }
}

#[test]
fn they_and_the_rules_ask_for_metrics_that_there_are() {
    let list = must(&[paths::sidecore().unwrap().as_os_str(), "metrics".as_ref(), "list".as_ref(), "--json".as_ref()]);
    let list: Vec<Value> = serde_json::from_str(&list.unwrap()).unwrap();
    let name = |metric: &Value| metric["name"].as_str().unwrap().to_owned();
    let buckets = list.iter().filter(|metric| metric["type"] == "histogram").map(|metric| name(metric) + "_bucket");
    let known: BTreeSet<String> = list.iter().map(name).chain(buckets).collect();
    let mut asked = BTreeSet::new();
    for (_, dashboard) in all() {
        asked.extend(metrics_in(&dashboard.to_string()));
    }
    let rules = std::fs::read_to_string(file("rules/sidecore.rules.yml")).unwrap();
    let exprs = rules.lines().filter(|line| !line.contains("record:") && line.contains("sidecore_"));
    // In their texts, rules name what recording rules record, and metrics in backquotes.
    asked.extend(exprs.flat_map(metrics_in));
    let unknown: Vec<_> = asked.difference(&known).collect();
    assert!(unknown.is_empty() && asked.len() > 40, "{} asked for, there are no {unknown:?}", asked.len());
}

#[test]
fn everything_has_a_description_and_a_unit() {
    for (name, dashboard) in all() {
        for panel in dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row") {
            let title = &panel["title"];
            assert!(panel["description"].as_str().is_some_and(|text| text.len() >= 10), "{name}, {title}");
            assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{name}, {title}");
        }
        let annotations = dashboard["annotations"]["list"].as_array().unwrap();
        assert!(annotations.iter().any(|annotation| annotation["name"] == "Moves"), "{name}");
        assert_eq!(dashboard["links"][0]["tags"][0], "sidecore", "{name}");
    }
}
