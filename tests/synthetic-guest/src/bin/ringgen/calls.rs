//! Guests that sleep until they are called: one wait for all of them.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use synthetic_guest::Bell;

use crate::node::Node;

/// Calls taken at once.
const EVENTS: usize = 32;

/// The call eventfds of all rings.
pub(crate) struct Calls {
    epoll: OwnedFd,
}

impl Calls {
    /// From now on these guests look at a ring only after a call.
    pub(crate) fn new(nodes: &mut [Node]) -> io::Result<Self> {
        // Waits of microseconds are meant to be that short.
        rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1))?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        for (guest, node) in nodes.iter_mut().enumerate() {
            for (number, pair) in node.pairs.iter_mut().enumerate() {
                let watch = |bell: &mut Bell, ring: Which| match bell.call_fd() {
                    // Edge-triggered: a call is taken once, whoever reads it.
                    Some(fd) => epoll::add(&epoll, fd, to_data(guest, number, ring), EventFlags::IN | EventFlags::ET),
                    None => Ok(()),
                };
                watch(pair.rx.bell(), Which::Rx)?;
                watch(pair.tx.bell(), Which::Tx)?;
                pair.rx.interrupts().turn_on();
                pair.tx.interrupts().turn_on();
            }
        }
        Ok(Self { epoll })
    }

    /// Hands the calls that have come to their rings; without any, waits for one for so long.
    pub(crate) fn take(&self, nodes: &mut [Node], time: Duration) {
        if !time.is_zero() {
            let time = Timespec::try_from(time).ok();
            // An interrupted wait is a short one.
            let _ = poll(&mut [PollFd::new(&self.epoll, PollFlags::IN)], time.as_ref());
        }
        let mut events = [const { MaybeUninit::<Event>::uninit() }; EVENTS];
        let Ok((ready, _)) = epoll::wait(&self.epoll, &mut events, Some(&Timespec::default())) else { return };
        for event in ready {
            let (guest, pair, ring) = from_data(event.data);
            let pair = &mut nodes[guest].pairs[pair];
            match ring {
                Which::Rx => pair.rx.interrupts().called(),
                Which::Tx => pair.tx.interrupts().called(),
            }
        }
    }
}

/// A ring of a queue pair.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Rx,
    Tx,
}

fn to_data(guest: usize, pair: usize, ring: Which) -> EventData {
    EventData::new_u64((guest as u64) << 32 | (pair as u64) << 1 | u64::from(ring == Which::Tx))
}

fn from_data(data: EventData) -> (usize, usize, Which) {
    let word = data.u64();
    let ring = if word & 1 == 1 { Which::Tx } else { Which::Rx };
    ((word >> 32) as usize, (word as u32 >> 1) as usize, ring)
}
