//! `guest-traffic`: TCP between Linux guests. It runs inside them; see `sidecore_tests::tcp`.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use sidecore_tests::tcp;
use signal_hook::consts::SIGTERM;

const USAGE: &str = "guest-traffic serve | stream ADDRESS | ask ADDRESS PAUSE_US";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let result = match arguments[..] {
        ["serve"] => return tcp::program::serve(&tcp::program::listen()?),
        ["stream", address] => {
            signal_hook::flag::register(SIGTERM, stop.clone())?;
            serde_json::to_string(&tcp::program::stream(address, &stop)?)?
        }
        ["ask", address, pause] => {
            signal_hook::flag::register(SIGTERM, stop.clone())?;
            let pause = Duration::from_micros(pause.parse().context(USAGE)?);
            serde_json::to_string(&tcp::program::ask(address, pause, &stop)?)?
        }
        _ => bail!("use: {USAGE}"),
    };
    println!("{result}");
    Ok(())
}
