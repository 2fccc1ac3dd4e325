//! Rates that others set while packets flow.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;

use synthetic_guest::Window;

use crate::clock::Clock;
use crate::pacing::Pace;
use crate::sender::Sender;

/// Bytes of a word.
const WORD: usize = 8;

/// A file with a word for each guest that sends.
pub(crate) struct Rates {
    window: Window,
    /// The word of each sender.
    words: Vec<usize>,
    /// What each word said last; `None`: not looked at yet.
    known: Vec<Option<u64>>,
    queue_pairs: usize,
}

impl Rates {
    /// Opens a file that has a word for each guest of these senders, which are in order of guests. A guest's rate is shared by its queue pairs.
    pub(crate) fn open(path: &Path, senders: &[Sender], queue_pairs: usize) -> io::Result<Self> {
        let mut guests: Vec<usize> = senders.iter().map(|sender| sender.guest).collect();
        guests.dedup();
        let word = |sender: &Sender| guests.iter().position(|guest| *guest == sender.guest).unwrap_or_default();
        let words = senders.iter().map(word).collect();
        let file = File::options().read(true).write(true).open(path)?;
        let window = Window::of_file(file, guests.len() * WORD).map_err(io::Error::other)?;
        Ok(Self { window, words, known: vec![None; guests.len()], queue_pairs })
    }

    /// Whatever the file says is new.
    pub(crate) fn forget(&mut self) {
        self.known.fill(None);
    }

    /// Gives senders whose rate has changed the new one.
    #[inline]
    pub(crate) fn apply(&mut self, senders: &mut [Sender], clock: &Clock) {
        for (guest, known) in self.known.iter_mut().enumerate() {
            let rate = self.window.load_u64(guest * WORD, Ordering::Relaxed);
            if *known == Some(rate) {
                continue;
            }
            *known = Some(rate);
            let pace = Pace::Rate(rate as f64 / self.queue_pairs as f64);
            let own = senders.iter_mut().zip(&self.words).filter(|(_, word)| **word == guest);
            own.for_each(|(sender, _)| sender.set_pace(pace, clock));
        }
    }
}
