//! What only one port may have: a name, a socket, a device.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use crate::error::ValueError;
use crate::report::{Key, Report};

/// Who has taken what so far. The values say who, for the message to the second one.
#[derive(Default)]
pub(crate) struct Claims {
    names: BTreeMap<String, String>,
    sockets: BTreeMap<PathBuf, String>,
    devices: BTreeMap<String, String>,
}

impl Claims {
    /// Takes a name, a socket or a device for a port that is already there.
    pub(crate) fn hold(&mut self, name: Option<&str>, socket: Option<&Path>, device: Option<&str>, holder: &str) {
        self.names.extend(name.map(|name| (name.to_owned(), holder.to_owned())));
        self.sockets.extend(socket.map(|socket| (normal(socket), holder.to_owned())));
        self.devices.extend(device.map(|device| (device.to_owned(), holder.to_owned())));
    }

    pub(crate) fn name(&mut self, name: &str, key: &Key, report: &mut Report<'_>) {
        let remedy = "give every guest and every uplink a name of its own";
        claim(&mut self.names, name.to_owned(), &format!("the name {name:?}"), remedy, key, report);
    }

    pub(crate) fn socket(&mut self, socket: &str, key: &Key, report: &mut Report<'_>) {
        let remedy = "give every socket a path of its own";
        claim(&mut self.sockets, normal(Path::new(socket)), &format!("the socket {socket:?}"), remedy, key, report);
    }

    pub(crate) fn device(&mut self, device: &str, key: &Key, report: &mut Report<'_>) {
        let remedy =
            "give every uplink a device of its own; number virtual devices of one driver: net_ring0, net_ring1";
        claim(&mut self.devices, device.to_owned(), &format!("the device {device:?}"), remedy, key, report);
    }
}

fn claim<T: Ord>(
    taken: &mut BTreeMap<T, String>,
    what: T,
    described: &str,
    remedy: &str,
    key: &Key,
    report: &mut Report<'_>,
) {
    match taken.get(&what) {
        Some(holder) => report.add(key, ValueError::new(format!("{described} is taken by {holder}"), remedy)),
        None => {
            taken.insert(what, report.place(key));
        }
    }
}

/// One spelling for `/run//a`, `/run/./a` and `/run/a`. Links are not followed: the file may not be there yet.
fn normal(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}
