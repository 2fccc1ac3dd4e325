//! Counts that others may read while packets flow.

use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;

use synthetic_guest::Window;

use crate::receiver::Receiver;
use crate::sender::Sender;

/// Bytes of a word.
const WORD: usize = 8;
/// Words of a flow: sender, queue pair, receiver, sent, received.
const ROW: usize = 5 * WORD;
const SENT: usize = 3 * WORD;
const RECEIVED: usize = 4 * WORD;

/// A file with a row for each flow that has a receiver here.
pub(crate) struct Live(Window);

impl Live {
    /// Makes the file, for the flows of these senders.
    pub(crate) fn new(path: &Path, senders: &[Sender]) -> io::Result<Live> {
        let flow = |sender: &Sender, to: Option<usize>| Some([sender.guest, sender.pair, to?]);
        let flows = senders.iter().flat_map(|sender| sender.flows().map(move |(to, ..)| flow(sender, to)));
        let flows: Vec<[usize; 3]> = flows.flatten().collect();
        let file = std::fs::File::options().read(true).write(true).create(true).truncate(true).open(path)?;
        let len = flows.len() * ROW;
        file.set_len(len as u64)?;
        let window = Window::of_file(file, len).map_err(io::Error::other)?;
        for (at, word) in flows.iter().enumerate().flat_map(|(row, words)| {
            words.iter().enumerate().map(move |(column, word)| (row * ROW + column * WORD, *word as u64))
        }) {
            window.store_u64(at, word, Ordering::Relaxed);
        }
        Ok(Live(window))
    }

    /// Writes how far the flows are.
    pub(crate) fn update(&self, senders: &[Sender], receivers: &[Receiver]) {
        let flows = senders.iter().flat_map(Sender::flows).filter_map(|(to, id, sent)| Some((to?, id, sent)));
        for (row, (to, id, sent)) in flows.enumerate() {
            self.0.store_u64(row * ROW + SENT, sent, Ordering::Relaxed);
            self.0.store_u64(row * ROW + RECEIVED, receivers[to].received_of(id), Ordering::Relaxed);
        }
    }
}
