//! What is counted.

use crate::count::{self, Rounds};
use crate::limit::{Copy, Device, Look, Packed, Split};
use crate::rig::{PACKED, SPLIT, Workload};

/// Bytes of a frame in a ring: without the four of the checksum that sizes on the wire include.
const SHORT: usize = 60;
const LONG: usize = 1514;

/// One figure.
pub(crate) struct Case {
    /// Its name, in the budget file too.
    pub(crate) name: &'static str,
    /// What it is a figure of: a packet or a round.
    pub(crate) unit: &'static str,
    work: Work,
}

#[derive(Clone, Copy)]
enum Work {
    /// Guest to guest.
    V2v { packed: bool, len: usize, cores: usize },
    /// The same on one core with split rings, one packet at a time.
    Single(usize),
    /// NIC to guest.
    P2v(usize),
    /// Guest to NIC.
    V2p(usize),
    /// Guest to guest, so many idle queue pairs beside them on the same core.
    Beside(usize),
    /// Nothing to do for two guests.
    Empty,
}

const fn case(name: &'static str, work: Work) -> Case {
    Case { name, unit: "packet", work }
}

const fn v2v(packed: bool, len: usize, cores: usize) -> Work {
    Work::V2v { packed, len, cores }
}

/// Every case.
pub(crate) const CASES: [Case; 14] = [
    case("v2v_split_64", v2v(false, SHORT, 1)),
    case("v2v_split_1518", v2v(false, LONG, 1)),
    case("v2v_packed_64", v2v(true, SHORT, 1)),
    case("v2v_packed_1518", v2v(true, LONG, 1)),
    case("v2v_64_burst_1", Work::Single(SHORT)),
    case("p2v_64", Work::P2v(SHORT)),
    case("p2v_1518", Work::P2v(LONG)),
    case("v2p_64", Work::V2p(SHORT)),
    case("v2p_1518", Work::V2p(LONG)),
    case("v2v_across_cores_64", v2v(false, SHORT, 2)),
    case("v2v_across_cores_1518", v2v(false, LONG, 2)),
    case("v2v_64_beside_64_idle", Work::Beside(64)),
    case("v2v_64_beside_1000_idle", Work::Beside(1000)),
    Case { name: "empty_poll", unit: "round", work: Work::Empty },
];

impl Rounds for Workload {
    fn fill(&mut self) {
        Workload::fill(self);
    }

    fn send_one(&mut self) {
        self.send(1);
    }

    fn pass_time(&mut self, us: u64) {
        Workload::pass_time(self, us);
    }

    #[inline]
    fn round(&mut self) -> bool {
        Workload::round(self)
    }

    fn drain(&mut self) {
        Workload::drain(self);
    }

    fn receive_one(&mut self) {
        self.receive(1);
    }
}

impl Case {
    /// How many packets or rounds the counted instructions are for.
    pub(crate) fn counted(&self) -> u64 {
        match self.work {
            Work::Empty => count::EMPTY,
            Work::Single(_) => count::SINGLE_PACKETS,
            _ => count::BUSY_PACKETS,
        }
    }

    /// Runs the switch's rounds.
    pub(crate) fn run_switch(&self) {
        let mut workload = match self.work {
            Work::V2v { packed, len, cores } => Workload::v2v(if packed { PACKED } else { SPLIT }, len, cores),
            Work::P2v(len) => Workload::p2v(SPLIT, len),
            Work::V2p(len) => Workload::v2p(SPLIT, len),
            Work::Beside(idle) => Workload::v2v(SPLIT, SHORT, 1).beside_idle(idle),
            Work::Single(len) => Workload::v2v(SPLIT, len, 1),
            Work::Empty => Workload::v2v(SPLIT, SHORT, 1),
        };
        match self.work {
            Work::Empty => count::empty(&mut workload),
            Work::Single(_) => count::single(&mut workload),
            _ => count::busy(&mut workload),
        }
        workload.finish();
    }

    /// Runs the plain copy.
    pub(crate) fn run_limit(&self) {
        match self.work {
            // Across cores, too, the least there is to do is one copy.
            Work::V2v { packed: false, len, .. } => count::busy(&mut Copy::new(Split::new, Split::new, len)),
            Work::V2v { packed: true, len, .. } => count::busy(&mut Copy::new(Packed::new, Packed::new, len)),
            Work::Single(len) => count::single(&mut Copy::new(Split::new, Split::new, len)),
            Work::P2v(len) => count::busy(&mut Copy::new(Device::new, Split::new, len)),
            Work::V2p(len) => count::busy(&mut Copy::new(Split::new, Device::new, len)),
            Work::Beside(_) => count::busy(&mut Copy::new(Split::new, Split::new, SHORT)),
            Work::Empty => count::empty(&mut Look::new()),
        }
    }
}
