//! The cores' answers, as they are reported.

use vm_ports::{RingFault, TxDrop};

use super::{EgressPort, IngressPort, Outlook, Question, Ring, Seen};
use crate::forwarding::{DropReason, Egress, Entry, Ingress, Learning, MacAddr, PortId, Target};
use crate::snapshot::FdbSnapshot;
use crate::trace::{
    CopyIs, CopyReport, Intake, LearningIs, LearningReport, LookupReport, PolicingReport, SourceIs, TraceQuery,
    TraceReport, TracedPacket, Verdict,
};

/// Everything there is to report of.
pub(super) struct Traced<'t> {
    pub(super) query: &'t TraceQuery,
    pub(super) from: &'t IngressPort<'t>,
    /// The core that was asked.
    pub(super) core: usize,
    /// Source and destination.
    pub(super) addresses: (MacAddr, MacAddr),
    pub(super) source_is: SourceIs,
    pub(super) question: Question,
}

impl Traced<'_> {
    /// The report; `name` gives ports their names.
    pub(super) fn report(self, name: impl Fn(PortId) -> String) -> TraceReport {
        let Self { query, from, core, addresses: (source, destination), source_is, question } = self;
        let Question { frame, ring, seconds, seen, .. } = question;
        let entry = |entry: Entry| FdbSnapshot {
            vlan: entry.vlan.get(),
            mac: entry.mac.to_string(),
            port: name(entry.port),
            fixed: entry.fixed,
            // Another core's clock may be a little ahead.
            age_s: if entry.fixed { 0 } else { (seconds.wrapping_sub(entry.seen) as i32).max(0) as u64 },
        };
        let ingress = seen.outcome.ok().map(|(ingress, _)| ingress);
        let copies: Vec<CopyReport> =
            seen.egress_ports.iter().map(|to| copy(to, ingress, core, name(to.port))).collect();
        let intake = intake(ring);
        let (verdict, drop) = verdict(&intake, &seen, &copies);
        let learning = seen.learning.map(|(learning, known)| learning_report(learning, known.map(entry)));
        TraceReport {
            packet: TracedPacket {
                port: query.from.clone(),
                queue: from.queue,
                source: source.to_string(),
                source_is,
                destination: destination.to_string(),
                tag: query.vlan,
                bytes: frame.len() as u32,
            },
            io_core: core,
            intake,
            only_source: seen.only_source.map(|mac| mac.to_string()),
            vlan: seen.vlan.map(|vlan| vlan.get()),
            learning,
            lookup: seen.lookup.map(|found| LookupReport { entry: found.map(entry) }),
            policing: seen.tokens.map(|tokens| PolicingReport { tokens }),
            verdict,
            drop: drop.map(str::to_owned),
            copies,
        }
    }
}

fn intake(ring: Option<Ring>) -> Intake {
    match ring {
        None => Intake::NotStarted,
        Some(Ring::Served) => Intake::Served,
        Some(Ring::Disabled) => Intake::Disabled,
        Some(Ring::Stopped(fault)) => Intake::Stopped(RingFault::as_str(fault).to_owned()),
    }
}

/// What becomes of it, and why it goes no further.
fn verdict(intake: &Intake, seen: &Seen, copies: &[CopyReport]) -> (Verdict, Option<&'static str>) {
    match intake {
        Intake::NotStarted | Intake::Stopped(_) => return (Verdict::NotPulled, None),
        Intake::Disabled => return (Verdict::Dropped, Some(TxDrop::RingDisabled.as_str())),
        Intake::Served => {}
    }
    match (seen.outcome, seen.egress_ports.first().zip(copies.first())) {
        (Err(reason), _) => (Verdict::Dropped, Some(reason.as_str())),
        (Ok((_, Target::Flood)), _) => (Verdict::Flooded, None),
        (Ok((_, Target::One(_))), Some((to, copy))) if copy.outcome == CopyIs::Dropped => {
            (Verdict::Dropped, why(to).map(DropReason::as_str))
        }
        (Ok((_, Target::One(_))), _) => (Verdict::Forwarded, None),
    }
}

fn learning_report(learning: Learning, entry: Option<FdbSnapshot>) -> LearningReport {
    let (outcome, refusal) = match learning {
        Learning::Known => (LearningIs::Known, None),
        Learning::Refresh => (LearningIs::Refreshed, None),
        Learning::New => (LearningIs::New, None),
        Learning::Move(_) => (LearningIs::Moved, None),
        Learning::Refused(refusal) => (LearningIs::Refused, Some(refusal.as_str().to_owned())),
    };
    LearningReport { outcome, refusal, entry }
}

/// Why a packet goes nowhere on this way.
fn why(to: &EgressPort) -> Option<DropReason> {
    match (to.receiver, to.outlook) {
        (Err(reason), _) | (_, Some(Outlook::Drop(reason))) => Some(reason),
        _ => None,
    }
}

fn copy(to: &EgressPort, ingress: Option<Ingress>, core: usize, port: String) -> CopyReport {
    let receiver = to.receiver.ok();
    let drop = why(to);
    let outcome = match to.outlook {
        _ if drop.is_some() => CopyIs::Dropped,
        Some(Outlook::Waits) => CopyIs::Waits,
        _ => CopyIs::Delivered,
    };
    let tagged = to.egress == Some(Egress::Tagged);
    CopyReport {
        port,
        queue: receiver.map(|receiver| receiver.queue),
        io_core: receiver.map(|receiver| receiver.core.into()),
        handed_over: receiver.is_some_and(|receiver| usize::from(receiver.core) != core),
        tag: ingress.filter(|_| tagged).map(|ingress| ingress.vlan.get()),
        bytes: to.len as u32,
        outcome,
        drop: drop.map(|reason| reason.as_str().to_owned()),
        buffers: match to.outlook {
            Some(Outlook::Room(buffers)) => Some(buffers),
            _ => None,
        },
    }
}
