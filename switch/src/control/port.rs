//! A guest or an uplink: what adding, removing and remembering ports have in common.

use std::fmt;

use config::{Config, ConfigError, Context, GuestConfig, Machine, PortName, RawGuest, RawUplink, UplinkConfig};

use crate::snapshot::PortKind;
use crate::words;

/// The settings of a port.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Port {
    Guest(GuestConfig),
    Uplink(UplinkConfig),
}

impl Port {
    pub(crate) fn name(&self) -> &PortName {
        match self {
            Self::Guest(guest) => &guest.name,
            Self::Uplink(uplink) => &uplink.name,
        }
    }

    pub(crate) fn kind(&self) -> PortKind {
        match self {
            Self::Guest(_) => PortKind::Guest,
            Self::Uplink(_) => PortKind::Uplink,
        }
    }

    /// Checks a port against a switch that runs `config`: its name, socket and device must be free, its I/O core there.
    pub(crate) fn check_against(&self, config: &Config, machine: &Machine) -> Result<(), ConfigError> {
        let context = config.context(machine);
        match self {
            Self::Guest(guest) => GuestConfig::from_raw(&RawGuest::from(guest.clone()), &context).map(drop),
            Self::Uplink(uplink) => UplinkConfig::from_raw(&RawUplink::from(uplink.clone()), &context).map(drop),
        }
    }

    /// Checks what does not depend on other ports.
    pub(crate) fn check_alone(&self, config: &Config, machine: &Machine) -> Result<(), ConfigError> {
        let context = Context { machine, switch: &config.switch, guests: &[], uplinks: &[] };
        match self {
            Self::Guest(guest) => GuestConfig::from_raw(&RawGuest::from(guest.clone()), &context).map(drop),
            Self::Uplink(uplink) => UplinkConfig::from_raw(&RawUplink::from(uplink.clone()), &context).map(drop),
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", words::kind(self.kind()), self.name())
    }
}

/// Every port of a configuration, uplinks first: guests that are there at once can then reach the outside at once.
pub(crate) fn ports_of(config: &Config) -> Vec<Port> {
    let uplinks = config.uplinks.iter().cloned().map(Port::Uplink);
    uplinks.chain(config.guests.iter().cloned().map(Port::Guest)).collect()
}

pub(crate) fn find(config: &Config, name: &str) -> Option<Port> {
    ports_of(config).into_iter().find(|port| port.name().as_str() == name)
}

pub(crate) fn insert(config: &mut Config, port: Port) {
    match port {
        Port::Guest(guest) => config.guests.push(guest),
        Port::Uplink(uplink) => config.uplinks.push(uplink),
    }
}

pub(crate) fn take_out(config: &mut Config, name: &PortName) {
    config.guests.retain(|guest| guest.name != *name);
    config.uplinks.retain(|uplink| uplink.name != *name);
}
