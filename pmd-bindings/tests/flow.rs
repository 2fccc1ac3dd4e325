//! Rules that steer packets to an RX queue. A net_failsafe device whose real device is not there yet takes every rule, for later; drivers
//! without rules say so.

mod common;

use common::{eal, pool};
use pmd_bindings::{Error, Port, PortConfig};

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x5c, 1, 1];

/// A running port with two queues each way, where the device has them, and what keeps it running.
fn started(device: &str) -> (Port, impl Sized) {
    let pool = pool(&format!("flow_{}", &device[..10]), 2047);
    let device = eal().hotplug(device).unwrap();
    let queues = 2.min(device.info().max_rx_queues);
    let config = PortConfig { rx_queues: queues, tx_queues: queues, ..PortConfig::default() };
    let (port, rx, tx) = device.configure(&config, &pool).unwrap();
    (port, (rx, tx, pool))
}

#[test]
fn a_rule_is_made_changed_and_removed() {
    let (port, _queues) = started("net_failsafe0,exec(true),mac=52:54:00:5c:01:09");
    let rule = port.steer(MAC, 0).unwrap();
    assert_eq!((rule.mac(), rule.queue()), (MAC, 0));
    drop(rule);
    let rule = port.steer(MAC, 1).unwrap();
    assert_eq!(rule.queue(), 1);
    // A rule keeps the port running.
    drop((port, _queues));
    assert!(matches!(eal().unplug("net_failsafe0"), Err(Error::PortInUse { .. })));
    drop(rule);
    eal().unplug("net_failsafe0").unwrap();
}

#[test]
fn a_driver_without_rules_says_so() {
    for device in ["net_null77", "net_ring77"] {
        let (port, _queues) = started(device);
        let error = port.steer(MAC, 0).unwrap_err();
        assert!(error.is_unsupported(), "{error:?}");
        assert!(error.to_string().contains("rte_flow_validate"), "{error}");
    }
}
