//! A run, from the first connection to the report.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver as Receiving, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use synthetic_guest::{QueuePair, RxStats};

use crate::calls::Calls;
use crate::ceiling::Forwarders;
use crate::clock::Clock;
use crate::engine::{Backend, Echoes, Elsewhere, Engine, NEIGHBOURS, Task};
use crate::error::Error;
use crate::live::Live;
use crate::measured::Measured;
use crate::node::Node;
use crate::options::{GuestMode, Options, Size, Switch, Verify, Workload};
use crate::pingpong::{PINGING, Pingpong};
use crate::plan::{Flow, Plan};
use crate::rates::Rates;
use crate::receiver::Receiver;
use crate::report::{Facts, Report};
use crate::sender::Sender;
use crate::settle::settle;

/// Share of the longest wait for packets under way, at the end, that ends it when none has come for so long.
const SILENCE: f64 = 0.25;
/// How often a generator that nobody has asked for anything looks whether it is to end.
const STOP_LOOK: Duration = Duration::from_millis(100);

/// Makes the run that `options` describe and prints its report.
pub(crate) fn run(options: Options) -> Result<Report, Error> {
    pin(options.cpu)?;
    let stop = stop_on_signals()?;
    let report = if options.workload == Workload::Ceiling {
        let plan = Plan::new(&options, 2)?;
        let mut nodes: Vec<Node> =
            (0..2).map(|number| Node::standalone(&options, &plan, number)).collect::<Result<_, _>>()?;
        let forwarders = Forwarders::new(&mut nodes)?;
        match options.peer_cpu {
            None => measure(&options, &plan, nodes, forwarders, stop)?,
            Some(cpu) => {
                let apart = forwarders.start(cpu)?;
                let report = measure(&options, &plan, nodes, Elsewhere, stop)?;
                apart.stop();
                report
            }
        }
    } else {
        let plan = Plan::new(&options, options.guests.len())?;
        let nodes = Node::connect_all(&options, &plan)?;
        measure(&options, &plan, nodes, Elsewhere, stop)?
    };
    report.write(options.json.as_deref())?;
    Ok(report)
}

/// Everything after the guests are there. `backend` moves their packets, or nothing does in this process. `stop` ends the measured time.
pub(crate) fn measure<B: Backend>(
    options: &Options,
    plan: &Plan,
    mut nodes: Vec<Node>,
    mut backend: B,
    stop: Arc<AtomicBool>,
) -> Result<Report, Error> {
    let clock = Clock::new();
    if options.announce == Switch::On {
        let limit = Duration::from_secs_f64(options.connect_timeout_s);
        settle(&mut nodes, plan, options.macs, limit, &mut || {
            backend.step();
            options.nap().into_iter().for_each(std::thread::sleep);
        })?;
    }
    let mut engine = engine(options, plan, nodes, backend, clock)?;
    engine.stop = stop;
    if let Some(path) = &options.live {
        let failed = |source| Error::Live { path: path.clone(), source };
        engine.live = Some(Live::new(path, &engine.senders).map_err(failed)?);
    }
    if let Some(path) = &options.rates {
        let failed = |source| Error::Rates { path: path.clone(), source };
        engine.rates = Some(Rates::open(path, &engine.senders, options.queue_pairs).map_err(failed)?);
    }
    if options.guest_mode == GuestMode::Interrupt {
        engine.calls = Some(Calls::new(&mut engine.nodes).map_err(Error::Calls)?);
    }
    if options.expect_peer {
        expect_peer(&mut engine, options)?;
    }
    let measured =
        if options.on_request { on_request(options, plan, &mut engine)? } else { turn(options, &mut engine)? };
    let report = Report::new(&mut Facts { options, plan, engine: &mut engine, measured: &measured });
    for (number, node) in engine.nodes.into_iter().enumerate() {
        // The counts are made: a switch that fails at stopping does not change them, but somebody should know.
        if let Err(error) = node.stop(number) {
            eprintln!("ringgen: warning: stopping: {error}");
        }
    }
    Ok(report)
}

/// Warms up, measures, and waits for what is under way.
fn turn<B: Backend>(options: &Options, engine: &mut Engine<B>) -> Result<Measured, Error> {
    engine.run(options.warmup_s, true, None);
    engine.receivers.iter_mut().for_each(|r| r.latency.reset());
    if let Task::Pingpong(pingpong) = &mut engine.task {
        pingpong.rtt.reset();
    }
    let before = engine.totals(options.workload);
    let spent = engine.run(options.duration_s, true, None);
    let counts = engine.totals(options.workload).since(&before);
    let latencies = latencies(engine);
    engine.run(options.drain_s, false, Some(options.drain_s * SILENCE));
    match engine.nodes.iter().position(Node::is_lost) {
        Some(lost) => Err(Error::Lost(lost)),
        None => Ok(Measured { counts, spent, latencies }),
    }
}

/// A turn for every line of standard input, each with its report; returns all turns together.
fn on_request<B: Backend>(options: &Options, plan: &Plan, engine: &mut Engine<B>) -> Result<Measured, Error> {
    let mut all = Measured::nothing(engine.nodes.len());
    let lines = lines();
    while !engine.stop.load(Ordering::Relaxed) {
        match lines.recv_timeout(STOP_LOOK) {
            Ok(line) => line.map_err(Error::Input)?,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let measured = turn(options, engine)?;
        Report::new(&mut Facts { options, plan, engine, measured: &measured }).write(options.json.as_deref())?;
        all.add(&measured);
    }
    if all.spent.ticks == 0 { Err(Error::Input(std::io::ErrorKind::UnexpectedEof.into())) } else { Ok(all) }
}

/// The lines of standard input, read by a thread of its own: a signal does not end the wait for one. It ends with the process.
fn lines() -> Receiving<std::io::Result<String>> {
    let (to, lines) = sync_channel(0);
    std::thread::spawn(move || std::io::stdin().lines().try_for_each(|line| to.send(line)));
    lines
}

/// What was timed in the measured stretch.
fn latencies<B: Backend>(engine: &mut Engine<B>) -> hdrhistogram::Histogram<u64> {
    let mut all = crate::receiver::histogram();
    match &engine.task {
        Task::Pingpong(pingpong) => all = pingpong.rtt.clone(),
        _ => {
            for receiver in &engine.receivers {
                all.add(&receiver.latency).expect("histograms of the same bounds");
            }
        }
    }
    all
}

fn engine<B: Backend>(
    options: &Options,
    plan: &Plan,
    mut nodes: Vec<Node>,
    backend: B,
    clock: Clock,
) -> Result<Engine<B>, Error> {
    let blind = options.verify == Verify::None && options.size != Size::Tso && options.offloads == Switch::Off;
    let flows = |wanted: &dyn Fn(&&Flow) -> bool| plan.flows.iter().filter(|f| wanted(f)).collect::<Vec<_>>();
    let mut receivers = Vec::with_capacity(nodes.len());
    for (number, node) in nodes.iter_mut().enumerate() {
        node.pairs.iter_mut().for_each(|pair| pair.rx.set_blind(blind));
        receivers.push(Receiver::new(plan.incoming(options, number), options.verify, options.longest_frame()));
    }
    let lens = options.size.frame_lens();
    let mut sender = |flows: &[&Flow], burst| {
        let filled = &mut nodes[flows[0].from].filled[flows[0].pair];
        Sender::new(flows, &lens, filled, options.verify, burst)
    };
    let mut senders = Vec::new();
    let mut task = if options.workload == Workload::Echo { Task::Echo(Echoes::default()) } else { Task::Streams };
    let apart = options.workload == Workload::Pingpong;
    let guests = receivers.len();
    for (guest, pair) in (0..guests).flat_map(|g| (0..options.queue_pairs).map(move |p| (g, p))) {
        let own =
            flows(&|f| f.from == guest && f.pair == pair && !(apart && f.from < PINGING && (f.id == 0 || f.from == 1)));
        if own.is_empty() {
            continue;
        }
        let burst = if apart { options.burst.min(NEIGHBOURS) } else { options.burst };
        let mut sender = sender(&own, burst);
        sender.set_backlog(options.backlog);
        if let Some(limit) = options.in_flight_limit().filter(|_| options.workload != Workload::Source) {
            let endless = options.patience_s == 0.0;
            sender.set_in_flight(limit, if endless { u64::MAX } else { clock.ticks(options.patience_s) });
        }
        senders.push(sender);
    }
    if apart {
        let [ping, pong] = [0, 1].map(|from| flows(&|f| f.from == from && f.id == 0));
        let (pinger, ponger) = (sender(&ping, 1), sender(&pong, 1));
        let (background, neighbours) = senders.into_iter().partition(|sender| sender.guest < PINGING);
        senders = neighbours;
        let pingpong = Pingpong::new(pinger, ponger, background, options, &clock);
        task = Task::Pingpong(Box::new(pingpong));
    }
    let stop = Arc::default();
    Ok(Engine {
        clock,
        nodes,
        senders,
        receivers,
        task,
        backend,
        pace: options.pace(),
        nap: options.nap(),
        stop,
        live: None,
        rates: None,
        calls: None,
    })
}

/// Set by the first SIGINT or SIGTERM. The second one ends the process.
fn stop_on_signals() -> Result<Arc<AtomicBool>, Error> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_default(signal, stop.clone()).map_err(Error::Signals)?;
        signal_hook::flag::register(signal, stop.clone()).map_err(Error::Signals)?;
    }
    Ok(stop)
}

/// Waits until somebody sends.
fn expect_peer<B: Backend>(engine: &mut Engine<B>, options: &Options) -> Result<(), Error> {
    let deadline = Instant::now() + Duration::from_secs_f64(options.connect_timeout_s);
    let frames = |pair: &QueuePair| pair.rx.stats().frames;
    let arrived = |engine: &Engine<B>| engine.nodes.iter().flat_map(|n| &n.pairs).map(frames).sum::<u64>();
    let before = arrived(engine);
    while arrived(engine) == before {
        if Instant::now() >= deadline {
            let text = format!("nobody has sent anything within {} s (--expect-peer)", options.connect_timeout_s);
            return Err(Error::Settle(text));
        }
        engine.run(0.01, false, None);
    }
    Ok(())
}

/// Runs this thread on one CPU.
pub(crate) fn pin(cpu: Option<usize>) -> Result<(), Error> {
    let Some(cpu) = cpu else { return Ok(()) };
    let mut set = rustix::thread::CpuSet::new();
    if cpu >= rustix::thread::CpuSet::MAX_CPU {
        return Err(Error::Pin { cpu, source: std::io::ErrorKind::InvalidInput.into() });
    }
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).map_err(|e| Error::Pin { cpu, source: e.into() })
}

/// Sums of what no driver could accept.
pub(crate) fn faults(nodes: &mut [Node]) -> u64 {
    let fault = |pair: &mut QueuePair| {
        let RxStats { bad_frames, bad_num_buffers: _, incomplete, .. } = pair.rx.stats();
        bad_frames + incomplete + pair.rx.ring().violations() + pair.tx.ring().violations()
    };
    nodes.iter_mut().flat_map(|node| &mut node.pairs).map(fault).sum()
}
