//! The traffic: pings in all directions, then TCP in all directions, while the table shows what the switch does.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sidecore_tests::switch::{Status, SwitchProcess};
use sidecore_tests::traffic::{self, Stream as Iperf};

use crate::plan::{Party, Plan};
use crate::report::{DIRECTION_BYTES, Ping, Report, Stream};
use crate::stage::Stage;
use crate::table::LiveTable;
use sidecore_tests::interrupt::Interrupt;

const PINGS: u32 = 3;

/// Every direction sends for this long, and then until it has carried enough.
const STREAM_SECONDS: u32 = 2;

/// What is aimed at: iperf3's receiver may miss the end of what its sender counts.
const STREAM_BYTES: u64 = DIRECTION_BYTES + (1 << 20);

/// Runs of iperf3 for one direction.
const STREAM_RUNS: u32 = 5;

/// What the traffic thread tells the thread that draws.
enum Event {
    Activity(String),
    Ping(Ping),
    Stream(Stream),
}

/// Runs all traffic and enters it into the report, failures included.
pub(crate) fn play(stage: &Stage, plan: &Plan, interrupt: &Interrupt, report: &mut Report) {
    let begin = Instant::now();
    let (sender, events) = mpsc::channel();
    let mut table = LiveTable::new();
    let mut activity = String::new();
    let outcome = std::thread::scope(|scope| {
        let worker = scope.spawn(|| run(stage, plan, interrupt, sender));
        let mut next_look = Instant::now();
        let mut aborted = false;
        loop {
            match events.recv_timeout(Duration::from_millis(100)) {
                Ok(Event::Activity(text)) => activity = text,
                Ok(Event::Ping(ping)) => report.pings.push(ping),
                Ok(Event::Stream(stream)) => report.streams.push(stream),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if interrupt.is_set() && !aborted {
                stage.abort();
                aborted = true;
            }
            if !aborted && Instant::now() >= next_look {
                next_look = Instant::now() + table.interval();
                // A status that cannot be read now is found out by the traffic, which needs it too.
                if let Ok(status) = stage.switch().status() {
                    table.show(status, &activity);
                }
            }
        }
        worker.join()
    });
    report.traffic_seconds = begin.elapsed().as_secs_f64();
    match outcome {
        _ if interrupt.is_set() => report.errors.push("interrupted".to_owned()),
        Ok(Ok(())) => {}
        Ok(Err(error)) => report.errors.push(format!("{error:#}")),
        Err(_) => report.errors.push("the traffic thread panicked".to_owned()),
    }
}

fn run(stage: &Stage, plan: &Plan, interrupt: &Interrupt, events: Sender<Event>) -> Result<()> {
    for (from, to) in plan.directions() {
        let parties = (&plan.parties[from], &plan.parties[to]);
        for address in [&parties.1.ipv4, &parties.1.ipv6] {
            interrupt.check()?;
            events.send(Event::Activity(format!("ping {} to {}", parties.0.port, address)))?;
            events.send(Event::Ping(ping(stage, from, parties, address)))?;
        }
    }
    for (from, to) in plan.directions() {
        interrupt.check()?;
        let (sender, receiver) = (&plan.parties[from], &plan.parties[to]);
        events.send(Event::Activity(format!("TCP {} to {}", sender.port, receiver.port)))?;
        let iperf = Iperf { from: stage.host(from), to: stage.host(to), address: &receiver.ipv4 };
        events.send(Event::Stream(stream(stage.switch(), &iperf, sender, receiver)?))?;
    }
    Ok(())
}

fn ping(stage: &Stage, from: usize, (sender, receiver): (&Party, &Party), address: &str) -> Ping {
    let outcome = traffic::ping(stage.host(from), address, PINGS);
    Ping {
        from: sender.port.clone(),
        to: receiver.port.clone(),
        address: address.to_owned(),
        sent: PINGS,
        answered: if outcome.is_ok() { PINGS } else { 0 },
        error: outcome.err().map(|error| format!("{error:#}")),
    }
}

fn stream(switch: &SwitchProcess, iperf: &Iperf<'_>, sender: &Party, receiver: &Party) -> Result<Stream> {
    let before = switch.status()?;
    let mut total = iperf.run_for(STREAM_SECONDS)?;
    for _ in 1..STREAM_RUNS {
        let missing = STREAM_BYTES.saturating_sub(total.bytes);
        if missing == 0 {
            break;
        }
        let more = iperf.run_bytes(missing + (1 << 18))?;
        total.bytes += more.bytes;
        total.seconds += more.seconds;
    }
    let after = switch.status()?;
    let moved = |status: &Status| -> Result<(u64, u64)> {
        Ok((status.port(&sender.port)?.taken().bytes, status.port(&receiver.port)?.given().bytes))
    };
    let (before, after) = (moved(&before)?, moved(&after)?);
    Ok(Stream {
        from: sender.port.clone(),
        to: receiver.port.clone(),
        received_bytes: total.bytes,
        seconds: total.seconds,
        taken_bytes: after.0.checked_sub(before.0).context("a byte counter ran backwards")?,
        given_bytes: after.1.checked_sub(before.1).context("a byte counter ran backwards")?,
    })
}
