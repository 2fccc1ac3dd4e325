//! What is captured, as a pcapng file: one interface for each port, by its name; nanoseconds; which way each packet went; and at the end what was
//! counted.
//!
//! Numbers are big-endian: the crate writes the time of statistics as one number of 64 bits, and in pcapng its upper half comes first.

use std::borrow::Cow;
use std::time::Duration;

use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption};
use pcap_file::pcapng::blocks::interface_statistics::{InterfaceStatisticsBlock, InterfaceStatisticsOption};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::pcapng::{PcapNgBlock, PcapNgWriter};
use pcap_file::{DataLink, Endianness, PcapError};

use super::record::{Direction, Record};
use super::tap::Missed;

/// 10⁻⁹ s.
const NANOSECONDS: u8 = 9;
/// How an `if_filter` begins that is an expression, not a program.
const EXPRESSION: u8 = 0;
/// Directions in `epb_flags`.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;
/// Bytes of a packet's block beside the packet, at most.
pub(super) const PACKET_OVERHEAD: u64 = 72;
/// Bytes of an interface's statistics, at most.
pub(super) const STATISTICS_MAX: u64 = 1024;

/// A port, as it is shown.
#[derive(Debug, Clone)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) description: String,
}

/// What was counted of a port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) seen: u64,
    pub(super) unmatched: u64,
    pub(super) recorded: u64,
    pub(super) written: u64,
    pub(super) missed: [u64; Missed::ALL.len()],
}

/// The file. Its bytes are in memory until somebody takes them.
pub(super) struct File {
    writer: PcapNgWriter<Vec<u8>>,
    /// Bytes that were taken.
    taken: u64,
}

impl File {
    /// A file that begins after `before`, with these interfaces.
    pub(super) fn begin(
        before: Vec<u8>,
        interfaces: &[Interface],
        snaplen: u32,
        filter: Option<&str>,
    ) -> Result<Self, PcapError> {
        let application = concat!("sidecore ", env!("CARGO_PKG_VERSION"));
        let options = vec![SectionHeaderOption::UserApplication(Cow::Borrowed(application))];
        let section = SectionHeaderBlock { endianness: Endianness::Big, options, ..SectionHeaderBlock::default() };
        let mut file = Self { writer: PcapNgWriter::with_section_header(before, section)?, taken: 0 };
        for Interface { name, description } in interfaces {
            let mut options = vec![
                InterfaceDescriptionOption::IfName(Cow::Borrowed(name)),
                InterfaceDescriptionOption::IfDescription(Cow::Borrowed(description)),
                InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
            ];
            if let Some(filter) = filter {
                let bytes = std::iter::once(EXPRESSION).chain(filter.bytes()).collect();
                options.push(InterfaceDescriptionOption::IfFilter(Cow::Owned(bytes)));
            }
            file.put(InterfaceDescriptionBlock { linktype: DataLink::ETHERNET, snaplen, options });
        }
        Ok(file)
    }

    /// A packet, recorded `ns` nanoseconds after 1970.
    pub(super) fn packet(&mut self, record: &Record, ns: u64, bytes: &[u8]) {
        let flags = match record.direction {
            Direction::From => INBOUND,
            Direction::To => OUTBOUND,
        };
        let mut options = vec![EnhancedPacketOption::Flags(flags)];
        if record.missed > 0 {
            options.push(EnhancedPacketOption::DropCount(record.missed.into()));
        }
        self.put(EnhancedPacketBlock {
            interface_id: record.interface.into(),
            timestamp: Duration::from_nanos(ns),
            original_len: record.len,
            data: Cow::Borrowed(bytes),
            options,
        });
    }

    /// What was counted of a port between two times, and what is to be said to people.
    pub(super) fn statistics(&mut self, interface: u32, (start, end): (u64, u64), counts: &Counts, says: &[String]) {
        let [time, rate, room] = counts.missed;
        let mut options = vec![
            InterfaceStatisticsOption::IsbStartTime(start),
            InterfaceStatisticsOption::IsbEndTime(end),
            InterfaceStatisticsOption::IsbIfRecv(counts.seen),
            InterfaceStatisticsOption::IsbIfDrop(time),
            InterfaceStatisticsOption::IsbFilterAccept(counts.recorded + rate + room),
            InterfaceStatisticsOption::IsbOsDrop(rate + room),
            InterfaceStatisticsOption::IsbUsrDeliv(counts.written),
        ];
        options.extend(says.iter().map(|text| InterfaceStatisticsOption::Comment(Cow::Borrowed(text))));
        self.put(InterfaceStatisticsBlock { interface_id: interface, timestamp: end, options });
    }

    fn put<'b>(&mut self, block: impl PcapNgBlock<'b>) {
        // Memory takes everything, and interfaces come before what names them.
        let written = self.writer.write_pcapng_block(block);
        debug_assert!(written.is_ok(), "{written:?}");
    }

    /// Bytes written so far, those that were taken too.
    pub(super) fn len(&self) -> u64 {
        self.taken + self.writer.get_ref().len() as u64
    }

    /// Bytes that nobody has taken.
    pub(super) fn waiting(&self) -> &[u8] {
        self.writer.get_ref()
    }

    /// The first so many of them have been taken.
    pub(super) fn take(&mut self, bytes: usize) {
        self.taken += bytes as u64;
        self.writer.get_mut().drain(..bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pcap_file::pcapng::{Block, PcapNgReader};

    const FLAGS: EnhancedPacketOption<'static> = EnhancedPacketOption::Flags(INBOUND);

    fn record(interface: u8, direction: Direction, len: u32, kept: u32, missed: u32) -> Record {
        Record { time: 0, len, kept, missed, interface, direction }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let interfaces =
            ["vm1", "wan"].map(|name| Interface { name: name.into(), description: format!("guest {name}") });
        let mut file = File::begin(b"before".to_vec(), &interfaces, 128, Some("udp port 53")).unwrap();
        let data: Vec<u8> = (0..61).collect();
        let ns = 1_790_000_000_123_456_789;
        file.packet(&record(0, Direction::From, 61, 61, 0), ns, &data);
        file.packet(&record(1, Direction::To, 1514, 3, 7), ns + 1, &data[..3]);
        let counts = Counts { seen: 20, unmatched: 3, recorded: 9, written: 8, missed: [2, 1, 5] };
        file.statistics(1, (ns, ns + 5), &counts, &["wan: all is well".to_owned(), "done".to_owned()]);
        assert_eq!(file.len(), file.waiting().len() as u64);
        let text = file.waiting().strip_prefix(b"before").unwrap();
        let mut reader = PcapNgReader::new(text).unwrap();
        let mut blocks = Vec::new();
        while let Some(block) = reader.next_block() {
            blocks.push(block.unwrap().into_owned());
        }
        assert_eq!(blocks.len(), 5);
        for (block, name) in blocks.iter().zip(["vm1", "wan"]) {
            let Block::InterfaceDescription(block) = block else { panic!("{block:?}") };
            assert_eq!((block.linktype, block.snaplen), (DataLink::ETHERNET, 128));
            assert_eq!(block.options[0], InterfaceDescriptionOption::IfName(name.into()));
            assert_eq!(block.options[1], InterfaceDescriptionOption::IfDescription(format!("guest {name}").into()));
            assert_eq!(block.options[2], InterfaceDescriptionOption::IfTsResol(9));
            assert_eq!(block.options[3], InterfaceDescriptionOption::IfFilter(b"\0udp port 53".as_slice().into()));
        }
        let Block::EnhancedPacket(first) = &blocks[2] else { panic!("{blocks:?}") };
        assert_eq!((first.interface_id, first.original_len, &*first.data), (0, 61, &*data));
        assert_eq!((first.timestamp.as_nanos(), &*first.options), (ns.into(), &[FLAGS][..]));
        let Block::EnhancedPacket(second) = &blocks[3] else { panic!("{blocks:?}") };
        assert_eq!((second.interface_id, second.original_len, &*second.data), (1, 1514, &data[..3]));
        let options = [EnhancedPacketOption::Flags(OUTBOUND), EnhancedPacketOption::DropCount(7)];
        assert_eq!((second.timestamp.as_nanos(), &*second.options), (u128::from(ns) + 1, &options[..]));
        let Block::InterfaceStatistics(counted) = &blocks[4] else { panic!("{blocks:?}") };
        assert_eq!((counted.interface_id, counted.timestamp), (1, ns + 5));
        use InterfaceStatisticsOption as Isb;
        for option in
            [Isb::IsbIfRecv(20), Isb::IsbIfDrop(2), Isb::IsbFilterAccept(15), Isb::IsbOsDrop(6), Isb::IsbUsrDeliv(8)]
        {
            assert!(counted.options.contains(&option), "{option:?}");
        }
        assert!(counted.options.contains(&Isb::Comment("wan: all is well".into())));
    }

    #[test]
    fn nothing_is_longer_than_it_may_be() {
        let name = "n".repeat(64);
        let interfaces = [Interface { name: name.clone(), description: format!("uplink {name}") }];
        let mut file = File::begin(Vec::new(), &interfaces, 65_553, None).unwrap();
        for len in 1..10 {
            let before = file.len();
            file.packet(&record(0, Direction::To, 99, len, u32::MAX), u64::MAX, &vec![1; len as usize]);
            assert!(file.len() - before <= u64::from(len) + PACKET_OVERHEAD, "{len}: {}", file.len() - before);
        }
        let most = u64::MAX / 8;
        let counts = Counts { seen: most, unmatched: most, recorded: most, written: most, missed: [most; 3] };
        let before = file.len();
        file.statistics(0, (most, most), &counts, &["x".repeat(300), "y".repeat(200)]);
        assert!(file.len() - before <= STATISTICS_MAX, "{}", file.len() - before);
        file.take(100);
        assert!(file.len() > before && file.waiting().len() as u64 == file.len() - 100);
    }
}
