//! Devices that come and go, and those that never come.

mod common;

use arrayvec::ArrayVec;
use common::{eal, pool};
use pmd_bindings::{Error, EthDev, Mbuf, PortConfig};

#[test]
fn a_device_is_added_taken_and_removed_while_eal_runs() {
    let device = eal().hotplug("net_null7,size=128").unwrap();
    assert_eq!((device.name(), device.info().driver.as_str()), ("net_null7", "net_null"));
    assert!(matches!(EthDev::by_name(eal(), "net_null7"), Err(Error::PortInUse { .. })));
    assert!(matches!(eal().unplug("net_null7"), Err(Error::PortInUse { .. })));
    drop(device);
    let device = EthDev::by_name(eal(), "net_null7,size=128").expect("arguments are ignored");
    drop(device);
    eal().unplug("net_null7,size=128").unwrap();
    let Err(Error::NoSuchPort { name, known }) = EthDev::by_name(eal(), "net_null7") else { panic!("it is gone") };
    assert!(name == "net_null7" && !known.contains(&name));
    eal().hotplug("net_null7").expect("and can come back");
}

#[test]
fn missing_devices_carry_dpdks_text_and_its_reason() {
    let failure = |devargs: &str| match eal().hotplug(devargs) {
        Err(Error::Dpdk(error)) => error,
        other => panic!("{other:?}"),
    };
    let error = failure("net_af_packet77,iface=no_such_iface");
    assert_eq!((error.call, error.subject.as_str()), ("rte_dev_probe", "net_af_packet77,iface=no_such_iface"));
    assert!(!error.text.is_empty() && error.code > 0);
    assert!(error.log.contains("no_such_iface") || error.log.contains("net_af_packet77"), "{error}");
    let error = failure("no_such_driver0");
    assert!(error.code > 0 && error.to_string().contains("no_such_driver0"), "{error}");
    assert!(matches!(eal().unplug("net_null99"), Err(Error::Dpdk(_))));
    assert!(matches!(eal().hotplug("nul\0"), Err(Error::NulByte { .. })));
}

#[test]
fn net_null_gives_and_takes_packets_without_end() {
    let pool = pool("null", 512);
    let device = eal().hotplug("net_null8,size=128").unwrap();
    let (port, mut rx, mut tx) = device.configure(&PortConfig::default(), &pool).unwrap();
    let mut packets = ArrayVec::<Mbuf, 32>::new();
    for _ in 0..100 {
        assert_eq!(rx[0].burst(&mut packets), 32);
        assert!(packets.iter().all(|packet| packet.len() == 128));
        assert_eq!(tx[0].burst(&mut packets), 32);
    }
    assert_eq!((pool.available(), packets.len()), (512, 0));
    let stats = port.stats().unwrap();
    assert_eq!((stats.rx_packets, stats.tx_packets), (3200, 3200));
    let named = port.xstats().unwrap();
    assert!(named.iter().any(|stat| stat.name == "rx_good_packets" && stat.value == 3200), "{named:?}");
    assert!(port.link().unwrap().up);
    port.reset_stats().unwrap();
    assert_eq!(port.stats().unwrap().rx_packets, 0);
}

#[test]
fn an_exhausted_pool_stops_reception_and_no_more() {
    let pool = pool("dry", 16);
    let device = eal().hotplug("net_null9").unwrap();
    let (_port, mut rx, _tx) = device.configure(&PortConfig::default(), &pool).unwrap();
    let mut packets = ArrayVec::<Mbuf, 64>::new();
    while rx[0].burst(&mut packets) > 0 {}
    assert!(pool.available() < 64);
    Mbuf::free_bulk(&mut packets);
    assert_eq!(pool.available(), 16);
    let mut few = ArrayVec::<Mbuf, 8>::new();
    assert_eq!(rx[0].burst(&mut few), 8);
}

#[test]
fn configurations_that_cannot_be_leave_the_device_as_it_was() {
    let pool = pool("impossible", 64);
    let none = PortConfig { rx_queues: 0, ..PortConfig::default() };
    let device = eal().hotplug("net_null10").unwrap();
    assert!(matches!(device.configure(&none, &pool), Err(Error::NoQueues { .. })));
    let small = PortConfig { mtu: Some(1), ..PortConfig::default() };
    let device = EthDev::by_name(eal(), "net_null10").unwrap();
    assert!(matches!(device.configure(&small, &pool), Err(Error::MtuOutOfRange { .. })));
    let many = PortConfig { rx_queues: u16::MAX, tx_queues: u16::MAX, ..PortConfig::default() };
    let device = EthDev::by_name(eal(), "net_null10").unwrap();
    let most = (device.info().max_rx_queues, device.info().max_tx_queues);
    let (port, rx, tx) = device.configure(&many, &pool).unwrap();
    assert_eq!((rx.len(), tx.len()), (most.0.into(), most.1.into()));
    assert_eq!((port.negotiated().rx_queues, port.negotiated().tx_queues), most);
}

#[test]
fn net_pcap_reads_a_file_and_writes_one() {
    let folder = std::env::temp_dir().join(format!("pmd-bindings-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let (input, output) = (folder.join("in.pcap"), folder.join("out.pcap"));
    // A pcap file: its header, a packet's header, a packet.
    let mut file: Vec<u8> =
        [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65535, 1].iter().flat_map(|w| w.to_le_bytes()).collect();
    file.extend([0_u32, 0, 60, 60].iter().flat_map(|word| word.to_le_bytes()));
    file.extend([0xab; 60]);
    std::fs::write(&input, file).unwrap();

    let pool = pool("pcap", 512);
    let devargs = format!("net_pcap1,rx_pcap={},tx_pcap={}", input.display(), output.display());
    let device = eal().hotplug(&devargs).unwrap();
    let (port, mut rx, mut tx) = device.configure(&PortConfig::default(), &pool).unwrap();
    let mut packets = ArrayVec::<Mbuf, 32>::new();
    assert_eq!(rx[0].burst(&mut packets), 1);
    assert_eq!(packets[0].data(), [0xab; 60]);
    assert_eq!(tx[0].burst(&mut packets), 1);
    drop((port, rx, tx));
    eal().unplug("net_pcap1").unwrap();
    let written = std::fs::read(&output).unwrap();
    assert_eq!(written[written.len() - 60..], [0xab; 60]);
    std::fs::remove_dir_all(&folder).unwrap();
}
