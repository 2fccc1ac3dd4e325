//! A TOML text that knows where each of its values stands.

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use crate::error::{Position, ValueError};
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
            let message = format!("is {}, and should be a table", with_article(value.get_ref().type_str()));
            report.add(key, ValueError::new(message, format!("write {}", shape.heading())));
            return None;
        };
        drop_unknown(table, key, shape, report);
        // Every round takes the key at fault out, so there are at most as many rounds as keys.
        for _ in 0..=shape.len() {
            let error = match T::deserialize(ValueDeserializer::from(value.clone())) {
                Ok(section) => return Some(section),
                Err(error) => error,
            };
            if let Some(missing) = missing_field(error.message()) {
                report_missing(missing, key, shape, report, before);
                return None;
            }
            let DeValue::Table(table) = value.get_mut() else { return None };
            let culprit = error
                .span()
                .and_then(|span| table.iter().find(|(_, v)| v.span().start <= span.start && span.end <= v.span().end));
            let Some(name) = culprit.map(|(name, _)| name.get_ref().clone().into_owned()) else {
                report.add(key, ValueError::new(plain(error.message()), format!("write {}", shape.heading())));
                return None;
            };
            let at = error.span().map(|span| span.start);
            report.add_at(at, &key.name(&name), ValueError::new(plain(error.message()), shape.remedy(&name)));
            table.remove(name.as_str());
        }
        None
    }
}

/// Reports the keys that `shape` does not know, and takes them out so that the rest can be read.
fn drop_unknown(table: &mut DeTable<'_>, key: &Key, shape: &Shape, report: &mut Report<'_>) {
    let mut unknown = Vec::new();
    for (name, value) in table.iter() {
        if let Some(error) = shape.unknown(name.get_ref()) {
            report.add_at(Some(name.span().start), &key.name(name.get_ref()), error);
            unknown.push(name.get_ref().clone().into_owned());
        } else if let (Some(inner), DeValue::Table(table)) = (shape.inner(name.get_ref()), value.get_ref()) {
            for (inner_name, _) in table {
                if let Some(error) = inner.unknown(inner_name.get_ref()) {
                    let inner_key = key.name(name.get_ref()).name(inner_name.get_ref());
                    report.add_at(Some(inner_name.span().start), &inner_key, error);
                }
            }
            if table.iter().any(|(name, _)| inner.unknown(name.get_ref()).is_some()) {
                unknown.push(name.get_ref().clone().into_owned());
            }
        }
    }
    for name in unknown {
        table.remove(name.as_str());
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

pub(crate) fn with_article(noun: &str) -> String {
    let vowel = noun.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {noun}", if vowel { "an" } else { "a" })
}
