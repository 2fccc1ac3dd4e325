//! A headless Chromium, driven as WebDriver describes, by requests to its `chromedriver`.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http;
use crate::process::{Process, eventually, run};

const START_LIMIT: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(60);

/// Without a window, a sandbox (which root has none of), a profile from before, or a word to anybody but the page.
const OPTIONS: [&str; 10] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
];

/// Whether a browser and its driver are installed.
#[must_use]
pub fn is_installed() -> bool {
    ["chromium", "chromedriver"]
        .iter()
        .all(|program| run(&[*program, "--version"], START_LIMIT).is_ok_and(|output| output.status.success()))
}

/// A browser with one tab. It ends when it is dropped.
#[derive(Debug)]
pub struct Browser {
    // Dropped in this order.
    _driver: Process,
    _profile: TempDir,
    port: u16,
    session: String,
}

impl Browser {
    /// Starts it; `log` is where the driver writes.
    pub fn start(log: &Path) -> Result<Self> {
        let mut driver = Process::spawn("chromedriver", "chromedriver", ["--port=0"], log)?;
        let port = driver.wait_until("word of its port", START_LIMIT, |driver| Ok(port_in(&driver.output())))?;
        let profile = tempfile::Builder::new().prefix("sidecore-browser-").tempdir()?;
        let data = format!("--user-data-dir={}", profile.path().display());
        let args: Vec<&str> = OPTIONS.into_iter().chain([data.as_str()]).collect();
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": "/usr/bin/chromium", "args": args},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let answer = request(port, "POST", "/session", Some(&wanted)).with_context(|| driver.tail())?;
        let session = answer["sessionId"].as_str().with_context(|| answer.to_string())?.to_owned();
        Ok(Self { _driver: driver, _profile: profile, port, session })
    }

    /// Opens an address, and waits until it is loaded.
    pub fn open(&self, url: &str) -> Result<()> {
        self.post("url", &json!({ "url": url })).map(drop)
    }

    /// Runs the body of a function in the page, and returns what it returns; a promise is waited for.
    pub fn run(&self, script: &str) -> Result<Value> {
        self.post("execute/sync", &json!({ "script": script, "args": [] })).with_context(|| script.to_owned())
    }

    /// Runs `script` until what it returns is true.
    pub fn wait(&self, what: &str, script: &str) -> Result<()> {
        eventually(what, PATIENCE, || Ok((self.run(script)? == Value::Bool(true)).then_some(())))
            .with_context(|| self.run("return document.body.innerText").unwrap_or_default().to_string())
    }

    /// Has a script run in every page opened from now on, before those of the page.
    pub fn inject(&self, script: &str) -> Result<()> {
        self.devtools("Page.addScriptToEvaluateOnNewDocument", &json!({ "source": script }))
    }

    /// The size of the page, and whether its user prefers it dark.
    pub fn look(&self, width: u32, height: u32, dark: bool) -> Result<()> {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", &size)?;
        let scheme = json!({"name": "prefers-color-scheme", "value": if dark { "dark" } else { "light" }});
        self.devtools("Emulation.setEmulatedMedia", &json!({ "features": [scheme] }))
    }

    /// Presses keys, as somebody at the keyboard does; WebDriver's code points stand for special ones.
    pub fn press(&self, keys: &str) -> Result<()> {
        let events = keys
            .chars()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key.to_string() })));
        let actions = json!({"actions": [{"type": "key", "id": "keys", "actions": events.collect::<Vec<_>>()}]});
        self.post("actions", &actions).map(drop)
    }

    /// What is to be seen, as PNG.
    pub fn screenshot(&self) -> Result<Vec<u8>> {
        let image = request(self.port, "GET", &format!("/session/{}/screenshot", self.session), None)?;
        decode(image.as_str().context("no image")?)
    }

    /// What was written to the console since it was last asked for, refusals of the page's policy among them.
    pub fn console(&self) -> Result<Vec<String>> {
        let entries = self.post("se/log", &json!({ "type": "browser" }))?;
        let text = |entry: &Value| entry["message"].as_str().unwrap_or_default().to_owned();
        Ok(entries.as_array().context("no log")?.iter().map(text).collect())
    }

    fn devtools(&self, command: &str, params: &Value) -> Result<()> {
        self.post("goog/cdp/execute", &json!({ "cmd": command, "params": params })).map(drop)
    }

    fn post(&self, command: &str, body: &Value) -> Result<Value> {
        request(self.port, "POST", &format!("/session/{}/{command}", self.session), Some(body))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends the browser itself; the driver is killed after it.
        let _ = request(self.port, "DELETE", &format!("/session/{}", self.session), None);
    }
}

/// `ChromeDriver was started successfully on port 12345.`
fn port_in(output: &str) -> Option<u16> {
    output.split("successfully on port ").nth(1)?.split(|next: char| !next.is_ascii_digit()).next()?.parse().ok()
}

/// Base64, as RFC 4648 has it.
fn decode(text: &str) -> Result<Vec<u8>> {
    const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut count) = (Vec::with_capacity(text.len() / 4 * 3), 0_u32, 0);
    for digit in text.trim_end_matches('=').chars() {
        bits = bits << 6 | DIGITS.find(digit).with_context(|| format!("{digit:?} is no base64"))? as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Ok(bytes)
}

/// A request to the driver, and the value of its answer.
fn request(port: u16, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
    let text = http::request(port, method, path, &body.map(Value::to_string).unwrap_or_default())?.body;
    let mut answer: Value = serde_json::from_str(&text).with_context(|| format!("{method} {path}: {text}"))?;
    let value = answer["value"].take();
    match value["error"].as_str() {
        Some(error) => bail!("{method} {path}: {error}: {}", value["message"].as_str().unwrap_or_default()),
        None => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read() {
        for (text, bytes) in [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYmFy", "foobar")] {
            assert_eq!(decode(text).unwrap(), bytes.as_bytes(), "{text}");
        }
        assert!(decode("Zm9v!").is_err());
    }

    #[test]
    fn the_drivers_port_is_read() {
        assert_eq!(port_in("Starting ChromeDriver 1\n"), None);
        assert_eq!(port_in("x\nChromeDriver was started successfully on port 40123.\n"), Some(40123));
    }
}
