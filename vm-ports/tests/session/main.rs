//! The vhost-user session from outside: real sockets, the `vhost` crate's frontend where it will do, and raw messages where a real
//! frontend differs from it, or a hostile one would.

mod hostile;
mod lifecycle;
mod negotiation;
mod peer;
