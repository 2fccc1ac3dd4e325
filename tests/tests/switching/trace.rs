//! `sidecore trace` says what becomes of a packet. Here each is asked about, then sent, and what was said is held against what was counted; the question
//! itself must have changed nothing.

use serde_json::{Value, json};
use sidecore_tests::process::eventually;
use synthetic_guest::packet::{FrameSpec, mac};
use synthetic_guest::{Features, GuestConfig};

use crate::frames::{Packet, addressed, one, tagged};
use crate::rig::{LIMIT, Node, Plan, Rig};

const BROADCAST: [u8; 6] = [0xff; 6];

fn text(mac: &[u8]) -> String {
    let bytes: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(":")
}

fn line(number: u32) -> String {
    format!("mac = \"{}\"", text(&mac(number)))
}

/// The question about this very frame (UDP over IPv4, with or without a tag).
fn question(from: &str, frame: &[u8]) -> Vec<String> {
    let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let address = |at: usize| frame[at..at + 4].iter().map(u8::to_string).collect::<Vec<_>>().join(".");
    let mut args = ["trace", "--json", "--from", from].map(str::to_owned).to_vec();
    let mut add = |name: &str, value: String| args.extend([name.to_owned(), value]);
    add("--mac", text(&frame[..6]));
    add("--src", text(&frame[6..12]));
    let has_tag = frame[12..14] == [0x81, 0x00];
    if has_tag {
        add("--vlan", (word(14) & 0xfff).to_string());
    }
    let l3 = if has_tag { 18 } else { 14 };
    add("--ip", format!("{},{}", address(l3 + 12), address(l3 + 16)));
    add("--udp", format!("{},{}", word(l3 + 20), word(l3 + 22)));
    add("--size", frame.len().to_string());
    args
}

/// All that a packet changes, without what changes by itself.
fn counted(rig: &Rig) -> Value {
    let status = rig.json();
    let part = |value: &Value, keys: &[&str]| -> Value {
        keys.iter().map(|key| ((*key).to_owned(), value[*key].clone())).collect::<serde_json::Map<_, _>>().into()
    };
    let list = |key: &str| status[key].as_array().unwrap().clone();
    let port = |port: &Value| {
        let queues = port["queues"].as_array().unwrap();
        let queues: Vec<Value> = queues.iter().map(|queue| part(queue, &["rx", "tx", "accounting"])).collect();
        (
            port["name"].as_str().unwrap().to_owned(),
            json!({ "sums": part(port, &["drops", "refused", "accounting"]), "queues": queues }),
        )
    };
    let ports: serde_json::Map<_, _> = list("ports").iter().map(port).collect();
    let core = |core: &Value| part(core, &["fdb_learned", "fdb_moves", "learn_refusals", "handed_over", "received"]);
    let cores: Vec<Value> = list("cores").iter().map(core).collect();
    json!({ "ports": ports, "cores": cores, "stations": rig.stations() })
}

/// What the switch says of a frame that comes in from `from`.
fn foretold(rig: &Rig, from: &str, frame: &[u8]) -> Value {
    let args = question(from, frame);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    serde_json::from_str(&rig.switch.must(&args).unwrap()).unwrap()
}

/// The difference of two counts at this place.
fn grown(before: &Value, after: &Value, place: &str) -> u64 {
    let count = |value: &Value| value.pointer(place).and_then(Value::as_u64).unwrap_or(0);
    count(after) - count(before)
}

/// Foretells what becomes of a packet, sends it, and compares. Returns what was foretold.
fn sent(rig: &Rig, from: (&str, &mut Node), packet: &Packet) -> Value {
    let (name, node) = from;
    rig.settle();
    let before = counted(rig);
    let told = foretold(rig, name, &packet.bytes);
    assert_eq!(counted(rig), before, "the question changed something: {told}");
    node.send(std::slice::from_ref(packet));
    rig.settle();
    compare(name, &told, &before, &counted(rig));
    told
}

fn compare(from: &str, told: &Value, before: &Value, after: &Value) {
    let note = || format!("{told:#}\nfrom {before:#}\nto {after:#}");
    let copies = told["copies"].as_array().unwrap();
    let is = |copy: &&Value, outcome: &str| copy["outcome"] == outcome;
    // Where packets came out, and as how many bytes.
    for (port, state) in before["ports"].as_object().unwrap() {
        let out = if port == "up" { "tx" } else { "rx" };
        for queue in 0..state["queues"].as_array().unwrap().len() {
            let here = copies.iter().filter(|copy| copy["port"] == *port && copy["queue"] == queue);
            let here: Vec<&Value> = here.filter(|copy| is(copy, "delivered")).collect();
            let bytes = here.iter().map(|copy| copy["bytes"].as_u64().unwrap()).sum::<u64>();
            let place = |what: &str| format!("/ports/{port}/queues/{queue}/{out}/{what}");
            assert_eq!(grown(before, after, &place("packets")), here.len() as u64, "{port} {queue}: {}", note());
            assert_eq!(grown(before, after, &place("bytes")), bytes, "{port} {queue}: {}", note());
        }
    }
    // What the sender's account says.
    let account = |what: &str| grown(before, after, &format!("/ports/{from}/sums/accounting/{what}"));
    let verdict = told["verdict"].as_str().unwrap();
    let flooded = verdict == "flooded";
    assert_eq!(account("pulled"), 1, "{}", note());
    assert_eq!(account("forwarded"), u64::from(verdict != "dropped"), "{}", note());
    assert_eq!(account("copies"), if flooded { copies.len() as u64 } else { 0 }, "{}", note());
    let mut drops = std::collections::BTreeMap::<String, u64>::new();
    let lost = copies.iter().filter(|copy| flooded && is(copy, "dropped")).map(|copy| &copy["drop"]);
    for reason in lost.chain((verdict == "dropped").then_some(&told["drop"])) {
        *drops.entry(reason.as_str().unwrap().to_owned()).or_default() += 1;
    }
    let reasons = after.pointer(&format!("/ports/{from}/sums/drops")).unwrap().as_object().unwrap();
    for reason in reasons.keys().chain(drops.keys()) {
        let place = format!("/ports/{from}/sums/drops/{reason}");
        assert_eq!(grown(before, after, &place), drops.get(reason).copied().unwrap_or(0), "{reason}: {}", note());
    }
    // What was learnt, and what went from core to core.
    let cores = 0..before["cores"].as_array().unwrap().len();
    let all =
        |what: &str| cores.clone().map(|core| grown(before, after, &format!("/cores/{core}/{what}"))).sum::<u64>();
    let learning = &told["learning"];
    assert_eq!(all("fdb_learned"), u64::from(learning["outcome"] == "new"), "{}", note());
    assert_eq!(all("fdb_moves"), u64::from(learning["outcome"] == "moved"), "{}", note());
    if let Some(refusal) = learning["refusal"].as_str() {
        assert_eq!(all(&format!("learn_refusals/{refusal}")), 1, "{}", note());
    }
    let handed = copies.iter().filter(|copy| copy["handed_over"] == true && copy["drop"] != "xcore_full");
    let cores: std::collections::BTreeSet<u64> = handed.map(|copy| copy["io_core"].as_u64().unwrap()).collect();
    assert_eq!(all("handed_over"), cores.len() as u64, "{}", note());
}

/// Ports of every kind, on three I/O cores.
fn plan() -> Plan {
    Plan::three_still_cores()
        .guest("a", &["io_core = 0", "vlan = { access = 10 }", &line(1), "anti_spoof = true"])
        .guest("b", &["io_core = 1", "vlan = { access = 10 }"])
        .guest("m", &["io_core = 2", "vlan = { access = 10 }", "queue_pairs = 2"])
        .guest("t", &["io_core = 2", "vlan = { trunk = [10, 20] }"])
        .guest("c", &["io_core = 0", "vlan = { access = 20 }"])
        .guest("alone", &["io_core = 0", "vlan = { access = 40 }"])
        .guest("down", &["vlan = { access = 10 }", &line(7)])
        .guest("full", &["io_core = 1", "vlan = { access = 10 }", &line(8)])
        .uplink("up", "net_null0,no-rx=1", &["vlan = { access = 10 }", &format!("stations = [\"{}\"]", text(&mac(99)))])
}

fn two_pairs(config: &mut GuestConfig) {
    config.queue_pairs = 2;
    config.session.features = config.session.features | Features::MQ;
}

#[test]
fn what_is_foretold_is_what_is_counted() {
    let rig = plan().start();
    let [mut a, mut t, mut c, mut alone] = rig.guests(["a", "t", "c", "alone"]);
    let mut b = rig.guest_with("b", |config| config.tx_frame_len = 9000);
    let mut m = rig.guest_with("m", two_pairs);
    let mut full = rig.guest_with("full", |config| config.rx_buffers = Some(1));
    full.guest.pair(0).rx.set_auto_refill(false);

    // A flood from a station that is not known: one guest is not there, one has a single buffer.
    let told = sent(&rig, ("b", &mut b), &addressed(2, BROADCAST));
    assert_eq!((&told["verdict"], &told["learning"]["outcome"]), (&json!("flooded"), &json!("new")));
    let to: Vec<&str> = told["copies"].as_array().unwrap().iter().map(|copy| copy["port"].as_str().unwrap()).collect();
    assert_eq!(to, ["up", "a", "m", "t", "down", "full"]);
    let told = sent(&rig, ("b", &mut b), &addressed(2, BROADCAST));
    assert_eq!(told["learning"]["outcome"], "known");
    let drops: Vec<&Value> = told["copies"].as_array().unwrap()[4..].iter().map(|copy| &copy["drop"]).collect();
    assert_eq!(drops, ["receiver_not_ready", "rx_full"]);

    // To one port: its entry and age, from core to core, on the way out with and without a tag.
    let told = sent(&rig, ("a", &mut a), &one(1, 2));
    assert_eq!((&told["verdict"], &told["vlan"], &told["io_core"]), (&json!("forwarded"), &json!(10), &json!(0)));
    assert_eq!(told["lookup"]["entry"]["port"], "b");
    assert_eq!((&told["lookup"]["entry"]["fixed"], &told["only_source"]), (&json!(false), &json!(text(&mac(1)))));
    assert_eq!((&told["copies"][0]["io_core"], &told["copies"][0]["handed_over"]), (&json!(1), &json!(true)));
    let told = sent(&rig, ("t", &mut t), &Packet::plain(tagged(&one(5, 1).bytes, 10)));
    assert_eq!((&told["lookup"]["entry"]["fixed"], &told["copies"][0]["tag"]), (&json!(true), &Value::Null));
    let told = sent(&rig, ("b", &mut b), &one(2, 5));
    assert_eq!((&told["copies"][0]["tag"], &told["copies"][0]["bytes"]), (&json!(10), &json!(64)));

    // One queue pair for each flow.
    sent(&rig, ("m", &mut m), &one(4, 2));
    let queue =
        |flow| sent(&rig, ("b", &mut b), &Packet::new(FrameSpec::udp4(2, 4, flow, 60)))["copies"][0]["queue"].clone();
    let queues: Vec<Value> = (0..8).map(queue).collect();
    assert!(queues.contains(&json!(0)) && queues.contains(&json!(1)), "{queues:?}");

    // All that is dropped.
    let dropped = |from: &str, node: &mut Node, packet: Packet, reason: &str| {
        let told = sent(&rig, (from, node), &packet);
        assert_eq!((&told["verdict"], &told["drop"]), (&json!("dropped"), &json!(reason)), "{told:#}");
    };
    dropped("a", &mut a, one(77, 2), "spoofed_source");
    dropped("b", &mut b, Packet::plain(tagged(&one(2, 1).bytes, 10)), "vlan_not_allowed");
    dropped("t", &mut t, Packet::plain(tagged(&one(5, 1).bytes, 30)), "vlan_not_allowed");
    dropped("t", &mut t, one(5, 1), "vlan_not_allowed");
    dropped("b", &mut b, addressed(2, [0x01, 0x80, 0xc2, 0, 0, 0x0e]), "reserved_multicast");
    dropped("b", &mut b, one(2, 2), "hairpin");
    dropped("c", &mut c, one(3, 3), "hairpin");
    dropped("alone", &mut alone, addressed(6, BROADCAST), "no_destination");
    dropped("m", &mut m, one(4, 7), "receiver_not_ready");
    dropped("m", &mut m, one(4, 8), "rx_full");
    dropped("b", &mut b, Packet::new(FrameSpec::udp4(2, 99, 0, 2000)), "too_long");

    // Others' addresses, the uplink, a VLAN with one more port.
    let told = sent(&rig, ("b", &mut b), &one(1, 4));
    assert_eq!((&told["learning"]["refusal"], &told["verdict"]), (&json!("fixed"), &json!("forwarded")));
    let told = sent(&rig, ("b", &mut b), &one(4, 99));
    assert_eq!((&told["learning"]["refusal"], &told["copies"][0]["port"]), (&json!("owned_by_guest"), &json!("up")));
    let told = sent(&rig, ("c", &mut c), &one(3, 50));
    assert_eq!((&told["verdict"], &told["lookup"]["entry"]), (&json!("flooded"), &Value::Null));
    assert_eq!((told["copies"].as_array().unwrap().len(), &told["copies"][0]["tag"]), (1, &json!(20)));
    rig.finish(&mut [&mut a, &mut b, &mut m, &mut t, &mut c, &mut alone, &mut full]);
}

/// A net_ring device gives back what it is sent: a flood of `a`'s comes in from the uplink, too. What was said of that, and what all cores have learnt,
/// moved and refused (for that reason) since.
fn came_back(rig: &Rig, a: &mut Node, number: u32) -> (Value, [u64; 3]) {
    let packet = addressed(number, BROADCAST);
    rig.settle();
    let before = counted(rig);
    let told = foretold(rig, "up", &packet.bytes);
    assert_eq!(counted(rig), before, "the question changed something: {told}");
    a.send(&[packet]);
    rig.settle();
    let after = counted(rig);
    let account = |what: &str| grown(&before, &after, &format!("/ports/up/sums/accounting/{what}"));
    assert_eq!((account("pulled"), &told["verdict"], account("copies")), (1, &json!("flooded"), 2));
    let to: Vec<&Value> = told["copies"].as_array().unwrap().iter().map(|copy| &copy["port"]).collect();
    assert_eq!(to, ["a", "b"]);
    let cores = 0..before["cores"].as_array().unwrap().len();
    let all = |what: &str| cores.clone().map(|core| grown(&before, &after, &format!("/cores/{core}/{what}"))).sum();
    let refusal = format!("learn_refusals/{}", told["learning"]["refusal"].as_str().unwrap_or("-"));
    let learning = told["learning"].clone();
    (learning, [all("fdb_learned"), all("fdb_moves"), all(&refusal)])
}

#[test]
fn what_comes_from_an_uplink_is_foretold_too() {
    let rig = Plan::three_still_cores()
        .key("learn_limit_per_port = 1")
        .guest("a", &["io_core = 0"])
        .guest("b", &["io_core = 1"])
        .uplink("up", "net_ring0", &[])
        .start();
    let [mut a, mut b] = rig.guests(["a", "b"]);
    a.send(&[addressed(1, BROADCAST)]);
    // Guest a keeps its address. It may have no other: the next one is learnt where it comes back.
    let (learning, counts) = came_back(&rig, &mut a, 1);
    assert_eq!((&learning["refusal"], counts), (&json!("owned_by_guest"), [0, 0, 1]));
    let (learning, counts) = came_back(&rig, &mut a, 2);
    assert_eq!((&learning["outcome"], counts), (&json!("new"), [1, 0, 0]));
    let (learning, counts) = came_back(&rig, &mut a, 2);
    assert_eq!((&learning["outcome"], &learning["entry"]["port"], counts), (&json!("known"), &json!("up"), [0, 0, 0]));
    // A station that was behind the uplink migrates in.
    let told = sent(&rig, ("b", &mut b), &one(2, 1));
    let learning = &told["learning"];
    assert_eq!((&learning["outcome"], &learning["entry"]["port"]), (&json!("moved"), &json!("up")));
    assert_eq!(sent(&rig, ("b", &mut b), &one(2, 1))["learning"]["outcome"], "known");
    let (learning, counts) = came_back(&rig, &mut a, 2);
    assert_eq!((&learning["refusal"], &learning["entry"]["port"]), (&json!("owned_by_guest"), &json!("b")));
    // Where it came from, and where it came back.
    assert_eq!(counts, [0, 0, 2]);
    assert_eq!((a.frames().len(), b.frames().len()), (7, 10));
    rig.finish(&mut [&mut a, &mut b]);
}

#[test]
fn whether_a_packet_fits_into_the_buffers_is_foretold() {
    let rig = Plan::three_still_cores()
        .guest("a", &["io_core = 0"])
        .guest("plain", &["io_core = 0"])
        .guest("merging", &["io_core = 1"])
        .guest("few", &["io_core = 2"])
        .start();
    let mut a = rig.guest_with("a", |config| config.tx_frame_len = 9216);
    let mut plain = rig.guest_with("plain", |_| ());
    let merges = |config: &mut GuestConfig| config.session.features = Features::VERSION_1 | Features::MRG_RXBUF;
    let mut merging = rig.guest_with("merging", merges);
    plain.send(&[addressed(2, BROADCAST)]);
    merging.send(&[addressed(3, BROADCAST)]);
    let mut few = rig.guest_with("few", |config| {
        merges(config);
        config.rx_buffers = Some(4);
    });
    few.guest.pair(0).rx.set_auto_refill(false);
    few.send(&[addressed(4, BROADCAST)]);
    let mut jumbo = |to| sent(&rig, ("a", &mut a), &Packet::new(FrameSpec::udp4(1, to, 0, 9000)));
    // Buffers of 1,600 bytes: one is too small, four are too few, and six are what it takes.
    for (to, verdict, drop) in [(2, "dropped", "too_long"), (3, "forwarded", "-"), (4, "dropped", "rx_full")] {
        let told = jumbo(to);
        assert_eq!((&told["verdict"], told["drop"].as_str().unwrap_or("-")), (&json!(verdict), drop), "{told:#}");
    }
    for to in [2, 3, 4] {
        assert_eq!(sent(&rig, ("a", &mut a), &one(1, to))["verdict"], "forwarded");
    }
    // Two floods, and what was forwarded.
    assert_eq!([&mut plain, &mut merging].map(|node| node.frames().len()), [3, 4]);
    rig.finish(&mut [&mut a, &mut plain, &mut merging, &mut few]);
}

#[test]
fn nothing_is_foretold_of_a_packet_that_nobody_looks_at() {
    let rig = Plan::new().key("flood_rate_pps = 100").guests(&["a", "b"]).start();
    let [mut a, mut b] = rig.guests(["a", "b"]);
    a.guest.enable_all(false).unwrap();
    let packet = addressed(1, BROADCAST);
    let is_disabled = || Ok((foretold(&rig, "a", &packet.bytes)["intake"] == "disabled").then_some(()));
    eventually("a disabled ring", LIMIT, is_disabled).unwrap();
    let told = sent(&rig, ("a", &mut a), &packet);
    assert_eq!((&told["verdict"], &told["drop"]), (&json!("dropped"), &json!("ring_disabled")));
    for step in ["only_source", "vlan", "learning", "lookup", "policing"] {
        assert_eq!(told[step], Value::Null, "{step}");
    }
    assert_eq!((&told["copies"], rig.stations().len()), (&json!([]), 0));
    rig.finish(&mut [&mut a, &mut b]);
}

#[test]
fn floods_that_are_policed_and_ports_that_have_learnt_enough_are_foretold() {
    let rig = Plan::new().key("flood_rate_pps = 1").key("learn_limit_per_port = 1").guests(&["a", "b"]).start();
    let [mut a, mut b] = rig.guests(["a", "b"]);
    let told = sent(&rig, ("a", &mut a), &addressed(1, BROADCAST));
    assert_eq!((&told["verdict"], &told["policing"]["tokens"]), (&json!("flooded"), &json!(1)));
    // Within a second of that there is none; where this process was kept waiting for longer there is one again.
    let told = (0..20).map(|_| {
        let begin = std::time::Instant::now();
        a.send(&[addressed(1, BROADCAST)]);
        let told = foretold(&rig, "a", &addressed(1, BROADCAST).bytes);
        a.send(&[addressed(1, BROADCAST)]);
        (begin.elapsed() < std::time::Duration::from_millis(900)).then_some(told)
    });
    let told = told.flatten().next().expect("a second in which this process runs");
    assert_eq!((&told["drop"], &told["policing"]["tokens"]), (&json!("flood_policed"), &json!(0)));
    assert!(rig.drops("a")["flood_policed"] >= 1);
    let told = sent(&rig, ("b", &mut b), &one(2, 1));
    assert_eq!(told["learning"]["outcome"], "new");
    let told = sent(&rig, ("b", &mut b), &one(3, 1));
    assert_eq!((&told["learning"]["refusal"], &told["verdict"]), (&json!("port_limit"), &json!("forwarded")));
    a.received();
    b.received();
    rig.finish(&mut [&mut a, &mut b]);
}

#[test]
fn people_read_it_too_and_what_cannot_be_asked_is_refused() {
    let rig = plan().start();
    let [mut a, mut b] = rig.guests(["a", "b"]);
    b.send(&[addressed(2, BROADCAST)]);
    let ask = |args: &str| rig.switch.must(&args.split(' ').collect::<Vec<_>>());
    // The source is the guest's own address where none is given.
    let text = ask("trace --from a --mac 02:5c:00:00:00:02").unwrap();
    let lines = [
        "from 02:5c:00:00:00:01 (configured)",
        "10: it has no tag",
        "02:5c:00:00:00:02 is behind b, learnt",
        "=>            forwarded to b",
    ];
    lines.iter().for_each(|line| assert!(text.contains(line), "{line} is not in\n{text}"));
    let text = ask("trace --from down --mac ff:ff:ff:ff:ff:ff").unwrap();
    assert!(text.contains("no rings are started") && text.contains("stays with down"), "{text}");
    assert_eq!(text.lines().count(), 3, "{text}");
    for (args, words) in [
        ("trace --from nobody --mac 02:5c:00:00:00:02", "nobody"),
        ("trace --from a --queue 7 --mac 02:5c:00:00:00:02", "no queue pair 7"),
        ("trace --from a --mac 02:5c", "is not a MAC address"),
        ("trace --from a --vlan 4096 --mac 02:5c:00:00:00:02", "does not fit into a VLAN tag"),
        ("trace --from a --size 10 --mac 02:5c:00:00:00:02", "a frame of 10 bytes"),
    ] {
        let error = format!("{:#}", ask(args).unwrap_err());
        assert!(error.contains(words), "{args}: {error}");
    }
    a.received();
    rig.finish_but(&mut [&mut a, &mut b], &["request refused"]);
}
