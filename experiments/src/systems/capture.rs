//! A capture file for a NIC that delivers its packets again and again.

use anyhow::{Context, Result};

/// Ethernet, in the list of link types of capture files.
const ETHERNET: u32 = 1;

/// An ethertype for local experiments.
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

/// A frame of `length` bytes between two MAC addresses.
pub(super) fn frame(to: &str, from: &str, length: usize) -> Result<Vec<u8>> {
    let mut frame = [address(to)?, address(from)?, ETHERTYPE.to_vec()].concat();
    frame.resize(length, 0);
    Ok(frame)
}

fn address(text: &str) -> Result<Vec<u8>> {
    let octets = text.split(':').map(|octet| u8::from_str_radix(octet, 16));
    octets.collect::<Result<_, _>>().with_context(|| format!("{text} is no MAC address"))
}

/// A file with `count` copies of a frame.
pub(super) fn file(frame: &[u8], count: usize) -> Vec<u8> {
    // Magic number, version 2.4, time zone, accuracy, longest packet, link type; in this machine's byte order.
    let version = u32::from(2_u16) | u32::from(4_u16) << 16;
    let mut file: Vec<u8> =
        [0xa1b2_c3d4, version, 0, 0, 65_535, ETHERNET].into_iter().flat_map(u32::to_ne_bytes).collect();
    let length = frame.len() as u32;
    for _ in 0..count {
        // Seconds, microseconds, bytes here, bytes on the wire.
        file.extend([0, 0, length, length].into_iter().flat_map(u32::to_ne_bytes));
        file.extend_from_slice(frame);
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_frames_one_after_the_other() {
        let frame = frame("02:5c:00:00:00:01", "02:5c:fe:00:00:01", 60).unwrap();
        assert_eq!((frame.len(), &frame[..7]), (60, &[2, 0x5c, 0, 0, 0, 1, 2][..]));
        let file = file(&frame, 3);
        assert_eq!(file.len(), 24 + 3 * (16 + 60));
        assert_eq!(file[24 + 16..][..60], frame[..]);
        assert!(super::frame("02:5c", "nobody", 60).is_err());
    }
}
