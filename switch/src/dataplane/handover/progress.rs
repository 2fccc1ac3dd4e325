//! How far the rings between the cores have been emptied.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crossbeam_utils::CachePadded;

/// A word that one core writes and others read: the standard library's, or loom's in the model.
pub(in crate::dataplane) trait Cell {
    /// With this value.
    fn new(value: u64) -> Self;
    /// Reads it; sees all that its writer did before.
    fn load(&self) -> u64;
    /// Writes it, for whoever reads it to see all that was done before.
    fn store(&self, value: u64);
}

impl Cell for AtomicU64 {
    fn new(value: u64) -> Self {
        Self::new(value)
    }

    #[inline]
    fn load(&self) -> u64 {
        self.load(Ordering::Acquire)
    }

    #[inline]
    fn store(&self, value: u64) {
        self.store(value, Ordering::Release);
    }
}

/// What is known of the ring from one core to another. Places in it are counted in chunks since the beginning.
struct Course<C> {
    /// Up to where everything has been delivered. Written by the receiving core.
    delivered: CachePadded<C>,
    /// Where the ring stood when the sending core last took over the table of a move, …
    marked_at: CachePadded<C>,
    /// … and one more than the number of that move. Written by the sending core.
    mark: C,
}

/// The courses between all cores.
pub(in crate::dataplane) struct Progress<C = AtomicU64> {
    cores: AtomicUsize,
    /// Cores there can be.
    most: usize,
    courses: Box<[Course<C>]>,
}

impl<C: Cell> Progress<C> {
    /// Of rings between so many cores, all of them empty, with room for as many as there may be.
    pub(in crate::dataplane) fn new(cores: usize, most: usize) -> Self {
        let course = |_| Course {
            delivered: CachePadded::new(C::new(0)),
            marked_at: CachePadded::new(C::new(0)),
            mark: C::new(0),
        };
        Self { cores: AtomicUsize::new(cores), most, courses: (0..most * most).map(course).collect() }
    }

    /// There are so many cores now. No move is under way.
    pub(in crate::dataplane) fn set_cores(&self, cores: usize) {
        self.cores.store(cores, Ordering::Release);
    }

    /// How many cores there are.
    pub(in crate::dataplane) fn cores(&self) -> usize {
        self.cores.load(Ordering::Acquire)
    }

    fn course(&self, from: usize, to: usize) -> &Course<C> {
        &self.courses[from * self.most + to]
    }

    /// Core `to` has delivered everything from core `from` up to this place.
    #[inline]
    pub(in crate::dataplane) fn delivered(&self, from: usize, to: usize, place: u64) {
        self.course(from, to).delivered.store(place);
    }

    /// From this place on, core `from` sends to core `to` by the table of a move.
    pub(in crate::dataplane) fn mark(&self, from: usize, to: usize, number: u32, place: u64) {
        let course = self.course(from, to);
        course.marked_at.store(place);
        course.mark.store(u64::from(number) + 1);
    }

    /// Whether everything that core `from` sent to core `to` by an older table has been delivered.
    pub(in crate::dataplane) fn passed_mark(&self, from: usize, to: usize, number: u32) -> bool {
        let course = self.course(from, to);
        course.mark.load() == u64::from(number) + 1 && course.delivered.load() >= course.marked_at.load()
    }
}

/// The ordering token: where a core's rings to all others stood when it gave a queue pair up.
#[derive(Debug, Default)]
pub(in crate::dataplane) struct Token {
    from: usize,
    /// By receiving core.
    sent: Vec<u64>,
}

impl Token {
    /// Room for the places of so many cores.
    pub(in crate::dataplane) fn for_cores(cores: usize) -> Self {
        Self { from: 0, sent: Vec::with_capacity(cores) }
    }

    /// Notes the places of core `from`.
    pub(in crate::dataplane) fn note(&mut self, from: usize, sent: impl Iterator<Item = u64>) {
        self.from = from;
        self.sent.clear();
        self.sent.extend(sent);
    }

    /// Whether everything before it has been delivered.
    pub(in crate::dataplane) fn is_passed<C: Cell>(&self, progress: &Progress<C>) -> bool {
        let others = self.sent.iter().enumerate().filter(|(core, _)| *core != self.from);
        others.into_iter().all(|(core, sent)| progress.course(self.from, core).delivered.load() >= *sent)
    }
}
