//! The results for people: a Markdown page and a picture. Both are made from the entries alone, as written to the JSON file.

pub mod page;
pub mod picture;

use crate::results::Entry;
use crate::systems::Kind;

/// Entries of one row and one figure, in the order they were measured in.
pub(crate) fn groups(entries: &[Entry]) -> Vec<Vec<&Entry>> {
    let mut groups: Vec<Vec<&Entry>> = Vec::new();
    for entry in entries {
        match groups.iter_mut().find(|group| (&group[0].row, &group[0].work) == (&entry.row, &entry.work)) {
            Some(group) => group.push(entry),
            None => groups.push(vec![entry]),
        }
    }
    groups
}

/// What a row is called in tables.
pub(crate) fn title(entry: &Entry) -> String {
    let work = entry
        .work
        .replace("-p", " p")
        .replace("rtt-", "RTT ")
        .replace("half", "half load")
        .replace("v2v-tso", "v2v TSO");
    let size = if entry.work.contains("tso") { "64 KiB".to_owned() } else { format!("{} B", entry.size) };
    let mut title = format!("{work} {size} {}", entry.ring);
    if entry.ring_size != 256 {
        title += &format!(" {}", entry.ring_size);
    }
    if entry.guests > 2 {
        title += &format!(", {} guests", entry.guests);
    }
    title
}

/// The peers of a run, in the order of their turns.
pub(crate) fn peers(entries: &[Entry]) -> Vec<Kind> {
    let mut peers = Vec::new();
    for entry in entries.iter().filter(|entry| entry.system != Kind::Sidecore) {
        if !peers.contains(&entry.system) {
            peers.push(entry.system);
        }
    }
    peers
}
