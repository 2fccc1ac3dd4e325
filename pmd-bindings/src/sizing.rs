//! How many mbufs a pool needs.

/// Who can hold mbufs of a pool at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolUsers {
    /// Mbufs that all RX queues together hold: see [`PortInfo::mbufs_per_rx_queue`](crate::PortInfo).
    pub rx_ring_mbufs: u32,
    /// Mbufs that all TX queues together hold: see [`PortInfo::mbufs_per_tx_queue`](crate::PortInfo).
    pub tx_ring_mbufs: u32,
    /// Threads that allocate and free.
    pub cores: u32,
    /// The pool's cache per thread.
    pub cache: u32,
    /// Mbufs a core has in its hands at most: packets of a burst times segments of a packet.
    pub in_flight_per_core: u32,
}

/// The size with which an RX ring can be refilled at any time: everybody holds all they can, and every core's cache
/// is full. A cache is flushed at one and a half times its size.
///
/// The result is not rounded to a power of two: DPDK's advice to do so concerns the pool's ring of pointers, while
/// the memory is in the mbufs.
pub fn pool_size(users: &PoolUsers) -> u32 {
    let cached = users.cache.saturating_add(users.cache.div_ceil(2));
    // The control thread fills RX rings and may keep a cache of its own.
    let threads = users.cores.saturating_add(1);
    let held = users.cores.saturating_mul(users.in_flight_per_core);
    let total = users
        .rx_ring_mbufs
        .saturating_add(users.tx_ring_mbufs)
        .saturating_add(threads.saturating_mul(cached))
        .saturating_add(held);
    // DPDK wants the cache to be at most two thirds of the pool.
    total.max(cached).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_at_their_limit_leaves_nothing_short() {
        let users =
            PoolUsers { rx_ring_mbufs: 2 * 1024, tx_ring_mbufs: 2 * 512, cores: 2, cache: 256, in_flight_per_core: 64 };
        assert_eq!(pool_size(&users), 2048 + 1024 + 3 * 384 + 128);
    }

    #[test]
    fn extremes_neither_overflow_nor_vanish() {
        assert_eq!(pool_size(&PoolUsers::default()), 1);
        let all = PoolUsers {
            rx_ring_mbufs: u32::MAX,
            tx_ring_mbufs: u32::MAX,
            cores: u32::MAX,
            cache: u32::MAX,
            in_flight_per_core: u32::MAX,
        };
        assert_eq!(pool_size(&all), u32::MAX);
    }
}
