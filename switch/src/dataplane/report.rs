//! Counters into a [`Snapshot`].

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use pmd_bindings::{Link, tsc, tsc_hz};
use scheduler::{QueueId, QueueLoad};
use vm_ports::{Counter, RingFault, RxDrop, TxDrop};

use super::Dataplane;
use super::accounting::{CoreCounters, SourceId, WaitCounters};
use super::device::Uplink;
use super::fabric::CoreView;
use super::guest::{Guest, GuestQueue, GuestState};
use super::load::{LastLoad, ns, queue_id};
use super::sleep::WakeCause;
use crate::forwarding::{DropReason, LearnRefusal, MacAddr, PortId};
use crate::snapshot::{
    Accounting, CoreSnapshot, FdbSnapshot, NegotiatedSnapshot, PortKind, PortSnapshot, PortState, QueueSnapshot,
    Snapshot, SteeringSnapshot, TalkSnapshot, TalksSnapshot, TickSnapshot, Traffic, UplinkErrors, UplinkSnapshot,
};

/// What became of the packets of one source, summed over the cores.
#[derive(Debug, Clone, Default)]
pub(super) struct SourceTotals {
    cycles: u64,
    injected: u64,
    forwarded: u64,
    handed: u64,
    arrived: u64,
    copies: u64,
    delivered: u64,
    dropped: [u64; DropReason::ALL.len()],
    copy_drops: [u64; DropReason::ALL.len()],
}

impl SourceTotals {
    fn add(&mut self, core: &CoreCounters, source: SourceId) {
        let counters = core.source(source);
        self.cycles += counters.cycles.get();
        self.injected += counters.injected.get();
        self.forwarded += counters.forwarded.get();
        self.handed += counters.handed.get();
        self.arrived += counters.arrived.get();
        self.copies += counters.copies.get();
        self.delivered += counters.delivered.get();
        let sum = |totals: &mut [u64], counters: &[Counter]| {
            totals.iter_mut().zip(counters).for_each(|(total, counter)| *total += counter.get());
        };
        sum(&mut self.dropped, &counters.dropped);
        sum(&mut self.copy_drops, &counters.copy_drops);
    }

    /// What was counted since `base`.
    fn since(&self, base: &Self) -> Self {
        let less = |now: &[u64; DropReason::ALL.len()], then: &[u64; DropReason::ALL.len()]| {
            std::array::from_fn(|index| now[index].wrapping_sub(then[index]))
        };
        Self {
            cycles: self.cycles.wrapping_sub(base.cycles),
            injected: self.injected.wrapping_sub(base.injected),
            forwarded: self.forwarded.wrapping_sub(base.forwarded),
            handed: self.handed.wrapping_sub(base.handed),
            arrived: self.arrived.wrapping_sub(base.arrived),
            copies: self.copies.wrapping_sub(base.copies),
            delivered: self.delivered.wrapping_sub(base.delivered),
            dropped: less(&self.dropped, &base.dropped),
            copy_drops: less(&self.copy_drops, &base.copy_drops),
        }
    }

    /// The identity of a source from which `pulled` packets came and of which `at_source` were dropped before the switch saw them.
    fn accounting(&self, pulled: u64, at_source: u64) -> Accounting {
        Accounting {
            pulled: pulled + self.injected,
            forwarded: self.forwarded,
            dropped: at_source + self.dropped.iter().sum::<u64>(),
            // Cores are read one after the other, so a packet can be seen to arrive before it was seen to leave.
            in_flight: self.handed.saturating_sub(self.arrived),
            copies: self.copies,
            delivered: self.delivered,
            copy_drops: self.copy_drops.iter().sum(),
        }
    }

    /// Drops by reason, those of copies too.
    fn drops(&self) -> BTreeMap<String, u64> {
        let counts = self.dropped.iter().zip(&self.copy_drops).map(|(dropped, copies)| dropped + copies);
        named(DropReason::ALL.iter().map(|reason| reason.as_str()).zip(counts))
    }
}

/// Names and counts, without the zeros; counts of one name are added.
fn named<'n>(counts: impl Iterator<Item = (&'n str, u64)>) -> BTreeMap<String, u64> {
    let mut map = BTreeMap::new();
    for (name, count) in counts.filter(|(_, count)| *count > 0) {
        *map.entry(name.to_owned()).or_default() += count;
    }
    map
}

fn merge(into: &mut BTreeMap<String, u64>, from: &BTreeMap<String, u64>) {
    for (name, count) in from {
        *into.entry(name.clone()).or_default() += count;
    }
}

impl Dataplane {
    /// Everything there is to know, now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let last = self.loads.last();
        let ticks = last.queues.iter().map(|load| (load.queue, tick(load))).collect();
        let guests = self.guests.iter().map(|guest| self.guest(guest, &ticks));
        let uplinks = self.uplinks.iter().map(|uplink| self.uplink(uplink));
        let mut ports: Vec<PortSnapshot> = guests.chain(uplinks).collect();
        ports.sort_by(|a, b| a.name.cmp(&b.name));
        let mut accounting = Accounting::default();
        ports.iter().for_each(|port| accounting.add(&port.accounting));
        let oldest_wait = |core: usize, counters: &CoreCounters| {
            let queues = ports.iter().flat_map(|port| &port.queues).filter(|queue| queue.io_core == Some(core));
            let handed = oldest_wait_ns(counters, &counters.received_waits);
            queues.filter_map(|queue| queue.oldest_wait_ns).fold(handed, u64::max)
        };
        let scheduler = self.scheduling.snapshot();
        let cores = self.fabric.cores().enumerate().map(|(core, view)| CoreSnapshot {
            oldest_wait_ns: oldest_wait(core, view.counters),
            saturated: scheduler.saturated.contains(&core),
            parked: scheduler.parked.contains(&core),
            wake_latency_us: view.cpu.and_then(|cpu| self.wake_latency.now_us(cpu)),
            ..core_snapshot(core, &view)
        });
        let cores = cores.collect();
        let fdb_entries = self.fabric.cores().map(|core| core.counters.fdb_entries.get()).max().unwrap_or(0);
        Snapshot {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_ms: self.started.elapsed().as_millis() as u64,
            tsc_hz: tsc_hz(),
            ports,
            cores,
            wake_latency_us: self.wake_latency.wanted_us,
            accounting,
            fdb_entries,
            fdb_capacity: self.fdb_capacity.into(),
            pauses: self.fabric.pauses.snapshot(),
            move_waits: self.fabric.move_waits.load(Ordering::Relaxed),
            scheduler,
            talks: self.talks(&last),
            captures: self.captures.snapshot(),
        }
    }

    fn talks(&self, LastLoad { talks, length_ns, .. }: &LastLoad) -> TalksSnapshot {
        let name = |queue: QueueId| self.port_name(PortId(queue.port.0 as u16));
        let talks = talks.iter().map(|talk| TalkSnapshot {
            from: name(talk.from),
            from_queue: talk.from.queue,
            to: name(talk.to),
            to_queue: talk.to.queue,
            packets: talk.packets,
        });
        TalksSnapshot { interval_ms: *length_ns as f64 / 1e6, talks: talks.collect() }
    }

    /// What waits of a source, and how long the oldest of it did, in nanoseconds.
    fn waiting(&self, source: SourceId) -> (u64, u64) {
        let on_core = |core: CoreView<'_>| {
            let waits = &core.counters.source(source).waits;
            (waits.backlog.get(), oldest_wait_ns(core.counters, waits))
        };
        // The core that has it, and those that had it in that interval.
        self.fabric.cores().map(on_core).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1.max(one.1)))
    }

    /// The stations that are known.
    pub(crate) fn fdb(&self) -> Vec<FdbSnapshot> {
        let now = self.started.elapsed().as_secs();
        let entries = self.fabric.stations().into_iter().map(|entry| FdbSnapshot {
            vlan: entry.vlan.get(),
            mac: entry.mac.to_string(),
            port: self.port_name(entry.port),
            fixed: entry.fixed,
            age_s: if entry.fixed { 0 } else { now.saturating_sub(entry.seen.into()) },
        });
        let mut entries: Vec<FdbSnapshot> = entries.collect();
        entries.sort_by(|a, b| (a.vlan, &a.mac).cmp(&(b.vlan, &b.mac)));
        entries
    }

    pub(super) fn port_name(&self, port: PortId) -> String {
        let guest = self.guests.iter().find(|guest| guest.host.port == port).map(|guest| &guest.config.name);
        let uplink = self.uplinks.iter().find(|uplink| uplink.host.port == port).map(|uplink| &uplink.config.name);
        guest.or(uplink).map(|name| name.as_str().to_owned()).unwrap_or_default()
    }

    /// All that was ever counted for a source, whoever had it.
    pub(super) fn totals(&self, source: SourceId) -> SourceTotals {
        let mut totals = SourceTotals::default();
        self.fabric.cores().for_each(|core| totals.add(core.counters, source));
        totals
    }

    fn totals_of_owner(&self, source: SourceId) -> SourceTotals {
        self.totals(source).since(&self.baselines[source.index()])
    }

    fn guest(&self, guest: &Guest, ticks: &BTreeMap<QueueId, TickSnapshot>) -> PortSnapshot {
        let state = guest.host.state();
        guest.host.count_kicks();
        let queue = |(index, queue): (usize, &GuestQueue)| QueueSnapshot {
            tick: ticks.get(&queue_id(guest.host.port, index)).copied(),
            ..self.guest_queue(index, queue, &state)
        };
        let queues: Vec<QueueSnapshot> = guest.host.queues.iter().enumerate().map(queue).collect();
        let faults = named(RingFault::ALL.iter().map(|fault| fault.as_str()).zip(guest.host.faults()));
        let serving = queues.iter().filter(|queue| queue.io_core.is_some()).count();
        let stopped = guest.host.stopped();
        let error = state.error.or_else(|| stopped.map(|fault| format!("a ring was stopped: {fault}")));
        let port_state = match (state.connected, serving) {
            (false, _) => PortState::Waiting,
            (true, _) if stopped.is_some() => PortState::Stopped,
            (true, 0) => PortState::Connected,
            (true, _) => PortState::Running,
        };
        let negotiated = state.negotiated.map(|negotiated| NegotiatedSnapshot {
            features: format!("{:#x}", negotiated.features.0),
            feature_names: negotiated.features.names(),
            ring: negotiated.ring_format().to_owned(),
            ring_size: negotiated
                .rings
                .iter()
                .find(|(ring, _)| ring % 2 == 1)
                .or(negotiated.rings.first())
                .map_or(0, |(_, size)| *size),
            queue_pairs: serving,
            memory_bytes: negotiated.memory_bytes,
        });
        PortSnapshot {
            name: guest.config.name.as_str().to_owned(),
            state: port_state,
            error,
            socket: Some(guest.config.socket.display().to_string()),
            vm_name: guest.config.vm_name.as_ref().map(|name| name.as_str().to_owned()),
            vm_uuid: guest.config.vm_uuid.as_ref().map(|uuid| uuid.to_string()),
            mac: guest.config.mac.map(|mac| mac.to_string()),
            mtu: state.mtu.or(guest.config.mtu),
            negotiated,
            session: guest.session(),
            faults,
            mode: guest.host.share.mode.to_string(),
            ..port_snapshot(PortKind::Guest, queues)
        }
    }

    fn guest_queue(&self, index: usize, queue: &GuestQueue, state: &GuestState) -> QueueSnapshot {
        let totals = self.totals_of_owner(queue.source);
        let (rx, tx) = (&queue.counters.rx, &queue.counters.tx);
        let at_ring = TxDrop::ALL.iter().map(|reason| reason.as_str()).zip(tx.drops.iter().map(Counter::get));
        let mut drops = named(at_ring);
        let dropped_at_ring = drops.values().sum();
        merge(&mut drops, &totals.drops());
        let (backlog, oldest_wait_ns) = self.waiting(queue.source);
        let (moves, moved_ms) = queue.moves();
        let rings = state.negotiated.iter().flat_map(|negotiated| &negotiated.rings);
        let entries = |ring: usize| rings.clone().find(|(number, _)| *number == ring).map(|(_, size)| *size);
        QueueSnapshot {
            index,
            io_core: queue.io_core(),
            moves,
            moved_ms,
            rx_entries: entries(2 * index),
            tx_entries: entries(2 * index + 1),
            rx: Traffic { packets: rx.packets.get(), bytes: rx.bytes.get() },
            tx: Traffic { packets: tx.packets.get(), bytes: tx.bytes.get() },
            drops,
            refused: named(RxDrop::ALL.iter().map(|reason| reason.as_str()).zip(rx.refused.iter().map(Counter::get))),
            kicks: queue.counters.kicks.get() + queue.kicks.read(),
            kicks_asked: queue.kicks.asked(),
            kicks_polling: queue.kicks.polling(),
            calls: rx.calls.get() + tx.calls.get(),
            calls_suppressed: rx.calls_suppressed.get() + tx.calls_suppressed.get(),
            calls_saved: rx.calls_saved.get() + tx.calls_saved.get(),
            busy_cycles: totals.cycles,
            backlog: Some(backlog),
            posted: Some(rx.posted.get()),
            oldest_wait_ns: Some(oldest_wait_ns),
            tick: None,
            accounting: totals.accounting(tx.packets.get(), dropped_at_ring),
        }
    }

    fn uplink(&self, uplink: &Uplink) -> PortSnapshot {
        let mut handed_over = 0;
        let queues = uplink.host.queues.iter().enumerate().map(|(index, queue)| {
            let totals = self.totals_of_owner(queue.source);
            handed_over += totals.handed;
            let counters = &queue.counters;
            QueueSnapshot {
                index,
                io_core: Some(queue.io_core()),
                rx: Traffic { packets: counters.rx_packets.get(), bytes: counters.rx_bytes.get() },
                tx: Traffic { packets: counters.tx_packets.get(), bytes: counters.tx_bytes.get() },
                drops: totals.drops(),
                busy_cycles: totals.cycles,
                oldest_wait_ns: Some(self.waiting(queue.source).1),
                accounting: totals.accounting(counters.rx_packets.get(), 0),
                ..QueueSnapshot::default()
            }
        });
        let queues = queues.collect();
        let steering = SteeringSnapshot {
            rules: uplink.steered.rules().map(|(mac, queue)| (MacAddr(mac).to_string(), queue)).collect(),
            refusals: uplink.steered.refusals(),
            handed_over,
        };
        let device = &uplink.device;
        let link = device.link().ok();
        let xstats = device.xstats().unwrap_or_default().into_iter().map(|stat| (stat.name, stat.value)).collect();
        PortSnapshot {
            name: uplink.config.name.as_str().to_owned(),
            state: if link.is_some_and(|link| link.up) { PortState::Up } else { PortState::Down },
            uplink: Some(uplink_snapshot(uplink, link)),
            device: Some(uplink.config.device.to_string()),
            driver: Some(device.info().driver.clone()),
            mac: device.mac().ok().map(|mac| MacAddr(mac).to_string()),
            mtu: Some(device.negotiated().mtu),
            steering: Some(steering),
            xstats,
            mode: self.fabric.mode().to_string(),
            ..port_snapshot(PortKind::Uplink, queues)
        }
    }
}

/// What the scheduler was told, what a NIC brings by itself.
fn tick(load: &QueueLoad) -> TickSnapshot {
    TickSnapshot {
        cycles: load.cycles - load.brought.cycles,
        packets: load.packets - load.brought.packets,
        bytes: load.bytes,
        backlog: load.backlog,
        oldest_wait_ns: load.oldest_ns,
        brought_cycles: load.brought.cycles,
        brought_packets: load.brought.packets,
    }
}

/// How long the oldest of what waits for a core did, in this tick and the one before, in nanoseconds.
fn oldest_wait_ns(core: &CoreCounters, waits: &WaitCounters) -> u64 {
    let number = core.tick.get();
    ns(waits.oldest((number.saturating_sub(1), number), tsc()), tsc_hz())
}

/// A port with the sums over its queues, and nothing else known of it.
fn port_snapshot(kind: PortKind, queues: Vec<QueueSnapshot>) -> PortSnapshot {
    let mut port = PortSnapshot { kind, ..PortSnapshot::default() };
    for queue in &queues {
        port.rx.add(queue.rx);
        port.tx.add(queue.tx);
        merge(&mut port.drops, &queue.drops);
        merge(&mut port.refused, &queue.refused);
        port.kicks += queue.kicks;
        port.kicks_asked += queue.kicks_asked;
        port.kicks_polling += queue.kicks_polling;
        port.calls += queue.calls;
        port.calls_suppressed += queue.calls_suppressed;
        port.calls_saved += queue.calls_saved;
        port.accounting.add(&queue.accounting);
    }
    port.queues = queues;
    port
}

/// What there is to say of a device besides its own statistics.
fn uplink_snapshot(uplink: &Uplink, link: Option<Link>) -> UplinkSnapshot {
    let stats = uplink.device.stats().unwrap_or_default();
    UplinkSnapshot {
        link_mbps: link.and_then(|link| link.speed_mbps),
        mbufs: uplink.pool.size().into(),
        mbufs_free: uplink.pool.available().into(),
        errors: UplinkErrors {
            rx_missed: stats.rx_missed,
            rx_errors: stats.rx_errors,
            rx_no_mbuf: stats.rx_no_mbuf,
            tx_errors: stats.tx_errors,
        },
    }
}

fn core_snapshot(core: usize, view: &CoreView<'_>) -> CoreSnapshot {
    let CoreView { cpu, mode, counters, cpu_wait } = view;
    let [idle_cycles, slept_cycles] = counters.idle_and_slept(tsc);
    CoreSnapshot {
        core,
        cpu: *cpu,
        busy_cycles: counters.busy_cycles.get(),
        idle_cycles,
        mode: mode.to_string(),
        polls: counters.polls.get(),
        asleep: counters.is_asleep(),
        messages: counters.messages.get(),
        latency: counters.latency.snapshot(),
        fdb_learned: counters.fdb_learned.get(),
        fdb_moves: counters.fdb_moves.get(),
        wakes: named(WakeCause::ALL.iter().map(|cause| cause.as_str()).zip(counters.wakes.iter().map(Counter::get))),
        slept_cycles,
        missed_wakeups: counters.missed_wakeups.get(),
        missed_kicks: counters.missed_kicks.get(),
        cpu_wait_ns: cpu_wait.total().as_nanos() as u64,
        armed_rings: counters.armed.get(),
        queue_pairs: counters.queue_pairs.get() as usize,
        handed_over: counters.handed_over.get(),
        parked_packets: counters.parked_packets.get(),
        received: counters.received_packets.get(),
        received_cycles: counters.received_cycles.get(),
        learn_refusals: named(
            LearnRefusal::ALL
                .iter()
                .map(|reason| reason.as_str())
                .zip(counters.learn_refusals.iter().map(Counter::get)),
        ),
        learn_lost: counters.learn_lost.get(),
        ..CoreSnapshot::default()
    }
}
