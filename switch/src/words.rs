//! Kinds and states as people and metrics read them.

use crate::snapshot::{PortKind, PortState};

pub(crate) fn kind(kind: PortKind) -> &'static str {
    match kind {
        PortKind::Guest => "guest",
        PortKind::Uplink => "uplink",
    }
}

pub(crate) fn state(state: PortState) -> &'static str {
    match state {
        PortState::Waiting => "waiting",
        PortState::Connected => "connected",
        PortState::Running => "running",
        PortState::Stopped => "stopped",
        PortState::Up => "up",
        PortState::Down => "down",
    }
}
