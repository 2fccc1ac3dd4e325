//! The frame that is asked about.

use std::net::IpAddr;

use config::ValueError;
use vm_ports::{FRAME_MAX, FRAME_MIN};

use crate::forwarding::MacAddr;
use crate::trace::{Flow, TraceQuery, TransportPorts};

/// Bytes of the shortest frame on a wire, without checksum.
const SHORTEST: usize = 60;
/// "For experiments" (IEEE 802), which no protocol is.
const EXPERIMENTAL: u16 = 0x88b5;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Neither: no next header, which IPv4 knows as nothing at all.
const NOTHING: u8 = 59;

/// Headers with these addresses, tag and flow, and zeros behind them.
pub(super) fn build(query: &TraceQuery, source: MacAddr, destination: MacAddr) -> Result<Vec<u8>, ValueError> {
    let mut frame = [destination.0, source.0].concat();
    if let Some(vlan) = query.vlan {
        if vlan > 0x0fff {
            let detail = format!("{vlan} does not fit into a VLAN tag");
            return Err(ValueError::new(detail, "write 1 to 4094, or 0 for a tag that has a priority only"));
        }
        frame.extend([0x81, 0x00]);
        frame.extend(vlan.to_be_bytes());
    }
    let l3 = frame.len() + 2;
    let headers = l3 + query.flow.map_or(0, |flow| ip_len(flow) + 20);
    let size = query.size.map_or(SHORTEST.max(headers), |size| size as usize);
    if !(headers.max(FRAME_MIN)..=FRAME_MAX).contains(&size) {
        let detail = format!("a frame of {size} bytes is not possible");
        return Err(ValueError::new(detail, format!("write {} to {FRAME_MAX}", headers.max(FRAME_MIN))));
    }
    match query.flow {
        None => frame.extend(EXPERIMENTAL.to_be_bytes()),
        Some(flow) => ip(&mut frame, flow, size - l3)?,
    }
    frame.resize(size, 0);
    Ok(frame)
}

fn ip_len(flow: Flow) -> usize {
    if flow.ip.0.is_ipv4() { 20 } else { 40 }
}

/// An IP header for a packet of `len` bytes, and the ports behind it.
fn ip(frame: &mut Vec<u8>, flow: Flow, len: usize) -> Result<(), ValueError> {
    let (protocol, ports) = match flow.transport {
        Some(TransportPorts::Tcp(from, to)) => (TCP, Some((from, to))),
        Some(TransportPorts::Udp(from, to)) => (UDP, Some((from, to))),
        None => (NOTHING, None),
    };
    let beyond = |_| ValueError::new(format!("an IP packet of {len} bytes is not possible"), "write a smaller size");
    let total = u16::try_from(len).map_err(beyond)?.to_be_bytes();
    match flow.ip {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            frame.extend([0x08, 0x00, 0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, protocol, 0, 0]);
            frame.extend(from.octets());
            frame.extend(to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let payload = (len as u16).saturating_sub(40).to_be_bytes();
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, payload[0], payload[1], protocol, 64]);
            frame.extend(from.octets());
            frame.extend(to.octets());
        }
        (from, to) => {
            let detail = format!("{from} and {to} are not of one family");
            return Err(ValueError::new(detail, "write two IPv4 addresses or two IPv6 addresses"));
        }
    }
    if let Some((from, to)) = ports {
        frame.extend([from.to_be_bytes(), to.to_be_bytes()].concat());
        if protocol == TCP {
            // Sequence and acknowledgement, then a header of five words.
            frame.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10]);
        } else {
            frame.extend(((len - ip_len(flow)) as u16).to_be_bytes());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_ports::offload::{Transport, parse};

    fn built(query: TraceQuery) -> Result<Vec<u8>, ValueError> {
        build(&query, MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]))
    }

    #[test]
    fn what_is_asked_for_is_in_the_frame() {
        let plain = built(TraceQuery::default()).unwrap();
        assert_eq!((plain.len(), &plain[12..14]), (60, &[0x88, 0xb5][..]));
        let tagged = built(TraceQuery { vlan: Some(10), ..TraceQuery::default() }).unwrap();
        assert_eq!(tagged[12..18], [0x81, 0, 0, 10, 0x88, 0xb5]);
        for (ip, l4) in [(["10.0.0.1", "10.0.0.2"], 34), (["fd00::1", "fd00::2"], 54)] {
            let ip = (ip[0].parse().unwrap(), ip[1].parse().unwrap());
            for (transport, found) in [
                (Some(TransportPorts::Tcp(1, 2)), Transport::Tcp),
                (Some(TransportPorts::Udp(1, 2)), Transport::Udp),
                (None, Transport::Other),
            ] {
                let flow = Some(Flow { ip, transport });
                let frame = built(TraceQuery { flow, size: Some(1000), ..TraceQuery::default() }).unwrap();
                let headers = parse(&frame[..192]).unwrap();
                assert_eq!((frame.len(), headers.l4, headers.transport), (1000, l4, found));
                if transport.is_some() {
                    assert_eq!(frame[usize::from(l4)..][..4], [0, 1, 0, 2]);
                }
            }
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let flow =
            |from: &str, to: &str| Some(Flow { ip: (from.parse().unwrap(), to.parse().unwrap()), transport: None });
        for query in [
            TraceQuery { vlan: Some(4096), ..TraceQuery::default() },
            TraceQuery { size: Some(13), ..TraceQuery::default() },
            TraceQuery { size: Some(u32::MAX), ..TraceQuery::default() },
            TraceQuery { size: Some(40), flow: flow("10.0.0.1", "10.0.0.2"), ..TraceQuery::default() },
            TraceQuery { flow: flow("10.0.0.1", "fd00::2"), ..TraceQuery::default() },
        ] {
            assert!(built(query.clone()).is_err(), "{query:?}");
        }
        assert!(built(TraceQuery { size: Some(FRAME_MAX as u32), ..TraceQuery::default() }).is_ok());
    }
}
