//! TCP between Linux guests: a stream, or requests and their answers one at a time. The program `guest-traffic` runs in both
//! guests ([`program`]) and is started and ended from outside, so that what goes on in between can be counted while it goes on.

pub mod program;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::host::Host;

/// Requests that were answered, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RoundTrips {
    /// How many.
    pub requests: u64,
    /// Median time from a request to its answer.
    pub p50_us: f64,
    /// Its 99th percentile.
    pub p99_us: f64,
}

/// A stream, as its receiver saw it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Stream {
    /// Bytes.
    pub bytes: u64,
    /// From the first to the last of them.
    pub seconds: f64,
}

impl Stream {
    /// Its rate.
    #[must_use]
    pub fn mbit_s(&self) -> f64 {
        self.bytes as f64 * 8.0 / 1e6 / self.seconds
    }
}

/// Starts the server in a guest.
pub fn serve(guest: &dyn Host) -> Result<()> {
    guest.sh("guest-traffic serve >/tmp/served 2>&1 &")?;
    Ok(())
}

/// Traffic that goes on until it is ended.
pub struct Underway<'a> {
    guest: &'a dyn Host,
}

impl<'a> Underway<'a> {
    /// Starts it in a guest, with these arguments of `guest-traffic`.
    pub fn start(guest: &'a dyn Host, arguments: &str) -> Result<Self> {
        guest.sh(&format!(
            "rm -f /tmp/traffic; guest-traffic {arguments} >/tmp/traffic 2>&1 & echo $! >/tmp/traffic.pid"
        ))?;
        Ok(Self { guest })
    }

    /// Ends it, and returns what came of it: [`RoundTrips`] or a [`Stream`].
    pub fn end<T: DeserializeOwned>(self) -> Result<T> {
        // One that has failed has ended by itself, and has said why.
        let script = "kill $(cat /tmp/traffic.pid) 2>/dev/null
                      while ! test -s /tmp/traffic; do usleep 10000; done; cat /tmp/traffic";
        let said = self.guest.sh(script)?;
        serde_json::from_str(&said).with_context(|| format!("{}: guest-traffic: {}", self.guest.name(), said.trim()))
    }
}
