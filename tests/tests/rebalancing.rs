//! A running switch with the default configuration, and guests that ask for more than one of its two I/O cores can do: what the scheduler does
//! by itself, what it says of that, and what an operator can make of it.
#![forbid(unsafe_code)]

use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;
use serde_json::{Value, json};
use sidecore_tests::process::{Process, eventually};
use sidecore_tests::rules::Machine;
use sidecore_tests::switch::{SwitchConfig, SwitchProcess};
use sidecore_tests::{http, paths};
use tempfile::TempDir;

/// Longest wait for anything that has to happen, also where others have the CPUs.
const LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// Guests, which send in pairs. No pair alone fills a core.
const GUESTS: usize = 16;
/// For so many ticks of 5 ms nothing may happen that must not.
const TICKS: u64 = 150;

/// A switch, and guests that fill its first I/O core.
struct Stage {
    // Dropped in this order.
    guests: Process,
    switch: SwitchProcess,
    http: u16,
    _dir: TempDir,
    _machine: Machine,
}

/// What the switch says of its scheduler.
fn scheduler(switch: &SwitchProcess) -> Result<Value> {
    Ok(switch.ask(&json!({ "command": "status" }))?["status"]["scheduler"].take())
}

fn name(guest: usize) -> String {
    format!("g{guest}")
}

impl Stage {
    /// Starts both; `lines` are those of each guest. Before the guests start, `prepare` is done to the switch.
    fn start(lines: &[&str], prepare: impl FnOnce(&SwitchProcess)) -> Self {
        let machine = Machine::exclusive().unwrap();
        let dir = SwitchProcess::folder().unwrap();
        let last = std::thread::available_parallelism().map_or(1, usize::from) - 1;
        let http = http::free_port().unwrap();
        // The first core has a CPU without the generator, where there is one. Nothing is said of a scheduler.
        let config = SwitchConfig::new(dir.path()).on_cpus(vec![last, 0]);
        let config = config.key(&format!("http_listen = \"127.0.0.1:{http}\""));
        let config = (0..GUESTS).fold(config, |config, guest| config.guest(&name(guest), lines));
        let switch = SwitchProcess::start(&config).unwrap();
        // Queue pairs that are not started yet are not held where an operator puts them.
        (0..GUESTS).for_each(|guest| drop(switch.move_guest(&name(guest), None, 0).unwrap()));
        prepare(&switch);
        // Segments of 64 KiB cost a core far more than their sender, and less is under way than receivers have room for.
        let line = "stream --size tso --rx-buffer 65600 --buffers 128 --in-flight 100 --patience-s 0 --hugepages off --cpu 0 \
                    --duration-s 86400 --connect-timeout-s 60";
        let sockets = (0..GUESTS).flat_map(|guest| ["--guest".into(), config.socket(&name(guest)).into_os_string()]);
        let args = line.split_whitespace().map(Into::into).chain(sockets);
        let log = dir.path().join("ringgen.log");
        let guests = Process::spawn("ringgen", paths::ringgen().unwrap(), args, &log).unwrap();
        Self { guests, switch, http, _dir: dir, _machine: machine }
    }

    /// Waits until the scheduler's part of the status is so.
    fn wait(&mut self, what: &str, mut condition: impl FnMut(&Value) -> bool) -> Value {
        let Self { guests, switch, .. } = self;
        let mut last = Value::Null;
        let seen = eventually(what, LIMIT, || {
            guests.ensure_running()?;
            last = scheduler(switch)?;
            Ok(condition(&last).then_some(()))
        });
        seen.unwrap_or_else(|error| panic!("{error:#}: {last:#}"));
        last
    }

    fn wait_for_saturation(&mut self) -> Value {
        self.wait("saturation", is_saturated)
    }

    /// Waits until the first core has been saturated for as many ticks as it takes for something to happen; says how things are then.
    fn wait_in_vain(&mut self) -> Value {
        let (mut seen, mut last) = (0, None);
        self.wait("ticks of a saturated core", |now| {
            let tick = is_saturated(now).then(|| now["ticks"].as_u64()).flatten();
            seen += tick.zip(last).map_or(0, |(tick, last)| tick - last);
            last = tick;
            seen >= TICKS
        })
    }

    /// The value of a series in the metrics.
    fn metric(&self, series: &str) -> f64 {
        let text = http::get(self.http, "/metrics").unwrap().body;
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no {series} in {text}"))
    }

    /// The cores that the guests' queue pairs are on, in the guests' order.
    fn cores(&self) -> Vec<Option<u32>> {
        let status = self.switch.status().unwrap();
        (0..GUESTS).map(|guest| status.port(&name(guest)).unwrap().queues[0].io_core).collect()
    }

    fn finish(mut self) {
        self.guests.stop(Signal::INT, STOP_LIMIT).unwrap();
        self.switch.quiet_status().unwrap();
        self.switch.stop_within(Signal::TERM, STOP_LIMIT).unwrap();
    }
}

fn is_saturated(scheduler: &Value) -> bool {
    scheduler["saturated"].as_array().is_some_and(|cores| cores.contains(&0.into()))
}

/// A decision to move something away from the first core since that is saturated, of which it is known what it has gained.
fn helped(decision: &Value) -> bool {
    (&decision["kind"], &decision["reason"]) == (&"move".into(), &"saturated".into())
        && (&decision["step"]["from"], &decision["step"]["to"]) == (&0.into(), &1.into())
        && decision["measured_gain"].is_number()
}

fn decisions(scheduler: &Value) -> &[Value] {
    scheduler["decisions"].as_array().map_or(&[], Vec::as_slice)
}

fn is_relieved(scheduler: &Value) -> bool {
    decisions(scheduler).iter().any(helped)
}

#[test]
fn guests_move_off_a_saturated_core_by_default() {
    let mut stage = Stage::start(&[], |_| ());
    let scheduler = stage.wait("a move that helped", is_relieved);
    assert_eq!((&scheduler["policy"], &scheduler["paused"]), (&"balance".into(), &false.into()));
    let decision = decisions(&scheduler).iter().find(|decision| helped(decision)).unwrap();
    assert_eq!(decision["why"], "I/O core 0 is saturated");
    let expected = decision["expected_gain"].as_f64().unwrap();
    assert!(expected > 0.0 && decision["pause_us"].as_f64() > Some(0.0), "{decision}");

    // The same, to people and to Prometheus. Only the last ones are shown, and more may have been decided meanwhile, also of the other core.
    let mut text = String::new();
    let shown = eventually("a decision", LIMIT, || {
        text = stage.switch.must(&["status"])?;
        Ok(text.lines().any(|line| line.contains(" is saturated") && line.contains(" % ")).then_some(()))
    });
    assert!(shown.is_ok(), "{text}");
    let moves = stage.metric("sidecore_scheduler_decisions_total{kind=\"move\",reason=\"saturated\"}");
    assert!(moves >= 1.0 && stage.metric("sidecore_scheduler_moves_total") >= 1.0);
    assert!(stage.metric("sidecore_scheduler_expected_gain_cores_total") >= expected);
    let [gain, loss] =
        ["gain", "loss"].map(|what| stage.metric(&format!("sidecore_scheduler_measured_{what}_cores_total")));
    assert!(gain > 0.0 || loss > 0.0);
    stage.finish();
}

#[test]
fn a_plan_changes_nothing_and_a_paused_scheduler_moves_nothing() {
    let mut stage = Stage::start(&[], |switch| drop(switch.must(&["scheduler", "pause"]).unwrap()));
    stage.wait_for_saturation();
    let ask = |stage: &Stage| -> Value {
        serde_json::from_str(&stage.switch.must(&["scheduler", "plan", "--json"]).unwrap()).unwrap()
    };
    let plan = eventually("a plan to move something", LIMIT, || {
        Ok(Some(ask(&stage)).filter(|plan| plan["moves"].as_array().is_some_and(|moves| !moves.is_empty())))
    });
    let plan = plan.unwrap_or_else(|error| panic!("{error:#}: {:#?}", scheduler(&stage.switch)));
    let planned = plan["moves"][0].as_str().unwrap();
    assert!(planned.contains("of guest g") && planned.ends_with("from I/O core 0 to I/O core 1"), "{plan}");
    assert!(plan["after"].as_f64() < plan["before"].as_f64(), "{plan}");
    let scheduler = stage.wait_in_vain();
    assert_eq!((&scheduler["moves"], &scheduler["decided"]), (&0.into(), &json!({ "pause": { "operator": 1 } })));
    assert_eq!(stage.cores(), [Some(0); GUESTS]);

    stage.switch.must(&["scheduler", "resume"]).unwrap();
    stage.wait("a move that was judged", is_relieved);
    // One that made things worse is undone, and another one is tried.
    eventually("a guest on the other core", LIMIT, || Ok(stage.cores().contains(&Some(1)).then_some(()))).unwrap();
    stage.finish();
}

#[test]
fn what_cannot_be_fixed_is_said_once() {
    let mut stage = Stage::start(&["io_core = 0"], |_| ());
    let cannot = |scheduler: &Value| !scheduler["decided"]["cannot_fix"]["pinned"].is_null();
    stage.wait("a decision that nothing helps", cannot);
    stage.wait_in_vain();
    // It is found out again and again, once a second, and not said again. What else is said depends on who else has the CPUs: while the core is
    // without its own, a single queue pair can seem to need more than there is.
    let scheduler = stage.wait_in_vain();
    assert!(scheduler["moves"] == 0 && scheduler["decided"].as_object().unwrap().len() == 1, "{scheduler:#}");
    let pinned: Vec<_> = decisions(&scheduler).iter().filter(|decision| decision["reason"] == "pinned").collect();
    let [decision] = pinned[..] else { panic!("{scheduler:#}") };
    let said = "nothing that fills I/O core 0 may move: it is pinned, or comes from NICs without a rule";
    assert_eq!(decision["what"], format!("nothing: {said}"));
    assert_eq!(decision["why"], "I/O core 0 is saturated");
    assert_eq!(stage.metric("sidecore_scheduler_decisions_total{kind=\"cannot_fix\",reason=\"pinned\"}"), 1.0);
    eventually("the metric of what cannot be fixed", LIMIT, || {
        Ok((stage.metric("sidecore_scheduler_cannot_fix") == 1.0).then_some(()))
    })
    .unwrap();
    let text = stage.switch.must(&["scheduler", "status"]).unwrap();
    assert!(text.contains(said), "{text}");
    stage.finish();
}
