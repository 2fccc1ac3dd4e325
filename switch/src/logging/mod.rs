//! Log lines, on standard error: text or JSON, as much as `switch.log_level` says, or `RUST_LOG` where it is set.
//!
//! Where standard error is the journal, which knows the time of a line itself, lines begin with their priority instead (sd-daemon(3)). What
//! happens again and again is said a few times, and then counted ([`limit`]).

mod journal;
mod limit;

use std::io::IsTerminal;

use config::{LogFormat, LogLevel};
use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use journal::WithPriority;
pub(crate) use limit::Limit;

/// Overrides the configuration, as in `RUST_LOG=sidecore=debug,vm_ports=trace`.
const VARIABLE: &str = "RUST_LOG";

/// Changes how much is logged.
pub(crate) struct LogControl {
    filter: reload::Handle<EnvFilter, Registry>,
    /// `RUST_LOG` is set, and stays in force.
    overridden: bool,
    limit: Limit,
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
pub(crate) fn start(level: LogLevel, format: LogFormat) -> Result<LogControl, LogError> {
    let (filter, overridden) = match std::env::var(VARIABLE) {
        Ok(text) if !text.is_empty() => {
            (EnvFilter::try_new(&text).map_err(|error| LogError::Filter(error.to_string()))?, true)
        }
        _ => (EnvFilter::new(word(level)), false),
    };
    let (filter, handle) = reload::Layer::new(filter);
    let limit = Limit::default();
    let form = Form { format, journal: journal::is_standard_error(), colors: std::io::stderr().is_terminal() };
    let lines = layer(form, std::io::stderr).with_filter(limit.clone());
    tracing_subscriber::registry().with(filter).with(lines).try_init()?;
    Ok(LogControl { filter: handle, overridden, limit })
}

/// What lines look like.
#[derive(Debug, Clone, Copy)]
struct Form {
    format: LogFormat,
    journal: bool,
    colors: bool,
}

/// Writes lines.
fn layer<S, W>(form: Form, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // A reader of standard error that went away must not take the switch with it.
    let layer = fmt::layer().with_writer(writer).log_internal_errors(false);
    match (form.format, form.journal) {
        (LogFormat::Text, false) => layer.with_ansi(form.colors).boxed(),
        (LogFormat::Text, true) => {
            layer.with_ansi(false).event_format(WithPriority(fmt::format().without_time().with_level(false))).boxed()
        }
        (LogFormat::Json, false) => layer.json().flatten_event(true).boxed(),
        (LogFormat::Json, true) => {
            let format = fmt::format().json().flatten_event(true).without_time();
            layer.json().event_format(WithPriority(format)).boxed()
        }
    }
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

    /// What was left out is told of by and by.
    pub(crate) fn limit(&self) -> Limit {
        self.limit.clone()
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

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What is written while `log` runs.
    fn logged(form: Form, log: impl FnOnce(&Limit)) -> Vec<String> {
        let (lines, limit) = (Lines::default(), Limit::default());
        let writer = lines.clone();
        let layer = layer(form, move || writer.clone()).with_filter(limit.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || log(&limit));
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap().lines().map(str::to_owned).collect()
    }

    const TEXT: Form = Form { format: LogFormat::Text, journal: false, colors: false };

    #[test]
    fn a_line_on_a_terminal_has_its_time_and_level() {
        let lines = logged(TEXT, |_| tracing::warn!(guest = "vm1", "something"));
        assert!(
            lines[0].starts_with("20") && lines[0].contains(" WARN ") && lines[0].ends_with("guest=\"vm1\""),
            "{lines:?}"
        );
    }

    #[test]
    fn the_journal_is_told_the_priority_and_not_the_time() {
        let lines = logged(Form { journal: true, ..TEXT }, |_| {
            tracing::error!("one");
            tracing::warn!("two");
            tracing::info!(guest = "vm1", "three");
            tracing::debug!("four");
        });
        let expected = ["<3>", "<4>", "<6>", "<7>"].iter().zip(["one", "two", "three guest=\"vm1\"", "four"]);
        for ((priority, words), line) in expected.zip(&lines) {
            assert_eq!(*line, format!("{priority}sidecore::logging::tests: {words}"));
        }
        assert_eq!(lines.len(), 4);
    }

    #[test]
    fn json_is_an_object_a_line() {
        for journal in [false, true] {
            let form = Form { format: LogFormat::Json, journal, colors: false };
            let line = logged(form, |_| tracing::info!(guest = "vm1", "some\n\"thing\""))[0].clone();
            let json = line.strip_prefix("<6>").unwrap_or(&line);
            assert_eq!(line.starts_with("<6>"), journal);
            let value: serde_json::Value = serde_json::from_str(json).unwrap();
            assert_eq!((&value["message"], &value["guest"]), (&"some\n\"thing\"".into(), &"vm1".into()));
            assert_eq!(value.get("timestamp").is_some(), !journal);
        }
    }

    #[test]
    fn what_a_guest_does_again_and_again_is_said_a_few_times_and_then_counted() {
        let lines = logged(TEXT, |limit| {
            for guest in ["vm1", "vm2"] {
                for _ in 0..if guest == "vm1" { 1000 } else { 3 } {
                    tracing::info!(guest, "frontend connected");
                }
            }
            (0..1000).for_each(|n| tracing::info!("guest g{n} added"));
            limit.tell();
            limit.tell_all();
            limit.tell_all();
        });
        let with = |words: &str| lines.iter().filter(|line| line.contains(words)).count();
        assert_eq!(with("frontend connected guest=\"vm1\""), limit::BURST as usize);
        assert_eq!(with("frontend connected guest=\"vm2\""), 3, "one guest's lines are not another's");
        assert_eq!(with(" added"), 1000, "what nobody repeats is not limited");
        let left_out: Vec<_> = lines.iter().filter(|line| line.contains("left out")).collect();
        assert_eq!(left_out.len(), 1, "{left_out:?}");
        assert!(
            left_out[0].contains(&format!("{} lines", 1000 - limit::BURST)) && left_out[0].contains("vm1"),
            "{left_out:?}"
        );
    }

    #[test]
    fn what_was_left_out_is_told_at_its_level_with_the_first_and_the_last_of_it() {
        let lines = logged(TEXT, |limit| {
            // More causes than lines of one cause may pass.
            for guest in 0..2 * limit::BURST {
                let guest = format!("vm{guest}");
                (0..=limit::BURST + 2).for_each(|n| tracing::warn!(guest, "ring {n} is stopped"));
            }
            (0..=limit::BURST).for_each(|n| tracing::error!("error {n}"));
            limit.tell_all();
        });
        let told: Vec<_> = lines.iter().filter(|line| line.contains("left out")).collect();
        let (warnings, errors): (Vec<&String>, Vec<_>) = told.into_iter().partition(|line| line.contains(" WARN "));
        assert_eq!(warnings.len(), 2 * limit::BURST as usize, "{warnings:?}");
        let (first, last) = (limit::BURST, limit::BURST + 2);
        let text = format!("the first: ring {first} is stopped, the last: ring {last} is stopped");
        assert!(warnings.iter().all(|line| line.contains("3 lines") && line.ends_with(&text)), "{warnings:?}");
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].contains("ERROR") && errors[0].ends_with(&format!("error {first}")), "{errors:?}");
    }

    #[test]
    fn warnings_are_limited_whoever_they_are_of() {
        let lines = logged(TEXT, |_| (0..1000).for_each(|n| tracing::warn!("a connection was not accepted: {n}")));
        assert_eq!(lines.len(), limit::BURST as usize);
    }
}
