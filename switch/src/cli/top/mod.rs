//! `sidecore top`: what the switch is doing, again and again, in a terminal.
//!
//! | module | what it does |
//! |---|---|
//! | `rows` | from two snapshots to rows of columns |
//! | `state` | what is shown, and what keys and answers change about it |
//! | `draw` | puts that on a screen of any size |

mod draw;
mod rows;
mod state;
#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use rustix::event::{PollFd, PollFlags, Timespec};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::client::Client;
use super::{show, table};
use crate::snapshot::Snapshot;
use state::{Next, State};

/// How long a key waits at most until it is seen, and a signal.
const RESPONSE: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub(super) struct TopArgs {
    /// Seconds between two looks at the switch.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    interval: f64,
    /// What to begin with.
    #[arg(long, value_enum, default_value_t = View::Ports)]
    view: View,
    /// The column to sort by, by its head in small letters, such as `load`, `tx/s` or `drops/s`; with a `-` in front the other way round.
    #[arg(long, value_name = "COLUMN", allow_hyphen_values = true)]
    sort: Option<String>,
    /// Show only rows that have all of these words in them; `core:1` stands for those on I/O core 1.
    #[arg(long, value_name = "WORDS", default_value = "")]
    filter: String,
    /// Print all rows and columns once, for scripts; rates are those of one interval.
    #[arg(long)]
    once: bool,
}

/// What is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum View {
    /// Guests and uplinks.
    Ports,
    /// I/O cores.
    Cores,
    /// What the scheduler decided.
    Decisions,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("use a number from 0.1 to 3600".to_owned()),
    }
}

pub(super) fn execute(client: Client, args: &TopArgs) -> Result<()> {
    let mut state = State::new(args.view, Duration::from_secs_f64(args.interval));
    state.filter = args.filter.clone();
    if let Some(column) = &args.sort {
        state.sort_by(column)?;
    }
    if args.once {
        return once(&client, &mut state);
    }
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        bail!("standard input or output is no terminal; use `sidecore top --once`, or `sidecore status --json`");
    }
    let is_over = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&is_over))?;
    }
    let link = Link::start(client, state.interval);
    // A panic restores the terminal as well.
    let mut terminal = ratatui::try_init()?;
    let result = run(&mut terminal, &mut state, &link, &is_over);
    ratatui::try_restore()?;
    result
}

fn once(client: &Client, state: &mut State) -> Result<()> {
    state.take(Ok(show::snapshot(client)?));
    thread::sleep(state.interval);
    state.take(Ok(show::snapshot(client)?));
    let (columns, rows) = state.rows();
    let heads: Vec<_> = columns.iter().map(rows::Column::table_head).collect();
    let heads: Vec<&str> = heads.iter().map(String::as_str).collect();
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.cells.iter().map(|cell| cell.text.clone()).collect()).collect();
    super::print(&table::render(&heads, &rows))
}

fn run(terminal: &mut DefaultTerminal, state: &mut State, link: &Link, is_over: &AtomicBool) -> Result<()> {
    let mut is_stale = true;
    while !is_over.load(Ordering::Relaxed) {
        while let Ok(answer) = link.answers.try_recv() {
            state.take(answer);
            is_stale = true;
        }
        if is_stale {
            terminal.draw(|frame| draw::draw(frame, state))?;
            is_stale = false;
        }
        // Before crossterm looks: it reads from a terminal that is gone without end.
        if is_hung_up_within(RESPONSE) {
            return Ok(());
        }
        if !event::poll(Duration::ZERO)? {
            continue;
        }
        match event::read()? {
            Event::Key(key) if key.kind != KeyEventKind::Release => match state.key(key) {
                Next::Go => {}
                Next::Interval(interval) => link.set_interval(interval),
                Next::End => return Ok(()),
            },
            _ => {}
        }
        is_stale = true;
    }
    Ok(())
}

/// Waits for a key, a signal or this time. Whether the terminal is gone.
fn is_hung_up_within(time: Duration) -> bool {
    let stdin = io::stdin();
    let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
    // An interruption counts as nothing ready.
    let _ = rustix::event::poll(&mut fds, Timespec::try_from(time).ok().as_ref());
    fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL)
}

/// The thread that asks the switch, so that one that does not answer holds nothing up.
struct Link {
    answers: Receiver<Result<Snapshot>>,
    intervals: Sender<Duration>,
}

impl Link {
    fn start(client: Client, interval: Duration) -> Self {
        let (to_us, answers) = channel();
        let (intervals, from_us) = channel();
        // It ends with the process, or when nobody takes its answers any more.
        thread::spawn(move || {
            let mut interval = interval;
            let mut next = Instant::now();
            loop {
                if to_us.send(show::snapshot(&client)).is_err() {
                    return;
                }
                next = (next + interval).max(Instant::now());
                while let Ok(changed) = from_us.recv_timeout(next.saturating_duration_since(Instant::now())) {
                    interval = changed;
                    next = next.min(Instant::now() + interval);
                }
            }
        });
        Self { answers, intervals }
    }

    fn set_interval(&self, interval: Duration) {
        // The thread is there as long as this is.
        let _ = self.intervals.send(interval);
    }
}
