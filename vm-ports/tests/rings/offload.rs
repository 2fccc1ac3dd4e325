//! Checksums and segmentation from one guest to another: passed through where the receiver takes them, done in software
//! where it does not, and judged by `etherparse`.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use synthetic_guest::packet::{Checksum, FrameSpec, Ip, Template, Transport};
use synthetic_guest::{Features, Frame, Gso, Offload, RxShape};
use vm_ports::RxDrop;

use crate::bench::{Setup, World, forward, pattern, received};

const SENDER: Features = Features(Features::VERSION_1.0 | Features::OFFLOADS.0);

fn ips(v6: bool) -> Ip {
    if v6 {
        let address = |n| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n);
        Ip::V6(address(1), address(2))
    } else {
        Ip::V4(Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2))
    }
}

fn spec(v6: bool, transport: Transport, len: usize, gso_size: Option<u16>) -> FrameSpec {
    let ip = ips(v6);
    FrameSpec { ip, transport, checksum: Checksum::Partial, gso_size, ..FrameSpec::udp4(1, 2, 7, len) }
}

/// A sender and a receiver; what the receiver's rings are made of is the receiver's.
fn guests(receiver: Features) -> (World, World) {
    let sender = World::new(&Setup::new(SENDER).large(1600));
    let buffer = if receiver.contains(Features::MRG_RXBUF) { 2048 } else { 66_000 };
    (sender, World::new(&Setup::new(receiver).large(buffer)))
}

fn send(from: &mut World, to: &mut World, template: &Template) -> Result<(), RxDrop> {
    from.pair.tx.reclaim();
    let frame = Frame { bytes: template.bytes(), offload: template.offload() };
    assert_eq!(from.pair.tx.send_burst(&[frame]), 1);
    let results = forward(&mut from.tx, &mut to.rx);
    assert_eq!(results.len(), 1, "{:?}", from.counters.tx);
    results[0]
}

fn with_headers(world: &mut World) -> Vec<(Offload, Vec<u8>)> {
    let mut frames = Vec::new();
    world.pair.rx.recv_burst(usize::MAX, |frame| {
        let mut bytes = Vec::new();
        frame.copy_to(&mut bytes);
        frames.push((frame.header(), bytes));
    });
    frames
}

/// The transport payload, and the sequence number of TCP; every length and checksum is right.
fn verified(frame: &[u8]) -> (Vec<u8>, u32) {
    let sliced = SlicedPacket::from_ethernet(frame).expect("a sound frame");
    let net = sliced.net.expect("IP");
    if let NetSlice::Ipv4(ip) = &net {
        let header = ip.header();
        assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
        assert_eq!(14 + usize::from(header.total_len()), frame.len());
    }
    if let NetSlice::Ipv6(ip) = &net {
        assert_eq!(14 + 40 + usize::from(ip.header().payload_length()), frame.len());
    }
    match (sliced.transport.expect("a transport header"), &net) {
        (TransportSlice::Tcp(tcp), NetSlice::Ipv4(ip)) => {
            let right = tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()).expect("short enough");
            assert_eq!(tcp.checksum(), right);
            (tcp.payload().to_vec(), tcp.sequence_number())
        }
        (TransportSlice::Tcp(tcp), NetSlice::Ipv6(ip)) => {
            let right = tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination()).expect("short enough");
            assert_eq!(tcp.checksum(), right);
            (tcp.payload().to_vec(), tcp.sequence_number())
        }
        (TransportSlice::Udp(udp), NetSlice::Ipv4(ip)) => {
            let (header, payload) = (udp.to_header(), udp.payload().to_vec());
            let right = header.calc_checksum_ipv4(&ip.header().to_header(), &payload).expect("short enough");
            assert_eq!(header.checksum, right);
            (payload, 0)
        }
        (TransportSlice::Udp(udp), NetSlice::Ipv6(ip)) => {
            let (header, payload) = (udp.to_header(), udp.payload().to_vec());
            let right = header.calc_checksum_ipv6(&ip.header().to_header(), &payload).expect("short enough");
            assert_eq!(header.checksum, right);
            (payload, 0)
        }
        _ => panic!("neither TCP nor UDP over IP"),
    }
}

fn receivers(bits: Features) -> impl Iterator<Item = Features> {
    [
        Features::VERSION_1,
        Features::VERSION_1 | Features::MRG_RXBUF,
        Features::NONE,
        Features::VERSION_1 | Features::RING_PACKED | Features::MRG_RXBUF,
    ]
    .into_iter()
    .map(move |features| features | bits)
}

#[test]
fn a_receiver_that_took_checksums_completes_them_itself() {
    for receiver in receivers(Features::GUEST_CSUM) {
        let (mut from, mut to) = guests(receiver);
        let template = Template::new(spec(false, Transport::Udp, 700, None));
        send(&mut from, &mut to, &template).expect("room");
        let frames = with_headers(&mut to);
        assert_eq!(frames[0].1, template.bytes());
        let header = frames[0].0;
        assert_eq!((header.flags, header.csum_start, header.csum_offset), (Offload::NEEDS_CSUM, 34, 6));
    }
}

#[test]
fn checksums_are_completed_for_a_receiver_that_did_not_take_them() {
    for receiver in receivers(Features::NONE) {
        for (v6, transport) in
            [(false, Transport::Udp), (false, Transport::Tcp), (true, Transport::Udp), (true, Transport::Tcp)]
        {
            let (mut from, mut to) = guests(receiver);
            for len in [60, 80, 193, 255, 256, 257, 1514, 1515, 1536, 9001, 60_001] {
                let template = Template::new(spec(v6, transport, len, None));
                send(&mut from, &mut to, &template).expect("room");
                let frames = with_headers(&mut to);
                assert_eq!(frames.len(), 1);
                let (header, bytes) = &frames[0];
                assert_eq!((header.flags, header.gso, header.csum_start), (0, Gso::None, 0));
                if bytes.len() > 60 {
                    assert_eq!(verified(bytes).0, template.bytes()[bytes.len() - verified(bytes).0.len()..]);
                }
            }
        }
    }
}

#[test]
fn a_receiver_that_took_segments_gets_them_untouched() {
    let takes = Features::GUEST_CSUM | Features::GUEST_TSO4 | Features::GUEST_TSO6;
    for receiver in receivers(takes) {
        for v6 in [false, true] {
            let (mut from, mut to) = guests(receiver);
            let template = Template::new(spec(v6, Transport::Tcp, 64_000, Some(1448)));
            send(&mut from, &mut to, &template).expect("room");
            let frames = with_headers(&mut to);
            assert_eq!(frames.len(), 1);
            assert_eq!(frames[0].1, template.bytes());
            let sent = template.offload();
            let header = frames[0].0;
            assert_eq!((header.flags, header.gso, header.gso_size), (sent.flags, sent.gso, sent.gso_size));
            assert_eq!((header.csum_start, header.csum_offset), (sent.csum_start, sent.csum_offset));
        }
    }
}

/// TSO for one IP version is none for the other.
#[test]
fn segments_are_cut_for_a_receiver_that_did_not_take_them() {
    let partly = [Features::NONE, Features::GUEST_CSUM, Features::GUEST_CSUM | Features::GUEST_TSO6];
    for receiver in partly.into_iter().flat_map(receivers) {
        let versions: &[bool] = if receiver.contains(Features::GUEST_TSO6) { &[false] } else { &[false, true] };
        for &v6 in versions {
            for (len, size) in [(64_000, 1448u16), (5000, 100), (200, 1000), (20_000, 8960), (60_001, 255)] {
                let (mut from, mut to) = guests(receiver);
                // Many small segments: more buffers than one fill has.
                let template = Template::new(spec(v6, Transport::Tcp, len, Some(size)));
                let payload = len - template.stamp_at();
                let segments = payload.div_ceil(usize::from(size));
                let sent = send(&mut from, &mut to, &template);
                if segments > 128 {
                    assert_eq!(sent, Err(RxDrop::Full), "{len} {size}");
                    continue;
                }
                sent.expect("room");
                let frames = with_headers(&mut to);
                assert_eq!(frames.len(), segments, "{len} {size}");
                let mut joined = Vec::new();
                for (header, bytes) in &frames {
                    let mut bytes = bytes.clone();
                    assert_eq!(header.gso, Gso::None);
                    assert_eq!(header.flags != 0, receiver.contains(Features::GUEST_CSUM));
                    if header.flags != 0 {
                        complete(&mut bytes, header);
                    }
                    let (payload, sequence) = verified(&bytes);
                    assert_eq!(sequence as usize, joined.len());
                    assert!(
                        payload.len() == usize::from(size) || joined.len() + payload.len() == len - template.stamp_at()
                    );
                    joined.extend(payload);
                }
                assert_eq!(joined, template.bytes()[template.stamp_at()..]);
            }
        }
    }
}

/// What a receiver does with NEEDS_CSUM, word by word (RFC 1071).
fn complete(frame: &mut [u8], header: &Offload) {
    let (start, at) = (usize::from(header.csum_start), usize::from(header.csum_start + header.csum_offset));
    let words = frame[start..].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    frame[at..at + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

#[test]
fn software_segmentation_is_all_or_nothing() {
    for format in
        [Features::NONE, Features::RING_PACKED, Features::RING_PACKED | Features::MRG_RXBUF, Features::MRG_RXBUF]
    {
        let mut from = World::new(&Setup::new(SENDER).large(1600));
        let setup =
            Setup { rx_buffer_len: 800, rx_shape: RxShape::HeaderSeparate, ..Setup::new(Features::VERSION_1 | format) };
        let mut to = World::new(&setup.ring(32));
        // 40 segments of 700 bytes for 32 buffers, and for half as many where a buffer is two descriptors.
        let long = Template::new(spec(false, Transport::Tcp, 28_000, Some(700)));
        let short = Template::new(spec(false, Transport::Tcp, 2100, Some(700)));
        for round in 0..200 {
            assert_eq!(send(&mut from, &mut to, &long), Err(RxDrop::Full), "{format:?} {round}");
            assert!(received(&mut to.pair).is_empty(), "nothing of it is seen");
            send(&mut from, &mut to, &short).expect("three buffers");
            let frames = received(&mut to.pair);
            assert_eq!(frames.len(), 3);
            let joined: Vec<u8> = frames.iter().flat_map(|frame| verified(frame).0).collect();
            assert_eq!(joined, short.bytes()[short.stamp_at()..]);
        }
        assert_eq!(to.pair.rx.ring().violations(), 0);
        assert_eq!(to.refused(RxDrop::Full), 200);
        assert_eq!(to.counters.rx.packets.get(), 600);
    }
}

#[test]
fn a_segment_too_long_for_its_buffer_rolls_all_of_them_back() {
    let mut from = World::new(&Setup::new(SENDER).large(1600));
    let mut to = World::new(&Setup { rx_buffer_len: 300, ..Setup::new(Features::VERSION_1).ring(32) });
    let template = Template::new(spec(false, Transport::Tcp, 3000, Some(700)));
    assert_eq!(send(&mut from, &mut to, &template), Err(RxDrop::BufferTooSmall));
    assert!(received(&mut to.pair).is_empty());
    assert_eq!(to.pair.rx.in_flight(), 32);
    assert_eq!(crate::bench::push(&mut to.rx, &pattern(200, 1)), Ok(()));
}

#[test]
fn metadata_that_is_not_about_its_packet_is_refused_where_software_would_act_on_it() {
    let template = Template::new(spec(false, Transport::Tcp, 3000, Some(700)));
    let lies: [fn(&mut Offload); 4] = [
        |o| o.csum_start = 35,
        |o| o.csum_offset = 18,
        |o| o.gso = Gso::Tcp6,
        // 2,946 bytes of payload, one at a time.
        |o| o.gso_size = 1,
    ];
    for lie in lies {
        let (mut from, mut to) = guests(Features::VERSION_1);
        let mut offload = template.offload();
        lie(&mut offload);
        let frame = Frame { bytes: template.bytes(), offload };
        assert_eq!(from.pair.tx.send_burst(&[frame]), 1);
        assert_eq!(forward(&mut from.tx, &mut to.rx), [Err(RxDrop::BadOffload)], "{offload:?}");
        assert!(received(&mut to.pair).is_empty());
        send(&mut from, &mut to, &template).expect("the next one");
    }
    // hdr_len is a hint: garbage in it changes nothing.
    let (mut from, mut to) = guests(Features::VERSION_1);
    let offload = Offload { header_len: 0xffff, ..template.offload() };
    assert_eq!(from.pair.tx.send_burst(&[Frame { bytes: template.bytes(), offload }]), 1);
    assert_eq!(forward(&mut from.tx, &mut to.rx), [Ok(())]);
}
