//! From validated values back to the schema, every key written out: what the state file and the API show.

use crate::model::{Config, GuestConfig, IoCores, SchedulerConfig, SwitchConfig, UplinkConfig};
use crate::raw::{
    All, RawAccount, RawConfig, RawElastic, RawGuest, RawIoCores, RawScheduler, RawSwitch, RawTrunk, RawUplink,
    RawVlan, SocketRole,
};
use crate::types::{Account, Station};
use crate::vlan::{Tagged, Vlan};

impl From<Config> for RawConfig {
    fn from(config: Config) -> Self {
        Self {
            switch: config.switch.into(),
            scheduler: Some(config.scheduler.into()),
            guest: config.guests.into_iter().map(Into::into).collect(),
            uplink: config.uplinks.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<SwitchConfig> for RawSwitch {
    fn from(switch: SwitchConfig) -> Self {
        Self {
            io_cores: switch.io_cores.into(),
            allow_shared_cpu: Some(switch.allow_shared_cpu),
            mode: Some(switch.mode),
            wake_latency_us: switch.wake_latency_us.map(i64::from),
            hugepages: Some(switch.hugepages),
            memory_mib: switch.memory_mib.map(i64::from),
            control_socket: Some(path_text(&switch.control_socket)),
            control_socket_mode: Some(switch.control_socket_access.mode.to_string()),
            control_socket_owner: switch.control_socket_access.owner.map(Into::into),
            control_socket_group: switch.control_socket_access.group.map(Into::into),
            http_listen: switch.http_listen.map(|address| address.to_string()),
            state_file: switch.state_file.as_deref().map(path_text),
            fdb_entries: Some(switch.fdb_entries.into()),
            fdb_ageing_s: Some(switch.fdb_ageing_s.into()),
            learn_limit_per_port: Some(switch.learn_limit_per_port.into()),
            learn_rate_per_s: Some(switch.learn_rate_per_s.into()),
            flood_rate_pps: Some(switch.flood_rate_pps.map_or(0, i64::from)),
            log_level: Some(switch.log_level),
            log_format: Some(switch.log_format),
        }
    }
}

impl From<IoCores> for RawIoCores {
    fn from(io_cores: IoCores) -> Self {
        let cpus = io_cores.cpus.iter().map(|cpu| i64::from(cpu.0)).collect();
        if io_cores.min == io_cores.cpus.len() {
            return Self::All(cpus);
        }
        Self::Elastic(RawElastic { cpus: Some(cpus), min: i64::try_from(io_cores.min).ok() })
    }
}

impl From<SchedulerConfig> for RawScheduler {
    fn from(scheduler: SchedulerConfig) -> Self {
        Self {
            policy: Some(scheduler.policy),
            rebalance: Some(scheduler.rebalance),
            tick_ms: Some(scheduler.tick_ms.into()),
            busy: Some(scheduler.busy),
            wait_us: Some(scheduler.wait_us.into()),
            gain: Some(scheduler.gain),
        }
    }
}

impl From<GuestConfig> for RawGuest {
    fn from(guest: GuestConfig) -> Self {
        // The keys about access belong to the server's side only; the schema's check refuses them elsewhere.
        let server = guest.socket_role == SocketRole::Server;
        Self {
            name: guest.name.into(),
            socket: path_text(&guest.socket),
            socket_role: Some(guest.socket_role),
            socket_mode: server.then(|| guest.socket_access.mode.to_string()),
            socket_owner: guest.socket_access.owner.map(Into::into),
            socket_group: guest.socket_access.group.map(Into::into),
            queue_pairs: Some(guest.queue_pairs.into()),
            io_core: guest.io_core.and_then(|core| i64::try_from(core).ok()),
            class: Some(guest.class),
            weight: Some(guest.weight.into()),
            vm_name: guest.vm_name.map(Into::into),
            vm_uuid: guest.vm_uuid.map(Into::into),
            mode: guest.mode,
            interrupt_moderation: Some(guest.interrupt_moderation),
            interrupt_delay_us: Some(guest.interrupt_delay_us.into()),
            mac: guest.mac.map(Into::into),
            anti_spoof: Some(guest.anti_spoof),
            stations: list(guest.stations),
            mtu: guest.mtu.map(i64::from),
            vlan: Some(guest.vlan.into()),
            packed: Some(guest.features.packed),
            mergeable: Some(guest.features.mergeable),
            event_idx: Some(guest.features.event_idx),
            indirect: Some(guest.features.indirect),
            in_order: Some(guest.features.in_order),
            checksum_offload: Some(guest.features.checksum),
            tso: Some(guest.features.tso),
        }
    }
}

impl From<UplinkConfig> for RawUplink {
    fn from(uplink: UplinkConfig) -> Self {
        Self {
            name: uplink.name.into(),
            device: uplink.device.to_string(),
            queues: uplink.queues.map(i64::from),
            stations: list(uplink.stations),
            mtu: uplink.mtu.map(i64::from),
            vlan: Some(uplink.vlan.into()),
        }
    }
}

/// A list that is left out where it is empty.
fn list(stations: Vec<Station>) -> Option<Vec<String>> {
    (!stations.is_empty()).then(|| stations.into_iter().map(Into::into).collect())
}

impl From<Vlan> for RawVlan {
    fn from(vlan: Vlan) -> Self {
        match vlan {
            Vlan::Access(id) => Self { access: Some(id.into()), ..Self::default() },
            Vlan::Trunk { tagged, native } => Self {
                access: None,
                trunk: Some(match tagged {
                    Tagged::All => RawTrunk::All(All::All),
                    Tagged::Only(ids) => RawTrunk::Only(ids.into_iter().map(Into::into).collect()),
                }),
                native: native.map(Into::into),
            },
        }
    }
}

impl From<Account> for RawAccount {
    fn from(account: Account) -> Self {
        match account {
            Account::Id(id) => Self::Id(id.into()),
            Account::Name(name) => Self::Name(name),
        }
    }
}

/// Paths come from TOML or JSON text, so they are UTF-8 and nothing is lost here.
fn path_text(path: &std::path::Path) -> String {
    path.to_string_lossy().into_owned()
}
