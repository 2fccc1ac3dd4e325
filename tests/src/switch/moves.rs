//! Moving queue pairs between I/O cores.

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::json;

use super::SwitchProcess;

/// What the switch says of a queue pair that it was asked to move.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Moved {
    /// Whose it is.
    pub guest: String,
    /// Its number in the guest.
    pub queue: usize,
    /// The I/O core that it was on.
    pub from: usize,
    /// The I/O core that it is on.
    pub to: usize,
    /// Microseconds in which it was not served; none where it is not started, or did not have to move.
    pub pause_us: Option<f64>,
}

impl SwitchProcess {
    /// Moves queue pairs of a guest, one or all of them, and waits until they have moved.
    pub fn move_guest(&self, guest: &str, queue: Option<usize>, io_core: usize) -> Result<Vec<Moved>> {
        let request = json!({"command": "guest_move", "name": guest, "queue": queue, "io_core": io_core});
        let mut answer = self.ask(&request).with_context(|| request.to_string())?;
        serde_json::from_value(answer["moved"].take()).with_context(|| format!("unexpected answer: {answer}"))
    }
}
