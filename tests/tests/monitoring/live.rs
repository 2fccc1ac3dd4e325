//! Every expression of every panel and rule, asked of a real Prometheus that scrapes a real switch.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;
use sidecore_tests::http;
use sidecore_tests::process::{eventually, run};
use sidecore_tests::rules::Machine;

use crate::dashboards::{Expression, all, expressions};
use crate::prometheus::Prometheus;
use crate::stage::Stage;
use crate::{LIMIT, metrics_in};

/// Panels that show zero while nothing of their kind happens; that they show something is looked at all the same.
const MAY_BE_ZERO: [&str; 14] = [
    "Uplinks down",
    "Kicks",
    "Oldest work",
    "Without its CPU",
    "Transmit ring: waiting",
    "Transmit ring: oldest work",
    "Calls for each packet",
    "Session",
    "Saturated",
    "Parked",
    "Learning",
    "Cannot be fixed",
    "What moves gained",
    "Link and errors",
];

/// Alerts that what happens on the stage must raise, once it has lasted. No other is raised.
const RAISED: [&str; 2] = ["SidecoreDrops", "SidecoreGuestStuck"];

/// Whether this one is raised depends on what else the machine does.
const MAY_BE_RAISED: &str = "SidecoreCoreWaitsForCpu";

/// An expression with the dashboard's variables in place: everything, and a window of some scrapes.
fn filled_in(expr: &str) -> String {
    ["$instance", "$port", "$core"]
        .iter()
        .fold(expr.replace("$__rate_interval", "10s"), |expr, variable| expr.replace(variable, ".*"))
}

/// What an expression shows, if it is not what it should show.
fn wrong(prometheus: &Prometheus, expression: &Expression) -> Result<Option<String>> {
    let Expression { panel, place, expr } = expression;
    let samples = prometheus.query(&filled_in(expr))?;
    let zero = MAY_BE_ZERO.contains(&panel.as_str());
    let shows = samples.iter().any(|sample| sample.value > 0.0 || zero && sample.value == 0.0);
    // What leaves out zeros does: a comparison that is applied to something else shows them.
    let leaves_out = expr.ends_with("> 0") || expr.contains("> 0 and ");
    let right = shows && !(leaves_out && samples.iter().any(|sample| sample.value <= 0.0));
    let shown: Vec<_> = samples.iter().take(3).map(|sample| (&sample.labels, sample.value)).collect();
    Ok((!right).then(|| format!("{place} shows {shown:?}: {expr}")))
}

#[test]
fn panels_and_rules_show_what_happens() {
    let _machine = Machine::exclusive().unwrap();
    let stage = Stage::start().unwrap();
    let prometheus = Prometheus::start(stage.http, &stage.dir.path().join("prometheus.log")).unwrap();
    let scraped = || Ok(prometheus.query("count_over_time(up[1m]) >= 3")?.first().map(drop));
    eventually("three scrapes", LIMIT, scraped).unwrap();

    let mut left: Vec<Expression> = all().iter().flat_map(|(name, dashboard)| expressions(name, dashboard)).collect();
    assert!(left.len() > 60, "{} expressions", left.len());
    let deadline = Instant::now() + 2 * LIMIT;
    for round in 0.. {
        // Again and again: rates forget what was ten seconds ago.
        if round % 10 == 0 {
            stage.stir().unwrap();
        }
        let found: Vec<_> = left.into_iter().map(|e| (wrong(&prometheus, &e).unwrap(), e)).collect();
        let (problems, expressions) = found.into_iter().filter_map(|(problem, e)| Some((problem?, e))).unzip();
        left = expressions;
        if left.is_empty() {
            break;
        }
        let problems: Vec<String> = problems;
        assert!(Instant::now() < deadline, "{}\n{}", problems.join("\n"), stage.switch.must(&["status"]).unwrap());
        std::thread::sleep(Duration::from_millis(500));
    }
    moves_are_annotated(&prometheus).unwrap();
    variables_have_values(&prometheus).unwrap();
    // An alert can be pending for a moment: after a scrape that came too late, say, where others have the CPUs.
    let deadline = Instant::now() + LIMIT;
    while let Err(error) = rules_judge(&prometheus) {
        assert!(Instant::now() < deadline, "{error:#}");
        std::thread::sleep(Duration::from_millis(500));
    }
    metrics_are_as_prometheus_wants_them(stage.http).unwrap();
    crate::operations::the_page_is_true(&stage, &prometheus).unwrap();
}

/// Each queue pair that moved has the time of its last move, in milliseconds, as Grafana wants it.
fn moves_are_annotated(prometheus: &Prometheus) -> Result<()> {
    for (name, dashboard) in all() {
        let annotations = dashboard["annotations"]["list"].as_array().unwrap();
        let moves = annotations.iter().find(|annotation| annotation["name"] == "Moves").unwrap();
        let samples = prometheus.query(&filled_in(moves["expr"].as_str().unwrap()))?;
        let ports: Vec<&str> =
            samples.iter().filter_map(|sample| sample.labels.get("port")).map(String::as_str).collect();
        // The scheduler, while it was let, may have moved others.
        ensure!(["a", "b"].iter().all(|port| ports.contains(port)), "{name}: {samples:?}");
        let now = prometheus.query("time() * 1000")?[0].value;
        let recent = samples.iter().all(|sample| (0.0..120_000.0).contains(&(now - sample.value)));
        ensure!(recent, "{name}: {samples:?} at {now}");
    }
    Ok(())
}

/// `label_values(SERIES, LABEL)` of each variable.
fn variables_have_values(prometheus: &Prometheus) -> Result<()> {
    for (name, dashboard) in all() {
        for variable in dashboard["templating"]["list"].as_array().unwrap() {
            let query = variable["query"]["query"].as_str().unwrap_or_default();
            let Some((series, label)) = query.strip_prefix("label_values(").and_then(|rest| rest.rsplit_once(", "))
            else {
                ensure!(variable["type"] == "datasource", "{name}: {query}");
                continue;
            };
            let label = label.trim_end_matches(')');
            let samples = prometheus.query(&filled_in(series))?;
            ensure!(samples.iter().any(|sample| sample.labels.contains_key(label)), "{name}: {query}: {samples:?}");
        }
    }
    Ok(())
}

/// Every rule is evaluated, of series that there are; what is recorded has a value; those alerts are raised that should be.
fn rules_judge(prometheus: &Prometheus) -> Result<()> {
    let rules = prometheus.rules()?;
    ensure!(rules.len() > 15, "{} rules", rules.len());
    for rule in &rules {
        let name = rule["name"].as_str().unwrap();
        ensure!(rule["health"] == "ok", "{name}: {rule}");
        let query = rule["query"].as_str().unwrap();
        for metric in metrics_in(query) {
            let there = prometheus.query(&metric)?;
            ensure!(!there.is_empty(), "{name} judges by {metric}, of which there is nothing");
        }
        if rule["type"] == "recording" {
            let recorded = prometheus.query(name)?;
            ensure!(recorded.iter().any(|sample| sample.value > 0.0), "{name}: {recorded:?}");
        } else if name != MAY_BE_RAISED {
            let raised = rule["state"] != "inactive";
            ensure!(raised == RAISED.contains(&name), "{name} is {}: {}", rule["state"], rule["alerts"]);
        }
    }
    let of = |name: &str| rules.iter().find(|rule| rule["name"] == name).unwrap()["alerts"].clone();
    let ports = |alerts: Value| -> Vec<String> {
        let ports = alerts.as_array().unwrap().iter().map(|alert| alert["labels"]["port"].as_str().unwrap().to_owned());
        ports.collect()
    };
    let stuck = ports(of("SidecoreGuestStuck"));
    ensure!(stuck.contains(&"deaf".to_owned()) && stuck.contains(&"broken".to_owned()), "{stuck:?}");
    ensure!(!stuck.contains(&"a".to_owned()), "{stuck:?}");
    ensure!(ports(of("SidecoreDrops")).contains(&"c".to_owned()));
    Ok(())
}

/// `promtool check metrics` has nothing to say about the names, and both formats are offered.
fn metrics_are_as_prometheus_wants_them(port: u16) -> Result<()> {
    let text = http::ask(port, "/metrics", "")?;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("metrics");
    std::fs::write(&path, &text.body)?;
    let output =
        run(&["sh".to_owned(), "-c".to_owned(), format!("promtool check metrics < {}", path.display())], LIMIT)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success() && said.trim().is_empty(), "{said}");
    let open = http::ask(port, "/metrics", "Accept: application/openmetrics-text;version=1.0.0\r\n")?;
    ensure!(open.head.contains("application/openmetrics-text") && open.body.ends_with("# EOF\n"), "{}", open.head);
    Ok(())
}
