//! What happens again and again is logged a few times and then counted: no guest, and no client, can fill a disk.
//!
//! A *cause* is a place in the code, and the guest that a line there is of. Lines without a guest are limited from warnings on; others of
//! them, such as those of a start with hundreds of ports, come from an operator.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter};

/// Lines of one cause that are written in a [`WINDOW`].
pub(super) const BURST: u32 = 20;
const WINDOW: Duration = Duration::from_secs(10);
/// Causes that are remembered; more than there are places times guests.
const CAUSES_MAX: usize = 16 << 10;

/// Lets lines pass, and counts the others.
#[derive(Debug, Clone, Default)]
pub(crate) struct Limit(Arc<Mutex<HashMap<Cause, Count>>>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Cause {
    place: Identifier,
    guest: Option<String>,
}

#[derive(Debug)]
struct Count {
    since: Instant,
    lines: u32,
    level: Level,
    /// The first and the last line that was left out.
    first: String,
    last: String,
}

impl Limit {
    fn lock(&self) -> MutexGuard<'_, HashMap<Cause, Count>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn may_pass(&self, cause: Cause, level: Level, text: impl FnOnce() -> String) -> bool {
        let mut causes = self.lock();
        if causes.len() >= CAUSES_MAX && !causes.contains_key(&cause) {
            return true;
        }
        let none = || Count { since: Instant::now(), lines: 0, level, first: String::new(), last: String::new() };
        let count = causes.entry(cause).or_insert_with(none);
        count.lines = count.lines.saturating_add(1);
        match count.lines {
            lines if lines <= BURST => return true,
            lines if lines == BURST + 1 => count.first = text(),
            _ => count.last = text(),
        }
        false
    }

    /// Says what was left out. Called now and then.
    pub(crate) fn tell(&self) {
        self.tell_after(WINDOW);
    }

    /// The same of what is not long ago. Called at the end.
    pub(crate) fn tell_all(&self) {
        self.tell_after(Duration::ZERO);
    }

    fn tell_after(&self, window: Duration) {
        let over: Vec<(Cause, Count)> = self.lock().extract_if(|_, count| count.since.elapsed() >= window).collect();
        for (Cause { guest, .. }, count) in over.into_iter().filter(|(_, count)| count.lines > BURST) {
            let of = guest.map_or(String::new(), |guest| format!(" of guest {guest}"));
            let seconds = count.since.elapsed().as_secs();
            let text = match count.lines - BURST {
                1 => format!("a line{of} was left out in {seconds} s: {}", count.first),
                more => format!(
                    "{more} lines{of} were left out in {seconds} s, the first: {}, the last: {}",
                    count.first, count.last
                ),
            };
            // Who asked for warnings only is told of those that are missing.
            match count.level {
                Level::ERROR => tracing::error!("{text}"),
                Level::WARN => tracing::warn!("{text}"),
                _ => tracing::info!("{text}"),
            }
        }
    }
}

impl<S: Subscriber> Filter<S> for Limit {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let level = *event.metadata().level();
        // What is said here is of what was left out.
        if level > Level::INFO || event.metadata().target() == module_path!() {
            return true;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        if fields.guest.is_none() && level > Level::WARN {
            return true;
        }
        let cause = Cause { place: event.metadata().callsite(), guest: fields.guest };
        self.may_pass(cause, level, || fields.message.chars().take(120).collect())
    }
}

/// What a line says, and of whom.
#[derive(Debug, Default)]
struct Fields {
    guest: Option<String>,
    message: String,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "guest" {
            self.guest = Some(value.to_owned());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        }
    }
}
