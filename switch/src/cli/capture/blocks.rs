//! A pcapng file as it comes in: cut at its blocks, so that what is written is whole at every moment, and what it says besides packets.

use anyhow::{Result, anyhow, bail};
use pcap_file::pcapng::blocks::interface_statistics::InterfaceStatisticsOption;
use pcap_file::pcapng::{Block, PcapNgReader};

/// Type and length, and the length again at the end.
const FRAME: usize = 12;
/// No block is as long. A switch that says so is none.
const BLOCK_MAX: usize = 1 << 20;
const PACKET: u32 = 6;

/// What has come.
#[derive(Default)]
pub(super) struct Blocks {
    pending: Vec<u8>,
    /// Bytes of `pending` that are whole blocks.
    whole: usize,
    written: u64,
    /// The same file without its packets.
    described: Vec<u8>,
}

/// What the file says at its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// What was counted, for each port.
    pub(super) ports: Vec<String>,
    /// Why it ended.
    pub(super) end: String,
}

impl Blocks {
    /// More of it.
    pub(super) fn add(&mut self, bytes: &[u8]) -> Result<()> {
        self.pending.extend_from_slice(bytes);
        while let Some(rest) = self.pending.get(self.whole..).filter(|rest| rest.len() >= 8) {
            let number = |at: usize| u32::from_be_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
            let (kind, len) = (number(0), number(4) as usize);
            if !(FRAME..=BLOCK_MAX).contains(&len) || len % 4 != 0 {
                bail!("the switch sends no pcapng file; use the sidecore that was started there");
            }
            let Some(block) = rest.get(..len) else { break };
            if kind != PACKET {
                self.described.extend_from_slice(block);
            }
            self.whole += len;
        }
        Ok(())
    }

    /// Blocks that can be written.
    pub(super) fn whole(&self) -> &[u8] {
        &self.pending[..self.whole]
    }

    /// Those have been written.
    pub(super) fn clear(&mut self) {
        self.written += self.whole as u64;
        self.pending.drain(..std::mem::take(&mut self.whole));
    }

    /// Bytes that were written.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// What is said at the end; an error where that did not come.
    pub(super) fn said(&self) -> Result<Said> {
        let broken = || anyhow!("the switch broke the capture off: its log says why; what came before is in the file");
        let mut reader = PcapNgReader::new(&*self.described).map_err(|_| broken())?;
        let mut said = Said { ports: Vec::new(), end: String::new() };
        while let Some(block) = reader.next_block() {
            let Block::InterfaceStatistics(statistics) = block.map_err(|_| broken())? else { continue };
            let mut comments = statistics.options.iter().filter_map(|option| match option {
                InterfaceStatisticsOption::Comment(text) => Some(text.to_string()),
                _ => None,
            });
            said.ports.extend(comments.next());
            said.end = comments.next().unwrap_or_default();
        }
        if said.ports.is_empty() { Err(broken()) } else { Ok(said) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(kind: u32, body: &[u8]) -> Vec<u8> {
        let len = (body.len() + FRAME) as u32;
        [&kind.to_be_bytes()[..], &len.to_be_bytes(), body, &len.to_be_bytes()].concat()
    }

    fn comment(text: &str) -> Vec<u8> {
        let padding = vec![0; text.len().next_multiple_of(4) - text.len()];
        [&[0, 1][..], &(text.len() as u16).to_be_bytes(), text.as_bytes(), &padding].concat()
    }

    fn file() -> Vec<u8> {
        let section = block(0x0a0d_0d0a, &[0x1a, 0x2b, 0x3c, 0x4d, 0, 1, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255]);
        let interface = block(1, &[0, 1, 0, 0, 0, 0, 1, 0]);
        let packet = block(PACKET, &[[0; 12].as_slice(), &[0, 0, 0, 3, 0, 0, 0, 9, 1, 2, 3, 0]].concat());
        let statistics = block(5, &[vec![0; 12], comment("vm1: 1 packet"), comment("it is over"), vec![0; 4]].concat());
        [section, interface, packet.clone(), packet, statistics].concat()
    }

    #[test]
    fn it_is_cut_at_blocks_and_says_what_it_says() {
        let file = file();
        for portion in [1, 7, 64, 1000] {
            let (mut blocks, mut written) = (Blocks::default(), Vec::new());
            for part in file.chunks(portion) {
                assert!(blocks.said().is_err(), "it is not over");
                blocks.add(part).unwrap();
                written.extend_from_slice(blocks.whole());
                blocks.clear();
            }
            assert_eq!(written, file);
            assert_eq!(blocks.written(), file.len() as u64);
            assert_eq!(blocks.said().unwrap(), Said { ports: vec!["vm1: 1 packet".into()], end: "it is over".into() });
        }
    }

    #[test]
    fn what_is_no_pcapng_is_not_collected() {
        for bad in [b"HTTP/1.1 200 OK\r\n".as_slice(), &[0; 8], &[0, 0, 0, 6, 0, 0, 0, 13]] {
            assert!(Blocks::default().add(bad).is_err(), "{bad:?}");
        }
    }
}
