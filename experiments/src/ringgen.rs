//! The generator: its command line for a row, running it, and reading what it counted.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use sidecore_tests::process::Process;

use crate::systems::NIC_MAC;
use crate::work::{Metric, Row, Work};
use sidecore_tests::interrupt::Interrupt;

/// What setting up, warming up and draining may take beyond the measured time.
const OVERHEAD: Duration = Duration::from_secs(40);

/// Seconds before each turn of a session that are not measured: what the others did to the caches is undone by then.
pub const WARM_UP_S: f64 = 0.03;

/// Seconds after each turn for what is under way; a quarter of it without a packet is enough.
pub const DRAIN_S: f64 = 0.04;

/// What Ctrl-C may wait for.
const LONG: Duration = Duration::from_secs(1);

const POLL: Duration = Duration::from_millis(20);

/// What one run of the generator counted. Keys that are not needed are left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Measured seconds.
    pub duration_s: f64,
    /// Packets sent.
    pub sent: u64,
    /// Packets received.
    pub received: u64,
    /// Sent and never received.
    pub lost: u64,
    /// Received more than once. None, as the next ones: nobody looked.
    pub duplicated: Option<u64>,
    /// Received after a later one of their flow.
    pub reordered: Option<u64>,
    /// Received with other contents than were sent.
    pub corrupted: Option<u64>,
    /// Too far behind to say what they are.
    pub late: Option<u64>,
    /// For another guest.
    pub misdelivered: Option<u64>,
    /// Not the generator's.
    #[serde(default)]
    pub foreign: Option<u64>,
    /// Packets received a second, in the measured time.
    pub pps: f64,
    /// Frame bits received a second, in units of 10^9.
    pub gbps: f64,
    /// Share of the generator's time in polls that found nothing to do.
    pub generator_idle: f64,
    /// The stream beside the round trips, where there was one.
    #[serde(default)]
    pub background: Option<Background>,
    /// Round trips, where they were measured.
    #[serde(default)]
    pub latency_ns: Option<Latency>,
    /// What each guest negotiated.
    pub negotiated: Vec<Negotiated>,
    /// Kicks that guests sent.
    #[serde(default)]
    pub kicks: u64,
    /// Interrupts that they were sent.
    #[serde(default)]
    pub calls: u64,
    /// Those of the measured time for each packet received in it.
    #[serde(default)]
    pub calls_per_packet: f64,
    /// The same for calls as guests saw them.
    #[serde(default)]
    pub call_reads_per_packet: f64,
    /// What the generator's thread had of a CPU.
    #[serde(default)]
    pub generator_cpu: f64,
    /// Each guest's share.
    #[serde(default)]
    pub per_guest: Vec<GuestShare>,
}

/// A guest's share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct GuestShare {
    /// Packets it sent.
    pub sent: u64,
    /// Packets it received.
    pub received: u64,
    /// The same a second, in the measured time.
    pub pps: f64,
}

/// A stream beside round trips.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Background {
    /// Packets received a second, in the measured time.
    pub pps: f64,
}

/// Round trips, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// How many.
    pub count: u64,
    /// The median.
    pub p50: f64,
    /// One in a hundred takes longer.
    pub p99: f64,
}

/// What one guest negotiated.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Negotiated {
    /// Virtio feature bits, in hexadecimal.
    pub features: String,
    /// Their names.
    #[serde(default)]
    pub feature_names: Vec<String>,
    /// Ring format.
    pub ring: String,
    /// Ring size.
    pub ring_size: u32,
    /// Queue pairs.
    pub queue_pairs: u32,
}

impl Report {
    /// Reads what `ringgen --json` wrote.
    pub fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).with_context(|| format!("unexpected report of ringgen: {text}"))
    }

    /// An error if a packet was duplicated, reordered or corrupted.
    pub fn ensure_unspoiled(&self) -> Result<()> {
        let spoiled: u64 = [self.duplicated, self.reordered, self.corrupted].into_iter().flatten().sum();
        ensure!(spoiled == 0, "{spoiled} packets were duplicated, reordered or corrupted: {self:?}");
        Ok(())
    }

    /// The figure of a metric.
    pub fn figure(&self, metric: Metric) -> Result<f64> {
        let latency = || self.latency_ns.filter(|l| l.count > 0).context("ringgen measured no round trip");
        let figure = match metric {
            Metric::Mpps => self.pps / 1e6,
            Metric::GigabitsPerSecond => self.gbps,
            Metric::RttP50 => latency()?.p50 / 1e3,
            Metric::RttP99 => latency()?.p99 / 1e3,
        };
        ensure!(figure.is_finite() && figure > 0.0, "nothing arrived: {} sent, {} received", self.sent, self.received);
        Ok(figure)
    }
}

/// How thoroughly packets are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// Their sequence numbers.
    Order,
    /// Their contents as well.
    Full,
}

/// A run to be made.
#[derive(Debug, Clone)]
pub struct Run<'a> {
    /// The row.
    pub row: &'a Row,
    /// The guests' sockets, in order, as the generator is told them.
    pub sockets: &'a [String],
    /// Measured seconds.
    pub seconds: f64,
    /// How thoroughly packets are looked at.
    pub verify: Verify,
    /// Packets a second of the stream beside the round trips.
    pub background_pps: Option<f64>,
}

/// Packets of the stream beside round trips that are sent at a time: one by one, the generator would have no time left at the rates that switches
/// can do.
pub const BACKGROUND_BURST: usize = 8;

/// Packets of that stream that are owed after a stall of the generator, and then sent.
const BACKLOG: usize = 1000;

/// The MAC address of a guest, as `ringgen --help` documents it.
#[must_use]
pub fn guest_mac(guest: usize) -> String {
    format!("02:5c:00:{guest:02x}:00:01")
}

/// Where and how the generator runs.
#[derive(Debug, Clone)]
pub struct Generator {
    /// The binary.
    pub binary: PathBuf,
    /// Its CPU.
    pub cpu: usize,
    /// Whether guests' memory is on hugepages.
    pub hugepages: bool,
}

impl Generator {
    /// The arguments of a run, without where its report goes.
    #[must_use]
    pub fn arguments(&self, run: &Run) -> Vec<String> {
        let row = run.row;
        let workload = match row.work {
            Work::GuestToGuest | Work::Tso => "stream",
            Work::NicToGuest => "sink",
            Work::GuestToNic => "source",
            Work::NicEcho => "echo",
            Work::RttIdle | Work::RttHalfLoad => "pingpong",
        };
        let mut args = vec![workload.to_owned()];
        let mut add = |name: &str, value: String| args.extend([format!("--{name}"), value]);
        for socket in run.sockets {
            add("guest", socket.clone());
        }
        add("size", if row.work == Work::Tso { "tso".to_owned() } else { row.size.to_string() });
        add("ring", row.ring.to_string());
        add("ring-size", row.ring_size.to_string());
        add("duration-s", run.seconds.to_string());
        add("cpu", self.cpu.to_string());
        add("hugepages", if self.hugepages { "on" } else { "off" }.to_owned());
        let verify = match (row.work, run.verify) {
            // What the NIC delivers has no sequence to follow. In `p2v` it may have contents that are known.
            (Work::NicToGuest, Verify::Order) | (Work::NicEcho, _) => "none",
            (_, Verify::Order) => "order",
            (_, Verify::Full) => "full",
        };
        add("verify", verify.to_owned());
        if row.work == Work::GuestToNic {
            add("to", NIC_MAC.to_owned());
        }
        if row.work.has_nic() {
            // There is no guest to be found, and what the guest broadcasts would go round with the NIC's packets.
            add("announce", "off".to_owned());
        }
        if let Some(pps) = run.background_pps {
            add("background-pps", format!("{pps:.0}"));
            add("background-burst", BACKGROUND_BURST.to_string());
            add("backlog", BACKLOG.to_string());
        }
        args
    }

    /// The arguments of a session.
    #[must_use]
    pub fn session_arguments(&self, run: &Run) -> Vec<String> {
        let mut args = self.arguments(run);
        let values = [("--warmup-s", WARM_UP_S), ("--drain-s", DRAIN_S)];
        args.extend(values.iter().flat_map(|(name, value)| [(*name).to_owned(), value.to_string()]));
        args
    }

    /// Starts a session of the generator. What it writes is kept in a file of its own.
    pub fn session(&self, run: &Run, log: &Path) -> Result<Session> {
        Session::start(&self.binary, self.session_arguments(run), WARM_UP_S + run.seconds, log)
    }

    /// Runs the generator to its end.
    pub fn run(&self, run: &Run, folder: &Path, interrupt: &Interrupt) -> Result<Report> {
        self::run(&self.binary, &self.arguments(run), run.seconds, folder, interrupt)
    }
}

/// A generator that measures whenever it is asked to; its guests stay connected in between.
#[derive(Debug)]
pub struct Session {
    process: Process,
    least: Duration,
    answers: usize,
}

impl Session {
    /// Starts a generator, with arguments for turns that take so many seconds at least. Its guests connect in the first one. What it writes is
    /// kept in a file.
    pub fn start(binary: &Path, mut args: Vec<String>, least: f64, log: &Path) -> Result<Self> {
        args.extend(["--on-request", "--json", "-"].map(str::to_owned));
        let process = Process::spawn("ringgen", binary, &args, log)?;
        Ok(Self { process, least: Duration::from_secs_f64(least), answers: 0 })
    }

    /// Measures once. In the first turn the guests connect first; the report counts packets from then on, and has the
    /// rates and times of this turn.
    pub fn turn(&mut self, interrupt: &Interrupt) -> Result<Report> {
        self.process.say("")?;
        // Nobody looks before there can be an answer: the generator may have to share its CPU with who does. But for long turns: somebody may have
        // had enough.
        let due = Instant::now() + self.least;
        std::thread::sleep(self.least.min(LONG));
        let number = self.answers;
        let text = self.process.wait_until("report", self.least + OVERHEAD, |process| {
            interrupt.check()?;
            Ok(if Instant::now() < due { None } else { answer(process, number) })
        })?;
        self.answers += 1;
        Report::parse(&text)
    }

    /// The guests leave. Returns a report of all turns together: rates are those of their whole time, and quantiles those of all that was
    /// timed in any of them.
    pub fn end(mut self) -> Result<Report> {
        self.process.close_stdin();
        let (status, _) = self.process.wait(OVERHEAD)?;
        ensure!(status.success(), "ringgen ({status})\n{}", self.process.tail());
        Report::parse(&answer(&self.process, self.answers).context("ringgen has summed up nothing")?)
    }
}

/// The report of this number in what a generator has printed, if it is there.
fn answer(process: &Process, number: usize) -> Option<String> {
    let output = process.output();
    let mut whole = output.split_inclusive('\n').filter(|line| line.starts_with('{') && line.ends_with('\n'));
    whole.nth(number).map(str::to_owned)
}

/// Runs a generator to its end, with arguments for so many measured seconds. What it writes is kept in a folder.
pub fn run(binary: &Path, args: &[String], seconds: f64, folder: &Path, interrupt: &Interrupt) -> Result<Report> {
    let json = folder.join("ringgen.json");
    let log = folder.join("ringgen.log");
    // What the last run wrote must not be taken for this one's.
    let _ = std::fs::remove_file(&json);
    let mut args = args.to_vec();
    args.extend(["--json".to_owned(), json.display().to_string()]);
    let mut process = Process::spawn("ringgen", binary, &args, &log)?;
    let deadline = Instant::now() + Duration::from_secs_f64(seconds) + OVERHEAD;
    loop {
        if let Some(status) = process.exited()? {
            if !status.success() {
                let output = process.output();
                bail!("{} ({status})", output.lines().last().unwrap_or("ringgen ended without a word"));
            }
            break;
        }
        interrupt.check()?;
        if Instant::now() > deadline {
            bail!("ringgen did not end in time\n{}", process.tail());
        }
        std::thread::sleep(POLL);
    }
    let text = std::fs::read_to_string(&json).with_context(|| json.display().to_string())?;
    Report::parse(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::default_rows;

    const SAMPLE: &str = r#"{"tool":"ringgen","version":"0.1.0","workload":"pingpong","size":64,"ring":"split",
        "ring_size":256,"guests":2,"queue_pairs":1,"verify":"order","duration_s":2.0003,"sent":1000,"received":998,
        "lost":2,"duplicated":0,"reordered":0,"corrupted":0,"late":0,"misdelivered":null,"pps":499.0,"gbps":0.24,"generator_idle":0.31,"kicks":0,
        "calls":0,"latency_ns":{"count":998,"p50":2100,"p99":9000,"p999":20000,"max":50000,"min":1000},
        "background":{"sent":10,"received":9,"lost":1,"pps":4.5},"negotiated":[{"guest":0,"features":"0x140008000","feature_names":["VERSION_1"],"ring":"split",
        "ring_size":256,"queue_pairs":1}],"per_guest":[{"guest":0,"sent":1000,"received":0,"pps":0}],"cpu":0,
        "hugepages":true}"#;

    fn row(key: &str) -> Row {
        default_rows().into_iter().find(|row| row.key() == key).unwrap()
    }

    fn arguments(key: &str, background_pps: Option<f64>) -> String {
        let generator = Generator { binary: "ringgen".into(), cpu: 0, hugepages: false };
        let row = row(key);
        let run = Run {
            row: &row,
            sockets: &["/t/0".into(), "/t/1".into()],
            seconds: 2.0,
            verify: Verify::Full,
            background_pps,
        };
        generator.arguments(&run).join(" ")
    }

    #[test]
    fn a_report_is_read_and_gives_figures() {
        let report = Report::parse(SAMPLE).unwrap();
        assert_eq!(report.lost, 2);
        assert_eq!(report.negotiated[0].features, "0x140008000");
        assert_eq!(report.background, Some(Background { pps: 4.5 }));
        assert_eq!(report.figure(Metric::RttP50).unwrap(), 2.1);
        assert_eq!(report.figure(Metric::RttP99).unwrap(), 9.0);
        assert!((report.figure(Metric::Mpps).unwrap() - 0.000_499).abs() < 1e-12);
    }

    #[test]
    fn a_report_without_round_trips_has_no_latency_figure() {
        let report = Report { latency_ns: None, ..Report::parse(SAMPLE).unwrap() };
        assert!(report.figure(Metric::RttP50).is_err());
        let none = Report { latency_ns: Some(Latency::default()), ..report.clone() };
        assert!(none.figure(Metric::RttP99).is_err());
        assert!(Report { pps: 0.0, ..report }.figure(Metric::Mpps).is_err(), "nothing received is no figure");
    }

    #[test]
    fn a_report_that_lacks_a_count_is_refused() {
        let text = SAMPLE.replace("\"lost\":2,", "");
        let error = format!("{:#}", Report::parse(&text).unwrap_err());
        assert!(error.contains("lost"), "{error}");
        assert_eq!(Report::parse(SAMPLE).unwrap().misdelivered, None, "nobody looked");
    }

    #[test]
    fn the_command_line_says_what_the_row_says() {
        let stream = arguments("v2v-1518-split-1024", None);
        assert!(
            stream.starts_with("stream --guest /t/0 --guest /t/1 --size 1518 --ring split --ring-size 1024"),
            "{stream}"
        );
        assert!(stream.contains("--verify full") && stream.contains("--hugepages off"), "{stream}");
        assert!(arguments("v2v-tso", None).contains("--size tso"));
        assert!(arguments("p2v-64", None).contains("--verify full"));
        assert!(arguments("v2p-64", None).ends_with(&format!("--to {NIC_MAC} --announce off")));
        assert!(
            arguments("rtt-half", Some(1_234_567.8))
                .ends_with("--background-pps 1234568 --background-burst 8 --backlog 1000")
        );
    }
}
