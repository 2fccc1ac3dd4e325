//! Metrics as text, in the two formats that Prometheus reads: its own (0.0.4), and OpenMetrics 1.0.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

use super::entry::{Entry, Kind, Read};
use crate::snapshot::{HistogramSnapshot, Snapshot};

/// How metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Prometheus' own.
    Prometheus,
    /// The standard made of it.
    OpenMetrics,
}

impl Format {
    /// The `Content-Type` of a text in this format.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// What whoever sends this `Accept` header likes best (RFC 9110 §12.5.1): OpenMetrics where it is named, and no less liked than
    /// plain text.
    pub(crate) fn accepted(accept: &str) -> Self {
        let (mut open, mut plain) = (0.0, 0.0);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let quality = parts.find_map(|part| part.strip_prefix("q=")).map_or(1.0, |q| q.parse().unwrap_or(0.0));
            match kind.as_str() {
                "application/openmetrics-text" => open = f64::max(open, quality),
                "text/plain" => plain = f64::max(plain, quality),
                _ => {}
            }
        }
        if open > 0.0 && open >= plain { Self::OpenMetrics } else { Self::Prometheus }
    }
}

/// The text of every metric of a list that has a value now.
pub(super) fn write<'e>(entries: impl Iterator<Item = &'e Entry>, snapshot: &Snapshot, format: Format) -> String {
    let mut text = String::with_capacity(64 << 10);
    for entry in entries {
        let mut out = Out { text: &mut text, entry, format, tsc_hz: snapshot.tsc_hz, of: String::new(), begun: false };
        out.family(snapshot);
    }
    if format == Format::OpenMetrics {
        text.push_str("# EOF\n");
    }
    text
}

/// Where the values of one metric go.
pub(super) struct Out<'t> {
    text: &'t mut String,
    entry: &'t Entry,
    format: Format,
    tsc_hz: u64,
    /// Labels of what is written of now.
    of: String,
    /// Whether there was a value: a family without is left out.
    begun: bool,
}

impl Out<'_> {
    fn family(&mut self, snapshot: &Snapshot) {
        let entry = self.entry;
        match entry.read {
            Read::Switch(read) => read(snapshot, self),
            Read::Core(read) => {
                for core in &snapshot.cores {
                    self.of.clear();
                    label(&mut self.of, "core", core.core);
                    read(core, self);
                }
            }
            Read::Port(read) => {
                for port in snapshot.ports.iter().filter(|port| entry.is_for(port.kind)) {
                    self.of.clear();
                    label(&mut self.of, "port", &port.name);
                    read(port, self);
                }
            }
            Read::Queue(read) => {
                for port in snapshot.ports.iter().filter(|port| entry.is_for(port.kind)) {
                    for queue in &port.queues {
                        self.of.clear();
                        label(&mut self.of, "port", &port.name);
                        label(&mut self.of, "queue", queue.index);
                        read(port, queue, self);
                    }
                }
            }
        }
    }

    /// The value.
    pub(super) fn value(&mut self, value: f64) {
        debug_assert!(self.entry.labels.is_empty(), "{}", self.entry.name);
        self.begin();
        self.sample("", "", value);
    }

    /// The value, if there is one.
    pub(super) fn some(&mut self, value: Option<f64>) {
        if let Some(value) = value {
            self.value(value);
        }
    }

    /// A number of things as the value.
    pub(super) fn count(&mut self, count: u64) {
        self.value(count as f64);
    }

    /// 1 or 0 as the value.
    pub(super) fn flag(&mut self, flag: bool) {
        self.value(f64::from(u8::from(flag)));
    }

    /// Time as the value, from cycles.
    pub(super) fn cycles(&mut self, cycles: u64) {
        self.value(cycles as f64 / self.tsc_hz.max(1) as f64);
    }

    /// Time as the value, from nanoseconds.
    pub(super) fn nanoseconds(&mut self, ns: u64) {
        self.value(ns as f64 / 1e9);
    }

    /// A value with the metric's own labels, in their order.
    pub(super) fn labelled(&mut self, labels: &[&str], value: f64) {
        let names = self.entry.labels;
        debug_assert_eq!(names.len(), labels.len(), "{}", self.entry.name);
        self.begin();
        let mut own = String::new();
        names.iter().zip(labels).for_each(|(name, value)| label(&mut own, name, value));
        self.sample("", &own, value);
    }

    /// An info metric with these labels.
    pub(super) fn info(&mut self, labels: &[&str]) {
        self.labelled(labels, 1.0);
    }

    /// A value for each of what is known to be possible, the zeros too: a series that begins at its first drop hides that drop from
    /// `rate()`.
    pub(super) fn each<'n>(&mut self, counts: &BTreeMap<String, u64>, known: impl IntoIterator<Item = &'n str>) {
        for name in known {
            self.labelled(&[name], counts.get(name).copied().unwrap_or(0) as f64);
        }
    }

    /// 1 for one of what is possible, 0 for the others.
    pub(super) fn one_of<'n>(&mut self, now: &str, possible: impl IntoIterator<Item = &'n str>) {
        for name in possible {
            self.labelled(&[name], f64::from(u8::from(name == now)));
        }
    }

    pub(super) fn histogram(&mut self, histogram: &HistogramSnapshot) {
        self.begin();
        let mut bucket = |bound: &dyn Display, count: u64| {
            let mut le = String::new();
            label(&mut le, "le", bound);
            self.sample("_bucket", &le, count as f64);
        };
        histogram.within_s.iter().for_each(|(bound, count)| bucket(bound, *count));
        bucket(&"+Inf", histogram.count);
        self.sample("_sum", "", histogram.seconds);
        self.sample("_count", "", histogram.count as f64);
    }

    /// What stands before the first value.
    fn begin(&mut self) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let Entry { name, kind, help, .. } = self.entry;
        let (family, kind) = match (self.format, kind) {
            (Format::OpenMetrics, kind) => (self.entry.family(), kind.as_str()),
            (Format::Prometheus, Kind::Info) => (*name, "gauge"),
            (Format::Prometheus, Kind::Unknown) => (*name, "untyped"),
            (Format::Prometheus, kind) => (*name, kind.as_str()),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "# HELP {family} {help}");
        let _ = writeln!(self.text, "# TYPE {family} {kind}");
        if let (Format::OpenMetrics, Some(unit)) = (self.format, self.entry.unit()) {
            let _ = writeln!(self.text, "# UNIT {family} {unit}");
        }
    }

    fn sample(&mut self, suffix: &str, own: &str, value: f64) {
        let Self { text, entry, of, .. } = self;
        text.push_str(entry.name);
        text.push_str(suffix);
        if !of.is_empty() || !own.is_empty() {
            text.push('{');
            text.push_str(of);
            if !of.is_empty() && !own.is_empty() {
                text.push(',');
            }
            text.push_str(own);
            text.push('}');
        }
        let _ = writeln!(text, " {value}");
    }
}

/// Adds a label to those that are there.
fn label(labels: &mut String, name: &str, value: impl Display) {
    if !labels.is_empty() {
        labels.push(',');
    }
    let _ = write!(labels, "{name}=\"");
    let begin = labels.len();
    let _ = write!(labels, "{value}");
    if labels[begin..].contains(['\\', '"', '\n']) {
        let escaped = labels[begin..].replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        labels.truncate(begin);
        labels.push_str(&escaped);
    }
    labels.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_what_the_reader_likes_best() {
        // What Prometheus 2.42 and 3.0 send, a browser, and curl.
        let open = [
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
             text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.4,*/*;q=0.2",
            "Application/OpenMetrics-Text",
            "text/plain;q=0.3, application/openmetrics-text; q=0.3",
        ];
        let plain = [
            "",
            "*/*",
            "text/html,application/xhtml+xml,*/*;q=0.8",
            "text/plain,application/openmetrics-text;q=0.9",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=nonsense",
        ];
        open.iter().for_each(|accept| assert_eq!(Format::accepted(accept), Format::OpenMetrics, "{accept}"));
        plain.iter().for_each(|accept| assert_eq!(Format::accepted(accept), Format::Prometheus, "{accept}"));
    }

    #[test]
    fn label_values_are_escaped() {
        let mut labels = String::new();
        label(&mut labels, "a", "x\"y\\z\n");
        label(&mut labels, "b", 1);
        assert_eq!(labels, r#"a="x\"y\\z\n",b="1""#);
    }
}
