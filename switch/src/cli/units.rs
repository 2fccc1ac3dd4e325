//! Figures, as people read them.

/// Three digits and a prefix: `1.23M`.
pub(super) fn short(value: f64) -> String {
    let mut rest = value;
    for prefix in ["", "k", "M", "G", "T"] {
        if rest < 999.5 || prefix == "T" {
            let is_whole = prefix.is_empty() && (rest >= 9.95 || rest.fract() == 0.0);
            let digits = match rest {
                _ if is_whole => 0,
                rest if rest < 9.995 => 2,
                rest if rest < 99.95 => 1,
                _ => 0,
            };
            return format!("{rest:.digits$}{prefix}");
        }
        rest /= 1000.0;
    }
    String::new()
}

/// A part of a whole.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// A time in nanoseconds.
pub(super) fn micros(ns: u64) -> String {
    format!("{:.1} µs", ns as f64 / 1e3)
}

/// A time in seconds, in its largest units.
pub(super) fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let texts = [5, 65, 3700, 90_000].map(duration);
        assert_eq!(texts, ["5 s", "1 min 5 s", "1 h 1 min", "1 d 1 h"]);
    }

    #[test]
    fn three_digits() {
        let cases = [(0.0, "0"), (0.25, "0.25"), (7.0, "7"), (12.4, "12"), (999.4, "999"), (999.6, "1.00k")];
        for (value, text) in cases.into_iter().chain([(12_345.0, "12.3k"), (4.56e6, "4.56M"), (2e16, "20000T")]) {
            assert_eq!(short(value), text);
        }
    }
}
