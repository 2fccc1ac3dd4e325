//! The ways into a configuration: a file, a text, a section sent at run time, a value read back.

use std::path::Path;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::DeValue;

use crate::check::{self, Claims, Surroundings};
use crate::document::{Document, missing_field, plain};
use crate::error::{ConfigError, ValueError};
use crate::kind::described;
use crate::machine::Machine;
use crate::model::{Config, GuestConfig, SchedulerConfig, SwitchConfig, UplinkConfig};
use crate::raw::{RawConfig, RawGuest, RawScheduler, RawSwitch, RawUplink};
use crate::report::{Key, Report};
use crate::shape::Shape;

/// What a port added at run time is checked against: the machine, and what the switch runs already.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The machine.
    pub machine: &'a Machine,
    /// The running switch.
    pub switch: &'a SwitchConfig,
    /// Its guests.
    pub guests: &'a [GuestConfig],
    /// Its uplinks.
    pub uplinks: &'a [UplinkConfig],
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// The file cannot be read, or something in it is wrong; then every problem that could be found is in the error.
    pub fn load(path: &Path, machine: &Machine) -> Result<Self, ConfigError> {
        let bytes = std::fs::read(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let source = path.display().to_string();
        match std::str::from_utf8(&bytes) {
            Ok(text) => Self::parse(text, &source, machine),
            Err(error) => Err(not_utf8(&bytes[..error.valid_up_to()], &source)),
        }
    }

    /// Checks a text; `source` is what errors call it.
    ///
    /// # Errors
    /// Every problem that could be found.
    pub fn parse(text: &str, source: &str, machine: &Machine) -> Result<Self, ConfigError> {
        let (document, syntax_errors) = Document::parse(text);
        let mut report = Report::new(source, Some(&document));
        // Of a syntax error only the first word counts: what follows is mostly its echo.
        if let Some((offset, message)) = syntax_errors.into_iter().next() {
            let remedy = if message.contains("leading zero") {
                "numbers cannot begin with 0; a mode is a text: socket_mode = \"0660\""
            } else {
                "write keys as name = value, texts in double quotes, sections as [switch], [scheduler], [[guest]], [[uplink]]"
            };
            let error = ValueError::new(format!("not TOML: {message}"), remedy);
            report.add_at(offset, &Key::root(), error);
            return report.finish(None);
        }
        let sections = Sections::read(&document, &mut report);
        let config = sections.check(machine, &mut report);
        report.finish(config)
    }

    /// What a port that is to be added is checked against, if this is what runs.
    pub fn context<'a>(&'a self, machine: &'a Machine) -> Context<'a> {
        Context { machine, switch: &self.switch, guests: &self.guests, uplinks: &self.uplinks }
    }
}

impl GuestConfig {
    /// Checks a guest that is to be added to a running switch.
    ///
    /// # Errors
    /// Every problem that could be found, as keys of `guest` and without lines.
    pub fn from_raw(raw: &RawGuest, context: &Context<'_>) -> Result<Self, ConfigError> {
        let mut report = Report::new("request", None);
        let key = Key::root().name("guest");
        let mut claims = context.claims();
        claims.name(&raw.name, &key.name("name"), &mut report);
        claims.socket(&raw.socket, &key.name("socket"), &mut report);
        let guest = check::guest(raw, key.clone(), &context.surroundings(), &mut report);
        if let Some(guest) = &guest {
            claims.guest(guest, &key, &mut report);
        }
        report.finish(guest)
    }

    /// [`from_raw`](Self::from_raw) of a JSON object with the keys of a `[[guest]]` section.
    ///
    /// # Errors
    /// As `from_raw`; keys that do not exist and values of a wrong type too.
    pub fn from_json(value: serde_json::Value, context: &Context<'_>) -> Result<Self, ConfigError> {
        Self::from_raw(&read_json(value, "guest", &Shape::guest())?, context)
    }
}

impl UplinkConfig {
    /// Checks an uplink that is to be added to a running switch.
    ///
    /// # Errors
    /// Every problem that could be found, as keys of `uplink` and without lines.
    pub fn from_raw(raw: &RawUplink, context: &Context<'_>) -> Result<Self, ConfigError> {
        let mut report = Report::new("request", None);
        let key = Key::root().name("uplink");
        let mut claims = context.claims();
        claims.name(&raw.name, &key.name("name"), &mut report);
        let uplink = check::uplink(raw, key.clone(), &context.surroundings(), &mut report);
        if let Some(uplink) = &uplink {
            claims.uplink(uplink, &key, &mut report);
        }
        report.finish(uplink)
    }

    /// [`from_raw`](Self::from_raw) of a JSON object with the keys of an `[[uplink]]` section.
    ///
    /// # Errors
    /// As `from_raw`; keys that do not exist and values of a wrong type too.
    pub fn from_json(value: serde_json::Value, context: &Context<'_>) -> Result<Self, ConfigError> {
        Self::from_raw(&read_json(value, "uplink", &Shape::uplink())?, context)
    }
}

impl Context<'_> {
    fn claims(&self) -> Claims {
        let mut claims = Claims::default();
        claims.hold_control_socket(&self.switch.control_socket);
        self.guests.iter().for_each(|guest| claims.hold_guest(guest));
        self.uplinks.iter().for_each(|uplink| claims.hold_uplink(uplink));
        claims
    }

    fn surroundings(&self) -> Surroundings<'_> {
        Surroundings {
            machine: self.machine,
            io_cores: Some(self.switch.io_cores.cpus.len()),
            mode: Some(self.switch.mode),
        }
    }
}

/// The sections of a text that could be read, each with its key.
#[derive(Default)]
struct Sections {
    switch: Option<RawSwitch>,
    scheduler: RawScheduler,
    guests: Vec<(Key, RawGuest)>,
    uplinks: Vec<(Key, RawUplink)>,
}

impl Sections {
    fn read(document: &Document<'_>, report: &mut Report<'_>) -> Self {
        let mut sections = Self::default();
        let root = Key::root();
        let shape = Shape::root();
        let DeValue::Table(table) = document.root().get_ref() else { return sections };
        let mut switch_given = false;
        for (name, value) in table {
            let key = root.name(name.get_ref());
            match name.get_ref().as_ref() {
                "switch" => {
                    switch_given = true;
                    sections.switch = Document::section(value, &key, &Shape::switch(), report);
                }
                "scheduler" => {
                    let section = Document::section(value, &key, &Shape::scheduler(), report);
                    sections.scheduler = section.unwrap_or_default();
                }
                "guest" => sections.guests = read_list(value, &key, &Shape::guest(), report),
                "uplink" => sections.uplinks = read_list(value, &key, &Shape::uplink(), report),
                other => {
                    if let Some(error) = shape.unknown(other) {
                        report.add_at(Some(name.span().start), &key, error);
                    }
                }
            }
        }
        if !switch_given && !report.mentions_since(0, "switch") {
            let remedy = "add it, with at least the CPUs that forward: io_cores = [0]";
            report.add(&root.name("switch"), ValueError::new("the section [switch] is missing", remedy));
        }
        sections
    }

    fn check(&self, machine: &Machine, report: &mut Report<'_>) -> Option<Config> {
        let root = Key::root();
        let io_cores = self.switch.as_ref().map(|switch| switch.io_cores.cpus().len()).filter(|count| *count > 0);
        let mode = self.switch.as_ref().map(|switch| switch.mode.unwrap_or_default());
        let around = Surroundings { machine, io_cores, mode };
        let mut claims = Claims::default();
        let switch = self.switch.as_ref().and_then(|raw| {
            claims.hold_control_socket(&check::control_socket(raw));
            check::switch(raw, root.name("switch"), &around, report)
        });
        let scheduler = check::scheduler(&self.scheduler, root.name("scheduler"), report);
        check::own_threads(&self.guests, &around, report);
        let mut guests = Vec::with_capacity(self.guests.len());
        for (key, raw) in &self.guests {
            claims.name(&raw.name, &key.name("name"), report);
            claims.socket(&raw.socket, &key.name("socket"), report);
            let guest = check::guest(raw, key.clone(), &around, report);
            if let Some(guest) = &guest {
                claims.guest(guest, key, report);
            }
            guests.extend(guest);
        }
        let mut uplinks = Vec::with_capacity(self.uplinks.len());
        for (key, raw) in &self.uplinks {
            claims.name(&raw.name, &key.name("name"), report);
            let uplink = check::uplink(raw, key.clone(), &around, report);
            if let Some(uplink) = &uplink {
                claims.uplink(uplink, key, report);
            }
            uplinks.extend(uplink);
        }
        Some(Config { switch: switch?, scheduler: scheduler?, guests, uplinks })
    }
}

/// A file that is text up to some byte.
fn not_utf8(text: &[u8], source: &str) -> ConfigError {
    let line = text.iter().filter(|byte| **byte == b'\n').count() + 1;
    let message = format!("byte {} (line {line}) is not UTF-8", text.len() + 1);
    let mut report = Report::new(source, None);
    report.add(&Key::root(), ValueError::new(message, "save the file as UTF-8"));
    report.into_error()
}

fn read_list<T: DeserializeOwned>(
    value: &Spanned<DeValue<'_>>,
    key: &Key,
    shape: &Shape,
    report: &mut Report<'_>,
) -> Vec<(Key, T)> {
    let Some(elements) = value.get_ref().as_array() else {
        let (shown, noun) = described(value.get_ref());
        let message = format!("{shown} is {noun}, and should be a list of sections");
        report.add(key, ValueError::new(message, format!("write {}, with two brackets", shape.heading())));
        return Vec::new();
    };
    let read = |(index, element): (usize, &Spanned<DeValue<'_>>)| {
        let key = key.index(index);
        Document::section(element, &key, shape, report).map(|section| (key, section))
    };
    elements.iter().enumerate().filter_map(read).collect()
}

/// Reads a JSON object as a section.
fn read_json<T: DeserializeOwned>(value: serde_json::Value, name: &str, shape: &Shape) -> Result<T, ConfigError> {
    let mut report = Report::new("request", None);
    let key = Key::root().name(name);
    for name in value.as_object().into_iter().flat_map(|object| object.keys()) {
        if let Some(error) = shape.unknown(name) {
            report.add(&key.name(name), error);
        }
    }
    if report.len() > 0 {
        return report.finish(None);
    }
    let section = match serde_json::from_value(value) {
        Ok(section) => Some(section),
        Err(error) => {
            let message = error.to_string();
            let remedy =
                missing_field(&message).map_or_else(|| format!("write {}", shape.heading()), |key| shape.remedy(key));
            report.add(&key, ValueError::new(plain(&message), remedy));
            None
        }
    };
    report.finish(section)
}

/// Nothing is known of the machine or of other sections: for values that were checked against them once already.
const ALONE: Surroundings<'static> = Surroundings { machine: &Machine::UNKNOWN, io_cores: None, mode: None };

impl TryFrom<RawSwitch> for SwitchConfig {
    type Error = ConfigError;

    fn try_from(raw: RawSwitch) -> Result<Self, ConfigError> {
        let mut report = Report::new("value", None);
        let switch = check::switch(&raw, Key::root().name("switch"), &ALONE, &mut report);
        report.finish(switch)
    }
}

impl TryFrom<RawScheduler> for SchedulerConfig {
    type Error = ConfigError;

    fn try_from(raw: RawScheduler) -> Result<Self, ConfigError> {
        let mut report = Report::new("value", None);
        let scheduler = check::scheduler(&raw, Key::root().name("scheduler"), &mut report);
        report.finish(scheduler)
    }
}

impl TryFrom<RawGuest> for GuestConfig {
    type Error = ConfigError;

    fn try_from(raw: RawGuest) -> Result<Self, ConfigError> {
        let mut report = Report::new("value", None);
        let guest = check::guest(&raw, Key::root().name("guest"), &ALONE, &mut report);
        report.finish(guest)
    }
}

impl TryFrom<RawUplink> for UplinkConfig {
    type Error = ConfigError;

    fn try_from(raw: RawUplink) -> Result<Self, ConfigError> {
        let mut report = Report::new("value", None);
        let uplink = check::uplink(&raw, Key::root().name("uplink"), &ALONE, &mut report);
        report.finish(uplink)
    }
}

impl TryFrom<RawConfig> for Config {
    type Error = ConfigError;

    fn try_from(raw: RawConfig) -> Result<Self, ConfigError> {
        let root = Key::root();
        let (guest, uplink) = (root.name("guest"), root.name("uplink"));
        let sections = Sections {
            switch: Some(raw.switch),
            scheduler: raw.scheduler.unwrap_or_default(),
            guests: raw.guest.into_iter().enumerate().map(|(i, raw)| (guest.index(i), raw)).collect(),
            uplinks: raw.uplink.into_iter().enumerate().map(|(i, raw)| (uplink.index(i), raw)).collect(),
        };
        let mut report = Report::new("value", None);
        let config = sections.check(&Machine::any(), &mut report);
        report.finish(config)
    }
}
