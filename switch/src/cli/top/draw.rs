//! The state on a screen of any size.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Cell as TableCell, Paragraph, Row as TableRow, Table};

use super::View;
use super::rows::{Cell, Column, Mark, Row};
use super::state::{Sort, State};
use crate::cli::scheduler;
use crate::cli::units::{duration, percent, short};
use crate::rates::Interval;
use crate::snapshot::Snapshot;

/// Fewer than these are not left for the column that takes what the others leave.
const LEAST: u16 = 14;

const KEYS: &str = "q quit  1-3 view  <> sort  r reverse  / filter  ↑↓ row  space pause  +- interval";

pub(super) fn draw(frame: &mut Frame<'_>, state: &mut State) {
    let lines = [Constraint::Length(1), Constraint::Length(1), Constraint::Length(1), Constraint::Length(1)];
    let all = lines.into_iter().chain([Constraint::Min(1), Constraint::Length(1), Constraint::Length(1)]);
    let [title, sums, decided, tabs, body, detail, keys] = Layout::vertical(all).areas(frame.area());
    frame.render_widget(title_line(state), title);
    let (columns, rows) = state.rows();
    if let Some(now) = &state.now {
        frame.render_widget(sums_line(state.before.as_ref(), now), sums);
        let summary = scheduler::summary(&now.scheduler).trim_end().replace('\n', "; ");
        let style = if now.scheduler.cannot_fix.is_some() { style(Mark::Fault) } else { Style::new() };
        frame.render_widget(Line::styled(summary, style), decided);
    }
    frame.render_widget(tabs_line(state, columns), tabs);
    draw_table(frame, body, state, columns, &rows);
    if let Some(row) = rows.get(state.place(&rows)) {
        frame.render_widget(Line::styled(row.detail.as_str(), Style::new().add_modifier(Modifier::BOLD)), detail);
    }
    frame.render_widget(Line::styled(KEYS, style(Mark::Faint)), keys);
}

/// Who, since when, and whether it answers.
fn title_line(state: &State) -> Line<'static> {
    if let Some((why, since)) = &state.trouble {
        let text = format!("NO ANSWER for {}, trying again: {why}", duration(since.elapsed().as_secs()));
        return Line::styled(text, style(Mark::Fault).add_modifier(Modifier::REVERSED));
    }
    let Some(now) = &state.now else { return Line::raw("asking the switch") };
    let pace = match state.is_paused {
        true => "PAUSED".to_owned(),
        false => format!("every {:.1} s", state.interval.as_secs_f64()),
    };
    let again = if state.was_restarted { "  STARTED AGAIN" } else { "" };
    Line::from(vec![
        Span::styled("sidecore", Style::new().add_modifier(Modifier::BOLD)),
        Span::raw(format!(" {}  process {}  up {}  {pace}", now.version, now.pid, duration(now.uptime_ms / 1000))),
        Span::styled(again, style(Mark::Warning)),
    ])
}

fn sums_line(before: Option<&Snapshot>, now: &Snapshot) -> Paragraph<'static> {
    let interval = before.and_then(|before| Interval::between(before, now));
    let fullest = interval.map(|interval| {
        now.cores.iter().filter_map(|core| interval.core(core)).map(|rates| rates.busy).fold(0.0, f64::max)
    });
    let rates: Vec<_> = now.ports.iter().filter_map(|port| Some((port.kind, interval?.port(port)?))).collect();
    // What a port gives to the switch: a guest sends it, an uplink receives it.
    let from = |(kind, rates): &(_, crate::rates::PortRates)| match kind {
        crate::snapshot::PortKind::Guest => (rates.tx_packets, rates.tx_bits),
        crate::snapshot::PortKind::Uplink => (rates.rx_packets, rates.rx_bits),
    };
    let packets: f64 = rates.iter().map(|port| from(port).0).sum();
    let bits: f64 = rates.iter().map(|port| from(port).1).sum();
    let drops: f64 = rates.iter().map(|(_, rates)| rates.drops).sum();
    Paragraph::new(format!(
        "{} pkt/s  {} bit/s  dropped {}/s  fullest core {}  in flight {}  {} stations",
        short(packets),
        short(bits),
        short(drops),
        fullest.map_or("-".to_owned(), percent),
        now.accounting.in_flight,
        now.fdb_entries
    ))
}

fn tabs_line(state: &State, columns: &[Column]) -> Line<'static> {
    let tab = |view: View, name: &'static str| {
        let style = if view == state.view { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
        [Span::styled(format!(" {} {name} ", view as usize + 1), style), Span::raw(" ")]
    };
    let mut spans: Vec<Span<'static>> =
        [tab(View::Ports, "ports"), tab(View::Cores, "cores"), tab(View::Decisions, "decisions")].concat();
    let Sort { column, is_descending } = state.sort();
    spans.push(Span::raw(format!(" by {} {}", columns[column].head, if is_descending { "↓" } else { "↑" })));
    match &state.typed {
        Some(typed) => spans.push(Span::styled(format!("  filter: {typed}▏"), style(Mark::Warning))),
        None if !state.filter.is_empty() => spans.push(Span::raw(format!("  filter: {} (Esc clears)", state.filter))),
        None => {}
    }
    Line::from(spans)
}

/// The columns that have room, by their places, with their widths.
pub(super) fn fitting(columns: &[Column], room: u16) -> Vec<(usize, u16)> {
    let mut shown: Vec<usize> = (0..columns.len()).collect();
    let taken = |shown: &[usize]| shown.iter().map(|place| columns[*place].width + 1).sum::<u16>();
    while taken(&shown) + LEAST > room + 1 {
        let Some(last) = shown.iter().copied().max_by_key(|place| (columns[*place].rank, *place)) else { break };
        if columns[last].rank == 0 {
            break;
        }
        shown.retain(|place| *place != last);
    }
    // The gaps of all but one column stand before them.
    let rest = (room + 1).saturating_sub(taken(&shown)).max(1);
    let width = |place: usize| if columns[place].width == 0 { rest } else { columns[place].width };
    shown.into_iter().map(|place| (place, width(place))).collect()
}

fn draw_table(frame: &mut Frame<'_>, area: Rect, state: &mut State, columns: &[Column], rows: &[Row]) {
    let shown = fitting(columns, area.width);
    let sort = state.sort();
    let head = |place: usize| {
        let base = Style::new().add_modifier(Modifier::BOLD);
        let style = if place == sort.column { base.add_modifier(Modifier::UNDERLINED) } else { base };
        TableCell::from(aligned(columns[place].head, &columns[place])).style(style)
    };
    let cell = |cell: &Cell, (place, width): (usize, u16)| {
        let text = cut(&cell.text, width);
        TableCell::from(aligned(&text, &columns[place])).style(style(cell.mark))
    };
    let line = |row: &Row| TableRow::new(shown.iter().map(|column| cell(&row.cells[column.0], *column)));
    let widths = shown.iter().map(|(_, width)| Constraint::Length(*width));
    let table = Table::new(rows.iter().map(line), widths)
        .header(TableRow::new(shown.iter().map(|(place, _)| head(*place))))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let place = (!rows.is_empty()).then(|| state.place(rows));
    state.scroll.select(place);
    frame.render_stateful_widget(table, area, &mut state.scroll);
}

fn aligned(text: &str, column: &Column) -> Text<'static> {
    let alignment = if column.is_number { Alignment::Right } else { Alignment::Left };
    Text::raw(text.to_owned()).alignment(alignment)
}

/// A text that has more than its room ends in a sign of that.
fn cut(text: &str, width: u16) -> String {
    let width = usize::from(width);
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

fn style(mark: Mark) -> Style {
    match mark {
        Mark::None => Style::new(),
        Mark::Faint => Style::new().add_modifier(Modifier::DIM),
        Mark::Warning => Style::new().fg(Color::Yellow),
        Mark::Fault => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
    }
}
