//! Rules in an uplink's device that follow guests from core to core. No device here can steer: net_failsafe, whose real device is not there yet,
//! takes rules for later, so that they can be seen to come, change and go; what refuses them goes on without.

use serde_json::{Value, json};
use sidecore_tests::http;
use sidecore_tests::process::eventually;
use synthetic_guest::packet::FrameSpec;

use crate::frames::{Packet, addressed};
use crate::rig::{LIMIT, Plan, Rig};
use crate::stream::{self, Stream};

const ACCEPTS: &str = "net_failsafe0,exec(true),mac=52:54:00:5c:ff:01";

fn steering(rig: &Rig, uplink: &str) -> Value {
    let ports = rig.json()["ports"].as_array().cloned().unwrap_or_default();
    ports.iter().find(|port| port["name"] == uplink).map_or(Value::Null, |port| port["steering"].clone())
}

fn wait_for_rules(rig: &Rig, rules: &Value) {
    let mut last = Value::Null;
    let seen = eventually("the rules", LIMIT, || {
        last = steering(rig, "wan")["rules"].clone();
        Ok((last == *rules).then_some(()))
    });
    assert!(seen.is_ok(), "{rules} are wanted, {last} are there");
}

fn mac(number: u32) -> String {
    format!("52:54:00:00:00:{number:02x}")
}

#[test]
fn rules_follow_guests_and_go_with_them() {
    let lines = |number| [format!("mac = \"{}\"", mac(number)), format!("stations = [\"{}\"]", mac(number + 16))];
    let mut plan = Plan::three_still_cores();
    for number in 1..=2 {
        let lines = lines(number);
        plan = plan.guest(&format!("g{number}"), &[&lines[0], &lines[1]]);
    }
    let rig = plan.guest("nameless", &[]).uplink("wan", ACCEPTS, &[]).start();
    wait_for_rules(&rig, &json!({}));
    let [a, b, mut c] = rig.guests(["g1", "g2", "nameless"]);
    for (first, second) in [(0, 1), (2, 1), (2, 0), (1, 1)] {
        rig.switch.move_guest("g1", None, first).unwrap();
        rig.switch.move_guest("g2", None, second).unwrap();
        wait_for_rules(&rig, &json!({ mac(1): first, mac(17): first, mac(2): second, mac(18): second }));
    }
    // A guest that is not there has none, nor has one that was removed.
    drop(b);
    wait_for_rules(&rig, &json!({ mac(1): 1, mac(17): 1 }));
    let mut b = rig.guest_with("g2", |_| ());
    wait_for_rules(&rig, &json!({ mac(1): 1, mac(17): 1, mac(2): 1, mac(18): 1 }));
    rig.switch.must(&["guest", "remove", "g1"]).unwrap();
    wait_for_rules(&rig, &json!({ mac(2): 1, mac(18): 1 }));
    assert_eq!(steering(&rig, "wan")["refusals"], 0);
    drop(a);
    rig.finish(&mut [&mut b, &mut c]);
}

#[test]
fn a_driver_without_rules_is_asked_once() {
    // A net_ring device gives back what it is sent: the guest, alone in its VLAN, hears its echo.
    let rig = Plan::three_still_cores()
        .guest("g", &["io_core = 2", "vlan = { access = 10 }", &format!("mac = \"{}\"", mac(1))])
        .uplink("echo", "net_ring0", &[])
        .uplink("null", "net_null0,no-rx=1", &[])
        .start();
    let mut g = rig.guest_with("g", |_| ());
    let streams = [Stream { frame: FrameSpec::udp4(1, 99, 0, 300), ..Stream::udp(0, 0, 300, 1000) }];
    for report in stream::run(&mut [&mut g], &streams) {
        assert!(report.is_perfect(1000), "{report:?}");
    }
    for uplink in ["echo", "null"] {
        let seen = eventually("a refusal", LIMIT, || Ok((steering(&rig, uplink)["refusals"] == 1).then_some(())));
        assert!(seen.is_ok(), "{uplink}: {}", steering(&rig, uplink));
    }
    // Not again when the guest comes back.
    g.reconnect_as(|_| ());
    rig.settle();
    assert_eq!(steering(&rig, "echo")["refusals"], 1);
    let log = rig.switch.log();
    let said = log.lines().filter(|line| line.contains("spread by RSS")).count();
    assert_eq!(said, 2, "once for each: {log}");
    rig.finish(&mut [&mut g]);
}

/// A pcap file: its header, and a header before each packet.
fn pcap(packets: impl Iterator<Item = Packet>) -> Vec<u8> {
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    packets.fold(words(&[0xa1b2_c3d4, 0x0004_0002, 0, 0, 65535, 1]), |mut file, packet| {
        let len = packet.bytes.len() as u32;
        file.extend(words(&[0, 0, len, len]));
        file.extend(packet.bytes);
        file
    })
}

#[test]
fn what_no_rule_steers_is_handed_over_and_counted() {
    const HERE: usize = 40;
    const THERE: usize = 120;
    let port = http::free_port().unwrap();
    let rig = Plan::three_still_cores()
        .key(&format!("http_listen = \"127.0.0.1:{port}\""))
        .guest("here", &["io_core = 0", &format!("mac = \"{}\"", mac(1))])
        .guest("there", &["io_core = 2", &format!("mac = \"{}\"", mac(2))])
        .start();
    let [mut here, mut there] = rig.guests(["here", "there"]);
    // A net_pcap device receives what is in a file, once. Its only queue is the first core's.
    let file = rig.dir().join("wire.pcap");
    let for_guest = |number| addressed(9, [0x52, 0x54, 0, 0, 0, number]);
    let packets = (0..HERE + THERE).map(|nth| for_guest(if nth % 4 == 0 { 1 } else { 2 }));
    std::fs::write(&file, pcap(packets)).unwrap();
    rig.switch.must(&["uplink", "add", "wan", "--device", &format!("net_pcap0,rx_pcap={}", file.display())]).unwrap();
    assert_eq!((here.receive(HERE).len(), there.receive(THERE).len()), (HERE, THERE));
    rig.settle();
    assert_eq!(steering(&rig, "wan")["handed_over"], THERE);
    let text = http::get(port, "/metrics").unwrap().body;
    let line = format!("sidecore_uplink_handed_over_packets_total{{port=\"wan\"}} {THERE}");
    assert!(text.lines().any(|other| other == line), "no {line} in {text}");
    rig.finish(&mut [&mut here, &mut there]);
}
