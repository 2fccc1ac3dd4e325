//! Metrics of queues: a guest's queue pairs and an uplink's queues.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use vm_ports::{RxDrop, TxDrop};

use crate::forwarding::DropReason;
use crate::metrics::entry::{Entry, Read::Queue, counter, gauge};
use crate::snapshot::PortKind;

#[rustfmt::skip]
pub(super) const ENTRIES: &[Entry] = &[
    gauge("sidecore_queue_io_core", Queue(|_, q, out| out.some(q.io_core.map(|core| core as f64))),
        "The I/O core that serves a queue; absent while none does."),
    counter("sidecore_queue_moves_total", Queue(|_, q, out| out.count(q.moves)),
        "Times a queue pair moved from one I/O core to another, whoever ordered it.").guests(),
    gauge("sidecore_queue_last_move_timestamp_seconds", Queue(|_, q, out| out.some(q.moved_ms.map(|ms| ms as f64 / 1e3))),
        "When a queue pair moved last, in seconds since 1970; absent where it never did.").guests(),
    gauge("sidecore_queue_ring_entries", Queue(|_, q, out| {
            let rings = [("rx", q.rx_entries), ("tx", q.tx_entries)];
            rings.iter().for_each(|(ring, size)| if let Some(size) = size { out.labelled(&[ring], f64::from(*size)) });
        }), "Descriptors in a guest's ring, by direction as the guest sees it; absent while the ring is not started.")
        .labelled(&["ring"], 2).guests(),
    counter("sidecore_queue_rx_packets_total", Queue(|_, q, out| out.count(q.rx.packets)),
        "Packets delivered to a guest, or received from an uplink's wire."),
    counter("sidecore_queue_rx_bytes_total", Queue(|_, q, out| out.count(q.rx.bytes)),
        "Bytes of those packets, Ethernet header included, FCS not."),
    counter("sidecore_queue_tx_packets_total", Queue(|_, q, out| out.count(q.tx.packets)),
        "Packets taken from a guest, or sent to an uplink's wire."),
    counter("sidecore_queue_tx_bytes_total", Queue(|_, q, out| out.count(q.tx.bytes)),
        "Bytes of those packets, Ethernet header included, FCS not."),
    counter("sidecore_queue_dropped_packets_total", Queue(|p, q, out| out.each(&q.drops, drop_reasons(p.kind).iter().copied())),
        "Packets that came from a queue and were dropped, and copies of its floods that were, by reason.")
        .labelled(&["reason"], DropReason::ALL.len() + TxDrop::ALL.len()),
    counter("sidecore_queue_refused_packets_total", Queue(|_, q, out| {
            out.each(&q.refused, RxDrop::ALL.iter().map(|reason| reason.as_str()));
        }), "Packets that a guest's ring could not take, by reason; their sources count them as dropped, too.")
        .labelled(&["reason"], RxDrop::ALL.len()).guests(),
    counter("sidecore_queue_busy_seconds_total", Queue(|_, q, out| out.cycles(q.busy_cycles)),
        "Time that I/O cores spent on what came from a queue."),
    gauge("sidecore_queue_backlog_slots", Queue(|_, q, out| out.some(q.backlog.map(|slots| slots as f64))),
        "Occupancy of a guest's transmit ring: slots with work that were left over when it was last looked how much there is.").guests(),
    gauge("sidecore_queue_posted_buffers", Queue(|_, q, out| out.some(q.posted.map(|buffers| buffers as f64))),
        "Occupancy of a guest's receive ring: buffers it had posted that were not used, when last looked, at one burst in 64.").guests(),
    gauge("sidecore_queue_oldest_wait_seconds", Queue(|_, q, out| out.some(q.oldest_wait_ns.map(|ns| ns as f64 / 1e9))),
        "How long the oldest work in a guest's transmit ring waited, or for how long no burst had emptied an uplink's RX queue, in the last tick."),
    counter("sidecore_queue_kicks_total", Queue(|_, q, out| out.count(q.kicks)),
        "Kicks of a guest since it was first told that none are needed.").guests(),
    counter("sidecore_queue_kicks_asked_total", Queue(|_, q, out| out.count(q.kicks_asked)),
        "Kicks that a guest was asked for, or that came shortly after; none in mode poll.").guests(),
    counter("sidecore_queue_kicks_polling_total", Queue(|_, q, out| out.count(q.kicks_polling)),
        "Kicks of a guest while the switch polled its rings: there should be none.").guests(),
    counter("sidecore_queue_calls_total", Queue(|_, q, out| out.count(q.calls)),
        "Interrupts sent to a guest.").guests(),
    counter("sidecore_queue_calls_suppressed_total", Queue(|_, q, out| out.count(q.calls_suppressed)),
        "Publications for which a guest wanted no interrupt.").guests(),
    counter("sidecore_queue_calls_saved_total", Queue(|_, q, out| out.count(q.calls_saved)),
        "Publications that a guest wanted an interrupt for and heard of together with others, or saw before: by moderation.").guests(),
    counter("sidecore_queue_pulled_packets_total", Queue(|_, q, out| out.count(q.accounting.pulled)),
        "Accounting: packets taken from a source. pulled = forwarded + unforwarded + in flight."),
    counter("sidecore_queue_forwarded_packets_total", Queue(|_, q, out| out.count(q.accounting.forwarded)),
        "Accounting: packets of a source that were delivered, or flooded."),
    counter("sidecore_queue_unforwarded_packets_total", Queue(|_, q, out| out.count(q.accounting.dropped)),
        "Accounting: packets of a source that were dropped, copies not counted."),
    gauge("sidecore_queue_in_flight_packets", Queue(|_, q, out| out.count(q.accounting.in_flight)),
        "Accounting: packets of a source that are under way between two I/O cores."),
    counter("sidecore_queue_flood_copies_total", Queue(|_, q, out| out.count(q.accounting.copies)),
        "Accounting: copies made of a source's floods. copies = delivered + dropped copies."),
    counter("sidecore_queue_flood_copies_delivered_total", Queue(|_, q, out| out.count(q.accounting.delivered)),
        "Accounting: copies of a source's floods that were delivered."),
    counter("sidecore_queue_flood_copies_dropped_total", Queue(|_, q, out| out.count(q.accounting.copy_drops)),
        "Accounting: copies of a source's floods that were dropped."),
];

/// Why packets of such a port can be dropped. An uplink has no ring of ours to be wrong; `bad_offload` is a reason of both.
fn drop_reasons(kind: PortKind) -> &'static [&'static str] {
    static REASONS: LazyLock<[Vec<&str>; 2]> = LazyLock::new(|| {
        let of_switch = || DropReason::ALL.iter().map(|reason| reason.as_str());
        let of_ring = TxDrop::ALL.iter().map(|reason| reason.as_str());
        let of_guests: BTreeSet<&str> = of_switch().chain(of_ring).collect();
        [of_guests.into_iter().collect(), of_switch().collect()]
    });
    &REASONS[usize::from(kind == PortKind::Uplink)]
}
