//! The live table: what the switch did since the last look.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use sidecore_tests::switch::{Core, Port, Status, Traffic};

/// A table that is drawn over itself on a terminal, and line after line elsewhere.
pub(crate) struct LiveTable {
    started: Instant,
    last: Option<(Instant, Status)>,
    /// Lines to go up before drawing again.
    drawn: usize,
    over_itself: bool,
}

impl LiveTable {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), last: None, drawn: 0, over_itself: std::io::stdout().is_terminal() }
    }

    /// Time between two looks.
    pub(crate) fn interval(&self) -> Duration {
        Duration::from_secs(if self.over_itself { 1 } else { 4 })
    }

    /// Shows what has changed since the last call.
    pub(crate) fn show(&mut self, now: Status, activity: &str) {
        let at = Instant::now();
        if let Some((before_at, before)) = &self.last {
            let seconds = at.duration_since(*before_at).as_secs_f64();
            let text = render(before, &now, seconds, self.started.elapsed().as_secs_f64(), activity);
            if self.over_itself && self.drawn > 0 {
                // Up, and clear to the end of the screen.
                print!("\x1b[{}A\x1b[J", self.drawn);
            }
            print!("{text}");
            let _ = std::io::stdout().flush();
            self.drawn = text.lines().count();
        }
        self.last = Some((at, now));
    }
}

fn render(before: &Status, now: &Status, seconds: f64, age: f64, activity: &str) -> String {
    let mut text = format!("{age:4.0} s  {activity}\n");
    let _ = writeln!(
        text,
        "  {:10} {:>10} {:>10} {:>10} {:>10} {:>7} {:>11}  drops",
        "port", "from Mpps", "Gbit/s", "to Mpps", "Gbit/s", "kicks", "interrupts"
    );
    for port in &now.ports {
        let nothing = Port { kind: port.kind, ..Port::default() };
        let old = before.port(&port.name).unwrap_or(&nothing);
        let [from_rate, from_bits] = rates(old.taken(), port.taken(), seconds);
        let [to_rate, to_bits] = rates(old.given(), port.given(), seconds);
        let _ = writeln!(
            text,
            "  {:10} {from_rate:10.4} {from_bits:10.4} {to_rate:10.4} {to_bits:10.4} {:7} {:11}  {}",
            port.name,
            port.kicks,
            port.calls.saturating_sub(old.calls),
            reasons(&port.drops)
        );
    }
    for core in &now.cores {
        let old = before.cores.iter().find(|old| old.core == core.core).copied().unwrap_or_default();
        let _ = writeln!(
            text,
            "  core {} (CPU {}) busy {:.1} %",
            core.core,
            core.cpu.map_or("any".to_owned(), |cpu| cpu.to_string()),
            busy_percent(&old, core)
        );
    }
    text
}

/// Mpps and Gbit/s.
fn rates(before: Traffic, now: Traffic, seconds: f64) -> [f64; 2] {
    let per_second = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds.max(1e-3);
    [per_second(before.packets, now.packets) / 1e6, per_second(before.bytes, now.bytes) * 8.0 / 1e9]
}

pub(crate) fn busy_percent(before: &Core, now: &Core) -> f64 {
    let busy = now.busy_cycles.saturating_sub(before.busy_cycles) as f64;
    let idle = now.idle_cycles.saturating_sub(before.idle_cycles) as f64;
    100.0 * busy / (busy + idle).max(1.0)
}

/// `ring_full 3, unknown_vlan 1`, or a dash.
pub(crate) fn reasons(drops: &BTreeMap<String, u64>) -> String {
    let counted: Vec<String> =
        drops.iter().filter(|(_, count)| **count > 0).map(|(reason, count)| format!("{reason} {count}")).collect();
    if counted.is_empty() { "-".to_owned() } else { counted.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_what_changed_in_the_interval() {
        let port = |packets, bytes, calls| Port {
            name: "vm1".to_owned(),
            tx: Traffic { packets, bytes },
            calls,
            ..Port::default()
        };
        let core = |busy_cycles, idle_cycles| Core { busy_cycles, idle_cycles, ..Core::default() };
        let at = |port, core| Status { ports: vec![port], cores: vec![core], ..Status::default() };
        let before = at(port(1_000_000, 0, 5), core(100, 100));
        let now = at(port(3_000_000, 250_000_000, 12), core(125, 175));
        let text = render(&before, &now, 2.0, 7.0, "vm1 to vm2");
        assert!(text.contains("1.0000     1.0000"), "{text}");
        assert!(text.contains("busy 25.0 %"), "{text}");
        assert!(text.lines().nth(2).unwrap().ends_with("7  -"), "{text}");
    }
}
