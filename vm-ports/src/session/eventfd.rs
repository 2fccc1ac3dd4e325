//! Eventfds that come from a frontend, which may be anything else, and whose flags the frontend can change under us.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::OFlags;
use rustix::io::ReadWriteFlags;

use super::error::Refusal;

/// Takes a descriptor that has to be an eventfd: anything else could block its reader or writer (a pipe, a file of a FUSE server).
/// O_NONBLOCK is set for the writers of calls: an I/O core must not sleep on a counter that the frontend filled.
pub(super) fn accept(file: File) -> Result<File, Refusal> {
    let target = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    if target.as_os_str() != "anon_inode:[eventfd]" {
        return Err(Refusal::NotAnEventFd);
    }
    let flags = rustix::fs::fcntl_getfl(&file).map_err(io::Error::from)?;
    if !flags.contains(OFlags::NONBLOCK) {
        rustix::fs::fcntl_setfl(&file, flags | OFlags::NONBLOCK).map_err(io::Error::from)?;
    }
    Ok(file)
}

/// Reads the counter: how often it was written since it was last read, 0 when it was not. Never blocks, whatever flags
/// the frontend has set in the meantime (`RWF_NOWAIT`).
pub(crate) fn drain(file: impl AsFd) -> u64 {
    /// `preadv2` at the current position: what has no position, as an eventfd, is read as by `readv`.
    const NO_OFFSET: u64 = u64::MAX;
    let mut count = [0; 8];
    match rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut count)], NO_OFFSET, ReadWriteFlags::NOWAIT) {
        Ok(8) => u64::from_ne_bytes(count),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    #[test]
    fn counts_and_does_not_block_even_when_the_descriptor_would() {
        let fd = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        assert_eq!(drain(&fd), 0);
        for _ in 0..1000 {
            rustix::io::write(&fd, &1u64.to_ne_bytes()).unwrap();
        }
        assert_eq!(drain(&fd), 1000);
        assert_eq!(drain(&fd), 0);
    }

    #[test]
    fn only_eventfds_are_accepted() {
        let event = File::from(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
        let event = accept(event).unwrap();
        assert!(rustix::fs::fcntl_getfl(&event).unwrap().contains(OFlags::NONBLOCK));
        let (read, _write) = rustix::pipe::pipe().unwrap();
        assert!(matches!(accept(File::from(read)), Err(Refusal::NotAnEventFd)));
        assert!(matches!(accept(File::open("/dev/null").unwrap()), Err(Refusal::NotAnEventFd)));
    }
}
