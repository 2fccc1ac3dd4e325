//! Bytes as a virtio-net header and a frame: parsed, tagged, and delivered to a receiver that takes some offloads or
//! none.
//!
//! Checked beyond "no panic": whatever is begun is written to the last byte and not beyond, the link layer's header is
//! not changed by a checksum, and what the receiver is told is something it negotiated and would itself accept.

#![no_main]
#![forbid(unsafe_code)]

use libfuzzer_sys::fuzz_target;
use vm_ports::offload::OffloadError;
use vm_ports::{Burst, BurstBuffer, Features, FrameSink, Gso, NET_HEADER_MAX, Offload, Source, deliver};

#[derive(Default)]
struct Frames(Vec<(Vec<u8>, Vec<bool>, Offload)>);

impl FrameSink for Frames {
    type Error = OffloadError;

    fn begin(&mut self, len: usize, offload: &Offload) -> Result<(), OffloadError> {
        self.0.push((vec![0; len], vec![false; len], *offload));
        Ok(())
    }

    fn write(&mut self, offset: usize, from: Source<'_>) {
        let (frame, written, _) = self.0.last_mut().expect("a frame was begun");
        let range = offset..offset + from.len();
        assert_eq!(from.read(&mut frame[range.clone()]), from.len());
        written[range].fill(true);
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((head, data)) = data.split_first_chunk::<4>() else { return };
    let Some((header, frame)) = data.split_first_chunk::<NET_HEADER_MAX>() else { return };
    // Long frames without long inputs.
    let mut frame = frame.to_vec();
    frame.resize(frame.len() + usize::from(head[0]) * 256, head[1]);
    let sender = Features::data_path();
    let Some(offload) = Offload::parse(header, sender, frame.len()) else { return };
    let bit = |n: u8, feature| if head[2] >> n & 1 == 1 { feature } else { Features::NONE };
    let accepts = bit(0, Features::GUEST_CSUM).with(bit(1, Features::GUEST_TSO4)).with(bit(2, Features::GUEST_TSO6));
    let cut = usize::from(head[3]).min(frame.len());
    let mut buffer = BurstBuffer::default();
    let mut burst = Burst::new(&mut buffer);
    if !burst.push_frame([&frame[..cut], &frame[cut..]], offload) {
        return;
    }
    let packet = burst.packet_mut(0);
    match head[2] >> 6 {
        1 => packet.push_vlan(0x1005),
        2 => drop(packet.pop_vlan()),
        3 => {
            packet.pop_vlan();
            packet.push_vlan(0x2006);
        }
        _ => {}
    }
    let view = burst.view(0);
    let link_layer = if view.packet().vlan_tag().is_some() { 18 } else { 14 };
    let before = view.packet().head()[..link_layer].to_vec();
    let mut frames = Frames::default();
    if deliver(view, accepts, &mut frames).is_err() {
        return;
    }
    assert!(!frames.0.is_empty() && frames.0.len() <= vm_ports::offload::MAX_SEGMENTS);
    for (bytes, written, offload) in &frames.0 {
        assert!(written.iter().all(|w| *w), "a frame has no holes");
        assert_eq!(bytes[..link_layer], before, "addresses and tag are what was judged");
        assert!(!offload.needs_csum || accepts.has(Features::GUEST_CSUM));
        assert!(offload.gso != Gso::TcpV4 || accepts.has(Features::GUEST_TSO4));
        assert!(offload.gso != Gso::TcpV6 || accepts.has(Features::GUEST_TSO6));
        // But for the hint of the headers' length, which means something with segmentation only.
        let hdr_len = if offload.gso == Gso::None { 0 } else { offload.hdr_len };
        let expected = Offload { hdr_len, ..*offload };
        let told = offload.write(accepts, 1);
        assert_eq!(Offload::parse(&told, sender, bytes.len()), Some(expected), "a receiver could send it on");
    }
    if frames.0.len() == 1 && !offload.needs_csum {
        assert_eq!(frames.0[0].0.len(), view.packet().len());
    }
});
