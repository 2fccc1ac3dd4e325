//! OVS-DPDK: its database, its daemon and its flows, all in folders of their own. An OVS that runs on this machine does not
//! notice.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sidecore_tests::process::{Process, must};

use super::{Kind, Setup, Start, System};

/// MiB of memory for DPDK.
pub(super) const MEMORY_MIB: u32 = 512;

/// Where Debian has the daemon that is linked with DPDK. /usr/sbin/ovs-vswitchd may be the other one.
pub(super) const DAEMON: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

const START_DEADLINE: Duration = Duration::from_secs(20);

/// The daemons. Dropping them ends them; the order matters, since the switch reads the database.
struct Ovs {
    switch: Process,
    database: Process,
    runtime_dir: PathBuf,
    /// Ask for each NIC's counters.
    counts: Vec<Command>,
}

/// One call of OVS's tools.
type Command = Vec<String>;

pub(super) fn start(kind: Kind, setup: &Setup) -> Result<Start> {
    let plan = Plan::new(kind, setup);
    let run = |command: &Command| must(&[&plan.environment[..], &command[..]].concat());
    let spawn = |name: &str, command: &Command, log: &str| {
        let args = [&plan.environment[1..], &command[..]].concat();
        Process::spawn(name, &plan.environment[0], &args, &setup.folder.join(log))
    };
    run(&plan.create)?;
    let mut database = spawn("ovsdb-server", &plan.database, "ovsdb.log")?;
    let socket = setup.folder.join("db.sock");
    database.wait_until("socket of the database", START_DEADLINE, |_| Ok(socket.exists().then_some(())))?;
    run(&plan.settings)?;
    let switch = spawn("ovs-vswitchd", &plan.switch, "vswitchd.log")?;
    let bridge = format!("unix:{}/br0.mgmt", setup.folder.display());
    let nics = plan.ports.iter().filter(|port| port.is_nic());
    let counts = nics
        .map(|nic| [&plan.environment[..], &words(&format!("ovs-ofctl dump-ports {bridge} {}", nic.name))].concat())
        .collect();
    // From here on, whatever fails, the daemon's own words say why.
    let mut ovs = Ovs { switch, database, runtime_dir: Path::new("/var/run/dpdk").join(&plan.prefix), counts };
    let ports = plan.configure.iter().chain(&plan.flows).try_for_each(|command| run(command).map(drop));
    if let Err(error) = ports.and_then(|()| check_ports(&plan, setup)) {
        return Err(error.context(ovs.tail()));
    }
    let commands = plan.shown(setup);
    Ok((Box::new(ovs), plan.sockets, commands))
}

/// A port that DPDK refused is in the database all the same, with an error beside it.
fn check_ports(plan: &Plan, setup: &Setup) -> Result<()> {
    for Port { name, number, .. } in &plan.ports {
        let command = vsctl(setup, &["get", "Interface", name, "ofport"]);
        let answer = must(&[&plan.environment[..], &command[..]].concat())?;
        ensure!(answer.trim() == number.to_string(), "OVS did not add port {name}: it has number {}", answer.trim());
    }
    Ok(())
}

/// Everything that is run to start an OVS.
struct Plan {
    environment: Command,
    prefix: String,
    create: Command,
    database: Command,
    settings: Command,
    switch: Command,
    configure: Vec<Command>,
    flows: Vec<Command>,
    ports: Vec<Port>,
    sockets: Vec<String>,
}

/// A port of the bridge.
struct Port {
    name: String,
    number: u32,
    /// The guest behind it, or whose NIC it is.
    guest: u32,
    /// The NIC's device, if it is one.
    device: Option<String>,
}

impl Port {
    fn is_nic(&self) -> bool {
        self.device.is_some()
    }
}

/// The guests' ports, each before its NIC.
fn ports(setup: &Setup) -> Vec<Port> {
    let mut ports = Vec::new();
    for guest in 0..setup.row.guests {
        let mut add = |name: &str, device| {
            let number = ports.len() as u32 + 1;
            ports.push(Port { name: format!("{name}{guest}"), number, guest, device });
        };
        add("vm", None);
        if let Some(device) = setup.nic(guest) {
            add("nic", Some(device));
        }
    }
    ports
}

impl Plan {
    fn new(kind: Kind, setup: &Setup) -> Self {
        let folder = setup.folder.display();
        let prefix = format!("scb{}{}", std::process::id(), kind.name());
        let ports = ports(setup);
        let mut environment = words("env");
        for name in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
            environment.push(format!("{name}={folder}"));
        }
        let logging = "-vconsole:info -vsyslog:off -vfile:off";
        Self {
            environment,
            create: words(&format!("ovsdb-tool create {folder}/conf.db {SCHEMA}")),
            database: words(&format!(
                "ovsdb-server {folder}/conf.db --remote=punix:{folder}/db.sock --unixctl={folder}/ovsdb.ctl {logging}"
            )),
            settings: settings(setup, &prefix),
            // It makes network devices of fixed names, which another OVS on this machine has, too.
            switch: words(&format!(
                "unshare --net -- {DAEMON} unix:{folder}/db.sock --unixctl={folder}/vswitchd.ctl {logging}"
            )),
            configure: configure(kind, setup, &ports),
            flows: flows(kind, setup, &ports),
            sockets: sockets(setup),
            ports,
            prefix,
        }
    }

    fn shown(&self, setup: &Setup) -> Vec<String> {
        let environment = self.environment[1..].iter().map(|variable| format!("export {variable}"));
        let all = [&self.database, &self.settings, &self.switch].into_iter().chain(&self.configure).chain(&self.flows);
        let mut shown: Vec<String> = all.map(|command| command.join(" ")).collect();
        shown[2].insert_str(0, &format!("{} ", setup.taskset()));
        environment.chain(shown).collect()
    }
}

fn settings(setup: &Setup, prefix: &str) -> Command {
    let mask = 1_u128 << setup.switch_cpu;
    let mut eal = format!("--no-pci --no-telemetry --file-prefix={prefix}");
    let mut memory = vec![format!("other_config:dpdk-socket-mem={MEMORY_MIB}")];
    if !setup.hugepages {
        // OVS adds --in-memory, which EAL does not take without hugepages, unless it is told this.
        eal = format!("--no-huge --legacy-mem -m {MEMORY_MIB} {eal}");
        memory.clear();
    }
    let mut command = vsctl(setup, &["--no-wait", "--", "init", "--", "set", "Open_vSwitch", "."]);
    command.push("other_config:dpdk-init=true".to_owned());
    command.push(format!("other_config:pmd-cpu-mask={mask:#x}"));
    // One pool for each port, or the NIC's mbufs are those that guests' packets were copied to.
    command.push("other_config:per-port-memory=true".to_owned());
    command.extend(memory);
    if setup.is_tso() {
        command.push("other_config:userspace-tso-enable=true".to_owned());
    }
    command.push(format!("other_config:dpdk-extra=\"{eal}\""));
    command
}

fn configure(kind: Kind, setup: &Setup, ports: &[Port]) -> Vec<Command> {
    let bridge = "add-br br0 -- set bridge br0 datapath_type=netdev fail_mode=secure";
    let mut commands = vec![vsctl(setup, &bridge.split(' ').collect::<Vec<_>>())];
    for Port { name, number, guest, device } in ports {
        let interface = match device {
            Some(device) => format!("type=dpdk options:dpdk-devargs={device}"),
            None if setup.is_tso() => {
                let socket = setup.socket(*guest);
                format!("type=dpdkvhostuserclient options:vhost-server-path={}", socket.display())
            }
            None => "type=dpdkvhostuser".to_owned(),
        };
        // Direct flows look at no VLAN.
        let vlan = setup.vlan(*guest).filter(|_| kind == Kind::OvsNormal);
        let tag = vlan.map_or_else(String::new, |id| format!(" tag={id}"));
        let text = format!("add-port br0 {name}{tag} -- set Interface {name} {interface} ofport_request={number}");
        commands.push(vsctl(setup, &text.split(' ').collect::<Vec<_>>()));
    }
    commands
}

/// OVS listens, as the other systems do, so that guests come and go in the same way everywhere. But ports that listen do not
/// offer segmentation; for that the guests have to.
fn sockets(setup: &Setup) -> Vec<String> {
    if setup.is_tso() {
        return setup.sockets().iter().map(|socket| format!("{socket},server")).collect();
    }
    (0..setup.row.guests).map(|guest| setup.folder.join(format!("vm{guest}")).display().to_string()).collect()
}

fn flows(kind: Kind, setup: &Setup, ports: &[Port]) -> Vec<Command> {
    let add = |flow: &str| words(&format!("ovs-ofctl add-flow unix:{}/br0.mgmt {flow}", setup.folder.display()));
    if kind == Kind::OvsNormal {
        return vec![add("actions=NORMAL")];
    }
    let pairs = ports.chunks_exact(2).flat_map(|pair| [(&pair[0], &pair[1]), (&pair[1], &pair[0])]);
    pairs.map(|(from, to)| add(&format!("in_port={},actions=output:{}", from.number, to.number))).collect()
}

fn vsctl(setup: &Setup, args: &[&str]) -> Command {
    let database = format!("--db=unix:{}/db.sock", setup.folder.display());
    let mut command = vec!["ovs-vsctl".to_owned(), "--timeout=20".to_owned(), database];
    command.extend(args.iter().map(|arg| (*arg).to_owned()));
    command
}

/// Packets that a port was given, from what `ovs-ofctl dump-ports` prints of it.
fn sent(text: &str) -> Option<u64> {
    let (_, after) = text.split_once("tx pkts=")?;
    after.split(',').next()?.trim().parse().ok()
}

fn words(text: &str) -> Command {
    text.split(' ').map(str::to_owned).collect()
}

impl System for Ovs {
    fn processes(&mut self) -> Vec<u32> {
        vec![self.switch.pid(), self.database.pid()]
    }

    fn ensure_running(&mut self) -> Result<()> {
        self.database.ensure_running()?;
        self.switch.ensure_running()
    }

    fn nic_sent(&mut self) -> Result<u64> {
        let count = |command: &Command| {
            let answer = must(command)?;
            sent(&answer).with_context(|| format!("no count of sent packets in {answer}"))
        };
        self.counts.iter().map(count).sum()
    }

    fn tail(&mut self) -> String {
        // What it counts when it is slow to start says nothing about what went wrong.
        let log = self.switch.output();
        let lines: Vec<&str> = log.lines().filter(|line| !line.contains("|coverage|")).collect();
        let shown = lines.len().saturating_sub(40);
        format!("--- last output of ovs-vswitchd:\n{}", lines[shown..].join("\n"))
    }
}

impl Drop for Ovs {
    fn drop(&mut self) {
        // Ended or not, and there or not.
        let _ = self.switch.kill();
        let _ = self.database.kill();
        let _ = std::fs::remove_dir_all(&self.runtime_dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::full_rows;

    fn shown(kind: Kind, key: &str, hugepages: bool) -> String {
        let row = full_rows().into_iter().find(|row| row.key() == key).unwrap();
        let setup = Setup { row: &row, hugepages, switch_cpu: 1, other_cpu: 0, folder: Path::new("/t") };
        Plan::new(kind, &setup).shown(&setup).join("\n")
    }

    #[test]
    fn everything_is_in_a_folder_of_its_own() {
        let text = shown(Kind::OvsDirect, "v2v-64-split", true);
        assert!(text.contains("--db=unix:/t/db.sock"), "{text}");
        assert!(!text.contains("/var/run") && !text.contains("/etc/openvswitch"), "{text}");
        assert!(text.contains("pmd-cpu-mask=0x2") && text.contains("dpdk-socket-mem=512"), "{text}");
    }

    #[test]
    fn direct_flows_go_both_ways_and_normal_is_one() {
        let direct = shown(Kind::OvsDirect, "v2v-64-split", true);
        assert!(
            direct.contains("in_port=1,actions=output:2") && direct.contains("in_port=2,actions=output:1"),
            "{direct}"
        );
        let normal = shown(Kind::OvsNormal, "v2v-64-split", true);
        assert!(normal.contains("actions=NORMAL") && !normal.contains("in_port"), "{normal}");
    }

    #[test]
    fn the_nic_is_the_guests_pair() {
        let text = shown(Kind::OvsDirect, "p2v-64", false);
        assert!(text.contains("type=dpdk options:dpdk-devargs=net_null0,size=60 ofport_request=2"), "{text}");
        assert!(text.contains("--no-huge --legacy-mem") && !text.contains("socket-mem"), "{text}");
    }

    #[test]
    fn each_guest_has_a_nic_of_its_own() {
        let direct = shown(Kind::OvsDirect, "v2p-64-4guests", true);
        assert!(
            direct.contains("nic3 type=dpdk options:dpdk-devargs=net_null3,size=60,no-rx=1 ofport_request=8"),
            "{direct}"
        );
        assert!(direct.contains("in_port=7,actions=output:8") && !direct.contains("tag="), "{direct}");
        let normal = shown(Kind::OvsNormal, "v2p-64-4guests", true);
        assert!(
            normal.contains("add-port br0 vm3 tag=13 --") && normal.contains("add-port br0 nic3 tag=13 --"),
            "{normal}"
        );
    }

    #[test]
    fn packets_sent_are_read_from_the_ports_counters() {
        let text = "OFPST_PORT reply (xid=0x2): 1 ports\n  port  nic: rx pkts=7, bytes=420, drop=0, errs=0, frame=?, over=?, \
                    crc=?\n           tx pkts=12345, bytes=0, drop=0, errs=0, coll=?\n";
        assert_eq!(sent(text), Some(12345));
        assert_eq!(sent("tx pkts=?, bytes"), None);
    }

    #[test]
    fn segmentation_is_switched_on_for_its_row_only() {
        let tso = shown(Kind::OvsDirect, "v2v-tso", true);
        assert!(tso.contains("userspace-tso-enable=true"), "{tso}");
        assert!(tso.contains("type=dpdkvhostuserclient options:vhost-server-path=/t/vm1.sock"), "{tso}");
        assert!(!shown(Kind::OvsDirect, "v2v-64-packed", true).contains("tso"));
    }
}
