//! `sidecore config`: needs no running switch.

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;
use config::{Config, Machine};

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check a configuration file; every problem is named with its line, its key and a remedy.
    Check {
        /// The file.
        file: PathBuf,
        /// Do not check CPUs, users and groups against this machine: the file is for another one.
        #[arg(long)]
        any_machine: bool,
    },
    /// Print the JSON schema of the configuration file: every key, what it means, and its default.
    ///
    /// Editors that know TOML schemas complete and check with it.
    Schema,
}

pub(super) fn execute(command: ConfigCommand) -> Result<()> {
    match command {
        ConfigCommand::Check { file, any_machine } => {
            let machine = if any_machine { Machine::any() } else { Machine::detect() };
            let config = Config::load(&file, &machine)?;
            let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
            super::print(&format!(
                "{}: ok ({}, {}, {})\n",
                file.display(),
                count(config.switch.io_cores.cpus.len(), "I/O core"),
                count(config.guests.len(), "guest"),
                count(config.uplinks.len(), "uplink")
            ))
        }
        ConfigCommand::Schema => super::print_json(&config::schema()),
    }
}
