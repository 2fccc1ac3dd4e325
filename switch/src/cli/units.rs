//! Figures, as people read and write them.

use std::time::Duration;

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

/// A number of bytes, with a prefix of the kind that counts by 1024.
pub(super) fn bytes(count: u64) -> String {
    let mut rest = count as f64;
    for unit in ["bytes", "KiB", "MiB", "GiB"] {
        if rest < 1023.5 {
            return if rest.fract() == 0.0 { format!("{rest} {unit}") } else { format!("{rest:.1} {unit}") };
        }
        rest /= 1024.0;
    }
    format!("{rest:.1} TiB")
}

/// Reads a number of bytes: `1500`, `64K`, `100M`, `2G`.
pub(super) fn parse_bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let shift = match unit {
        "" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        "T" | "TiB" => 40,
        _ => return Err("write a number of bytes, or as in 64K, 100M, 2G".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "write a number of bytes, or as in 64K, 100M, 2G".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "that is more than there can be".to_owned())
}

/// Reads a time: `30`, `500ms`, `30s`, `5m`, `1h`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || "write a number of seconds, or as in 500ms, 30s, 5m, 1h".to_owned();
    let (number, unit) = split(text);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let ms = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(ms).map(Duration::from_millis).ok_or_else(wrong)
}

/// A number and the unit behind it.
fn split(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
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
    fn sizes_and_times_are_read() {
        assert_eq!(["1500", "64K", "2G"].map(parse_bytes), [Ok(1500), Ok(64 << 10), Ok(2 << 30)]);
        for bad in ["", "K", "-1", "1.5G", "1X", "99999999999999T"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
        let texts = [1500, 64 << 10, 1 << 30, (3 << 30) / 2, 5 << 40].map(bytes);
        assert_eq!(texts, ["1.5 KiB", "64 KiB", "1 GiB", "1.5 GiB", "5.0 TiB"]);
        let times = ["2", "500ms", "3m", "1h"].map(|text| parse_duration(text).unwrap().as_millis());
        assert_eq!(times, [2000, 500, 180_000, 3_600_000]);
        for bad in ["", "s", "1d", "1.5s", "99999999999999999999"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn three_digits() {
        let cases = [(0.0, "0"), (0.25, "0.25"), (7.0, "7"), (12.4, "12"), (999.4, "999"), (999.6, "1.00k")];
        for (value, text) in cases.into_iter().chain([(12_345.0, "12.3k"), (4.56e6, "4.56M"), (2e16, "20000T")]) {
            assert_eq!(short(value), text);
        }
    }
}
