//! Cases that take short turns.
//!
//! The machine changes its speed from one tenth of a second to the next, so that cases measured one after another meet different machines. Here the
//! guests of all cases stay connected for a round, in which each case has many short turns; a switch is halted when none of its guests have theirs.

use anyhow::{Context, Result};

use super::Lab;
use super::stage::{Load, Stage};
use crate::ringgen::{Report, Session};
use crate::stats::median;

/// What is held against others: guests at a switch, and what they do in their turns. Cases at one switch have ports of their own.
pub struct Case<'s> {
    /// The switch.
    pub stage: &'s Stage,
    /// The guests.
    pub load: Load,
}

/// Turns of each case in a round.
pub const TURNS: usize = 8;

/// How cases are measured that take so many turns in a round, for the report.
#[must_use]
pub fn setup(lab: &Lab, turns: usize) -> String {
    format!(
        "In a round all cases take {turns} turns each, of {:.1} ms, one after another, so that a machine which changes its speed changes it for all \
         of them; guests stay connected, and connect anew for the next round. A round's figures are those of all turns of a case together: quantiles \
         are of everything that was timed in any of them, and calls, packets and CPU time are counted in these turns alone.",
        lab.effort.seconds / turns as f64 * 1e3
    )
}

/// Rounds of cases at every place. Returns the reports of each case: those of the first place's cases, then those of the next one's.
pub fn rounds<P, R: Clone>(lab: &Lab, places: &[P], round: impl FnMut(&P) -> Result<Vec<R>>) -> Result<Vec<Vec<R>>> {
    let by_case = |rounds: Vec<Vec<R>>| {
        let cases = rounds.first().map_or(0, Vec::len);
        (0..cases).map(move |case| rounds.iter().map(|reports| reports[case].clone()).collect::<Vec<_>>())
    };
    Ok(lab.rounds(places, round)?.into_iter().flat_map(by_case).collect())
}

/// What a case came to in a round.
#[derive(Debug, Clone)]
pub struct Played {
    /// All its turns together.
    pub all: Report,
    /// Each of them.
    pub turns: Vec<Report>,
}

impl Played {
    /// How this case compares with another one, of turns one after another, in the median. What slows the machine down between two of them changes
    /// one such figure of many.
    pub fn beside(&self, other: &Self, compare: impl Fn(&Report, &Report) -> f64) -> f64 {
        let turns = self.turns.iter().zip(&other.turns).map(|(here, there)| compare(here, there));
        median(&turns.collect::<Vec<_>>()).unwrap_or(f64::NAN)
    }
}

/// One round of so many turns. Each case is first in its turn, and its guests connect in the first one. No packet may have been spoiled. Switches
/// are halted afterwards.
pub fn play(lab: &Lab, cases: &[Case], count: usize) -> Result<Vec<Played>> {
    let mut sessions: Vec<Option<Session>> = cases.iter().map(|_| None).collect();
    let mut turns: Vec<Vec<Report>> = cases.iter().map(|_| Vec::with_capacity(count)).collect();
    cases.iter().try_for_each(|case| case.stage.halt(true))?;
    for turn in 0..count * cases.len() {
        let at = (turn + turn / cases.len()) % cases.len();
        let (case, session) = (&cases[at], &mut sessions[at]);
        case.stage.halt(false)?;
        let session = match session {
            Some(session) => session,
            None => session.insert(case.stage.session(lab, &case.load)?),
        };
        let report = session.turn(&lab.interrupt).with_context(|| case.stage.tail())?;
        case.stage.halt(true)?;
        report.ensure_unspoiled()?;
        turns[at].push(report);
    }
    let end = |((case, session), turns): ((&Case, Option<Session>), _)| {
        // Alone, too: guests leave one after another, and each waits for its I/O core.
        case.stage.halt(false)?;
        let all = session.context("there were no turns")?.end().with_context(|| case.stage.tail())?;
        case.stage.halt(true)?;
        Ok(Played { all, turns })
    };
    cases.iter().zip(sessions).zip(turns).map(end).collect()
}
