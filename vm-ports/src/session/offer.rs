//! What is offered to a frontend, and why each bit is or is not there.
//!
//! **QEMU** keeps a list of the virtio bits that a vhost-user network backend decides (`user_feature_bits` in
//! `hw/net/vhost_net.c`, in `net/vhost-user.c` in some versions). A bit on the list reaches the guest only if both the
//! device's properties and `GET_FEATURES` have it: rings (INDIRECT_DESC, EVENT_IDX, RING_PACKED, ANY_LAYOUT, VERSION_1),
//! checksums and segmentation, MRG_RXBUF, MTU, MQ, GUEST_ANNOUNCE. All others are QEMU's own, whatever a backend says: MAC,
//! STATUS, and CTRL_VQ with what depends on it, because the control queue is emulated in QEMU and its ring never gets here. So
//! offering them would do nothing, and they are not offered.
//!
//! **DPDK's virtio-user** takes `GET_FEATURES` ∩ its own list (`VIRTIO_USER_SUPPORTED_FEATURES`), adds MAC, STATUS and CTRL_VQ
//! itself, and strips those three again in `SET_FEATURES`. Its list has neither EVENT_IDX nor MTU nor GUEST_ANNOUNCE.
//!
//! Protocol features: CONFIG is not offered because QEMU's virtio-net has no use for it and warns about a backend that has it.
//! STATUS is not offered: the connection and `SET_VRING_*` already say all that it would. LOG_SHMFD and INFLIGHT_SHMFD wait for
//! a data path that keeps such records.

use vhost::vhost_user::VhostUserProtocolFeatures as Protocol;

use super::settings::PortSettings;
use crate::features::Features;

/// `VHOST_USER_F_PROTOCOL_FEATURES`: a bit of the virtio feature word that belongs to vhost-user (and no guest ever sees).
pub(super) const PROTOCOL_FEATURES: u64 = 1 << 30;

/// The virtio features a port offers, without [`PROTOCOL_FEATURES`].
pub(super) fn virtio(settings: &PortSettings) -> Features {
    // MTU: the value is the frontend's (`host_mtu`); without the bit here QEMU would not pass it to the guest.
    // GUEST_ANNOUNCE: the guest announces itself when QEMU asks it to; a guest that did not take the bit is announced by us, on
    // SEND_RARP.
    let mut offer = Features::data_path().with(Features::MTU).with(Features::GUEST_ANNOUNCE);
    if settings.queue_pairs > 1 {
        offer = offer.with(Features::MQ);
    }
    offer.without(settings.allow.masked())
}

/// The protocol features every port offers.
pub(super) fn protocol() -> Protocol {
    Protocol::MQ
        | Protocol::REPLY_ACK
        | Protocol::CONFIGURE_MEM_SLOTS
        | Protocol::RESET_DEVICE
        | Protocol::MTU
        | Protocol::RARP
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mq_is_offered_with_more_than_one_pair() {
        let mut settings = PortSettings::new("p", "/x");
        assert!(!virtio(&settings).has(Features::MQ));
        settings.queue_pairs = 2;
        assert!(virtio(&settings).has(Features::MQ));
    }

    #[test]
    fn switches_mask_bits_off() {
        let mut settings = PortSettings::new("p", "/x");
        assert!(virtio(&settings).has(Features::RING_PACKED.with(Features::OFFLOADS)));
        settings.allow.packed = false;
        settings.allow.checksum = false;
        let offer = virtio(&settings);
        assert_eq!(offer.0 & Features::RING_PACKED.with(Features::OFFLOADS).0, 0);
        assert!(offer.has(Features::MRG_RXBUF.with(Features::VERSION_1)));
    }

    #[test]
    fn what_does_not_work_is_not_offered() {
        const LOG_ALL: u64 = 1 << 26;
        const ACCESS_PLATFORM: u64 = 1 << 33;
        const NOTIFICATION_DATA: u64 = 1 << 38;
        const RING_RESET: u64 = 1 << 40;
        const UFO: u64 = 1 << 10 | 1 << 14;
        const USO: u64 = 1 << 54 | 1 << 55 | 1 << 56;
        const RSS_AND_HASH_REPORT: u64 = 1 << 60 | 1 << 57;
        let never = LOG_ALL | ACCESS_PLATFORM | NOTIFICATION_DATA | RING_RESET | UFO | USO | RSS_AND_HASH_REPORT;
        let mut settings = PortSettings::new("p", "/x");
        settings.queue_pairs = PortSettings::MAX_QUEUE_PAIRS;
        assert_eq!(virtio(&settings).0 & never, 0);
        let not_served = Protocol::LOG_SHMFD
            | Protocol::INFLIGHT_SHMFD
            | Protocol::CONFIG
            | Protocol::STATUS
            | Protocol::PAGEFAULT
            | Protocol::BACKEND_REQ;
        assert!(!protocol().intersects(not_served));
    }
}
