//! What a capture's file says.

use std::collections::BTreeMap;

use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::blocks::interface_statistics::InterfaceStatisticsOption;
use pcap_file::pcapng::{Block, PcapNgReader};

/// A packet of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Recorded {
    pub(super) port: String,
    pub(super) way: u32,
    pub(super) bytes: Vec<u8>,
    pub(super) len: usize,
    pub(super) ns: u128,
}

/// What a file says.
pub(super) struct Contents {
    pub(super) packets: Vec<Recorded>,
    /// What was said at the end, by port: packets seen, written, and missed.
    pub(super) counts: BTreeMap<String, [u64; 3]>,
    pub(super) comments: Vec<String>,
}

impl Contents {
    /// Frames that passed a port this way.
    pub(super) fn frames(&self, port: &str, way: u32) -> Vec<Vec<u8>> {
        let packets = self.packets.iter().filter(|p| (p.port.as_str(), p.way) == (port, way));
        packets.map(|packet| packet.bytes.clone()).collect()
    }
}

pub(super) fn contents(file: &[u8]) -> Contents {
    let mut reader = PcapNgReader::new(file).unwrap();
    let (mut names, mut packets) = (Vec::new(), Vec::new());
    let (mut counts, mut comments) = (BTreeMap::new(), Vec::new());
    while let Some(block) = reader.next_block() {
        match block.unwrap() {
            Block::InterfaceDescription(interface) => {
                let name = interface.options.iter().find_map(|option| match option {
                    InterfaceDescriptionOption::IfName(name) => Some(name.to_string()),
                    _ => None,
                });
                names.push(name.unwrap());
            }
            Block::EnhancedPacket(packet) => {
                let flags = packet.options.iter().find_map(|option| match option {
                    EnhancedPacketOption::Flags(flags) => Some(*flags),
                    _ => None,
                });
                packets.push(Recorded {
                    port: names[packet.interface_id as usize].clone(),
                    way: flags.unwrap(),
                    bytes: packet.data.to_vec(),
                    len: packet.original_len as usize,
                    ns: packet.timestamp.as_nanos(),
                });
            }
            Block::InterfaceStatistics(statistics) => {
                let mut count = [0; 3];
                for option in &statistics.options {
                    match option {
                        InterfaceStatisticsOption::IsbIfRecv(n) => count[0] = *n,
                        InterfaceStatisticsOption::IsbUsrDeliv(n) => count[1] = *n,
                        InterfaceStatisticsOption::IsbIfDrop(n) | InterfaceStatisticsOption::IsbOsDrop(n) => {
                            count[2] += n
                        }
                        InterfaceStatisticsOption::Comment(text) => comments.push(text.to_string()),
                        _ => {}
                    }
                }
                counts.insert(names[statistics.interface_id as usize].clone(), count);
            }
            _ => {}
        }
    }
    assert!(packets.windows(2).all(|pair| pair[0].ns <= pair[1].ns), "time goes back");
    Contents { packets, counts, comments }
}
