//! The I/O cores as the rest of the process sees them: started, told things, asked things, stopped.

mod captures;
mod limits;
mod news;
mod own;
mod thread;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use config::Mode;
use pmd_bindings::{Eal, tsc, tsc_hz};
use rustix::thread::CpuSet;
use vm_ports::QueuePair;

use self::limits::fdb_settings;
pub(super) use self::limits::limits;
use self::news::News;
use self::own::Known;
use self::thread::{keep_off_io_cores, start_core};
use super::accounting::{CoreCounters, SourceId, Sources};
use super::cpu_wait::CpuWait;
use super::error::DataplaneError;
use super::handover::{Move, Progress, Token};
use super::histogram::Pauses;
use super::io_core::CoreSetup;
use super::mailbox::{Handed, Mailbox, Message, UplinkShare, mailbox};
use super::ports::PortTable;
use super::reply::{Answer, Reply, reply};
use super::rescue::{CoreThread, Rescue};
use super::sleep::{Bed, Bells};
use super::turns::Share;
use super::xcore::{Links, connect};
use crate::forwarding::{Entry, Fdb, PortId};

/// FDB buckets asked of a core at a time, so that a long table does not hold it up.
const STATION_BUCKETS: usize = 64;

/// All I/O cores.
pub(super) struct Fabric {
    eal: Arc<Eal>,
    config: config::SwitchConfig,
    /// Those of the configuration first, then those of guests of their own.
    cores: Box<[OnceLock<Core>]>,
    io_cores: usize,
    /// Cycle counter at the switch's start.
    epoch: u64,
    /// What a core that comes late has to be told.
    known: Mutex<Known>,
    /// Cores of guests that have gone.
    spare: Mutex<Vec<usize>>,
    /// The port table, as it will be published next.
    table: Mutex<PortTable>,
    /// Told of each table that was published, and of what else rules in NICs depend on.
    pub(super) news: News,
    /// How often a queue pair came, went or moved.
    placements: AtomicU64,
    /// How far the rings between the cores have been emptied.
    pub(super) progress: Arc<Progress>,
    /// Held while a queue pair moves: one at a time.
    moves: Mutex<()>,
    pub(super) pauses: Pauses,
    /// How often the end of a queue pair's move was waited for by its guest's session.
    pub(super) move_waits: AtomicU64,
    sources: Mutex<Sources>,
    bells: Arc<Bells>,
    /// Frees cores that a frontend has made to wait, for as long as there are cores.
    rescue: Rescue,
}

/// While it is held, nothing moves but what its holder moves, and where queue pairs are said to be, they are.
pub(super) struct Moves<'f> {
    _held: MutexGuard<'f, ()>,
}

/// A core, as others see it.
pub(super) struct CoreView<'a> {
    /// The CPU it is pinned to, if it is.
    pub(super) cpu: Option<usize>,
    pub(super) mode: Mode,
    pub(super) counters: &'a CoreCounters,
    pub(super) cpu_wait: &'a CpuWait,
}

struct Core {
    index: usize,
    cpu: Option<usize>,
    mode: Mode,
    mailbox: Mailbox,
    counters: Arc<CoreCounters>,
    cpu_wait: CpuWait,
    thread: CoreThread,
    bells: Arc<Bells>,
}

impl Fabric {
    /// Starts a pinned thread for each CPU. All others run elsewhere from now on, but for guests' own in mode `trap`: a session, say, that is
    /// woken by the same kick as its core would be in that core's way.
    pub(super) fn start(eal: &Arc<Eal>, config: &config::SwitchConfig) -> Result<Self, DataplaneError> {
        keep_off_io_cores(config);
        let cpus: Vec<usize> = config.io_cores.cpus.iter().map(|cpu| cpu.0 as usize).collect();
        let bells = Arc::new(Bells::new(cpus.len(), tsc_hz()).map_err(DataplaneError::Sleep)?);
        let (links, progress) = connect(cpus.len());
        let fabric = Self {
            eal: Arc::clone(eal),
            config: config.clone(),
            cores: (0..config::MAX_IO_CORES).map(|_| OnceLock::new()).collect(),
            io_cores: cpus.len(),
            progress,
            epoch: tsc(),
            known: Mutex::new(Known::new(limits(config))),
            spare: Mutex::default(),
            table: Mutex::new(PortTable::default()),
            news: News::default(),
            placements: AtomicU64::new(0),
            moves: Mutex::new(()),
            pauses: Pauses::default(),
            move_waits: AtomicU64::new(0),
            sources: Mutex::default(),
            rescue: Rescue::start(Arc::clone(&bells)).map_err(DataplaneError::Rescue)?,
            bells,
        };
        for ((index, links), cpu) in links.into_iter().enumerate().zip(cpus) {
            fabric.add_core(index, Some(cpu), config.mode, links)?;
        }
        Ok(fabric)
    }

    /// Starts a core. Its bell is there.
    fn add_core(&self, index: usize, cpu: Option<usize>, mode: Mode, links: Links) -> Result<(), DataplaneError> {
        let alarm = self.bells.alarm(index).ok_or(DataplaneError::Sleep(std::io::ErrorKind::NotFound.into()))?;
        let (sender, receiver) = mailbox();
        let counters = Arc::new(CoreCounters::new());
        let sharers = self.config.io_cores.cpus.iter().filter(|other| Some(other.0 as usize) == cpu);
        let setup = CoreSetup {
            index,
            mode,
            bells: Arc::clone(&self.bells),
            bed: Some(Bed::new(alarm).map_err(DataplaneError::Sleep)?),
            mailbox: receiver,
            links,
            counters: Arc::clone(&counters),
            fdb: Fdb::new(&fdb_settings(&self.config)),
            flood: limits(&self.config).flood,
            epoch: self.epoch,
            cycles_per_s: tsc_hz(),
            shares_cpu: sharers.count() > 1,
        };
        let (thread, cpu_wait) = start_core(Arc::clone(&self.eal), setup, cpu, self.cpus_of_own())?;
        let thread = Arc::new(Mutex::new(Some(thread)));
        self.rescue.add(index, Arc::clone(&counters), Arc::clone(&thread));
        let core =
            Core { index, cpu, mode, mailbox: sender, counters, cpu_wait, thread, bells: Arc::clone(&self.bells) };
        // Nobody has taken the place: whoever adds cores does it one after the other.
        let _ = self.cores[index].set(core);
        Ok(())
    }

    /// The CPUs for guests' own threads: in mode `trap` those of the I/O cores, which have nothing to do there but for uplinks. Beside cores
    /// that poll nothing is said: they run where whoever starts them does.
    fn cpus_of_own(&self) -> Option<CpuSet> {
        (self.config.mode == Mode::Trap).then(|| {
            let mut cpus = CpuSet::new();
            self.config.io_cores.cpus.iter().for_each(|cpu| cpus.set(cpu.0 as usize));
            cpus
        })
    }

    /// How the switch waits for packets.
    pub(super) fn mode(&self) -> Mode {
        self.config.mode
    }

    /// Kicks of a source's driver were read that came at this time, in cycles, or later: wakes the core that serves it. Whether it had been
    /// asked to.
    pub(super) fn kicked(&self, source: SourceId, at: u64) -> bool {
        self.bells.kicked(source, at)
    }

    /// How many cores the configuration names: those that serve uplinks, and between which queue pairs move.
    pub(super) fn io_cores(&self) -> usize {
        self.io_cores
    }

    fn all(&self) -> impl Iterator<Item = &Core> {
        self.cores.iter().map_while(OnceLock::get)
    }

    fn core(&self, core: usize) -> Option<&Core> {
        self.cores.get(core).and_then(OnceLock::get)
    }

    /// Every core, in order.
    pub(super) fn cores(&self) -> impl Iterator<Item = CoreView<'_>> {
        self.all().map(|core| CoreView {
            cpu: core.cpu,
            mode: core.mode,
            counters: &core.counters,
            cpu_wait: &core.cpu_wait,
        })
    }

    /// Tells one core.
    pub(super) fn tell(&self, core: usize, message: Message) {
        if let Some(core) = self.core(core) {
            core.send(message);
        }
    }

    /// Tells every core the same.
    pub(super) fn tell_all(&self, message: impl Fn() -> Message) {
        self.all().for_each(|core| core.send(message()));
    }

    /// Asks one core and waits for its answer.
    pub(super) fn ask<T: Send + 'static>(&self, core: usize, question: impl FnOnce(Reply<T>) -> Message) -> Option<T> {
        self.core(core)?.ask(question).wait()
    }

    /// Changes the port table. When this returns every core forwards by the new one.
    pub(super) fn change_table(&self, change: impl FnOnce(&mut PortTable)) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.next_version();
        change(&mut table);
        self.publish(&table, None);
    }

    /// Makes every core forward by this table, and frees the old ones here, not on an I/O core.
    fn publish(&self, table: &PortTable, moving: Option<Move>) {
        let table = Arc::new(table.clone());
        let tell = |core: &Core| core.ask(|reply| Message::Table { table: Arc::clone(&table), moving, reply });
        let answers: Vec<Answer<Arc<PortTable>>> = self.all().map(tell).collect();
        answers.into_iter().for_each(|answer| drop(answer.wait()));
        self.news.tell();
    }

    /// The port table as it was published last.
    pub(super) fn table(&self) -> PortTable {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts that a queue pair is somewhere else, once that has been written.
    pub(super) fn note_placement(&self) {
        // Release: who reads this number in `placements` reads the new place as well.
        self.placements.fetch_add(1, Ordering::Release);
    }

    /// Another number once a queue pair is somewhere else. Who reads places reads it before.
    pub(super) fn placements(&self) -> u64 {
        self.placements.load(Ordering::Acquire)
    }

    /// Waits for the end of a move, and has no other begin. I/O cores never do.
    pub(super) fn moves(&self) -> Moves<'_> {
        Moves { _held: self.moves.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Moves a queue pair to another core while traffic goes on. `change` makes the port table say so. Returns how many cycles it was not
    /// served; `None` where it was not on core `from`, or where the switch ends. The caller sees to it that nobody takes the pair back, or
    /// attaches it, meanwhile, and notes where it is before it lets go of `moves`.
    pub(super) fn move_pair(
        &self,
        _moves: &Moves<'_>,
        (port, queue): (PortId, usize),
        (source, share): (SourceId, Share),
        (from, to): (usize, usize),
        change: impl FnOnce(&mut PortTable),
    ) -> Option<u64> {
        let (giver, taker) = (self.core(from)?, self.core(to)?);
        let (reply, arrival) = reply();
        {
            let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
            let since = table.next_version();
            let moving = Move { port, queue: queue as u16, from: from as u16, to: to as u16, since };
            let token = Token::for_cores(config::MAX_IO_CORES);
            let handed =
                Handed { moving, source, share, pair: None, token, left: 0, arrived: None, reply: Some(reply) };
            // Both know before anybody sends by the new table.
            taker.ask(|reply| Message::Expect { moving, reply }).wait()?;
            giver.ask(|reply| Message::Give { handed: Box::new(handed), reply }).wait()?;
            change(&mut table);
            self.publish(&table, Some(moving));
        }
        let handed = arrival.wait()?;
        let pause = handed.arrived?.saturating_sub(handed.left);
        self.pauses.add(pause);
        Some(pause)
    }

    /// Has a core sleep between its rounds. False, and nothing done, where it serves something.
    pub(super) fn park(&self, core: usize) -> bool {
        let Some(core) = self.core(core) else { return false };
        core.counters.parked.set(1);
        // The core notes what it was given, fences, and is parked no longer: either that is seen here, or it comes after this.
        vm_ports::fence();
        let serves = core.counters.queue_pairs.get() > 0 || core.counters.uplinks.get() > 0;
        if serves {
            core.counters.parked.set(0);
        }
        !serves
    }

    /// Whether all I/O cores are asleep at this moment.
    pub(super) fn sleeps(&self) -> bool {
        (0..self.io_cores).all(|core| self.bells.sleeps(core))
    }

    /// Whether a core sleeps between its rounds.
    pub(super) fn is_parked(&self, core: usize) -> bool {
        self.core(core).is_some_and(|core| core.counters.parked.get() != 0)
    }

    /// Has it poll without sleeping again.
    pub(super) fn wake(&self, core: usize) -> bool {
        self.core(core).inspect(|core| core.wake()).is_some()
    }

    /// Takes a queue pair back from its core, at a burst boundary.
    pub(super) fn take_back(&self, core: usize, port: PortId, queue: usize) -> Option<QueuePair> {
        self.ask(core, |reply| Message::TakeBack { port, queue, reply }).flatten().map(|pair| *pair)
    }

    /// Takes an uplink's queues back from every core.
    pub(super) fn take_uplink(&self, port: PortId) -> Vec<UplinkShare> {
        (0..self.io_cores)
            .filter_map(|core| self.ask(core, |reply| Message::TakeUplink { port, reply }))
            .flatten()
            .collect()
    }

    /// The stations that core 0 knows.
    pub(super) fn stations(&self) -> Vec<Entry> {
        let mut stations = Vec::new();
        let mut from = 0;
        while let Some(Some(entries)) = self.ask(0, |reply| Message::Stations { from, count: STATION_BUCKETS, reply }) {
            stations.extend(entries);
            from += STATION_BUCKETS;
        }
        stations
    }

    /// A source that nobody has.
    pub(super) fn take_source(&self) -> Option<SourceId> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Gives a source back.
    pub(super) fn release_source(&self, source: SourceId) {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).give_back(source);
    }

    /// Ends every core and frees what it owned.
    pub(super) fn stop(&self) {
        self.tell_all(|| Message::Stop);
        for core in self.all() {
            let thread = core.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(thread) = thread {
                // A core that panicked has ended the process already (panic = abort in release builds).
                drop(vm_ports::join(thread));
            }
            core.mailbox.close();
        }
    }
}

impl Core {
    /// Tells it. One that sleeps is woken to read it.
    fn send(&self, message: Message) {
        // Whoever is given something to serve polls.
        if matches!(message, Message::Attach { .. } | Message::AttachUplink(_) | Message::Expect { .. }) {
            self.counters.parked.set(0);
        }
        self.mailbox.send(message);
        self.bells.ring(self.index);
    }

    fn wake(&self) {
        self.counters.parked.set(0);
        self.bells.ring(self.index);
    }

    /// Asks; the answer comes when the core gets to it. There is none where it has ended.
    fn ask<T: Send + 'static>(&self, question: impl FnOnce(Reply<T>) -> Message) -> Answer<T> {
        let (reply, answer) = reply();
        self.send(question(reply));
        answer
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        self.stop();
    }
}
