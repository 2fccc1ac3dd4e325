//! Tells a service manager how far the switch is (sd_notify(3)), where it asked to be told.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use tracing::debug;

/// Every configured port is there.
pub(crate) fn ready() {
    send("READY=1\n");
}

/// The switch is taking itself down.
pub(crate) fn stopping() {
    send("STOPPING=1\n");
}

fn send(text: &str) {
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET")
        && let Err(error) = send_to(&socket, text)
    {
        debug!("the service manager was not told {text:?}: {error}");
    }
}

fn send_to(socket: &OsStr, text: &str) -> io::Result<()> {
    // A leading '@' stands for the zero byte of an abstract address.
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let datagram = UnixDatagram::unbound()?;
    datagram.set_nonblocking(true)?;
    datagram.send_to_addr(text.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_address() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let abstract_name = format!("sidecore-notify-test-{}", std::process::id());
        let named = UnixDatagram::bind(&path).unwrap();
        let nameless = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&abstract_name).unwrap()).unwrap();
        for (receiver, address) in [(named, path.into_os_string()), (nameless, format!("@{abstract_name}").into())] {
            send_to(&address, "READY=1\n").unwrap();
            let mut text = [0; 32];
            let len = receiver.recv(&mut text).unwrap();
            assert_eq!(&text[..len], b"READY=1\n");
        }
    }
}
