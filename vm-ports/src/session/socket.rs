//! The session's socket file, and connecting to a frontend's.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use rustix::net::{AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType};

use super::error::SessionError;
use super::settings::SocketAccess;

/// `sun_path` holds 108 bytes, one of them the zero at the end.
const PATH_MAX_BYTES: usize = 107;
/// Frontends that have gone which are passed over in a row: whoever connects and closes without end does not keep the session from anything else.
const PASSED_OVER: usize = 64;

/// A listening socket and its file, which goes when this is closed or dropped.
#[derive(Debug)]
pub(super) struct Listener {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file that was made: only that file is removed in the end.
    file: (u64, u64),
    closed: AtomicBool,
}

impl Listener {
    /// Binds `path`. A socket file that nobody listens on (left by a process that was killed) is replaced; anything else that
    /// is there is left alone, and is an error.
    pub(super) fn bind(path: &Path, access: SocketAccess) -> Result<Self, SessionError> {
        check_length(path)?;
        clear(path)?;
        let listener = listen(path, access).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => SessionError::InUse { path: path.to_owned() },
            io::ErrorKind::NotFound => SessionError::NoFolder { path: path.to_owned() },
            _ => failed("bind", path, error),
        })?;
        let file = open_socket(path)?;
        let found = file.metadata().map_err(|error| failed("look at", path, error))?;
        // From here on, dropping the value removes the file.
        let file_of = (found.dev(), found.ino());
        let this = Self { listener, path: path.to_owned(), file: file_of, closed: AtomicBool::new(false) };
        this.set_access(&file, access)?;
        this.listener.set_nonblocking(true).map_err(|error| failed("set up", path, error))?;
        Ok(this)
    }

    /// Of the file that was opened, whatever is at its path by now. Until this is done only the user this process runs
    /// as can connect: see [`listen`].
    fn set_access(&self, file: &File, access: SocketAccess) -> Result<(), SessionError> {
        if access.owner.is_some() || access.group.is_some() {
            let (owner, group) = (access.owner.map(Uid::from_raw), access.group.map(Gid::from_raw));
            rustix::fs::chownat(file, "", owner, group, AtFlags::EMPTY_PATH)
                .map_err(|error| failed("set the owner of", &self.path, error.into()))?;
        }
        if let Some(mode) = access.mode {
            // A descriptor that is for nothing but its file's place takes no fchmod.
            let file = format!("/proc/self/fd/{}", file.as_raw_fd());
            fs::set_permissions(file, fs::Permissions::from_mode(mode))
                .map_err(|error| failed("set the mode of", &self.path, error))?;
        }
        Ok(())
    }

    /// The next frontend that waits to be served. Those that no longer do are passed over, a few at a time: a backlog of them must not
    /// keep the next one waiting. `None`: there is none, or there are more to be looked at.
    pub(super) fn accept(&self) -> io::Result<Option<UnixStream>> {
        for _ in 0..PASSED_OVER {
            match self.listener.accept() {
                Ok((socket, _)) if is_gone(&socket) => {}
                Ok((socket, _)) => return Ok(Some(socket)),
                Err(error) => {
                    return match error.kind() {
                        io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted => {
                            Ok(None)
                        }
                        _ => Err(error),
                    };
                }
            }
        }
        Ok(None)
    }

    pub(super) fn as_socket(&self) -> &UnixListener {
        &self.listener
    }

    /// From now on nobody connects, and the path is free, whoever still holds this.
    pub(super) fn close(&self) {
        // Once: another file may be there afterwards, and have the same inode.
        if self.closed.swap(true, Ordering::Relaxed) {
            return;
        }
        // A socket that listens can be shut down.
        let _ = rustix::net::shutdown(&self.listener, Shutdown::Both);
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.file);
        if ours {
            // Nothing can be done about a failure, and a stale file is no harm: the next start removes it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.close();
    }
}

/// Binds and listens. The file is made with the mode of the socket, less the umask: where others are to have less than
/// the umask leaves, they never have more. Those who are to have more get it in the end.
fn listen(path: &Path, access: SocketAccess) -> io::Result<UnixListener> {
    /// As many as the system allows.
    const BACKLOG: i32 = -1;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    if access.mode.is_some() {
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    }
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// The socket's file, as a place in the file system. A link is not followed: whoever may write in that folder, and has
/// put it there in place of the socket, does not have something else given away.
fn open_socket(path: &Path) -> Result<File, SessionError> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map(File::from);
    let file = file.map_err(|error| failed("look at", path, error.into()))?;
    let found = file.metadata().map_err(|error| failed("look at", path, error))?;
    if found.file_type().is_socket() { Ok(file) } else { Err(SessionError::NotASocket { path: path.to_owned() }) }
}

/// Whether the other end is closed.
fn is_gone(socket: &UnixStream) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let found = rustix::event::poll(&mut fds, Some(&at_once));
    found.is_ok_and(|ready| ready > 0) && fds[0].revents().contains(PollFlags::HUP)
}

/// Checks what can be known of a path before anything is done with it.
pub(super) fn check_length(path: &Path) -> Result<(), SessionError> {
    if path.as_os_str().as_bytes().len() > PATH_MAX_BYTES {
        return Err(SessionError::PathTooLong { path: path.to_owned() });
    }
    Ok(())
}

/// Connects to a listening frontend, without waiting: a full backlog is an error like any other, to be tried again.
pub(super) fn connect(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    let socket = UnixStream::from(socket);
    socket.set_nonblocking(false)?;
    Ok(socket)
}

/// Makes way for a new socket file, if what is there may go.
fn clear(path: &Path) -> Result<(), SessionError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at", path, error)),
    };
    if !found.file_type().is_socket() {
        return Err(SessionError::NotASocket { path: path.to_owned() });
    }
    match connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| failed("remove stale", path, error))
        }
        // Gone between the two looks.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(failed("look behind", path, error)),
        // Somebody answers, or is too busy to.
        Ok(_) | Err(_) => Err(SessionError::InUse { path: path.to_owned() }),
    }
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> SessionError {
    let path = path.to_owned();
    if source.kind() == io::ErrorKind::PermissionDenied {
        SessionError::Permission { action, path, source }
    } else {
        SessionError::Socket { action, path, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(path: &Path) -> Result<Listener, SessionError> {
        Listener::bind(path, SocketAccess::default())
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "the standard library leaves the file, as a killed process does");
        let first = bind(&path).unwrap();
        assert!(matches!(bind(&path), Err(SessionError::InUse { .. })));
        assert!(UnixStream::connect(&path).is_ok());
        drop(first);
        assert!(!path.exists());
    }

    #[test]
    fn one_that_is_closed_is_out_of_the_way_of_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = bind(&path).unwrap();
        first.close();
        assert!(UnixStream::connect(&path).is_err() && !path.exists());
        let second = bind(&path).unwrap();
        drop(first);
        let waits = UnixStream::connect(&path).unwrap();
        assert!(second.accept().unwrap().is_some());
        drop(waits);
    }

    #[test]
    fn frontends_that_have_gone_are_passed_over_a_few_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = bind(&path).unwrap();
        (0..PASSED_OVER).for_each(|_| drop(UnixStream::connect(&path).unwrap()));
        let waits = UnixStream::connect(&path).unwrap();
        assert!(listener.accept().unwrap().is_none(), "whoever asks has to be able to do something else");
        assert!(listener.accept().unwrap().is_some());
        drop(waits);
    }

    #[test]
    fn what_is_not_a_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path), Err(SessionError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        let link = dir.path().join("l");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(bind(&link), Err(SessionError::NotASocket { .. })));
    }

    #[test]
    fn mode_is_set_and_a_file_that_is_not_ours_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let access = SocketAccess { mode: Some(0o660), ..SocketAccess::default() };
        let ours = Listener::bind(&path, access).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
        fs::remove_file(&path).unwrap();
        let theirs = UnixListener::bind(&path).unwrap();
        drop(ours);
        assert!(path.exists());
        drop(theirs);
    }

    #[test]
    fn a_link_in_place_of_the_socket_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, precious) = (dir.path().join("s"), dir.path().join("precious"));
        fs::write(&precious, "").unwrap();
        fs::set_permissions(&precious, fs::Permissions::from_mode(0o600)).unwrap();
        let access = SocketAccess { mode: Some(0o666), ..SocketAccess::default() };
        let ours = bind(&path).unwrap();
        let file = open_socket(&path).unwrap();
        fs::rename(&path, dir.path().join("moved")).unwrap();
        std::os::unix::fs::symlink(&precious, &path).unwrap();
        assert!(matches!(open_socket(&path), Err(SessionError::NotASocket { .. })));
        let to_a_socket = dir.path().join("l");
        std::os::unix::fs::symlink("moved", &to_a_socket).unwrap();
        assert!(matches!(open_socket(&to_a_socket), Err(SessionError::NotASocket { .. })));
        ours.set_access(&file, access).unwrap();
        assert_eq!(fs::metadata(&precious).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(dir.path().join("moved")).unwrap().mode() & 0o777, 0o666);
    }

    #[test]
    fn nobody_else_can_connect_before_the_mode_is_set() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _listener = listen(&path, SocketAccess { mode: Some(0o666), ..SocketAccess::default() }).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o077, 0);
    }

    #[test]
    fn a_path_must_fit_and_its_folder_exist() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("x".repeat(PATH_MAX_BYTES));
        assert!(matches!(bind(&long), Err(SessionError::PathTooLong { .. })));
        let lost = dir.path().join("no/such/folder");
        assert!(matches!(bind(&lost), Err(SessionError::NoFolder { .. })));
        let room = PATH_MAX_BYTES - dir.path().as_os_str().len() - 1;
        assert!(bind(&dir.path().join("x".repeat(room))).is_ok());
    }
}
