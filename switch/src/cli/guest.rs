//! `sidecore guest`.

use anyhow::Result;
use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use config::{All, Class, InterruptModeration, Mode, RawAccount, RawGuest, RawTrunk, RawVlan, SocketRole};

use super::client::{Client, unexpected};
use super::{show, table};
use crate::control::protocol::{Answer, MovedQueue, Request};

#[derive(Debug, Subcommand)]
pub(super) enum GuestCommand {
    /// Add a guest to the running switch.
    ///
    /// The options have the names, meanings and defaults of the keys of a [[guest]] section. With switch.state_file set,
    /// the guest is there again after a restart of the switch.
    #[command(after_help = "\
Examples:
  sidecore guest add vm7 --socket /run/sidecore/vm7.sock
  sidecore guest add web --socket /run/sidecore/web.sock --queue-pairs 4 \\
      --socket-group kvm --mac 52:54:00:00:00:07 --anti-spoof --vlan 10
  sidecore guest add router --socket /run/sidecore/router.sock \\
      --socket-role client --trunk 10,20 --native 1

QEMU on the socket of the first; the guest's memory must be shared:
  qemu-system-x86_64 ... -m 1G -numa node,memdev=mem \\
      -object memory-backend-memfd,id=mem,size=1G,share=on \\
      -chardev socket,id=c,path=/run/sidecore/vm7.sock,reconnect=1 \\
      -netdev vhost-user,id=n,chardev=c -device virtio-net-pci,netdev=n")]
    Add(Box<AddGuest>),
    /// Remove a guest from the running switch; its VM sees the link go.
    Remove {
        /// The guest's name.
        name: String,
    },
    /// Move a guest's queue pairs to another I/O core, while its traffic goes on.
    ///
    /// Nothing is lost, duplicated or reordered. Queue pairs that are not started yet will start there.
    Move {
        /// The guest's name.
        name: String,
        /// The I/O core, a position in switch.io_cores.
        #[arg(long, value_name = "N")]
        io_core: usize,
        /// This queue pair only [default: all of them].
        #[arg(long, value_name = "Q")]
        queue: Option<u16>,
        /// Print a JSON object for each queue pair, a line each.
        #[arg(long)]
        json: bool,
    },
    /// List the guests with their settings.
    List {
        /// Print a JSON list with every key.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct AddGuest {
    /// A name of its own among guests and uplinks.
    name: String,
    /// The vhost-user socket, as an absolute path.
    #[arg(long, value_name = "PATH")]
    socket: String,
    /// Who makes the socket: `server`, Sidecore does; `client`, the VM does [default: server].
    #[arg(long, value_name = "ROLE")]
    socket_role: Option<Role>,
    /// Permission bits of the socket, in octal [default: 0660].
    #[arg(long, value_name = "MODE")]
    socket_mode: Option<String>,
    /// Owner of the socket, a name or a number [default: the switch's user].
    #[arg(long, value_name = "USER")]
    socket_owner: Option<String>,
    /// Group of the socket, a name or a number; libvirt's VMs on Debian need `kvm` [default: the switch's group].
    #[arg(long, value_name = "GROUP")]
    socket_group: Option<String>,
    /// Queue pairs offered, 1 to 16 [default: 1].
    #[arg(long, value_name = "N")]
    queue_pairs: Option<i64>,
    /// The I/O core that serves the guest, a position in switch.io_cores [default: the one with the fewest queue pairs].
    #[arg(long, value_name = "N")]
    io_core: Option<i64>,
    /// What the guest minds most: `latency`, others' bursts are interrupted to look for its packets, which costs these
    /// others throughput; `throughput`, it waits for its turn [default: throughput].
    #[arg(long, value_name = "CLASS")]
    class: Option<ClassName>,
    /// The guest's share of a saturated I/O core beside others', 1 to 100 [default: 1].
    #[arg(long, value_name = "N")]
    weight: Option<i64>,
    /// The virtual machine's name, for metrics.
    #[arg(long, value_name = "NAME")]
    vm_name: Option<String>,
    /// The virtual machine's UUID, for metrics.
    #[arg(long, value_name = "UUID")]
    vm_uuid: Option<String>,
    /// How the switch waits for the guest's packets: `poll`, `adaptive` or `trap` [default: as switch.mode says].
    #[arg(long, value_name = "MODE")]
    mode: Option<ModeName>,
    /// How interrupts to the guest are moderated [default: adaptive; none with --class latency].
    #[arg(long, value_name = "HOW")]
    interrupt_moderation: Option<ModerationName>,
    /// How long after an interrupt another one may be held back, in microseconds, 1 to 10000 [default: 50].
    #[arg(long, value_name = "US")]
    interrupt_delay_us: Option<i64>,
    /// The guest's MAC address.
    #[arg(long)]
    mac: Option<String>,
    /// Drop what the guest sends from another address than --mac.
    #[arg(long)]
    anti_spoof: bool,
    /// An address that is always behind the guest, besides --mac; may be given more than once.
    #[arg(long = "station", value_name = "MAC")]
    stations: Vec<String>,
    /// The MTU the guest is told.
    #[arg(long, value_name = "BYTES")]
    mtu: Option<i64>,
    #[command(flatten)]
    vlan: VlanArgs,
    /// Do not offer packed rings.
    #[arg(long)]
    no_packed: bool,
    /// Do not offer mergeable receive buffers.
    #[arg(long)]
    no_mergeable: bool,
    /// Do not offer notifications by index.
    #[arg(long)]
    no_event_idx: bool,
    /// Do not offer indirect descriptors.
    #[arg(long)]
    no_indirect: bool,
    /// Do not offer in-order completion.
    #[arg(long)]
    no_in_order: bool,
    /// Do not offer checksum offload, nor TCP segmentation offload.
    #[arg(long)]
    no_checksum_offload: bool,
    /// Do not offer TCP segmentation offload.
    #[arg(long)]
    no_tso: bool,
}

/// VLANs of a port, of either kind.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("vlans").args(["vlan", "trunk"]))]
pub(super) struct VlanArgs {
    /// Access port: the one VLAN, without tags.
    #[arg(long, value_name = "ID")]
    vlan: Option<i64>,
    /// Trunk port: the VLANs that carry tags, such as 10,20, or `all`.
    #[arg(long, value_name = "IDS", value_parser = trunk)]
    trunk: Option<RawTrunk>,
    /// Trunk port: the VLAN of packets without a tag [default: none, they are dropped].
    #[arg(long, value_name = "ID", requires = "trunk")]
    native: Option<i64>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Role {
    Server,
    Client,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ClassName {
    Latency,
    Throughput,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ModeName {
    Poll,
    Adaptive,
    Trap,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ModerationName {
    Adaptive,
    Fixed,
    None,
}

fn trunk(text: &str) -> Result<RawTrunk, String> {
    if text == "all" {
        return Ok(RawTrunk::All(All::All));
    }
    let id = |id: &str| id.trim().parse().map_err(|_| format!("{id:?} is not a number; write ids with commas, or all"));
    text.split(',').map(id).collect::<Result<_, _>>().map(RawTrunk::Only)
}

impl VlanArgs {
    pub(super) fn into_raw(self) -> Option<RawVlan> {
        let raw = RawVlan { access: self.vlan, trunk: self.trunk, native: self.native };
        (raw != RawVlan::default()).then_some(raw)
    }
}

impl AddGuest {
    /// The section that these options stand for: only what was written.
    fn into_raw(self) -> RawGuest {
        let unless = |no: bool| no.then_some(false);
        RawGuest {
            name: self.name,
            socket: self.socket,
            socket_role: self.socket_role.map(|role| match role {
                Role::Server => SocketRole::Server,
                Role::Client => SocketRole::Client,
            }),
            socket_mode: self.socket_mode,
            socket_owner: self.socket_owner.map(account),
            socket_group: self.socket_group.map(account),
            queue_pairs: self.queue_pairs,
            io_core: self.io_core,
            class: self.class.map(|class| match class {
                ClassName::Latency => Class::Latency,
                ClassName::Throughput => Class::Throughput,
            }),
            weight: self.weight,
            vm_name: self.vm_name,
            vm_uuid: self.vm_uuid,
            mode: self.mode.map(|mode| match mode {
                ModeName::Poll => Mode::Poll,
                ModeName::Adaptive => Mode::Adaptive,
                ModeName::Trap => Mode::Trap,
            }),
            interrupt_moderation: self.interrupt_moderation.map(|how| match how {
                ModerationName::Adaptive => InterruptModeration::Adaptive,
                ModerationName::Fixed => InterruptModeration::Fixed,
                ModerationName::None => InterruptModeration::None,
            }),
            interrupt_delay_us: self.interrupt_delay_us,
            mac: self.mac,
            anti_spoof: self.anti_spoof.then_some(true),
            stations: (!self.stations.is_empty()).then_some(self.stations),
            mtu: self.mtu,
            vlan: self.vlan.into_raw(),
            packed: unless(self.no_packed),
            mergeable: unless(self.no_mergeable),
            event_idx: unless(self.no_event_idx),
            indirect: unless(self.no_indirect),
            in_order: unless(self.no_in_order),
            checksum_offload: unless(self.no_checksum_offload),
            tso: unless(self.no_tso),
        }
    }
}

fn account(text: String) -> RawAccount {
    text.parse().map_or(RawAccount::Name(text), RawAccount::Id)
}

pub(super) fn execute(client: &Client, command: GuestCommand) -> Result<()> {
    match command {
        GuestCommand::Add(guest) => {
            let guest = serde_json::to_value(guest.into_raw())?;
            super::change(client, &Request::GuestAdd { guest })
        }
        GuestCommand::Remove { name } => super::change(client, &Request::GuestRemove { name }),
        GuestCommand::Move { name, io_core, queue, json } => {
            let request = Request::GuestMove { name, queue, io_core };
            let Answer::Moved(moved) = client.ask(&request)? else { return Err(unexpected()) };
            let lines =
                moved.iter().map(|moved| if json { Ok(serde_json::to_string(moved)?) } else { Ok(told(moved)) });
            super::print(&(lines.collect::<Result<Vec<_>>>()?.join("\n") + "\n"))
        }
        GuestCommand::List { json } => {
            let Answer::Guests(guests) = client.ask(&Request::GuestList)? else { return Err(unexpected()) };
            if json {
                return super::print_json(&guests);
            }
            let row = |guest: &crate::control::protocol::Listed<RawGuest>| {
                let settings = &guest.settings;
                let role = if settings.socket_role == Some(SocketRole::Client) { "client" } else { "server" };
                vec![
                    settings.name.clone(),
                    show::state(guest.state),
                    settings.queue_pairs.unwrap_or(1).to_string(),
                    settings.io_core.map_or("any".to_owned(), |core| core.to_string()),
                    if settings.class == Some(Class::Latency) { "latency" } else { "throughput" }.to_owned(),
                    settings.weight.unwrap_or(1).to_string(),
                    show::vlan(settings.vlan.as_ref()),
                    settings.mac.clone().unwrap_or("-".to_owned()),
                    if settings.anti_spoof == Some(true) { "yes" } else { "no" }.to_owned(),
                    settings.mtu.map_or("-".to_owned(), |mtu| mtu.to_string()),
                    show::origin(guest.origin),
                    role.to_owned(),
                    settings.socket.clone(),
                ]
            };
            let heads = [
                "NAME",
                "STATE",
                "#QUEUES",
                "#CORE",
                "CLASS",
                "#WEIGHT",
                "VLAN",
                "MAC",
                "ANTI-SPOOF",
                "#MTU",
                "FROM",
                "ROLE",
                "SOCKET",
            ];
            super::print(&table::render(&heads, &guests.iter().map(row).collect::<Vec<_>>()))
        }
    }
}

fn told(moved: &MovedQueue) -> String {
    let MovedQueue { guest, queue, from, to, pause_us } = moved;
    let pair = format!("queue pair {queue} of guest {guest}");
    match pause_us {
        Some(us) => format!("{pair} moved from I/O core {from} to {to}, not served for {us:.1} us"),
        None if from == to => format!("{pair} is on I/O core {to} already"),
        None => format!("{pair} will start on I/O core {to} instead of {from}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn parse(line: &str) -> Result<RawGuest, clap::Error> {
        let cli = Cli::try_parse_from(["sidecore", "guest", "add"].into_iter().chain(line.split(' ')))?;
        match cli.command {
            Command::Guest(GuestCommand::Add(guest)) => Ok(guest.into_raw()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_what_was_written_is_sent() {
        let raw = parse("vm1 --socket /run/vm1").unwrap();
        assert_eq!(raw, RawGuest { name: "vm1".into(), socket: "/run/vm1".into(), ..RawGuest::default() });
    }

    #[test]
    fn options_are_the_keys_of_the_section() {
        let raw = parse("a --socket /a --trunk 10,20 --native 1 --socket-group 7 --socket-owner me --no-tso").unwrap();
        let share = parse("a --socket /a --class latency --weight 4").unwrap();
        let calls = parse("a --socket /a --interrupt-moderation fixed --interrupt-delay-us 20").unwrap();
        assert_eq!(
            (calls.interrupt_moderation, calls.interrupt_delay_us),
            (Some(InterruptModeration::Fixed), Some(20))
        );
        assert_eq!((share.class, share.weight), (Some(Class::Latency), Some(4)));
        let vlan = RawVlan { access: None, trunk: Some(RawTrunk::Only(vec![10, 20])), native: Some(1) };
        assert_eq!(raw.vlan, Some(vlan));
        assert_eq!(raw.socket_group, Some(RawAccount::Id(7)));
        assert_eq!(raw.socket_owner, Some(RawAccount::Name("me".into())));
        assert_eq!((raw.tso, raw.packed), (Some(false), None));
    }

    #[test]
    fn what_excludes_each_other_is_refused() {
        for line in ["a", "a --socket /a --vlan 1 --trunk all", "a --socket /a --native 1", "a --socket /a --trunk x"] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
