//! `sidecore uplink`.

use anyhow::Result;
use clap::{Args, Subcommand};
use config::RawUplink;

use super::client::{Client, unexpected};
use super::guest::VlanArgs;
use super::{show, table};
use crate::control::protocol::{Answer, Listed, Request};

#[derive(Debug, Subcommand)]
pub(super) enum UplinkCommand {
    /// Add an uplink to the running switch.
    ///
    /// The options have the names, meanings and defaults of the keys of an [[uplink]] section. With switch.state_file
    /// set, the uplink is there again after a restart of the switch.
    #[command(after_help = "\
Examples:
  sidecore uplink add lab --device net_af_packet0,iface=eth1
  sidecore uplink add fast --device net_af_xdp0,iface=eth1 --mtu 1500
  sidecore uplink add wan --device 0000:03:00.0 --queues 4 --trunk 10,20,30")]
    Add(AddUplink),
    /// Remove an uplink from the running switch, and give its device back.
    Remove {
        /// The uplink's name.
        name: String,
    },
    /// List the uplinks with their settings.
    List {
        /// Print a JSON list with every key.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct AddUplink {
    /// A name of its own among guests and uplinks.
    name: String,
    /// The DPDK device: a PCI address or a virtual device, with its driver's arguments after commas.
    #[arg(long, value_name = "DEVARGS")]
    device: String,
    /// Queues of the device, at most one for each I/O core [default: as many as both have].
    #[arg(long, value_name = "N")]
    queues: Option<i64>,
    /// An address that is always behind the uplink, a router's for example; may be given more than once.
    #[arg(long = "station", value_name = "MAC")]
    stations: Vec<String>,
    /// The MTU of the device [default: what it has].
    #[arg(long, value_name = "BYTES")]
    mtu: Option<i64>,
    #[command(flatten)]
    vlan: VlanArgs,
}

pub(super) fn execute(client: &Client, command: UplinkCommand) -> Result<()> {
    match command {
        UplinkCommand::Add(AddUplink { name, device, queues, stations, mtu, vlan }) => {
            let raw = RawUplink {
                name,
                device,
                queues,
                stations: (!stations.is_empty()).then_some(stations),
                mtu,
                vlan: vlan.into_raw(),
            };
            super::change(client, &Request::UplinkAdd { uplink: serde_json::to_value(raw)? })
        }
        UplinkCommand::Remove { name } => super::change(client, &Request::UplinkRemove { name }),
        UplinkCommand::List { json } => {
            let Answer::Uplinks(uplinks) = client.ask(&Request::UplinkList)? else { return Err(unexpected()) };
            if json {
                return super::print_json(&uplinks);
            }
            let row = |uplink: &Listed<RawUplink>| {
                let settings = &uplink.settings;
                let number = |value: Option<i64>| value.map_or("-".to_owned(), |value| value.to_string());
                vec![
                    settings.name.clone(),
                    show::state(uplink.state),
                    number(settings.queues),
                    number(settings.mtu),
                    show::vlan(settings.vlan.as_ref()),
                    show::origin(uplink.origin),
                    settings.device.clone(),
                ]
            };
            let heads = ["NAME", "STATE", "#QUEUES", "#MTU", "VLAN", "FROM", "DEVICE"];
            super::print(&table::render(&heads, &uplinks.iter().map(row).collect::<Vec<_>>()))
        }
    }
}
