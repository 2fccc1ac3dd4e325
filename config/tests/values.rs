//! What is accepted means what the documentation says, and survives being written out and read back.

use std::collections::BTreeMap;

use config::{
    Account, Class, Config, CpuId, Device, GuestConfig, GuestFeatures, Hugepages, InterruptModeration, IoCores,
    LogFormat, LogLevel, MacAddr, Machine, Mode, Policy, RawGuest, RawUplink, SchedulerConfig, SocketAccess,
    SocketMode, SocketRole, Station, SwitchConfig, Tagged, UplinkConfig, Vlan, VlanId,
};
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use serde_json::{Value, json};

fn parse(text: &str) -> Config {
    Config::parse(text, "test.toml", &Machine::any()).unwrap_or_else(|error| panic!("{error}"))
}

const MINIMAL: &str = r#"
[switch]
io_cores = [0, 1]
[[guest]]
name = "vm1"
socket = "/run/vm1"
[[uplink]]
name = "up"
device = "net_null0"
"#;

#[test]
fn examples_are_valid() {
    let demo = parse(include_str!("../examples/demo.toml"));
    assert_eq!(demo.guests.len(), 2);
    assert_eq!((demo.uplinks[0].name.as_str(), demo.uplinks[0].device.driver()), ("outside", Some("net_af_xdp")));
    assert_eq!(demo.switch.state_file, None);
    let laptop = parse(include_str!("../examples/laptop.toml"));
    assert_eq!(laptop.uplinks[0].device.driver(), Some("net_af_packet"));
    let server = parse(include_str!("../examples/server.toml"));
    assert_eq!(server.switch.io_cores, IoCores { cpus: (2..6).map(CpuId).collect(), min: 2 });
    assert_eq!((server.guests[1].class, server.guests[1].weight), (Class::Latency, 2));
    let interrupts = [0, 1].map(|nth| &server.guests[nth]).map(|g| (g.interrupt_moderation, g.interrupt_delay_us));
    assert_eq!(interrupts, [(InterruptModeration::Adaptive, 50), (InterruptModeration::None, 50)]);
    assert_eq!(server.guests[0].socket_access.group, Some(Account::Name("kvm".into())));
}

/// What the README has a reader write into `sidecore.toml`; a block without `[switch]` goes on from the first one.
#[test]
fn the_readmes_blocks_are_valid() {
    let readme = include_str!("../../README.md");
    let lines: Vec<&str> = readme.lines().map(str::trim).collect();
    let blocks: Vec<String> = lines
        .split(|line| *line == "```toml")
        .skip(1)
        .filter_map(|rest| Some(rest.split(|line| *line == "```").next()?.join("\n")))
        .collect();
    let [whole, guest] = &blocks[..] else { panic!("two blocks: {blocks:?}") };
    let first = parse(whole);
    assert_eq!((first.guests.len(), first.uplinks[0].device.driver()), (1, Some("net_af_packet")));
    let (switch, _) = whole.split_once("[[guest]]").unwrap();
    let second = parse(&format!("{switch}{guest}"));
    assert_eq!(second.guests[0].socket_access.group, Some(Account::Name("kvm".into())));
}

/// The defaults in the schema are written by hand next to each key; this holds them to what the checks do.
#[test]
fn documented_defaults_are_the_real_ones() {
    let schema = config::schema();
    let config = parse(MINIMAL);
    let sections = [
        ("Switch", serde_json::to_value(&config.switch).unwrap()),
        ("Scheduler", serde_json::to_value(config.scheduler).unwrap()),
        ("Elastic", json!({"min": 1})),
        ("Guest", serde_json::to_value(&config.guests[0]).unwrap()),
        ("Uplink", serde_json::to_value(&config.uplinks[0]).unwrap()),
    ];
    for (name, section) in sections {
        let keys = schema.pointer(&format!("/$defs/{name}/properties")).and_then(Value::as_object).unwrap();
        let required = schema.pointer(&format!("/$defs/{name}/required")).and_then(Value::as_array);
        for (key, about) in keys {
            let description = about["description"].as_str().unwrap_or_else(|| panic!("{key} is not documented"));
            if required.is_some_and(|required| required.contains(&json!(key))) {
                assert!(description.contains("Required."), "{key} is required, and its description does not say so");
                continue;
            }
            assert!(description.contains("Default: "), "the description of {key} does not name its default");
            match about.get("default") {
                Some(default) => assert_eq!(section.get(key), Some(default), "{name}.{key}"),
                // These follow from another key, or stand for a section's own table.
                None if ["tso", "vlan", "interrupt_moderation"].contains(&key.as_str()) => {}
                None => assert_eq!(section.get(key), None, "{name}.{key} has a default that the schema does not name"),
            }
        }
    }
    assert_eq!(config.scheduler, SchedulerConfig::default());
    assert_eq!(config.guests[0].vlan, Vlan::GUEST_DEFAULT);
    assert_eq!(config.uplinks[0].vlan, Vlan::UPLINK_DEFAULT);
    assert_eq!(config.guests[0].features, GuestFeatures::default());
}

#[test]
fn io_cores_are_a_list_or_a_table() {
    let io_cores = |value: &str| parse(&format!("[switch]\nio_cores = {value}")).switch.io_cores;
    let cpus = vec![CpuId(4), CpuId(2)];
    assert_eq!(io_cores("[4, 2]"), IoCores { cpus: cpus.clone(), min: 2 });
    assert_eq!(io_cores("{ cpus = [4, 2], min = 2 }"), io_cores("[4, 2]"));
    assert_eq!(io_cores("{ cpus = [4, 2] }"), IoCores { cpus, min: 1 });
}

#[test]
fn every_policy_has_a_name() {
    for name in [
        "static",
        "round-robin",
        "least-loaded",
        "balance",
        "ovs-cycles",
        "ovs-group",
        "ovs-auto-lb",
        "ovs-auto-lb-group",
    ] {
        let config = parse(&format!("[switch]\nio_cores = [0]\n[scheduler]\npolicy = \"{name}\""));
        assert_eq!(serde_json::to_value(config.scheduler.policy).unwrap(), json!(name));
    }
}

#[test]
fn tso_follows_checksum_offload() {
    let config = parse(&MINIMAL.replace("socket =", "checksum_offload = false\nsocket ="));
    assert!(!config.guests[0].features.checksum && !config.guests[0].features.tso);
}

#[test]
fn zero_flood_rate_is_no_limit() {
    let config = parse("[switch]\nio_cores = [0]\nflood_rate_pps = 0");
    assert_eq!(config.switch.flood_rate_pps, None);
}

#[test]
fn vlan_membership() {
    let id = |id: i64| VlanId::try_from(id).unwrap();
    let trunk = Vlan::Trunk { tagged: Tagged::Only([id(10), id(20)].into()), native: Some(id(1)) };
    assert!(trunk.is_tagged(id(10)) && trunk.contains(id(1)) && !trunk.is_tagged(id(1)) && !trunk.contains(id(30)));
    assert!(Vlan::UPLINK_DEFAULT.is_tagged(id(4094)) && !Vlan::UPLINK_DEFAULT.is_tagged(id(1)));
    assert_eq!(Vlan::Access(id(7)).untagged(), Some(id(7)));
    assert!(!Vlan::Access(id(7)).contains(id(8)));
    assert_eq!((trunk.named(), Vlan::UPLINK_DEFAULT.named()), (vec![id(1), id(10), id(20)], vec![id(1)]));
}

#[test]
fn ports_added_at_run_time_pass_the_same_checks() {
    let config = parse(MINIMAL);
    let machine = Machine::any();
    let context = config.context(&machine);
    let guest = |name: &str, socket: &str| RawGuest { name: name.into(), socket: socket.into(), ..RawGuest::default() };

    let added = GuestConfig::from_raw(&guest("vm2", "/run/vm2"), &context).unwrap();
    assert_eq!(added, GuestConfig::from_json(json!({"name": "vm2", "socket": "/run/vm2"}), &context).unwrap());

    let refused = |result: Result<GuestConfig, config::ConfigError>| result.unwrap_err().to_string();
    assert!(refused(GuestConfig::from_raw(&guest("up", "/run/vm2"), &context)).contains("taken by the uplink up"));
    assert!(refused(GuestConfig::from_raw(&guest("vm2", "/run/vm1"), &context)).contains("taken by the guest vm1"));
    let control = guest("vm2", "/run/sidecore/control.sock");
    assert!(refused(GuestConfig::from_raw(&control, &context)).contains("taken by the control socket"));
    let far_core = RawGuest { io_core: Some(2), ..guest("vm2", "/run/vm2") };
    assert!(refused(GuestConfig::from_raw(&far_core, &context)).contains("0 to 1"));
    assert!(
        refused(GuestConfig::from_json(json!({"name": "a", "sokcet": "/run/a"}), &context)).contains("mean socket?")
    );
    assert!(refused(GuestConfig::from_json(json!({"name": "a"}), &context)).contains("vhost-user socket"));
    assert!(refused(GuestConfig::from_json(json!([1]), &context)).contains("guest"));

    let mac = |name: &str| RawGuest { mac: Some("52:54:00:00:00:01".into()), ..guest(name, &format!("/run/{name}")) };
    let mut running = config.clone();
    running.guests.push(GuestConfig::from_raw(&mac("vm2"), &context).unwrap());
    let context = running.context(&machine);
    let again = refused(GuestConfig::from_raw(&mac("vm3"), &context));
    assert!(again.contains("guest.mac: 52:54:00:00:00:01 in VLAN 1 is taken by the guest vm2"), "{again}");

    let uplink = RawUplink { name: "up2".into(), device: "net_null0".into(), ..RawUplink::default() };
    let error = UplinkConfig::from_raw(&uplink, &context).unwrap_err();
    assert_eq!(error.problems()[0].key, "uplink.device");
    let uplink = json!({"name": "up2", "device": "net_null1", "vlan": {"access": 5}});
    assert_eq!(UplinkConfig::from_json(uplink, &context).unwrap().vlan.untagged().map(VlanId::get), Some(5));
    let router = json!({"name": "up2", "device": "net_null1", "stations": ["52:54:00:00:00:01"]});
    assert!(UplinkConfig::from_json(router, &context).unwrap_err().to_string().contains("taken by the guest vm2"));
}

#[test]
fn values_read_back_are_checked() {
    let wrong = json!({"name": "a", "socket": "relative"});
    assert!(serde_json::from_value::<GuestConfig>(wrong).unwrap_err().to_string().contains("absolute"));
}

#[test]
fn accounts_are_checked_where_they_are_known() {
    let text = "[switch]\nio_cores = [0]\ncontrol_socket_group = \"kvm\"\ncontrol_socket_owner = \"7\"";
    let machine = Machine { groups: Some(BTreeMap::from([("kvm".into(), 104)])), ..Machine::any() };
    let access = Config::parse(text, "test.toml", &machine).unwrap().switch.control_socket_access;
    assert_eq!(access.group.and_then(|group| machine.gid(&group)), Some(104));
    assert_eq!(access.owner, Some(Account::Id(7)));
}

fn vlan_id() -> impl Strategy<Value = VlanId> {
    (1i64..=4094).prop_map(|id| VlanId::try_from(id).unwrap())
}

fn vlan() -> impl Strategy<Value = Vlan> {
    let only = (btree_set(vlan_id(), 2..5), any::<bool>()).prop_map(|(mut ids, has_native)| {
        let native = if has_native { ids.pop_last() } else { None };
        Vlan::Trunk { tagged: Tagged::Only(ids), native }
    });
    prop_oneof![
        vlan_id().prop_map(Vlan::Access),
        only,
        option::of(vlan_id()).prop_map(|native| Vlan::Trunk { tagged: Tagged::All, native }),
    ]
}

fn access() -> impl Strategy<Value = SocketAccess> {
    let account = || prop_oneof![(0..u32::MAX).prop_map(Account::Id), "[a-z_][a-z0-9_-]{0,20}".prop_map(Account::Name)];
    (0u32..=0o777, option::of(account()), option::of(account())).prop_map(|(mode, owner, group)| {
        let mode: SocketMode = format!("{mode:04o}").parse().unwrap();
        SocketAccess { mode, owner, group }
    })
}

fn mac() -> impl Strategy<Value = MacAddr> {
    any::<[u8; 6]>().prop_map(|mut octets| {
        octets[0] = octets[0] & !1 | 2;
        MacAddr::try_from(octets).unwrap()
    })
}

fn features() -> impl Strategy<Value = GuestFeatures> {
    any::<[bool; 7]>().prop_map(|[packed, mergeable, event_idx, indirect, in_order, checksum, tso]| GuestFeatures {
        packed,
        mergeable,
        event_idx,
        indirect,
        in_order,
        checksum,
        tso: tso && checksum,
    })
}

fn stations() -> impl Strategy<Value = Vec<Station>> {
    proptest::collection::vec(mac().prop_map(Station::from), 0..3)
}

fn stations_of_uplink() -> impl Strategy<Value = Vec<Station>> {
    let zero: Station = "00:00:00:00:00:00".parse().unwrap();
    (any::<bool>(), stations()).prop_map(move |(has_zero, mut stations)| {
        stations.extend(has_zero.then_some(zero));
        stations
    })
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Poll), Just(Mode::Adaptive), Just(Mode::Trap)]
}

prop_compose! {
    fn guest()(
        mac in option::of(mac()),
        stations in stations(),
        spoof in any::<bool>(),
        client in any::<bool>(),
        access in access(),
        queue_pairs in 1u16..=16,
        io_core in option::of(0usize..2),
        (latency, weight, mode) in (any::<bool>(), 1u32..=100, option::of(mode())),
        vm in option::of(("[a-zäÖ \"]{1,128}", "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")),
        (fixed, interrupt_delay_us) in (any::<bool>(), 1u32..=10_000),
        mtu in option::of(68u16..),
        vlan in vlan(),
        features in features(),
    ) -> GuestConfig {
        let no_access = SocketAccess { mode: SocketMode::DEFAULT, owner: None, group: None };
        GuestConfig {
            name: "x".parse().unwrap(),
            socket: "/run/x".into(),
            socket_role: if client { SocketRole::Client } else { SocketRole::Server },
            socket_access: if client { no_access } else { access },
            queue_pairs,
            // A guest of its own thread is on no I/O core.
            io_core: io_core.filter(|_| mode != Some(Mode::Trap)),
            class: if latency { Class::Latency } else { Class::Throughput },
            weight,
            vm_name: vm.as_ref().map(|(name, _)| name.parse().unwrap()),
            vm_uuid: vm.as_ref().map(|(_, uuid)| uuid.parse().unwrap()),
            mode,
            interrupt_moderation: match (latency, fixed) {
                (true, _) => InterruptModeration::None,
                (false, true) => InterruptModeration::Fixed,
                (false, false) => InterruptModeration::Adaptive,
            },
            interrupt_delay_us,
            mac: mac.filter(|_| !vlan.named().is_empty()),
            anti_spoof: spoof && mac.is_some() && !vlan.named().is_empty(),
            stations: if vlan.named().is_empty() { Vec::new() } else { stations },
            mtu,
            vlan,
            features,
        }
    }
}

prop_compose! {
    fn uplink()(
        device in prop_oneof![
            Just("0000:03:00.0"),
            Just("net_af_xdp0,iface=veth0,start_queue=1"),
            Just("net_ring0"),
        ],
        queues in option::of(1u16..=2),
        stations in stations_of_uplink(),
        mtu in option::of(68u16..=3520),
        vlan in vlan(),
    ) -> UplinkConfig {
        UplinkConfig {
            name: "x".parse().unwrap(),
            device: device.parse::<Device>().unwrap(),
            queues,
            stations: if vlan.named().is_empty() { Vec::new() } else { stations },
            mtu,
            vlan,
        }
    }
}

prop_compose! {
    fn switch()(
        (allow_shared_cpu, mode, wake_latency_us) in (any::<bool>(), mode(), option::of(0u32..=10_000)),
        min in 1usize..=2,
        hugepages in prop_oneof![Just(Hugepages::Auto), Just(Hugepages::Require), Just(Hugepages::Off)],
        memory_mib in option::of(64u32..4096),
        access in access(),
        http in option::of(any::<std::net::SocketAddr>()),
        state in option::of(Just("/var/lib/sidecore/state.json".into())),
        numbers in (64u32..9999, 1u32..9999, 1u32..9999, 1u32..9999, option::of(1u32..9999)),
        (log_level, log_format) in (
            prop_oneof![Just(LogLevel::Error), Just(LogLevel::Trace)],
            prop_oneof![Just(LogFormat::Text), Just(LogFormat::Json)],
        ),
    ) -> SwitchConfig {
        SwitchConfig {
            io_cores: IoCores { cpus: vec![CpuId(2), if allow_shared_cpu { CpuId(2) } else { CpuId(5) }], min },
            allow_shared_cpu,
            mode,
            wake_latency_us,
            hugepages,
            memory_mib,
            control_socket: "/run/control".into(),
            control_socket_access: access,
            // A scope and a flow label have no place in the text of an address.
            http_listen: http.map(|address| (address.ip(), address.port().max(1)).into()),
            state_file: state,
            fdb_entries: numbers.0,
            fdb_ageing_s: numbers.1,
            learn_limit_per_port: numbers.2.min(numbers.0),
            learn_rate_per_s: numbers.3,
            flood_rate_pps: numbers.4,
            log_level,
            log_format,
        }
    }
}

prop_compose! {
    fn scheduler()(
        policy in prop_oneof![Just(Policy::Balance), Just(Policy::RoundRobin), Just(Policy::OvsAutoLb)],
        rebalance in any::<bool>(),
        tick_ms in 1u32..=1000,
        busy in 0.5f64..=1.0,
        wait_us in 1u32..=1_000_000,
        gain in 0.001f64..=1.0,
    ) -> SchedulerConfig {
        SchedulerConfig { policy, rebalance, tick_ms, busy, wait_us, gain }
    }
}

prop_compose! {
    fn configuration()(
        switch in switch(),
        scheduler in scheduler(),
        mut guests in vec(guest(), 0..4),
        mut uplinks in vec(uplink(), 0..2),
    ) -> Config {
        for (index, guest) in guests.iter_mut().enumerate() {
            guest.name = format!("vm{index}").parse().unwrap();
            guest.socket = format!("/run/vm{index}").into();
            if switch.mode == Mode::Trap && guest.mode.is_none() {
                guest.io_core = None;
            }
        }
        for (index, uplink) in uplinks.iter_mut().enumerate() {
            uplink.name = format!("up{index}").parse().unwrap();
        }
        Config { switch, scheduler, guests, uplinks }
    }
}

proptest! {
    #[test]
    fn round_trip_through_toml_and_json(config in configuration()) {
        let text = toml::to_string(&config).unwrap();
        prop_assert_eq!(&parse(&text), &config, "{}", text);
        let value = serde_json::to_value(&config).unwrap();
        prop_assert_eq!(&serde_json::from_value::<Config>(value).unwrap(), &config);
        prop_assert!(Config::diff(&config, &config).is_empty());
    }

    #[test]
    fn a_difference_is_found_and_only_it(old in configuration(), other in configuration()) {
        let diff = Config::diff(&old, &other);
        let mut made = old.guests.clone();
        made.retain(|guest| !diff.guests.removed.contains(&guest.name));
        for change in &diff.guests.changed {
            prop_assert!(!change.keys.is_empty() && change.old != change.new);
            for guest in made.iter_mut().filter(|guest| guest.name == change.new.name) {
                *guest = change.new.clone();
            }
        }
        made.extend(diff.guests.added.iter().cloned());
        made.sort_by(|a, b| a.name.cmp(&b.name));
        prop_assert_eq!(made, other.guests);
        prop_assert_eq!(diff.switch.is_empty(), old.switch == other.switch);
        prop_assert_eq!(diff.scheduler.is_empty(), old.scheduler == other.scheduler);
    }

    #[test]
    fn no_text_panics(text in ".{0,200}") {
        let _ = Config::parse(&text, "test.toml", &Machine::any());
    }

    /// Texts that get past the parser: keys that exist, with values of every kind.
    #[test]
    fn no_values_panic(lines in vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..12)) {
        let keys: Vec<String> = ["Switch", "Scheduler", "Elastic", "Guest", "Uplink"]
            .iter()
            .flat_map(|name| config::schema()["$defs"][name]["properties"].as_object().unwrap().clone())
            .map(|(key, _)| key)
            .chain(["[switch]", "[scheduler]", "[[guest]]", "[[uplink]]", "vlan.trunk", "io_cores.min", "nothing", "\"é\""].map(str::to_owned))
            .collect();
        let values = [
            "0", "-1", "9223372036854775807", "1.5", "nan", "true", "\"\"", "\"all\"", "\"/run/é\"", "\"0660\"",
            "[]", "[0, 0, -7]", "\"latency\"", "\"ovs-group\"", "0.6", "{ cpus = [1, 2], min = 2 }", "[[1]]", "{}", "{ access = 1 }", "{ trunk = [1], native = 1 }", "1979-05-27",
            "\"52:54:00:00:00:01\"", "\"net_af_xdp0,iface=x\"", "\"03:00.0\"", "99999999999999999999",
        ];
        let mut text = String::new();
        for (key, value) in &lines {
            let key = key.get(&keys);
            text += &if key.starts_with('[') { format!("{key}\n") } else { format!("{key} = {}\n", value.get(&values)) };
        }
        match Config::parse(&text, "test.toml", &Machine::any()) {
            Ok(_) => {}
            Err(error) => {
                prop_assert!(!error.problems().is_empty());
                for problem in error.problems() {
                    prop_assert!(problem.position.is_some() && !problem.remedy.is_empty(), "{}", problem);
                }
            }
        }
    }
}
