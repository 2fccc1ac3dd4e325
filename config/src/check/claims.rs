//! What only one port may have: a name, a socket, a device and the interface below it, an address in a VLAN.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use crate::device::Device;
use crate::error::ValueError;
use crate::model::{GuestConfig, UplinkConfig};
use crate::report::{Key, Report};
use crate::types::{Station, VlanId};
use crate::vlan::Vlan;

/// Who has taken what so far. The values say who, for the message to the second one.
#[derive(Default)]
pub(crate) struct Claims {
    names: BTreeMap<String, String>,
    sockets: BTreeMap<PathBuf, String>,
    devices: BTreeMap<String, String>,
    interfaces: BTreeMap<String, String>,
    stations: BTreeMap<(VlanId, Station), String>,
}

impl Claims {
    /// Takes the control socket.
    pub(crate) fn hold_control_socket(&mut self, socket: &Path) {
        self.sockets.insert(normal(socket), "the control socket".to_owned());
    }

    /// Takes what a guest that is already there has.
    pub(crate) fn hold_guest(&mut self, guest: &GuestConfig) {
        let holder = format!("the guest {}", guest.name);
        self.names.insert(guest.name.to_string(), holder.clone());
        self.sockets.insert(normal(&guest.socket), holder.clone());
        self.hold_stations(&guest.vlan, guest.mac.map(Station::from).iter().chain(&guest.stations), &holder);
    }

    /// Takes what an uplink that is already there has.
    pub(crate) fn hold_uplink(&mut self, uplink: &UplinkConfig) {
        let holder = format!("the uplink {}", uplink.name);
        self.names.insert(uplink.name.to_string(), holder.clone());
        self.devices.insert(uplink.device.name().to_owned(), holder.clone());
        self.interfaces.extend(uplink.device.interface().map(|name| (name.to_owned(), holder.clone())));
        self.hold_stations(&uplink.vlan, uplink.stations.iter(), &holder);
    }

    fn hold_stations<'s>(&mut self, vlan: &Vlan, stations: impl Iterator<Item = &'s Station>, holder: &str) {
        let vlans = vlan.named();
        let fixed = stations.flat_map(|station| vlans.iter().map(|id| (*id, *station)));
        self.stations.extend(fixed.map(|fixed| (fixed, holder.to_owned())));
    }

    pub(crate) fn name(&mut self, name: &str, key: &Key, report: &mut Report<'_>) {
        let remedy = "give every guest and every uplink a name of its own";
        claim(&mut self.names, name.to_owned(), &format!("the name {name:?}"), remedy, key, report);
    }

    pub(crate) fn socket(&mut self, socket: &str, key: &Key, report: &mut Report<'_>) {
        let remedy = "give every socket a path of its own";
        claim(&mut self.sockets, normal(Path::new(socket)), &format!("the socket {socket:?}"), remedy, key, report);
    }

    /// A guest's addresses; `key` is the guest's.
    pub(crate) fn guest(&mut self, guest: &GuestConfig, key: &Key, report: &mut Report<'_>) {
        let mac = guest.mac.map(|mac| (key.name("mac"), Station::from(mac)));
        self.stations(&guest.vlan, mac.into_iter().chain(listed(&guest.stations, key)), report);
    }

    /// An uplink's device and addresses; `key` is the uplink's.
    pub(crate) fn uplink(&mut self, uplink: &UplinkConfig, key: &Key, report: &mut Report<'_>) {
        self.device(&uplink.device, &key.name("device"), report);
        self.stations(&uplink.vlan, listed(&uplink.stations, key), report);
    }

    fn device(&mut self, device: &Device, key: &Key, report: &mut Report<'_>) {
        let name = device.name();
        let remedy =
            "give every uplink a device of its own; number virtual devices of one driver: net_ring0, net_ring1";
        let is_new = claim(&mut self.devices, name.to_owned(), &format!("the device {name:?}"), remedy, key, report);
        if let Some(name) = device.interface().filter(|_| is_new) {
            let remedy = "give every uplink an interface of its own: two on one would be a loop";
            claim(&mut self.interfaces, name.to_owned(), &format!("the interface {name:?}"), remedy, key, report);
        }
    }

    /// Addresses of one port, each in every VLAN in which it is fixed.
    fn stations(&mut self, vlan: &Vlan, stations: impl Iterator<Item = (Key, Station)>, report: &mut Report<'_>) {
        let vlans = vlan.named();
        let mut free = Vec::new();
        for (key, station) in stations {
            let taken = vlans.iter().find_map(|id| Some((id, self.stations.get(&(*id, station))?)));
            if let Some((id, holder)) = taken {
                let message = format!("{station} in VLAN {id} is taken by {holder}");
                let remedy = "give each port an address of its own, or put them into different VLANs";
                report.add(&key, ValueError::new(message, remedy));
            } else {
                free.push((station, report.place(&key)));
            }
        }
        // Not before: a port may name an address twice.
        for (station, place) in free {
            self.hold_stations(vlan, std::iter::once(&station), &place);
        }
    }
}

fn listed<'s>(stations: &'s [Station], key: &Key) -> impl Iterator<Item = (Key, Station)> + 's {
    let key = key.name("stations");
    stations.iter().enumerate().map(move |(index, station)| (key.index(index), *station))
}

/// Whether nobody had it.
fn claim<T: Ord>(
    taken: &mut BTreeMap<T, String>,
    what: T,
    described: &str,
    remedy: &str,
    key: &Key,
    report: &mut Report<'_>,
) -> bool {
    if let Some(holder) = taken.get(&what) {
        report.add(key, ValueError::new(format!("{described} is taken by {holder}"), remedy));
        return false;
    }
    taken.insert(what, report.place(key));
    true
}

/// One spelling for `/run//a`, `/run/./a` and `/run/a`. Links are not followed: the file may not be there yet.
fn normal(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}
