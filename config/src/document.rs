//! A TOML text that knows where each of its values stands.

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use crate::error::{Position, ValueError};
use crate::kind::{Kind, described, misfit};
use crate::report::{Key, Report, Step};
use crate::shape::Shape;

pub(crate) struct Document<'a> {
    text: &'a str,
    root: Spanned<DeValue<'a>>,
}

impl<'a> Document<'a> {
    /// Reads the text; with syntax errors, what could be read of it and those errors (offset, message).
    pub(crate) fn parse(text: &'a str) -> (Self, Vec<(Option<usize>, String)>) {
        let (table, errors) = DeTable::parse_recoverable(text);
        let span = table.span();
        let root = Spanned::new(span, DeValue::Table(table.into_inner()));
        let errors = errors
            .into_iter()
            .map(|error| (error.span().map(|span| span.start), error.message().replace('\n', ", ")))
            .collect();
        (Self { text, root }, errors)
    }

    pub(crate) fn root(&self) -> &Spanned<DeValue<'a>> {
        &self.root
    }

    /// Line and column of a byte offset; offsets past the end or inside a character are taken back to the next place.
    pub(crate) fn position(&self, offset: usize) -> Position {
        let mut end = offset.min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &self.text[..end];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Position { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
    }

    /// Where the value of `key` begins; if it is not in the text, where the innermost table around it begins.
    pub(crate) fn offset_of(&self, key: &Key) -> Option<usize> {
        let mut value = &self.root;
        for step in &key.0 {
            let next = match step {
                Step::Name(name) => value.get_ref().get(name.as_str()),
                Step::Index(index) => value.get_ref().get(*index),
            };
            match next {
                Some(next) => value = next,
                None => break,
            }
        }
        Some(value.span().start)
    }

    /// Reads one table as `T`. Reports every unknown key and every value of a wrong type, not only the first, and gives
    /// the section without them, so that the rest of it can be checked too.
    pub(crate) fn section<T: DeserializeOwned>(
        value: &Spanned<DeValue<'_>>,
        key: &Key,
        shape: &Shape,
        report: &mut Report<'_>,
    ) -> Option<T> {
        let before = report.len();
        let mut value = value.clone();
        let DeValue::Table(table) = value.get_mut() else {
            let (shown, noun) = described(value.get_ref());
            let message = format!("{shown} is {noun}, and should be a table");
            report.add(key, ValueError::new(message, format!("write {}", shape.heading())));
            return None;
        };
        for name in faulty(table, key, shape, report) {
            table.remove(name.as_str());
        }
        let error = match T::deserialize(ValueDeserializer::from(value)) {
            Ok(section) => return Some(section),
            Err(error) => error,
        };
        match missing_field(error.message()) {
            Some(missing) => report_missing(missing, key, shape, report, before),
            None => {
                let at = error.span().map(|span| span.start);
                report.add_at(at, key, ValueError::new(plain(error.message()), format!("write {}", shape.heading())));
            }
        }
        None
    }
}

/// Reports the keys that `shape` does not know, and those with a value of a kind that they do not take; gives their
/// names.
fn faulty(table: &DeTable<'_>, key: &Key, shape: &Shape, report: &mut Report<'_>) -> Vec<String> {
    let mut faulty = Vec::new();
    for (spanned, value) in table {
        let name = spanned.get_ref().as_ref();
        let before = report.len();
        if let Some(error) = shape.unknown(name) {
            report.add_at(Some(spanned.span().start), &key.name(name), error);
        } else if let (Some(inner), DeValue::Table(table)) = (shape.inner(name), value.get_ref()) {
            self::faulty(table, &key.name(name), inner, report);
        } else {
            report_misfit(value, shape.kinds(name), name, &key.name(name), report);
        }
        if report.len() > before {
            faulty.push(name.to_owned());
        }
    }
    faulty
}

/// Reports a value that is of none of these kinds, and elements of a list that are not of the list's.
fn report_misfit(value: &Spanned<DeValue<'_>>, kinds: &[Kind], name: &str, key: &Key, report: &mut Report<'_>) {
    match (kinds.iter().find(|kind| kind.fits(value.get_ref())), value.get_ref()) {
        (Some(Kind::List(kind)), DeValue::Array(elements)) => {
            for (index, element) in elements.iter().enumerate() {
                report_misfit(element, std::slice::from_ref(kind), name, &key.index(index), report);
            }
        }
        (Some(_), _) => {}
        (None, _) => report.add_at(Some(value.span().start), key, misfit(value.get_ref(), kinds, name)),
    }
}

/// A required key that is not there. Says nothing if it was, with a wrong value or under a wrong name.
fn report_missing(missing: &str, key: &Key, shape: &Shape, report: &mut Report<'_>, before: usize) {
    if !report.mentions_since(before, missing) {
        let message = format!("the key {missing} is missing");
        report.add(&key.name(missing), ValueError::new(message, shape.remedy(missing)));
    }
}

pub(crate) fn missing_field(message: &str) -> Option<&str> {
    message.strip_prefix("missing field `")?.split('`').next()
}

/// Serde's message without the names of Rust's types.
pub(crate) fn plain(message: &str) -> String {
    let mut text = message.replace('\n', ", ");
    for (rust, plain) in [
        ("expected i64", "expected a whole number"),
        ("expected f64", "expected a number"),
        ("expected struct RawVlan", "expected a table"),
    ] {
        text = text.replace(rust, plain);
    }
    text
}
