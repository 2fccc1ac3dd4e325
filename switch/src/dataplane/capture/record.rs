//! A packet on its way from an I/O core to the thread that writes it: a header of fixed length, then the bytes that are kept.

use ringbuf::HeapCons;
use ringbuf::traits::{Consumer, Observer};

/// Bytes of the header.
pub(super) const HEADER: usize = 24;

/// Which way a packet went, as the switch sees its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Direction {
    /// It came from the port.
    From,
    /// It left through the port.
    To,
}

/// Everything about a packet but its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    /// When its burst was recorded, in cycles.
    pub(super) time: u64,
    /// Bytes of its frame, and how many of them follow.
    pub(super) len: u32,
    pub(super) kept: u32,
    /// Packets of this interface that this core has missed since the one before.
    pub(super) missed: u32,
    pub(super) interface: u8,
    pub(super) direction: Direction,
}

impl Record {
    pub(super) fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&self.time.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.kept.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.missed.to_le_bytes());
        bytes[20] = self.interface;
        bytes[21] = u8::from(self.direction == Direction::To);
        bytes
    }

    fn from_bytes(bytes: &[u8; HEADER]) -> Self {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Self {
            time: u64::from(word(0)) | u64::from(word(4)) << 32,
            len: word(8),
            kept: word(12),
            missed: word(16),
            interface: bytes[20],
            direction: if bytes[21] == 0 { Direction::From } else { Direction::To },
        }
    }
}

/// What one core has recorded, on the other side.
pub(super) struct Reader {
    ring: HeapCons<u8>,
    /// The header that was read last, while its packet is still in the ring.
    next: Option<Record>,
}

impl Reader {
    pub(super) fn new(ring: HeapCons<u8>) -> Self {
        Self { ring, next: None }
    }

    /// The next packet, if there is one. Cores show packets whole.
    pub(super) fn peek(&mut self) -> Option<Record> {
        if self.next.is_none() && self.ring.occupied_len() >= HEADER {
            let mut header = [0; HEADER];
            self.ring.pop_slice(&mut header);
            self.next = Some(Record::from_bytes(&header));
        }
        self.next
    }

    /// Takes the packet that [`Reader::peek`] showed: its bytes are in `bytes` then.
    pub(super) fn take(&mut self, bytes: &mut Vec<u8>) {
        let Some(record) = self.next.take() else { return };
        bytes.resize(record.kept as usize, 0);
        self.ring.pop_slice(bytes);
    }
}
