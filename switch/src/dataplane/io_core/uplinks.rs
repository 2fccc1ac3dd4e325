//! What an I/O core receives from uplinks.

use arrayvec::ArrayVec;
use pmd_bindings::{ChecksumState, Mbuf};
use vm_ports::offload::{Transport, parse};
use vm_ports::{BURST_PACKETS, Burst, Offload};

use super::super::accounting::Charge;
use super::super::forwarder::Between;
use super::IoCore;
use super::aside::Aside;
use crate::forwarding::DropReason;

impl IoCore {
    /// What an uplink has received, up to 32 packets. Whether there was anything.
    pub(super) fn poll_uplink(&mut self, index: usize, clock: &impl Fn() -> u64) -> bool {
        let Some(uplink) = self.uplinks.get_mut(index) else { return false };
        let source = uplink.origin.source;
        if uplink.held_until != 0 {
            if self.now.cycles < uplink.held_until {
                return false;
            }
            uplink.held_until = 0;
        }
        let mut mbufs = ArrayVec::<Mbuf, BURST_PACKETS>::new();
        let received = uplink.rx.burst(&mut mbufs);
        if received == 0 {
            self.note_empty(index);
            return false;
        }
        uplink.counters.rx_packets.add(mbufs.len() as u64);
        uplink.counters.rx_bytes.add(mbufs.iter().map(Mbuf::len).sum::<usize>() as u64);
        // Frames of 64 KiB can fill a burst before its 32 packets are there.
        let mut next = 0;
        let since = self.done_at;
        while next < mbufs.len() {
            let (first, sample) = (next, self.sampler.is_due().then(|| self.counters.handed_over.get()));
            self.forwarder.out.since = since;
            next = self.forward_mbufs(index, (&mbufs, next), sample.is_some(), clock);
            if next == mbufs.len() {
                Mbuf::free_bulk(&mut mbufs);
            }
            let cycles = self.end_burst(clock);
            self.counters.source(source).cycles.add(cycles);
            if let Some(handed) = sample {
                self.note_latency((since, self.done_at), next - first, handed);
            }
            self.poll_urgent(clock);
        }
        match received {
            BURST_PACKETS => self.note_rest_of(index, true),
            _ => self.note_empty(index),
        }
        true
    }

    /// Notes, after a burst from an uplink, whether there may be more. Most drivers do not say how much, and what finds no room in their queues
    /// is lost: so the mark says since when no burst has emptied the queue.
    fn note_rest_of(&mut self, index: usize, is_behind: bool) {
        let Self { uplinks, counters, done_at, .. } = self;
        let Some(uplink) = uplinks.get_mut(index) else { return };
        let (pulled, left) = if is_behind { (0, 1) } else { (usize::MAX, 0) };
        if let Some(change) = uplink.waiting.pulled(pulled, || left, *done_at) {
            counters.note_waiting(uplink.origin.source, change);
        }
    }

    /// An uplink's RX queue is empty, and all that it held has left this core: whoever asked is told so.
    fn note_empty(&mut self, index: usize) {
        let Some(uplink) = self.uplinks.get_mut(index) else { return };
        let asked = uplink.asked.take();
        if uplink.waiting.is_set() {
            self.note_rest_of(index, false);
        }
        if let Some((mut token, reply)) = asked {
            token.note(self.forwarder.out.me(), self.forwarder.out.places());
            reply.give(token);
        }
    }

    /// Forwards a burst of what an uplink received, from `next` on; returns where the rest begins. `sampled`: one of those that are looked at
    /// more closely.
    #[inline]
    fn forward_mbufs(
        &mut self,
        index: usize,
        (mbufs, mut next): (&[Mbuf], usize),
        sampled: bool,
        clock: &impl Fn() -> u64,
    ) -> usize {
        let Self { uplinks, guests, rota, rounds, forwarder, buffer, spare, counters, now, done_at, .. } = self;
        let origin = &mut uplinks[index].origin;
        let mut burst = Burst::new(buffer);
        while let Some(mbuf) = mbufs.get(next) {
            if !burst.has_room() {
                break;
            }
            if !burst.push_frame(mbuf.segments(), offload(mbuf)) {
                counters.source(origin.source).settle(Charge::Unicast, Err(DropReason::Runt));
            }
            next += 1;
        }
        forwarder.out.taps.see_burst(origin.port, &burst, *done_at);
        let mut aside = rota.has_urgent().then(|| Aside {
            guests: (guests, &mut []),
            rota,
            rounds,
            buffer: spare,
            counters,
            account: &counters.source(origin.source).cycles,
            now: *now,
            done_at,
            clock,
            wanted: None,
        });
        let between = aside.as_mut().map(|aside| aside as &mut dyn Between);
        forwarder.forward(&mut burst, origin, *now, between);
        drop(burst);
        if sampled {
            forwarder.out.note_buffers();
        }
        forwarder.finish(None, *done_at);
        next
    }
}

/// What the NIC says of a packet's checksums, in virtio's terms. A packet whose checksum is not there yet (a virtual device hands over what
/// a guest left to be done) goes on as one whose checksum is to be computed.
fn offload(mbuf: &Mbuf) -> Offload {
    let checked = mbuf.rx_checksum();
    match checked.l4 {
        ChecksumState::Good => Offload { data_valid: checked.ip != ChecksumState::Bad, ..Offload::NONE },
        ChecksumState::None => partial_checksum(mbuf.data()).unwrap_or(Offload::NONE),
        ChecksumState::Unknown | ChecksumState::Bad => Offload::NONE,
    }
}

fn partial_checksum(head: &[u8]) -> Option<Offload> {
    let headers = parse(head).ok()?;
    let csum_offset = match headers.transport {
        Transport::Tcp => 16,
        Transport::Udp => 6,
        _ => return None,
    };
    Some(Offload { needs_csum: true, csum_start: headers.l4, csum_offset, ..Offload::NONE })
}
