//! What a driver kicks with.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use crate::session::eventfd;

/// Kicks of one reading, at most: no driver kicks so often in between.
const MOST: u64 = u32::MAX as u64;

/// A ring's kick eventfd. Whoever waits for kicks, edge-triggered, need not read it; an epoll no longer sees what somebody has read, so whoever
/// reads tells whoever waits.
#[derive(Clone, Debug)]
pub struct KickFd(Arc<File>);

impl KickFd {
    /// With this eventfd.
    pub fn new(file: File) -> Self {
        Self(Arc::new(file))
    }

    /// How often the driver has kicked since this was last read, by whomever. Never blocks.
    pub fn read(&self) -> u64 {
        // A frontend can write any number there, and sums of it must not overflow.
        eventfd::drain(&self.0).min(MOST)
    }
}

impl AsFd for KickFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
