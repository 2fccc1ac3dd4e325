//! An uplink's queues, as one I/O core owns them: frames into mbufs, mbufs out.

use std::sync::Arc;

use arrayvec::ArrayVec;
use pmd_bindings::{Mbuf, Mempool, Network, Transport, TxOffload};
use vm_ports::offload::{self, Headers, IpVersion, OffloadError, parse};
use vm_ports::{BURST_PACKETS, FRAME_MAX, Features, FrameSink, Gso, Offload, Packet, Run, Source, View, deliver};

use super::accounting::{Charge, CoreCounters, SourceId, UplinkCounters};
use super::mailbox::{UplinkQueues, UplinkShare};
use crate::forwarding::{DropReason, PortId};

/// Frames that wait for the end of the burst, or until there are this many.
const STAGED: usize = 64;
/// Frames one packet can become.
const FRAMES_MAX: usize = vm_ports::offload::MAX_SEGMENTS;
const STAGED_MAX: usize = STAGED + FRAMES_MAX;
/// Mbufs one frame can be in: the longest frame in the smallest mbufs.
const PIECES_MAX: usize = FRAME_MAX.div_ceil(2048);
/// How often a TX queue that takes nothing is offered the rest of a burst before that is dropped. A queue drains at the NIC's speed: there is no use in
/// waiting for long.
const TX_TRIES: usize = 4;

/// What an uplink can be given to send.
#[derive(Debug, Clone, Copy)]
pub(super) struct UplinkLimits {
    /// Bytes of the longest frame that is not to be segmented.
    pub(super) frame_max: usize,
    /// What the device does by itself, in the terms of a virtio receiver: `GUEST_CSUM`, `GUEST_TSO4`, `GUEST_TSO6`.
    pub(super) accepts: Features,
    /// Mbufs a frame can be in.
    pub(super) pieces_max: usize,
}

/// The TX queue of an uplink.
pub(super) struct UplinkTx {
    pub(super) port: PortId,
    queue: pmd_bindings::TxQueue,
    pool: Mempool,
    limits: UplinkLimits,
    counters: Arc<UplinkCounters>,
    /// The frames of the packet being written.
    frames: ArrayVec<Mbuf, FRAMES_MAX>,
    staged: ArrayVec<Mbuf, STAGED_MAX>,
    /// Whose they are, in the same order.
    owners: ArrayVec<Owned, STAGED_MAX>,
}

/// Some staged mbufs in a row.
struct Owned {
    /// Whose packet ends with each of them; `None` where there is more of the packet in the next.
    owner: Option<(SourceId, Charge)>,
    mbufs: usize,
}

impl UplinkTx {
    pub(super) fn new(
        port: PortId,
        queue: pmd_bindings::TxQueue,
        pool: Mempool,
        limits: UplinkLimits,
        counters: Arc<UplinkCounters>,
    ) -> Self {
        Self {
            port,
            queue,
            pool,
            limits,
            counters,
            frames: ArrayVec::new(),
            staged: ArrayVec::new(),
            owners: ArrayVec::new(),
        }
    }

    /// [`UplinkTx::push`] for each of these packets, in order; tells `refused` which was not taken, counted from 0, and why.
    pub(super) fn push_run(
        &mut self,
        run: Run<'_>,
        source: SourceId,
        charge: Charge,
        core: &CoreCounters,
        mut refused: impl FnMut(usize, DropReason),
    ) {
        // As for a guest: one at once, after a packet that had to be looked at by itself, and more again as they go.
        let mut rest = run;
        let mut most = BURST_PACKETS;
        loop {
            let pushed = self.push_plain(rest.first(most), source, charge, core);
            rest = rest.after(pushed);
            if pushed == most && !rest.is_empty() {
                most = BURST_PACKETS.min(2 * most);
                continue;
            }
            let Some(view) = rest.views().next() else { return };
            rest = rest.after(1);
            most = 1;
            if let Err(reason) = self.push(view, source, charge, core) {
                refused(run.len() - 1 - rest.len(), reason);
            }
        }
    }

    /// Copies as many of these packets, from the first on, as are to be sent as they are and fit into one mbuf each. Returns how many that
    /// were.
    fn push_plain(&mut self, run: Run<'_>, source: SourceId, charge: Charge, core: &CoreCounters) -> usize {
        let room = usize::from(self.pool.data_room()).min(self.limits.frame_max);
        let is_plain = |packet: &Packet| packet.offload().accepted_by(Features::NONE) && packet.len() <= room;
        let first = self.staged.len();
        let plain = run.packets().iter().take_while(|packet| is_plain(packet));
        // A plain packet fits into an mbuf, whose room is a u16.
        let lens: ArrayVec<u16, BURST_PACKETS> = plain.map(|packet| packet.len() as u16).take(BURST_PACKETS).collect();
        if lens.is_empty() || !self.pool.alloc_frames(&mut self.staged, &lens) {
            return 0;
        }
        let mbufs = &mut self.staged[first..];
        let short = fill_short(mbufs, run.packets());
        for (mbuf, view) in mbufs[short..].iter_mut().zip(run.after(short).views()) {
            view.read(mbuf.data_mut());
        }
        let count = lens.len();
        self.owe(Some((source, charge)), count);
        if self.staged.len() >= STAGED {
            self.flush(core);
        }
        count
    }

    /// Copies a packet into mbufs, whole or not at all. What becomes of it is charged when they are sent.
    pub(super) fn push(
        &mut self,
        view: View<'_>,
        source: SourceId,
        charge: Charge,
        core: &CoreCounters,
    ) -> Result<(), DropReason> {
        let offload = view.packet().offload();
        if view.packet().len() > self.limits.frame_max && offload.gso == Gso::None {
            return Err(DropReason::TooLong);
        }
        let headers = if offload.needs_csum { parse(view.packet().head()).ok() } else { None };
        if let Some(gso) = offload.segmentation() {
            self.may_be_cut(view.packet(), headers.as_ref(), &gso)?;
        }
        let request = headers.and_then(|headers| request(&headers, offload));
        // What the device cannot be told of in its own terms is done here.
        let accepts = if request.is_some() { self.limits.accepts } else { Features::NONE };
        let mut sink = MbufSink {
            pool: &self.pool,
            pieces_max: self.limits.pieces_max,
            request,
            frames: &mut self.frames,
            pieces: ArrayVec::new(),
            ask: None,
        };
        let delivered = deliver(view, accepts, &mut sink).and_then(|()| sink.finish());
        if let Err(Refused(reason)) = delivered {
            self.frames.clear();
            return Err(reason);
        }
        // The packet is sent when its last frame is.
        self.owe(None, self.frames.len().saturating_sub(1));
        self.owe(Some((source, charge)), self.frames.len().min(1));
        self.staged.extend(self.frames.drain(..));
        if self.staged.len() >= STAGED {
            self.flush(core);
        }
        Ok(())
    }

    /// Whether a packet can be cut as its sender says, by whoever does it, into frames that the device sends. A device is told of nothing else.
    fn may_be_cut(&self, packet: &Packet, headers: Option<&Headers>, gso: &offload::Gso) -> Result<(), DropReason> {
        let headers = headers.ok_or(DropReason::BadOffload)?;
        gso.check(packet.head(), headers, packet.len()).map_err(|_| DropReason::BadOffload)?;
        let payload = packet.len().saturating_sub(headers.payload.into());
        let frame = usize::from(headers.payload) + payload.min(gso.size.into());
        if payload == 0 {
            Err(DropReason::BadOffload)
        } else if frame > self.limits.frame_max {
            Err(DropReason::TooLong)
        } else {
            Ok(())
        }
    }

    /// What a frame of `len` bytes would meet now: so many free mbufs, or why it would not be taken.
    pub(super) fn outlook(&self, len: usize) -> Result<u32, DropReason> {
        let pieces = len.div_ceil(usize::from(self.pool.data_room()));
        if len > self.limits.frame_max || pieces > self.limits.pieces_max {
            return Err(DropReason::TooLong);
        }
        Some(self.pool.available()).filter(|free| *free as usize >= pieces).ok_or(DropReason::NoMbuf)
    }

    /// Notes who is to be charged for the next mbufs.
    #[inline]
    fn owe(&mut self, owner: Option<(SourceId, Charge)>, mbufs: usize) {
        if mbufs > 0 {
            self.owners.push(Owned { owner, mbufs });
        }
    }

    /// Whether it is this queue of this uplink.
    #[inline]
    pub(super) fn is(&self, port: PortId, queue: u16) -> bool {
        self.port == port && self.queue.id() == queue
    }

    /// The queue pair, with its other half, for another core or for whoever closes it. Called on the core that had it: no mbuf stays behind in
    /// its cache.
    pub(super) fn into_share(self, source: SourceId, rx: pmd_bindings::RxQueue) -> UplinkShare {
        self.pool.flush_cache();
        let Self { port, queue, pool, limits, counters, .. } = self;
        UplinkShare { port, source, queues: UplinkQueues { rx, tx: queue }, pool, limits, counters }
    }

    /// Sends what is staged. What the queue will not take is dropped.
    pub(super) fn flush(&mut self, core: &CoreCounters) {
        let mut tries = TX_TRIES;
        while tries > 0 && !self.staged.is_empty() {
            let before = self.staged.len();
            let bytes_before = self.queue.sent_bytes();
            let sent = self.queue.burst(&mut self.staged);
            self.counters.tx_packets.add(sent as u64);
            self.counters.tx_bytes.add(self.queue.sent_bytes() - bytes_before);
            self.settle(core, sent, Ok(()));
            // Between what was sent and what is left may be one packet that the device could not have sent right.
            self.settle(core, before - self.staged.len() - sent, Err(DropReason::BadOffload));
            tries -= usize::from(self.staged.len() == before);
        }
        let left = self.staged.len();
        Mbuf::free_bulk(&mut self.staged);
        self.settle(core, left, Err(DropReason::UplinkFull));
    }

    /// Charges the first `mbufs` to whoever they belong to.
    fn settle(&mut self, core: &CoreCounters, mbufs: usize, outcome: Result<(), DropReason>) {
        let (mut left, mut done) = (mbufs, 0);
        for owned in &mut self.owners {
            if left == 0 {
                break;
            }
            let here = owned.mbufs.min(left);
            if let Some((source, charge)) = owned.owner {
                core.source(source).settle_many(charge, outcome, here);
            }
            owned.mbufs -= here;
            left -= here;
            done += usize::from(owned.mbufs == 0);
        }
        self.owners.drain(..done);
    }
}

/// Writes packets whose snapshot is all there is of them into these mbufs; as many as come before the first that is another. Not inlined: so
/// all that the loop needs stays in registers.
#[inline(never)]
fn fill_short(mbufs: &mut [Mbuf], packets: &[Packet]) -> usize {
    let fill = |(mbuf, packet): (&mut Mbuf, &Packet)| {
        packet.is_short().then(|| Source::from(packet.head()).read(mbuf.data_mut()))
    };
    mbufs.iter_mut().zip(packets).map_while(fill).count()
}

/// Why a packet did not become mbufs.
struct Refused(DropReason);

impl From<OffloadError> for Refused {
    fn from(_: OffloadError) -> Self {
        Self(DropReason::BadOffload)
    }
}

/// A checksum or segmentation request in DPDK's terms; `None` for anything but a TCP or UDP checksum in its place.
fn request(headers: &Headers, offload: &Offload) -> Option<TxOffload> {
    let (transport, csum_offset) = match headers.transport {
        vm_ports::offload::Transport::Tcp => (Transport::Tcp, 16),
        vm_ports::offload::Transport::Udp => (Transport::Udp, 6),
        _ => return None,
    };
    let right = offload.csum_start == headers.l4 && offload.csum_offset == csum_offset;
    let network = match headers.version {
        IpVersion::V4 => Network::Ipv4 { checksum: offload.gso != Gso::None },
        IpVersion::V6 => Network::Ipv6,
    };
    right.then_some(TxOffload {
        l2_len: headers.l3,
        l3_len: headers.l4 - headers.l3,
        l4_len: headers.payload - headers.l4,
        network,
        transport,
        segment_size: (offload.gso != Gso::None).then_some(offload.gso_size),
    })
}

fn without_checksum(network: Network) -> Network {
    match network {
        Network::Ipv4 { .. } => Network::Ipv4 { checksum: false },
        Network::Ipv6 => Network::Ipv6,
    }
}

/// Mbufs as a place to write frames to.
struct MbufSink<'u> {
    pool: &'u Mempool,
    pieces_max: usize,
    /// What the packet needs, where the device can be asked for it.
    request: Option<TxOffload>,
    frames: &'u mut ArrayVec<Mbuf, FRAMES_MAX>,
    /// The frame begun last: each mbuf but the last is full.
    pieces: ArrayVec<Mbuf, PIECES_MAX>,
    /// What the device is asked to do with that frame.
    ask: Option<TxOffload>,
}

impl MbufSink<'_> {
    /// Makes one mbuf chain of the frame begun last.
    fn finish(&mut self) -> Result<(), Refused> {
        let bad = |_| Refused(DropReason::BadOffload);
        let mut pieces = self.pieces.drain(..);
        let Some(mut frame) = pieces.next() else { return Ok(()) };
        for piece in pieces {
            frame.chain(piece).map_err(|_| Refused(DropReason::TooLong))?;
        }
        if let Some(ask) = self.ask.take() {
            frame.set_tx_offload(&ask).map_err(bad)?;
        }
        self.frames.try_push(frame).map_err(|_| Refused(DropReason::BadOffload))
    }
}

impl FrameSink for MbufSink<'_> {
    type Error = Refused;

    fn begin(&mut self, len: usize, offload: &Offload) -> Result<(), Refused> {
        self.finish()?;
        let room = usize::from(self.pool.data_room());
        if len.div_ceil(room) > self.pieces_max {
            return Err(Refused(DropReason::TooLong));
        }
        let mut left = len;
        while left > 0 {
            let mut piece = self.pool.alloc().ok_or(Refused(DropReason::NoMbuf))?;
            let here = left.min(room);
            piece.append(here).ok_or(Refused(DropReason::TooLong))?;
            self.pieces.try_push(piece).map_err(|_| Refused(DropReason::TooLong))?;
            left -= here;
        }
        self.ask = self.request.filter(|_| offload.needs_csum).map(|request| match offload.gso {
            // A segment that was cut here may still have its TCP checksum left to the device. The rest is done.
            Gso::None => TxOffload { segment_size: None, network: without_checksum(request.network), ..request },
            Gso::TcpV4 | Gso::TcpV6 => request,
        });
        Ok(())
    }

    fn write(&mut self, offset: usize, from: Source<'_>) {
        let room = usize::from(self.pool.data_room());
        let (mut index, mut at, mut from) = (offset / room, offset % room, from);
        while let Some(piece) = self.pieces.get_mut(index)
            && !from.is_empty()
        {
            let Some(space) = piece.data_mut().get_mut(at..) else { return };
            from = from.suffix(from.read(space));
            (index, at) = (index + 1, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::device;
    use super::*;
    use crate::forwarding::{MacAddr, PortId};
    use pmd_bindings::{Eal, EalConfig, LogLevel, PciDevices};
    use vm_ports::{Burst, BurstBuffer};

    /// UDP over IPv4.
    fn frame() -> [u8; 60] {
        let mut frame = [0; 60];
        frame[..12].copy_from_slice(&[MacAddr([2; 6]).0, MacAddr([4; 6]).0].concat());
        frame[12..24].copy_from_slice(&[0x08, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17]);
        frame[38..40].copy_from_slice(&26u16.to_be_bytes());
        frame
    }

    #[test]
    fn what_the_device_refuses_is_a_bad_offload_and_no_lack_of_room() {
        let config = EalConfig {
            memory_mib: Some(64),
            pci: PciDevices::Off,
            log_level: LogLevel::Error,
            ..EalConfig::default()
        };
        let eal = Eal::init(config).expect("EAL starts without hugepages");
        let config = config::UplinkConfig {
            name: "up".parse().unwrap(),
            device: "net_null0,no-rx=1".parse().unwrap(),
            queues: None,
            mtu: None,
            vlan: config::Vlan::Access(config::VlanId::DEFAULT),
            stations: Vec::new(),
        };
        let device = eal.hotplug(&config.device.to_string()).unwrap();
        let (device, pool, pairs) = device::configure(&eal, device, 1, &config, PortId(0)).unwrap();
        let UplinkQueues { rx, tx } = pairs.into_iter().next().unwrap();
        // It is taken for one that computes checksums, which it is not.
        let limits = UplinkLimits { accepts: Features::GUEST_CSUM, ..device::limits(&device) };
        let mut uplink = UplinkTx::new(PortId(0), tx, pool, limits, Arc::default());
        let (core, source) = (CoreCounters::new(), SourceId(0));
        let (frame, mut buffer) = (frame(), BurstBuffer::default());
        let mut burst = Burst::new(&mut buffer);
        let partial = Offload { needs_csum: true, csum_start: 34, csum_offset: 6, ..Offload::NONE };
        for offload in [Offload::NONE, partial, Offload::NONE] {
            assert!(burst.push_frame([&frame[..]], offload));
        }
        for index in 0..3 {
            assert!(uplink.push(burst.view(index), source, Charge::Unicast, &core).is_ok());
        }
        uplink.flush(&core);
        let account = core.source(source);
        let dropped = |reason: DropReason| account.dropped[reason.index()].get();
        assert_eq!((account.forwarded.get(), uplink.counters.tx_packets.get()), (2, 2));
        assert_eq!((dropped(DropReason::BadOffload), dropped(DropReason::UplinkFull)), (1, 0));
        drop((uplink, rx));
    }
}
