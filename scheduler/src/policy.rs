//! The policies, by name.

use std::fmt;
use std::str::FromStr;

use crate::ovs::Assignment;

/// Who decides where queue pairs go and when they move.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Policy {
    /// A new queue pair goes to the core with the fewest and stays there.
    Static,
    /// New queue pairs go to the cores in turn and stay there.
    RoundRobin,
    /// A new queue pair goes to the core with the least to do; from a saturated core, the queue pair with which the emptiest core becomes
    /// least full, but less full than the saturated one is, moves to that core. Looks at cycles alone: not at who talks to whom, nor NUMA nodes.
    LeastLoaded,
    /// A new queue pair goes to the core with the least to do; [`crate::balance`] decides what moves, at once when a core saturates and, at
    /// leisure, when loads that hold still are uneven.
    #[default]
    Balance,
    /// OVS with `pmd-rxq-assign=cycles`: everything is assigned anew when a queue pair comes or goes, and only then.
    OvsCycles,
    /// The same with `pmd-rxq-assign=group`.
    OvsGroup,
    /// OVS with `pmd-auto-lb` and its default `pmd-rxq-assign=cycles`.
    OvsAutoLb,
    /// OVS with `pmd-auto-lb` and `pmd-rxq-assign=group`.
    OvsAutoLbGroup,
}

impl Policy {
    /// All there are.
    pub const ALL: [Self; 8] = [
        Self::Static,
        Self::RoundRobin,
        Self::LeastLoaded,
        Self::Balance,
        Self::OvsCycles,
        Self::OvsGroup,
        Self::OvsAutoLb,
        Self::OvsAutoLbGroup,
    ];

    /// What it is called in configuration and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::RoundRobin => "round-robin",
            Self::LeastLoaded => "least-loaded",
            Self::Balance => "balance",
            Self::OvsCycles => "ovs-cycles",
            Self::OvsGroup => "ovs-group",
            Self::OvsAutoLb => "ovs-auto-lb",
            Self::OvsAutoLbGroup => "ovs-auto-lb-group",
        }
    }

    /// How OVS would assign, for its re-creations, and whether it would also balance by itself.
    pub(crate) fn as_ovs(self) -> Option<(Assignment, bool)> {
        match self {
            Self::OvsCycles => Some((Assignment::Cycles, false)),
            Self::OvsGroup => Some((Assignment::Group, false)),
            Self::OvsAutoLb => Some((Assignment::Cycles, true)),
            Self::OvsAutoLbGroup => Some((Assignment::Group, true)),
            Self::Static | Self::RoundRobin | Self::LeastLoaded | Self::Balance => None,
        }
    }

    /// Whether it moves queue pairs when cores saturate, and may park cores.
    pub(crate) fn reacts(self) -> bool {
        matches!(self, Self::LeastLoaded | Self::Balance)
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no policy's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no policy \"{name}\"; there are: {}", Policy::ALL.map(Policy::name).join(", "))]
pub struct UnknownPolicy {
    /// The name.
    pub name: String,
}

impl FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(name: &str) -> Result<Self, UnknownPolicy> {
        let known = Self::ALL.into_iter().find(|policy| policy.name() == name);
        known.ok_or_else(|| UnknownPolicy { name: name.to_owned() })
    }
}
