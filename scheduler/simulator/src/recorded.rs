//! Loads from files: packets of every guest in every tick.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// Packets, by tick and guest. It has at least one of each, and all ticks have as many guests.
#[derive(Debug, Clone, PartialEq)]
pub struct Recording {
    ticks: Vec<Vec<f64>>,
}

impl Recording {
    /// Reads a file: JSON if its name ends in `.json`, a list of ticks that are lists of packets by guest; CSV otherwise, a line for
    /// each tick and a column for each guest, with or without a line of names.
    ///
    /// # Errors
    /// It cannot be read, or is not that; the error says where.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let json = path.extension().is_some_and(|extension| extension == "json");
        let ticks = if json { from_json(&text) } else { from_csv(&text) };
        ticks.and_then(Self::new).with_context(|| format!("{} is not a recording", path.display()))
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
        Ok(Self { ticks })
    }

    /// Packets by guest in a tick; none after the last.
    #[must_use]
    pub fn tick(&self, tick: u64) -> Option<&[f64]> {
        self.ticks.get(usize::try_from(tick).ok()?).map(Vec::as_slice)
    }

    /// How many ticks there are.
    #[must_use]
    pub fn ticks(&self) -> u64 {
        self.ticks.len() as u64
    }

    /// How many packets there are.
    #[must_use]
    pub fn packets(&self) -> f64 {
        self.ticks.iter().flatten().sum()
    }

    /// How many guests there are.
    #[must_use]
    pub fn guests(&self) -> usize {
        self.ticks[0].len()
    }
}

fn from_json(text: &str) -> Result<Vec<Vec<f64>>> {
    serde_json::from_str(text).context("it has to be a list of lists of numbers: [[12, 0], [11, 3]]")
}

fn from_csv(text: &str) -> Result<Vec<Vec<f64>>> {
    let mut ticks = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let numbers: Result<Vec<f64>, _> = line.split(',').map(|field| field.trim().parse()).collect();
        match numbers {
            Ok(numbers) => ticks.push(numbers),
            // A line of names.
            Err(_) if index == 0 => {}
            Err(_) => bail!("line {} has something that is not a number: {line}", index + 1),
        }
    }
    Ok(ticks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_say_the_same() {
        let expected = Recording::new(vec![vec![1.0, 2.0], vec![3.0, 0.0]]).unwrap();
        assert_eq!(Recording::new(from_csv("web, db\n1, 2\n\n3,0\n").unwrap()).unwrap(), expected);
        assert_eq!(Recording::new(from_json("[[1, 2], [3, 0]]").unwrap()).unwrap(), expected);
        assert_eq!((expected.ticks(), expected.guests(), expected.tick(2)), (2, 2, None));
    }

    #[test]
    fn errors_say_where() {
        let error = |text: &str| format!("{:#}", from_csv(text).and_then(Recording::new).unwrap_err());
        assert_eq!(error("1,2\n3"), "tick 1 has 1 guests, and the first has 2");
        assert_eq!(error("1\nx\n"), "line 2 has something that is not a number: x");
        assert_eq!(error("1,-2"), "guest 1 in tick 0 has -2 packets; numbers from 0 up are allowed");
        assert!(error("").contains("no ticks") && from_json("{}").is_err());
        let missing = format!("{:#}", Recording::read(Path::new("/nonexistent.csv")).unwrap_err());
        assert!(missing.contains("/nonexistent.csv"), "{missing}");
    }
}
