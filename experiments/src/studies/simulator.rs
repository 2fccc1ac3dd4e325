//! The simulator of the scheduler crate, as its user runs it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use sidecore_tests::paths;
use sidecore_tests::process::run;

use super::Lab;

/// A run of the simulator that is not over by then hangs.
const LIMIT: Duration = Duration::from_secs(900);

/// A policy's run. Keys that are not needed are left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Simulated {
    /// The policy.
    #[serde(default)]
    pub policy: String,
    /// Cycles that guests asked for.
    pub demanded_cycles: f64,
    /// Those that they did not get.
    pub under_served_cycles: f64,
    /// Of those, what is beyond what no policy could have served.
    pub under_served_beyond_cycles: f64,
    /// Those not served after the time for converging.
    pub under_served_converged_cycles: f64,
    /// 99th percentile of the queueing delay, in microseconds.
    pub delay_p99_us: f64,
    /// Queue pairs moved.
    pub moves: u64,
    /// The largest core load to its lower bound.
    pub largest_to_bound: f64,
    /// Second by second.
    pub seconds: Vec<Second>,
}

/// A second of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// The largest core load, in parts of a core.
    pub largest: f64,
    /// Its lower bound.
    pub bound: f64,
    /// Cycles not served so far.
    pub under_served_cycles: f64,
}

#[derive(Deserialize)]
struct Results {
    blocks: Vec<Block>,
}

#[derive(Deserialize)]
struct Block {
    cells: Vec<Cell>,
}

#[derive(Deserialize)]
struct Cell {
    policy: String,
    runs: Vec<Simulated>,
}

/// Runs it with one scenario, on all CPUs: nothing is timed. Returns the runs of each policy, one for each seed.
pub fn simulate(lab: &Lab, args: &[String], out: &Path) -> Result<Vec<Vec<Simulated>>> {
    let mut command: Vec<String> = ["taskset", "-c"].map(str::to_owned).to_vec();
    command.extend([lab.cpus.list(), paths::simulator()?.display().to_string()]);
    command.extend_from_slice(args);
    command.extend(["--out".to_owned(), out.display().to_string()]);
    let output = run(&command, LIMIT)?;
    ensure!(output.status.success(), "{}: {}", command.join(" "), String::from_utf8_lossy(&output.stderr));
    let text = fs::read_to_string(out.join("results.json"))?;
    let results: Results = serde_json::from_str(&text).context("unexpected results of the simulator")?;
    let cells = results.blocks.into_iter().flat_map(|block| block.cells);
    let runs = |Cell { policy, runs }: Cell| -> Vec<Simulated> {
        runs.into_iter().map(|run| Simulated { policy: policy.clone(), ..run }).collect()
    };
    let all: Vec<Vec<Simulated>> = cells.map(runs).collect();
    ensure!(all.iter().all(|runs| !runs.is_empty()), "{}: a policy without runs", command.join(" "));
    Ok(all)
}
