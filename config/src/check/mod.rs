//! From the schema to validated values: every rule that is about more than the shape of one value.

mod access;
mod claims;
mod guest;
mod scheduler;
mod switch;
mod uplink;
mod vlan;

pub(crate) use claims::Claims;
pub(crate) use guest::{guest, own_threads};
pub(crate) use scheduler::scheduler;
pub(crate) use switch::{control_socket, switch};
pub(crate) use uplink::uplink;

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::ValueError;
use crate::machine::Machine;
use crate::raw::Mode;
use crate::report::{Key, Report};
use crate::types::Station;

/// What a section is checked against besides itself.
pub(crate) struct Surroundings<'a> {
    pub(crate) machine: &'a Machine,
    /// How many I/O cores there are; none: not known.
    pub(crate) io_cores: Option<usize>,
    /// The switch's mode; none: not known.
    pub(crate) mode: Option<Mode>,
}

/// `0 to 7`, or the only number there is.
fn between(min: usize, max: usize) -> String {
    if min == max { min.to_string() } else { format!("{min} to {max}") }
}

/// One section being checked: problems go to its keys.
pub(crate) struct Section<'r, 's> {
    key: Key,
    report: &'r mut Report<'s>,
    before: usize,
}

impl<'r, 's> Section<'r, 's> {
    pub(crate) fn new(key: Key, report: &'r mut Report<'s>) -> Self {
        let before = report.len();
        Self { key, report, before }
    }

    fn problem(&mut self, name: &str, message: impl Into<String>, remedy: impl Into<String>) {
        self.report.add(&self.key.name(name), ValueError::new(message, remedy));
    }

    fn has_problem(&self, name: &str) -> bool {
        self.report.mentions(&self.key.name(name))
    }

    /// The section's value, if nothing is wrong with it.
    fn finish<T>(self, value: T) -> Option<T> {
        (self.report.len() == self.before).then_some(value)
    }

    fn accept<T>(&mut self, name: &str, result: Result<T, ValueError>) -> Option<T> {
        result.map_err(|error| self.report.add(&self.key.name(name), error)).ok()
    }

    fn parse<T: FromStr<Err = ValueError>>(&mut self, name: &str, text: &str) -> Option<T> {
        self.accept(name, text.parse())
    }

    /// The addresses that are right; what is wrong is reported.
    fn stations(&mut self, texts: Option<&[String]>) -> Vec<Station> {
        let key = self.key.name("stations");
        let mut stations = Vec::new();
        for (index, text) in texts.unwrap_or_default().iter().enumerate() {
            match text.parse() {
                Ok(station) => stations.push(station),
                Err(error) => self.report.add(&key.index(index), error),
            }
        }
        stations
    }

    /// A number in `range`; none if there is none or it is out of range.
    fn number<T: TryFrom<i64>>(&mut self, name: &str, value: Option<i64>, range: RangeInclusive<i64>) -> Option<T> {
        let value = value?;
        let number = range.contains(&value).then(|| T::try_from(value).ok()).flatten();
        if number.is_none() {
            let (min, max) = range.into_inner();
            let remedy =
                if min == max { format!("write {min}") } else { format!("write a number from {min} to {max}") };
            self.problem(name, format!("{value} is out of range"), remedy);
        }
        number
    }

    /// A number in `range` that need not be whole; none if there is none or it is out of range.
    fn real(&mut self, name: &str, value: Option<f64>, range: RangeInclusive<f64>) -> Option<f64> {
        let value = value?;
        if range.contains(&value) {
            return Some(value);
        }
        let (min, max) = range.into_inner();
        self.problem(name, format!("{value} is out of range"), format!("write a number from {min} to {max}"));
        None
    }

    /// An absolute path.
    fn absolute_path(&mut self, name: &str, text: &str) -> Option<PathBuf> {
        if !Path::new(text).is_absolute() || text.contains('\0') {
            let message = format!("{text:?} is not an absolute path");
            self.problem(
                name,
                message,
                "write the whole path, beginning with '/': a service has no working directory of its own",
            );
            return None;
        }
        Some(PathBuf::from(text))
    }

    /// The path of a Unix socket.
    fn socket_path(&mut self, name: &str, text: &str) -> Option<PathBuf> {
        // sun_path has 108 bytes, the last of them a zero (unix(7)).
        const MAX: usize = 107;
        let path = self.absolute_path(name, text)?;
        if text.len() > MAX {
            let message = format!("the path of a socket has at most {MAX} bytes, and this one has {}", text.len());
            self.problem(name, message, "choose a shorter path, such as one in /run/sidecore");
            return None;
        }
        if text.ends_with('/') || text.ends_with("/..") || text.ends_with("/.") {
            self.problem(name, format!("{text:?} is a directory's path"), "add the name of the socket");
            return None;
        }
        Some(path)
    }
}
