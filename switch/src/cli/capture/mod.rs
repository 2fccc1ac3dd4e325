//! `sidecore capture`: what passes a port, into a file or a pipe.
//!
//! The switch streams a pcapng file; this process writes it wherever its user may write, so that the switch opens no file for anybody.

mod blocks;

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::builder::RangedI64ValueParser;
use clap::{Args, ValueEnum, value_parser};
use pcap::{Capture, Linktype};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use self::blocks::Blocks;
use super::client::Client;
use super::units;
use crate::control::protocol::{CaptureDirection, CaptureFilter, CaptureRequest, Request};

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CaptureArgs {
    /// The guests and uplinks, by name.
    #[arg(required = true, value_name = "PORT")]
    ports: Vec<String>,
    /// The file, in pcapng format, which must not be there yet; `-`: standard output.
    #[arg(short, long, value_name = "FILE")]
    write: PathBuf,
    /// Packets that came from a port (an uplink's: from the wire), that left through it, or both.
    #[arg(long, value_enum, value_name = "WAY", default_value = "both")]
    direction: Way,
    /// Only packets that match, in the language of tcpdump (`man pcap-filter`).
    #[arg(short, long, value_name = "EXPRESSION")]
    filter: Option<String>,
    /// Keep so many bytes of each packet.
    #[arg(short, long, value_name = "BYTES", default_value_t = CaptureRequest::SNAPLEN, value_parser = from(CaptureRequest::SNAPLEN_MIN))]
    snaplen: u32,
    /// End after so many packets.
    #[arg(short = 'c', long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    packets: Option<u64>,
    /// End before the file is larger: bytes, or as in 64K, 100M, 2G.
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = size)]
    size: u64,
    /// End after so long: seconds, or as in 500ms, 30s, 5m, 1h.
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    duration: Option<Duration>,
    /// Each I/O core adds at most so many packets in a second; others are missed.
    #[arg(long, value_name = "N", default_value_t = CaptureRequest::RATE_PPS, value_parser = from(1))]
    rate: u32,
    /// Each I/O core spends at most this part of its time on the capture, 1 to 50; what it has no time for is missed.
    #[arg(long, value_name = "PERCENT", default_value_t = CaptureRequest::CORE_SHARE_PERCENT, value_parser = core_share())]
    core_share: u32,
}

fn from(least: u32) -> RangedI64ValueParser<u32> {
    value_parser!(u32).range(i64::from(least)..)
}

fn core_share() -> RangedI64ValueParser<u32> {
    value_parser!(u32).range(1..=i64::from(CaptureRequest::CORE_SHARE_MAX))
}

fn size(text: &str) -> Result<u64, String> {
    let (size, least) = (units::parse_bytes(text)?, CaptureRequest::BYTES_MIN);
    if size < least { Err(format!("a file has {} at least", units::bytes(least))) } else { Ok(size) }
}

const EXAMPLES: &str = "\
Examples:
  sidecore capture vm1 -w vm1.pcapng                                  everything from and to vm1, until Ctrl-C
  sidecore capture vm1 wan -w lost.pcapng --filter 'host 192.0.2.7'   where does it get lost?
  sidecore capture wan --direction from -c 100 -w - | tcpdump -nr -   100 packets from the wire, as text

Packets that come from a port are recorded as they were pulled, after their virtio-net header was checked and before
VLANs, source check and policing; those to a guest as they were put into its ring; those to an uplink as they were handed
to its queue: what the device had no room for then is recorded too, and a drop of reason uplink_full, as is what it refused
to send, bad_offload. So lengths may be 64 KiB and checksums incomplete, as in tcpdump on a host with offloads. What is
missed is counted, in the file (epb_dropcount, interface statistics), in `sidecore status` and in metrics.";

/// See [`CaptureDirection`].
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Way {
    From,
    To,
    Both,
}

impl CaptureArgs {
    fn request(&self) -> Result<CaptureRequest> {
        Ok(CaptureRequest {
            ports: self.ports.clone(),
            direction: match self.direction {
                Way::From => CaptureDirection::From,
                Way::To => CaptureDirection::To,
                Way::Both => CaptureDirection::Both,
            },
            filter: self.filter.as_deref().map(compile).transpose()?,
            snaplen: self.snaplen,
            packets: self.packets,
            bytes: self.size,
            duration_ms: self.duration.map(|duration| duration.as_millis() as u64),
            rate_pps: self.rate,
            core_share_percent: self.core_share,
        })
    }

    fn begins(&self, output: &Output) -> String {
        format!(
            "capturing at {} into {}: at most {}, {} packets/s and {} % of the time of an I/O core; Ctrl-C ends it",
            self.ports.join(", "),
            output.name(),
            units::bytes(self.size),
            self.rate,
            self.core_share,
        )
    }
}

/// Captures until there is enough, until Ctrl-C, or until the reader of a pipe has seen enough.
pub(super) fn execute(client: &Client, args: &CaptureArgs) -> Result<()> {
    let request = args.request()?;
    // Before there is a file that a signal could leave empty.
    let signals = Signals::new([SIGINT, SIGTERM])?;
    let mut output = Output::open(&args.write)?;
    let stream = client.stream(&Request::Capture(request)).inspect_err(|_| output.discard())?;
    end_on_signal(signals, stream.get_ref())?;
    say(&args.begins(&output));
    let blocks = copy(stream, &mut output)?;
    let said = blocks.said()?;
    said.ports.iter().for_each(|line| say(line));
    say(&format!("ended: {}; {} in {}", said.end, units::bytes(blocks.written()), output.name()));
    Ok(())
}

/// Compiles a filter as tcpdump does.
fn compile(expression: &str) -> Result<CaptureFilter> {
    let program = Capture::dead(Linktype::ETHERNET).and_then(|dead| dead.compile(expression, true));
    let program = program.map_err(|error| {
        anyhow!(
            "the filter {expression:?} is not understood: {error}; it is written as for tcpdump: see `man pcap-filter`"
        )
    })?;
    let program = program.get_instructions().iter().map(ToString::to_string).collect();
    Ok(CaptureFilter { expression: expression.to_owned(), program })
}

/// The first signal, which may have come already, ends the capture, so that its end is in the file; the second ends this process.
fn end_on_signal(mut signals: Signals, stream: &UnixStream) -> Result<()> {
    let stream = stream.try_clone()?;
    std::thread::spawn(move || {
        for nth in 0.. {
            let Some(signal) = signals.forever().next() else { return };
            if nth > 0 || stream.shutdown(Shutdown::Write).is_err() {
                std::process::exit(128 + signal);
            }
        }
    });
    Ok(())
}

/// Writes what comes, block by block.
fn copy(mut stream: BufReader<UnixStream>, output: &mut Output) -> Result<Blocks> {
    let mut blocks = Blocks::default();
    loop {
        let come = stream.fill_buf().context("the switch broke the capture off")?;
        if come.is_empty() {
            return Ok(blocks);
        }
        let count = come.len();
        blocks.add(come)?;
        stream.consume(count);
        let written = output.write(blocks.whole());
        blocks.clear();
        match written {
            // Who reads has seen enough. What the capture counted is still to come.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                *output = Output::Closed;
                stream.get_ref().shutdown(Shutdown::Write)?;
            }
            written => {
                written.with_context(|| format!("{} cannot be written; the capture ends here", output.name()))?
            }
        }
    }
}

/// Where it is written to.
enum Output {
    File(File, PathBuf),
    Standard,
    Closed,
}

impl Output {
    fn open(path: &Path) -> Result<Self> {
        if path.as_os_str() == "-" {
            if io::stdout().is_terminal() {
                bail!("a capture is no text: send standard output to a file, or to a program such as `tcpdump -nr -`");
            }
            return Ok(Self::Standard);
        }
        match File::create_new(path) {
            Ok(file) => Ok(Self::File(file, path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                bail!("{} is there already: name another file, or remove it first", path.display())
            }
            Err(error) => bail!("{} cannot be written: {error}", path.display()),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::File(_, path) => path.display().to_string(),
            Self::Standard | Self::Closed => "standard output".to_owned(),
        }
    }

    /// There is nothing to write.
    fn discard(&self) {
        if let Self::File(_, path) = self {
            // It is empty, and was made just now.
            let _ = fs::remove_file(path);
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::File(file, _) => file.write_all(bytes),
            Self::Standard => {
                let mut out = io::stdout().lock();
                out.write_all(bytes)?;
                out.flush()
            }
            Self::Closed => Ok(()),
        }
    }
}

/// Standard output may be the capture's.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_compiled_or_refused() {
        let filter = compile("udp port 53").unwrap();
        assert!(filter.program.len() > 5 && filter.program[0] == "40 0 0 12", "{:?}", filter.program);
        let error = compile("udp prot 53").unwrap_err().to_string();
        assert!(error.contains("\"udp prot 53\" is not understood") && error.contains("pcap-filter"), "{error}");
    }
}
