//! Sidecore's configuration: TOML text → [raw schema](RawConfig) → [validated types](Config), and what changed between
//! two of them.
//!
//! [`Config::load`] reads a file. Guests and uplinks added at run time have the schema of their sections and pass the
//! same checks: [`GuestConfig::from_raw`], [`UplinkConfig::from_raw`]. Every error says which key of which file is wrong,
//! on which line, and what to write instead; all that can be found in one go are reported together.
#![forbid(unsafe_code)]

mod check;
mod device;
mod diff;
mod document;
mod error;
mod kind;
mod load;
mod machine;
mod model;
mod raw;
mod report;
mod shape;
mod to_raw;
mod types;
mod vlan;

pub use device::{Bus, Device};
pub use diff::{Change, Diff, KeyChange, PortsDiff};
pub use error::{ConfigError, Position, Problem, ValueError};
pub use load::Context;
pub use machine::Machine;
pub use model::{
    Config, GuestConfig, GuestFeatures, IoCores, MAX_IO_CORES, MAX_QUEUE_PAIRS, MAX_WEIGHT, SchedulerConfig,
    SwitchConfig, UplinkConfig,
};
pub use raw::{
    All, Class, Hugepages, InterruptModeration, LogFormat, LogLevel, Mode, Policy, RawAccount, RawConfig, RawElastic,
    RawGuest, RawIoCores, RawScheduler, RawSwitch, RawTrunk, RawUplink, RawVlan, SocketRole, schema,
};
pub use types::{Account, CpuId, MacAddr, PortName, SocketAccess, SocketMode, Station, VlanId, VmName, VmUuid};
pub use vlan::{Tagged, Vlan};
