//! The command line.

mod check;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use synthetic_guest::Features;

use crate::pacing::Pace;

/// Plays guests of a vhost-user switch and measures what the switch does with their packets.
///
/// Every --guest is one vhost-user socket; guests are numbered from 0 in the order given. ringgen connects to the sockets,
/// or listens on them (",server"). Everything runs in one thread, which never sleeps (but see --guest-mode, --nap-us): give it a CPU
/// of its own (--cpu).
///
/// A run: connect, let the switch learn all addresses (and check that frames arrive where they should), warm up, measure,
/// stop sending, wait up to 200 ms for what is under way. sent, received and lost count from the first packet of the
/// warm-up to the end of that wait (--drain-s), so that lost = sent - received is exact; rates are of the measured time
/// alone. SIGINT or SIGTERM ends the measured time at once, and the run as always; a second one ends ringgen.
///
/// With --on-request the guests stay connected, and there is such a warm-up, measured time and wait for every line on
/// standard input.
///
/// Addresses: guest G, address N has the MAC address 02:5c:0H:GG:NN:01 (in hexadecimal, HGG being G) and the IPv4 address
/// 10.G.N.1 (10.(G mod 256).N.(1 + G / 256) for guests from 256 on).
///
/// Exit status: 0 when the run was made, whatever it counted; 1 when it could not be made; 2 for a wrong command line; 3
/// with --strict.
#[derive(Parser, Debug, Clone)]
#[command(name = "ringgen", version, verbatim_doc_comment)]
pub(crate) struct Options {
    /// What the guests do.
    #[arg(value_enum)]
    pub(crate) workload: Workload,
    /// vhost-user socket of a guest; with ",server" ringgen listens on it. Give it once for each guest (1 to 1024).
    #[arg(long = "guest", value_name = "SOCKET[,server]")]
    pub(crate) guests: Vec<String>,
    /// poll: guests look at their rings all the time, and want no calls. interrupt: they look at a ring after a call, until it
    /// is empty, and then ask for the next one; the thread sleeps when nothing is to be done. A sender whose ring is full
    /// waits for a call, too.
    #[arg(long, value_enum, default_value = "poll", help_heading = "Rings")]
    pub(crate) guest_mode: GuestMode,
    /// Ring format; packed fails where the switch does not offer it.
    #[arg(long, value_enum, default_value = "split", help_heading = "Rings")]
    pub(crate) ring: RingFormat,
    /// Entries of each ring.
    #[arg(long, default_value_t = 256, value_name = "N", help_heading = "Rings")]
    pub(crate) ring_size: u16,
    /// Queue pairs of each guest, 1 to 8.
    #[arg(long, default_value_t = 1, value_name = "N", help_heading = "Rings")]
    pub(crate) queue_pairs: usize,
    /// Transmit and receive buffers of each queue [default: as many as ring entries].
    #[arg(long, value_name = "N", help_heading = "Rings")]
    pub(crate) buffers: Option<usize>,
    /// Bytes of a receive buffer, header included [default: 1600, or a whole frame where it cannot span buffers].
    #[arg(long, value_name = "BYTES", help_heading = "Rings")]
    pub(crate) rx_buffer: Option<usize>,
    /// Let received frames span buffers, where the switch can.
    #[arg(long, value_enum, default_value = "on", help_heading = "Rings")]
    pub(crate) mrg_rxbuf: Switch,
    /// Demand VIRTIO_F_EVENT_IDX.
    #[arg(long, value_enum, default_value = "off", help_heading = "Rings")]
    pub(crate) event_idx: Switch,
    /// Demand VIRTIO_F_IN_ORDER.
    #[arg(long, value_enum, default_value = "off", help_heading = "Rings")]
    pub(crate) in_order: Switch,
    /// Demand VIRTIO_F_INDIRECT_DESC, and send every frame through a table.
    #[arg(long, value_enum, default_value = "off", help_heading = "Rings")]
    pub(crate) indirect: Switch,
    /// Take checksum and TCP segmentation offloads, where the switch can (tso demands them).
    #[arg(long, value_enum, default_value = "off", help_heading = "Rings")]
    pub(crate) offloads: Switch,
    /// Wire size, 64 to 1518, the 4 bytes of FCS counted as is usual: 64 is a frame of 60 bytes in the ring. Or "mix" (64,
    /// 594 and 1518 in the proportion 7:4:1), or "tso" (frames of 65000 bytes to be cut into TCP segments of 1448).
    #[arg(long, default_value = "64", value_name = "SIZE", help_heading = "Packets")]
    pub(crate) size: Size,
    /// Flows from each sending guest to each of its receivers (different addresses and ports), raised to one for each
    /// queue pair.
    #[arg(long, default_value_t = 1, value_name = "N", help_heading = "Packets")]
    pub(crate) flows: usize,
    /// MAC addresses of each guest, 1 to 256; flows use them in turn.
    #[arg(long, default_value_t = 1, value_name = "N", help_heading = "Packets")]
    pub(crate) macs: usize,
    /// none: nothing of a packet is touched but its descriptor, so that only losses are counted. order: a sequence number
    /// in the first cache line tells what was lost, duplicated or reordered. full: headers and every byte of the payload
    /// are compared too, and every packet carries its time of sending.
    #[arg(long, value_enum, default_value = "order", help_heading = "Packets")]
    pub(crate) verify: Verify,
    /// Packets that each sending queue may have under way, sent and not received; 0 is no limit. Needs --verify order or
    /// full [default: no limit; for tso as many as the receive ring has buffers for, since nothing else slows the sender
    /// down to what a receiver takes]
    #[arg(long, value_name = "N", help_heading = "Pace")]
    pub(crate) in_flight: Option<usize>,
    /// With --in-flight: packets that have not arrived after so long without news are taken for lost, and others are sent in
    /// their place; 0 is never, so that there are never more under way.
    #[arg(long, default_value_t = 0.05, value_name = "SECONDS", help_heading = "Pace")]
    pub(crate) patience_s: f64,
    /// Packets a second of each sending guest; 0 is as fast as possible.
    #[arg(long, default_value_t = 0.0, value_name = "PPS", help_heading = "Pace")]
    pub(crate) rate: f64,
    /// Packets a second of each sending guest from a file of little-endian 64-bit words, one for each of them in order, which others may
    /// change while packets flow; takes the place of --rate.
    #[arg(long, value_name = "FILE", help_heading = "Pace")]
    pub(crate) rates: Option<PathBuf>,
    /// Packets that a guest with a rate keeps for later while its ring is full, as a queue in front of it would; more are not sent at all.
    /// At least --burst.
    #[arg(long, default_value_t = 0, value_name = "N", help_heading = "Pace")]
    pub(crate) backlog: usize,
    /// Most packets to send at a time; neighbours of a pingpong send 8.
    #[arg(long, default_value_t = 32, value_name = "N", help_heading = "Pace")]
    pub(crate) burst: usize,
    /// bursty: microseconds at full speed.
    #[arg(long, default_value_t = 1000.0, value_name = "US", help_heading = "Pace")]
    pub(crate) on_us: f64,
    /// bursty: microseconds of silence.
    #[arg(long, default_value_t = 1000.0, value_name = "US", help_heading = "Pace")]
    pub(crate) off_us: f64,
    /// pingpong: packets that wait for their answer at any time.
    #[arg(long, default_value_t = 1, value_name = "N", help_heading = "Pace")]
    pub(crate) window: usize,
    /// pingpong: packets a second sent besides from guest 0 to guest 1, through the same rings.
    #[arg(long, default_value_t = 0.0, value_name = "PPS", help_heading = "Pace")]
    pub(crate) background_pps: f64,
    /// pingpong: those are sent so many at a time, 1 to 8.
    #[arg(long, default_value_t = 1, value_name = "N", help_heading = "Pace")]
    pub(crate) background_burst: usize,
    /// Measured time.
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS", help_heading = "Run")]
    pub(crate) duration_s: f64,
    /// Time before it, not measured.
    #[arg(long, default_value_t = 0.3, value_name = "SECONDS", help_heading = "Run")]
    pub(crate) warmup_s: f64,
    /// Longest wait at the end for what is under way; a quarter of it without a packet ends it.
    #[arg(long, default_value_t = 0.2, value_name = "SECONDS", help_heading = "Run")]
    pub(crate) drain_s: f64,
    /// Number of the first guest, which addresses are made of: for several ringgen at one switch.
    #[arg(long, default_value_t = 0, value_name = "N", help_heading = "Run")]
    pub(crate) first_guest: usize,
    /// source: where to.
    #[arg(long, default_value = "02:5c:ff:00:00:01", value_name = "MAC", help_heading = "Run")]
    pub(crate) to: Mac,
    /// Do not begin before a first packet has arrived, and fail when none does within --connect-timeout-s (sink, echo).
    #[arg(long, help_heading = "Run")]
    pub(crate) expect_peer: bool,
    /// Let the guests broadcast their addresses first, and check that frames arrive only where they should.
    #[arg(long, value_enum, default_value = "on", help_heading = "Run")]
    pub(crate) announce: Switch,
    /// Longest wait for each socket, and for the switch to learn the guests' addresses.
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS", help_heading = "Run")]
    pub(crate) connect_timeout_s: f64,
    /// Sleep for so long whenever all guests were looked at, for others that have to run on the same CPU.
    #[arg(long, default_value_t = 0, value_name = "US", help_heading = "Run")]
    pub(crate) nap_us: u64,
    /// CPU to run on [default: where the kernel likes].
    #[arg(long, value_name = "N", help_heading = "Run")]
    pub(crate) cpu: Option<usize>,
    /// ceiling: CPU of a second thread for the forwarder [default: it takes turns with the guests in their thread].
    #[arg(long, value_name = "N", help_heading = "Run")]
    pub(crate) peer_cpu: Option<usize>,
    /// Guest memory on 2 MiB hugepages; auto: where enough are free.
    #[arg(long, value_enum, default_value = "auto", help_heading = "Run")]
    pub(crate) hugepages: Hugepages,
    /// Measure once for every line on standard input, asleep before it, and report each time: packets are counted from the first time
    /// on, rates and times are of the last one. The end of the input ends ringgen, with a report in which rates and times, too, are of all
    /// times together.
    #[arg(long, help_heading = "Run")]
    pub(crate) on_request: bool,
    /// Keep counts in this file, for others to read while packets flow: five little-endian 64-bit words for each flow, which
    /// are its sender, the queue pair it is sent on, its receiver, packets sent and packets received (stream, duplex, mesh,
    /// bursty).
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) live: Option<PathBuf>,
    /// Exit with status 3 when anything was duplicated, reordered or corrupted.
    #[arg(long, help_heading = "Output")]
    pub(crate) strict: bool,
    /// Write the report as one JSON object to a file, or to standard output ("-") instead of the table.
    #[arg(long, value_name = "FILE|-", help_heading = "Output")]
    pub(crate) json: Option<PathBuf>,
}

/// What the guests do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Workload {
    /// Guest 0 sends to guest 1, 2 to 3, and so on. Counts packets received.
    Stream,
    /// stream in both directions: guests 0 and 1 send to each other, 2 and 3, and so on.
    Duplex,
    /// Every guest sends to all others, in turn. Counts packets received.
    Mesh,
    /// Guest 0 sends to guest 1, which answers. Counts round trips and their time. Further guests are neighbours: 2 sends to 3, and so on,
    /// at --rate; what they received is in per_guest.
    Pingpong,
    /// stream with pauses: --on-us, --off-us.
    Bursty,
    /// All guests send to an address that is none of them (--to). Counts packets that the switch took; received are those
    /// that somebody sends back.
    Source,
    /// The guests only receive, whatever it is. Counts packets received.
    Sink,
    /// The guests send back what they receive, source and destination address swapped. Counts packets sent back.
    Echo,
    /// stream without a switch: a forwarder in this process copies from the rings of guest 0 into those of guest 1. What
    /// ringgen itself is good for. Takes no --guest.
    Ceiling,
}

/// Ring formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RingFormat {
    /// virtio 1.2 section 2.7.
    Split,
    /// virtio 1.2 section 2.8.
    Packed,
}

/// How guests learn of what the switch has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum GuestMode {
    /// They look.
    Poll,
    /// They are called.
    Interrupt,
}

/// What is checked of each packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verify {
    /// Nothing.
    None,
    /// A sequence number.
    Order,
    /// Everything.
    Full,
}

/// Yes or no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    /// Yes.
    On,
    /// No.
    Off,
}

/// Pages of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Hugepages {
    /// Hugepages where there are enough.
    Auto,
    /// Hugepages or an error.
    On,
    /// Ordinary pages.
    Off,
}

/// Sizes of the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// All of this wire size.
    Fixed(usize),
    /// 64, 594 and 1518.
    Mix,
    /// 65,000 bytes in the ring.
    Tso,
}

/// The mix, so that no size comes in a row longer than need be.
const MIX: [usize; 12] = [64, 594, 64, 64, 594, 64, 1518, 64, 594, 64, 594, 64];
const FCS: usize = 4;
/// Guests of all ringgen at one switch: their numbers are in their addresses.
const GUESTS_MAX: usize = 1024;
const TSO_LEN: usize = 65_000;

impl std::str::FromStr for Size {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "mix" => Ok(Size::Mix),
            "tso" => Ok(Size::Tso),
            number => match number.parse() {
                Ok(size @ 64..=1518) => Ok(Size::Fixed(size)),
                _ => Err("a number from 64 to 1518, \"mix\" or \"tso\"".into()),
            },
        }
    }
}

impl Size {
    /// Lengths in the ring, in the order in which they are sent.
    pub(crate) fn frame_lens(self) -> Vec<usize> {
        match self {
            Size::Fixed(size) => vec![size - FCS],
            Size::Mix => MIX.iter().map(|size| size - FCS).collect(),
            Size::Tso => vec![TSO_LEN],
        }
    }

    /// What reports call it: the wire size, of a mix the mean one.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Size::Fixed(size) => size,
            Size::Mix => MIX.iter().sum::<usize>().div_ceil(MIX.len()),
            Size::Tso => TSO_LEN,
        }
    }

    pub(crate) fn name(self) -> String {
        match self {
            Size::Fixed(size) => size.to_string(),
            Size::Mix => "mix".into(),
            Size::Tso => "tso".into(),
        }
    }
}

/// A MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mac(pub(crate) [u8; 6]);

impl std::str::FromStr for Mac {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bytes: Option<Vec<u8>> =
            text.split(':').map(|b| u8::from_str_radix(b, 16).ok().filter(|_| b.len() == 2)).collect();
        bytes.and_then(|b| b.try_into().ok()).map(Mac).ok_or_else(|| "six bytes such as 02:00:00:00:00:01".into())
    }
}

/// A socket and who listens on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Socket {
    pub(crate) path: PathBuf,
    pub(crate) server: bool,
}

impl Options {
    fn name(&self) -> String {
        self.workload.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
    }

    /// The guests' sockets.
    pub(crate) fn sockets(&self) -> Vec<Socket> {
        let parse = |text: &String| match text.strip_suffix(",server") {
            Some(path) => Socket { path: path.into(), server: true },
            None => Socket { path: text.into(), server: false },
        };
        self.guests.iter().map(parse).collect()
    }

    /// When each sender sends; a guest's rate is shared by its queue pairs.
    pub(crate) fn pace(&self) -> Pace {
        match self.workload {
            Workload::Bursty => Pace::Bursts { on: self.on_us / 1e6, off: self.off_us / 1e6 },
            _ if self.rate > 0.0 => Pace::Rate(self.rate / self.queue_pairs as f64),
            _ => Pace::Full,
        }
    }

    /// How long to sleep whenever all guests were looked at, if at all.
    pub(crate) fn nap(&self) -> Option<Duration> {
        (self.nap_us > 0).then(|| Duration::from_micros(self.nap_us))
    }

    /// Longest frame that is sent, as it is in the ring.
    pub(crate) fn longest_frame(&self) -> usize {
        self.size.frame_lens().into_iter().max().unwrap_or_default()
    }

    /// Feature bits to accept, and those of them without which there is no run.
    pub(crate) fn features(&self) -> (Features, Features) {
        let mut required = Features::VERSION_1;
        let mut wanted = Features::NONE;
        let demands = [
            (self.ring == RingFormat::Packed, Features::RING_PACKED),
            (self.event_idx == Switch::On, Features::EVENT_IDX),
            (self.in_order == Switch::On, Features::IN_ORDER),
            (self.indirect == Switch::On, Features::INDIRECT_DESC),
            (self.size == Size::Tso, Features::OFFLOADS),
            (self.queue_pairs > 1, Features::MQ),
        ];
        for (on, feature) in demands {
            if on {
                required = required | feature;
            }
        }
        if self.mrg_rxbuf == Switch::On {
            wanted = wanted | Features::MRG_RXBUF;
            // A segment of 64 KiB has to span buffers then.
            if self.size == Size::Tso {
                required = required | Features::MRG_RXBUF;
            }
        }
        if self.offloads == Switch::On {
            wanted = wanted | Features::OFFLOADS;
        }
        (wanted | required, required)
    }

    /// Most packets that a sending queue may have under way.
    pub(crate) fn in_flight_limit(&self) -> Option<usize> {
        let tso = (self.size == Size::Tso && self.verify != Verify::None).then(|| {
            let in_ring = self.buffers_each() - (self.refill_at() - 1);
            (in_ring / (TSO_LEN + 12).div_ceil(self.rx_buffer_len())).max(1)
        });
        self.in_flight.or(tso).filter(|limit| *limit > 0)
    }

    /// Buffers of each queue.
    pub(crate) fn buffers_each(&self) -> usize {
        self.buffers.unwrap_or(usize::from(self.ring_size))
    }

    /// Buffers of each sending queue: of long segments no more than may be under way, since an operating system hands out first what was
    /// freed last.
    pub(crate) fn tx_buffers(&self) -> usize {
        let limit = self.in_flight_limit().filter(|_| self.size == Size::Tso);
        limit.map_or(self.buffers_each(), |limit| limit.min(self.buffers_each()))
    }

    /// How many receive buffers go back into the ring together: a publication for each would cost more than the buffer,
    /// and a ring must not run dry for it.
    pub(crate) fn refill_at(&self) -> usize {
        (self.buffers_each() / 8).clamp(1, 32)
    }

    /// Bytes of a receive buffer.
    pub(crate) fn rx_buffer_len(&self) -> usize {
        let spans = self.mrg_rxbuf == Switch::On && self.workload != Workload::Ceiling;
        self.rx_buffer.unwrap_or(if spans { 1600 } else { 1600.max(self.longest_frame() + 12) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn parse(line: &str) -> Result<Options, Error> {
        Options::try_parse_from(line.split(' ')).map_err(|e| Error::Options(e.to_string())).and_then(Options::check)
    }

    #[test]
    fn command_line_is_sound() {
        use clap::CommandFactory as _;
        Options::command().debug_assert();
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "ringgen stream --guest a",
            "ringgen stream --guest a --guest b --guest c",
            "ringgen pingpong --guest a --guest b --guest c",
            "ringgen sink",
            "ringgen ceiling --guest a",
            "ringgen sink --guest a --ring-size 100",
            "ringgen sink --guest a --queue-pairs 9",
            "ringgen sink --guest a --size 63",
            "ringgen sink --guest a --size 1519",
            "ringgen sink --guest a --buffers 257",
            "ringgen sink --guest a --duration-s 0",
            "ringgen sink --guest a --live f",
            "ringgen duplex --guest a --guest b --guest c",
            "ringgen duplex --guest a --guest b --drain-s 0",
            "ringgen source --guest a --to 02:00:00",
            "ringgen sink --guest a --first-guest 1024",
            "ringgen ceiling --guest-mode interrupt",
            "ringgen nonsense --guest a",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn sockets_and_sizes_are_read() {
        let options = parse("ringgen stream --guest /run/a --guest /run/b,server --size mix").unwrap();
        let sockets = options.sockets();
        assert_eq!((sockets[0].server, sockets[1].server), (false, true));
        assert_eq!(sockets[1].path, PathBuf::from("/run/b"));
        assert_eq!(options.size.frame_lens().len(), 12);
        assert_eq!(options.size.bytes(), 362);
        assert_eq!("64".parse::<Size>().unwrap().frame_lens(), [60]);
    }
}
