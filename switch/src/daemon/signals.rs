//! Signals become messages to the control thread.

use std::io;
use std::sync::mpsc::SyncSender;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::control::Message;

/// From now on SIGTERM and SIGINT mean stop, and SIGHUP means reload.
pub(crate) fn forward(sender: SyncSender<Message>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            let message = if signal == SIGHUP { Message::Reload } else { Message::Stop };
            if sender.send(message).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}
