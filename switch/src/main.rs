//! Sidecore, a poll-mode switch for virtual machines: the binary.
#![forbid(unsafe_code)]

mod cli;
mod control;
mod daemon;
mod dataplane;
mod forwarding;
mod http;
mod logging;
mod metrics;
mod snapshot;
mod state;
mod words;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
