//! Packets through net_ring, whose TX queues are its RX queues.

mod common;

use arrayvec::ArrayVec;
use common::{eal, fill, pool};
use pmd_bindings::{Error, Mbuf, Network, PortConfig, RxQueue, Transport, TxOffload, TxOffloads, TxQueue};

fn loopback(
    name: &str,
    config: &PortConfig,
) -> (pmd_bindings::Port, Vec<RxQueue>, Vec<TxQueue>, pmd_bindings::Mempool) {
    let pool = pool(&format!("pool_{name}"), 2047);
    let device = eal().hotplug(name).unwrap();
    assert_eq!(device.info().driver, "net_ring");
    let (port, rx, tx) = device.configure(config, &pool).unwrap();
    (port, rx, tx, pool)
}

#[test]
fn a_burst_comes_back_as_it_was_sent() {
    let (port, mut rx, mut tx, pool) = loopback("net_ring1", &PortConfig::default());
    assert_eq!((rx.len(), tx.len()), (1, 1));
    let mut packets = ArrayVec::<Mbuf, 32>::new();
    for seed in 0..32 {
        let mut packet = pool.alloc().unwrap();
        fill(packet.append(60 + usize::from(seed)).unwrap(), seed);
        packets.push(packet);
    }
    assert_eq!(tx[0].burst(&mut packets), 32);
    assert!(packets.is_empty());

    let mut received = ArrayVec::<Mbuf, 32>::new();
    assert_eq!(rx[0].burst(&mut received), 32);
    for (seed, packet) in (0u8..).zip(&received) {
        let mut expected = vec![0; 60 + usize::from(seed)];
        fill(&mut expected, seed);
        assert_eq!(packet.data(), expected);
    }
    assert_eq!(rx[0].burst(&mut ArrayVec::<Mbuf, 32>::new()), 0);
    let stats = port.stats().unwrap();
    assert_eq!((stats.rx_packets, stats.tx_packets), (32, 32));
    Mbuf::free_bulk(&mut received);
    assert_eq!(pool.available(), pool.size());
}

#[test]
fn what_the_ring_has_no_room_for_stays_and_is_not_lost() {
    let (port, rx, mut tx, pool) = loopback("net_ring2", &PortConfig::default());
    let mut sent = 0;
    let left = loop {
        let mut packets = ArrayVec::<Mbuf, 32>::new();
        assert!(pool.alloc_bulk(&mut packets));
        for packet in &mut packets {
            packet.append(60).unwrap();
        }
        let now = tx[0].burst(&mut packets);
        sent += now;
        if now < 32 {
            break packets;
        }
    };
    assert_eq!(left.len(), 32 - sent % 32);
    assert!(left.iter().all(|packet| packet.len() == 60));
    drop(left);
    assert_eq!(pool.available() as usize, pool.size() as usize - sent);
    // Closing the port gives back what is still in its rings.
    drop((port, rx, tx));
    assert_eq!(pool.available(), pool.size());
    eal().unplug("net_ring2").unwrap();
}

#[test]
fn a_packet_the_device_cannot_send_right_is_refused_and_the_rest_goes_on() {
    let (port, mut rx, mut tx, pool) = loopback("net_ring3", &PortConfig::default());
    assert_eq!(port.negotiated().tx_offloads & TxOffloads::TCP_CHECKSUM, TxOffloads::empty());
    let mut packets = ArrayVec::<Mbuf, 4>::new();
    assert!(pool.alloc_bulk(&mut packets));
    for packet in &mut packets {
        packet.append(60).unwrap();
    }
    let wish = TxOffload {
        l2_len: 14,
        l3_len: 20,
        l4_len: 20,
        network: Network::Ipv4 { checksum: true },
        transport: Transport::Tcp,
        segment_size: None,
    };
    packets[1].set_tx_offload(&wish).unwrap();
    assert_eq!(tx[0].burst(&mut packets), 1);
    assert_eq!((packets.len(), tx[0].refused()), (2, 1));
    assert_eq!(tx[0].burst(&mut packets), 2);
    assert_eq!(rx[0].burst(&mut ArrayVec::<Mbuf, 32>::new()), 3);
}

#[test]
fn queues_keep_the_port_and_move_between_threads() {
    let config = PortConfig { rx_queues: 2, tx_queues: 2, ..PortConfig::default() };
    let (port, mut rx, mut tx, pool) = loopback("net_ring4", &config);
    drop(port);
    assert!(matches!(eal().unplug("net_ring4"), Err(Error::PortInUse { .. })));
    let (mut rx1, mut tx1) = (rx.remove(1), tx.remove(1));
    drop((rx, tx));
    let allocator = pool.clone();
    std::thread::spawn(move || {
        let mut packets = ArrayVec::<Mbuf, 8>::new();
        assert!(allocator.alloc_bulk(&mut packets));
        assert_eq!(tx1.burst(&mut packets), 8);
        assert_eq!(rx1.burst(&mut packets), 8);
        assert_eq!((tx1.id(), rx1.port_name()), (1, "net_ring4"));
    })
    .join()
    .unwrap();
    eal().unplug("net_ring4").unwrap();
    assert_eq!(pool.available(), pool.size());
}
