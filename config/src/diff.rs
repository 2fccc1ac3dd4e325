//! What changed between two configurations, as data: `sidecore reload` applies it, and can show it first.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::model::{Config, GuestConfig, UplinkConfig};
use crate::types::PortName;

/// Keys of `[switch]` that a running switch takes up; for every other one it must be started again.
const LIVE_SWITCH_KEYS: [&str; 5] =
    ["fdb_ageing_s", "learn_limit_per_port", "learn_rate_per_s", "flood_rate_pps", "log_level"];

/// What changed from one configuration to another. Ports are told apart by name; their order means nothing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diff {
    /// Guests.
    pub guests: PortsDiff<GuestConfig>,
    /// Uplinks.
    pub uplinks: PortsDiff<UplinkConfig>,
    /// Keys of `[switch]`.
    pub switch: Vec<KeyChange>,
    /// Keys of `[scheduler]`; none of them needs a restart.
    pub scheduler: Vec<KeyChange>,
}

/// What changed among the guests, or among the uplinks. Remove first, then change, then add: a name or a socket may
/// have passed from one port to another.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PortsDiff<T> {
    /// Only in the new configuration.
    pub added: Vec<T>,
    /// Only in the old one.
    pub removed: Vec<PortName>,
    /// In both, and different.
    pub changed: Vec<Change<T>>,
}

/// A port that is in both configurations and differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change<T> {
    /// As it is.
    pub old: T,
    /// As it is to be.
    pub new: T,
    /// The keys that differ, by their names in the file, sorted.
    pub keys: Vec<String>,
}

/// A key of `[switch]` or `[scheduler]` that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KeyChange {
    /// Its name in the file.
    pub key: String,
    /// Its value before; null: none.
    pub old: Value,
    /// Its value after; null: none.
    pub new: Value,
    /// Whether the switch must be started again for it.
    pub needs_restart: bool,
}

impl Config {
    /// What must change for a switch that runs `old` to run `new`.
    pub fn diff(old: &Self, new: &Self) -> Diff {
        Diff {
            guests: PortsDiff::between(&old.guests, &new.guests, |guest| &guest.name),
            uplinks: PortsDiff::between(&old.uplinks, &new.uplinks, |uplink| &uplink.name),
            switch: key_changes(&old.switch, &new.switch, |key| LIVE_SWITCH_KEYS.contains(&key)),
            scheduler: key_changes(&old.scheduler, &new.scheduler, |_| true),
        }
    }
}

impl Diff {
    /// Whether the two configurations mean the same.
    pub fn is_empty(&self) -> bool {
        self.guests.is_empty() && self.uplinks.is_empty() && self.switch.is_empty() && self.scheduler.is_empty()
    }

    /// The keys of `[switch]` that only a restart can change.
    pub fn needs_restart(&self) -> impl Iterator<Item = &str> {
        self.switch.iter().filter(|change| change.needs_restart).map(|change| change.key.as_str())
    }
}

impl<T: Clone + PartialEq + Serialize> PortsDiff<T> {
    fn between(old: &[T], new: &[T], name: impl Fn(&T) -> &PortName) -> Self {
        let find = |ports: &[T], wanted: &PortName| ports.iter().find(|port| name(port) == wanted).cloned();
        let mut diff = Self { added: Vec::new(), removed: Vec::new(), changed: Vec::new() };
        for port in old {
            match find(new, name(port)) {
                None => diff.removed.push(name(port).clone()),
                Some(new) if new != *port => {
                    let keys = differing(&keys_of(port), &keys_of(&new));
                    diff.changed.push(Change { old: port.clone(), new, keys });
                }
                Some(_) => {}
            }
        }
        diff.added = new.iter().filter(|port| find(old, name(port)).is_none()).cloned().collect();
        diff
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

/// The keys in which two sections differ; `live` says which of them a running switch takes up.
fn key_changes<T: Serialize>(old: &T, new: &T, live: impl Fn(&str) -> bool) -> Vec<KeyChange> {
    let (old, new) = (keys_of(old), keys_of(new));
    let change = |key: String| KeyChange {
        old: old.get(&key).cloned().unwrap_or_default(),
        new: new.get(&key).cloned().unwrap_or_default(),
        needs_restart: !live(&key),
        key,
    };
    differing(&old, &new).into_iter().map(change).collect()
}

/// A section's keys and values as the file would have them.
fn keys_of(section: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(section) {
        Ok(Value::Object(keys)) => keys,
        // A section is a struct of texts, numbers and lists, which JSON can always hold.
        _ => Map::new(),
    }
}

fn differing(old: &Map<String, Value>, new: &Map<String, Value>) -> Vec<String> {
    let mut keys: Vec<String> =
        old.keys().chain(new.keys()).filter(|key| old.get(*key) != new.get(*key)).cloned().collect();
    keys.sort();
    keys.dedup();
    keys
}
