//! The switch from outside: its process, the configuration it is started on, and what it says about itself.

mod config;
mod moves;
mod process;
mod status;

pub use config::SwitchConfig;
pub use moves::Moved;
pub use process::SwitchProcess;
pub use status::{Accounting, Core, Negotiated, Port, PortKind, Queue, Status, Traffic};
