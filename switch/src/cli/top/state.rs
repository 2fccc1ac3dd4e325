//! What is shown, and what keys and answers change about it. No terminal in here.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::ValueEnum;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::widgets::TableState;

use super::View;
use super::rows::{self, Column, Row};
use crate::snapshot::Snapshot;

/// Rows that a page key goes over.
const PAGE: isize = 15;

/// Intervals that `+` and `-` choose from, in tenths of a second.
const INTERVALS: [u64; 7] = [1, 2, 5, 10, 20, 50, 100];

/// What follows from a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It goes on.
    Go,
    /// With another interval.
    Interval(Duration),
    /// It is over.
    End,
}

/// The column that rows are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sort {
    pub(super) column: usize,
    pub(super) is_descending: bool,
}

pub(super) struct State {
    pub(super) view: View,
    /// One for each view.
    sorts: [Sort; 3],
    pub(super) filter: String,
    /// A filter that is being typed.
    pub(super) typed: Option<String>,
    pub(super) interval: Duration,
    pub(super) is_paused: bool,
    /// The row that is looked at, by what it is known by.
    selected: Option<String>,
    pub(super) scroll: TableState,
    pub(super) before: Option<Snapshot>,
    pub(super) now: Option<Snapshot>,
    /// What went wrong, and since when.
    pub(super) trouble: Option<(String, Instant)>,
    /// Whether the switch is another one than when this began.
    pub(super) was_restarted: bool,
}

impl State {
    pub(super) fn new(view: View, interval: Duration) -> Self {
        let sort = |view: View, head: &str, is_descending| Sort {
            column: rows::columns(view).iter().position(|column| column.head == head).unwrap_or(0),
            is_descending,
        };
        Self {
            view,
            sorts: [
                sort(View::Ports, "LOAD", true),
                sort(View::Cores, "CORE", false),
                sort(View::Decisions, "NO", true),
            ],
            filter: String::new(),
            typed: None,
            interval,
            is_paused: false,
            selected: None,
            scroll: TableState::default(),
            before: None,
            now: None,
            trouble: None,
            was_restarted: false,
        }
    }

    /// Takes what the switch answered, or that it did not. What was there before stays in sight.
    pub(super) fn take(&mut self, answer: Result<Snapshot>) {
        let snapshot = match answer {
            Ok(snapshot) => snapshot,
            Err(error) => {
                let since = self.trouble.as_ref().map_or_else(Instant::now, |(_, since)| *since);
                self.trouble = Some((error.to_string(), since));
                return;
            }
        };
        self.trouble = None;
        if self.is_paused {
            return;
        }
        if let Some(last) = &self.now
            && last.pid != snapshot.pid
        {
            (self.before, self.was_restarted) = (None, true);
            self.now = Some(snapshot);
            return;
        }
        self.before = self.now.replace(snapshot);
    }

    /// How the view is sorted.
    pub(super) fn sort(&self) -> Sort {
        self.sorts[self.view as usize]
    }

    /// Sorts by the column with this head, the other way round with a `-` in front.
    pub(super) fn sort_by(&mut self, wanted: &str) -> Result<()> {
        let columns = rows::columns(self.view);
        let (head, reverse) = wanted.strip_prefix('-').map_or((wanted, false), |head| (head, true));
        let Some(column) = columns.iter().position(|column| column.head.eq_ignore_ascii_case(head)) else {
            let heads: Vec<_> = columns.iter().map(|column| column.head.to_lowercase()).collect();
            bail!("there is no column {head:?} in this view; there are {}", heads.join(", "));
        };
        self.sorts[self.view as usize] = Sort { column, is_descending: columns[column].is_number != reverse };
        Ok(())
    }

    /// What is shown: columns, and the rows that the filter lets through, sorted.
    pub(super) fn rows(&self) -> (&'static [Column], Vec<Row>) {
        let filter = self.typed.as_ref().unwrap_or(&self.filter);
        let all = self.now.iter().flat_map(|now| rows::rows(self.view, self.before.as_ref(), now));
        let mut rows: Vec<Row> = all.filter(|row| row.matches(filter)).collect();
        let Sort { column, is_descending } = self.sort();
        rows.sort_by(|one, other| {
            let order = one.cells[column].key.compare(&other.cells[column].key);
            if is_descending { order.reverse() } else { order }
        });
        (rows::columns(self.view), rows)
    }

    /// The place of the row that is looked at.
    pub(super) fn place(&self, rows: &[Row]) -> usize {
        let is_it = |row: &Row| self.selected.as_ref() == Some(&row.id);
        rows.iter().position(is_it).unwrap_or(0)
    }

    /// A key was pressed.
    pub(super) fn key(&mut self, key: KeyEvent) -> Next {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if matches!(key.code, KeyCode::Char('c' | 'd')) { Next::End } else { Next::Go };
        }
        if let Some(typed) = self.typed.take() {
            self.typed = self.type_on(typed, key.code);
            return Next::Go;
        }
        match key.code {
            KeyCode::Char('q') => return Next::End,
            KeyCode::Char('/') => self.typed = Some(self.filter.clone()),
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char(' ') => self.is_paused = !self.is_paused,
            KeyCode::Char('r') => self.sorts[self.view as usize].is_descending ^= true,
            KeyCode::Char('1'..='3') | KeyCode::Tab | KeyCode::BackTab => self.change_view(key.code),
            KeyCode::Left | KeyCode::Char('<') => self.change_column(-1),
            KeyCode::Right | KeyCode::Char('>') => self.change_column(1),
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::PageUp => self.step(-PAGE),
            KeyCode::PageDown => self.step(PAGE),
            KeyCode::Home | KeyCode::Char('g') => self.step(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.step(isize::MAX),
            KeyCode::Char('+' | '=') => return self.change_interval(true),
            KeyCode::Char('-') => return self.change_interval(false),
            _ => {}
        }
        Next::Go
    }

    /// The filter as it is typed on, until it is taken or left.
    fn type_on(&mut self, mut typed: String, key: KeyCode) -> Option<String> {
        match key {
            KeyCode::Enter => {
                self.filter = typed;
                return None;
            }
            KeyCode::Esc => return None,
            KeyCode::Backspace => {
                typed.pop();
            }
            KeyCode::Char(next) if typed.len() < 64 => typed.push(next),
            _ => {}
        }
        Some(typed)
    }

    fn change_view(&mut self, key: KeyCode) {
        let views = View::value_variants();
        let now = self.view as usize;
        self.view = match key {
            KeyCode::Char(digit) => views[digit as usize - '1' as usize],
            KeyCode::BackTab => views[(now + views.len() - 1) % views.len()],
            _ => views[(now + 1) % views.len()],
        };
        self.selected = None;
        self.scroll = TableState::default();
    }

    fn change_column(&mut self, by: isize) {
        let columns = rows::columns(self.view);
        let sort = &mut self.sorts[self.view as usize];
        let column = (sort.column as isize + by).rem_euclid(columns.len() as isize) as usize;
        *sort = Sort { column, is_descending: columns[column].is_number };
    }

    fn change_interval(&mut self, longer: bool) -> Next {
        let tenths = (self.interval.as_millis() / 100) as u64;
        let other = match longer {
            true => INTERVALS.into_iter().find(|other| *other > tenths),
            false => INTERVALS.into_iter().rev().find(|other| *other < tenths),
        };
        let Some(other) = other else { return Next::Go };
        self.interval = Duration::from_millis(100 * other);
        Next::Interval(self.interval)
    }

    fn step(&mut self, by: isize) {
        let (_, rows) = self.rows();
        let last = rows.len().saturating_sub(1);
        let to = self.place(&rows).saturating_add_signed(by).min(last);
        self.selected = rows.get(to).map(|row| row.id.clone());
    }
}
