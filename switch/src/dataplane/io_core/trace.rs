//! A core's answers to whoever asks what it would do with a packet (see [`trace`](super::super::trace)): between two bursts.

use vm_ports::{Burst, Offload};

use super::super::trace::{Exit, Question, Ring};
use super::IoCore;

impl IoCore {
    /// What would become of a packet that came in here.
    pub(super) fn foresee(&mut self, question: &mut Question) {
        question.ring = self.ring_of(question);
        question.seconds = self.now.seconds;
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
    pub(super) fn look(&self, exits: &mut [Exit]) {
        exits.iter_mut().for_each(|exit| self.forwarder.out.look(&self.forwarder.table, exit));
    }
}
