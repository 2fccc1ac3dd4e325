//! Sidecore, a poll-mode switch for virtual machines: everything but the binary's first line.
//!
//! A library so that a core's own poll function can be measured without a process, a session or a thread around it
//! ([`rig`]). It offers nothing to other programs.
#![forbid(unsafe_code)]

mod cli;
mod control;
mod daemon;
mod dataplane;
mod forwarding;
mod http;
mod logging;
mod metrics;
mod page;
mod rates;
mod snapshot;
mod state;
mod trace;
mod words;

use std::process::ExitCode;

#[doc(hidden)]
pub use dataplane::rig;

/// What the binary `sidecore` does.
#[must_use]
pub fn main() -> ExitCode {
    cli::main()
}
