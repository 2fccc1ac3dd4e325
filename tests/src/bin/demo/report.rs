//! What the demo has seen, written down; and the verdict, which is drawn from that alone.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sidecore_tests::switch::{PortKind, Status};

/// Every direction carries at least this.
pub(crate) const DIRECTION_BYTES: u64 = 8 << 20;

/// Directions between three parties.
const DIRECTIONS: usize = 6;

/// target/demo/report.json.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// How QEMU ran the guests: kvm or tcg.
    pub(crate) accelerator: String,
    /// The guests' kernel.
    pub(crate) guest_kernel: String,
    /// Whether hugepages could be reserved.
    pub(crate) hugepages: bool,
    /// Seconds of traffic.
    pub(crate) traffic_seconds: f64,
    pub(crate) pings: Vec<Ping>,
    pub(crate) streams: Vec<Stream>,
    /// The switch after the traffic.
    pub(crate) status: Option<Status>,
    /// What went wrong besides.
    pub(crate) errors: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ping {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) address: String,
    pub(crate) sent: u32,
    /// All or none: a ping that stays unanswered ends the series.
    pub(crate) answered: u32,
    pub(crate) error: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stream {
    pub(crate) from: String,
    pub(crate) to: String,
    /// TCP payload that the receiver got, by iperf3's account.
    pub(crate) received_bytes: u64,
    pub(crate) seconds: f64,
    /// What the switch took from the sender's port meanwhile, by the port's counters.
    pub(crate) taken_bytes: u64,
    /// What the switch gave to the receiver's port meanwhile.
    pub(crate) given_bytes: u64,
}

impl Report {
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        fs::write(path, text + "\n").with_context(|| path.display().to_string())
    }

    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }

    /// Why the demo has failed. Nothing: it has not.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = self.errors.clone();
        self.ping_faults(&mut faults);
        self.stream_faults(&mut faults);
        match &self.status {
            Some(status) => status_faults(status, &mut faults),
            None => faults.push("the switch's counters were not read".to_owned()),
        }
        faults
    }

    fn ping_faults(&self, faults: &mut Vec<String>) {
        for ping in &self.pings {
            if ping.answered < ping.sent || ping.sent == 0 {
                let Ping { from, to, address, sent, answered, error } = ping;
                let why = error.as_deref().unwrap_or("no reason known");
                faults.push(format!("{answered} of {sent} pings from {from} to {to} ({address}) were answered: {why}"));
            }
        }
        let missing = DIRECTIONS - directions(self.pings.iter().map(|ping| (&ping.from, &ping.to))).min(DIRECTIONS);
        if missing > 0 {
            faults.push(format!("{missing} of {DIRECTIONS} directions were not pinged"));
        }
    }

    fn stream_faults(&self, faults: &mut Vec<String>) {
        for stream in &self.streams {
            let least = stream.received_bytes.min(stream.taken_bytes).min(stream.given_bytes);
            if least < DIRECTION_BYTES {
                let Stream { from, to, received_bytes, taken_bytes, given_bytes, .. } = stream;
                faults.push(format!(
                    "{from} to {to} carried less than {DIRECTION_BYTES} bytes: {taken_bytes} taken from the sender, \
                     {given_bytes} given to the receiver, {received_bytes} received"
                ));
            }
        }
        let missing =
            DIRECTIONS - directions(self.streams.iter().map(|stream| (&stream.from, &stream.to))).min(DIRECTIONS);
        if missing > 0 {
            faults.push(format!("{missing} of {DIRECTIONS} directions carried no TCP"));
        }
    }
}

fn directions<'a>(pairs: impl Iterator<Item = (&'a String, &'a String)>) -> usize {
    let mut pairs: Vec<_> = pairs.collect();
    pairs.sort();
    pairs.dedup();
    pairs.len()
}

fn status_faults(status: &Status, faults: &mut Vec<String>) {
    let accounting = &status.accounting;
    if accounting.unaccounted() + accounting.in_flight > 0 {
        faults.push(format!("packets are unaccounted for: {accounting:?}"));
    }
    for port in &status.ports {
        if port.kind == PortKind::Guest && port.kicks_polling > 0 {
            faults.push(format!("{} kicked {} times while its core polled", port.name, port.kicks_polling));
        }
        if let Some(error) = &port.error {
            faults.push(format!("port {}: {error}", port.name));
        }
    }
    if status.ports.len() != 3 {
        faults.push(format!("the switch has {} ports instead of 3", status.ports.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidecore_tests::switch::{Accounting, Port};

    fn good() -> Report {
        let names = ["vm1", "vm2", "outside"];
        let pairs =
            names.iter().flat_map(|from| names.iter().map(move |to| (*from, *to))).filter(|(from, to)| from != to);
        let mut report = Report::default();
        for (from, to) in pairs {
            let (from, to) = (from.to_owned(), to.to_owned());
            let bytes = DIRECTION_BYTES;
            report.pings.push(Ping { from: from.clone(), to: to.clone(), sent: 3, answered: 3, ..Ping::default() });
            report.streams.push(Stream {
                from,
                to,
                received_bytes: bytes,
                taken_bytes: bytes,
                given_bytes: bytes,
                seconds: 1.0,
            });
        }
        let port = |name: &&str| Port { name: (*name).to_owned(), ..Port::default() };
        report.status = Some(Status { ports: names.iter().map(port).collect(), ..Status::default() });
        report
    }

    fn fault(change: impl FnOnce(&mut Report)) -> String {
        let mut report = good();
        change(&mut report);
        let faults = report.faults();
        assert_eq!(faults.len(), 1, "{faults:?}");
        faults[0].clone()
    }

    #[test]
    fn a_good_report_has_no_faults_even_after_a_round_trip() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.json");
        good().write(&path).unwrap();
        assert_eq!(Report::read(&path).unwrap().faults(), [""; 0]);
    }

    #[test]
    fn every_condition_is_a_fault_of_its_own() {
        assert!(fault(|report| report.pings[2].answered = 2).contains("2 of 3 pings"));
        assert!(fault(|report| drop(report.pings.pop())).contains("1 of 6 directions were not pinged"));
        assert!(fault(|report| report.streams[0].given_bytes -= 1).contains("carried less"));
        assert!(fault(|report| report.streams[0].taken_bytes = 0).contains("carried less"));
        assert!(fault(|report| drop(report.streams.pop())).contains("1 of 6 directions carried no TCP"));
        assert!(fault(|report| report.status = None).contains("counters"));
        assert!(fault(|report| report.errors.push("interrupted".to_owned())).contains("interrupted"));
        let status = |change: fn(&mut Status)| fault(|report| change(report.status.as_mut().unwrap()));
        assert!(status(|status| status.ports[0].kicks_polling = 1).contains("vm1 kicked 1 times"));
        assert!(status(|status| drop(status.ports.pop())).contains("2 ports"));
        let lost = Accounting { pulled: 2, forwarded: 1, ..Accounting::default() };
        assert!(fault(|report| report.status.as_mut().unwrap().accounting = lost).contains("unaccounted"));
    }

    #[test]
    fn full_rings_are_shown_and_no_fault() {
        let mut report = good();
        report.status.as_mut().unwrap().ports[0].drops.insert("ring_full".to_owned(), 12);
        assert!(report.faults().is_empty());
    }
}
