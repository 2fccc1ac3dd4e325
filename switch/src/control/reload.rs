//! `sidecore reload`: makes a running switch what its configuration file says now.
//!
//! Everything is checked before anything is touched. If the switch then cannot do a step, the steps before it are undone.

use std::collections::BTreeSet;

use config::{Config, ConfigError, Machine, PortName, PortsDiff, SwitchConfig};
use tracing::{info, warn};

use super::port::{find, insert, take_out};
use super::protocol::{ChangedPort, ReloadReport};
use super::{Control, ControlError, Port, Switch, admit};

/// Keys of a guest that are only shown: it goes on when they change.
const SHOWN_KEYS: [&str; 2] = ["vm_name", "vm_uuid"];

/// What is to be done, in this order.
#[derive(Debug, Default)]
struct Plan {
    remove: Vec<Port>,
    add: Vec<Port>,
    /// Ports of which only something that is shown differs.
    show: Vec<Port>,
    /// Ports added at run time that stay so.
    keep_added: BTreeSet<PortName>,
    report: ReloadReport,
}

/// A step that was taken, and can be taken back.
enum Step {
    Removed(Port),
    Added(Port),
}

impl<S: Switch> Control<S> {
    /// Reads the configuration file and applies what changed; ports that did not change see nothing.
    pub(crate) fn reload(&mut self) -> Result<ReloadReport, ControlError> {
        let machine = (self.setup.machine)();
        let new = Config::load(&self.setup.file, &machine)?;
        let plan = self.plan(&new, &machine)?;
        let added_before = std::mem::replace(&mut self.added, plan.keep_added);
        if let Err((cause, taken)) = self.take_steps(plan.remove, plan.add) {
            self.added = added_before;
            return Err(self.take_back(cause, taken));
        }
        for port in plan.show {
            self.switch.show(&port);
            take_out(&mut self.running, port.name());
            insert(&mut self.running, port);
        }
        let live = live_keys(&self.running.switch, &new.switch);
        if live != self.running.switch {
            (self.setup.set_log_level)(live.log_level);
            self.switch.set_switch(&live);
            self.running.switch = live.clone();
        }
        if self.running.scheduler != new.scheduler {
            self.switch.set_scheduler(&new.scheduler);
            self.running.scheduler = new.scheduler;
        }
        self.setup.config = Config { switch: live, ..new };
        for line in plan.report.lines() {
            info!("reload: {line}");
        }
        for warning in &plan.report.warnings {
            warn!("reload: {warning}");
        }
        Ok(plan.report)
    }

    fn plan(&self, new: &Config, machine: &Machine) -> Result<Plan, ControlError> {
        let old = &self.setup.config;
        let diff = Config::diff(old, new);
        let mut plan = Plan { keep_added: self.added.clone(), ..Plan::default() };
        plan.ports(&diff.uplinks, Port::Uplink, |name| self.running_from_file(name));
        plan.ports(&diff.guests, Port::Guest, |name| self.running_from_file(name));
        for change in diff.switch {
            let list = if change.needs_restart { &mut plan.report.needs_restart } else { &mut plan.report.switch };
            list.push(change.key);
        }
        plan.report.scheduler = diff.scheduler.into_iter().map(|change| change.key).collect();
        // The file was checked against the switch it describes; what runs may have other I/O cores.
        for port in &plan.add {
            port.check_alone(&self.running, machine)
                .map_err(|error| ControlError::NeedsRestart { port: port.to_string(), why: one_line(&error) })?;
        }
        self.settle_conflicts(&mut plan, machine);
        Ok(plan)
    }

    /// The file wins over what was added at run time.
    fn settle_conflicts(&self, plan: &mut Plan, machine: &Machine) {
        let file = self.setup.file.display();
        let mut from_file = self.running.clone();
        let mut at_run_time = Vec::new();
        for name in &self.added {
            let Some(port) = find(&self.running, name.as_str()) else { continue };
            take_out(&mut from_file, name);
            if plan.add.contains(&port) {
                // The file has the port exactly as it runs: it changes hands, and its guest sees nothing.
                plan.add.retain(|add| *add != port);
                plan.report.added.retain(|added| *added != port.to_string());
                plan.report.warnings.push(format!("{port}, added at run time, is in {file} now, and stays as it is"));
                plan.keep_added.remove(name);
                insert(&mut from_file, port);
            } else {
                at_run_time.push(port);
            }
        }
        for port in &plan.remove {
            take_out(&mut from_file, port.name());
        }
        for port in &plan.add {
            insert(&mut from_file, port.clone());
        }
        let (_, rejected) = admit(&from_file, at_run_time, machine);
        for (port, error) in rejected {
            plan.keep_added.remove(port.name());
            plan.report.removed.push(port.to_string());
            plan.report.warnings.push(given_up(&port, &error));
            plan.remove.push(port);
        }
    }

    fn running_from_file(&self, name: &PortName) -> Option<Port> {
        find(&self.running, name.as_str()).filter(|_| !self.added.contains(name))
    }

    fn take_steps(&mut self, remove: Vec<Port>, add: Vec<Port>) -> Result<(), (ControlError, Vec<Step>)> {
        let mut taken = Vec::new();
        for port in remove {
            match self.stop(&port) {
                Ok(()) => taken.push(Step::Removed(port)),
                Err(error) => return Err((error, taken)),
            }
        }
        for port in add {
            match self.start(&port) {
                Ok(()) => taken.push(Step::Added(port)),
                Err(error) => return Err((error, taken)),
            }
        }
        self.save().map_err(|error| (error.into(), taken))
    }

    /// Undoes steps, the last one first; what cannot be undone is named in the error.
    fn take_back(&mut self, cause: ControlError, taken: Vec<Step>) -> ControlError {
        let mut lost = Vec::new();
        for step in taken.into_iter().rev() {
            let (result, port) = match step {
                Step::Removed(port) => (self.start(&port), port),
                Step::Added(port) => (self.stop(&port), port),
            };
            if let Err(error) = result {
                lost.push(format!("{port} ({error})"));
            }
        }
        if lost.is_empty() { cause } else { ControlError::NotPutBack { cause: Box::new(cause), lost } }
    }
}

impl Plan {
    fn ports<T: Clone>(
        &mut self,
        diff: &PortsDiff<T>,
        port: fn(T) -> Port,
        running: impl Fn(&PortName) -> Option<Port>,
    ) {
        for gone in diff.removed.iter().filter_map(&running) {
            self.report.removed.push(gone.to_string());
            self.remove.push(gone);
        }
        for change in &diff.changed {
            let new = port(change.new.clone());
            match running(new.name()) {
                Some(old) if change.keys.iter().all(|key| SHOWN_KEYS.contains(&key.as_str())) => {
                    self.report.shown.push(ChangedPort { port: old.to_string(), keys: change.keys.clone() });
                    self.show.push(new);
                    continue;
                }
                Some(old) => {
                    self.report.changed.push(ChangedPort { port: old.to_string(), keys: change.keys.clone() });
                    self.remove.push(old);
                }
                // Removed at run time; whoever edits its section wants it back.
                None => self.report.added.push(new.to_string()),
            }
            self.add.push(new);
        }
        for added in &diff.added {
            let added = port(added.clone());
            self.report.added.push(added.to_string());
            self.add.push(added);
        }
    }
}

/// Says that a port added at run time is no more.
pub(crate) fn given_up(port: &Port, error: &ConfigError) -> String {
    let why = one_line(error);
    format!("{port}, added at run time, is given up, since it does not go with the configuration file: {why}")
}

/// The problems of a port that no file or request holds, so that only keys and remedies matter.
pub(super) fn one_line(error: &ConfigError) -> String {
    let problems = error.problems().iter().map(|p| format!("{}: {}; {}", p.key, p.message, p.remedy));
    problems.collect::<Vec<_>>().join("; ")
}

/// `old` with those values of `new` that need no restart.
fn live_keys(old: &SwitchConfig, new: &SwitchConfig) -> SwitchConfig {
    SwitchConfig {
        fdb_ageing_s: new.fdb_ageing_s,
        // Not beyond a table that grows with the next start only.
        learn_limit_per_port: new.learn_limit_per_port.min(old.fdb_entries),
        learn_rate_per_s: new.learn_rate_per_s,
        flood_rate_pps: new.flood_rate_pps,
        log_level: new.log_level,
        ..old.clone()
    }
}
