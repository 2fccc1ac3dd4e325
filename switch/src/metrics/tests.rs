use std::collections::{BTreeMap, BTreeSet};

use super::catalogue::entries;
use super::describe::{Series, Size};
use super::entry::{Entry, Kind, Read};
use super::*;
use crate::snapshot::*;

fn queue(index: usize, guest: bool) -> QueueSnapshot {
    QueueSnapshot {
        index,
        io_core: Some(1),
        moves: 1,
        moved_ms: guest.then_some(1_700_000_000_500),
        rx_entries: guest.then_some(256),
        tx_entries: guest.then_some(1024),
        rx: Traffic { packets: 1, bytes: 60 },
        tx: Traffic { packets: 2, bytes: 120 },
        drops: BTreeMap::from([("rx_full".to_owned(), 3)]),
        kicks: 4,
        kicks_asked: 1,
        kicks_polling: 3,
        calls: 5,
        calls_suppressed: 6,
        calls_saved: 7,
        busy_cycles: 8,
        backlog: guest.then_some(9),
        posted: guest.then_some(200),
        oldest_wait_ns: Some(10_000),
        accounting: Accounting { pulled: 7, ..Accounting::default() },
        ..QueueSnapshot::default()
    }
}

fn guest() -> PortSnapshot {
    PortSnapshot {
        name: "vm1".to_owned(),
        kind: PortKind::Guest,
        state: PortState::Running,
        socket: Some("/run/vm1".to_owned()),
        vm_name: Some("web \"one\"".to_owned()),
        vm_uuid: Some("3e2f0c4e-0000-4000-8000-000000000001".to_owned()),
        mtu: Some(1500),
        negotiated: Some(NegotiatedSnapshot {
            features: "0x140000000".to_owned(),
            feature_names: vec!["MRG_RXBUF".to_owned(), "VERSION_1".to_owned()],
            ring: "split".to_owned(),
            ring_size: 256,
            queue_pairs: 1,
            memory_bytes: 1 << 28,
        }),
        session: SessionSnapshot { connections: 1, requests: 30, refused: 2, ring_refusals: 0 },
        queues: vec![queue(0, true), queue(1, true)],
        ..PortSnapshot::default()
    }
}

fn uplink() -> PortSnapshot {
    PortSnapshot {
        name: "up".to_owned(),
        kind: PortKind::Uplink,
        state: PortState::Up,
        device: Some("net_null0".to_owned()),
        driver: Some("net_null".to_owned()),
        mtu: Some(1500),
        uplink: Some(UplinkSnapshot {
            link_mbps: Some(10_000),
            mbufs: 4096,
            mbufs_free: 1000,
            errors: UplinkErrors { rx_missed: 7, ..UplinkErrors::default() },
        }),
        steering: Some(SteeringSnapshot::default()),
        xstats: BTreeMap::from([("rx_good_packets".to_owned(), 9)]),
        queues: vec![queue(0, false), queue(1, false)],
        ..PortSnapshot::default()
    }
}

pub(crate) fn snapshot() -> Snapshot {
    Snapshot {
        scheduler: SchedulerSnapshot {
            policy: "balance".to_owned(),
            decided: BTreeMap::from([("move".to_owned(), BTreeMap::from([("saturated".to_owned(), 3)]))]),
            gains: GainsSnapshot { expected: 0.75, gained: 0.5, lost: 0.125 },
            ..SchedulerSnapshot::default()
        },
        move_waits: 4,
        pauses: HistogramSnapshot { count: 3, seconds: 0.5, within_s: vec![(0.001, 2), (1.0, 3)] },
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
        ports: vec![guest(), uplink()],
        cores: vec![CoreSnapshot {
            core: 0,
            cpu: Some(3),
            busy_cycles: 10,
            idle_cycles: 20,
            polls: 30,
            messages: 12,
            queue_pairs: 2,
            saturated: true,
            handed_over: 1,
            parked_packets: 5,
            received: 2,
            received_cycles: 40,
            oldest_wait_ns: 10_000,
            cpu_wait_ns: 250_000_000,
            latency: HistogramSnapshot { count: 9, seconds: 0.25, within_s: vec![(0.000_001, 4), (0.01, 9)] },
            fdb_moves: 3,
            ..CoreSnapshot::default()
        }],
        wake_latency_us: None,
        accounting: Accounting::default(),
        fdb_entries: 11,
        fdb_capacity: 16_384,
        captures: CapturesSnapshot {
            running: Vec::new(),
            begun: 2,
            packets: 30,
            bytes: 4000,
            missed: BTreeMap::from([("rate".to_owned(), 5)]),
        },
    }
}

fn assert_lines(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|l| l == *line), "{line} is not in\n{text}");
    }
}

#[test]
fn prometheus_text() {
    let text = render(&snapshot(), Format::Prometheus);
    assert_lines(
        &text,
        &[
            "# TYPE sidecore_queue_dropped_packets_total counter",
            "# TYPE sidecore_info gauge",
            "# TYPE sidecore_uplink_device_stat untyped",
            "sidecore_info{version=\"0.1.0\"} 1",
            "sidecore_uptime_seconds 1.5",
            "sidecore_scheduler_decisions_total{kind=\"move\",reason=\"saturated\"} 3",
            "sidecore_scheduler_decisions_total{kind=\"move\",reason=\"uneven\"} 0",
            "sidecore_scheduler_decisions_total{kind=\"cannot_fix\",reason=\"pinned\"} 0",
            "sidecore_scheduler_expected_gain_cores_total 0.75",
            "sidecore_scheduler_measured_gain_cores_total 0.5",
            "sidecore_scheduler_measured_loss_cores_total 0.125",
            "sidecore_move_waits_total 4",
            "sidecore_core_parked_packets_total{core=\"0\"} 5",
            "sidecore_captures_total 2",
            "sidecore_capture_missed_packets_total{reason=\"rate\"} 5",
            "sidecore_capture_missed_packets_total{reason=\"slow_reader\"} 0",
            "sidecore_move_pause_seconds_bucket{le=\"0.001\"} 2",
            "sidecore_move_pause_seconds_bucket{le=\"+Inf\"} 3",
            "sidecore_move_pause_seconds_sum 0.5",
            "sidecore_move_pause_seconds_count 3",
            "sidecore_core_saturated{core=\"0\"} 1",
            "sidecore_core_parked{core=\"0\"} 0",
            "sidecore_core_latency_seconds_bucket{core=\"0\",le=\"0.000001\"} 4",
            "sidecore_core_fdb_moves_total{core=\"0\"} 3",
            "sidecore_queue_posted_buffers{port=\"vm1\",queue=\"1\"} 200",
            "sidecore_core_busy_seconds_total{core=\"0\"} 0.000000005",
            "sidecore_core_oldest_wait_seconds{core=\"0\"} 0.00001",
            "sidecore_core_cpu_wait_seconds_total{core=\"0\"} 0.25",
            "sidecore_guest_vm_info{port=\"vm1\",vm_name=\"web \\\"one\\\"\",vm_uuid=\"3e2f0c4e-0000-4000-8000-000000000001\"} 1",
            "sidecore_port_state{port=\"vm1\",state=\"running\"} 1",
            "sidecore_port_state{port=\"vm1\",state=\"waiting\"} 0",
            "sidecore_port_refused_requests_total{port=\"vm1\"} 2",
            "sidecore_uplink_device_stat{port=\"up\",stat=\"rx_good_packets\"} 9",
            "sidecore_uplink_errors_total{port=\"up\",kind=\"rx_missed\"} 7",
            "sidecore_uplink_link_bytes_per_second{port=\"up\"} 1250000000",
            "sidecore_uplink_mempool_free_mbufs{port=\"up\"} 1000",
            "sidecore_queue_dropped_packets_total{port=\"vm1\",queue=\"0\",reason=\"rx_full\"} 3",
            "sidecore_queue_dropped_packets_total{port=\"vm1\",queue=\"0\",reason=\"malformed_chain\"} 0",
            "sidecore_queue_io_core{port=\"vm1\",queue=\"0\"} 1",
            "sidecore_queue_ring_entries{port=\"vm1\",queue=\"1\",ring=\"tx\"} 1024",
            "sidecore_queue_last_move_timestamp_seconds{port=\"vm1\",queue=\"0\"} 1700000000.5",
            "sidecore_queue_backlog_slots{port=\"vm1\",queue=\"0\"} 9",
            "sidecore_queue_busy_seconds_total{port=\"up\",queue=\"0\"} 0.000000004",
        ],
    );
    assert!(!text.contains("# UNIT") && !text.contains("# EOF"));
}

#[test]
fn open_metrics_text() {
    let text = render(&snapshot(), Format::OpenMetrics);
    assert_lines(
        &text,
        &[
            "# TYPE sidecore_queue_dropped_packets counter",
            "# TYPE sidecore_port info",
            "# TYPE sidecore_uplink_device_stat unknown",
            "# UNIT sidecore_core_busy_seconds seconds",
            "# UNIT sidecore_guest_memory_bytes bytes",
            "sidecore_core_busy_seconds_total{core=\"0\"} 0.000000005",
            "sidecore_move_pause_seconds_bucket{le=\"+Inf\"} 3",
        ],
    );
    assert!(text.ends_with("\n# EOF\n"));
}

#[test]
fn both_formats_have_the_same_samples() {
    let samples = |format| -> Vec<String> {
        render(&snapshot(), format).lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    };
    assert_eq!(samples(Format::Prometheus), samples(Format::OpenMetrics));
}

#[test]
fn every_metric_has_a_value_in_the_example() {
    let text = render(&snapshot(), Format::Prometheus);
    for entry in entries() {
        assert!(text.contains(&format!("# HELP {} ", entry.name)), "{} is not there", entry.name);
    }
}

#[test]
fn uplinks_have_no_series_of_guests() {
    let text = render(&snapshot(), Format::Prometheus);
    let uplink: Vec<_> = text.lines().filter(|line| line.contains("port=\"up\"")).collect();
    assert!(!uplink.iter().any(|line| line.contains("malformed_chain") || line.contains("sidecore_guest_")));
    assert!(!uplink.iter().any(|line| line.starts_with("sidecore_queue_refused_packets_total")));
    assert!(!uplink.iter().any(|line| line.contains("_backlog_")));
}

#[test]
fn a_switch_without_ports_is_readable() {
    let text = render(&Snapshot { ports: Vec::new(), cores: Vec::new(), ..snapshot() }, Format::Prometheus);
    assert!(text.contains("sidecore_fdb_entries 11"));
    assert!(!text.contains("sidecore_queue_"));
}

#[test]
fn there_are_no_more_series_than_the_documentation_says() {
    let mut snapshot = snapshot();
    // More of everything that a driver or a later version could bring.
    snapshot.ports[1].xstats = (0..2000).map(|n| (format!("stat_{n}"), n)).collect();
    snapshot.ports[0].queues[0].drops.insert("a reason of nobody's".to_owned(), 1);
    let text = render(&snapshot, Format::Prometheus);
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    let size = Size { cores: 1, guests: 1, queue_pairs: 2, uplinks: 1, uplink_queues: 2 };
    // The example has a histogram with two bounds instead of fourteen, and one reason is both the ring's and the switch's.
    let bound = Series::of_all().total(&size);
    assert!(series <= bound && series * 10 > bound * 9, "{series} of {bound}");
    assert!(text.contains("sidecore_uplink_device_stats_left_out{port=\"up\"} 1488\n"));
}

#[test]
fn the_documentation_is_up_to_date() {
    let page = include_str!("../../../docs/metrics.md");
    assert!(
        page == markdown(),
        "docs/metrics.md is not what `sidecore metrics list --markdown` prints: `make docs` writes it"
    );
}

#[test]
fn names_follow_the_rules() {
    let mut names = BTreeSet::new();
    for entry in entries() {
        let Entry { name, kind, help, labels, .. } = entry;
        assert!(names.insert(entry.family()), "{name} is there twice");
        assert!(name.starts_with("sidecore_"), "{name}");
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{name}");
        assert_eq!(*kind == Kind::Counter, name.ends_with("_total"), "{name}");
        assert_eq!(*kind == Kind::Info, name.ends_with("_info"), "{name}");
        assert!(help.ends_with('.') && !help.contains(['\\', '"', '\n', '|']), "{name}");
        assert!(
            !["_ms", "_us", "_ns", "_cycles", "_kib", "_mib"].iter().any(|unit| entry.family().ends_with(unit)),
            "{name}"
        );
        let of: &[&str] = entry.read.labels();
        assert!(labels.iter().all(|label| !of.contains(label)), "{name}");
        assert!(entry.only.is_none() || matches!(entry.read, Read::Port(_) | Read::Queue(_)), "{name}");
    }
}
