//! A `[[guest]]` section, or a guest added at run time.

use crate::check::access::{RawAccess, access};
use crate::check::vlan::{refuse_nowhere, vlan};
use crate::check::{Section, Surroundings, between};
use crate::error::ValueError;
use crate::model::{GuestConfig, GuestFeatures, MAX_IO_CORES, MAX_QUEUE_PAIRS, MAX_WEIGHT};
use crate::raw::{Class, InterruptModeration, Mode, RawGuest, SocketRole};
use crate::report::{Key, Report};
use crate::vlan::Vlan;

/// None if anything in it is wrong; that is reported.
pub(crate) fn guest(
    raw: &RawGuest,
    key: Key,
    around: &Surroundings<'_>,
    report: &mut Report<'_>,
) -> Option<GuestConfig> {
    let mut section = Section::new(key, report);
    let name = section.parse("name", &raw.name);
    let socket = section.socket_path("socket", &raw.socket);
    let socket_role = raw.socket_role.unwrap_or_default();
    let raw_access = RawAccess {
        mode: ("socket_mode", raw.socket_mode.as_deref()),
        owner: ("socket_owner", raw.socket_owner.as_ref()),
        group: ("socket_group", raw.socket_group.as_ref()),
    };
    let socket_access = access(&mut section, &raw_access, around);
    if socket_role == SocketRole::Client {
        refuse_access(&mut section, raw);
    }
    let queue_pairs = section.number("queue_pairs", raw.queue_pairs, 1..=i64::from(MAX_QUEUE_PAIRS)).unwrap_or(1);
    let io_core = io_core(&mut section, raw.io_core, around);
    if raw.mode.or(around.mode) == Some(Mode::Trap) && raw.io_core.is_some() {
        let message = match raw.mode {
            Some(_) => "a guest with mode = \"trap\" has an I/O thread of its own",
            None => "with mode = \"trap\" in [switch] the guest has an I/O thread of its own",
        };
        section.problem("io_core", message, "remove io_core, or choose another mode");
    }
    let weight = section.number("weight", raw.weight, 1..=i64::from(MAX_WEIGHT)).unwrap_or(1);
    let vm_name = raw.vm_name.as_deref().and_then(|text| section.parse("vm_name", text));
    let vm_uuid = raw.vm_uuid.as_deref().and_then(|text| section.parse("vm_uuid", text));
    let class = raw.class.unwrap_or_default();
    let interrupt_moderation = interrupt_moderation(&mut section, raw, class);
    let interrupt_delay_us = section.number("interrupt_delay_us", raw.interrupt_delay_us, 1..=10_000).unwrap_or(50);
    let mac = raw.mac.as_deref().and_then(|text| section.parse("mac", text));
    let anti_spoof = raw.anti_spoof.unwrap_or(false);
    // A mac of a wrong type has been reported and taken out.
    if anti_spoof && raw.mac.is_none() && !section.has_problem("mac") {
        let remedy = "set mac to the guest's address, or remove anti_spoof";
        section.problem("anti_spoof", "without mac nothing says which address is the guest's", remedy);
    }
    let stations = section.stations(raw.stations.as_deref());
    let mtu = section.number("mtu", raw.mtu, 68..=65_535);
    let vlan = vlan(&mut section, raw.vlan.as_ref()).unwrap_or(Vlan::GUEST_DEFAULT);
    refuse_nowhere(&mut section, &vlan, &[("mac", mac.is_some()), ("stations", !stations.is_empty())]);
    let features = features(&mut section, raw);
    let (name, socket) = (name?, socket?);
    section.finish(GuestConfig {
        name,
        socket,
        socket_role,
        socket_access,
        queue_pairs,
        io_core,
        class,
        weight,
        vm_name,
        vm_uuid,
        mode: raw.mode,
        interrupt_moderation,
        interrupt_delay_us,
        mac,
        anti_spoof,
        stations,
        mtu,
        vlan,
        features,
    })
}

/// Guests with an I/O thread of their own, of which there can be as many as there are not I/O cores.
pub(crate) fn own_threads(guests: &[(Key, RawGuest)], around: &Surroundings<'_>, report: &mut Report<'_>) {
    let Some(cores) = around.io_cores else { return };
    let most = MAX_IO_CORES.saturating_sub(cores);
    let mut own = guests.iter().filter(|(_, guest)| guest.mode.or(around.mode) == Some(Mode::Trap));
    if let Some((key, guest)) = own.nth(most) {
        let count = most + 1 + own.count();
        let message = format!(
            "mode = \"trap\" is for {most} guests at most beside {cores} I/O core{}, and there are {count}",
            if cores == 1 { "" } else { "s" }
        );
        let key = if guest.mode.is_some() { key.name("mode") } else { key.clone() };
        report
            .add(&key, ValueError::new(message, "choose another mode for some guests, or give them to another switch"));
    }
}

/// Keys that would be ignored are refused: whoever wrote them counts on them.
fn refuse_access(section: &mut Section<'_, '_>, raw: &RawGuest) {
    let given = [
        ("socket_mode", raw.socket_mode.is_some()),
        ("socket_owner", raw.socket_owner.is_some()),
        ("socket_group", raw.socket_group.is_some()),
    ];
    for (name, _) in given.iter().filter(|(_, given)| *given) {
        let message = "with socket_role = \"client\" the frontend makes the socket, and its access rights";
        section.problem(name, message, format!("remove {name}, or set socket_role = \"server\""));
    }
}

fn io_core(section: &mut Section<'_, '_>, raw: Option<i64>, around: &Surroundings<'_>) -> Option<usize> {
    let core = raw?;
    let count = around.io_cores.unwrap_or(MAX_IO_CORES);
    match usize::try_from(core) {
        Ok(core) if core < count => Some(core),
        _ => {
            let message = format!("there is no I/O core {core}: switch.io_cores lists {count}, numbered from 0");
            let positions = between(0, count.saturating_sub(1));
            section.problem(
                "io_core",
                message,
                format!("write a position in that list, {positions}, not a CPU's number"),
            );
            None
        }
    }
}

/// Never for a guest that minds latency; whoever asks for both is told.
fn interrupt_moderation(section: &mut Section<'_, '_>, raw: &RawGuest, class: Class) -> InterruptModeration {
    match (class, raw.interrupt_moderation) {
        (Class::Throughput, asked) => asked.unwrap_or_default(),
        (Class::Latency, None | Some(InterruptModeration::None)) => InterruptModeration::None,
        (Class::Latency, Some(_)) => {
            let message = "with class = \"latency\" no interrupt is held back";
            section.problem("interrupt_moderation", message, "remove it, or remove class");
            InterruptModeration::None
        }
    }
}

fn features(section: &mut Section<'_, '_>, raw: &RawGuest) -> GuestFeatures {
    let checksum = raw.checksum_offload.unwrap_or(true);
    if !checksum && raw.tso == Some(true) {
        // virtio 1.2 §5.1.3.1: the TSO features require the checksum features.
        section.problem(
            "tso",
            "segmentation offload needs checksum offload",
            "remove tso, or set checksum_offload = true",
        );
    }
    GuestFeatures {
        packed: raw.packed.unwrap_or(true),
        mergeable: raw.mergeable.unwrap_or(true),
        event_idx: raw.event_idx.unwrap_or(true),
        indirect: raw.indirect.unwrap_or(true),
        in_order: raw.in_order.unwrap_or(true),
        checksum,
        tso: raw.tso.unwrap_or(checksum),
    }
}
