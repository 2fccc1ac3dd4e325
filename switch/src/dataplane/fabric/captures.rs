//! Captures come to the cores, and go. A core that is made later serves ports that were not there when they began: it has no part in them.

use super::super::capture::Tap;
use super::super::mailbox::Message;
use super::{Core, Fabric};

impl Fabric {
    /// Gives each core its part in a capture. When this returns they have it.
    pub(in super::super) fn begin_capture(&self, taps: Vec<Tap>) {
        let tell = |(core, tap): (&Core, Tap)| core.ask(|reply| Message::Tap { tap: Box::new(tap), reply });
        let answers: Vec<_> = self.all().zip(taps).map(tell).collect();
        answers.into_iter().for_each(|answer| _ = answer.wait());
    }

    /// No core has a part in a capture any more; the parts are freed here.
    pub(in super::super) fn end_capture(&self, capture: u64) {
        let ask = |core: &Core| core.ask(|reply| Message::Untap { capture, reply });
        let answers: Vec<_> = self.all().map(ask).collect();
        answers.into_iter().for_each(|answer| drop(answer.wait()));
    }
}
