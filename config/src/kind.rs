//! What kinds of values a key takes, and in words what is wrong with a value of another kind.

use serde_json::Value;
use toml::de::DeValue;

use crate::error::ValueError;

/// What a table in a value looks like, by its name in the schema.
pub(crate) const TABLES: [(&str, &str); 2] =
    [("Elastic", "a table such as { cpus = [2, 3, 4, 5], min = 1 }"), ("Vlan", "a table such as { access = 10 }")];

/// One kind of values.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Boolean,
    /// Whole numbers, and between which two they have to be.
    Whole(Option<(i64, i64)>),
    /// Numbers that need not be whole.
    Real(f64, f64),
    /// Texts, and one of them as it would be written.
    Text(Option<String>),
    /// These texts and no other.
    Words(Vec<String>),
    List(Box<Kind>),
    Table(&'static str),
}

impl Kind {
    /// The kinds that a part of a schema allows; `about` is all that the schema says of the key, `definitions` what it
    /// refers to.
    pub(crate) fn all_of(part: &Value, about: &Value, definitions: &Value) -> Vec<Self> {
        if let Some(name) = part.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next()) {
            return match TABLES.iter().find(|(table, _)| *table == name) {
                Some((_, heading)) => vec![Self::Table(heading)],
                None => definitions.get(name).map_or_else(Vec::new, |part| Self::all_of(part, about, definitions)),
            };
        }
        if let Some(parts) = part.get("anyOf").and_then(Value::as_array) {
            return parts.iter().flat_map(|part| Self::all_of(part, about, definitions)).collect();
        }
        if let Some(parts) = part.get("oneOf").and_then(Value::as_array) {
            let words = parts.iter().filter_map(|part| part.get("const")?.as_str().map(str::to_owned));
            return vec![Self::Words(words.collect())];
        }
        let name = part.get("type").map(|types| types.get(0).unwrap_or(types)).and_then(Value::as_str);
        let limit = |name: &str| part.get(name);
        let kind = match name {
            Some("boolean") => Self::Boolean,
            Some("integer") => {
                let limits = limit("minimum").and_then(Value::as_i64).zip(limit("maximum").and_then(Value::as_i64));
                Self::Whole(limits)
            }
            Some("number") => {
                let limit = |name, other| limit(name).and_then(Value::as_f64).unwrap_or(other);
                Self::Real(limit("minimum", f64::MIN), limit("maximum", f64::MAX))
            }
            Some("string") => Self::Text(example(about).map(Value::to_string)),
            Some("array") => {
                let items = limit("items").map(|part| Self::all_of(part, about, definitions));
                let Some(kind) = items.and_then(|kinds| kinds.into_iter().next()) else { return Vec::new() };
                Self::List(Box::new(kind))
            }
            _ => return Vec::new(),
        };
        vec![kind]
    }

    /// Whether a value is of this kind; what is in a list is not looked at.
    pub(crate) fn fits(&self, value: &DeValue<'_>) -> bool {
        match (self, value) {
            (Self::Words(words), DeValue::String(text)) => words.iter().any(|word| word == text),
            (Self::Whole(_), DeValue::Integer(number)) => i64::from_str_radix(number.as_str(), number.radix()).is_ok(),
            (Self::Boolean, DeValue::Boolean(_))
            | (Self::Text(_), DeValue::String(_))
            | (Self::Real(..), DeValue::Integer(_) | DeValue::Float(_))
            | (Self::List(_), DeValue::Array(_))
            | (Self::Table(_), DeValue::Table(_)) => true,
            _ => false,
        }
    }

    /// What to write for it.
    fn wanted(&self) -> String {
        match self {
            Self::Boolean => "true or false".to_owned(),
            Self::Whole(None) => "a whole number".to_owned(),
            Self::Whole(Some((min, max))) => format!("a whole number from {min} to {max}"),
            Self::Real(min, max) => format!("a number from {min} to {max}"),
            Self::Text(None) => "a text in double quotes".to_owned(),
            Self::Text(Some(example)) => format!("a text in double quotes, such as {example}"),
            Self::Words(words) => or(words.iter().map(|word| format!("{word:?}")).collect()),
            Self::List(kind) => match &**kind {
                Self::Text(example) => format!("a list of texts: [{}]", example.as_deref().unwrap_or("\"…\"")),
                _ => "a list of numbers: [1, 2, 3]".to_owned(),
            },
            Self::Table(heading) => (*heading).to_owned(),
        }
    }
}

/// What a value of none of these kinds is, and what to write instead; `name` is the key's.
pub(crate) fn misfit(value: &DeValue<'_>, kinds: &[Kind], name: &str) -> ValueError {
    let (shown, noun) = described(value);
    let words = kinds.iter().find_map(|kind| if let Kind::Words(words) = kind { Some(words) } else { None });
    let wanted = format!("write {}", or(kinds.iter().map(Kind::wanted).collect()));
    match (value, words, kinds) {
        (DeValue::String(text), Some(words), _) => {
            let likeness = |word: &String| strsim::jaro_winkler(word, &text.to_lowercase());
            let nearest = words.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
            let remedy = match nearest.filter(|nearest| likeness(nearest) > 0.8) {
                Some(nearest) => format!("did you mean {nearest:?}? Otherwise {wanted}"),
                None => wanted,
            };
            ValueError::new(format!("{shown} is nothing that {name} can be"), remedy)
        }
        (DeValue::Float(_), _, [Kind::Whole(_)]) => ValueError::new(format!("{shown} is not a whole number"), wanted),
        (DeValue::Integer(_), _, [Kind::Whole(_)]) => ValueError::new(format!("{shown} is out of range"), wanted),
        _ => ValueError::new(format!("{shown} is {noun}"), wanted),
    }
}

/// A value as messages name it, and what it is.
pub(crate) fn described(value: &DeValue<'_>) -> (String, &'static str) {
    match value {
        DeValue::String(text) => (format!("{text:?}"), "a text"),
        DeValue::Integer(number) => (number.to_string(), "a number"),
        DeValue::Float(number) => (number.to_string(), "a number"),
        DeValue::Boolean(truth) => (truth.to_string(), "a boolean"),
        DeValue::Datetime(date) => (date.to_string(), "a date"),
        DeValue::Array(_) => ("the value".to_owned(), "a list"),
        DeValue::Table(_) => ("the value".to_owned(), "a table"),
    }
}

/// A text that a key, or the list that it takes, could have.
fn example(about: &Value) -> Option<&Value> {
    let example = about.get("examples").and_then(|examples| examples.get(0)).or(about.get("default"))?;
    Some(example.get(0).unwrap_or(example)).filter(|example| example.is_string())
}

/// `a, b or c`.
fn or(mut words: Vec<String>) -> String {
    let last = words.pop().unwrap_or_default();
    if words.is_empty() { last } else { format!("{} or {last}", words.join(", ")) }
}
