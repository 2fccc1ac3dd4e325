//! The raw bindings, as bindgen wrote them. Nothing outside this crate sees them.
#![allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unnameable_types,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    unused_imports
)]

include!(concat!(env!("OUT_DIR"), "/dpdk.rs"));
