//! What `sidecore reload` has to do.

use config::{Config, Machine};
use serde_json::json;

const OLD: &str = r#"
[switch]
io_cores = [0, 1]
flood_rate_pps = 100
[scheduler]
gain = 0.1
tick_ms = 5
[[guest]]
name = "same"
socket = "/run/same"
[[guest]]
name = "goes"
socket = "/run/goes"
[[guest]]
name = "changes"
socket = "/run/changes"
mtu = 1500
[[uplink]]
name = "up"
device = "net_null0"
"#;

const NEW: &str = r#"
[switch]
io_cores = { cpus = [1], min = 1 }
[scheduler]
policy = "static"
[[guest]]
name = "comes"
socket = "/run/comes"
[[guest]]
name = "changes"
socket = "/run/changes"
vlan = { access = 5 }
class = "latency"
weight = 3
[[guest]]
name = "same"
socket = "/run/same"
queue_pairs = 1                     # its default, written out, is no difference
[[uplink]]
name = "up"
device = "net_null0"
"#;

#[test]
fn difference() {
    let parse = |text| Config::parse(text, "test.toml", &Machine::any()).unwrap();
    let diff = Config::diff(&parse(OLD), &parse(NEW));

    let guests = &diff.guests;
    assert_eq!(guests.added.iter().map(|guest| guest.name.as_str()).collect::<Vec<_>>(), ["comes"]);
    assert_eq!(guests.removed.iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["goes"]);
    assert_eq!(guests.changed.len(), 1);
    assert_eq!(guests.changed[0].keys, ["class", "interrupt_moderation", "mtu", "vlan", "weight"]);
    assert!(diff.uplinks.is_empty());

    let switch: Vec<_> = diff.switch.iter().map(|c| (c.key.as_str(), &c.old, &c.new, c.needs_restart)).collect();
    let expected =
        [("flood_rate_pps", &json!(100), &json!(50_000), false), ("io_cores", &json!([0, 1]), &json!([1]), true)];
    assert_eq!(switch, expected);
    assert_eq!(diff.needs_restart().collect::<Vec<_>>(), ["io_cores"]);

    let scheduler: Vec<_> = diff.scheduler.iter().map(|c| (c.key.as_str(), &c.old, &c.new, c.needs_restart)).collect();
    let expected = [("gain", &json!(0.1), &json!(0.05), false), ("policy", &json!("balance"), &json!("static"), false)];
    assert_eq!(scheduler, expected);
}
