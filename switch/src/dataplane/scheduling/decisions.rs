//! Decisions in words that programs know: their kinds, and the reasons for them.

use scheduler::{Decision, Hopeless, What, Why};

/// Every kind of decision, with each reason there can be for it.
pub(crate) const DECISIONS: [(&str, &str); 15] = [
    ("move", "saturated"),
    ("move", "uneven"),
    ("move", "draining"),
    ("move", "assigned"),
    ("roll_back", "worse"),
    ("roll_back", "half_done"),
    ("park", "little_to_do"),
    ("wake", "saturated"),
    ("cannot_fix", "one_queue"),
    ("cannot_fix", "all_full"),
    ("cannot_fix", "pinned"),
    ("cannot_fix", "held"),
    ("cannot_fix", "stuck"),
    ("pause", "operator"),
    ("resume", "operator"),
];

/// What was decided.
pub(super) fn kind(decision: &Decision) -> &'static str {
    match decision.what {
        What::Move(_) => "move",
        What::RollBack(_) => "roll_back",
        What::Park(_) => "park",
        What::Wake(_) => "wake",
        What::CannotFix(_) => "cannot_fix",
        What::Pause => "pause",
        What::Resume => "resume",
    }
}

/// Why; of what cannot be fixed, why it cannot.
pub(super) fn reason(decision: &Decision) -> &'static str {
    match (decision.what, decision.why) {
        (What::CannotFix(Hopeless::Queue { .. }), _) => "one_queue",
        (What::CannotFix(Hopeless::Cores { .. }), _) => "all_full",
        (What::CannotFix(Hopeless::Pinned { .. }), _) => "pinned",
        (What::CannotFix(Hopeless::Held { .. }), _) => "held",
        (What::CannotFix(Hopeless::Stuck { .. }), _) => "stuck",
        (_, Why::Saturated(_)) => "saturated",
        (_, Why::Uneven(_)) => "uneven",
        (_, Why::Worse(_)) => "worse",
        (_, Why::HalfDone) => "half_done",
        (_, Why::Draining(_)) => "draining",
        (_, Why::LittleToDo(_)) => "little_to_do",
        (_, Why::Assigned) => "assigned",
        (_, Why::Operator) => "operator",
    }
}
