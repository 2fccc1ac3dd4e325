//! Hostile guests, hostile frontends, hostile clients and careless operators against the built switch.
//!
//! Every attack runs while two well-behaved guests on the same I/O core stream numbered packets to each other, never more
//! under way than their rings can hold. They must lose, reorder, duplicate and corrupt nothing, and never wait longer than
//! [`stage::STALL_LIMIT`]. Afterwards the switch answers, the accounting identity holds, the attack is in the counter
//! that the documentation names, and the attacked port serves a well-behaved guest again.
//!
//! | module | who attacks |
//! |---|---|
//! | `split`, `packed` | a guest, with descriptors that break the rules |
//! | `receive` | a guest, with receive buffers that break the rules |
//! | `floods` | a guest, at full speed on all its rings, or changing descriptors while they are read |
//! | `memory` | a guest that takes its memory away, dies, or sends from every address there is |
//! | `stream` | a frontend, with bytes that are no messages |
//! | `requests` | a frontend, with messages that ask for the impossible |
//! | `notify` | a frontend, with eventfds that are none or that block |
//! | `storms` | a frontend, with too much of everything |
//! | `control` | a client of the control socket or of HTTP |
//! | `operator` | whoever starts the switch |
#![forbid(unsafe_code)]

mod control;
mod floods;
mod memory;
mod neighbours;
mod notify;
mod operator;
mod packed;
mod receive;
mod requests;
mod split;
mod stage;
mod storms;
mod stream;
