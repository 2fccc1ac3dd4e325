//! `docs/operations.md`: every command and every query on the page.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sidecore_tests::paths;
use sidecore_tests::process::{eventually, must};

use crate::prometheus::Prometheus;
use crate::stage::Stage;

/// The lines of the page's blocks in this language.
fn lines_in<'p>(page: &'p str, language: &str) -> Vec<&'p str> {
    let fence = format!("```{language}");
    let mut inside = false;
    let lines = page.lines().filter(|line| {
        let begins = *line == fence;
        inside = if line.starts_with("```") { begins } else { inside };
        inside && !begins
    });
    lines.collect()
}

/// Each of the questions has an answer, each command succeeds and prints something, each query finds something.
pub(crate) fn the_page_is_true(stage: &Stage, prometheus: &Prometheus) -> Result<()> {
    let page = std::fs::read_to_string(paths::workspace().join("docs/operations.md"))?;
    ensure!((1..=12).all(|n| page.contains(&format!("\n## {n}. "))), "twelve questions");
    let (commands, queries) = (lines_in(&page, "sh"), lines_in(&page, "promql"));
    ensure!(commands.len() >= 10 && queries.len() >= 10, "{commands:?} {queries:?}");
    let built = paths::sidecore()?.parent().context("no folder")?.display().to_string();
    for command in commands {
        let control = stage.dir.path().join("control.sock");
        let here = command.replace("127.0.0.1:9464", &format!("127.0.0.1:{}", stage.http)).replace(" vm1 ", " a ");
        let script = format!(
            "set -o pipefail; PATH={built}:$PATH SIDECORE_CONTROL={}; export SIDECORE_CONTROL; {here}",
            control.display()
        );
        let printed = must(&["bash", "-c", &script])?;
        ensure!(!printed.trim().is_empty(), "{command} prints nothing");
    }
    for query in queries {
        let found = || Ok((!prometheus.query(query)?.is_empty()).then_some(()));
        eventually(&format!("answer to {query}"), Duration::from_secs(20), found)?;
    }
    Ok(())
}
