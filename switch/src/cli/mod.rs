//! The command line.

mod capture;
mod client;
mod config_file;
mod guest;
mod metrics;
mod scheduler;
mod show;
mod table;
mod top;
mod trace;
mod units;
mod uplink;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use config::LogFormat;

use crate::control::protocol::{Answer, Done, Request};
use crate::daemon;
use client::Client;

/// A poll-mode switch for virtual machines: guests over vhost-user, NICs through DPDK.
#[derive(Debug, Parser)]
#[command(name = "sidecore", version, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Cli {
    /// The control socket of the switch to talk to; not for `run`, `config` and `metrics`.
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "SIDECORE_CONTROL",
        default_value = "/run/sidecore/control.sock"
    )]
    control: PathBuf,

    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  sidecore config check sidecore.toml                       is the file right?
  sidecore run --config sidecore.toml                       start a switch, in the foreground
  sidecore status                                           how is it?
  sidecore top                                              how is it from second to second?
  sidecore guest add vm7 --socket /run/sidecore/vm7.sock    give a VM a port while the switch runs
  sidecore capture vm7 -w vm7.pcapng                        what does it send and receive?
  sidecore reload                                           apply what was edited in sidecore.toml

All commands but `run`, `config` and `metrics` talk to a running switch over its control socket. What goes wrong is said on
standard error, with what to do about it. Exit status: 0 done, 1 not done, 2 wrong usage.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a switch, in the foreground; logs go to standard error.
    ///
    /// SIGTERM and SIGINT stop it, SIGHUP does what `sidecore reload` does.
    Run {
        /// The configuration file; `sidecore config schema` describes every key.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// How log lines look: `text`, or `json` for collectors [default: switch.log_format].
        #[arg(long, value_name = "FORMAT", value_parser = log_format)]
        log_format: Option<LogFormat>,
    },
    /// Show ports, I/O cores and packet accounting.
    ///
    /// RX and TX of a guest are named from the guest's side, those of an uplink from the NIC's. Rates and busy shares
    /// are those of a quarter of a second, all else counts from the start of the switch.
    Status {
        /// Print everything there is to know as one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Watch ports, I/O cores and decisions, as `top` shows processes.
    ///
    /// Rows can be sorted by any column and filtered. Narrow terminals show fewer columns; `q` ends it.
    Top(top::TopArgs),
    /// Add, remove and list guests.
    #[command(subcommand)]
    Guest(guest::GuestCommand),
    /// Add, remove and list uplinks.
    #[command(subcommand)]
    Uplink(uplink::UplinkCommand),
    /// See what the scheduler decides, and stop it from doing so.
    #[command(subcommand)]
    Scheduler(scheduler::SchedulerCommand),
    /// Record what passes ports, into a pcapng file that tcpdump and Wireshark read.
    ///
    /// Forwarding goes on whatever happens: an I/O core spends no more than a bounded part of its time on it, and a reader that is slow misses packets, which are
    /// counted.
    Capture(capture::CaptureArgs),
    /// Look at the forwarding database.
    #[command(subcommand)]
    Fdb(FdbCommand),
    /// Say what the switch would do with a packet, and why. Nothing is sent, learnt or counted for it.
    Trace(trace::TraceArgs),
    /// See what `/metrics` has to tell.
    #[command(subcommand)]
    Metrics(metrics::MetricsCommand),
    /// Read the configuration file again and apply what changed; ports that did not change see nothing.
    Reload,
    /// Check a configuration file, or describe what can be in one.
    #[command(subcommand)]
    Config(config_file::ConfigCommand),
}

#[derive(Debug, Subcommand)]
enum FdbCommand {
    /// Show which station is behind which port.
    Show {
        /// Print a JSON list.
        #[arg(long)]
        json: bool,
    },
}

/// Carries out a command line.
pub(crate) fn main() -> ExitCode {
    match execute(parse(std::env::args_os()).unwrap_or_else(|error| error.exit())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed; the exit status still tells.
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Reads a command line. Where no switch is talked to, `--control` would be ignored: whoever writes it counts on it.
fn parse<S: Into<OsString> + Clone>(line: impl IntoIterator<Item = S>) -> Result<Cli, clap::Error> {
    let mut command = Cli::command();
    let matches = command.try_get_matches_from_mut(line)?;
    let cli = Cli::from_arg_matches(&matches)?;
    let alone = match cli.command {
        Command::Run { .. } => "run",
        Command::Config(_) => "config",
        Command::Metrics(_) => "metrics",
        _ => return Ok(cli),
    };
    // What the environment says is for other commands.
    if matches.value_source("control") != Some(ValueSource::CommandLine) {
        return Ok(cli);
    }
    let hint = if alone == "run" { ": switch.control_socket in the configuration says where its own is" } else { "" };
    Err(command.error(
        ErrorKind::ArgumentConflict,
        format!("`{alone}` talks to no running switch, so --control is not for it{hint}"),
    ))
}

fn execute(cli: Cli) -> Result<()> {
    let client = Client::new(cli.control);
    match cli.command {
        Command::Run { config, log_format } => daemon::run(&config, log_format),
        Command::Status { json } => show::status(&client, json),
        Command::Top(args) => top::execute(client, &args),
        Command::Guest(command) => guest::execute(&client, command),
        Command::Uplink(command) => uplink::execute(&client, command),
        Command::Scheduler(command) => scheduler::execute(&client, command),
        Command::Capture(args) => capture::execute(&client, &args),
        Command::Fdb(FdbCommand::Show { json }) => show::fdb(&client, json),
        Command::Trace(args) => trace::execute(&client, args),
        Command::Metrics(command) => metrics::execute(&command),
        Command::Reload => reload(&client),
        Command::Config(command) => config_file::execute(command),
    }
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("write text or json".to_owned()),
    }
}

fn reload(client: &Client) -> Result<()> {
    let Answer::Reloaded(report) = client.ask(&Request::Reload)? else { return Err(client::unexpected()) };
    print(&(report.lines().join("\n") + "\n"))?;
    report.warnings.iter().try_for_each(|warning| warn(warning))
}

/// Sends a request that changes something, and says what came of it.
fn change(client: &Client, request: &Request) -> Result<()> {
    let Answer::Done(Done { message, warnings }) = client.ask(request)? else { return Err(client::unexpected()) };
    print(&(message + "\n"))?;
    warnings.iter().try_for_each(|warning| warn(warning))
}

fn warn(text: &str) -> Result<()> {
    Ok(writeln!(io::stderr(), "warning: {text}")?)
}

/// Writes to standard output. A reader that has seen enough, such as `head`, is no error.
fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn print_json(value: &impl serde::Serialize) -> Result<()> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn control_is_taken_anywhere() {
        for line in ["--control /x status", "status --control /x", "guest list --json --control /x"] {
            let cli = parse(std::iter::once("sidecore").chain(line.split(' '))).unwrap();
            assert_eq!(cli.control, PathBuf::from("/x"), "{line}");
        }
    }

    #[test]
    fn control_is_refused_where_no_switch_is_talked_to() {
        for line in ["run --config a", "config check a", "config schema", "metrics list"] {
            let words = |line: &str| parse(format!("sidecore {line}").split(' '));
            assert!(words(line).is_ok(), "{line}");
            for line in [format!("--control /x {line}"), format!("{line} --control /x")] {
                let error = words(&line).unwrap_err();
                assert_eq!(error.exit_code(), 2);
                assert!(error.to_string().contains("talks to no running switch"), "{line}: {error}");
            }
        }
    }
}
