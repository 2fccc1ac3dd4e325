//! QEMU's control connection.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// A QMP session.
#[derive(Debug)]
pub struct Qmp {
    reader: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects and leaves QMP's negotiation mode.
    pub(super) fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).with_context(|| format!("no QMP at {}", path.display()))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut me = Self { reader: BufReader::new(stream) };
        let greeting = me.message()?;
        ensure!(greeting.get("QMP").is_some(), "unexpected QMP greeting: {greeting}");
        me.execute("qmp_capabilities", json!({}))?;
        Ok(me)
    }

    /// Executes a command and returns what it answers. Events that come in between are dropped.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        self.reader.get_mut().write_all(format!("{request}\n").as_bytes())?;
        loop {
            let mut message = self.message()?;
            if let Some(error) = message.get("error") {
                bail!("QMP {command}: {error}");
            }
            if let Some(answer) = message.get_mut("return") {
                return Ok(answer.take());
            }
        }
    }

    fn message(&mut self) -> Result<Value> {
        let mut line = String::new();
        let count = self.reader.read_line(&mut line).context("no QMP answer")?;
        ensure!(count > 0, "QEMU closed the QMP connection");
        Ok(serde_json::from_str(&line)?)
    }
}
