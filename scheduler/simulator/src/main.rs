//! `sidecore-simulate`: compares scheduling policies in a model of the switch.
#![forbid(unsafe_code)]

mod options;

use anyhow::Result;
use clap::Parser;
use simulator::goals::{Block, Cell};
use simulator::report;
use simulator::run::run;

use options::Options;

fn main() -> Result<()> {
    let options = Options::parse();
    let model = options.model()?;
    let mut blocks = Vec::new();
    for job in options.jobs()? {
        let mut cells = Vec::new();
        for policy in job.policies {
            eprintln!("{}: {policy}", job.scenario);
            let runs: Result<Vec<_>> = (1..=job.seeds).map(|seed| run(&job.scenario, &model, policy, seed)).collect();
            cells.push(Cell { policy, runs: runs? });
        }
        blocks.push(Block::new(job.scenario, cells));
    }
    let files = report::write(&options.out, &model, &blocks)?;
    print!("{}", report::table(&blocks));
    for file in files {
        eprintln!("wrote {}", file.display());
    }
    Ok(())
}
