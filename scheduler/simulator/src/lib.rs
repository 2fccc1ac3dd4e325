//! A model of the switch in which policies can be compared: guests with a load, I/O cores that serve it, and the scheduler that runs in
//! the switch, deciding in ticks that pass as fast as the machine can compute them.
//!
//! The same scenario, policy and seed give the same result.
#![forbid(unsafe_code)]

mod bound;
pub mod goals;
mod machine;
pub mod model;
pub mod recorded;
pub mod report;
pub mod run;
pub mod scenario;
mod serving;
mod standing;
mod traffic;
