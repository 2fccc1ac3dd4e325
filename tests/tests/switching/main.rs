//! The switch as its guests see it: the built binary, driven by synthetic guests from this process, with exact counts.
//!
//! | module | what it is about |
//! |---|---|
//! | `forwarding` | where a frame goes: learning, floods, what is dropped |
//! | `vlan` | tags on access and trunk ports |
//! | `stations` | the MAC table: who may have an address, limits, ageing |
//! | `cores` | several I/O cores: order, contents and accounting between them |
//! | `modes` | cores that sleep, guests that kick |
//! | `moves` | queue pairs that move between I/O cores |
//! | `parking` | I/O cores that are parked, and the queues of uplinks meanwhile |
//! | `steering` | rules in an uplink's device that follow guests |
//! | `queues` | several queue pairs: flows and their order |
//! | `offload` | checksums and segmentation, between guests that can do different things |
//! | `uplink_offload` | the same, left to an uplink's device |
//! | `trace` | what is said of a packet beforehand |
//! | `rings` | ring formats, headers and sizes in every mix; kicks |
//! | `receivers` | receivers without buffers, receivers that come and go |
//! | `capture` | what `sidecore capture` records |
//! | `sessions` | memory slots, resets, announcements, reconnection |
#![forbid(unsafe_code)]

mod capture;
mod cores;
mod forwarding;
mod frames;
mod modes;
mod moves;
mod offload;
mod parking;
mod queues;
mod receivers;
mod rig;
mod rings;
mod sessions;
mod stations;
mod steering;
mod stream;
mod trace;
mod uplink_offload;
mod vlan;
