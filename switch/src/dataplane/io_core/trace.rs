//! A core's answers to whoever asks what it would do with a packet (see [`trace`](super::super::trace)): between two bursts.

use vm_ports::{Burst, Offload};

use super::super::forwarder::Forwarder;
use super::super::trace::{EgressPort, Question, Ring};
use super::IoCore;

impl IoCore {
    /// What would become of a packet that came in here.
    pub(super) fn foresee(&mut self, question: &mut Question) {
        question.ring = self.ring_of(question);
        question.seconds = self.now.seconds;
        // What stays in its ring, or is discarded as it is pulled, nobody looks at: nothing is learnt of it, no token taken for it.
        if !matches!(question.ring, Some(Ring::Served)) {
            return;
        }
        let Self { forwarder, buffer, now, .. } = self;
        let Question { port, frame, seen, .. } = question;
        let mut burst = Burst::new(buffer);
        if burst.push_frame([&frame[..]], Offload::NONE) {
            forwarder.foresee(&mut burst, *port, *now, seen);
        }
    }

    fn ring_of(&self, question: &Question) -> Option<Ring> {
        let (port, queue) = (question.port, question.queue);
        if self.uplinks.iter().any(|uplink| uplink.origin.port == port && uplink.rx.id() == queue) {
            return Some(Ring::Served);
        }
        let guest = self.guests.iter().find(|guest| guest.origin.port == port && guest.queue == usize::from(queue))?;
        Some(match guest.tx.fault() {
            Some(fault) => Ring::Stopped(fault),
            None if guest.tx.is_enabled() => Ring::Served,
            None => Ring::Disabled,
        })
    }

    /// What packets would meet at those receivers that are here.
    pub(super) fn look(&mut self, ports: &mut [EgressPort]) {
        let Forwarder { out, table, .. } = &mut self.forwarder;
        ports.iter_mut().for_each(|port| out.look(table, port));
    }
}
