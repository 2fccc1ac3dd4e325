//! What the schema knows about a table: its keys, and in words what each takes.

use serde_json::{Map, Value};

use crate::error::ValueError;
use crate::raw::schema;
use crate::report::did_you_mean;

/// One table of the schema.
pub(crate) struct Shape {
    heading: &'static str,
    properties: Map<String, Value>,
    /// The key that takes a table of its own, and that table.
    inner: Option<(&'static str, Box<Shape>)>,
}

impl Shape {
    pub(crate) fn root() -> Self {
        let properties = schema().get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
        Self { heading: "the sections [switch], [scheduler], [[guest]] and [[uplink]]", properties, inner: None }
    }

    pub(crate) fn switch() -> Self {
        let elastic = Self::definition("Elastic", "a table such as { cpus = [2, 3, 4, 5], min = 1 }");
        Self::definition("Switch", "a section [switch]").with("io_cores", elastic)
    }

    pub(crate) fn scheduler() -> Self {
        Self::definition("Scheduler", "a section [scheduler]")
    }

    pub(crate) fn guest() -> Self {
        Self::definition("Guest", "a section [[guest]] for each guest").with("vlan", Self::vlan())
    }

    pub(crate) fn uplink() -> Self {
        Self::definition("Uplink", "a section [[uplink]] for each uplink").with("vlan", Self::vlan())
    }

    fn vlan() -> Self {
        Self::definition("Vlan", "a table such as { access = 10 }")
    }

    fn definition(name: &str, heading: &'static str) -> Self {
        let pointer = format!("/$defs/{name}/properties");
        let properties = schema().pointer(&pointer).and_then(Value::as_object).cloned().unwrap_or_default();
        Self { heading, properties, inner: None }
    }

    fn with(self, key: &'static str, table: Self) -> Self {
        Self { inner: Some((key, Box::new(table))), ..self }
    }

    /// What to write, in words.
    pub(crate) fn heading(&self) -> &str {
        self.heading
    }

    pub(crate) fn len(&self) -> usize {
        self.properties.len()
    }

    /// The shape of the table that the key `name` takes.
    pub(crate) fn inner(&self, name: &str) -> Option<&Self> {
        self.inner.as_ref().filter(|(key, _)| *key == name).map(|(_, table)| &**table)
    }

    /// What the key takes, as its documentation says.
    pub(crate) fn remedy(&self, name: &str) -> String {
        let description = self.properties.get(name).and_then(|key| key.get("description")).and_then(Value::as_str);
        match description {
            Some(description) => format!("{name} is: {description}"),
            None => format!("write {}", self.heading),
        }
    }

    /// The error for a key that the table does not have; none if it has it.
    pub(crate) fn unknown(&self, name: &str) -> Option<ValueError> {
        if self.properties.contains_key(name) {
            return None;
        }
        let likeness = |known: &str| strsim::jaro_winkler(known, &name.to_lowercase().replace('-', "_"));
        let nearest = self.properties.keys().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
        let remedy = match nearest {
            Some(nearest) if likeness(nearest) > 0.8 => did_you_mean(nearest),
            _ => {
                let known: Vec<&str> = self.properties.keys().map(String::as_str).collect();
                format!("remove it; the keys here are: {}", known.join(", "))
            }
        };
        Some(ValueError::new(format!("there is no key {name:?}"), remedy))
    }
}
