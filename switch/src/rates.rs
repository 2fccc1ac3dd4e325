//! What went on between two snapshots: counters are totals, and people want to see rates.

use std::collections::BTreeMap;

use crate::snapshot::{CoreSnapshot, PortSnapshot, QueueSnapshot, Snapshot};

/// The time between two snapshots of one run of a switch.
#[derive(Clone, Copy)]
pub(crate) struct Interval<'s> {
    before: &'s Snapshot,
    seconds: f64,
    /// What a core has in that time.
    cycles: f64,
}

/// Of a port, by the second. RX and TX are named as in the snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct PortRates {
    pub(crate) rx_packets: f64,
    pub(crate) rx_bits: f64,
    pub(crate) tx_packets: f64,
    pub(crate) tx_bits: f64,
    pub(crate) drops: f64,
    pub(crate) kicks: f64,
    pub(crate) calls: f64,
    /// Time that cores spent on what came from it, in parts of a core.
    pub(crate) load: f64,
}

/// Of an I/O core.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct CoreRates {
    /// The part of its cycles in which it was busy.
    pub(crate) busy: f64,
    /// The part in which it slept.
    pub(crate) asleep: f64,
    /// The part of the time in which it was ready to run and did not get its CPU.
    pub(crate) waits: f64,
    /// Ends of sleeps, by the second.
    pub(crate) wakes: f64,
    /// Packets a second that it handed to other cores.
    pub(crate) handed_over: f64,
    /// Packets a second that it got from other cores.
    pub(crate) received: f64,
    /// What one of those cost, where there was one.
    pub(crate) cycles_per_received: Option<u64>,
}

impl<'s> Interval<'s> {
    /// Nothing, where they are of different runs, or of the same moment.
    pub(crate) fn between(before: &'s Snapshot, now: &Snapshot) -> Option<Self> {
        let is_later = before.pid == now.pid && before.uptime_ms < now.uptime_ms;
        let seconds = now.uptime_ms.saturating_sub(before.uptime_ms) as f64 / 1000.0;
        is_later.then_some(Self { before, seconds, cycles: seconds * now.tsc_hz as f64 })
    }

    /// The rates of a port of the later snapshot. One that was not there before, or was added anew, has none.
    pub(crate) fn port(&self, now: &PortSnapshot) -> Option<PortRates> {
        let before = self.before.ports.iter().find(|port| port.name == now.name)?;
        let rate = |of: fn(&PortSnapshot) -> u64| Some(of(now).checked_sub(of(before))? as f64 / self.seconds);
        Some(PortRates {
            rx_packets: rate(|port| port.rx.packets)?,
            rx_bits: 8.0 * rate(|port| port.rx.bytes)?,
            tx_packets: rate(|port| port.tx.packets)?,
            tx_bits: 8.0 * rate(|port| port.tx.bytes)?,
            drops: rate(|port| sum(&port.drops))?,
            kicks: rate(|port| port.kicks)?,
            calls: rate(|port| port.calls)?,
            load: rate(busy)? * self.seconds / self.cycles,
        })
    }

    /// The rates of an I/O core of the later snapshot.
    pub(crate) fn core(&self, now: &CoreSnapshot) -> Option<CoreRates> {
        let before = self.before.cores.iter().find(|core| core.core == now.core)?;
        let more = |of: fn(&CoreSnapshot) -> u64| of(now).saturating_sub(of(before));
        let (busy, idle) = (more(|core| core.busy_cycles), more(|core| core.idle_cycles));
        let received = more(|core| core.received);
        let share = |cycles: u64| if busy + idle == 0 { 0.0 } else { cycles as f64 / (busy + idle) as f64 };
        Some(CoreRates {
            busy: share(busy),
            asleep: share(more(|core| core.slept_cycles)),
            waits: more(|core| core.cpu_wait_ns) as f64 / 1e9 / self.seconds,
            wakes: more(|core| sum(&core.wakes)) as f64 / self.seconds,
            handed_over: more(|core| core.handed_over) as f64 / self.seconds,
            received: received as f64 / self.seconds,
            cycles_per_received: more(|core| core.received_cycles).checked_div(received),
        })
    }
}

/// All of a port's counts by reason.
pub(crate) fn sum(counts: &BTreeMap<String, u64>) -> u64 {
    counts.values().sum()
}

fn busy(port: &PortSnapshot) -> u64 {
    port.queues.iter().map(|queue: &QueueSnapshot| queue.busy_cycles).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::snapshot;

    #[test]
    fn rates_are_differences_by_time() {
        let (before, mut now) = (snapshot(), snapshot());
        now.uptime_ms += 500;
        now.ports[0].rx.bytes += 1000;
        now.ports[0].tx.packets += 100;
        now.ports[0].drops.insert("rx_full".to_owned(), 3);
        now.ports[0].queues[0].busy_cycles += now.tsc_hz / 8;
        now.cores[0].busy_cycles += 75;
        now.cores[0].idle_cycles += 25;
        now.cores[0].slept_cycles += 20;
        now.cores[0].cpu_wait_ns += 125_000_000;
        *now.cores[0].wakes.entry("kick".to_owned()).or_default() += 3;
        now.cores[0].received += 2;
        now.cores[0].received_cycles += 502;
        let interval = Interval::between(&before, &now).unwrap();
        let port = interval.port(&now.ports[0]).unwrap();
        let expected =
            PortRates { rx_bits: 16_000.0, tx_packets: 200.0, drops: 6.0, load: 0.25, ..PortRates::default() };
        assert_eq!(port, expected);
        let core = interval.core(&now.cores[0]).unwrap();
        let expected = CoreRates {
            busy: 0.75,
            asleep: 0.2,
            waits: 0.25,
            wakes: 6.0,
            received: 4.0,
            handed_over: 0.0,
            cycles_per_received: Some(251),
        };
        assert_eq!(core, expected);
    }

    #[test]
    fn another_run_or_another_port_has_no_rates() {
        let (mut before, mut now) = (snapshot(), snapshot());
        assert!(Interval::between(&before, &now).is_none(), "no time has passed");
        now.uptime_ms += 1000;
        before.ports[0].name = "another".to_owned();
        before.ports[1].tx.packets = 7;
        let interval = Interval::between(&before, &now).unwrap();
        assert!(interval.port(&now.ports[0]).is_none(), "it is new");
        assert!(interval.port(&now.ports[1]).is_none(), "its counters begin again");
        now.pid += 1;
        assert!(Interval::between(&before, &now).is_none(), "it was started again");
    }
}
