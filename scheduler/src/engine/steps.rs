//! Steps that were planned, and the orders that come of them.

use super::watch::{Before, Watch};
use super::{Order, Scheduler, What, Why};
use crate::Move;

/// A move, or the two of an exchange.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) moves: Vec<Move>,
    pub(super) why: Why,
    /// By how much the fullest of its cores is to become less full.
    pub(super) expected: Option<f64>,
    pub(super) kind: Kind,
    /// Moves that are done, and the numbers of their decisions.
    done: Vec<(Move, u64)>,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// Its effect is judged against how things were before.
    Judged(Before),
    /// It is done whatever comes of it.
    Unconditional,
    /// It undoes another, before which things were like this.
    RollBack(Before),
}

impl Step {
    pub(super) fn new(moves: Vec<Move>, why: Why, expected: Option<f64>, kind: Kind) -> Self {
        Self { moves, why, expected, kind, done: Vec::new() }
    }

    /// Whether a part of it is done, or of what it undoes.
    pub(super) fn has_begun(&self) -> bool {
        !self.done.is_empty() || self.why == Why::HalfDone
    }

    pub(super) fn cores(&self) -> impl Iterator<Item = usize> + '_ {
        self.moves.iter().flat_map(|step| [step.from.0, step.to.0])
    }
}

impl Scheduler {
    pub(super) fn next_power(&mut self) -> Option<(Order, u64)> {
        let (order, why) = self.power.pop_front()?;
        let what = match order {
            Order::Move(step) => What::Move(step),
            Order::Park(core) => What::Park(core),
            Order::Wake(core) => What::Wake(core),
        };
        Some((order, self.log.add(self.tick, what, why, None)))
    }

    /// The next move that is still what it was planned as.
    pub(super) fn next_move(&mut self) -> Option<(Order, u64)> {
        while let Some(step) = self.steps.front() {
            let Some(&next) = step.moves.get(step.done.len()) else {
                self.end_step();
                continue;
            };
            let stands = self.history.place(next.queue) == Some(next.from) && !self.history.is_parked(next.to.0);
            if !stands {
                self.abandon_step();
                continue;
            }
            let what = if matches!(step.kind, Kind::RollBack(_)) { What::RollBack(next) } else { What::Move(next) };
            let (why, expected) = (step.why, step.expected);
            return Some((Order::Move(next), self.log.add(self.tick, what, why, expected)));
        }
        None
    }

    pub(super) fn move_finished(&mut self, step: Move, number: u64, done: bool) {
        let patience = self.config.patience;
        if !done {
            self.holds.hold(step.queue, self.tick + self.config.ticks(patience.operator_hold_ns));
            self.abandon_step();
            return;
        }
        self.moves += 1;
        self.history.put(step.queue, step.to);
        let [hold, longest, back, longest_back] =
            [patience.hold_ns, patience.longest_hold_ns, patience.back_hold_ns, patience.longest_back_hold_ns]
                .map(|ns| self.config.ticks(ns));
        let Some(current) = self.steps.front_mut() else { return };
        current.done.push((step, number));
        if let Kind::RollBack(before) = &current.kind {
            self.rolled_back += 1;
            self.holds.put_back(step.queue, self.tick, back, longest_back, before.of(step.queue));
        } else {
            self.holds.moved(step.queue, self.tick, hold, longest);
        }
        if current.done.len() == current.moves.len() {
            self.end_step();
        }
    }

    /// All of the first step's moves are done.
    fn end_step(&mut self) {
        let Some(step) = self.steps.pop_front() else { return };
        if let Kind::Judged(before) = step.kind {
            let calms = before.fullest() - step.expected.unwrap_or(0.0) < self.pressing();
            if calms && matches!(step.why, Why::Saturated(_)) {
                let until = self.tick + self.config.ticks(self.config.patience.drain_ns);
                self.planning.ease(before.cores(), until);
            }
            let until = self.tick + self.config.ticks(self.config.patience.settle_ns);
            self.watches.push(Watch { done: step.done, before, expected: step.expected.unwrap_or(0.0), until });
        }
    }

    /// The first step cannot go on. Half of an exchange is undone.
    fn abandon_step(&mut self) {
        let Some(step) = self.steps.pop_front() else { return };
        if let Kind::Judged(before) = step.kind
            && !step.done.is_empty()
        {
            self.undo(&step.done, Why::HalfDone, before);
        }
    }

    /// Has moves undone before anything else is done; how things were before them.
    pub(super) fn undo(&mut self, done: &[(Move, u64)], why: Why, before: Before) {
        let back = |(step, _): &(Move, u64)| Move { queue: step.queue, from: step.to, to: step.from };
        let moves = done.iter().rev().map(back).collect();
        self.steps.push_front(Step::new(moves, why, None, Kind::RollBack(before)));
    }
}
