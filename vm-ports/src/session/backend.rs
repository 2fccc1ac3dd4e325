//! The session's state, and what each vhost-user request does to it.
//!
//! Nothing here knows a socket: requests come in as calls of the `vhost` crate's handler trait (see `handler.rs`), or as the
//! few that crate does not know (`net_set_mtu`, `send_rarp`). Whatever order and contents a peer chooses, each ends in a change of
//! state or in a [`Refusal`].

use std::fs::File;
use std::sync::Arc;

use vhost::vhost_user::VhostUserProtocolFeatures as Protocol;
use vhost::vhost_user::message::VhostUserMemoryRegion;

use super::error::Refusal;
use super::event::{Negotiated, SessionCounters, SessionEvent};
use super::offer::{self, PROTOCOL_FEATURES};
use super::rings::{Addresses, Environment, Kick, Rings};
use super::settings::PortSettings;
use super::{QueueHost, eventfd, slots};
use crate::address::{FrontendAddr, GuestPhysAddr};
use crate::features::Features;
use crate::kick::KickFd;
use crate::memory::GuestMemory;

type Result<T> = std::result::Result<T, Refusal>;

/// The smallest MTU there can be (virtio 1.2 §5.1.4.1).
const MTU_MIN: u64 = 68;

/// The state of one session with one frontend.
pub(super) struct Backend {
    settings: Arc<PortSettings>,
    host: Arc<dyn QueueHost>,
    counters: Arc<SessionCounters>,
    rings: Rings,
    /// What SET_FEATURES said, with PROTOCOL_FEATURES; `None` before it.
    features: Option<u64>,
    protocol: Protocol,
    memory: Option<Arc<GuestMemory>>,
    mtu: Option<u16>,
    /// Whether the host knows of what is running.
    announced: bool,
    /// Whether any traffic could flow since the frontend connected.
    ever_ran: bool,
    told_of_ring_refusal: bool,
}

impl Backend {
    pub(super) fn new(settings: Arc<PortSettings>, host: Arc<dyn QueueHost>, counters: Arc<SessionCounters>) -> Self {
        Self {
            rings: Rings::new(Arc::clone(&host), settings.queue_pairs, settings.moderation, counters.forfeited.clone()),
            settings,
            host,
            counters,
            features: None,
            protocol: Protocol::empty(),
            memory: None,
            mtu: None,
            announced: false,
            ever_ran: false,
            told_of_ring_refusal: false,
        }
    }

    pub(super) fn rings(&self) -> &Rings {
        &self.rings
    }

    pub(super) fn reply_ack(&self) -> bool {
        self.protocol.contains(Protocol::REPLY_ACK)
    }

    pub(super) fn ever_ran(&self) -> bool {
        self.ever_ran
    }

    pub(super) fn offered_features(&self) -> u64 {
        offer::virtio(&self.settings).0 | PROTOCOL_FEATURES
    }

    pub(super) fn queue_pairs(&self) -> usize {
        self.settings.queue_pairs
    }

    /// SET_FEATURES. QEMU sends it once per queue pair, the others running already.
    pub(super) fn set_features(&mut self, features: u64) -> Result<()> {
        let alien = features & !self.offered_features();
        if alien != 0 {
            return Err(Refusal::FeaturesNotOffered(alien));
        }
        if self.features != Some(features) {
            self.features = Some(features);
            self.announced = false;
            self.renew_environment();
        }
        if features & PROTOCOL_FEATURES == 0 {
            self.rings.enable_all();
        }
        self.settle();
        Ok(())
    }

    pub(super) fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        let alien = features & !offer::protocol().bits();
        if alien != 0 {
            return Err(Refusal::ProtocolNotOffered(alien));
        }
        self.protocol = Protocol::from_bits_truncate(features);
        Ok(())
    }

    pub(super) fn set_mem_table(&mut self, regions: &[VhostUserMemoryRegion], files: Vec<File>) -> Result<()> {
        let slots = regions.iter().zip(files).map(|(region, file)| slots::slot(region, file));
        let memory = GuestMemory::map(slots.collect::<Result<_>>()?)?;
        self.set_memory(memory);
        Ok(())
    }

    pub(super) fn add_mem_region(&mut self, region: &VhostUserMemoryRegion, file: File) -> Result<()> {
        let memory = slots::add(self.memory.as_ref(), slots::slot(region, file)?)?;
        self.set_memory(memory);
        Ok(())
    }

    /// REM_MEM_REG. QEMU fills in 0 for the offset, so the other three decide. QEMU 7.2 removes each region once for every queue pair.
    pub(super) fn remove_mem_region(&mut self, region: &VhostUserMemoryRegion) -> Result<()> {
        let Some(memory) = &self.memory else { return Ok(()) };
        let guest = GuestPhysAddr(region.guest_phys_addr);
        let memory = memory.without_slot(guest, FrontendAddr(region.user_addr), region.memory_size)?;
        self.set_memory(memory);
        Ok(())
    }

    /// SET_VRING_NUM. Which sizes are allowed depends on the format (virtio 1.2 §2.7, §2.8), known from SET_FEATURES,
    /// which all frontends send first; starting the ring checks again.
    pub(super) fn set_vring_num(&mut self, index: u32, size: u32) -> Result<()> {
        const MAX: u32 = 1 << 15;
        let packed = Features(self.features.unwrap_or(0)).has(Features::RING_PACKED);
        if !(1..=MAX).contains(&size) || !(packed || size.is_power_of_two()) {
            return Err(Refusal::RingSize(size));
        }
        self.change(|rings| rings.rebuild(index, |ring| ring.size = size))
    }

    pub(super) fn set_vring_addr(&mut self, index: u32, addresses: Addresses) -> Result<()> {
        if self.rings.get(index)?.addresses == Some(addresses) {
            // QEMU repeats itself when it switches a log on or off.
            return Ok(());
        }
        self.change(|rings| rings.rebuild(index, |ring| ring.addresses = Some(addresses)))
    }

    /// SET_VRING_BASE. A packed ring's base is an index with the wrap counter in bit 15. QEMU puts the used side's
    /// into the upper half, virtio-user sends zeros there: what counts is that both are equal in a ring at rest, so the lower half says all.
    pub(super) fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        self.change(|rings| rings.rebuild(index, |ring| ring.base = base & 0xffff))
    }

    /// GET_VRING_BASE: stops the ring.
    pub(super) fn get_vring_base(&mut self, index: u32) -> Result<u32> {
        let base = self.change(|rings| rings.stop(index))?;
        let packed = Features(self.features.unwrap_or(0)).has(Features::RING_PACKED);
        // A packed ring answers with both halves, also one that never ran and so has what SET_VRING_BASE left.
        Ok(if packed { (base & 0xffff) | base << 16 } else { base })
    }

    pub(super) fn set_vring_kick(&mut self, index: u32, file: Option<File>) -> Result<()> {
        let kick = match file {
            Some(file) => Kick::Fd { file: KickFd::new(eventfd::accept(file)?), suppressed: false },
            None => Kick::NoFd,
        };
        self.change(|rings| rings.rebuild(index, |ring| ring.kick = kick))
    }

    pub(super) fn set_vring_call(&mut self, index: u32, file: Option<File>) -> Result<()> {
        let call = file.map(eventfd::accept).transpose()?;
        if call.is_some() && self.rings.calls_forfeited() {
            return Err(Refusal::CallsForfeited);
        }
        self.change(|rings| rings.set_call(index, call))
    }

    /// SET_VRING_ERR: errors are counted and logged here, the frontend is not told; the descriptor is closed.
    pub(super) fn set_vring_err(&mut self, index: u32, _file: Option<File>) -> Result<()> {
        self.rings.get(index).map(|_| ())
    }

    /// SET_VRING_ENABLE. QEMU's virtio-net sends it before SET_FEATURES, and expects it to last: so it is taken whenever the
    /// frontend has not renounced protocol features.
    pub(super) fn set_vring_enable(&mut self, index: u32, value: u32) -> Result<()> {
        if self.features.is_some_and(|features| features & PROTOCOL_FEATURES == 0) {
            return Err(Refusal::EnableNotNegotiated);
        }
        let enabled = match value {
            0 => false,
            1 => true,
            other => return Err(Refusal::EnableValue(other)),
        };
        self.change(|rings| rings.enable(index, enabled))
    }

    /// NET_SET_MTU: what the frontend has told the guest with the device's MTU field.
    pub(super) fn net_set_mtu(&mut self, value: u64) -> Result<()> {
        let max = self.settings.mtu.unwrap_or(u16::MAX);
        let mtu = u16::try_from(value).ok().filter(|&mtu| value >= MTU_MIN && mtu <= max);
        let mtu = mtu.ok_or(Refusal::Mtu(value))?;
        if self.mtu.replace(mtu) != Some(mtu) {
            self.host.event(SessionEvent::Mtu(mtu));
        }
        Ok(())
    }

    /// SEND_RARP: the guest came here by migration, or was asked to announce itself and cannot.
    pub(super) fn send_rarp(&mut self, mac: [u8; 6]) -> Result<()> {
        let group = mac[0] & 1 != 0;
        if group || mac == [0; 6] {
            return Err(Refusal::AnnounceAddress);
        }
        self.host.event(SessionEvent::Announce(mac));
        Ok(())
    }

    /// RESET_DEVICE: every ring back to how it was before the first message about it. Memory, protocol features and the owner stay.
    pub(super) fn reset_device(&mut self) {
        self.rings.reset();
        self.features = None;
        self.mtu = None;
        self.renew_environment();
        self.settle();
    }

    /// RESET_OWNER, which the specification has withdrawn and wants ignored or taken as "disable all rings".
    pub(super) fn reset_owner(&mut self) {
        for index in 0..2 * self.settings.queue_pairs as u32 {
            // The index is in range by construction.
            let _ = self.rings.enable(index, false);
        }
        self.settle();
    }

    /// Takes everything back and lets go of the guest's memory.
    pub(super) fn shut_down(&mut self) {
        self.rings.reset();
        self.memory = None;
        self.renew_environment();
    }

    fn change<T>(&mut self, change: impl FnOnce(&mut Rings) -> Result<T>) -> Result<T> {
        let result = change(&mut self.rings);
        self.settle();
        result
    }

    fn set_memory(&mut self, memory: Arc<GuestMemory>) {
        self.memory = Some(memory);
        // What the host was told of it is no longer so.
        self.announced = false;
        self.renew_environment();
        self.settle();
    }

    fn renew_environment(&mut self) {
        let environment = match (self.features, &self.memory) {
            (Some(features), Some(memory)) => {
                Some(Environment { features: Features(features & !PROTOCOL_FEATURES), memory: Arc::clone(memory) })
            }
            _ => None,
        };
        self.rings.set_environment(environment);
    }

    /// Tells the host what came of a change.
    fn settle(&mut self) {
        for (ring, error) in self.rings.take_refusals() {
            self.counters.ring_refusals.add(1);
            if !std::mem::replace(&mut self.told_of_ring_refusal, true) {
                self.host.event(SessionEvent::RingRefused { ring, error: error.to_string() });
            }
        }
        if !self.rings.any_started() {
            self.announced = false;
        } else if !self.announced && self.rings.is_running(0) && self.rings.is_running(1) {
            self.announced = true;
            self.ever_ran = true;
            self.host.event(SessionEvent::Negotiated(self.negotiated()));
        }
    }

    fn negotiated(&self) -> Negotiated {
        Negotiated {
            features: Features(self.features.unwrap_or(0) & !PROTOCOL_FEATURES),
            protocol: protocol_names(self.protocol),
            rings: self.rings.started(),
            memory_bytes: self.memory.as_ref().map_or(0, |memory| memory.size()),
            memory_slots: self.memory.as_ref().map_or(0, |memory| memory.slots()),
            mtu: self.mtu,
        }
    }
}

fn protocol_names(protocol: Protocol) -> Vec<&'static str> {
    [
        (Protocol::MQ, "mq"),
        (Protocol::RARP, "rarp"),
        (Protocol::REPLY_ACK, "reply_ack"),
        (Protocol::MTU, "net_mtu"),
        (Protocol::RESET_DEVICE, "reset_device"),
        (Protocol::CONFIGURE_MEM_SLOTS, "configure_mem_slots"),
    ]
    .into_iter()
    .filter(|(bit, _)| protocol.contains(*bit))
    .map(|(_, name)| name)
    .collect()
}
