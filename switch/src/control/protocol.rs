//! What is said on the control socket: one JSON object a line each way, a request and then its response.

use config::{RawGuest, RawUplink};
use serde::{Deserialize, Serialize};

use crate::snapshot::{FdbSnapshot, PortState, Snapshot};
use crate::trace::{TraceQuery, TraceReport};

/// The longest request line, its end included. A guest's section with every key is about 1 KiB.
pub(crate) const MAX_REQUEST: usize = 64 * 1024;

/// What can be asked of a running switch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Request {
    /// How everything is: [`Answer::Status`].
    Status,
    /// Adds a guest, given by the keys of a `[[guest]]` section: [`Answer::Done`].
    GuestAdd { guest: serde_json::Value },
    /// Removes a guest: [`Answer::Done`].
    GuestRemove { name: String },
    /// Moves a guest's queue pair, or all of them, to an I/O core: [`Answer::Moved`].
    GuestMove {
        name: String,
        #[serde(default)]
        queue: Option<u16>,
        io_core: usize,
    },
    /// The guests' settings: [`Answer::Guests`].
    GuestList,
    /// Adds an uplink, given by the keys of an `[[uplink]]` section: [`Answer::Done`].
    UplinkAdd { uplink: serde_json::Value },
    /// Removes an uplink: [`Answer::Done`].
    UplinkRemove { name: String },
    /// The uplinks' settings: [`Answer::Uplinks`].
    UplinkList,
    /// The stations known: [`Answer::Fdb`].
    FdbShow,
    /// What would become of a packet: [`Answer::Trace`].
    Trace { query: TraceQuery },
    /// What the scheduler would do now: [`Answer::Plan`].
    SchedulerPlan,
    /// The scheduler does nothing by itself from now on: [`Answer::Done`].
    SchedulerPause,
    /// It goes on: [`Answer::Done`].
    SchedulerResume,
    /// Reads the configuration file again and applies what changed: [`Answer::Reloaded`].
    Reload,
    /// Captures packets: [`Answer::Capturing`], and then, on the same connection, a pcapng file until the capture ends. Whatever is sent on the connection
    /// meanwhile ends it, and so does closing it.
    Capture(CaptureRequest),
}

/// What is to be captured, and how much of it at most.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CaptureRequest {
    /// Guests and uplinks, by name.
    pub(crate) ports: Vec<String>,
    /// Which way packets go.
    pub(crate) direction: CaptureDirection,
    /// Which of them.
    pub(crate) filter: Option<CaptureFilter>,
    /// Bytes kept of each packet.
    pub(crate) snaplen: u32,
    /// Packets; nothing: as many as come.
    pub(crate) packets: Option<u64>,
    /// Bytes of the file.
    pub(crate) bytes: u64,
    /// How long it takes; nothing: until it is ended.
    pub(crate) duration_ms: Option<u64>,
    /// Packets that each I/O core may add in a second.
    pub(crate) rate_pps: u32,
    /// Hundredths of its time that each I/O core may spend on it.
    pub(crate) core_share_percent: u32,
}

impl CaptureRequest {
    /// The longest frame there is.
    pub(crate) const SNAPLEN: u32 = vm_ports::FRAME_MAX as u32;
    /// Nothing shorter has a header to look at.
    pub(crate) const SNAPLEN_MIN: u32 = 14;
    /// A gibibyte.
    pub(crate) const BYTES: u64 = 1 << 30;
    /// The smallest file that can be asked for.
    pub(crate) const BYTES_MIN: u64 = 64 << 10;
    pub(crate) const RATE_PPS: u32 = 100_000;
    pub(crate) const CORE_SHARE_PERCENT: u32 = 5;
    pub(crate) const CORE_SHARE_MAX: u32 = 50;
}

impl Default for CaptureRequest {
    fn default() -> Self {
        Self {
            ports: Vec::new(),
            direction: CaptureDirection::Both,
            filter: None,
            snaplen: Self::SNAPLEN,
            packets: None,
            bytes: Self::BYTES,
            duration_ms: None,
            rate_pps: Self::RATE_PPS,
            core_share_percent: Self::CORE_SHARE_PERCENT,
        }
    }
}

/// Which way packets go, as the switch sees a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CaptureDirection {
    /// They come from it.
    From,
    /// They leave through it.
    To,
    /// Both.
    Both,
}

/// Which packets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CaptureFilter {
    /// As people wrote it, in tcpdump's language: only shown.
    pub(crate) expression: String,
    /// The same as a classic BPF program for Ethernet, one instruction each, as `tcpdump -ddd` prints them.
    pub(crate) program: Vec<String>,
}

/// What comes back.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Response {
    /// The request was carried out.
    Ok(Answer),
    /// It was not, and nothing changed: what was wrong, where, and what to do.
    Error(String),
}

/// The result of a request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Status(Box<Snapshot>),
    Guests(Vec<Listed<RawGuest>>),
    Uplinks(Vec<Listed<RawUplink>>),
    Fdb(Vec<FdbSnapshot>),
    Trace(Box<TraceReport>),
    Done(Done),
    Moved(Vec<MovedQueue>),
    Plan(PlanReport),
    Reloaded(ReloadReport),
    /// The capture runs.
    Capturing,
}

/// A port's settings, every key written out, and what is not in them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Listed<T> {
    #[serde(flatten)]
    pub(crate) settings: T,
    pub(crate) origin: Origin,
    pub(crate) state: Option<PortState>,
}

/// Where a port's settings come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Origin {
    /// The configuration file.
    File,
    /// A request on the control socket.
    RunTime,
}

/// A port was added or removed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Done {
    /// What happened, for people.
    pub(crate) message: String,
    /// What whoever asked should know besides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<String>,
}

/// What the scheduler would do. Loads are parts of an I/O core.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PlanReport {
    /// Moves, in words.
    pub(crate) moves: Vec<String>,
    /// The fullest core's load as it is.
    pub(crate) before: f64,
    /// The same after the moves.
    pub(crate) after: f64,
    /// Why cores stay full all the same, where they do.
    pub(crate) cannot_fix: Option<String>,
}

/// A queue pair that was moved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct MovedQueue {
    /// Whose.
    pub(crate) guest: String,
    /// Its number.
    pub(crate) queue: usize,
    /// The I/O core that it was on.
    pub(crate) from: usize,
    /// The I/O core that it is on.
    pub(crate) to: usize,
    /// Microseconds in which no core served it; nothing where its rings are not started, or where it was there already.
    pub(crate) pause_us: Option<f64>,
}

/// What a reload changed. Ports are written as `guest vm1`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ReloadReport {
    /// Ports that are there now.
    pub(crate) added: Vec<String>,
    /// Ports that are gone.
    pub(crate) removed: Vec<String>,
    /// Ports that were removed and added again, because they differ.
    pub(crate) changed: Vec<ChangedPort>,
    /// Ports of which only what is shown of them differs; they go on.
    #[serde(default)]
    pub(crate) shown: Vec<ChangedPort>,
    /// Keys of `[switch]` that are in force now.
    pub(crate) switch: Vec<String>,
    /// Keys of `[scheduler]` that are in force now.
    #[serde(default)]
    pub(crate) scheduler: Vec<String>,
    /// Keys of `[switch]` that differ and will be in force when the switch is started again.
    pub(crate) needs_restart: Vec<String>,
    /// What whoever asked should know besides.
    pub(crate) warnings: Vec<String>,
}

/// A port that differs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ChangedPort {
    /// Which.
    pub(crate) port: String,
    /// The keys that differ.
    pub(crate) keys: Vec<String>,
}

impl ReloadReport {
    /// Line by line, for people.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        lines.extend(self.removed.iter().map(|port| format!("removed {port}")));
        let keys = |changed: &ChangedPort| changed.keys.join(", ");
        lines.extend(self.changed.iter().map(|changed| format!("replaced {} ({})", changed.port, keys(changed))));
        lines.extend(self.added.iter().map(|port| format!("added {port}")));
        lines.extend(self.shown.iter().map(|changed| format!("changed {} of {}", keys(changed), changed.port)));
        lines.extend(self.switch.iter().map(|key| format!("changed switch.{key}")));
        lines.extend(self.scheduler.iter().map(|key| format!("changed scheduler.{key}")));
        lines.extend(self.needs_restart.iter().map(|key| format!("switch.{key} differs: it needs a restart")));
        if lines.is_empty() {
            lines.push("nothing to change".to_owned());
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_read_as_documented() {
        let read = |text: &str| serde_json::from_str::<Request>(text);
        assert_eq!(read(r#"{"command":"status"}"#).unwrap(), Request::Status);
        assert_eq!(
            read(r#"{"command":"guest_remove","name":"vm1"}"#).unwrap(),
            Request::GuestRemove { name: "vm1".into() }
        );
        let capture = r#"{"command":"capture","ports":["vm1"],"direction":"to","filter":{"expression":"ip","program":["6 0 0 1"]}}"#;
        let filter = CaptureFilter { expression: "ip".into(), program: vec!["6 0 0 1".into()] };
        let expected = CaptureRequest {
            ports: vec!["vm1".into()],
            direction: CaptureDirection::To,
            filter: Some(filter),
            ..CaptureRequest::default()
        };
        assert_eq!(read(capture).unwrap(), Request::Capture(expected.clone()));
        let written = serde_json::to_string(&Request::Capture(expected.clone())).unwrap();
        assert_eq!(read(&written).unwrap(), Request::Capture(expected));
        assert!(read(r#"{"command":"capture","port":"vm1"}"#).is_err());
        for bad in [r#"{}"#, r#"{"command":"explode"}"#, r#"{"command":"guest_remove"}"#, "[]", "7"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_reload_that_changes_nothing_says_so() {
        assert_eq!(ReloadReport::default().lines(), ["nothing to change"]);
        let report = ReloadReport {
            changed: vec![ChangedPort { port: "guest vm1".into(), keys: vec!["mtu".into(), "vlan".into()] }],
            needs_restart: vec!["io_cores".into()],
            ..ReloadReport::default()
        };
        assert_eq!(report.lines(), ["replaced guest vm1 (mtu, vlan)", "switch.io_cores differs: it needs a restart"]);
    }
}
