//! What an operator watches a running switch with, against a switch that has traffic.
//!
//! | module | what it is about |
//! |---|---|
//! | `page` | the page that the switch serves, in a browser |
//! | `record` | `sidecore scheduler record`, for the simulator |
//! | `top` | `sidecore top`, in a terminal |
//! | `scene` | the switch, its guests and their traffic |
#![forbid(unsafe_code)]

mod page;
mod record;
mod scene;
mod top;
