// What the names of reasons mean, in one line each.

/** Why a packet went no further, or a ring could not take it. */
export const REASONS = {
  runt: "shorter than its Ethernet header",
  bad_offload: "checksum or segmentation metadata that does not fit the packet",
  bad_source: "source address is multicast or zero",
  spoofed_source: "source address is not the one the guest was given (anti_spoof)",
  vlan_not_allowed: "the port may not send into that VLAN",
  reserved_multicast: "an address that bridges must not forward",
  no_destination: "nobody else is in the VLAN",
  hairpin: "the destination is behind the port it came from",
  flood_policed: "the port floods faster than it may",
  too_long: "longer than the receiver's MTU",
  receiver_not_ready: "the receiver has no started, enabled RX queue",
  rx_full: "the receiving guest has too few buffers in its RX ring",
  bad_buffer: "the receiving guest posted a buffer that cannot be used",
  xcore_full: "the ring to the receiver's I/O core is full",
  uplink_full: "the uplink's TX queue is full",
  no_mbuf: "no mbuf was left to copy into",
  port_gone: "the receiver was removed meanwhile",
  malformed_chain: "a descriptor chain that breaks virtio's rules",
  bad_address: "a buffer outside of guest memory",
  bad_length: "shorter than its headers, or longer than the largest segment",
  ring_disabled: "sent on a queue pair that is not enabled",
  rx_not_ready: "the RX ring is not started, not enabled or stopped",
  rx_buffer_too_small: "without mergeable buffers: the next buffer is smaller than the packet",
  rx_bad_buffer: "a posted buffer that cannot be used; it was given back empty",
  rx_bad_offload: "the guest lacks an offload that the packet needs",
};

/** Why a ring was stopped. */
export const FAULTS = {
  index_jump: "the available index jumped further than the ring is long",
  bad_head: "the available ring names a descriptor outside of the table",
  endless_chain: "a chain without an end",
  memory_lost: "the frontend took guest memory away",
  call_blocked: "the frontend made the call eventfd block, or take long to be written",
};
