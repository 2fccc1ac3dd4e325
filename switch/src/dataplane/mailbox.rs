//! How the rest of the process speaks to an I/O core: messages it takes between bursts, answers it never waits to give.

use std::num::NonZeroU32;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringbuf::traits::{Observer, Producer, Split};
use ringbuf::{HeapCons, HeapProd, HeapRb};
use vm_ports::QueuePair;

use super::accounting::{SourceId, UplinkCounters};
use super::capture::Tap;
use super::handover::{Move, Token};
use super::ports::PortTable;
use super::reply::Reply;
use super::trace::{EgressPort, Question};
use super::turns::Share;
use super::uplink::UplinkLimits;
use super::waiting::Waiting;
use super::xcore::{FromCore, ToCore};
use crate::forwarding::{Entry, LearnMessage, MacAddr, PortId, PortKind, TokenBucket, VlanId};

/// Messages that can wait.
const MAILBOX: usize = 256;

/// What an I/O core can be told.
pub(super) enum Message {
    /// Serve a queue pair.
    Attach { port: PortId, queue: usize, source: SourceId, share: Share, pair: Box<QueuePair> },
    /// Give a queue pair back: all that was pulled is completed, all that was pushed is shown.
    TakeBack { port: PortId, queue: usize, reply: Reply<Option<Box<QueuePair>>> },
    /// Serve an uplink's queue.
    AttachUplink(Box<UplinkShare>),
    /// Stop serving an uplink. Its queues are closed where the answer is received.
    TakeUplink { port: PortId, reply: Reply<Vec<UplinkShare>> },
    /// Do not poll an uplink's RX queue before the cycle counter is there, or poll it again.
    HoldUplink { port: PortId, queue: u16, until: Option<u64>, reply: Option<Reply<()>> },
    /// Say when an uplink's RX queue was seen empty, and where the rings to the other cores stood then; at once, and the token as it came, where it is not
    /// here.
    EmptyUplink { port: PortId, queue: u16, token: Token, reply: Reply<Token> },
    /// Forward by this table from now on, which is the first of a move, or of none; the old one is freed where the answer is received.
    Table { table: Arc<PortTable>, moving: Option<Move>, reply: Reply<Arc<PortTable>> },
    /// Give this queue pair to another core, once the table has come that says so.
    Give { handed: Box<Handed>, reply: Reply<()> },
    /// There is another core, and these are the rings to and from it. The answer says that they are in use.
    Connect { core: usize, to: Box<ToCore>, from: Box<FromCore>, reply: Reply<()> },
    /// A queue pair will come from another core.
    Expect { moving: Move, reply: Reply<()> },
    /// Addresses may be learnt on this port, so many at most.
    OpenPort { port: PortId, kind: PortKind, limit: u32 },
    /// Forget what was learnt on this port.
    FlushPort(PortId),
    /// Forget the port.
    ClosePort(PortId),
    /// To a core that is new: so often the port was flushed before.
    Generation { port: PortId, generation: u32 },
    /// To a core that is new: what another one has learnt.
    Learn(LearnMessage),
    /// A station that is configured.
    FixStation { vlan: VlanId, mac: MacAddr, port: PortId },
    /// Flood a RARP from this port on behalf of a guest that moved here, and say that it is not pending any more.
    Announce { port: PortId, source: SourceId, mac: MacAddr, pending: Arc<AtomicBool> },
    /// Show the stations of `count` buckets from `from` on; `None` past the end.
    Stations { from: usize, count: usize, reply: Reply<Option<Vec<Entry>>> },
    /// Say what would become of a packet. Nothing else is done.
    Foresee { question: Box<Question>, reply: Reply<Box<Question>> },
    /// Say what it would meet at those receivers that are here, a few of them.
    Look { ports: Vec<EgressPort>, reply: Reply<Vec<EgressPort>> },
    /// From now on, age, learn and flood by these limits.
    Tune(Limits),
    /// Have a part in a capture; the answer says that it has.
    Tap { tap: Box<Tap>, reply: Reply<()> },
    /// Have no part in it any more.
    Untap { capture: u64, reply: Reply<Option<Box<Tap>>> },
    /// End.
    Stop,
}

/// A queue pair on its way from one core to another. Made, and freed, by whoever asked for the move.
pub(super) struct Handed {
    pub(super) moving: Move,
    pub(super) source: SourceId,
    pub(super) share: Share,
    /// Nothing before the giving core has put it in, or where that did not have it.
    pub(super) pair: Option<Pair>,
    /// Where the giving core's rings stood then, …
    pub(super) token: Token,
    /// … and the cycle counter: when its last burst had ended, …
    pub(super) left: u64,
    /// … and when the other core could pull from it. Nothing where there was no pair.
    pub(super) arrived: Option<u64>,
    /// Where it goes when the move is over.
    pub(super) reply: Option<Reply<Box<Handed>>>,
}

/// What moves.
#[allow(clippy::large_enum_variant, reason = "it is in the box of what is handed over")]
pub(super) enum Pair {
    /// A guest's queue pair, and how long work waits in its transmit ring.
    Guest(QueuePair, Waiting),
    /// An uplink's.
    Uplink(UplinkShare),
}

/// What can be changed while the switch runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) ageing_s: NonZeroU32,
    /// Addresses each port may learn: how fast, and how many.
    pub(super) learn: TokenBucket,
    pub(super) learn_max: u32,
    /// What each guest's port may flood.
    pub(super) flood: TokenBucket,
}

/// A queue pair of an uplink, and what it takes to serve it.
pub(super) struct UplinkShare {
    pub(super) port: PortId,
    pub(super) source: SourceId,
    pub(super) queues: UplinkQueues,
    pub(super) pool: pmd_bindings::Mempool,
    pub(super) limits: UplinkLimits,
    pub(super) counters: Arc<UplinkCounters>,
}

/// An RX queue and a TX queue with the same number.
pub(super) struct UplinkQueues {
    pub(super) rx: pmd_bindings::RxQueue,
    pub(super) tx: pmd_bindings::TxQueue,
}

/// The sending side of a core's mailbox; nothing where it was closed.
pub(super) struct Mailbox(Mutex<Option<HeapProd<Message>>>);

pub(super) fn mailbox() -> (Mailbox, HeapCons<Message>) {
    let (sender, receiver) = HeapRb::new(MAILBOX).split();
    (Mailbox(Mutex::new(Some(sender))), receiver)
}

impl Mailbox {
    /// Sends. Waits while the mailbox is full: the core empties it once a round. A core that has ended gets nothing: the message is dropped, and with it
    /// the reply that it may ask for.
    pub(super) fn send(&self, message: Message) {
        let mut message = Some(message);
        while let Some(again) = message.take() {
            message = self.try_send(again);
            if message.is_some() {
                std::thread::yield_now();
            }
        }
    }

    /// Sends, or gives the message back while the mailbox is full.
    fn try_send(&self, message: Message) -> Option<Message> {
        let mut sender = self.sender();
        let sender = sender.as_mut()?;
        sender.try_push(message).err().filter(|_| sender.read_is_held())
    }

    /// The core has ended: what it has not read is dropped.
    pub(super) fn close(&self) {
        *self.sender() = None;
    }

    fn sender(&self) -> MutexGuard<'_, Option<HeapProd<Message>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::reply::{Answer, reply};
    use super::*;

    #[test]
    fn nobody_waits_for_a_core_that_has_ended() {
        let (mailbox, core) = mailbox();
        let ask = |mailbox: &Mailbox| -> Answer<()> {
            let (reply, answer) = reply();
            mailbox.send(Message::HoldUplink { port: PortId(0), queue: 0, until: None, reply: Some(reply) });
            answer
        };
        let unread = ask(&mailbox);
        drop(core);
        let beyond: Vec<_> = (0..2 * MAILBOX).map(|_| ask(&mailbox)).collect();
        assert!(!unread.is_over());
        mailbox.close();
        let late = ask(&mailbox);
        for answer in std::iter::once(unread).chain(beyond).chain([late]) {
            assert!(answer.is_over() && answer.wait().is_none());
        }
    }
}
