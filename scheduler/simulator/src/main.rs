//! `sidecore-simulate`: compares scheduling policies in a model of the switch.
#![forbid(unsafe_code)]

mod options;

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Result, bail};
use clap::Parser;
use scheduler::Policy;
use simulator::goals::{Block, Cell};
use simulator::model::Model;
use simulator::report;
use simulator::run::{Measured, run};

use options::{Job, Options};

fn main() -> ExitCode {
    match simulate(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sidecore-simulate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn simulate(options: &Options) -> Result<()> {
    let model = options.model()?;
    let blocks: Result<Vec<_>> = options.jobs()?.into_iter().map(|job| block(job, &model, options.threads())).collect();
    let blocks = blocks?;
    let files = report::write(&options.out, &model, &blocks)?;
    print!("{}", report::table(&blocks));
    for file in files {
        eprintln!("wrote {}", file.display());
    }
    Ok(())
}

/// Runs everything of a scenario, several runs at a time.
fn block(job: Job, model: &Model, threads: usize) -> Result<Block> {
    eprintln!("{}", job.scenario);
    let todo: Vec<(Policy, u64)> =
        job.policies.iter().flat_map(|policy| (0..job.seeds).map(|nth| (*policy, job.first_seed + nth))).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let take = || todo.get(next.fetch_add(1, Ordering::Relaxed)).copied();
        std::iter::from_fn(take).map(|(policy, seed)| Ok((policy, run(&job.scenario, model, policy, seed)?))).collect()
    };
    let done: Result<Vec<(Policy, Measured)>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let parts: Vec<Result<Vec<_>>> =
            workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| bail!("a run panicked"))).collect();
        Ok(parts.into_iter().collect::<Result<Vec<_>>>()?.concat())
    });
    let done = done?;
    let cell = |policy: &Policy| {
        let mut runs: Vec<Measured> = done.iter().filter(|(of, _)| of == policy).map(|(_, run)| run.clone()).collect();
        runs.sort_by_key(|run| run.seed);
        Cell { policy: *policy, runs }
    };
    let cells = job.policies.iter().map(cell).collect();
    Ok(Block::new(job.scenario, model, cells))
}
