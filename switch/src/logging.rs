//! Log lines, on standard error: text or JSON, as much as `switch.log_level` says, or `RUST_LOG` where it is set.

use std::io::IsTerminal;

use config::{LogFormat, LogLevel, SwitchConfig};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// Overrides the configuration, as in `RUST_LOG=sidecore=debug,vm_ports=trace`.
const VARIABLE: &str = "RUST_LOG";

/// Changes how much is logged.
pub(crate) struct LogControl {
    filter: reload::Handle<EnvFilter, Registry>,
    /// `RUST_LOG` is set, and stays in force.
    overridden: bool,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    #[error("{VARIABLE} is not a log filter: {0}; write a level such as debug, or unset it")]
    Filter(String),
    #[error("logging does not start: {0}")]
    Start(#[from] tracing_subscriber::util::TryInitError),
}

/// Starts logging.
pub(crate) fn start(config: &SwitchConfig) -> Result<LogControl, LogError> {
    let (filter, overridden) = match std::env::var(VARIABLE) {
        Ok(text) if !text.is_empty() => {
            (EnvFilter::try_new(&text).map_err(|error| LogError::Filter(error.to_string()))?, true)
        }
        _ => (EnvFilter::new(word(config.log_level)), false),
    };
    let (filter, handle) = reload::Layer::new(filter);
    // A reader of standard error that went away must not take the switch with it.
    let layer = fmt::layer().with_writer(std::io::stderr).log_internal_errors(false);
    let registry = tracing_subscriber::registry().with(filter);
    match config.log_format {
        LogFormat::Text => registry.with(layer.with_ansi(std::io::stderr().is_terminal())).try_init()?,
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init()?,
    }
    Ok(LogControl { filter: handle, overridden })
}

impl LogControl {
    /// Logs as much as `level` says from now on.
    pub(crate) fn set_level(&self, level: LogLevel) {
        if self.overridden {
            tracing::info!("{VARIABLE} is set, so switch.log_level changes nothing");
        } else if let Err(error) = self.filter.reload(EnvFilter::new(word(level))) {
            tracing::warn!("the log level stays as it is: {error}");
        }
    }
}

fn word(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    }
}
