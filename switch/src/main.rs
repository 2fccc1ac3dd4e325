//! Sidecore, a poll-mode switch for virtual machines: the binary.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    sidecore::main()
}
