//! One packet's memory.

use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use arrayvec::ArrayVec;

use crate::ffi;
use crate::offload::{OffloadError, RxChecksum, TxOffload};

/// A packet: a chain of one or more segments, owned. Dropping it gives all of them back to their pool.
///
/// Invariant, which every unsafe block of this file relies on: the pointer is to the head of a well-formed chain
/// (`next` ends in null, `nb_segs` and `pkt_len` are the chain's, `data_off + data_len <= buf_len` in each segment)
/// that nobody else has. [`Mempool`](crate::Mempool) and the PMDs hand out such chains, no method breaks them, this
/// crate offers no way to share one, and a pool outlives its mbufs.
#[repr(transparent)]
pub struct Mbuf {
    head: NonNull<ffi::rte_mbuf>,
}

// SAFETY: whoever has the Mbuf is alone with its memory; pools take mbufs back from any thread.
unsafe impl Send for Mbuf {}
// SAFETY: what can be done through a shared reference only reads.
unsafe impl Sync for Mbuf {}

impl std::fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mbuf").field("len", &self.len()).field("segments", &self.segment_count()).finish()
    }
}

impl Mbuf {
    /// # Safety
    /// `head` satisfies the type's invariant, and its owner gives it up.
    #[inline]
    pub(crate) unsafe fn from_raw(head: NonNull<ffi::rte_mbuf>) -> Self {
        Self { head }
    }

    /// Makes a packet of `len` bytes of an mbuf as its pool has it: direct, of one segment, with one reference (which is how
    /// mbufs go back), and anything else in its fields. What is not written here means nothing without a flag; the packet type does:
    /// who receives the mbuf itself, from a ring device for example, would find what a NIC said of an earlier packet.
    ///
    /// # Safety
    /// The caller owns that mbuf, and it has room for `len` bytes behind the headroom.
    #[inline(always)]
    pub(crate) unsafe fn start(raw: NonNull<ffi::rte_mbuf>, len: u16) {
        let segment = Segment(raw);
        segment.set_data_off(ffi::PMD_HEADROOM as u16);
        segment.set_flags(0);
        segment.set_packet_type(0);
        segment.set_packet_len(len.into());
        segment.set_data_len(len);
    }

    #[inline]
    fn head(&self) -> Segment {
        Segment(self.head)
    }

    fn last(&self) -> Segment {
        let mut last = self.head();
        while let Some(next) = last.next() {
            last = next;
        }
        last
    }

    /// Bytes of the whole packet.
    #[inline]
    pub fn len(&self) -> usize {
        self.head().packet_len() as usize
    }

    /// Whether there is no data in it yet.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Segments the packet consists of.
    #[inline]
    pub fn segment_count(&self) -> usize {
        self.head().segment_count().into()
    }

    /// The data of the first segment, where a received packet's headers are.
    #[inline]
    pub fn data(&self) -> &[u8] {
        // SAFETY: the type's invariant; the borrow of self keeps anyone from writing.
        unsafe { std::slice::from_raw_parts(self.head().data(), self.head().len()) }
    }

    /// The data of the first segment, to be changed.
    #[inline]
    pub fn data_mut(&mut self) -> &mut [u8] {
        // SAFETY: the type's invariant; the borrow of self is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.head().data(), self.head().len()) }
    }

    /// The data of each segment in order.
    #[inline]
    pub fn segments(&self) -> Segments<'_> {
        Segments { next: Some(self.head()), packet: PhantomData }
    }

    /// Unused bytes behind the last segment's data: what [`Mbuf::append`] can give at most.
    pub fn tailroom(&self) -> usize {
        self.last().tailroom()
    }

    /// Unused bytes before the data: what [`Mbuf::prepend`] can give at most.
    #[inline]
    pub fn headroom(&self) -> usize {
        self.head().data_off().into()
    }

    /// Makes the packet `len` bytes longer and returns them, or `None` when the last segment has less room. They
    /// hold whatever was there before and must be overwritten.
    #[inline]
    pub fn append(&mut self, len: usize) -> Option<&mut [u8]> {
        let last = self.last();
        if len > last.tailroom() {
            return None;
        }
        let total = u32::try_from(self.len() + len).ok()?;
        let used = last.len();
        // Both fit: `len` is at most the tailroom, which is less than buf_len, a u16.
        last.set_data_len((used + len) as u16);
        self.head().set_packet_len(total);
        // SAFETY: `used + len` bytes from the data's start are within the segment's buffer, as the tailroom says; pool
        // memory is initialised, and the borrow of self is exclusive.
        Some(unsafe { std::slice::from_raw_parts_mut(last.data().add(used), len) })
    }

    /// Makes the packet `len` bytes longer at its front and returns them, or `None` when there is less headroom.
    /// They hold whatever was there before and must be overwritten. Takes back what [`Mbuf::set_tx_offload`] asked
    /// for: the headers are no longer where it says.
    #[inline]
    pub fn prepend(&mut self, len: usize) -> Option<&mut [u8]> {
        let head = self.head();
        let offset = self.headroom().checked_sub(len)?;
        let used = u16::try_from(head.len() + len).ok()?;
        let total = u32::try_from(self.len() + len).ok()?;
        head.set_data_off(offset as u16);
        head.set_data_len(used);
        head.set_packet_len(total);
        self.clear_tx_offload();
        Some(&mut self.data_mut()[..len])
    }

    /// Takes `len` bytes off the front; false, and nothing done, when the first segment has fewer. Takes back what
    /// [`Mbuf::set_tx_offload`] asked for, as [`Mbuf::prepend`] does.
    #[inline]
    pub fn trim_front(&mut self, len: usize) -> bool {
        let head = self.head();
        let Some(left) = head.len().checked_sub(len) else { return false };
        // All three shrink or stay within the buffer, since `len` is at most the data's length.
        head.set_data_off((self.headroom() + len) as u16);
        head.set_data_len(left as u16);
        head.set_packet_len((self.len() - len) as u32);
        self.clear_tx_offload();
        true
    }

    /// Adds another packet's segments behind this one's. What the other says about offloads is lost.
    ///
    /// # Errors
    /// The other packet, when the chain would have too many segments or bytes.
    pub fn chain(&mut self, tail: Mbuf) -> Result<(), Mbuf> {
        let segments = self.segment_count() + tail.segment_count();
        let total = self.len() + tail.len();
        let (Ok(count), Ok(total)) = (u16::try_from(segments), u32::try_from(total)) else { return Err(tail) };
        if segments > ffi::PMD_MAX_SEGMENTS as usize {
            return Err(tail);
        }
        let tail = ManuallyDrop::new(tail);
        self.last().set_next_raw(tail.head.as_ptr());
        self.head().set_segment_count(count);
        self.head().set_packet_len(total);
        Ok(())
    }

    /// What the device found out about the packet's checksums.
    #[inline]
    pub fn rx_checksum(&self) -> RxChecksum {
        RxChecksum::from_flags(self.flags())
    }

    /// The hash by which the device chose the RX queue, if it said so.
    #[inline]
    pub fn rss_hash(&self) -> Option<u32> {
        (self.flags() & ffi::PMD_RX_RSS_HASH != 0).then(|| self.head().rss_hash())
    }

    /// The payload bytes of each of the TCP segments that the device put this packet together from, if it did
    /// (net_virtio and net_vhost may).
    #[inline]
    pub fn rx_segment_size(&self) -> Option<u16> {
        let coalesced = self.flags() & ffi::PMD_RX_LRO != 0;
        coalesced.then(|| (self.head().tx_offload() >> ffi::PMD_TSO_SEGSZ_SHIFT) as u16)
    }

    /// Asks the device to fill in checksums or to segment when it sends the packet. The pseudo-header checksum that
    /// devices expect in the packet is put there by [`TxQueue::burst`](crate::TxQueue::burst).
    ///
    /// # Errors
    /// The request does not fit the packet; whatever was asked for before stays.
    #[inline]
    pub fn set_tx_offload(&mut self, offload: &TxOffload) -> Result<(), OffloadError> {
        let (flags, lengths) = offload.encode(self.head().len())?;
        self.head().set_flags(self.flags() & !ffi::PMD_TX_FLAGS | flags);
        self.head().set_tx_offload(lengths);
        Ok(())
    }

    /// Takes back what [`Mbuf::set_tx_offload`] asked for.
    #[inline]
    pub fn clear_tx_offload(&mut self) {
        let flags = self.flags();
        if flags & ffi::PMD_TX_FLAGS != 0 {
            self.head().set_flags(flags & !ffi::PMD_TX_FLAGS);
            self.head().set_tx_offload(0);
        }
    }

    #[inline]
    pub(crate) fn flags(&self) -> u64 {
        self.head().flags()
    }

    /// Gives all packets in the vector back to their pools: cheaper than one by one.
    #[inline]
    pub fn free_bulk<const N: usize>(packets: &mut ArrayVec<Mbuf, N>) {
        let count = packets.len() as u32;
        // SAFETY: zero is within the capacity; what was in the vector is now ours to free.
        unsafe { packets.set_len(0) };
        // SAFETY: the first `count` slots still hold the pointers that were just taken out of the vector, each the
        // head of a chain of which nobody else knows any more.
        unsafe { ffi::rte_pktmbuf_free_bulk(packets.as_mut_ptr().cast(), count) };
    }
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the type's invariant; after this nobody has the pointer.
        unsafe { ffi::rte_pktmbuf_free(self.head.as_ptr()) };
    }
}

/// The segments of a packet: see [`Mbuf::segments`].
#[derive(Clone)]
pub struct Segments<'a> {
    next: Option<Segment>,
    packet: PhantomData<&'a Mbuf>,
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let segment = self.next?;
        self.next = segment.next();
        // SAFETY: Mbuf's invariant holds for each segment; the borrow of the packet, 'a, keeps anyone from writing.
        Some(unsafe { std::slice::from_raw_parts(segment.data(), segment.len()) })
    }
}

/// A segment of a chain that an Mbuf owns, for as long as that Mbuf is borrowed: shared by those who read, exclusively
/// by those who write.
#[derive(Clone, Copy)]
struct Segment(NonNull<ffi::rte_mbuf>);

/// Accessors of an mbuf's fields, at the offsets that the C compiler found: the fields' names in Rust would change with
/// the unions of each DPDK release.
macro_rules! fields {
    ($($get:ident, $set:ident: $type:ty = $offset:ident;)*) => {
        fields! { $($get: $type = $offset;)* }
        fields! { $(_, $set: $type = $offset;)* }
    };
    ($(_, $set:ident: $type:ty = $offset:ident;)*) => {
        impl Segment {
            $(
                #[inline(always)]
                fn $set(self, value: $type) {
                    // SAFETY: the field of this type at this offset of an mbuf that the borrowed Mbuf owns; whoever writes has it to themselves.
                    unsafe { self.0.as_ptr().byte_add(ffi::$offset as usize).cast::<$type>().write(value) }
                }
            )*
        }
    };
    ($($get:ident: $type:ty = $offset:ident;)*) => {
        impl Segment {
            $(
                #[inline(always)]
                fn $get(self) -> $type {
                    // SAFETY: the field of this type at this offset of an mbuf that the borrowed Mbuf owns.
                    unsafe { self.0.as_ptr().byte_add(ffi::$offset as usize).cast::<$type>().read() }
                }
            )*
        }
    };
}

fields! {
    data_off, set_data_off: u16 = PMD_MBUF_DATA_OFF;
    data_len, set_data_len: u16 = PMD_MBUF_DATA_LEN;
    packet_len, set_packet_len: u32 = PMD_MBUF_PKT_LEN;
    segment_count, set_segment_count: u16 = PMD_MBUF_NB_SEGS;
    flags, set_flags: u64 = PMD_MBUF_OL_FLAGS;
    tx_offload, set_tx_offload: u64 = PMD_MBUF_TX_OFFLOAD;
    next_raw, set_next_raw: *mut ffi::rte_mbuf = PMD_MBUF_NEXT;
}

fields! {
    _, set_packet_type: u32 = PMD_MBUF_PACKET_TYPE;
}

fields! {
    buffer: *mut u8 = PMD_MBUF_BUF_ADDR;
    buffer_len: u16 = PMD_MBUF_BUF_LEN;
    rss_hash: u32 = PMD_MBUF_HASH_RSS;
}

impl Segment {
    #[inline(always)]
    fn data(self) -> *mut u8 {
        // SAFETY: data_off is at most buf_len.
        unsafe { self.buffer().add(self.data_off().into()) }
    }

    #[inline(always)]
    fn len(self) -> usize {
        self.data_len().into()
    }

    #[inline]
    fn tailroom(self) -> usize {
        usize::from(self.buffer_len()).saturating_sub(usize::from(self.data_off()) + self.len())
    }

    #[inline(always)]
    fn next(self) -> Option<Self> {
        NonNull::new(self.next_raw()).map(Self)
    }
}
