//! Experiments that compare Sidecore with other systems, from outside, as a user would.
//!
//! `bench-peers` (`make bench-peers`) measures Sidecore, OVS-DPDK and testpmd with the same generator on the same CPUs, in
//! rounds that take turns: figures of a shared machine drift, ratios of one round do not.
//!
//! | module | what it is |
//! |---|---|
//! | [`work`] | the rows: what the generator does, what is measured, the goals |
//! | [`systems`] | the systems: how each is started for a row, halted and ended |
//! | [`ringgen`] | the generator: its command line, and what it counted |
//! | [`bench`] | a row: start, verification, rounds |
//! | [`judge`] | what makes a row count |
//! | [`stats`] | medians, ratios and their intervals |
//! | [`results`], [`report`] | JSON; the table and the picture |
//! | [`threads`], [`quota`], [`occupied`] | threads of the systems, and their share of a CPU |
//! | [`machine`], [`options`] | what it was measured on; the command line |
#![forbid(unsafe_code)]

pub mod bench;
pub mod judge;
pub mod machine;
pub mod occupied;
pub mod options;
pub mod quota;
pub mod report;
pub mod results;
pub mod ringgen;
pub mod stats;
pub mod studies;
pub mod systems;
pub mod threads;
pub mod work;
