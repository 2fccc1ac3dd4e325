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
    /// The first line that was left out.
    example: String,
}

impl Limit {
    fn lock(&self) -> MutexGuard<'_, HashMap<Cause, Count>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn may_pass(&self, cause: Cause, text: impl FnOnce() -> String) -> bool {
        let mut causes = self.lock();
        if causes.len() >= CAUSES_MAX && !causes.contains_key(&cause) {
            return true;
        }
        let count =
            causes.entry(cause).or_insert_with(|| Count { since: Instant::now(), lines: 0, example: String::new() });
        count.lines = count.lines.saturating_add(1);
        if count.lines == BURST + 1 {
            count.example = text();
        }
        count.lines <= BURST
    }

    /// Says what was left out. Called now and then.
    pub(crate) fn tell(&self) {
        self.tell_after(WINDOW);
    }

    pub(super) fn tell_after(&self, window: Duration) {
        let over: Vec<(Cause, Count)> = self.lock().extract_if(|_, count| count.since.elapsed() >= window).collect();
        for (Cause { guest, .. }, Count { lines, example, since }) in
            over.into_iter().filter(|(_, count)| count.lines > BURST)
        {
            let left_out = lines - BURST;
            let of = guest.map_or(String::new(), |guest| format!(" of guest {guest}"));
            tracing::info!(
                "{left_out} lines{of} were left out in {} s, the first: {example}",
                since.elapsed().as_secs()
            );
        }
    }
}

impl<S: Subscriber> Filter<S> for Limit {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let level = *event.metadata().level();
        if level > Level::INFO {
            return true;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        if fields.guest.is_none() && level > Level::WARN {
            return true;
        }
        let cause = Cause { place: event.metadata().callsite(), guest: fields.guest };
        self.may_pass(cause, || fields.message.chars().take(120).collect())
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
