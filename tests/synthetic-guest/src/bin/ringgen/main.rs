//! `ringgen`: one process that plays 1 to 1,024 guests of any vhost-user switch, and says what became of their packets.
//!
//! - `options` is the command line, `plan` who sends what to whom.
//! - `node` is a guest, `sender` and `receiver` what it does, `engine` the loop that drives all of them from one thread;
//!   `pingpong` and `ceiling` are loops of their own. `calls` is what guests sleep in that do not poll.
//! - `settle` makes the switch learn the guests' addresses before anything is counted.
//! - `measured` is what counts of a run, `report` what comes out, `live` what others may read meanwhile.

#![forbid(unsafe_code)]

mod calls;
mod ceiling;
mod clock;
mod engine;
mod error;
#[cfg(test)]
mod faults;
mod live;
mod measured;
mod node;
mod options;
mod pacing;
mod pingpong;
mod plan;
mod rates;
mod receiver;
mod report;
mod run;
mod sender;
mod settle;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let options = options::Options::parse();
    let strict = options.strict;
    match options.check().and_then(run::run) {
        Ok(report) => {
            if strict && !report.is_clean() {
                eprintln!("ringgen: packets were duplicated, reordered or corrupted (--strict)");
                return ExitCode::from(3);
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("ringgen: error: {error}");
            ExitCode::FAILURE
        }
    }
}
