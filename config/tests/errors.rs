//! Every error says which key on which line is wrong, and what to write instead.

use std::collections::BTreeMap;

use config::{Config, ConfigError, CpuId, Machine, Problem};

fn machine() -> Machine {
    Machine {
        online_cpus: Some([0, 1, 2, 3, 6].map(CpuId).into()),
        idle_driver: Some("none".to_owned()),
        users: Some(BTreeMap::from([("libvirt-qemu".to_owned(), 64055)])),
        groups: Some(BTreeMap::from([("kvm".to_owned(), 104)])),
    }
}

fn problems(text: &str) -> Vec<Problem> {
    match Config::parse(text, "test.toml", &machine()) {
        Ok(config) => panic!("accepted as {config:?}"),
        Err(error) => error.problems().to_vec(),
    }
}

/// Checks that `text` has one problem: its key, its line, and words of its message and remedy.
#[track_caller]
fn expect(text: &str, key: &str, line: usize, words: &str) {
    let problems = problems(text);
    let [problem] = problems.as_slice() else { panic!("not one problem: {problems:#?}") };
    let shown = problem.to_string();
    assert_eq!((problem.key.as_str(), problem.position.map(|at| at.line)), (key, Some(line)), "{shown}");
    assert!(shown.contains(words), "{words:?} is not in: {shown}");
    assert!(!problem.remedy.is_empty());
}

/// A configuration with one guest, whose section has the extra line 5.
fn guest(line: &str) -> String {
    format!("[switch]\nio_cores = [0, 1]\n[[guest]]\nname = \"a\"\n{line}\nsocket = \"/run/a\"\n")
}

/// A configuration with one uplink, whose section has the extra line 5.
fn uplink(line: &str) -> String {
    format!("[switch]\nio_cores = [0, 1]\n[[uplink]]\nname = \"a\"\n{line}\n")
}

#[test]
fn switch_values() {
    let switch = |line: &str| format!("[switch]\nio_cores = [0]\n{line}\n");
    expect("[switch]\nio_cores = [0, 1,\n 0]", "switch.io_cores[2]", 3, "CPU 0 is listed twice");
    expect("[switch]\nio_cores = [0, 4]", "switch.io_cores[1]", 2, "0-3,6");
    expect("[switch]\nio_cores = [-1]", "switch.io_cores[0]", 2, "-1 is not a CPU");
    expect("[switch]\nio_cores = []", "switch.io_cores", 2, "at least one CPU");
    expect("[switch]\nfdb_entries = 64", "switch.io_cores", 1, "the key io_cores is missing");
    expect("", "switch", 1, "[switch] is missing");
    expect(&switch("http_listen = \"localhost\""), "switch.http_listen", 3, "127.0.0.1:9464");
    expect(&switch("control_socket = \"control.sock\""), "switch.control_socket", 3, "absolute");
    expect(&switch("control_socket_mode = \"0990\""), "switch.control_socket_mode", 3, "octal");
    expect(&switch("control_socket_mode = 660"), "switch.control_socket_mode", 3, "in double quotes");
    expect(&switch("control_socket_group = \"nobody-here\""), "switch.control_socket_group", 3, "no group");
    expect(&switch("control_socket_owner = -1"), "switch.control_socket_owner", 3, "out of range");
    expect(&switch("fdb_entries = 1"), "switch.fdb_entries", 3, "from 64 to 1048576");
    expect(&switch("hugepages = \"yes\""), "switch.hugepages", 3, "write \"auto\", \"require\" or \"off\"");
    expect(&switch("mode = \"sleep\""), "switch.mode", 3, "\"adaptive\" or \"trap\"");
    expect(&switch("wake_latency_us = -1"), "switch.wake_latency_us", 3, "from 0 to 10000");
    expect(&switch("wake_latency_us = 0"), "switch.wake_latency_us", 3, "no cpuidle driver");
    expect(&switch("hugepage = \"off\""), "switch.hugepage", 3, "did you mean hugepages?");
    expect(&switch("state_file = \"state.json\""), "switch.state_file", 3, "absolute");
}

#[test]
fn io_cores_of_which_some_may_be_parked() {
    let switch = |value: &str| format!("[switch]\nio_cores = {value}\n");
    expect(&switch("{ cpus = [0, 1], min = 3 }"), "switch.io_cores.min", 2, "there are 2 CPUs in cpus");
    expect(&switch("{ cpus = [0], min = 2 }"), "switch.io_cores.min", 2, "there is 1 CPU in cpus");
    expect(&switch("{ cpus = [0, 1], min = 0 }"), "switch.io_cores.min", 2, "from 1 to 2");
    expect(&switch("{ cpus = [0, 0], min = 1 }"), "switch.io_cores.cpus[1]", 2, "CPU 0 is listed twice");
    expect(&switch("{ min = 1 }"), "switch.io_cores.cpus", 2, "at least one CPU");
    expect(&switch("{ cpu = [0, 1], min = 1 }"), "switch.io_cores.cpu", 2, "did you mean cpus?");
    expect(&switch("{ cpus = [0, 1], min = \"one\" }"), "switch.io_cores.min", 2, "from 1 to 64");
    expect(&switch("2"), "switch.io_cores", 2, "a list of numbers: [1, 2, 3] or a table such as { cpus");
}

#[test]
fn values_of_another_kind() {
    let switch = |line: &str| format!("[switch]\nio_cores = [0]\n{line}\n");
    let cores = |value: &str| format!("[switch]\nio_cores = {value}\n");
    let cases = [
        (switch("hugepages = true"), "true is a boolean", "write \"auto\", \"require\" or \"off\""),
        (switch("wake_latency_us = 0.5"), "0.5 is not a whole number", "write a whole number from 0 to 10000"),
        (switch("fdb_entries = 99999999999999999999"), "is out of range", "write a whole number from 64 to 1048576"),
        (
            switch("mode = \"polling\""),
            "\"polling\" is nothing that mode can be",
            "did you mean \"poll\"? Otherwise write \"poll\", \"adaptive\" or \"trap\"",
        ),
        (switch("http_listen = 9464"), "9464 is a number", "write a text in double quotes, such as \"127.0.0.1:9464\""),
        (switch("control_socket_owner = 1.5"), "1.5 is a number", "write a whole number or a text in double quotes"),
        (
            cores("\"1-3\""),
            "\"1-3\" is a text",
            "write a list of numbers: [1, 2, 3] or a table such as { cpus = [2, 3, 4, 5], min = 1 }",
        ),
        (cores("[0, true]"), "true is a boolean", "write a whole number"),
        (
            guest("stations = \"52:54:00:00:00:01\""),
            "\"52:54:00:00:00:01\" is a text",
            "write a list of texts: [\"52:54:00:00:00:02\"]",
        ),
        (guest("stations = [5]"), "5 is a number", "write a text in double quotes, such as \"52:54:00:00:00:02\""),
        (guest("vlan = { access = \"7\" }"), "\"7\" is a text", "write a whole number from 1 to 4094"),
        (guest("vlan = [7]"), "the value is a list", "write a table such as { access = 10 }"),
    ];
    for (text, message, remedy) in cases {
        let problems = problems(&text);
        let [problem] = problems.as_slice() else { panic!("not one problem: {problems:#?}") };
        assert!(problem.message.contains(message), "{problem}");
        assert_eq!(problem.remedy, remedy, "{problem}");
    }
}

#[test]
fn keys_of_another_section() {
    let switch = |line: &str| format!("[switch]\nio_cores = [0]\n{line}\n");
    expect(&switch("rebalance = true"), "switch.rebalance", 3, "remedy: rebalance belongs in [scheduler]");
    expect(&switch("vlan = { access = 7 }"), "switch.vlan", 3, "vlan belongs in [[guest]] or [[uplink]]");
    expect(&guest("vlan = { access = 7, mtu = 1500 }"), "guest[0].vlan.mtu", 5, "mtu belongs in [[guest]]");
    expect("io_cores = [0]\n[switch]\nio_cores = [0]", "io_cores", 1, "io_cores belongs in [switch]");
}

#[test]
fn limits_that_are_none() {
    let switch = |line: &str| format!("[switch]\nio_cores = [0]\n{line}\n");
    let limit = switch("fdb_entries = 1000\nlearn_limit_per_port = 1001");
    expect(&limit, "switch.learn_limit_per_port", 4, "fdb_entries is 1000");
    let config = Config::parse(&switch("fdb_entries = 1000"), "test.toml", &machine()).unwrap();
    assert_eq!(config.switch.learn_limit_per_port, 1000);
    expect(&switch("http_listen = \"127.0.0.1:0\""), "switch.http_listen", 3, "port 0");
    let trap = |guests: usize, mode: &str| -> String {
        let guest = |index| format!("[[guest]]\n{mode}\nname = \"g{index}\"\nsocket = \"/run/g{index}\"\n");
        (0..guests).map(guest).collect()
    };
    let many = switch(&trap(66, "mode = \"trap\""));
    expect(&many, "guest[63].mode", 5 + 4 * 63 - 1, "63 guests at most beside 1 I/O core, and there are 66");
    let many = switch(&format!("mode = \"trap\"\n{}", trap(64, "")));
    expect(&many, "guest[63]", 4 + 4 * 63, "63 guests at most");
    Config::parse(&switch(&trap(63, "mode = \"trap\"")), "test.toml", &machine()).unwrap();
}

#[test]
fn cpus_that_are_not_online_are_one_problem() {
    let cpus: Vec<String> = (0..64).rev().map(|cpu| cpu.to_string()).collect();
    let text = format!("[switch]\nio_cores = [{}]", cpus.join(", "));
    expect(&text, "switch.io_cores", 2, "CPUs 4-5,7-63 are not online on this machine");
}

#[test]
fn one_is_not_many() {
    let one = |text: String| text.replace("[0, 1]", "[0]");
    expect(&one(guest("io_core = 1")), "guest[0].io_core", 5, "write a position in that list, 0, not");
    expect(&one(uplink("device = \"net_null0\"\nqueues = 2")), "uplink[0].queues", 6, "there is 1");
    expect("[switch]\nio_cores = { cpus = [0], min = 0 }", "switch.io_cores.min", 2, "remedy: write 1");
}

#[test]
fn scheduler_values() {
    let scheduler = |line: &str| format!("[switch]\nio_cores = [0]\n[scheduler]\n{line}\n");
    expect(&scheduler("policy = \"fair\""), "scheduler.policy", 4, "\"least-loaded\"");
    expect(&scheduler("tick_ms = 0"), "scheduler.tick_ms", 4, "from 1 to 1000");
    expect(&scheduler("tick_ms = 1.5"), "scheduler.tick_ms", 4, "whole number");
    expect(&scheduler("busy = 0.4"), "scheduler.busy", 4, "from 0.5 to 1");
    expect(&scheduler("busy = 95"), "scheduler.busy", 4, "from 0.5 to 1");
    expect(&scheduler("busy = nan"), "scheduler.busy", 4, "from 0.5 to 1");
    expect(&scheduler("busy = \"most\""), "scheduler.busy", 4, "\"most\" is a text");
    expect(&scheduler("wait_us = 0"), "scheduler.wait_us", 4, "from 1 to 1000000");
    expect(&scheduler("gain = 0"), "scheduler.gain", 4, "from 0.001 to 1");
    expect(&scheduler("rebalance = \"no\""), "scheduler.rebalance", 4, "write true or false");
    expect(&scheduler("interval_ms = 5"), "scheduler.interval_ms", 4, "the keys here are");
    expect("[switch]\nio_cores = [0]\n[[scheduler]]\n", "scheduler", 3, "a section [scheduler]");
    expect("[switch]\nio_cores = [0]\n[schedular]\n", "schedular", 3, "did you mean scheduler?");
}

#[test]
fn shared_cpus_can_be_allowed() {
    Config::parse("[switch]\nio_cores = [0, 0]\nallow_shared_cpu = true", "test.toml", &machine()).unwrap();
}

#[test]
fn guest_values() {
    expect(&guest("mac = \"01:00:5e:00:00:01\""), "guest[0].mac", 5, "multicast");
    expect(&guest("mac = \"ff:ff:ff:ff:ff:ff\""), "guest[0].mac", 5, "is the broadcast address");
    expect(&guest("mac = \"52:54:00:00:01\""), "guest[0].mac", 5, "six pairs");
    expect(&guest("mac = 5"), "guest[0].mac", 5, "52:54:00:00:00:01");
    expect(&guest("mac = 5\nanti_spoof = true"), "guest[0].mac", 5, "52:54:00:00:00:01");
    expect(&guest("anti_spoof = true"), "guest[0].anti_spoof", 5, "without mac");
    expect(&guest("mtu = 67"), "guest[0].mtu", 5, "68 to 65535");
    expect(&guest("mtu = 65536"), "guest[0].mtu", 5, "68 to 65535");
    expect(&guest("mtu = 15e2"), "guest[0].mtu", 5, "whole number");
    expect(&guest("queue_pairs = 0"), "guest[0].queue_pairs", 5, "1 to 16");
    expect(&guest("mode = \"trap\"\nio_core = 1"), "guest[0].io_core", 6, "an I/O thread of its own");
    let trap = guest("io_core = 1").replacen("[0, 1]", "[0, 1]\nmode = \"trap\"", 1);
    expect(&trap, "guest[0].io_core", 6, "mode = \"trap\" in [switch]");
    assert!(Config::parse(&trap.replace("io_core =", "mode = \"poll\"\nio_core ="), "test.toml", &machine()).is_ok());
    expect(&guest("io_core = 2"), "guest[0].io_core", 5, "0 to 1");
    expect(&guest("io_core = -1"), "guest[0].io_core", 5, "0 to 1");
    expect(&guest("weight = 0"), "guest[0].weight", 5, "1 to 100");
    expect(&guest("weight = 101"), "guest[0].weight", 5, "1 to 100");
    expect(&guest("vm_name = \"\""), "guest[0].vm_name", 5, "1 to 128 characters");
    expect(&guest("vm_name = \"a\\nb\""), "guest[0].vm_name", 5, "control characters");
    expect(&guest("vm_uuid = \"3e2f0c4e-8a51-4c0f-9d3b\""), "guest[0].vm_uuid", 5, "hexadecimal digits");
    expect(&guest("class = \"fast\""), "guest[0].class", 5, "\"latency\" or \"throughput\"");
    expect(&guest("interrupt_moderation = \"on\""), "guest[0].interrupt_moderation", 5, "\"adaptive\", \"fixed\"");
    expect(&guest("interrupt_delay_us = 0"), "guest[0].interrupt_delay_us", 5, "from 1 to 10000");
    let both = guest("class = \"latency\"\ninterrupt_moderation = \"fixed\"");
    expect(&both, "guest[0].interrupt_moderation", 6, "no interrupt is held back");
    expect(&guest("socket_role = \"host\""), "guest[0].socket_role", 5, "\"client\"");
    expect(&guest("socket_owner = \"qemu\""), "guest[0].socket_owner", 5, "no user");
    expect(&guest("socket_role = \"client\"\nsocket_mode = \"0666\""), "guest[0].socket_mode", 6, "frontend makes");
    expect(&guest("checksum_offload = false\ntso = true"), "guest[0].tso", 6, "checksum_offload = true");
    expect(&guest("macc = \"52:54:00:00:00:01\""), "guest[0].macc", 5, "did you mean mac?");
    expect(&guest("colour = \"blue\""), "guest[0].colour", 5, "the keys here are");
    expect(&guest("packed = \"yes\""), "guest[0].packed", 5, "write true or false");
}

#[test]
fn socket_paths() {
    let with_socket =
        |socket: &str| format!("[switch]\nio_cores = [0]\n[[guest]]\nname = \"a\"\nsocket = \"{socket}\"");
    expect(&with_socket(&format!("/run/{}", "x".repeat(103))), "guest[0].socket", 5, "at most 107 bytes");
    Config::parse(&with_socket(&format!("/run/{}", "x".repeat(102))), "test.toml", &machine()).unwrap();
    expect(&with_socket("/run/sidecore/"), "guest[0].socket", 5, "directory");
    expect(&with_socket("a.sock"), "guest[0].socket", 5, "absolute");
    expect(&with_socket("/run/a\\u0000b"), "guest[0].socket", 5, "absolute");
    expect(&with_socket("/run/sidecore/control.sock"), "guest[0].socket", 5, "taken by the control socket");
}

#[test]
fn vlans() {
    expect(&guest("vlan = { access = 0 }"), "guest[0].vlan.access", 5, "1 to 4094");
    expect(&guest("vlan = { access = 4095 }"), "guest[0].vlan.access", 5, "1 to 4094");
    expect(&guest("vlan = { trunk = [10, 5000] }"), "guest[0].vlan.trunk[1]", 5, "1 to 4094");
    expect(&guest("vlan = { trunk = [5000] }"), "guest[0].vlan.trunk[0]", 5, "1 to 4094");
    expect(&guest("vlan = { trunk = [10, 20], native = 20 }"), "guest[0].vlan.native", 5, "also in the list");
    expect(&guest("vlan = { access = 10, native = 1 }"), "guest[0].vlan.native", 5, "no native VLAN");
    expect(&guest("vlan = { access = 10, trunk = \"all\" }"), "guest[0].vlan.access", 5, "not both");
    expect(&guest("vlan = { native = 10 }"), "guest[0].vlan", 5, "neither access nor trunk");
    expect(&guest("vlan = { trunk = [] }"), "guest[0].vlan.trunk", 5, "carries nothing");
    expect(&guest("vlan = { trunk = \"any\" }"), "guest[0].vlan.trunk", 5, "\"all\" or a list of numbers");
    expect(&guest("vlan = { acces = 10 }"), "guest[0].vlan.acces", 5, "did you mean access?");
    expect(&guest("vlan = 10"), "guest[0].vlan", 5, "{ access = 10 }");
}

#[test]
fn uplink_values() {
    expect(&uplink("device = \"eth0\""), "uplink[0].device", 5, "net_af_xdp0,iface=eth0");
    expect(&uplink("device = \"net_af_packet0\""), "uplink[0].device", 5, "which network interface");
    expect(&uplink("device = \"0000:03:00\""), "uplink[0].device", 5, "lspci -D");
    expect(&uplink("device = \"net_af_xdp0,iface=e\"\nmtu = 9000"), "uplink[0].mtu", 6, "3520");
    expect(&uplink("device = \"net_null0\"\nqueues = 3"), "uplink[0].queues", 6, "at most 2");
    expect(&uplink("mtu = 1500"), "uplink[0].device", 3, "the key device is missing");
}

#[test]
fn what_only_one_port_may_have() {
    let text = "[switch]\nio_cores = [0]\n[[guest]]\nname = \"a\"\nsocket = \"/run/a\"\n";
    let second = |section: &str| format!("{text}{section}");
    expect(&second("[[guest]]\nname = \"a\"\nsocket = \"/run/b\""), "guest[1].name", 7, "guest[0].name (line 4)");
    expect(
        &second("[[guest]]\nname = \"b\"\nsocket = \"/run//./a\""),
        "guest[1].socket",
        8,
        "guest[0].socket (line 5)",
    );
    expect(&second("[[uplink]]\nname = \"a\"\ndevice = \"net_null0\""), "uplink[0].name", 7, "guest[0].name (line 4)");
    let nic = "[switch]\nio_cores = [0]\n[[uplink]]\nname = \"a\"\ndevice = \"0000:03:00.0\"\n";
    let again = format!("{nic}[[uplink]]\nname = \"b\"\ndevice = \"03:00.0,x=1\"");
    expect(&again, "uplink[1].device", 8, "uplink[0].device (line 5)");
    let uplinks = |first: &str, second: &str| {
        let section = |name, device| format!("[[uplink]]\nname = \"{name}\"\ndevice = \"{device}\"\n");
        format!("[switch]\nio_cores = [0]\n{}{}", section("a", first), section("b", second))
    };
    let again = uplinks("net_af_packet1,iface=eth1", "net_af_xdp2,start_queue=1,iface=eth1");
    expect(&again, "uplink[1].device", 8, "the interface \"eth1\" is taken by uplink[0].device (line 5)");
    // The interface that net_tap makes is its own, and may have any name.
    assert!(Config::parse(&uplinks("net_af_packet1,iface=t", "net_tap0,iface=t"), "test.toml", &machine()).is_ok());
}

#[test]
fn an_address_in_a_vlan_is_one_port_s() {
    let mac = "mac = \"52:54:00:00:00:01\"";
    let stations = "stations = [\"52:54:00:00:00:02\", \"52:54:00:00:00:01\"]";
    // Line 6 of the first guest, 10 of the second, 14 of the uplink.
    let ports = |first: &str, second: &str, uplink: &str| {
        let section = |kind, name, what, line| format!("[[{kind}]]\nname = \"{name}\"\n{what}\n{line}\n");
        let first = section("guest", "a", "socket = \"/run/a\"", first);
        let second = section("guest", "b", "socket = \"/run/b\"", second);
        let uplink = section("uplink", "u", "device = \"net_null0\"", uplink);
        format!("[switch]\nio_cores = [0]\n{first}{second}{uplink}")
    };
    let taken = "52:54:00:00:00:01 in VLAN 1 is taken by guest[0].mac (line 6)";
    expect(&ports(mac, mac, ""), "guest[1].mac", 10, taken);
    expect(&ports(&format!("{mac}\nanti_spoof = true"), mac, ""), "guest[1].mac", 11, taken);
    expect(&ports(mac, stations, ""), "guest[1].stations[1]", 10, taken);
    expect(&ports(mac, "", stations), "uplink[0].stations[1]", 14, taken);
    let trunk = |vlans: &str| format!("vlan = {{ {vlans} }}\n{mac}");
    expect(&ports(&trunk("access = 7"), &trunk("trunk = [5, 6, 7]"), ""), "guest[1].mac", 12, "in VLAN 7 is taken");
    expect(
        &ports(&trunk("trunk = \"all\", native = 7"), &trunk("access = 7"), ""),
        "guest[1].mac",
        12,
        "in VLAN 7 is taken",
    );
    for apart in [
        ports(mac, &trunk("access = 2"), &format!("vlan = {{ trunk = [4, 5] }}\n{stations}")),
        ports(&trunk("trunk = \"all\", native = 2"), mac, ""),
        ports(&format!("{mac}\n{stations}"), "", ""),
    ] {
        Config::parse(&apart, "test.toml", &machine()).unwrap();
    }
}

#[test]
fn addresses_need_a_vlan_to_be_fixed_in() {
    let all = |line: &str| guest(&format!("vlan = {{ trunk = \"all\" }}\n{line}"));
    expect(&all("mac = \"52:54:00:00:00:01\""), "guest[0].mac", 6, "list the VLANs in trunk, or set native");
    expect(&all("stations = [\"52:54:00:00:00:01\"]"), "guest[0].stations", 6, "no VLAN in which");
    let up = "device = \"net_null0\"\nvlan = { trunk = \"all\" }\nstations = [\"52:54:00:00:00:01\"]";
    expect(&uplink(up), "uplink[0].stations", 7, "no VLAN in which");
    let with_native = all("mac = \"52:54:00:00:00:01\"").replace("\"all\"", "\"all\", native = 3");
    Config::parse(&with_native, "test.toml", &machine()).unwrap();
}

#[test]
fn sections() {
    expect("[switch]\nio_cores = [0]\n[[guests]]\nname = \"a\"", "guests", 3, "did you mean guest?");
    expect("[switch]\nio_cores = [0]\n[guest]\nname = \"a\"", "guest", 3, "two brackets");
    expect("switch = 3", "switch", 1, "should be a table");
    expect("[swich]\nio_cores = [0]", "swich", 1, "did you mean switch?");
    expect("[switch]\nio_cores = [0]\nguest = [1]", "switch.guest", 3, "there is no key");
    expect("guest = [1]\n[switch]\nio_cores = [0]", "guest[0]", 1, "should be a table");
}

#[test]
fn columns_count_characters() {
    let problems = problems("[switch]\nlog_level = \"info\" # ü\nio_cores = [0, 'é']");
    assert_eq!(problems[0].position.map(|at| (at.line, at.column)), Some((3, 16)));
}

#[test]
fn several_problems_are_reported_together_in_the_order_of_the_text() {
    let text = r#"
[switch]
io_cores = [0, 0]
log_level = 7

[[guest]]
name = "bad name"
socket = "/run/a"
mtu = "big"
packed = 1
unknown_thing = 1

[[uplink]]
name = "up"
device = "eth0"
mtu = 1
"#;
    let found: Vec<_> = problems(text).iter().map(|p| (p.position.map_or(0, |at| at.line), p.key.clone())).collect();
    let expected = [
        (3, "switch.io_cores[1]"),
        (4, "switch.log_level"),
        (7, "guest[0].name"),
        (9, "guest[0].mtu"),
        (10, "guest[0].packed"),
        (11, "guest[0].unknown_thing"),
        (15, "uplink[0].device"),
        (16, "uplink[0].mtu"),
    ];
    assert_eq!(found, expected.map(|(line, key)| (line, key.to_owned())));
}

#[test]
fn syntax_errors_have_a_line() {
    let problems = problems("[switch]\nio_cores = [0\n[[guest]]\nname = a\n");
    assert!(problems[0].position.is_some());
    assert!(problems[0].to_string().starts_with("test.toml:"), "{}", problems[0]);
    expect("[switch]\nio_cores = [0]\nio_cores = [1]", "", 3, "not TOML");
    expect(
        &guest("socket_mode = 0660"),
        "",
        5,
        "numbers cannot begin with 0; a mode is a text: socket_mode = \"0660\"",
    );
}

#[test]
fn a_file_that_is_not_there() {
    let error = Config::load("/nonexistent/sidecore.toml".as_ref(), &machine()).unwrap_err();
    assert!(matches!(error, ConfigError::Read { .. }));
    assert!(error.to_string().contains("/nonexistent/sidecore.toml"));
}

#[test]
fn files_that_are_no_text() {
    let folder = tempfile::tempdir().unwrap();
    let error = Config::load(folder.path(), &machine()).unwrap_err().to_string();
    assert!(error.ends_with("remedy: it is a directory: name the file in it"), "{error}");
    let file = folder.path().join("sidecore.toml");
    std::fs::write(&file, b"[switch]\nlog_level = \"\xe9\"").unwrap();
    let error = Config::load(&file, &machine()).unwrap_err().to_string();
    assert!(error.ends_with("byte 23 (line 2) is not UTF-8\n    remedy: save the file as UTF-8"), "{error}");
}
