//! Keys and snapshots in, screens out: on a backend that is a buffer.

use std::time::Duration;

use anyhow::anyhow;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::Modifier;

use super::View;
use super::draw::{draw, fitting};
use super::rows::columns;
use super::state::{Next, State};
use crate::metrics::tests::snapshot;
use crate::snapshot::{DecisionSnapshot, PortKind, Snapshot};

/// Ten guests and an uplink on two cores; guest N sends 100 × N packets a second, and vm3 loses five.
fn snapshots() -> (Snapshot, Snapshot) {
    let mut before = snapshot();
    let guest = before.ports.iter().find(|port| port.kind == PortKind::Guest).unwrap().clone();
    let uplink = before.ports.iter().find(|port| port.kind == PortKind::Uplink).unwrap().clone();
    before.ports = (1..=10)
        .map(|number| {
            let mut guest = guest.clone();
            guest.name = format!("vm{number}");
            guest.queues.truncate(1);
            guest.queues[0].io_core = Some(number % 2);
            guest
        })
        .chain([uplink])
        .collect();
    let mut core = before.cores[0].clone();
    core.core = 1;
    before.cores.push(core);
    before.scheduler.saturated = vec![1];
    before.scheduler.policy = "balance".to_owned();
    before.scheduler.decisions = vec![DecisionSnapshot {
        number: 4,
        time_ms: 0,
        kind: "move".to_owned(),
        reason: "saturated".to_owned(),
        what: "queue pair 0 of guest vm3 from I/O core 0 to I/O core 1".to_owned(),
        step: None,
        why: "I/O core 0 is saturated".to_owned(),
        expected_gain: Some(0.25),
        measured_gain: Some(0.21),
        pause_us: Some(13.0),
        failed: None,
    }];
    let mut now = before.clone();
    now.uptime_ms += 1000;
    for (number, port) in now.ports.iter_mut().enumerate().take(10) {
        port.tx.packets += 100 * (number as u64 + 1);
        port.queues[0].busy_cycles += now.tsc_hz / 100 * (number as u64 + 1);
    }
    now.ports[2].drops.insert("rx_full".to_owned(), 5);
    for core in &mut now.cores {
        core.busy_cycles += 3 * now.tsc_hz / 4;
        core.idle_cycles += now.tsc_hz / 4;
    }
    (before, now)
}

fn state(view: View) -> State {
    let (before, now) = snapshots();
    let mut state = State::new(view, Duration::from_secs(1));
    state.take(Ok(before));
    state.take(Ok(now));
    state
}

fn press(state: &mut State, keys: &str) {
    for key in keys.chars() {
        assert_eq!(state.key(KeyEvent::new(KeyCode::Char(key), KeyModifiers::NONE)), Next::Go, "{key}");
    }
}

fn code(state: &mut State, code: KeyCode) -> Next {
    state.key(KeyEvent::new(code, KeyModifiers::NONE))
}

/// The screen, line by line.
fn screen(state: &mut State, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, state)).unwrap();
    let buffer = terminal.backend().buffer().clone();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(line).collect()
}

/// The first words of the rows.
fn names(state: &State) -> Vec<String> {
    state.rows().1.iter().map(|row| row.id.clone()).collect()
}

#[test]
fn ports_fit_into_80_by_24() {
    let lines = screen(&mut state(View::Ports), 80, 24);
    assert!(lines[0].starts_with("sidecore 0.1.0  process 1  up 2 s  every 1.0 s"), "{lines:#?}");
    assert!(lines[1].starts_with("5.50k pkt/s  0 bit/s  dropped 5/s  fullest core 75.0 %"), "{lines:#?}");
    assert!(lines[2].starts_with("scheduler: balance") && lines[2].contains("saturated: I/O core 1"), "{lines:#?}");
    assert!(lines[3].contains("1 ports") && lines[3].ends_with("by LOAD ↓"), "{lines:#?}");
    for head in ["NAME", "CORE", "LOAD", "TX/s", "RX/s", "TX BIT/s", "RX BIT/s", "WAIT", "DROPS/s"] {
        assert!(lines[4].contains(head), "{head}: {lines:#?}");
    }
    assert!(lines[5].starts_with("vm10 ") && lines[5].contains(" 10.0 %  1.00k "), "{lines:#?}");
    assert!(lines[12].starts_with("vm3 ") && lines[12].ends_with(" 5"), "{lines:#?}");
    assert!(lines[22].starts_with("guest vm10 running; split rings of 256"), "{lines:#?}");
    assert!(lines[23].starts_with("q quit"), "{lines:#?}");
}

#[test]
fn wide_screens_have_all_columns_and_small_ones_something() {
    let lines = screen(&mut state(View::Ports), 160, 24);
    assert!(columns(View::Ports).iter().all(|column| lines[4].contains(column.head)), "{lines:#?}");
    for (width, height) in [(1, 1), (10, 3), (20, 6), (79, 10), (400, 100)] {
        for view in [View::Ports, View::Cores, View::Decisions] {
            screen(&mut state(view), width, height);
        }
    }
    for view in [View::Ports, View::Cores, View::Decisions] {
        for room in 30..200 {
            let shown = fitting(columns(view), room);
            let taken: u16 = shown.iter().map(|(_, width)| width + 1).sum();
            assert!(taken == room + 1, "{view:?} in {room}: {shown:?}");
        }
    }
}

#[test]
fn cores_say_who_is_on_them() {
    let lines = screen(&mut state(View::Cores), 80, 24);
    let core = &lines[6];
    assert!(
        core.trim_start().starts_with("1 ")
            && core.contains("75.0 %")
            && core.contains("saturated")
            && core.contains("vm9 9.0 %"),
        "{core}"
    );
    let lines = screen(&mut state(View::Decisions), 120, 24);
    let decision = lines.iter().find(|line| line.contains("guest vm3")).unwrap();
    assert!(decision.contains("21.0 %") && decision.contains("13.0 µs"), "{decision}");
    assert!(lines[22].ends_with("because I/O core 0 is saturated"), "{lines:#?}");
}

#[test]
fn rows_are_sorted_by_any_column_either_way() {
    let mut state = state(View::Ports);
    assert_eq!(names(&state)[..2], ["vm10", "vm9"]);
    press(&mut state, "r");
    assert_eq!(names(&state).last().unwrap(), "vm10");
    state.sort_by("name").unwrap();
    assert_eq!(names(&state)[..3], ["up", "vm1", "vm2"], "texts from A on, numbers in them by their value");
    assert_eq!(names(&state).last().unwrap(), "vm10");
    state.sort_by("DROPS/s").unwrap();
    assert_eq!(names(&state)[0], "vm3");
    state.sort_by("-tx/s").unwrap();
    assert_eq!(names(&state)[..2], ["up", "vm1"]);
    press(&mut state, ">");
    assert_eq!(state.sort().column, columns(View::Ports).iter().position(|column| column.head == "RX/s").unwrap());
    let error = state.sort_by("nonsense").unwrap_err().to_string();
    assert!(error.contains("nonsense") && error.contains("load"), "{error}");
}

#[test]
fn a_filter_is_typed_and_taken_or_left() {
    let mut state = state(View::Ports);
    press(&mut state, "/VM1");
    assert_eq!(names(&state), ["vm10", "vm1"], "as it is typed");
    code(&mut state, KeyCode::Enter);
    assert_eq!(names(&state), ["vm10", "vm1"]);
    press(&mut state, "/q core:1");
    assert_eq!(names(&state), [""; 0], "vm1q is nobody");
    code(&mut state, KeyCode::Esc);
    assert_eq!(state.filter, "VM1", "left as it was");
    state.filter = "core:1 guest".to_owned();
    assert_eq!(names(&state), ["vm9", "vm7", "vm5", "vm3", "vm1"]);
    code(&mut state, KeyCode::Esc);
    assert_eq!(names(&state).len(), 11);
}

#[test]
fn the_row_looked_at_stays_when_the_order_changes() {
    let mut state = state(View::Ports);
    code(&mut state, KeyCode::Down);
    let at = |state: &State| {
        let rows = state.rows().1;
        rows[state.place(&rows)].id.clone()
    };
    assert_eq!(at(&state), "vm9");
    press(&mut state, "r");
    assert_eq!(at(&state), "vm9");
    code(&mut state, KeyCode::End);
    assert_eq!(at(&state), "vm10");
    code(&mut state, KeyCode::Down);
    assert_eq!(at(&state), "vm10", "there is no further one");
    code(&mut state, KeyCode::Home);
    assert_eq!(at(&state), names(&state)[0]);
    // On a screen for a few rows, the one that is looked at is in sight.
    code(&mut state, KeyCode::End);
    assert!(screen(&mut state, 80, 10).iter().any(|line| line.starts_with("vm10 ")));
}

#[test]
fn keys_change_views_and_intervals_and_end_it() {
    let mut state = state(View::Ports);
    code(&mut state, KeyCode::Tab);
    assert_eq!(state.view, View::Cores);
    press(&mut state, "3");
    assert_eq!(state.view, View::Decisions);
    code(&mut state, KeyCode::Tab);
    assert_eq!(state.view, View::Ports);
    code(&mut state, KeyCode::BackTab);
    assert_eq!(state.view, View::Decisions);
    assert_eq!(code(&mut state, KeyCode::Char('+')), Next::Interval(Duration::from_secs(2)));
    assert_eq!(code(&mut state, KeyCode::Char('-')), Next::Interval(Duration::from_secs(1)));
    state.interval = Duration::from_millis(100);
    assert_eq!(code(&mut state, KeyCode::Char('-')), Next::Go, "there is no shorter one");
    assert_eq!(code(&mut state, KeyCode::Char('q')), Next::End);
    assert_eq!(state.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Next::End);
    press(&mut state, "/");
    assert_eq!(state.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Next::End, "while typing, too");
}

#[test]
fn a_switch_that_is_gone_is_said_to_be_and_one_that_comes_back_has_no_old_rates() {
    let mut state = state(View::Ports);
    state.take(Err(anyhow!("no switch runs on the control socket /x")));
    let lines = screen(&mut state, 120, 24);
    assert!(lines[0].starts_with("NO ANSWER for 0 s, trying again: no switch runs"), "{lines:#?}");
    assert!(lines[5].starts_with("vm10 "), "what was there last stays");
    let (mut again, _) = snapshots();
    (again.pid, again.uptime_ms) = (77, 10);
    state.take(Ok(again.clone()));
    let lines = screen(&mut state, 120, 24);
    assert!(lines[0].contains("process 77") && lines[0].contains("STARTED AGAIN"), "{lines:#?}");
    assert!(lines[5].contains(" - "), "no rates yet: {lines:#?}");
    again.uptime_ms += 1000;
    state.take(Ok(again));
    assert!(!screen(&mut state, 120, 24)[5].contains(" - "));
}

#[test]
fn a_pause_keeps_what_is_shown() {
    let mut state = state(View::Ports);
    press(&mut state, " ");
    let (before, _) = snapshots();
    state.take(Ok(before));
    assert_eq!(names(&state)[0], "vm10", "rates are still those of before");
    assert!(screen(&mut state, 80, 24)[0].contains("PAUSED"));
}

#[test]
fn what_needs_attention_stands_out() {
    let mut state = state(View::Ports);
    state.sort_by("drops/s").unwrap();
    code(&mut state, KeyCode::End);
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    terminal.draw(|frame| draw(frame, &mut state)).unwrap();
    let drops = terminal.backend().buffer()[(79, 5)].clone();
    assert_eq!((drops.symbol(), drops.fg), ("5", ratatui::style::Color::Yellow));
    let zero = terminal.backend().buffer()[(79, 6)].clone();
    assert!(zero.symbol() == "0" && zero.modifier.contains(Modifier::DIM));
}
