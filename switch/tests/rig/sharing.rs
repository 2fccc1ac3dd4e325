//! Guests that send more than their core can forward, each to a receiver of its own.

use std::cell::{Cell, RefCell};

use sidecore::rig::{Rig, RigPort, Share};
use synthetic_guest::packet::{Checksum, FrameSpec, Stamp, Template, Transport, mac};
use synthetic_guest::{Features, TxShape};
use vm_ports::QueuePair;

use super::{CYCLES_PER_US, RING, SPLIT, guest::Guest};

/// Receivers have addresses with the senders' numbers and this.
const RECEIVERS: u32 = 1000;
/// A guest that floods, and the address that it sends to.
const FLOODER: u32 = 5000;
const NOBODY: u32 = 5001;

pub(crate) struct Sharing {
    rig: Rig,
    senders: RefCell<Vec<Sender>>,
    /// Bursts that cores have forwarded.
    bursts: Cell<u64>,
}

struct Sender {
    guest: Guest,
    port: RigPort,
    template: Template,
    /// Frames in the transmit ring.
    queued: usize,
    receiver: Guest,
    received: u64,
}

impl Sharing {
    pub(crate) fn new(cores: usize) -> Self {
        let rig = Rig::new(cores, CYCLES_PER_US * 1_000_000);
        Self { rig, senders: RefCell::default(), bursts: Cell::new(0) }
    }

    /// A guest on a core that sends frames of this length; its receiver is on core 0. Returns its number.
    pub(crate) fn add(&mut self, core: usize, share: Share, frame_len: usize) -> usize {
        let spec = |from, to| FrameSpec::udp4(from, to, 0, frame_len);
        self.add_sending(core, share, Guest::new(SPLIT), spec)
    }

    /// A guest on core 0 that sends frames of this length in so many pieces. Returns its number.
    pub(crate) fn add_in_pieces(&mut self, frame_len: usize, pieces: u16) -> usize {
        let guest = Guest::with_shape(SPLIT | Features::INDIRECT_DESC, TxShape::Pieces(pieces));
        self.add_sending(0, Share::default(), guest, |from, to| FrameSpec::udp4(from, to, 0, frame_len))
    }

    /// A guest on core 0 that sends packets of this length to be cut into segments of so many bytes. Returns its number.
    pub(crate) fn add_segmented(&mut self, len: usize, gso_size: u16) -> usize {
        let spec = |from, to| FrameSpec {
            transport: Transport::Tcp,
            checksum: Checksum::Partial,
            gso_size: Some(gso_size),
            ..FrameSpec::udp4(from, to, 0, len)
        };
        let features = SPLIT | Features::CSUM | Features::HOST_TSO4;
        self.add_sending(0, Share::default(), Guest::new(features), spec)
    }

    /// A guest that sends frames of this kind, from its address to that of its receiver.
    fn add_sending(
        &mut self,
        core: usize,
        share: Share,
        (guest, device): (Guest, QueuePair),
        spec: impl FnOnce(u32, u32) -> FrameSpec,
    ) -> usize {
        let senders = self.senders.get_mut();
        let number = senders.len() as u32;
        let to = RECEIVERS + number;
        let port = self.rig.add_guest_with(core, share, [device]);
        self.rig.fix_station(mac(number), port);
        let (receiver, device) = Guest::new(SPLIT);
        let receives = self.rig.add_guest(0, [device]);
        self.rig.fix_station(mac(to), receives);
        let template = Template::new(spec(number, to));
        senders.push(Sender { guest, port, template, queued: 0, receiver, received: 0 });
        number as usize
    }

    /// A guest on a core that sends frames of this length to an address that nobody knows, from few buffers. Returns its number.
    pub(crate) fn add_flooder(&mut self, core: usize, share: Share, frame_len: usize) -> usize {
        let (guest, device) = Guest::with_long_frames(SPLIT);
        let port = self.rig.add_guest_with(core, share, [device]);
        let (receiver, device) = Guest::new(SPLIT);
        self.rig.add_guest(0, [device]);
        let template = Template::new(FrameSpec::udp4(FLOODER, NOBODY, 0, frame_len));
        let senders = self.senders.get_mut();
        senders.push(Sender { guest, port, template, queued: 0, receiver, received: 0 });
        senders.len() - 1
    }

    /// A guest sends so many frames, as far as its ring has room.
    pub(crate) fn send(&mut self, number: usize, frames: usize) {
        self.senders.get_mut()[number].send(frames);
    }

    /// The frontend of a guest on core 0 asks for so many announcements of its address.
    pub(crate) fn announce(&mut self, number: usize, count: usize) {
        let port = self.senders.get_mut()[number].port;
        self.rig.announce(0, port, mac(number as u32), count);
    }

    /// Copies of floods that were dropped.
    pub(crate) fn lost_copies(&self) -> u64 {
        self.rig.totals().copy_drops
    }

    /// An uplink that always has frames, for the receiver of a guest.
    pub(crate) fn add_uplink(&mut self, to: usize, frame_len: usize) {
        let template = Template::new(FrameSpec::udp4(RECEIVERS - 1, RECEIVERS + to as u32, 0, frame_len));
        super::add_uplink(&mut self.rig, &format!("size={frame_len}"), template.bytes());
    }

    /// Guests have as much to send as their rings hold.
    pub(crate) fn fill(&mut self, numbers: impl IntoIterator<Item = usize>) {
        let senders = self.senders.get_mut();
        numbers.into_iter().for_each(|number| senders[number].send(RING));
    }

    /// A turn of a core's thread. After each burst, `after` is called, while the round is still under way. Then all receivers take what is
    /// there.
    pub(crate) fn turn(&mut self, core: usize, after: impl Fn(&Senders<'_>)) {
        self.turn_without(core, usize::MAX, after);
    }

    /// The same, but the receiver of one guest takes nothing.
    pub(crate) fn turn_without(&mut self, core: usize, receiver: usize, after: impl Fn(&Senders<'_>)) {
        let Self { rig, senders, bursts } = self;
        let worked = rig.turn(core, || {
            bursts.set(bursts.get() + 1);
            after(&Senders(senders));
            0
        });
        // Without work the clock is read for the round alone.
        bursts.set(bursts.get() - u64::from(!worked));
        Senders(senders).take(receiver);
    }

    /// Turns of core 0 in which all guests always have something to send.
    pub(crate) fn saturate(&mut self, turns: usize) {
        for _ in 0..turns {
            let guests = self.senders.get_mut().len();
            self.fill(0..guests);
            self.turn(0, |_| ());
        }
    }

    /// Frames of each guest that arrived.
    pub(crate) fn received(&self) -> Vec<u64> {
        self.senders.borrow().iter().map(|sender| sender.received).collect()
    }

    pub(crate) fn bursts(&self) -> u64 {
        self.bursts.get()
    }

    /// Packets that were dropped.
    pub(crate) fn dropped(&self) -> u64 {
        self.rig.totals().dropped
    }
}

/// The guests, between two bursts.
pub(crate) struct Senders<'a>(&'a RefCell<Vec<Sender>>);

impl Senders<'_> {
    /// Lets a guest send a frame.
    pub(crate) fn send_one(&self, number: usize) {
        self.0.borrow_mut()[number].send(1);
    }

    /// Whether a guest has a frame in its ring that was not pulled.
    pub(crate) fn waits(&self, number: usize) -> bool {
        let sender = &mut self.0.borrow_mut()[number];
        sender.queued -= sender.guest.reclaim();
        sender.queued > 0
    }

    /// Lets all receivers take what is there: how many frames that is. But for the receiver of guest `except`.
    pub(crate) fn take(&self, except: usize) -> usize {
        let mut senders = self.0.borrow_mut();
        let others = senders.iter_mut().enumerate().filter(|(number, _)| *number != except);
        others.map(|(_, sender)| sender.drain()).sum()
    }
}

impl Sender {
    /// Makes so many frames available, as far as the ring has room.
    fn send(&mut self, frames: usize) {
        self.queued -= self.guest.reclaim();
        let frames = frames.min(RING - self.queued);
        if frames > 0 {
            self.guest.send(&mut self.template, frames, |_| Stamp::default());
            self.queued += frames;
        }
    }

    fn drain(&mut self) -> usize {
        // Only floods reach the sender.
        let frames = self.receiver.receive(|_| ()) + self.guest.receive(|_| ());
        self.received += frames as u64;
        frames
    }
}
