//! The rings, device side, against drivers that are right, drivers that are wrong, and an oracle.

mod backlog;
mod bench;
mod end_to_end;
mod hostile_headers;
mod hostile_packed;
mod hostile_split;
mod memory_loss;
mod moderation;
mod notifications;
mod offload;
mod oracle;
mod packed_model;
mod racing_guest;
mod receive;
