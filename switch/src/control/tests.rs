//! The control plane over a switch that only remembers what it was told.

use super::*;

use std::fs;
use std::path::Path;

use tempfile::TempDir;

/// A switch without a data path.
#[derive(Debug, Default)]
pub(crate) struct FakeSwitch {
    pub(crate) ports: Vec<Port>,
    /// What was asked of it, in order.
    pub(crate) log: Vec<String>,
    /// Names of ports that cannot be added.
    pub(crate) refuse: Vec<String>,
    pub(crate) flood_rate_pps: Option<u32>,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct FakeError(&'static str);

impl Switch for FakeSwitch {
    type Error = FakeError;

    fn add(&mut self, port: &Port) -> Result<(), FakeError> {
        if self.refuse.iter().any(|name| name == port.name().as_str()) {
            return Err(FakeError("the device is not there"));
        }
        self.log.push(format!("+{}", port.name()));
        self.ports.push(port.clone());
        Ok(())
    }

    fn remove(&mut self, port: &Port) -> Result<(), FakeError> {
        let before = self.ports.len();
        self.ports.retain(|p| p.name() != port.name());
        self.log.push(format!("-{}", port.name()));
        if self.ports.len() < before { Ok(()) } else { Err(FakeError("no such port")) }
    }

    fn show(&mut self, port: &Port) {
        self.log.push(format!("={}", port.name()));
    }

    fn move_guest(&mut self, name: &str, queue: Option<u16>, io_core: usize) -> Result<Vec<MovedQueue>, FakeError> {
        if !self.ports.iter().any(|port| port.name().as_str() == name) {
            return Err(FakeError("no such guest"));
        }
        let queue = usize::from(queue.unwrap_or(0));
        self.log.push(format!("{name}.{queue}>{io_core}"));
        Ok(vec![MovedQueue { guest: name.into(), queue, from: 0, to: io_core, pause_us: None }])
    }

    fn set_switch(&mut self, config: &SwitchConfig) {
        self.flood_rate_pps = config.flood_rate_pps;
    }

    fn set_scheduler(&mut self, config: &SchedulerConfig) {
        self.log.push(format!("rebalance {}", config.rebalance));
    }

    fn plan(&self) -> PlanReport {
        PlanReport { moves: Vec::new(), before: 0.0, after: 0.0, cannot_fix: None }
    }

    fn pause_scheduler(&self, pause: bool) -> bool {
        pause
    }

    fn capture(&mut self, request: &CaptureRequest, _: &UnixStream) -> Result<(), FakeError> {
        self.log.push(format!("capture {}", request.ports.join(",")));
        Err(FakeError("no such port"))
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot { version: "0".into(), tsc_hz: 1, ..Snapshot::default() }
    }

    fn fdb(&self) -> Vec<FdbSnapshot> {
        Vec::new()
    }

    fn trace(&self, _: &TraceQuery) -> Result<TraceReport, FakeError> {
        Err(FakeError("there is no data path"))
    }
}

pub(crate) fn guest(name: &str, socket: &str) -> Port {
    let raw = config::RawGuest { name: name.into(), socket: socket.into(), ..Default::default() };
    Port::Guest(raw.try_into().unwrap())
}

pub(crate) fn uplink(name: &str, device: &str) -> Port {
    let raw = config::RawUplink { name: name.into(), device: device.into(), ..Default::default() };
    Port::Uplink(raw.try_into().unwrap())
}

const FILE: &str = r#"
[switch]
io_cores = [0]
[[guest]]
name = "vm1"
socket = "/run/vm1"
[[uplink]]
name = "up"
device = "net_null0"
"#;

struct Fixture {
    directory: TempDir,
    control: Control<FakeSwitch>,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let control = Self::control(directory.path(), FILE);
        Self { directory, control }
    }

    /// A switch that has just been started.
    fn control(directory: &Path, file: &str) -> Control<FakeSwitch> {
        let path = directory.join("sidecore.toml");
        fs::write(&path, file).unwrap();
        let config = Config::load(&path, &Machine::any()).unwrap();
        let (state, kept) = StateFile::open(directory.join("state.json")).unwrap();
        let (kept, rejected) = admit(&config, kept, &Machine::any());
        assert!(rejected.is_empty());
        let set_log_level = Box::new(|_| {});
        let setup = Setup { file: path, config, state: Some(state), machine: Machine::any, set_log_level };
        let mut control = Control::new(FakeSwitch::default(), setup);
        control.start_ports(&kept).unwrap();
        control.switch.log.clear();
        control
    }

    fn restart(&mut self) {
        let file = fs::read_to_string(&self.control.setup.file).unwrap();
        self.control = Self::control(self.directory.path(), &file);
    }

    fn edit(&self, text: &str) {
        fs::write(&self.control.setup.file, text).unwrap();
    }

    fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.control.switch.ports.iter().map(|port| port.name().as_str()).collect();
        names.sort_unstable();
        names
    }

    fn add(&mut self, name: &str, socket: &str) -> Response {
        self.control.handle(Request::GuestAdd { guest: serde_json::json!({ "name": name, "socket": socket }) })
    }

    /// Makes the state file impossible to write, for any user.
    fn block_state_file(&self) {
        fs::create_dir(self.directory.path().join("state.json.new")).unwrap();
    }
}

fn error(response: Response) -> String {
    match response {
        Response::Error(text) => text,
        Response::Ok(answer) => panic!("no error: {answer:?}"),
    }
}

fn done(response: Response) -> Done {
    match response {
        Response::Ok(Answer::Done(done)) => done,
        other => panic!("{other:?}"),
    }
}

fn reloaded(response: Response) -> protocol::ReloadReport {
    match response {
        Response::Ok(Answer::Reloaded(report)) => report,
        other => panic!("{other:?}"),
    }
}

#[test]
fn ports_added_at_run_time_survive_a_restart() {
    let mut fixture = Fixture::new();
    assert_eq!(done(fixture.add("vm2", "/run/vm2")).message, "guest vm2 added");
    fixture.restart();
    assert_eq!(fixture.names(), ["up", "vm1", "vm2"]);
    done(fixture.control.handle(Request::GuestRemove { name: "vm2".into() }));
    fixture.restart();
    assert_eq!(fixture.names(), ["up", "vm1"]);
}

#[test]
fn a_request_is_checked_as_the_file_is() {
    let mut fixture = Fixture::new();
    assert!(error(fixture.add("vm1", "/run/vm2")).contains("is taken by the guest vm1"));
    assert!(error(fixture.add("vm2", "/run/vm1")).contains("is taken by the guest vm1"));
    assert!(error(fixture.add("vm 2", "/run/vm2")).contains("cannot be the name of a port"));
    let request = Request::GuestAdd { guest: serde_json::json!({ "name": "a", "socket": "/a", "io_core": 7 }) };
    assert!(error(fixture.control.handle(request)).contains("there is no I/O core 7"));
    let request = Request::UplinkAdd { uplink: serde_json::json!({ "name": "a", "device": "eth0" }) };
    assert!(error(fixture.control.handle(request)).contains("net_af_xdp0,iface=eth0"));
    assert!(fixture.control.switch.log.is_empty());
}

#[test]
fn a_port_that_is_not_there_or_of_the_other_kind_is_not_removed() {
    let mut fixture = Fixture::new();
    let remove = |name: &str| Request::GuestRemove { name: name.into() };
    assert!(error(fixture.control.handle(remove("vm9"))).contains("there is no guest \"vm9\""));
    assert!(error(fixture.control.handle(remove("up"))).contains("sidecore uplink remove up"));
    assert!(fixture.control.switch.log.is_empty());
}

#[test]
fn a_port_of_the_file_can_go_and_whoever_removes_it_is_told_that_it_comes_back() {
    let mut fixture = Fixture::new();
    let done = done(fixture.control.handle(Request::GuestRemove { name: "vm1".into() }));
    assert!(done.warnings[0].contains("comes back"));
    // The file did not change, so a reload does not bring it back either.
    assert_eq!(reloaded(fixture.control.handle(Request::Reload)), protocol::ReloadReport::default());
    assert_eq!(fixture.names(), ["up"]);
}

#[test]
fn what_cannot_be_kept_is_undone() {
    let mut fixture = Fixture::new();
    done(fixture.add("vm2", "/run/vm2"));
    fixture.block_state_file();
    assert!(error(fixture.add("vm3", "/run/vm3")).contains("cannot be written"));
    assert_eq!(fixture.names(), ["up", "vm1", "vm2"]);
    fixture.control.switch.log.clear();
    assert!(error(fixture.control.handle(Request::GuestRemove { name: "vm2".into() })).contains("cannot be written"));
    assert!(fixture.control.switch.log.is_empty(), "vm2 saw nothing");
    fixture.restart();
    assert_eq!(fixture.names(), ["up", "vm1", "vm2"]);
}

#[test]
fn a_reload_applies_the_difference_and_no_more() {
    let mut fixture = Fixture::new();
    done(fixture.add("vm9", "/run/vm9"));
    fixture.control.switch.log.clear();
    fixture.edit(
        r#"
        [switch]
        io_cores = [0, 1]
        flood_rate_pps = 7
        [scheduler]
        rebalance = false
        [[guest]]
        name = "vm1"
        socket = "/run/vm1"
        mtu = 9000
        [[guest]]
        name = "vm3"
        socket = "/run/vm3"
        [[uplink]]
        name = "up"
        device = "net_null0"
        "#,
    );
    let report = reloaded(fixture.control.handle(Request::Reload));
    assert_eq!(fixture.control.switch.log, ["-vm1", "+vm1", "+vm3", "rebalance false"]);
    assert_eq!(report.added, ["guest vm3"]);
    assert_eq!(report.changed[0].keys, ["mtu"]);
    assert_eq!(report.switch, ["flood_rate_pps"]);
    assert_eq!(report.scheduler, ["rebalance"]);
    assert!(!fixture.control.running.scheduler.rebalance);
    assert_eq!(report.needs_restart, ["io_cores"]);
    assert_eq!(fixture.control.switch.flood_rate_pps, Some(7));
    // Only what needs the restart is still different.
    let again = reloaded(fixture.control.handle(Request::Reload));
    assert_eq!(again, protocol::ReloadReport { needs_restart: vec!["io_cores".into()], ..Default::default() });
    assert_eq!(fixture.names(), ["up", "vm1", "vm3", "vm9"]);
}

#[test]
fn a_bad_file_changes_nothing() {
    let mut fixture = Fixture::new();
    fixture.edit("[switch]\nio_cores = []\n");
    assert!(error(fixture.control.handle(Request::Reload)).contains("sidecore.toml:2"));
    // Good in itself, but not on the I/O cores that run.
    fixture.edit("[switch]\nio_cores = [0, 1]\n[[guest]]\nname = \"vm2\"\nsocket = \"/run/vm2\"\nio_core = 1\n");
    let text = error(fixture.control.handle(Request::Reload));
    assert!(text.contains("guest vm2 cannot run before the switch is started again"), "{text}");
    assert!(fixture.control.switch.log.is_empty());
    assert_eq!(fixture.names(), ["up", "vm1"]);
}

#[test]
fn a_guest_whose_vm_is_called_something_else_goes_on() {
    let mut fixture = Fixture::new();
    fixture.control.switch.log.clear();
    fixture.edit(&FILE.replace("name = \"vm1\"", "name = \"vm1\"\nvm_name = \"web\""));
    let report = reloaded(fixture.control.handle(Request::Reload));
    assert_eq!(fixture.control.switch.log, ["=vm1"]);
    assert_eq!(report.lines(), ["changed vm_name of guest vm1"]);
    let running = fixture.control.running.guests.iter().find(|guest| guest.name.as_str() == "vm1").unwrap();
    assert!(running.vm_name.is_some());
    assert_eq!(reloaded(fixture.control.handle(Request::Reload)).lines(), ["nothing to change"]);
}

#[test]
fn a_reload_that_fails_half_way_is_taken_back() {
    let mut fixture = Fixture::new();
    fixture.control.switch.refuse.push("down".into());
    fixture.edit("[switch]\nio_cores = [0]\n[[uplink]]\nname = \"down\"\ndevice = \"net_null1\"\n");
    let text = error(fixture.control.handle(Request::Reload));
    assert!(text.contains("the device is not there"), "{text}");
    assert_eq!(fixture.names(), ["up", "vm1"]);
    assert_eq!(fixture.control.running.guests.len(), 1);
    // A port that cannot be put back is named.
    fixture.control.switch.refuse.push("vm1".into());
    let text = error(fixture.control.handle(Request::Reload));
    assert!(text.contains("these are gone: guest vm1"), "{text}");
    assert_eq!(fixture.control.running.guests.len(), 0);
}

#[test]
fn the_file_wins_over_what_was_added_at_run_time() {
    let mut fixture = Fixture::new();
    for (name, socket) in [("same", "/run/same"), ("name", "/run/name"), ("socket", "/run/socket")] {
        done(fixture.add(name, socket));
    }
    fixture.control.switch.log.clear();
    let guest = |name: &str, socket: &str| format!("[[guest]]\nname = \"{name}\"\nsocket = \"{socket}\"\n");
    let text = format!(
        "{FILE}{}{}{}",
        guest("same", "/run/same"),
        guest("name", "/run/another"),
        guest("another", "/run/socket")
    );
    fixture.edit(&text);
    let report = reloaded(fixture.control.handle(Request::Reload));
    assert_eq!(fixture.control.switch.log, ["-name", "-socket", "+name", "+another"]);
    assert_eq!(report.added, ["guest name", "guest another"]);
    assert_eq!(report.warnings.len(), 3);
    assert!(fixture.control.added.is_empty());
    fixture.restart();
    assert_eq!(fixture.names(), ["another", "name", "same", "up", "vm1"]);
}

#[test]
fn kept_ports_that_no_longer_fit_are_sorted_out() {
    let config = Config::parse(FILE, "test", &Machine::any()).unwrap();
    let kept = vec![guest("vm1", "/run/other"), guest("vm2", "/run/vm2"), uplink("again", "net_null0")];
    let (fit, rejected) = admit(&config, kept, &Machine::any());
    assert_eq!(fit, [guest("vm2", "/run/vm2")]);
    assert!(given_up(&rejected[0].0, &rejected[0].1).contains("the name \"vm1\" is taken by the guest vm1"));
    assert_eq!(rejected.len(), 2);
}
