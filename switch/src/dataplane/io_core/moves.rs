//! A core's part in a move: giving a queue pair up, and taking one over (see [`handover`](super::super::handover)).

use pmd_bindings::tsc;
use vm_ports::{Burst, TxQueue};

use super::super::handover::Move;
use super::super::mailbox::{Handed, Pair};
use super::super::waiting::Waiting;
use super::super::xcore::Groups;
use super::{IoCore, UplinkRx};

/// The move that a core has a part in.
#[allow(clippy::large_enum_variant, reason = "a core has one of these; a box would be an allocation in its thread")]
pub(super) enum Part {
    /// It gives the pair up, as soon as nothing more comes for it.
    Gives(Box<Handed>),
    /// The pair will come.
    Awaits(Move),
    /// The pair has come, and packets leave through it. What is pulled from has to wait until everything that was pulled before is delivered.
    Holds(Box<Handed>, Option<Intake>),
    /// The pair is served. Floods may still be under way to this core from before it was the pair's: they must not reach it.
    Settles(Box<Handed>),
}

/// The half of a queue pair that is pulled from.
pub(super) enum Intake {
    /// A guest's transmit ring.
    Guest(TxQueue, Waiting),
    /// An uplink's receive queue.
    Uplink(UplinkRx),
}

impl IoCore {
    /// Goes on with the move, if it can. Between two rounds, at which everything pulled is completed and everything pushed is shown.
    pub(super) fn advance_move(&mut self) {
        self.part = match self.part.take() {
            Some(Part::Gives(handed)) => self.give(handed),
            Some(Part::Awaits(moving)) => self.take_over(moving),
            Some(Part::Holds(handed, intake)) => self.release(handed, intake),
            Some(Part::Settles(handed)) => self.settle(handed),
            None => None,
        };
    }

    /// Notes, for the two cores, from where on this one sends by the table of a move.
    pub(super) fn mark(&mut self, moving: &Move) {
        let me = self.forwarder.out.me();
        for core in [moving.from, moving.to].map(usize::from) {
            if let Some(link) = self.forwarder.out.link_to(core) {
                self.progress.mark(me, core, moving.since, link.place());
            }
        }
    }

    fn give(&mut self, mut handed: Box<Handed>) -> Option<Part> {
        let moving = handed.moving;
        let knows = moving.owner(self.forwarder.table.version()) == moving.to;
        if !knows || !moving.is_drained(moving.from, &self.progress) {
            return Some(Part::Gives(handed));
        }
        if handed.pair.is_none() {
            let guest = self.take_back(moving.port, usize::from(moving.queue));
            let uplink = || self.take_uplink_pair(moving.port, moving.queue).map(Pair::Uplink);
            handed.pair = guest.map(|(pair, waiting)| Pair::Guest(pair, waiting)).or_else(uplink);
            handed.left = tsc();
        }
        handed.token.note(self.forwarder.out.me(), self.forwarder.out.places());
        match self.forwarder.out.link_to(moving.to.into()).map(|to| to.hand(handed)) {
            Some(Err(handed)) => Some(Part::Gives(handed)),
            _ => {
                self.forwarder.out.set_move(None);
                None
            }
        }
    }

    fn take_over(&mut self, moving: Move) -> Option<Part> {
        let link = self.from.get_mut(usize::from(moving.from)).and_then(Option::as_mut);
        let Some(mut handed) = link.and_then(|link| link.next_pair()) else { return Some(Part::Awaits(moving)) };
        let pair = handed.pair.take();
        handed.arrived = pair.is_some().then_some(0);
        let intake = match pair {
            Some(Pair::Guest(pair, waiting)) => {
                let tx = self.attach_receiver(moving.port, usize::from(moving.queue), handed.source, pair);
                tx.map(|tx| Intake::Guest(tx, waiting))
            }
            Some(Pair::Uplink(share)) => Some(Intake::Uplink(self.attach_uplink_tx(share))),
            None => None,
        };
        self.forwarder.out.has_arrived();
        self.deliver_parked();
        self.release(handed, intake)
    }

    /// Delivers what waited for the queue pair, before anything that comes later can reach it.
    fn deliver_parked(&mut self) {
        for core in 0..self.from.len() {
            while self.deliver_some_parked(core) {}
        }
        // What this core sent itself and has not looked at since.
        while self.poll_core(self.forwarder.out.me(), false, &tsc) {}
    }

    /// Delivers a burst of what came from a core and was parked. Whether there was any.
    fn deliver_some_parked(&mut self, core: usize) -> bool {
        let Self { from, forwarder, buffer, done_at, .. } = self;
        let Some(Some(link)) = from.get_mut(core) else { return false };
        let mut groups = Groups::new();
        let mut burst = Burst::new(buffer);
        let chunks = link.pull_parked(&mut burst, &mut groups);
        forwarder.out.taps.begin_burst(*done_at);
        // The queue pair is here: nothing is parked again.
        forwarder.receive(&mut burst, &groups, core, None);
        drop((burst, groups));
        forwarder.finish(None, *done_at);
        link.release_parked(chunks);
        chunks > 0
    }

    fn release(&mut self, mut handed: Box<Handed>, intake: Option<Intake>) -> Option<Part> {
        if self.heeds_token && !handed.token.is_passed(&self.progress) {
            return Some(Part::Holds(handed, intake));
        }
        let moving = handed.moving;
        match intake {
            Some(Intake::Guest(tx, waiting)) => {
                let queue = (moving.port, usize::from(moving.queue));
                self.attach_sender(queue, handed.source, handed.share, tx, waiting);
            }
            Some(Intake::Uplink(rx)) => self.uplinks.push(rx),
            None => {}
        }
        handed.arrived = handed.arrived.map(|_| tsc());
        self.settle(handed)
    }

    fn settle(&mut self, mut handed: Box<Handed>) -> Option<Part> {
        if !handed.moving.is_drained(handed.moving.to, &self.progress) {
            return Some(Part::Settles(handed));
        }
        self.forwarder.out.set_move(None);
        if let Some(reply) = handed.reply.take() {
            reply.give(handed);
        }
        None
    }
}
