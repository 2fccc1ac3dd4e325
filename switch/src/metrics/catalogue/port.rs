//! Metrics of ports: guests and uplinks.

use vm_ports::RingFault;

use crate::metrics::entry::{Entry, Read::Port, counter, gauge, info, unknown};
use crate::metrics::text::Out;
use crate::snapshot::{PortKind, PortSnapshot, PortState};
use crate::words;

/// Statistics of a driver that are shown of one uplink, at most: some drivers have thousands.
pub(in crate::metrics) const DEVICE_STATS_MAX: usize = 512;

const GUEST_STATES: [PortState; 4] = [PortState::Waiting, PortState::Connected, PortState::Running, PortState::Stopped];
const UPLINK_STATES: [PortState; 2] = [PortState::Up, PortState::Down];

#[rustfmt::skip]
pub(super) const ENTRIES: &[Entry] = &[
    info("sidecore_port_info", &["kind", "socket", "device", "driver", "mac"], Port(port_info),
        "What identifies a port."),
    gauge("sidecore_port_state", Port(port_state),
        "1 for the state a port is in, 0 for those it could be in.")
        .labelled(&["state"], GUEST_STATES.len()),
    gauge("sidecore_port_mtu_bytes", Port(|p, out| out.some(p.mtu.map(f64::from))),
        "The MTU configured, or the device's."),
    counter("sidecore_port_ring_faults_total", Port(|p, out| {
            out.each(&p.faults, RingFault::ALL.iter().map(|fault| fault.as_str()));
        }), "Rings stopped because of what the guest wrote there, by reason.")
        .labelled(&["reason"], RingFault::ALL.len()).guests(),
    info("sidecore_guest_vm_info", &["vm_name", "vm_uuid"], Port(vm_info),
        "The virtual machine behind a guest's port, where the configuration names it (vm_name, vm_uuid).").guests(),
    info("sidecore_guest_info", &["ring", "features", "feature_names"], Port(guest_info),
        "What a guest negotiated: its ring format and its virtio features, as bits and by name.").guests(),
    gauge("sidecore_guest_queue_pairs", Port(|p, out| out.some(p.negotiated.as_ref().map(|n| n.queue_pairs as f64))),
        "Queue pairs a guest has started.").guests(),
    gauge("sidecore_guest_memory_bytes", Port(|p, out| out.some(p.negotiated.as_ref().map(|n| n.memory_bytes as f64))),
        "Memory a guest shares with the switch.").guests(),
    counter("sidecore_port_connections_total", Port(|p, out| out.count(p.session.connections)),
        "Frontends that connected to a guest's port.").guests(),
    counter("sidecore_port_requests_total", Port(|p, out| out.count(p.session.requests)),
        "vhost-user requests of a guest's frontend, refused ones included.").guests(),
    counter("sidecore_port_refused_requests_total", Port(|p, out| out.count(p.session.refused)),
        "vhost-user requests that were refused, and connections closed over one.").guests(),
    counter("sidecore_port_ring_refusals_total", Port(|p, out| out.count(p.session.ring_refusals)),
        "Times a ring that a guest's frontend had set up could not be started.").guests(),
    gauge("sidecore_uplink_link_bytes_per_second", Port(|p, out| {
            out.some(p.uplink.as_ref().and_then(|u| u.link_mbps).map(|mbps| f64::from(mbps) * 1e6 / 8.0));
        }), "Speed of an uplink's link, where its device knows it.").uplinks(),
    counter("sidecore_uplink_errors_total", Port(|p, out| {
            if let Some(uplink) = &p.uplink {
                let errors = uplink.errors;
                out.labelled(&["rx_missed"], errors.rx_missed as f64);
                out.labelled(&["rx_errors"], errors.rx_errors as f64);
                out.labelled(&["rx_no_mbuf"], errors.rx_no_mbuf as f64);
                out.labelled(&["tx_errors"], errors.tx_errors as f64);
            }
        }), "Packets that an uplink's device lost: missed because nobody took them in time, broken, without a buffer, or not sent.")
        .labelled(&["kind"], 4).uplinks(),
    gauge("sidecore_uplink_mempool_mbufs", Port(|p, out| out.some(p.uplink.as_ref().map(|u| u.mbufs as f64))),
        "Packet buffers in an uplink's pool, free or not.").uplinks(),
    gauge("sidecore_uplink_mempool_free_mbufs", Port(|p, out| out.some(p.uplink.as_ref().map(|u| u.mbufs_free as f64))),
        "Packet buffers in an uplink's pool that are free; those in receive rings are not.").uplinks(),
    gauge("sidecore_uplink_flow_rules", Port(|p, out| out.some(p.steering.as_ref().map(|s| s.rules.len() as f64))),
        "Rules in an uplink's device that steer a guest's packets to the RX queue of its I/O core.").uplinks(),
    counter("sidecore_uplink_flow_refusals_total", Port(|p, out| out.some(p.steering.as_ref().map(|s| s.refusals as f64))),
        "Rules that the driver of an uplink did not take.").uplinks(),
    counter("sidecore_uplink_handed_over_packets_total", Port(|p, out| {
            out.some(p.steering.as_ref().map(|s| s.handed_over as f64));
        }), "Packets an uplink received on another I/O core than that of the port they were for.").uplinks(),
    unknown("sidecore_uplink_device_stat", Port(device_stats),
        "The statistics of an uplink's driver (xstats) under the driver's names; most only go up.")
        .labelled(&["stat"], DEVICE_STATS_MAX).uplinks(),
    gauge("sidecore_uplink_device_stats_left_out", Port(|p, out| {
            out.count(p.xstats.len().saturating_sub(DEVICE_STATS_MAX) as u64);
        }), "Statistics of an uplink's driver that are not shown, since there are too many.").uplinks(),
];

fn port_info(port: &PortSnapshot, out: &mut Out<'_>) {
    let [socket, device, driver, mac] =
        [&port.socket, &port.device, &port.driver, &port.mac].map(|text| text.as_deref().unwrap_or_default());
    out.info(&[words::kind(port.kind), socket, device, driver, mac]);
}

fn port_state(port: &PortSnapshot, out: &mut Out<'_>) {
    let states: &[PortState] = if port.kind == PortKind::Guest { &GUEST_STATES } else { &UPLINK_STATES };
    out.one_of(words::state(port.state), states.iter().map(|state| words::state(*state)));
}

fn vm_info(port: &PortSnapshot, out: &mut Out<'_>) {
    if port.vm_name.is_some() || port.vm_uuid.is_some() {
        out.info(&[&port.vm_name, &port.vm_uuid].map(|text| text.as_deref().unwrap_or_default()));
    }
}

fn guest_info(port: &PortSnapshot, out: &mut Out<'_>) {
    if let Some(negotiated) = &port.negotiated {
        out.info(&[&negotiated.ring, &negotiated.features, &negotiated.feature_names.join(" ")]);
    }
}

/// Those of the whole device first: where there are too many, those of single queues are left out.
fn device_stats(port: &PortSnapshot, out: &mut Out<'_>) {
    let whole = port.xstats.iter().filter(|(name, _)| !is_of_a_queue(name));
    let of_queues = port.xstats.iter().filter(|(name, _)| is_of_a_queue(name));
    for (name, value) in whole.chain(of_queues).take(DEVICE_STATS_MAX) {
        out.labelled(&[name], *value as f64);
    }
}

/// Drivers name them rx_q0_packets, rx_q0packets, tx_queue_3_bytes and alike.
fn is_of_a_queue(name: &str) -> bool {
    let after =
        |word: &str| name.split_once(word).is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()));
    after("_q") || after("_queue_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_of_single_queues_are_known_by_their_names() {
        assert!(["rx_q0_packets", "tx_q12bytes", "rx_queue_3_bytes"].into_iter().all(is_of_a_queue));
        assert!(!["rx_good_packets", "rx_quiet", "tx_queue_full"].into_iter().any(is_of_a_queue));
    }
}
