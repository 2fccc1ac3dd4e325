//! Rules in NICs that steer what is for a guest to the RX queue of the core that has the guest, so that no core has to hand it over.
//!
//! A thread of its own follows the port table: drivers take their time to make rules, and nobody else waits for that, nor does who looks at the rules
//! (who looks at an uplink asks its driver for link and counters, though). Where a driver refuses, RSS spreads packets
//! as before and cores hand them over: that is counted, and said once.
//!
//! While the rule of an address changes, order is kept as far as it can be seen: the new queue is not polled until each of the others was seen
//! empty and what it held has been delivered; but no longer than [`HOLD_US`]. What a NIC holds between its wire and its queues is not seen, nor is what
//! RSS spreads to a third queue between the end of the old rule and the beginning of the new one.

mod plan;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pmd_bindings::{FlowRule, Port, tsc, tsc_hz};

use self::plan::{Addresses, Change, Rules, changes, wanted};
use super::fabric::Fabric;
use super::handover::Token;
use super::load::Intake;
use super::mailbox::Message;
use super::reply::reply;
use super::uplink_queues::UplinkHost;
use crate::forwarding::{MacAddr, PortId};

/// A queue is not polled for so long at most.
const HOLD_US: u64 = 1000;
/// Between two looks at the table, so that a guest that starts and stops its rings without end holds a queue no more than now and then.
const REST: Duration = Duration::from_millis(20);
/// Between two looks whether cores have delivered everything.
const LOOK: Duration = Duration::from_micros(20);

/// The thread.
pub(super) struct Steering {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    fabric: Arc<Fabric>,
    addresses: Mutex<Addresses>,
    uplinks: Mutex<Vec<Arc<Steered>>>,
}

/// An uplink and its rules.
pub(super) struct Steered {
    name: String,
    host: Arc<UplinkHost>,
    state: Mutex<State>,
    /// The rules of the state, for those who look: it is held while a driver is asked.
    shown: Mutex<Vec<([u8; 6], u16)>>,
    refusals: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Nothing where it has no rules at all, or where the uplink goes: then it is asked no more.
    device: Option<Arc<Port>>,
    rules: BTreeMap<[u8; 6], FlowRule>,
    /// What the driver did not take: it is asked again when something else is wanted.
    refused: Rules,
}

impl Steering {
    /// Starts the thread. There are no uplinks yet.
    pub(super) fn start(fabric: &Arc<Fabric>) -> std::io::Result<Self> {
        let fabric = Arc::clone(fabric);
        let shared = Arc::new(Shared { fabric, addresses: Mutex::default(), uplinks: Mutex::default() });
        let runs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("steering".to_owned()).spawn(move || runs.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// The addresses of a guest, before its port is in the table; none: there are no rules for it any more, once the table has changed.
    pub(super) fn set_addresses(&self, port: PortId, macs: Vec<[u8; 6]>) {
        let mut addresses = locked(&self.shared.addresses);
        addresses.remove(&port);
        if !macs.is_empty() {
            addresses.insert(port, macs);
        }
    }

    /// Steers on this uplink, once the table has it.
    pub(super) fn add(&self, steered: Arc<Steered>) {
        locked(&self.shared.uplinks).push(steered);
        self.shared.fabric.news.tell();
    }

    /// Removes all rules of an uplink, which is going to be closed.
    pub(super) fn remove(&self, port: PortId) {
        let mut uplinks = locked(&self.shared.uplinks);
        for steered in uplinks.extract_if(.., |steered| steered.host.port == port) {
            let mut state = locked(&steered.state);
            *state = State::default();
            steered.show(&state);
        }
    }

    /// Ends the thread.
    pub(super) fn stop(&mut self) {
        self.shared.fabric.news.end();
        if let Some(thread) = self.thread.take() {
            drop(vm_ports::join(thread));
        }
    }
}

impl Drop for Steering {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Steered {
    /// An uplink without rules.
    pub(super) fn new(name: &str, host: &Arc<UplinkHost>, device: &Arc<Port>) -> Self {
        Self {
            name: name.to_owned(),
            host: Arc::clone(host),
            state: Mutex::new(State { device: Some(Arc::clone(device)), ..State::default() }),
            shown: Mutex::default(),
            refusals: AtomicU64::new(0),
        }
    }

    /// Rules there are: address and RX queue.
    pub(super) fn rules(&self) -> impl Iterator<Item = ([u8; 6], u16)> + use<> {
        locked(&self.shown).clone().into_iter()
    }

    /// The uplink's port.
    pub(super) fn port(&self) -> PortId {
        self.host.port
    }

    /// The address of each rule, and the core that serves the queue it names.
    pub(super) fn ways(&self) -> impl Iterator<Item = ([u8; 6], usize)> {
        self.rules().filter_map(|(mac, queue)| Some((mac, self.host.queues.get(usize::from(queue))?.io_core())))
    }

    /// The uplink's queues.
    pub(super) fn intakes(&self) -> impl Iterator<Item = Intake> {
        self.host.queues.iter().map(|queue| Intake::of(queue.source, queue.io_core(), &queue.counters))
    }

    fn show(&self, state: &State) {
        *locked(&self.shown) = state.rules.values().map(|rule| (rule.mac(), rule.queue())).collect();
    }

    /// Rules that the driver did not take.
    pub(super) fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn run(&self) {
        let mut seen = 0;
        while let Some(news) = self.fabric.news.wait(seen) {
            seen = news;
            let uplinks = locked(&self.uplinks).clone();
            uplinks.iter().for_each(|steered| self.follow(steered));
            std::thread::sleep(REST);
        }
    }

    /// Makes the rules of an uplink what they should be by the table of now.
    fn follow(&self, steered: &Steered) {
        let table = self.fabric.table();
        let want = wanted(&table, steered.host.port, &locked(&self.addresses));
        let have: Rules = {
            let mut state = locked(&steered.state);
            if state.device.is_none() {
                return;
            }
            state.refused.retain(|mac, queue| want.get(mac) == Some(queue));
            state.rules.values().map(|rule| (rule.mac(), rule.queue())).chain(state.refused.clone()).collect()
        };
        changes(&have, &want).into_iter().for_each(|change| self.carry_out(steered, change));
    }

    fn carry_out(&self, steered: &Steered, Change { mac, to, .. }: Change) {
        let Some(to) = to else {
            let mut state = locked(&steered.state);
            state.rules.remove(&mac);
            return steered.show(&state);
        };
        // Not while the queue is held: most drivers say no.
        if !steered.ask(mac, to, |device, _| device.can_steer(mac, to)) {
            return;
        }
        let hold = Hold::begin(&self.fabric, &steered.host, to);
        let steers = steered.ask(mac, to, |device, rules| {
            rules.remove(&mac);
            device.steer(mac, to).map(|rule| _ = rules.insert(mac, rule))
        });
        if steers {
            hold.wait_for_the_others();
        }
    }
}

impl Steered {
    /// Asks the driver, if there is one to ask. Whether it does what it is asked.
    fn ask(
        &self,
        mac: [u8; 6],
        to: u16,
        question: impl FnOnce(&Port, &mut BTreeMap<[u8; 6], FlowRule>) -> Result<(), pmd_bindings::Error>,
    ) -> bool {
        let mut state = locked(&self.state);
        let State { device: Some(device), rules, .. } = &mut *state else { return false };
        let answer = question(device, rules);
        if let Err(error) = &answer {
            self.refuse(&mut state, mac, to, error);
        }
        self.show(&state);
        answer.is_ok()
    }

    fn refuse(&self, state: &mut State, mac: [u8; 6], queue: u16, error: &pmd_bindings::Error) {
        state.rules.remove(&mac);
        state.refused.insert(mac, queue);
        // Where there are rules, it can: it does not support this one, and the others have to go some day.
        if error.is_unsupported() && state.rules.is_empty() {
            state.device = None;
        }
        if self.refusals.fetch_add(1, Ordering::Relaxed) == 0 {
            let (uplink, mac) = (self.name.as_str(), MacAddr(mac));
            tracing::info!(uplink, %mac, "packets for guests are spread by RSS and handed over by cores: {error}");
        }
    }
}

/// An RX queue that is not polled, until this is dropped or time is up.
struct Hold<'a> {
    fabric: &'a Fabric,
    host: &'a UplinkHost,
    queue: u16,
    until: Instant,
}

impl<'a> Hold<'a> {
    fn begin(fabric: &'a Fabric, host: &'a UplinkHost, queue: u16) -> Self {
        let hold = Self { fabric, host, queue, until: Instant::now() + Duration::from_micros(HOLD_US) };
        let (reply, held) = reply();
        let until = tsc() + tsc_hz() / 1_000_000 * HOLD_US;
        hold.tell(queue, Message::HoldUplink { port: host.port, queue, until: Some(until), reply: Some(reply) });
        // A core that has no time to answer has none to poll either.
        let _ = held.wait_for(hold.left());
        hold
    }

    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    fn tell(&self, queue: u16, message: Message) {
        if let Some(queue) = self.host.queues.get(usize::from(queue)) {
            self.fabric.tell(queue.io_core(), message);
        }
    }

    /// Waits until each other queue was seen empty, and what it had held is delivered.
    fn wait_for_the_others(self) {
        let port = self.host.port;
        let others = (0..self.host.queues.len() as u16).filter(|queue| *queue != self.queue);
        let asked: Vec<_> = others
            .map(|queue| {
                let (reply, answer) = reply();
                let token = Token::for_cores(config::MAX_IO_CORES);
                self.tell(queue, Message::EmptyUplink { port, queue, token, reply });
                answer
            })
            .collect();
        for answer in asked {
            // No answer: its core has no time.
            if let Some(token) = answer.wait_for(self.left()) {
                while !token.is_passed(&self.fabric.progress) && !self.left().is_zero() {
                    std::thread::sleep(LOOK);
                }
            }
        }
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let (port, queue) = (self.host.port, self.queue);
        self.tell(queue, Message::HoldUplink { port, queue, until: None, reply: None });
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
