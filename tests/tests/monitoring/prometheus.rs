//! A real Prometheus.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sidecore_tests::http;
use sidecore_tests::process::Process;

use crate::file;

const START_LIMIT: Duration = Duration::from_secs(30);

/// Running, with the configuration and the rules of `dashboards/`.
pub(crate) struct Prometheus {
    // Dropped first: it writes into the folder.
    _process: Process,
    port: u16,
    _dir: tempfile::TempDir,
}

/// A sample of an answer.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

impl Prometheus {
    /// Scrapes a switch every second, and waits until Prometheus says that it is ready.
    pub(crate) fn start(switch: u16, log: &Path) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let port = http::free_port()?;
        let config = std::fs::read_to_string(file("prometheus.yml"))?;
        let rules = file("rules/sidecore.rules.yml").display().to_string();
        let changed = config
            .replace("rules/sidecore.rules.yml", &rules)
            .replace("127.0.0.1:9464", &format!("127.0.0.1:{switch}"))
            .replace("_interval: 5s", "_interval: 1s");
        let path = dir.path().join("prometheus.yml");
        std::fs::write(&path, changed)?;
        let args = [
            format!("--config.file={}", path.display()),
            format!("--storage.tsdb.path={}", dir.path().join("data").display()),
            format!("--web.listen-address=127.0.0.1:{port}"),
        ];
        let mut process = Process::spawn("prometheus", "prometheus", args, log)?;
        process.wait_until("readiness", START_LIMIT, |_| {
            Ok(http::ask(port, "/-/ready", "").ok().filter(|answer| answer.status() == 200).map(drop))
        })?;
        Ok(Self { _process: process, port, _dir: dir })
    }

    /// The value of an expression now. A scalar is one sample.
    pub(crate) fn query(&self, expr: &str) -> Result<Vec<Sample>> {
        let data = self.api(&format!("query?query={}", http::encoded(expr))).with_context(|| expr.to_owned())?;
        let result = data["result"].as_array().context("no result")?;
        let value = |pair: &Value| pair[1].as_str().and_then(|text| text.parse().ok()).unwrap_or(f64::NAN);
        if data["resultType"] == "scalar" {
            return Ok(vec![Sample { labels: BTreeMap::new(), value: value(&data["result"]) }]);
        }
        let labels = |metric: &Value| serde_json::from_value(metric.clone());
        let sample = |one: &Value| Ok(Sample { labels: labels(&one["metric"])?, value: value(&one["value"]) });
        result.iter().map(sample).collect()
    }

    /// Every rule, as `/api/v1/rules` has it.
    pub(crate) fn rules(&self) -> Result<Vec<Value>> {
        let data = self.api("rules")?;
        let groups = data["groups"].as_array().context("no groups")?;
        Ok(groups.iter().flat_map(|group| group["rules"].as_array().into_iter().flatten()).cloned().collect())
    }

    fn api(&self, what: &str) -> Result<Value> {
        let answer = http::ask(self.port, &format!("/api/v1/{what}"), "")?;
        let mut json: Value = serde_json::from_str(&answer.body).with_context(|| answer.body.clone())?;
        ensure!(json["status"] == "success", "{}", answer.body);
        Ok(json["data"].take())
    }
}
