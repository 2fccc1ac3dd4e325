//! What the schema knows about a table: its keys, and in words what each takes.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::error::ValueError;
use crate::kind::{Kind, TABLES};
use crate::raw::schema;
use crate::report::did_you_mean;

/// The sections, by their names in the schema and in a file.
const SECTIONS: [(&str, &str); 4] =
    [("Switch", "[switch]"), ("Scheduler", "[scheduler]"), ("Guest", "[[guest]]"), ("Uplink", "[[uplink]]")];

/// One table of the schema.
pub(crate) struct Shape {
    heading: &'static str,
    keys: BTreeMap<String, KeyShape>,
    /// The key that takes a table of its own, and that table.
    inner: Option<(&'static str, Box<Shape>)>,
    /// The sections that have a key.
    elsewhere: BTreeMap<String, Vec<&'static str>>,
}

struct KeyShape {
    description: String,
    kinds: Vec<Kind>,
}

impl Shape {
    pub(crate) fn root() -> Self {
        Self::of(&schema(), "", "the sections [switch], [scheduler], [[guest]] and [[uplink]]")
    }

    pub(crate) fn switch() -> Self {
        Self::definition("Switch", "a section [switch]").with("io_cores", "Elastic")
    }

    pub(crate) fn scheduler() -> Self {
        Self::definition("Scheduler", "a section [scheduler]")
    }

    pub(crate) fn guest() -> Self {
        Self::definition("Guest", "a section [[guest]] for each guest").with("vlan", "Vlan")
    }

    pub(crate) fn uplink() -> Self {
        Self::definition("Uplink", "a section [[uplink]] for each uplink").with("vlan", "Vlan")
    }

    fn definition(name: &str, heading: &'static str) -> Self {
        Self::of(&schema(), &format!("/$defs/{name}"), heading)
    }

    fn of(schema: &Value, table: &str, heading: &'static str) -> Self {
        let definitions = &schema["$defs"];
        let properties = |table: &str| schema.pointer(&format!("{table}/properties")).and_then(Value::as_object);
        let key = |(name, about): (&String, &Value)| {
            let description = about.get("description").and_then(Value::as_str).unwrap_or_default().to_owned();
            (name.clone(), KeyShape { description, kinds: Kind::all_of(about, about, definitions) })
        };
        let mut elsewhere = BTreeMap::<String, Vec<&'static str>>::new();
        for (name, section) in SECTIONS {
            for key in properties(&format!("/$defs/{name}")).into_iter().flat_map(|properties| properties.keys()) {
                elsewhere.entry(key.clone()).or_default().push(section);
            }
        }
        Self { heading, keys: properties(table).into_iter().flatten().map(key).collect(), inner: None, elsewhere }
    }

    fn with(self, key: &'static str, table: &str) -> Self {
        let heading = TABLES.iter().find(|(name, _)| *name == table).map_or("a table", |(_, heading)| heading);
        Self { inner: Some((key, Box::new(Self::definition(table, heading)))), ..self }
    }

    /// What to write, in words.
    pub(crate) fn heading(&self) -> &str {
        self.heading
    }

    /// The shape of the table that the key `name` takes.
    pub(crate) fn inner(&self, name: &str) -> Option<&Self> {
        self.inner.as_ref().filter(|(key, _)| *key == name).map(|(_, table)| &**table)
    }

    /// The kinds of values that the key `name` takes.
    pub(crate) fn kinds(&self, name: &str) -> &[Kind] {
        self.keys.get(name).map_or(&[], |key| &key.kinds)
    }

    /// What the key takes, as its documentation says.
    pub(crate) fn remedy(&self, name: &str) -> String {
        match self.keys.get(name) {
            Some(key) => format!("{name} is: {}", key.description),
            None => format!("write {}", self.heading),
        }
    }

    /// The error for a key that the table does not have; none if it has it.
    pub(crate) fn unknown(&self, name: &str) -> Option<ValueError> {
        if self.keys.contains_key(name) {
            return None;
        }
        let likeness = |known: &str| strsim::jaro_winkler(known, &name.to_lowercase().replace('-', "_"));
        let nearest = self.keys.keys().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
        let remedy = match (self.elsewhere.get(name), nearest) {
            (Some(sections), _) => format!("{name} belongs in {}", sections.join(" or ")),
            (None, Some(nearest)) if likeness(nearest) > 0.8 => did_you_mean(nearest),
            _ => {
                let known: Vec<&str> = self.keys.keys().map(String::as_str).collect();
                format!("remove it; the keys here are: {}", known.join(", "))
            }
        };
        Some(ValueError::new(format!("there is no key {name:?}"), remedy))
    }
}
