//! Metrics of I/O cores.

use crate::dataplane::{LATENCY_BOUNDS_US, WakeCause};
use crate::forwarding::LearnRefusal;
use crate::metrics::entry::{Entry, Read::Core, counter, gauge, histogram, info};

#[rustfmt::skip]
pub(super) const ENTRIES: &[Entry] = &[
    gauge("sidecore_core_cpu", Core(|c, out| out.some(c.cpu.map(|cpu| cpu as f64))),
        "The CPU an I/O core is pinned to."),
    counter("sidecore_core_busy_seconds_total", Core(|c, out| out.cycles(c.busy_cycles)),
        "Time an I/O core spent in rounds that moved packets."),
    counter("sidecore_core_idle_seconds_total", Core(|c, out| out.cycles(c.idle_cycles)),
        "Time an I/O core spent in rounds that found nothing to do."),
    counter("sidecore_core_polls_total", Core(|c, out| out.count(c.polls)),
        "Rounds of polling."),
    counter("sidecore_core_messages_total", Core(|c, out| out.count(c.messages)),
        "Messages of other threads that an I/O core read: all that makes it do anything but forward. A scrape sends none."),
    info("sidecore_core_info", &["mode"], Core(|c, out| out.info(&[&c.mode])),
        "How an I/O core waits for work: poll, adaptive or trap."),
    counter("sidecore_core_wakes_total", Core(|c, out| {
            out.each(&c.wakes, WakeCause::ALL.iter().map(|cause| cause.as_str()));
        }), "Sleeps of an I/O core, by what ended them: a guest's kick, packets or stations from another core, a message, the timer.")
        .labelled(&["cause"], WakeCause::ALL.len()),
    counter("sidecore_core_slept_seconds_total", Core(|c, out| out.cycles(c.slept_cycles)),
        "Time an I/O core slept; it is idle time, too."),
    counter("sidecore_core_missed_wakeups_total", Core(|c, out| out.count(c.missed_wakeups)),
        "Sleeps of an I/O core whose end only a timer brought while packets or messages waited for it. Always 0: anything else is a lost wake-up."),
    counter("sidecore_core_missed_kicks_total", Core(|c, out| out.count(c.missed_kicks)),
        "Sleeps of an I/O core with 16 queue pairs or fewer whose end only a timer brought while packets waited in a ring whose driver had been asked to kick. Always 0 with drivers that kick when asked."),
    counter("sidecore_core_cpu_wait_seconds_total", Core(|c, out| out.nanoseconds(c.cpu_wait_ns)),
        "Time an I/O core was ready to run and something else had its CPU; its busy and idle times contain it. 0 where the kernel does not say."),
    gauge("sidecore_core_armed_rings", Core(|c, out| out.count(c.armed_rings)),
        "Transmit rings that an I/O core does not look at because their drivers were asked to kick."),
    gauge("sidecore_core_saturated", Core(|c, out| out.flag(c.saturated)),
        "1 while an I/O core is busy nearly all of the time and work waits for it."),
    gauge("sidecore_core_parked", Core(|c, out| out.flag(c.parked)),
        "1 while the scheduler lets an I/O core sleep, with nothing on it."),
    gauge("sidecore_core_queue_pairs", Core(|c, out| out.count(c.queue_pairs as u64)),
        "Guests' queue pairs an I/O core polls."),
    gauge("sidecore_core_oldest_wait_seconds", Core(|c, out| out.nanoseconds(c.oldest_wait_ns)),
        "How long the oldest work that an I/O core has to do waited, in the last tick: in rings of guests, queues of uplinks, and rings from other cores."),
    histogram("sidecore_core_latency_seconds", LATENCY_BOUNDS_US.len(), Core(|c, out| out.histogram(&c.latency)),
        "Time packets spend in the switch, of one burst in 64: from when their core first saw them (where work was left over in \
         the ring, when that was noted; else the end of the burst before theirs) until their receivers were shown them, on the core that did."),
    counter("sidecore_core_parked_packets_total", Core(|c, out| out.count(c.parked_packets)),
        "Packets that waited at an I/O core for a queue pair on its way to it, copies of floods included."),
    counter("sidecore_core_handed_over_packets_total", Core(|c, out| out.count(c.handed_over)),
        "Packets an I/O core handed to other cores."),
    counter("sidecore_core_received_packets_total", Core(|c, out| out.count(c.received)),
        "Packets that other cores handed to an I/O core."),
    counter("sidecore_core_received_seconds_total", Core(|c, out| out.cycles(c.received_cycles)),
        "Time an I/O core spent on delivering packets from other cores."),
    counter("sidecore_core_fdb_learned_total", Core(|c, out| out.count(c.fdb_learned)),
        "Stations that an I/O core learnt from packets that came in on it."),
    counter("sidecore_core_fdb_moves_total", Core(|c, out| out.count(c.fdb_moves)),
        "Stations that an I/O core found behind another port than before."),
    counter("sidecore_core_learn_refusals_total", Core(|c, out| {
            out.each(&c.learn_refusals, LearnRefusal::ALL.iter().map(|reason| reason.as_str()));
        }), "Source addresses an I/O core did not learn, by reason.")
        .labelled(&["reason"], LearnRefusal::ALL.len()),
    counter("sidecore_core_learn_messages_lost_total", Core(|c, out| out.count(c.learn_lost)),
        "Learnt addresses that another I/O core had no room to be told of; the next packet repairs it."),
];
