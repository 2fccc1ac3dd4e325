//! The rows of the comparison: what the generator does, what is measured, and the goal it is held against.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::systems::Kind;

/// What the packets do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Guest to guest, one direction.
    GuestToGuest,
    /// The same with 64 KiB TCP segments.
    Tso,
    /// NIC to guest.
    NicToGuest,
    /// Guest to NIC.
    GuestToNic,
    /// NIC to guest and back.
    NicEcho,
    /// Round trips, nothing else on the switch.
    RttIdle,
    /// Round trips through rings that a stream of half the slowest system's rate goes through.
    RttHalfLoad,
}

impl Work {
    /// Its name in results, without what is measured.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::GuestToGuest => "v2v",
            Self::Tso => "v2v-tso",
            Self::NicToGuest => "p2v",
            Self::GuestToNic => "v2p",
            Self::NicEcho => "pvp",
            Self::RttIdle => "rtt-idle",
            Self::RttHalfLoad => "rtt-half",
        }
    }

    /// Whether time is measured, not throughput: less is better, and no quota applies.
    #[must_use]
    pub fn is_round_trip(self) -> bool {
        matches!(self, Self::RttIdle | Self::RttHalfLoad)
    }

    /// What is greater for the faster of two systems, of their figures.
    #[must_use]
    pub fn speed(self, figure: f64) -> f64 {
        if self.is_round_trip() { 1.0 / figure } else { figure }
    }

    /// Whether there is a NIC.
    #[must_use]
    pub fn has_nic(self) -> bool {
        matches!(self, Self::NicToGuest | Self::GuestToNic | Self::NicEcho)
    }

    /// Whether packets leave through the NIC.
    #[must_use]
    pub fn ends_at_nic(self) -> bool {
        matches!(self, Self::GuestToNic | Self::NicEcho)
    }
}

/// The format of the rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ring {
    /// Split virtqueues.
    Split,
    /// Packed virtqueues.
    Packed,
}

impl fmt::Display for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Split => "split",
            Self::Packed => "packed",
        })
    }
}

/// What a round gives a figure of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Packets a second, in millions.
    Mpps,
    /// Frame bits a second, in units of 10^9.
    GigabitsPerSecond,
    /// Median round trip.
    RttP50,
    /// The round trip that one in a hundred exceeds.
    RttP99,
}

impl Metric {
    /// The unit of its figures.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Self::Mpps => "Mpps",
            Self::GigabitsPerSecond => "Gbit/s",
            Self::RttP50 | Self::RttP99 => "us",
        }
    }

    /// What is added to the name of the work in results.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Mpps | Self::GigabitsPerSecond => "",
            Self::RttP50 => "-p50",
            Self::RttP99 => "-p99",
        }
    }
}

/// What Sidecore's ratio to a peer is held against.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// The lower end of the interval reaches this.
    AtLeast(f64),
    /// The upper end of the interval does not exceed this.
    AtMost(f64),
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(bound) => write!(f, "≥ {bound:.2}"),
            Self::AtMost(bound) => write!(f, "≤ {bound:.2}"),
        }
    }
}

impl Goal {
    /// Whether a ratio with this interval reaches the goal.
    #[must_use]
    pub fn is_reached(self, ratio: &crate::stats::Ratio) -> bool {
        match self {
            Self::AtLeast(bound) => ratio.low >= bound,
            Self::AtMost(bound) => ratio.high <= bound,
        }
    }
}

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// What the packets do.
    pub work: Work,
    /// Size of a frame on the wire, with its FCS; of a TCP segment before it is cut for [`Work::Tso`].
    pub size: u32,
    /// Ring format.
    pub ring: Ring,
    /// Ring size.
    pub ring_size: u32,
    /// Number of guests.
    pub guests: u32,
    goals: Option<(f64, f64)>,
}

/// Bytes of the segments that `ringgen --size tso` sends.
pub const TSO_BYTES: u32 = 65_000;

impl Row {
    const fn new(work: Work, size: u32, ring: Ring, ring_size: u32, guests: u32) -> Self {
        Self { work, size, ring, ring_size, guests, goals: None }
    }

    const fn goals(mut self, ovs: f64, testpmd: f64) -> Self {
        self.goals = Some((ovs, testpmd));
        self
    }

    /// Other work through the same rings, without goals.
    #[must_use]
    pub fn with_work(&self, work: Work) -> Self {
        Self { work, goals: None, ..self.clone() }
    }

    /// The name to choose it by, such as `v2v-64-split` or `v2v-1518-split-1024`.
    #[must_use]
    pub fn key(&self) -> String {
        let mut key = match self.work {
            Work::Tso | Work::RttIdle | Work::RttHalfLoad => self.work.name().to_owned(),
            work => format!("{}-{}", work.name(), self.size),
        };
        if self.work == Work::GuestToGuest || self.ring == Ring::Packed {
            key += &format!("-{}", self.ring);
        }
        if self.ring_size != 256 {
            key += &format!("-{}", self.ring_size);
        }
        if self.guests > 2 {
            key += &format!("-{}guests", self.guests);
        }
        key
    }

    /// What is measured.
    #[must_use]
    pub fn metrics(&self) -> &'static [Metric] {
        match self.work {
            Work::GuestToGuest | Work::NicToGuest | Work::GuestToNic | Work::NicEcho => &[Metric::Mpps],
            Work::Tso => &[Metric::GigabitsPerSecond],
            Work::RttIdle | Work::RttHalfLoad => &[Metric::RttP50, Metric::RttP99],
        }
    }

    /// The goal against a peer, where there is one: for OVS with one direct flow and for testpmd's io mode.
    #[must_use]
    pub fn goal(&self, peer: Kind) -> Option<Goal> {
        let (ovs, testpmd) = self.goals?;
        let bound = match peer {
            Kind::OvsDirect => ovs,
            Kind::TestpmdIo => testpmd,
            Kind::Sidecore | Kind::OvsNormal | Kind::TestpmdMac => return None,
        };
        Some(if self.work.is_round_trip() { Goal::AtMost(bound) } else { Goal::AtLeast(bound) })
    }
}

/// The rows of the default run: those that have goals.
#[must_use]
pub fn default_rows() -> Vec<Row> {
    use Ring::{Packed, Split};
    use Work::{GuestToGuest, GuestToNic, NicToGuest, RttHalfLoad, RttIdle, Tso};
    vec![
        Row::new(GuestToGuest, 64, Split, 256, 2).goals(2.0, 1.3),
        Row::new(GuestToGuest, 64, Packed, 256, 2).goals(2.0, 1.3),
        Row::new(GuestToGuest, 1518, Split, 256, 2).goals(2.0, 1.5),
        Row::new(GuestToGuest, 1518, Packed, 256, 2).goals(2.0, 1.5),
        Row::new(GuestToGuest, 1518, Split, 1024, 2).goals(3.0, 2.5),
        Row::new(Tso, TSO_BYTES, Split, 256, 2).goals(2.0, 1.5),
        Row::new(NicToGuest, 64, Split, 256, 1).goals(1.3, 1.0),
        Row::new(GuestToNic, 64, Split, 256, 1).goals(1.3, 1.0),
        Row::new(RttIdle, 64, Split, 256, 2).goals(1.05, 1.05),
        Row::new(RttHalfLoad, 64, Split, 256, 2).goals(1.05, 1.05),
    ]
}

/// Sizes of frames in the full run.
const SIZES: [u32; 7] = [64, 128, 256, 512, 1024, 1280, 1518];

/// The rows of the full run: the default ones, and every size for one and four pairs of guests, and for one and four guests each of which has a NIC.
#[must_use]
pub fn full_rows() -> Vec<Row> {
    use Work::{GuestToGuest, GuestToNic, NicEcho, NicToGuest};
    let mut rows = default_rows();
    for count in [1, 4] {
        for (work, guests) in [(GuestToGuest, 2 * count), (NicToGuest, count), (GuestToNic, count), (NicEcho, count)] {
            for ring in [Ring::Split, Ring::Packed] {
                let sizes = SIZES.iter().map(|size| Row::new(work, *size, ring, 256, guests));
                let new: Vec<Row> = sizes.filter(|row| rows.iter().all(|known| known.key() != row.key())).collect();
                rows.extend(new);
            }
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::stats::Ratio;

    #[test]
    fn keys_are_unique_and_readable() {
        let keys: Vec<String> = full_rows().iter().map(Row::key).collect();
        let unique: BTreeSet<&String> = keys.iter().collect();
        assert_eq!(unique.len(), keys.len(), "{keys:?}");
        for key in ["v2v-64-split", "v2v-1518-split-1024", "v2v-tso", "p2v-64", "v2p-64", "rtt-half"] {
            assert!(keys.iter().any(|known| known == key), "{key} is missing in {keys:?}");
        }
        for key in ["v2v-1518-packed-8guests", "p2v-1280-packed-4guests", "v2p-64-4guests", "pvp-64-packed"] {
            assert!(keys.iter().any(|known| known == key), "{key} is missing in {keys:?}");
        }
    }

    #[test]
    fn every_default_row_has_goals_against_both_yardsticks_and_no_other() {
        for row in default_rows() {
            for peer in [Kind::OvsDirect, Kind::TestpmdIo] {
                let goal = row.goal(peer).unwrap();
                assert_eq!(matches!(goal, Goal::AtMost(_)), row.work.is_round_trip(), "{}", row.key());
            }
            assert_eq!(row.goal(Kind::OvsNormal), None);
        }
    }

    #[test]
    fn the_end_of_the_interval_that_hurts_decides() {
        let ratio = Ratio { value: 2.1, low: 1.9, high: 2.3 };
        assert!(!Goal::AtLeast(2.0).is_reached(&ratio));
        assert!(Goal::AtLeast(1.9).is_reached(&ratio));
        assert!(!Goal::AtMost(2.2).is_reached(&ratio));
        assert!(Goal::AtMost(2.3).is_reached(&ratio));
    }
}
