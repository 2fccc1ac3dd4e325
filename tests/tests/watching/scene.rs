//! A switch with guests that talk, and some of whose packets are dropped.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sidecore_tests::http;
use sidecore_tests::rules::Machine;
use sidecore_tests::switch::{SwitchConfig, SwitchProcess};
use synthetic_guest::packet::{FrameSpec, Template, mac};
use synthetic_guest::{Frame, Guest, GuestConfig};
use tempfile::TempDir;

pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Guests that talk with each other. A third one, `late`, never connects.
pub(crate) const TALKERS: [&str; 2] = ["web-1", "db.2"];

/// A running switch.
pub(crate) struct Scene {
    // Dropped in this order.
    pub(crate) switch: Option<SwitchProcess>,
    pub(crate) config: SwitchConfig,
    pub(crate) port: u16,
    pub(crate) dir: TempDir,
    _machine: Machine,
}

impl Scene {
    /// Three I/O cores, whose queue pairs stay where they are unless a test moves them.
    pub(crate) fn start() -> Result<Self> {
        let machine = Machine::exclusive()?;
        let dir = SwitchProcess::folder()?;
        let port = http::free_port()?;
        let address = format!("mac = \"{}\"", mac(0).map(|byte| format!("{byte:02x}")).join(":"));
        let last = std::thread::available_parallelism().map_or(1, usize::from) - 1;
        let config = SwitchConfig::new(dir.path())
            .on_cpus(vec![0, 0, last])
            .key(&format!("http_listen = \"127.0.0.1:{port}\""))
            .without_rebalancing()
            .guest(TALKERS[0], &[&address, "anti_spoof = true"])
            .guest(TALKERS[1], &[])
            .guest("late", &[])
            .uplink("wan", "net_null0,no-rx=1", &[]);
        let switch = SwitchProcess::start(&config)?;
        Ok(Self { switch: Some(switch), config, port, dir, _machine: machine })
    }

    pub(crate) fn switch(&self) -> &SwitchProcess {
        self.switch.as_ref().expect("it runs")
    }

    pub(crate) fn guests(&self) -> Result<[Guest; 2]> {
        let start = |name| {
            let mut config = GuestConfig::new(self.config.socket(name));
            config.session.reply_timeout = LIMIT;
            Guest::start(config).with_context(|| format!("guest {name}"))
        };
        Ok([start(TALKERS[0])?, start(TALKERS[1])?])
    }

    /// The values of a metric by the values of its labels, in their order.
    pub(crate) fn metric(&self, name: &str) -> Result<BTreeMap<Vec<String>, f64>> {
        let text = http::get(self.port, "/metrics")?.body;
        let samples = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{'));
        let read = |line: &str| {
            let (labels, value) = line.rsplit_once("} ").context("no value")?;
            // No label of those asked for has a quote or a comma in it.
            let values = labels.split(',').filter_map(|label| label.split('"').nth(1)).map(str::to_owned).collect();
            Ok((values, value.parse()?))
        };
        let samples: BTreeMap<_, _> = samples.map(read).collect::<Result<_>>()?;
        ensure!(!samples.is_empty(), "there is no metric {name}");
        Ok(samples)
    }

    /// The sum over the queues of a port.
    pub(crate) fn port_metric(&self, name: &str, port: &str) -> Result<u64> {
        let of_port = |(labels, value): (Vec<String>, f64)| (labels[0] == port).then_some(value);
        Ok(self.metric(name)?.into_iter().filter_map(of_port).sum::<f64>() as u64)
    }
}

/// Frames between the talkers, both ways, and now and then one of the first's with a false address, until `over`. The switch has taken
/// all of them then.
pub(crate) fn talk(guests: &mut [Guest; 2], over: &AtomicBool) {
    let [there, back, false_one] =
        [(0, 1), (1, 0), (7, 1)].map(|(from, to)| Template::new(FrameSpec::udp4(from, to, 0, 300)));
    let burst = |template: &Template, count: usize| {
        let frame = Frame { bytes: template.bytes(), offload: template.offload() };
        (frame.bytes.to_vec(), frame.offload, count)
    };
    let bursts = [burst(&there, 16), burst(&back, 16), burst(&false_one, 1)];
    let send = |guest: &mut Guest, which: usize| {
        let (bytes, offload, count) = &bursts[which];
        let frames = vec![Frame { bytes, offload: *offload }; *count];
        guest.pair(0).tx.reclaim();
        guest.pair(0).tx.send_burst(&frames);
        guest.pair(0).rx.recv_burst(usize::MAX, |_| ());
    };
    let mut round = 0;
    while !over.load(Ordering::Relaxed) {
        send(&mut guests[0], 0);
        send(&mut guests[1], 1);
        if round % 8 == 0 {
            send(&mut guests[0], 2);
        }
        round += 1;
        // The switch has no CPU of its own.
        std::thread::sleep(Duration::from_micros(500));
    }
    for guest in guests {
        while guest.pair(0).tx.in_flight() > 0 {
            guest.pair(0).tx.reclaim();
            guest.pair(0).rx.recv_burst(usize::MAX, |_| ());
            std::thread::yield_now();
        }
    }
}
