//! `sidecore trace`.

use std::net::IpAddr;
use std::str::FromStr;

use anyhow::Result;
use clap::Args;

use super::client::{Client, unexpected};
use crate::control::protocol::{Answer, Request};
use crate::snapshot::FdbSnapshot;
use crate::trace::{
    CopyIs, CopyReport, Flow, Intake, LearningIs, LearningReport, SourceIs, TraceQuery, TraceReport, TransportPorts,
    Verdict,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sidecore trace --from vm1 --mac 52:54:00:00:00:02
  sidecore trace --from vm1 --mac ff:ff:ff:ff:ff:ff --vlan 10
  sidecore trace --from wan --mac 52:54:00:00:00:01 --src 00:16:3e:00:00:01
  sidecore trace --from vm1 --mac 52:54:00:00:00:02 --ip 10.0.0.1,10.0.0.2 --tcp 40000,443

What is found holds for this moment. The I/O cores answer it between two bursts, from their own tables.")]
pub(super) struct TraceArgs {
    /// The port that the packet comes from, a guest's or an uplink's name.
    #[arg(long, value_name = "PORT")]
    from: String,
    /// Its destination address; a group's, too.
    #[arg(long, value_name = "MAC")]
    mac: String,
    /// Its source address [default: the guest's `mac`, or what was last learnt on the port].
    #[arg(long, value_name = "MAC")]
    src: Option<String>,
    /// The VLAN of its tag; 0: a tag with a priority only [default: no tag].
    #[arg(long, value_name = "ID")]
    vlan: Option<u16>,
    /// The queue pair it comes in on [default: 0, or the one to which a rule in the NIC steers it].
    #[arg(long, value_name = "Q")]
    queue: Option<u16>,
    /// Its length without checksum [default: 60, or what its headers need].
    #[arg(long, value_name = "BYTES")]
    size: Option<u32>,
    /// Its IP addresses, source first: with its ports they choose among several queue pairs of a receiver.
    #[arg(long, value_name = "SRC,DST", value_parser = pair::<IpAddr>)]
    ip: Option<(IpAddr, IpAddr)>,
    /// Its TCP ports.
    #[arg(long, value_name = "SRC,DST", value_parser = pair::<u16>, requires = "ip", conflicts_with = "udp")]
    tcp: Option<(u16, u16)>,
    /// Its UDP ports.
    #[arg(long, value_name = "SRC,DST", value_parser = pair::<u16>, requires = "ip")]
    udp: Option<(u16, u16)>,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

fn pair<T: FromStr + Clone + Send + Sync>(text: &str) -> Result<(T, T), String> {
    let both = text.split_once(',').and_then(|(one, two)| Some((one.parse().ok()?, two.parse().ok()?)));
    both.ok_or_else(|| "write the source, a comma and the destination".to_owned())
}

pub(super) fn execute(client: &Client, args: TraceArgs) -> Result<()> {
    let TraceArgs { from, mac, src, vlan, queue, size, ip, tcp, udp, json } = args;
    let tcp = tcp.map(|(from, to)| TransportPorts::Tcp(from, to));
    let transport = tcp.or(udp.map(|(from, to)| TransportPorts::Udp(from, to)));
    let flow = ip.map(|ip| Flow { ip, transport });
    let query = TraceQuery { from, mac, src, vlan, queue, size, flow };
    let Answer::Trace(report) = client.ask(&Request::Trace { query })? else { return Err(unexpected()) };
    if json { super::print_json(&report) } else { super::print(&render(&report)) }
}

/// A line for each step, in the order in which they are taken, and the verdict.
fn render(report: &TraceReport) -> String {
    let mut lines = vec![("packet", packet(report)), ("intake", intake(report))];
    if let Some(only) = &report.only_source {
        lines.push(("source check", format!("{} may send from {only} only", report.packet.port)));
    }
    if let Some(vlan) = report.vlan {
        let how = match report.packet.tag {
            None => "it has no tag",
            Some(0) => "its tag names none",
            Some(_) => "by its tag",
        };
        lines.push(("VLAN in", format!("{vlan}: {how}")));
    }
    if let Some(learning) = &report.learning {
        lines.push(("learning", learnt(report, learning)));
    }
    if let Some(lookup) = &report.lookup {
        let found = match &lookup.entry {
            Some(entry) => format!("is behind {}, {}", entry.port, known(entry)),
            None if report.packet.source == report.packet.destination => "is its own source".to_owned(),
            None => "is not known".to_owned(),
        };
        lines.push(("look-up", format!("{} {found}", report.packet.destination)));
    }
    if let Some(policing) = &report.policing {
        let tokens =
            policing.tokens.map_or("without a limit".to_owned(), |n| format!("{n} packets may be flooded now"));
        lines.push(("policing", tokens));
    }
    let ways: Vec<(String, String)> =
        report.copies.iter().map(|copy| (format!("to {}", copy.port), leaves(copy))).collect();
    lines.extend(ways.iter().map(|(head, text)| (head.as_str(), text.clone())));
    lines.push(("=>", verdict(report)));
    let width = lines.iter().map(|(head, _)| head.chars().count()).max().unwrap_or(0);
    lines.iter().map(|(head, text)| format!("{head:<width$}  {text}\n")).collect()
}

fn packet(report: &TraceReport) -> String {
    let packet = &report.packet;
    let source = match packet.source_is {
        SourceIs::Given => "",
        SourceIs::Configured => " (configured)",
        SourceIs::Learnt => " (learnt)",
        SourceIs::MadeUp => " (nobody's)",
    };
    let tag = packet.tag.map_or("no tag".to_owned(), |vlan| format!("tag {vlan}"));
    format!("from {}{source} to {}, {tag}, {} bytes", packet.source, packet.destination, packet.bytes)
}

fn intake(report: &TraceReport) -> String {
    let queue = format!("{}, queue pair {}, I/O core {}", report.packet.port, report.packet.queue, report.io_core);
    match &report.intake {
        Intake::Served => queue,
        Intake::Disabled => format!("{queue}: the driver has not enabled the ring, what is in it is discarded"),
        Intake::Stopped(fault) => format!("{queue}: the ring was stopped, {fault}"),
        Intake::NotStarted => format!("{queue}: no rings are started there"),
    }
}

fn known(entry: &FdbSnapshot) -> String {
    if entry.fixed { "configured".to_owned() } else { format!("learnt, heard {} s ago", entry.age_s) }
}

fn learnt(report: &TraceReport, learning: &LearningReport) -> String {
    let LearningReport { outcome, refusal, entry } = learning;
    let (source, port) = (&report.packet.source, &report.packet.port);
    let entry_is = || entry.as_ref().map_or(String::new(), |entry| format!(", {}", known(entry)));
    let before =
        || entry.as_ref().map_or(String::new(), |entry| format!(" (it is behind {}, {})", entry.port, known(entry)));
    match outcome {
        LearningIs::Known => format!("{source} is known behind {port}{}", entry_is()),
        LearningIs::Refreshed => format!("{source} is known behind {port}{}: its age begins anew", entry_is()),
        LearningIs::New => format!("{source} is learnt behind {port}"),
        LearningIs::Moved => format!("{source} moves to {port}{}", before()),
        LearningIs::Refused => {
            let reason = refusal.as_deref().unwrap_or("-");
            format!("{source} is not learnt: {reason}{}", before())
        }
    }
}

fn leaves(copy: &CopyReport) -> String {
    let mut text = String::new();
    if let (Some(queue), Some(core)) = (copy.queue, copy.io_core) {
        text += &format!("queue {queue}, I/O core {core}{}, ", if copy.handed_over { " (handed over)" } else { "" });
    }
    text += &copy.tag.map_or("no tag".to_owned(), |vlan| format!("tag {vlan}"));
    match (copy.outcome, copy.buffers) {
        (CopyIs::Delivered, Some(buffers)) => text += &format!(", {buffers} buffers free"),
        (CopyIs::Delivered, None) => {}
        (CopyIs::Waits, _) => text += ": waits for the queue pair, which is moving there",
        (CopyIs::Dropped, _) => text += &format!(": dropped, {}", copy.drop.as_deref().unwrap_or("-")),
    }
    text
}

fn verdict(report: &TraceReport) -> String {
    let port = &report.packet.port;
    match report.verdict {
        Verdict::Forwarded => {
            let to = report.copies.first().map_or("", |copy| copy.port.as_str());
            format!("forwarded to {to}")
        }
        Verdict::Flooded => {
            let dropped = report.copies.iter().filter(|copy| copy.outcome == CopyIs::Dropped).count();
            let lost = if dropped > 0 { format!(", {dropped} of them dropped") } else { String::new() };
            format!("flooded: {} copies{lost}", report.copies.len())
        }
        Verdict::Dropped => {
            format!("dropped: {}, counted for {port}", report.drop.as_deref().unwrap_or("-"))
        }
        Verdict::NotPulled => format!("stays with {port}: nobody takes packets from there"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{LookupReport, TracedPacket};

    fn report() -> TraceReport {
        let entry = |mac: &str, port: &str, fixed| FdbSnapshot {
            vlan: 1,
            mac: mac.into(),
            port: port.into(),
            fixed,
            age_s: if fixed { 0 } else { 3 },
        };
        let copy = CopyReport {
            port: "vm2".into(),
            queue: Some(0),
            io_core: Some(1),
            handed_over: true,
            tag: Some(1),
            bytes: 64,
            outcome: CopyIs::Delivered,
            drop: None,
            buffers: Some(250),
        };
        TraceReport {
            packet: TracedPacket {
                port: "vm1".into(),
                queue: 0,
                source: "52:54:00:00:00:01".into(),
                source_is: SourceIs::Configured,
                destination: "52:54:00:00:00:02".into(),
                tag: None,
                bytes: 60,
            },
            io_core: 0,
            intake: Intake::Served,
            only_source: Some("52:54:00:00:00:01".into()),
            vlan: Some(1),
            learning: Some(LearningReport {
                outcome: LearningIs::Known,
                refusal: None,
                entry: Some(entry("52:54:00:00:00:01", "vm1", true)),
            }),
            lookup: Some(LookupReport { entry: Some(entry("52:54:00:00:00:02", "vm2", false)) }),
            policing: None,
            verdict: Verdict::Forwarded,
            drop: None,
            copies: vec![copy],
        }
    }

    #[test]
    fn each_step_has_a_line() {
        assert_eq!(
            render(&report()),
            "packet        from 52:54:00:00:00:01 (configured) to 52:54:00:00:00:02, no tag, 60 bytes\n\
             intake        vm1, queue pair 0, I/O core 0\n\
             source check  vm1 may send from 52:54:00:00:00:01 only\n\
             VLAN in       1: it has no tag\n\
             learning      52:54:00:00:00:01 is known behind vm1, configured\n\
             look-up       52:54:00:00:00:02 is behind vm2, learnt, heard 3 s ago\n\
             to vm2        queue 0, I/O core 1 (handed over), tag 1, 250 buffers free\n\
             =>            forwarded to vm2\n"
        );
    }

    #[test]
    fn what_was_not_looked_at_has_none() {
        let report = TraceReport {
            vlan: None,
            learning: None,
            lookup: None,
            verdict: Verdict::Dropped,
            drop: Some("spoofed_source".into()),
            copies: Vec::new(),
            ..report()
        };
        let text = render(&report);
        assert!(!text.contains("VLAN") && !text.contains("look-up"), "{text}");
        assert!(text.ends_with("=>            dropped: spoofed_source, counted for vm1\n"), "{text}");
    }

    #[test]
    fn pairs_have_a_comma() {
        assert_eq!(pair::<u16>("1,2"), Ok((1, 2)));
        assert!(pair::<u16>("1").is_err() && pair::<u16>("1,x").is_err() && pair::<IpAddr>("10.0.0.1,fd00::1").is_ok());
    }
}
