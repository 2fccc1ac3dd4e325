//! A snapshot in Prometheus' text format.

mod catalogue;

use std::collections::BTreeMap;

use prometheus::TextEncoder;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use crate::snapshot::{PausesSnapshot, Snapshot};
use catalogue::{CATALOGUE, Entry, Kind, Read};

/// The `Content-Type` of [`render`]'s text.
pub(crate) const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Every metric of the catalogue that has a value now.
pub(crate) fn render(snapshot: &Snapshot) -> Result<String, prometheus::Error> {
    let families: Vec<MetricFamily> = CATALOGUE
        .iter()
        .map(|entry| family(entry, snapshot))
        .filter(|family| !family.get_metric().is_empty())
        .collect();
    TextEncoder::new().encode_to_string(&families)
}

fn family(entry: &Entry, snapshot: &Snapshot) -> MetricFamily {
    let mut samples = Samples { names: entry.labels(), kind: entry.kind, metrics: Vec::new() };
    match entry.read {
        Read::Switch(value) => samples.add(vec![], value(snapshot)),
        Read::Cores(value) => {
            for core in &snapshot.cores {
                samples.add(vec![core.core.to_string()], value(core));
            }
        }
        Read::CoreReasons(counts, known) => {
            for core in &snapshot.cores {
                samples.add_reasons(&[core.core.to_string()], counts(core), known());
            }
        }
        Read::Ports(value) => {
            for port in &snapshot.ports {
                if let Some(value) = value(port) {
                    samples.add(vec![port.name.clone()], value);
                }
            }
        }
        Read::Pauses(pauses) => samples.add_histogram(pauses(snapshot)),
        Read::Info(_, values) => values(snapshot).into_iter().for_each(|(labels, value)| samples.add(labels, value)),
        Read::Queues(value) => {
            for (port, queue) in snapshot.ports.iter().flat_map(|port| port.queues.iter().map(move |q| (port, q))) {
                if let Some(value) = value(queue) {
                    samples.add(vec![port.name.clone(), queue.index.to_string()], value);
                }
            }
        }
        Read::QueueReasons(counts, known) => {
            for (port, queue) in snapshot.ports.iter().flat_map(|port| port.queues.iter().map(move |q| (port, q))) {
                let labels = [port.name.clone(), queue.index.to_string()];
                samples.add_reasons(&labels, counts(queue), known(port.kind));
            }
        }
        Read::PortReasons(counts, known) => {
            for port in &snapshot.ports {
                samples.add_reasons(std::slice::from_ref(&port.name), counts(port), known(port.kind));
            }
        }
    }
    let mut family = MetricFamily::default();
    family.set_name(entry.name.to_owned());
    family.set_help(entry.help.to_owned());
    family.set_field_type(match entry.kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge => MetricType::GAUGE,
        Kind::Histogram => MetricType::HISTOGRAM,
    });
    family.set_metric(samples.metrics);
    family
}

/// The samples of one metric.
struct Samples {
    names: &'static [&'static str],
    kind: Kind,
    metrics: Vec<Metric>,
}

impl Samples {
    fn add(&mut self, values: Vec<String>, value: f64) {
        debug_assert_eq!(self.names.len(), values.len());
        let pairs = self.names.iter().zip(values).map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value(value);
            pair
        });
        let mut metric = Metric::from_label(pairs.collect());
        match self.kind {
            Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            Kind::Gauge => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
            // Has more than one value: see `add_histogram`.
            Kind::Histogram => {}
        }
        self.metrics.push(metric);
    }

    fn add_histogram(&mut self, pauses: &PausesSnapshot) {
        let bucket = |(bound, count): &(f64, u64)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(*count);
            bucket
        };
        let mut histogram = Histogram::default();
        histogram.set_sample_count(pauses.moves);
        histogram.set_sample_sum(pauses.seconds);
        histogram.set_bucket(pauses.within_s.iter().map(bucket).collect());
        let mut metric = Metric::default();
        metric.set_histogram(histogram);
        self.metrics.push(metric);
    }

    /// One sample for each reason there can be, the zeros too: a series that begins at its first drop hides that drop
    /// from `rate()`.
    fn add_reasons(&mut self, labels: &[String], counts: &BTreeMap<String, u64>, known: Vec<&'static str>) {
        let mut all: BTreeMap<&str, u64> = known.into_iter().map(|reason| (reason, 0)).collect();
        all.extend(counts.iter().map(|(reason, count)| (reason.as_str(), *count)));
        for (reason, count) in all {
            let mut labels = labels.to_vec();
            labels.push(reason.to_owned());
            self.add(labels, count as f64);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::snapshot::{
        Accounting, CoreSnapshot, NegotiatedSnapshot, PortKind, PortSnapshot, PortState, QueueSnapshot, TalkSnapshot,
        TalksSnapshot, Traffic,
    };

    fn queue(index: usize, guest: bool) -> QueueSnapshot {
        QueueSnapshot {
            index,
            io_core: Some(1),
            rx: Traffic { packets: 1, bytes: 60 },
            tx: Traffic { packets: 2, bytes: 120 },
            drops: BTreeMap::from([("rx_full".to_owned(), 3)]),
            refused: BTreeMap::new(),
            kicks: 4,
            calls: 5,
            calls_suppressed: 6,
            busy_cycles: 8,
            backlog: guest.then_some(9),
            oldest_wait_ns: guest.then_some(10_000),
            accounting: Accounting { pulled: 7, ..Accounting::default() },
        }
    }

    fn port(name: &str, kind: PortKind) -> PortSnapshot {
        let guest = kind == PortKind::Guest;
        PortSnapshot {
            name: name.to_owned(),
            kind,
            state: if guest { PortState::Running } else { PortState::Up },
            error: None,
            socket: guest.then(|| "/run/vm1".to_owned()),
            device: (!guest).then(|| "net_null0".to_owned()),
            driver: (!guest).then(|| "net_null".to_owned()),
            mac: None,
            mtu: Some(1500),
            negotiated: guest.then(|| NegotiatedSnapshot {
                features: "0x140000000".to_owned(),
                feature_names: vec!["VERSION_1".to_owned()],
                ring: "split".to_owned(),
                ring_size: 256,
                queue_pairs: 1,
                memory_bytes: 1 << 28,
            }),
            rx: Traffic::default(),
            tx: Traffic::default(),
            drops: BTreeMap::new(),
            refused: BTreeMap::new(),
            kicks: 0,
            calls: 0,
            calls_suppressed: 0,
            connections: 1,
            faults: BTreeMap::new(),
            xstats: BTreeMap::from([("rx_good_packets".to_owned(), 9)]),
            queues: vec![queue(0, guest), queue(1, guest)],
            accounting: Accounting::default(),
        }
    }

    pub(crate) fn snapshot() -> Snapshot {
        Snapshot {
            scheduler: crate::snapshot::SchedulerSnapshot { saturated: vec![0], ..Default::default() },
            pauses: PausesSnapshot { moves: 3, seconds: 0.5, within_s: vec![(0.001, 2), (1.0, 3)] },
            talks: TalksSnapshot {
                interval_ms: 100.0,
                talks: vec![TalkSnapshot {
                    from: "vm1".to_owned(),
                    from_queue: 0,
                    to: "vm1".to_owned(),
                    to_queue: 1,
                    packets: 20,
                }],
            },
            version: "0.1.0".to_owned(),
            pid: 1,
            uptime_ms: 1500,
            tsc_hz: 2_000_000_000,
            ports: vec![port("vm1", PortKind::Guest), port("up", PortKind::Uplink)],
            cores: vec![CoreSnapshot {
                core: 0,
                cpu: 3,
                busy_cycles: 10,
                idle_cycles: 20,
                polls: 30,
                queue_pairs: 2,
                handed_over: 1,
                received: 2,
                received_cycles: 40,
                oldest_wait_ns: 10_000,
                learn_refusals: BTreeMap::new(),
                learn_lost: 0,
            }],
            accounting: Accounting::default(),
            fdb_entries: 11,
        }
    }

    #[test]
    fn every_metric_has_samples() {
        let text = render(&snapshot()).unwrap();
        for entry in CATALOGUE {
            assert!(text.contains(&format!("\n{}", entry.name)), "{} has no sample", entry.name);
        }
        for line in [
            "sidecore_info{version=\"0.1.0\"} 1",
            "sidecore_queue_tx_packets_total{port=\"vm1\",queue=\"1\"} 2",
            "sidecore_queue_dropped_packets_total{port=\"up\",queue=\"0\",reason=\"rx_full\"} 3",
            "sidecore_queue_dropped_packets_total{port=\"vm1\",queue=\"0\",reason=\"runt\"} 0",
            "sidecore_queue_io_core{port=\"vm1\",queue=\"0\"} 1",
            "sidecore_core_busy_cycles_total{core=\"0\"} 10",
            "sidecore_core_oldest_wait_seconds{core=\"0\"} 0.00001",
            "sidecore_queue_oldest_wait_seconds{port=\"vm1\",queue=\"1\"} 0.00001",
            "sidecore_queue_backlog_slots{port=\"vm1\",queue=\"0\"} 9",
            "sidecore_queue_busy_cycles_total{port=\"up\",queue=\"0\"} 8",
            "sidecore_port_state{port=\"vm1\",state=\"running\"} 1",
            "sidecore_port_state{port=\"vm1\",state=\"waiting\"} 0",
            "sidecore_uptime_seconds 1.5",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn the_dashboard_asks_for_metrics_that_exist() {
        let dashboard = include_str!("../../../dashboards/grafana/overview.json");
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let names = dashboard.split(|c| !is_name(c)).filter(|word| word.starts_with("sidecore_"));
        let mut asked = 0;
        for name in names {
            let known = |entry: &Entry| {
                let rest = name.strip_prefix(entry.name);
                rest.is_some_and(|rest| rest.is_empty() || entry.kind == Kind::Histogram && rest == "_bucket")
            };
            assert!(CATALOGUE.iter().any(known), "there is no metric {name}");
            asked += 1;
        }
        assert!(asked > 20, "{asked} names");
    }

    #[test]
    fn uplinks_have_no_series_of_guests() {
        let text = render(&snapshot()).unwrap();
        let uplink: Vec<_> = text.lines().filter(|line| line.contains("port=\"up\"")).collect();
        assert!(!uplink.iter().any(|line| line.contains("malformed_chain") || line.contains("sidecore_guest_")));
        assert!(!uplink.iter().any(|line| line.starts_with("sidecore_queue_refused_packets_total")));
        assert!(!uplink.iter().any(|line| line.contains("_backlog_") || line.contains("_oldest_wait_")));
    }

    #[test]
    fn a_switch_without_ports_is_readable() {
        let text = render(&Snapshot { ports: Vec::new(), cores: Vec::new(), ..snapshot() }).unwrap();
        assert!(text.contains("sidecore_fdb_entries 11"));
    }

    #[test]
    fn names_follow_the_rules() {
        let mut names: Vec<_> = CATALOGUE.iter().map(|entry| entry.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CATALOGUE.len(), "a name is used twice");
        for Entry { name, kind, help, .. } in CATALOGUE {
            assert!(name.starts_with("sidecore_"), "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{name}");
            assert_eq!(*kind == Kind::Counter, name.ends_with("_total"), "{name}");
            assert!(help.ends_with('.'), "{name}");
        }
    }
}
