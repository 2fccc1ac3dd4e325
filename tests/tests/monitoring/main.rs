//! What an operator watches a switch with: metrics, rules, dashboards, health. All of it against the programs that it is for: Prometheus,
//! promtool, Grafana's own types.
#![forbid(unsafe_code)]

mod dashboards;
mod health;
mod live;
mod logs;
mod operations;
mod prometheus;
mod rules;
mod scrape;
mod stage;
mod up;

use std::path::PathBuf;
use std::time::Duration;

/// A command that is not over by then hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// A file of `dashboards/`.
fn file(name: &str) -> PathBuf {
    sidecore_tests::paths::workspace().join("dashboards").join(name)
}

/// The names of Sidecore's metrics in an expression, without what recording rules record.
fn metrics_in(expr: &str) -> Vec<String> {
    let words = expr.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    words.filter(|word| word.starts_with("sidecore_")).map(str::to_owned).collect()
}
