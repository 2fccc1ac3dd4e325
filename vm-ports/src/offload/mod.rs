//! Checksums and segmentation in software, for receivers that did not take the offload.
//!
//! Everything here works on local memory: a snapshot of a packet's headers that was read once, and payload bytes that
//! the caller copies. Nothing allocates, and nothing can panic on what a guest wrote: metadata that lies ends in an
//! [`OffloadError`].

#![forbid(unsafe_code)]

mod checksum;
mod flow;
mod headers;
mod segment;

pub use checksum::{Sum, finish_checksum, update};
pub use flow::flow_hash;
pub use headers::{HeaderError, Headers, IpVersion, MAX_HEADERS, Transport, parse};
pub use segment::{Gso, MAX_SEGMENTS, Segment, Segmenter};

/// Why offload metadata and the packet it came with do not fit together. Each is a dropped packet, none stops a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OffloadError {
    /// The headers could not be read.
    #[error("headers: {0}")]
    Headers(#[from] HeaderError),
    /// The checksum's start or its field is not inside the header snapshot.
    #[error("checksum field outside the headers")]
    ChecksumOutside,
    /// The packet is to be segmented, but its checksum metadata does not name the TCP checksum.
    #[error("checksum metadata does not name the TCP checksum")]
    ChecksumNotTcp,
    /// The packet is to be segmented and is not a whole TCP packet with readable headers.
    #[error("not a whole TCP packet")]
    NotTcp,
    /// The IP version is not the one that the GSO type names.
    #[error("IP version is not the GSO type's")]
    WrongVersion,
    /// The IP header's length is not that of the packet.
    #[error("IP length disagrees with the packet's")]
    WrongLength,
    /// SYN or RST: such a packet carries no stream of bytes to cut.
    #[error("SYN or RST on a packet to be segmented")]
    BadFlags,
    /// A segment size of zero.
    #[error("GSO size is zero")]
    ZeroSize,
    /// More than [`MAX_SEGMENTS`] segments would come out.
    #[error("too many segments")]
    TooManySegments,
}
