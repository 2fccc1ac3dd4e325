//! Pools and packets.

mod common;

use arrayvec::ArrayVec;
use common::{eal, fill, pool};
use pmd_bindings::{
    ChecksumState, Error, Mbuf, Mempool, Network, OffloadError, ThreadRegistration, Transport, TxOffload,
};

#[test]
fn an_exhausted_pool_says_none_and_recovers() {
    let pool = pool("exhausted", 64);
    assert_eq!((pool.name(), pool.size(), pool.data_room()), ("exhausted", 64, 2048));
    let mut all: Vec<Mbuf> = std::iter::from_fn(|| pool.alloc()).collect();
    assert_eq!((all.len(), pool.available()), (64, 0));
    assert!(pool.alloc().is_none());
    all.truncate(63);
    let mut packets = ArrayVec::<Mbuf, 2>::new();
    assert!(!pool.alloc_bulk(&mut packets), "all or nothing");
    assert!(packets.is_empty());
    assert!(pool.alloc_many(&mut packets, 1));
    assert!(!pool.alloc_many(&mut packets, 2), "more than there is room for");
    drop((all, packets));
    assert_eq!(pool.available(), 64);
}

#[test]
fn frames_come_with_their_lengths_and_nothing_of_what_their_mbufs_were_before() {
    let pool = pool("frames", 8);
    // All of the pool's mbufs have been something else: a chain that asked for an offload, and lost some of its front.
    let mut first = pool.alloc().unwrap();
    let headroom = first.headroom();
    fill(first.append(1000).unwrap(), 7);
    let offload = TxOffload {
        l2_len: 14,
        l3_len: 20,
        l4_len: 8,
        network: Network::Ipv6,
        transport: Transport::Udp,
        segment_size: None,
    };
    first.set_tx_offload(&offload).unwrap();
    for _ in 1..8 {
        let mut next = pool.alloc().unwrap();
        next.append(500).unwrap();
        first.chain(next).unwrap();
    }
    assert!(first.trim_front(14));
    drop(first);

    let mut packets = ArrayVec::<Mbuf, 8>::new();
    assert!(!pool.alloc_frames(&mut packets, &[60, 2049]), "more than the data room");
    assert!(!pool.alloc_frames(&mut packets, &[60; 9]), "more than there is room for");
    assert!(pool.alloc_frames(&mut packets, &[60, 0, 2048, 1514]));
    assert!(!pool.alloc_frames(&mut ArrayVec::<Mbuf, 8>::new(), &[60; 5]), "more than the pool has");
    assert!(pool.alloc_frames(&mut packets, &[]) && pool.alloc_frames(&mut packets, &[61; 4]));
    let shapes: Vec<_> =
        packets.iter().map(|packet| (packet.len(), packet.data().len(), packet.segment_count())).collect();
    let expected = [60, 0, 2048, 1514, 61, 61, 61, 61].map(|len| (len, len, 1));
    assert_eq!(shapes, expected);
    assert!(packets.iter().all(|packet| packet.headroom() == headroom && packet.tailroom() + packet.len() == 2048));
    drop(packets);
    assert_eq!(pool.available(), 8);
}

#[test]
fn append_gives_what_the_tailroom_has_and_no_more() {
    let pool = pool("append", 8);
    let mut packet = pool.alloc().unwrap();
    assert!(packet.is_empty());
    assert_eq!((packet.len(), packet.segment_count(), packet.tailroom()), (0, 1, 2048));
    fill(packet.append(2000).unwrap(), 1);
    assert!(packet.append(49).is_none());
    assert_eq!(packet.append(48).unwrap().len(), 48);
    assert!(packet.append(1).is_none());
    assert_eq!(packet.append(0).unwrap().len(), 0);
    assert_eq!((packet.len(), packet.data().len()), (2048, 2048));
    let mut expected = vec![0; 2000];
    fill(&mut expected, 1);
    assert_eq!(packet.data()[..2000], expected);
}

#[test]
fn the_front_grows_into_the_headroom_and_shrinks_again() {
    let pool = pool("front", 8);
    let mut packet = pool.alloc().unwrap();
    packet.append(3).unwrap().copy_from_slice(b"abc");
    let headroom = packet.headroom();
    assert!(packet.prepend(headroom + 1).is_none());
    packet.prepend(4).unwrap().copy_from_slice(b"1234");
    assert_eq!(packet.data(), b"1234abc");
    packet.data_mut()[0] = b'0';
    assert!(packet.trim_front(5));
    assert_eq!((packet.data(), packet.len()), (&b"bc"[..], 2));
    assert!(!packet.trim_front(3));
    assert_eq!(packet.headroom(), headroom + 1);
}

#[test]
fn chains_keep_their_order_and_go_back_whole() {
    let pool = pool("chains", 16);
    let segment = |text: &[u8]| {
        let mut packet = pool.alloc().unwrap();
        packet.append(text.len()).unwrap().copy_from_slice(text);
        packet
    };
    let mut packet = segment(b"one ");
    let mut rest = segment(b"two ");
    rest.chain(segment(b"three")).unwrap();
    packet.chain(rest).unwrap();
    packet.append(4).unwrap().copy_from_slice(b" end");
    assert_eq!((packet.segment_count(), packet.len()), (3, 17));
    let segments: Vec<&[u8]> = packet.segments().collect();
    assert_eq!(segments, [&b"one "[..], b"two ", b"three end"]);
    assert_eq!(packet.data(), b"one ");
    assert_eq!(pool.available(), 13);
    drop(packet);
    assert_eq!(pool.available(), 16);
}

#[test]
fn offload_requests_are_checked_against_the_packet() {
    let pool = pool("offload", 8);
    let mut packet = pool.alloc().unwrap();
    let request = TxOffload {
        l2_len: 14,
        l3_len: 40,
        l4_len: 20,
        network: Network::Ipv6,
        transport: Transport::Tcp,
        segment_size: Some(1440),
    };
    assert_eq!(packet.set_tx_offload(&request), Err(OffloadError::NotInFirstSegment));
    packet.append(74).unwrap();
    assert_eq!(packet.set_tx_offload(&request), Ok(()));
    packet.clear_tx_offload();
    let checksum = packet.rx_checksum();
    assert_eq!((checksum.ip, checksum.l4), (ChecksumState::Unknown, ChecksumState::Unknown));
    assert_eq!((packet.rss_hash(), packet.rx_segment_size()), (None, None));
}

#[test]
fn bad_pools_are_errors_with_dpdks_text() {
    let text = |result: Result<Mempool, Error>| match result {
        Err(Error::Dpdk(error)) => error.text,
        other => panic!("{other:?}"),
    };
    let new = |name: &str, count, cache| Mempool::new(eal(), name, count, cache, 2048, None);
    assert_eq!(text(new("too_large_a_cache", 64, 64)), "Invalid argument");
    assert_eq!(text(new("a_name_of_more_than_25_bytes", 64, 0)), "File name too long");
    assert_eq!(text(new("no_memory", 50_000_000, 0)), "Cannot allocate memory");
    let _taken = new("taken", 64, 0).unwrap();
    assert_eq!(text(new("taken", 64, 0)), "File exists");
    assert!(matches!(new("nul\0", 64, 0), Err(Error::NulByte { .. })));
}

#[test]
fn a_pool_outlives_its_mbufs_and_its_name_is_free_after_it() {
    let pool_of = |name: &str| Mempool::new(eal(), name, 64, 0, 2048, None);
    drop(pool_of("short").unwrap());
    drop(pool_of("short").expect("freed with its last handle"));

    let kept = pool_of("kept").unwrap();
    let mut packet = kept.alloc().unwrap();
    drop(kept);
    fill(packet.append(100).unwrap(), 7);
    assert_eq!(packet.len(), 100);
    drop(packet);
    assert!(pool_of("kept").is_err(), "still there: a packet was out when the last handle went");
}

#[test]
fn a_registered_thread_has_a_cache_and_gives_it_back() {
    let pool = Mempool::new(eal(), "cached", 512, 64, 2048, None).unwrap();
    let user = pool.clone();
    std::thread::spawn(move || {
        let registration = ThreadRegistration::new(eal()).unwrap();
        assert!(matches!(ThreadRegistration::new(eal()), Err(Error::AlreadyRegistered)));
        drop(user.alloc().unwrap());
        drop(registration);
        drop(ThreadRegistration::new(eal()).expect("registered anew"));
    })
    .join()
    .unwrap();
    drop(pool);
    // Had the thread kept its cache, the pool would have had to stay, and its name with it.
    Mempool::new(eal(), "cached", 512, 64, 2048, None).unwrap();
}
