//! What was decided, when and why: the last few decisions.

use std::collections::VecDeque;
use std::fmt;

use crate::{Hopeless, IoCore, Move, QueueId};

/// Something that was decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Its number; the first is 0, and none is left out.
    pub number: u64,
    /// The tick in which it was made.
    pub tick: u64,
    /// What.
    pub what: What,
    /// Why.
    pub why: Why,
    /// By how much the fullest of the cores concerned should become less full, in parts of a core.
    pub expected: Option<f64>,
    /// By how much it did, once that has settled.
    pub measured: Option<f64>,
    /// How long the queue pair was unserved, in nanoseconds, once it has moved.
    pub pause_ns: Option<u64>,
    /// Why it could not be carried out.
    pub failed: Option<String>,
}

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum What {
    /// A queue pair moves.
    Move(Move),
    /// It moves back.
    RollBack(Move),
    /// A core is put to sleep.
    Park(IoCore),
    /// It is woken.
    Wake(IoCore),
    /// Nothing: nothing helps.
    CannotFix(Hopeless),
    /// Nothing is decided any more.
    Pause,
    /// It is again.
    Resume,
}

/// Why it was decided.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Why {
    /// This core is saturated.
    Saturated(IoCore),
    /// No core is saturated, but loads are uneven: this is the fullest core.
    Uneven(IoCore),
    /// The move before made the fullest core fuller by this part of a core.
    Worse(f64),
    /// The other half of the exchange could not be done.
    HalfDone,
    /// This core is going to be parked.
    Draining(IoCore),
    /// So much of a core is left to do for all cores together.
    LittleToDo(f64),
    /// The policy assigned everything anew.
    Assigned,
    /// An operator said so.
    Operator,
}

impl What {
    /// The same in words, with these names for queue pairs.
    #[must_use]
    pub fn told(&self, name: impl Fn(QueueId) -> String) -> String {
        match *self {
            Self::Move(Move { queue, from, to }) => format!("{} from {from} to {to}", name(queue)),
            Self::RollBack(Move { queue, from, to }) => format!("{} back from {from} to {to}", name(queue)),
            Self::Park(core) => format!("park {core}"),
            Self::Wake(core) => format!("wake {core}"),
            Self::CannotFix(hopeless) => format!("nothing: {}", hopeless.told(name)),
            Self::Pause => "pause".to_owned(),
            Self::Resume => "resume".to_owned(),
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told(|queue| queue.to_string()))
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Saturated(core) => write!(f, "{core} is saturated"),
            Self::Uneven(core) => write!(f, "loads are uneven, {core} is the fullest"),
            Self::Worse(by) => write!(f, "it made the fullest core fuller by {:.0} % of a core", by * 100.0),
            Self::HalfDone => f.write_str("the other half of the exchange could not be done"),
            Self::Draining(core) => write!(f, "{core} is to be parked"),
            Self::LittleToDo(load) => write!(f, "there is work for {load:.1} cores"),
            Self::Assigned => f.write_str("the policy assigned everything anew"),
            Self::Operator => f.write_str("an operator said so"),
        }
    }
}

/// The last decisions.
#[derive(Debug, Clone)]
pub(super) struct Log {
    decisions: VecDeque<Decision>,
    most: usize,
    next: u64,
}

impl Log {
    pub(super) fn new(most: usize) -> Self {
        Self { decisions: VecDeque::new(), most, next: 0 }
    }

    /// Notes a decision; returns its number.
    pub(super) fn add(&mut self, tick: u64, what: What, why: Why, expected: Option<f64>) -> u64 {
        let number = self.next;
        self.next += 1;
        if self.decisions.len() >= self.most {
            self.decisions.pop_front();
        }
        if self.most > 0 {
            let decision = Decision { number, tick, what, why, expected, measured: None, pause_ns: None, failed: None };
            self.decisions.push_back(decision);
        }
        number
    }

    /// A decision that is still remembered.
    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut Decision> {
        let oldest = self.decisions.front()?.number;
        self.decisions.get_mut(usize::try_from(number.checked_sub(oldest)?).ok()?)
    }

    pub(super) fn all(&self) -> impl DoubleEndedIterator<Item = &Decision> {
        self.decisions.iter()
    }
}
