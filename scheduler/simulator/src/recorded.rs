//! Loads from files: packets of every guest in every tick.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// Packets, by tick and guest. It has at least one of each, and all ticks have as many guests.
#[derive(Debug, Clone, PartialEq)]
pub struct Recording {
    /// Of each line, the packets of one of its ticks.
    lines: Vec<Vec<f64>>,
    /// Ticks of a line.
    ticks: u64,
    /// How long a line is, in milliseconds, where the file says so.
    line_ms: Option<f64>,
}

impl Recording {
    /// Reads a file: JSON if its name ends in `.json`, a list of ticks that are lists of packets by guest; CSV otherwise, a line for
    /// each tick and a column for each guest, with or without a line of names. Lines that begin with `#` are comments; `# tick_ms = 100` says how long
    /// a line is.
    ///
    /// # Errors
    /// It cannot be read, or is not that; the error says where.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let json = path.extension().is_some_and(|extension| extension == "json");
        let read = if json { from_json(&text) } else { from_csv(&text) };
        read.with_context(|| format!("{} is not a recording", path.display()))
    }

    /// Checks what was read.
    ///
    /// # Errors
    /// There are no ticks or guests, a tick has another number of guests, or a number is none of packets.
    pub fn new(ticks: Vec<Vec<f64>>) -> Result<Self> {
        let guests = ticks.first().map_or(0, Vec::len);
        ensure!(guests > 0, "it has no ticks, or the first has no guests");
        for (index, tick) in ticks.iter().enumerate() {
            ensure!(tick.len() == guests, "tick {index} has {} guests, and the first has {guests}", tick.len());
            let wrong = tick.iter().position(|packets| !packets.is_finite() || *packets < 0.0);
            if let Some(guest) = wrong {
                bail!("guest {guest} in tick {index} has {} packets; numbers from 0 up are allowed", tick[guest]);
            }
        }
        Ok(Self { lines: ticks, ticks: 1, line_ms: None })
    }

    /// The same in ticks of this length: packets of a longer line are spread over them. A line is a tick where the file does not say how long it is.
    ///
    /// # Errors
    /// A line is no whole number of ticks.
    pub fn in_ticks(mut self, tick_ms: f64) -> Result<Self> {
        let Some(line_ms) = self.line_ms else { return Ok(self) };
        let ticks = (line_ms / tick_ms).round();
        ensure!(
            ticks >= 1.0 && (ticks * tick_ms - line_ms).abs() < 1e-6 * line_ms,
            "a line of it is {line_ms} ms, which is no whole number of ticks of {tick_ms} ms"
        );
        self.lines.iter_mut().flatten().for_each(|packets| *packets /= ticks);
        (self.ticks, self.line_ms) = (ticks as u64, None);
        Ok(self)
    }

    /// Packets by guest in a tick; none after the last.
    #[must_use]
    pub fn tick(&self, tick: u64) -> Option<&[f64]> {
        self.lines.get(usize::try_from(tick / self.ticks).ok()?).map(Vec::as_slice)
    }

    /// How many ticks there are.
    #[must_use]
    pub fn ticks(&self) -> u64 {
        self.lines.len() as u64 * self.ticks
    }

    /// How many packets there are.
    #[must_use]
    pub fn packets(&self) -> f64 {
        self.lines.iter().flatten().sum::<f64>() * self.ticks as f64
    }

    /// How many guests there are.
    #[must_use]
    pub fn guests(&self) -> usize {
        self.lines[0].len()
    }
}

fn from_json(text: &str) -> Result<Recording> {
    let ticks = serde_json::from_str(text).context("it has to be a list of lists of numbers: [[12, 0], [11, 3]]")?;
    Recording::new(ticks)
}

fn from_csv(text: &str) -> Result<Recording> {
    let (mut ticks, mut line_ms, mut begun) = (Vec::new(), None, false);
    for (index, line) in text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty()) {
        if let Some(comment) = line.strip_prefix('#') {
            let value =
                comment.split_once('=').filter(|(key, _)| key.trim() == "tick_ms").map(|(_, value)| value.trim());
            let Some(value) = value else { continue };
            let ms = value.parse().ok().filter(|ms: &f64| ms.is_finite() && *ms > 0.0);
            line_ms = Some(ms.with_context(|| format!("line {} has no number above 0: {line}", index + 1))?);
            continue;
        }
        let numbers: Result<Vec<f64>, _> = line.split(',').map(|field| field.trim().parse()).collect();
        match numbers {
            Ok(numbers) => ticks.push(numbers),
            // A line of names.
            Err(_) if !begun => {}
            Err(_) => bail!("line {} has something that is not a number: {line}", index + 1),
        }
        begun = true;
    }
    Ok(Recording { line_ms, ..Recording::new(ticks)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_say_the_same() {
        let expected = Recording::new(vec![vec![1.0, 2.0], vec![3.0, 0.0]]).unwrap();
        assert_eq!(from_csv("web, db\n1, 2\n\n3,0\n").unwrap(), expected);
        assert_eq!(from_csv("# of a Monday\n\"1\",\"2\"\n1,2\n# it ends\n3,0").unwrap(), expected);
        assert_eq!(from_json("[[1, 2], [3, 0]]").unwrap(), expected);
        assert_eq!((expected.ticks(), expected.guests(), expected.tick(2)), (2, 2, None));
    }

    #[test]
    fn lines_that_are_longer_than_ticks_are_spread() {
        let read = || from_csv("# tick_ms = 20\nweb\n40\n0\n").unwrap();
        let spread = read().in_ticks(5.0).unwrap();
        assert_eq!((spread.ticks(), spread.packets()), (8, 40.0));
        assert_eq!(
            [0, 3, 4, 7, 8].map(|tick| spread.tick(tick).map(|it| it[0])),
            [Some(10.0), Some(10.0), Some(0.0), Some(0.0), None]
        );
        assert_eq!(read().in_ticks(20.0).unwrap().tick(0), Some([40.0].as_slice()));
        for wrong in [3.0, 40.0] {
            let error = read().in_ticks(wrong).unwrap_err().to_string();
            assert_eq!(error, format!("a line of it is 20 ms, which is no whole number of ticks of {wrong} ms"));
        }
        let plain = from_csv("40\n0").unwrap();
        assert_eq!(plain.clone().in_ticks(3.0).unwrap(), plain);
    }

    #[test]
    fn errors_say_where() {
        let error = |text: &str| format!("{:#}", from_csv(text).unwrap_err());
        assert_eq!(error("1,2\n3"), "tick 1 has 1 guests, and the first has 2");
        assert_eq!(error("1\nx\n"), "line 2 has something that is not a number: x");
        assert_eq!(error("1,-2"), "guest 1 in tick 0 has -2 packets; numbers from 0 up are allowed");
        assert_eq!(error("# tick_ms = 0\n1"), "line 1 has no number above 0: # tick_ms = 0");
        assert!(error("").contains("no ticks") && from_json("{}").is_err());
        let missing = format!("{:#}", Recording::read(Path::new("/nonexistent.csv")).unwrap_err());
        assert!(missing.contains("/nonexistent.csv"), "{missing}");
    }
}
