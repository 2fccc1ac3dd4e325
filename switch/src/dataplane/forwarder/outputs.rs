//! Where packets leave a core.

mod publish;

use std::ops::Range;
use std::sync::Arc;

use vm_ports::{Burst, Packet, Run, RxDrop, RxQueue, View};

use super::super::accounting::{Charge, CoreCounters, SOURCES_MAX, SourceId};
use super::super::capture::{Direction, Taps};
use super::super::handover::{Move, TableVersion};
use super::super::held::{HeldCall, HeldCalls};
use super::super::ports::{PORT_QUEUES_MAX, PORTS_MAX, PortEntry, Receiver, Way};
use super::super::sleep::Bells;
use super::super::uplink::UplinkTx;
use super::super::xcore::{Errand, Label, ToCore};
use super::Origin;
use crate::forwarding::{DropReason, Egress, Ingress, PortId, PortVlans};

/// A way out that takes packets as they are.
#[derive(Clone, Copy)]
pub(super) enum Exit {
    /// Place in [`Outputs::rx`].
    Guest(u16),
    /// Place in [`Outputs::uplinks`].
    Uplink(usize),
    /// Another core, and the port there.
    Core(usize, PortId),
}

/// A guest's receive queue on this core.
pub(super) struct RxSlot {
    port: PortId,
    queue: usize,
    /// The queue pair's own, by which it is known as a receiver too.
    source: SourceId,
    pub(super) rx: RxQueue,
    /// Something was pushed that the guest has not been shown.
    touched: bool,
}

impl RxSlot {
    /// Notes, in `touched` too, that there is something to show to the guest. Also after a refusal: a bad buffer is given back, and that has
    /// to be shown as well. `at` is the slot's place.
    #[inline]
    fn touch(&mut self, at: u16, touched: &mut Vec<u16>) {
        if !self.touched {
            self.touched = true;
            touched.push(at);
        }
    }
}

const NO_SLOT: u16 = u16::MAX;

/// Where packets leave this core.
pub(in super::super) struct Outputs {
    pub(super) me: usize,
    pub(super) rx: Vec<RxSlot>,
    /// Place in `rx` by port and queue.
    rx_at: Box<[u16]>,
    touched: Vec<u16>,
    /// Calls that are held back, to receivers and, by their places with the core, to senders.
    pub(in super::super) held: HeldCalls,
    pub(in super::super) uplinks: Vec<UplinkTx>,
    /// What is captured of what passes.
    pub(in super::super) taps: Taps,
    pub(super) to: Vec<Option<ToCore>>,
    /// Cores to which something was handed that they have not been shown.
    to_touched: u64,
    /// Cores that have been shown something and may sleep.
    to_wake: u64,
    bells: Arc<Bells>,
    /// The move under way, where this core gives or takes the queue pair.
    moving: Option<Move>,
    /// Whether it is to come here and has not arrived.
    awaits: bool,
    /// When the packets of this burst were first seen, in cycles.
    pub(in super::super) since: u64,
    pub(in super::super) counters: Arc<CoreCounters>,
}

impl Outputs {
    pub(in super::super) fn new(
        me: usize,
        to: Vec<Option<ToCore>>,
        bells: Arc<Bells>,
        counters: Arc<CoreCounters>,
        cycles_per_s: u64,
    ) -> Self {
        Self {
            me,
            rx: Vec::with_capacity(PORTS_MAX),
            rx_at: vec![NO_SLOT; PORTS_MAX * PORT_QUEUES_MAX].into_boxed_slice(),
            touched: Vec::with_capacity(PORTS_MAX * PORT_QUEUES_MAX),
            held: HeldCalls::new(SOURCES_MAX, cycles_per_s),
            uplinks: Vec::with_capacity(PORTS_MAX),
            taps: Taps::default(),
            to,
            to_touched: 0,
            to_wake: 0,
            bells,
            moving: None,
            awaits: false,
            since: 0,
            counters,
        }
    }

    fn slot_of(port: PortId, queue: usize) -> usize {
        port.index() * PORT_QUEUES_MAX + queue
    }

    /// There is another core.
    pub(in super::super) fn connect(&mut self, core: usize, to: ToCore) {
        if let Some(place) = self.to.get_mut(core) {
            *place = Some(to);
        }
    }

    /// Takes over a guest's receive queue.
    pub(in super::super) fn add_rx(&mut self, port: PortId, queue: usize, source: SourceId, rx: RxQueue) {
        if let Some(at) = self.rx_at.get_mut(Self::slot_of(port, queue)) {
            *at = self.rx.len() as u16;
            self.rx.push(RxSlot { port, queue, source, rx, touched: false });
        }
    }

    /// Gives a guest's receive queue back.
    pub(in super::super) fn remove_rx(&mut self, port: PortId, queue: usize) -> Option<RxQueue> {
        let at = self.rx_at.get_mut(Self::slot_of(port, queue))?;
        let index = usize::from(std::mem::replace(at, NO_SLOT));
        if index >= self.rx.len() {
            return None;
        }
        let mut slot = self.rx.swap_remove(index);
        slot.rx.release();
        self.held.swap_remove(HeldCall::Rx(index as u16), HeldCall::Rx(self.rx.len() as u16));
        if let Some(moved) = self.rx.get(index) {
            self.rx_at[Self::slot_of(moved.port, moved.queue)] = index as u16;
        }
        Some(slot.rx)
    }

    /// This core's index.
    pub(in super::super) fn me(&self) -> usize {
        self.me
    }

    /// A queue pair leaves this core, or comes to it; `None`: it has.
    pub(in super::super) fn set_move(&mut self, moving: Option<Move>) {
        self.moving = moving;
        self.awaits = moving.is_some_and(|moving| usize::from(moving.to) == self.me);
    }

    /// The queue pair that was to come is here.
    pub(in super::super) fn has_arrived(&mut self) {
        self.awaits = false;
    }

    /// Whether this receive queue will be on this core soon: what comes for it has to wait.
    #[inline]
    pub(super) fn awaits(&self, port: PortId, queue: u16) -> bool {
        self.awaits && self.moving.is_some_and(|moving| moving.concerns(port, queue))
    }

    /// The core that serves a receiver, for who sent by the table `version`.
    #[inline]
    pub(super) fn owner(&self, port: PortId, receiver: Receiver, version: TableVersion) -> usize {
        match &self.moving {
            Some(moving) if moving.concerns(port, receiver.queue) => moving.owner(version).into(),
            _ => receiver.core.into(),
        }
    }

    /// Where the rings from this core to the others stand, by core. Everything that was pushed has been shown.
    pub(in super::super) fn places(&self) -> impl Iterator<Item = u64> + '_ {
        self.to.iter().map(|to| to.as_ref().map_or(0, ToCore::place))
    }

    /// The end towards a core.
    pub(in super::super) fn link_to(&mut self, core: usize) -> Option<&mut ToCore> {
        self.to.get_mut(core)?.as_mut()
    }

    /// Tells every other core of a station.
    pub(super) fn tell(&mut self, message: crate::forwarding::LearnMessage) {
        let me = self.me;
        let others = self.to.iter_mut().enumerate().filter(|(core, _)| *core != me);
        for (core, to) in others.filter_map(|(core, to)| Some((core, to.as_mut()?))) {
            self.to_touched |= 1 << core;
            if !to.tell(message) {
                self.counters.learn_lost.add(1);
            }
        }
    }

    /// Who takes a packet for this port that came in on core `from`.
    #[inline]
    pub(super) fn receiver(&self, entry: &PortEntry, view: View<'_>, from: usize) -> Result<Receiver, DropReason> {
        entry.receiver(from, view).ok_or(DropReason::ReceiverNotReady)
    }

    /// Where a packet for this port that came in on core `from` leaves this core as it is, if that depends on nothing else in it.
    #[inline]
    pub(super) fn exit(&self, entry: &PortEntry, ingress: Ingress, from: usize) -> Option<Exit> {
        if ingress.tagged || entry.vlans.egress(ingress.vlan) != Some(Egress::Untagged) {
            return None;
        }
        match &entry.way {
            Way::Guest(receivers) => match receivers.as_slice() {
                [only] if usize::from(only.core) == self.me => {
                    let at = *self.rx_at.get(Self::slot_of(entry.id, usize::from(only.queue)))?;
                    (at != NO_SLOT).then_some(Exit::Guest(at))
                }
                [only] => Some(Exit::Core(usize::from(only.core), entry.id)),
                _ => None,
            },
            Way::Uplink(ways) => match *ways.get(from)? {
                Receiver { queue, core } if usize::from(core) == self.me => {
                    self.uplinks.iter().position(|uplink| uplink.is(entry.id, queue)).map(Exit::Uplink)
                }
                Receiver { core, .. } => Some(Exit::Core(core.into(), entry.id)),
            },
        }
    }

    /// Puts these packets out and charges them.
    #[inline]
    pub(super) fn leave(&mut self, exit: Exit, burst: &Burst<'_>, run: Range<usize>, source: SourceId, charge: Charge) {
        let Self { rx, touched, uplinks, taps, counters, .. } = self;
        let account = counters.source(source);
        // Those of the run that were not put out.
        let mut lost = 0u32;
        let mut refused = |nth: usize, reason| {
            lost |= 1 << nth;
            account.settle(charge, Err(reason));
        };
        let run = burst.run(run);
        let port = match exit {
            Exit::Guest(at) => match rx.get_mut(usize::from(at)) {
                Some(slot) => {
                    let pushed = slot.rx.push_run(run, |nth, refusal| refused(nth, reason(refusal)));
                    account.settle_many(charge, Ok(()), pushed);
                    if charge != Charge::Copy && pushed > 0 {
                        counters.note_talk(source, slot.source, pushed);
                    }
                    slot.touch(at, touched);
                    slot.port
                }
                None => return account.settle_many(charge, Err(DropReason::ReceiverNotReady), run.len()),
            },
            // Charged when they are sent.
            Exit::Uplink(at) => match uplinks.get_mut(at) {
                Some(uplink) => {
                    uplink.push_run(run, source, charge, counters, refused);
                    uplink.port
                }
                None => return account.settle_many(charge, Err(DropReason::PortGone), run.len()),
            },
            Exit::Core(..) => return account.settle_many(charge, Err(DropReason::ReceiverNotReady), run.len()),
        };
        if taps.are_there() {
            let delivered = run.views().enumerate().filter(|(nth, _)| lost & 1 << nth == 0);
            taps.see(port, Direction::To, delivered.map(|(_, view)| view));
        }
    }

    /// Hands these packets for a port to the core that serves it.
    pub(super) fn hand_over_run(
        &mut self,
        (core, port): (usize, PortId),
        version: TableVersion,
        burst: &Burst<'_>,
        run: Range<usize>,
        origin: &Origin,
        ingress: Ingress,
    ) {
        let label = self.label(Errand::Deliver(port), version, origin, ingress);
        let (most, handed) = (run.len(), self.hand_over(core, burst.run(run), &label));
        let account = self.counters.source(origin.source);
        account.handed.add(handed as u64);
        if handed < most {
            account.settle_many(Charge::Unicast, Err(DropReason::XcoreFull), most - handed);
        }
    }

    #[inline]
    pub(super) fn label(&self, errand: Errand, table: TableVersion, origin: &Origin, ingress: Ingress) -> Label {
        Label { errand, source: origin.source, port: origin.port, since: self.since, table, ingress }
    }

    /// Copies these packets for another core. Returns for how many there was room.
    #[inline]
    pub(super) fn hand_over(&mut self, core: usize, run: Run<'_>, label: &Label) -> usize {
        let Some(Some(to)) = self.to.get_mut(core) else { return 0 };
        let pushed = to.push_run(run, label);
        if pushed > 0 {
            self.to_touched |= 1 << core;
            self.counters.handed_over.add(pushed as u64);
        }
        pushed
    }

    pub(super) fn drop_copies(&self, source: SourceId, copies: u16, reason: DropReason) {
        for _ in 0..copies {
            self.counters.source(source).settle(Charge::Copy, Err(reason));
        }
    }

    /// Puts one packet, or one copy, out through a port that this core serves, and charges it. `ingress.tagged` says, and is made to say,
    /// whether the packet carries its tag at this moment.
    #[inline]
    pub(super) fn deliver(
        &mut self,
        entry: &PortEntry,
        receiver: Receiver,
        burst: &mut Burst<'_>,
        index: usize,
        ingress: &mut Ingress,
        (source, charge): (SourceId, Charge),
    ) {
        if let Err(reason) = shape(burst.packet_mut(index), ingress, &entry.vlans) {
            return self.counters.source(source).settle(charge, Err(reason));
        }
        let view = burst.view(index);
        let put_out = match entry.way {
            Way::Guest(_) => {
                let pushed = self.push_guest(entry.id, usize::from(receiver.queue), view);
                pushed.map(|to| {
                    if charge != Charge::Copy {
                        self.counters.note_talk(source, to, 1);
                    }
                    self.counters.source(source).settle(charge, Ok(()));
                })
            }
            Way::Uplink(_) => match self.uplinks.iter_mut().find(|uplink| uplink.is(entry.id, receiver.queue)) {
                // Charged when it is sent.
                Some(uplink) => uplink.push(view, source, charge, &self.counters),
                None => Err(DropReason::PortGone),
            },
        };
        match put_out {
            Ok(()) if self.taps.are_there() => self.taps.see(entry.id, Direction::To, std::iter::once(view)),
            Ok(()) => {}
            Err(reason) => self.counters.source(source).settle(charge, Err(reason)),
        }
    }

    /// Where a guest's receive ring is in the list, if it is there.
    #[inline]
    pub(super) fn place_of(&self, port: PortId, queue: usize) -> u16 {
        self.rx_at.get(Self::slot_of(port, queue)).copied().unwrap_or(NO_SLOT)
    }

    /// Puts one packet into a guest's receive ring; whose that is.
    #[inline]
    fn push_guest(&mut self, port: PortId, queue: usize, view: View<'_>) -> Result<SourceId, DropReason> {
        let at = self.place_of(port, queue);
        let slot = self.rx.get_mut(usize::from(at)).ok_or(DropReason::ReceiverNotReady)?;
        let pushed = slot.rx.push(view).map_err(reason);
        slot.touch(at, &mut self.touched);
        pushed.map(|()| slot.source)
    }
}

pub(super) fn reason(refusal: RxDrop) -> DropReason {
    match refusal {
        RxDrop::NotReady => DropReason::ReceiverNotReady,
        RxDrop::Full => DropReason::RxFull,
        RxDrop::BufferTooSmall => DropReason::TooLong,
        RxDrop::BadBuffer => DropReason::BadBuffer,
        RxDrop::BadOffload => DropReason::BadOffload,
    }
}

/// Gives a packet the tag it leaves with through a port of these VLANs, or takes its tag off. What would leave without a tag and has another one
/// behind it is refused where tags mean VLANs: whoever takes it there would find it in the VLAN that its sender chose.
#[inline]
pub(super) fn shape(packet: &mut Packet, ingress: &mut Ingress, vlans: &PortVlans) -> Result<(), DropReason> {
    let egress = vlans.egress(ingress.vlan).ok_or(DropReason::NoDestination)?;
    let wanted = (egress == Egress::Tagged).then(|| ingress.tag().0);
    let has = if ingress.tagged { packet.vlan_tag() } else { None };
    if wanted != has {
        if has.is_some() {
            packet.pop_vlan();
        }
        if let Some(tag) = wanted {
            packet.push_vlan(tag);
        }
        ingress.tagged = wanted.is_some();
    }
    if wanted.is_none() && packet.vlan_tag().is_some() && vlans.has_tagged() {
        return Err(DropReason::VlanNotAllowed);
    }
    Ok(())
}
