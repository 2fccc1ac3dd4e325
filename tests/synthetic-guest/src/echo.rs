//! A guest that sends back what it gets: the receive buffer itself goes into the transmit ring, nothing is copied.

use crate::QueuePair;
use crate::memory::Window;

/// What became of a burst of echoes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Echoed {
    /// Buffers taken from the receive ring.
    pub received: usize,
    /// Frames put into the transmit ring.
    pub sent: usize,
}

impl QueuePair {
    /// Takes up to 32 received frames, lets `edit` change each in place (it gets the memory, the offset of the frame and its
    /// length) and transmits them from where they are, with an empty virtio-net header. A buffer goes back into the
    /// receive ring once the device has sent it. Frames that span buffers are dropped.
    #[inline]
    pub fn echo_burst(&mut self, mut edit: impl FnMut(&Window, usize, usize)) -> Echoed {
        let (rx, tx) = (&mut self.rx, &mut self.tx);
        // Buffers come back together: in small numbers every one would cost a look at a line the device writes to.
        if tx.ring().free_descriptors() < usize::from(tx.ring().size()) / 2 {
            tx.reclaim();
        }
        while let Some(index) = tx.next_returned() {
            rx.take_back(index);
        }
        let header_len = rx.header_len();
        let mut sent = 0;
        let received = rx.lend_burst(32, |memory, index, at, len| {
            memory.fill(at, header_len, 0);
            edit(memory, at + header_len, len - header_len);
            let queued = tx.queue_borrowed(index, memory.guest() + at as u64, len);
            sent += usize::from(queued);
            queued
        });
        if sent > 0 {
            tx.publish();
        }
        rx.refill();
        Echoed { received, sent }
    }
}
