//! The control socket's place in the file system: one switch at a time has it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use config::{Machine, SocketAccess};
use rustix::fs::{FlockOperation, Mode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tracing::{info, warn};

/// A listening control socket; its file is removed when this is dropped, if it is still ours.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    path: PathBuf,
    listener: UnixListener,
    /// Device and inode of the file made.
    identity: (u64, u64),
}

/// Why the control socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClaimError {
    #[error("a second switch on the same control socket: one is running on {} already; stop it, or give this one \
             another path in switch.control_socket", .0.display())]
    InUse(PathBuf),
    #[error("the control socket {} cannot be made: the path exists and is not a socket; move it away, or set \
             switch.control_socket to another path", .0.display())]
    NotASocket(PathBuf),
    #[error("the control socket {} cannot be made: there is no directory {}; create it (mkdir -p {})",
            path.display(), directory.display(), directory.display())]
    NoDirectory { path: PathBuf, directory: PathBuf },
    #[error("the control socket {} cannot be made: {source}; let this user write in its directory, or set \
             switch.control_socket to another path", path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error("the control socket {} cannot be given to {account}: {source}; start as root, or take \
             switch.control_socket_owner and control_socket_group out", path.display())]
    Give { path: PathBuf, account: String, source: io::Error },
}

impl ControlSocket {
    /// Makes the socket and listens. One that a killed switch left behind is replaced.
    pub(crate) fn claim(path: &Path, access: &SocketAccess, machine: &Machine) -> Result<Self, ClaimError> {
        let make = |source: io::Error| ClaimError::Make { path: path.to_owned(), source };
        let _lock = lock_directory(path)?;
        remove_stale(path)?;
        let listener = bind_with_mode(path, access.mode.bits()).map_err(make)?;
        let file = fs::symlink_metadata(path).map_err(make)?;
        let socket = Self { path: path.to_owned(), listener, identity: (file.dev(), file.ino()) };
        socket.give(access, machine)?;
        socket.listener.set_nonblocking(true).map_err(make)?;
        Ok(socket)
    }

    /// The listening end, non-blocking.
    pub(crate) fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }

    fn give(&self, access: &SocketAccess, machine: &Machine) -> Result<(), ClaimError> {
        let uid = access.owner.as_ref().and_then(|owner| machine.uid(owner));
        let gid = access.group.as_ref().and_then(|group| machine.gid(group));
        if uid.is_none() && gid.is_none() {
            return Ok(());
        }
        std::os::unix::fs::lchown(&self.path, uid, gid).map_err(|source| {
            let part = |what: &str, id: Option<u32>| id.map(|id| format!("{what} {id}"));
            let account = [part("user", uid), part("group", gid)].into_iter().flatten().collect::<Vec<_>>().join(", ");
            ClaimError::Give { path: self.path.clone(), account, source }
        })
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let ours = |file: &fs::Metadata| (file.dev(), file.ino()) == self.identity;
        let Ok(_lock) = lock_directory(&self.path) else { return };
        if fs::symlink_metadata(&self.path).as_ref().is_ok_and(ours)
            && let Err(error) = fs::remove_file(&self.path)
        {
            warn!("{} stays behind: {error}", self.path.display());
        }
    }
}

/// The file is made with its final mode: there is no moment in which others could connect.
fn bind_with_mode(path: &Path, mode: u32) -> io::Result<UnixListener> {
    // The umask is the whole process's: two that change it at a time would leave it wrong.
    static UMASK: Mutex<()> = Mutex::new(());
    let _turn = UMASK.lock().unwrap_or_else(PoisonError::into_inner);
    let umask = rustix::process::umask(Mode::from_raw_mode(!mode & 0o777));
    let listener = UnixListener::bind(path);
    rustix::process::umask(umask);
    listener
}

/// Two switches that start at once must not both find the same stale socket, and one of them then remove the other's
/// new one. The lock is on the directory itself, so that no lock file stays behind.
fn lock_directory(path: &Path) -> Result<File, ClaimError> {
    const PATIENCE: Duration = Duration::from_secs(1);
    let directory = path.parent().unwrap_or(Path::new("/"));
    let make = |source: io::Error| ClaimError::Make { path: path.to_owned(), source };
    let file = File::open(directory).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ClaimError::NoDirectory { path: path.to_owned(), directory: directory.to_owned() },
        _ => make(error),
    })?;
    let start = Instant::now();
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK) if start.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => return Err(make(error.into())),
        }
    }
}

fn remove_stale(path: &Path) -> Result<(), ClaimError> {
    let make = |source: io::Error| ClaimError::Make { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(make(error)),
        Ok(file) if !file.file_type().is_socket() => return Err(ClaimError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match connect(path) {
        // Nobody listens: its switch was killed.
        Err(Errno::CONNREFUSED) => {
            fs::remove_file(path).map_err(make)?;
            info!("replaced the control socket {}, which a killed switch left behind", path.display());
            Ok(())
        }
        Err(Errno::NOENT) => Ok(()),
        // EAGAIN: somebody listens and has no time.
        Ok(()) | Err(Errno::AGAIN) => Err(ClaimError::InUse(path.to_owned())),
        Err(error) => Err(make(error.into())),
    }
}

/// Never waits, even for a switch that hangs.
fn connect(path: &Path) -> Result<(), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn claim(path: &Path) -> Result<ControlSocket, ClaimError> {
        let access = SocketAccess { mode: "0600".parse().unwrap(), owner: None, group: None };
        ControlSocket::claim(path, &access, &Machine::any())
    }

    #[test]
    fn one_switch_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let first = claim(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = claim(&path).unwrap_err();
        assert!(error.to_string().starts_with("a second switch on the same control socket"), "{error}");
        assert!(path.exists(), "the first one's socket is left alone");
        drop(first);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_killed_switch_left_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let _socket = claim(&path).unwrap();
    }

    #[test]
    fn what_is_not_a_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        fs::write(&path, "somebody's").unwrap();
        assert!(matches!(claim(&path).unwrap_err(), ClaimError::NotASocket(_)));
        assert_eq!(fs::read_to_string(&path).unwrap(), "somebody's");
        assert!(matches!(claim(&path.join("x")).unwrap_err(), ClaimError::Make { .. }));
        assert!(matches!(claim(&directory.path().join("x/y")).unwrap_err(), ClaimError::NoDirectory { .. }));
    }

    #[test]
    fn a_successors_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let first = claim(&path).unwrap();
        // Kept, so that its inode is not given to the successor.
        fs::rename(&path, directory.path().join("old")).unwrap();
        let _second = claim(&path).unwrap();
        drop(first);
        assert!(path.exists());
    }
}
