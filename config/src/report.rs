//! Collects problems, each with its key and, where the text is at hand, its position.

use std::fmt;

use crate::document::Document;
use crate::error::{ConfigError, Problem, ValueError};

/// The way to a value: `guest[0].vlan.trunk[2]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Key(pub(crate) Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Name(String),
    Index(usize),
}

impl Key {
    pub(crate) fn root() -> Self {
        Self::default()
    }

    pub(crate) fn name(&self, name: &str) -> Self {
        self.step(Step::Name(name.to_owned()))
    }

    pub(crate) fn index(&self, index: usize) -> Self {
        self.step(Step::Index(index))
    }

    fn step(&self, step: Step) -> Self {
        let mut key = self.clone();
        key.0.push(step);
        key
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            match step {
                Step::Name(name) if i == 0 => f.write_str(name)?,
                Step::Name(name) => write!(f, ".{name}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

pub(crate) struct Report<'a> {
    source: &'a str,
    document: Option<&'a Document<'a>>,
    problems: Vec<Problem>,
}

impl<'a> Report<'a> {
    pub(crate) fn new(source: &'a str, document: Option<&'a Document<'a>>) -> Self {
        Self { source, document, problems: Vec::new() }
    }

    pub(crate) fn add(&mut self, key: &Key, error: ValueError) {
        let offset = self.document.and_then(|document| document.offset_of(key));
        self.add_at(offset, key, error);
    }

    /// Adds a problem at a byte offset of the document that is not where the key's value is.
    pub(crate) fn add_at(&mut self, offset: Option<usize>, key: &Key, error: ValueError) {
        let position = self.document.zip(offset).map(|(document, offset)| document.position(offset));
        let ValueError { message, remedy } = error;
        self.problems.push(Problem { source: self.source.to_owned(), position, key: key.to_string(), message, remedy });
    }

    /// Where a key stands, for a message about another key: `guest[0].name (line 7)`.
    pub(crate) fn place(&self, key: &Key) -> String {
        let offset = self.document.and_then(|document| Some((document, document.offset_of(key)?)));
        match offset {
            Some((document, offset)) => format!("{key} (line {})", document.position(offset).line),
            None => key.to_string(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.problems.len()
    }

    /// Whether something is wrong with `key` already.
    pub(crate) fn mentions(&self, key: &Key) -> bool {
        let key = key.to_string();
        self.problems.iter().any(|problem| problem.key == key)
    }

    /// Whether a problem added after the first `before` is about the key `name` or something in it, or proposes it.
    pub(crate) fn mentions_since(&self, before: usize, name: &str) -> bool {
        let is_step = |step: &str| step.split('[').next() == Some(name);
        let about = |problem: &Problem| problem.key.split('.').any(is_step) || problem.remedy == did_you_mean(name);
        self.problems[before..].iter().any(about)
    }

    pub(crate) fn finish<T>(self, value: Option<T>) -> Result<T, ConfigError> {
        match value {
            Some(value) if self.problems.is_empty() => Ok(value),
            _ => Err(self.into_error()),
        }
    }

    pub(crate) fn into_error(mut self) -> ConfigError {
        debug_assert!(!self.problems.is_empty(), "a value is missing, and nobody said why");
        self.problems.sort_by_key(|problem| problem.position);
        ConfigError::Invalid(self.problems)
    }
}

/// The remedy for a key that looks like another one.
pub(crate) fn did_you_mean(name: &str) -> String {
    format!("did you mean {name}?")
}
