//! The state file: guests and uplinks added at run time, so that they are there again after a restart.
//!
//! It is replaced as a whole and on disk before a request is answered: a reader finds the old content or the new one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use config::{GuestConfig, UplinkConfig};
use rustix::fs::{Access, FlockOperation};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::control::Port;

/// The only version so far.
const VERSION: u32 = 1;

/// Where ports are kept.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
}

/// One switch at a time has it. The lock is on a file beside the state file, since that is another file after each change.
#[derive(Debug)]
pub(crate) struct StateLock {
    path: PathBuf,
    _lock: File,
}

impl Drop for StateLock {
    fn drop(&mut self) {
        // One that stays behind is no harm: nobody holds it.
        let _ = fs::remove_file(&self.path);
    }
}

/// Why ports could not be kept, or read back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error("the state file {} cannot be kept: {source}; create its directory and let this user write there, or set \
             switch.state_file to another path", path.display())]
    NoDirectory { path: PathBuf, source: io::Error },
    #[error("the state file {} is another switch's: it is running; stop it, or give this one another path in \
             switch.state_file", .0.display())]
    InUse(PathBuf),
    #[error("the state file {} cannot be read: {source}; let this user read it, or move it away to start without the \
             ports in it", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the state file {} is damaged: {detail}; repair it, or move it away to start without the ports in it", path.display())]
    Corrupt { path: PathBuf, detail: String },
    #[error("the state file {} has version {found}, and this switch knows version {VERSION}; start the switch that \
             wrote it, or move it away to start without the ports in it", path.display())]
    Version { path: PathBuf, found: u32 },
    #[error("the state file {} cannot be written: {source}; nothing was changed; make room, or let this user write there", path.display())]
    Write { path: PathBuf, source: io::Error },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    guests: Vec<GuestConfig>,
    uplinks: Vec<UplinkConfig>,
}

/// Read before the rest, so that a newer file is told from a damaged one.
#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

impl StateFile {
    /// Keeps the file at `path` from other switches, which would replace each other's ports, for as long as the returned value lives.
    pub(crate) fn lock(path: &Path) -> Result<StateLock, StateError> {
        let failed = |source: io::Error| StateError::NoDirectory { path: path.to_owned(), source };
        let beside = beside(path, ".lock");
        loop {
            let lock = File::options().write(true).create(true).truncate(false).mode(0o600).open(&beside);
            let lock = lock.map_err(failed)?;
            match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(StateError::InUse(path.to_owned())),
                Err(error) => return Err(failed(error.into())),
            }
            // Whoever had it may have removed it since it was opened here.
            if fs::metadata(&beside).is_ok_and(|now| lock.metadata().is_ok_and(|mine| now.ino() == mine.ino())) {
                return Ok(StateLock { path: beside, _lock: lock });
            }
        }
    }

    /// Finds out whether ports can be kept at `path`, and reads those that are.
    pub(crate) fn open(path: PathBuf) -> Result<(Self, Vec<Port>), StateError> {
        let directory = directory(&path);
        if let Err(error) = rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK) {
            return Err(StateError::NoDirectory { path, source: error.into() });
        }
        let ports = match fs::read_to_string(&path) {
            Ok(text) => parse(&path, &text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(StateError::Read { path, source }),
        };
        Ok((Self { path }, ports))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the ports kept.
    pub(crate) fn save<'a>(&self, ports: impl Iterator<Item = &'a Port>) -> Result<(), StateError> {
        let mut content = Content { version: VERSION, guests: Vec::new(), uplinks: Vec::new() };
        for port in ports {
            match port.clone() {
                Port::Guest(guest) => content.guests.push(guest),
                Port::Uplink(uplink) => content.uplinks.push(uplink),
            }
        }
        self.replace(&content).map_err(|source| StateError::Write { path: self.path.clone(), source })
    }

    fn replace(&self, content: &Content) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(content)?;
        text.push(b'\n');
        let temporary = beside(&self.path, ".new");
        let written = write_synced(&temporary, &text).and_then(|()| fs::rename(&temporary, &self.path));
        if written.is_err() {
            // What went wrong is told already; the file may not even be there.
            let _ = fs::remove_file(&temporary);
        }
        written?;
        File::open(directory(&self.path))?.sync_all()
    }
}

/// The path of a file that belongs to the state file.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

fn write_synced(path: &Path, text: &[u8]) -> io::Result<()> {
    // Never followed: somebody may have left a link there.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

fn parse(path: &Path, text: &str) -> Result<Vec<Port>, StateError> {
    let corrupt = |error: serde_json::Error| StateError::Corrupt { path: path.to_owned(), detail: error.to_string() };
    let VersionOnly { version } = serde_json::from_str(text).map_err(corrupt)?;
    if version != VERSION {
        return Err(StateError::Version { path: path.to_owned(), found: version });
    }
    let content: Content = serde_json::from_str(text).map_err(corrupt)?;
    let uplinks = content.uplinks.into_iter().map(Port::Uplink);
    Ok(uplinks.chain(content.guests.into_iter().map(Port::Guest)).collect())
}

fn directory(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::tests::{guest, uplink};

    fn open(path: &Path) -> Result<(StateFile, Vec<Port>), StateError> {
        StateFile::open(path.to_owned())
    }

    #[test]
    fn ports_come_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        let (file, ports) = open(&path).unwrap();
        assert_eq!(ports, []);
        let ports = [uplink("up", "net_null0"), guest("vm1", "/run/vm1")];
        file.save(ports.iter()).unwrap();
        assert_eq!(open(&path).unwrap().1, ports);
        file.save(ports[..1].iter()).unwrap();
        assert_eq!(open(&path).unwrap().1, ports[..1]);
        let left = fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(left, 1, "the temporary file is gone");
    }

    #[test]
    fn one_switch_at_a_time_has_the_file_also_after_a_change() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        let lock = StateFile::lock(&path).unwrap();
        open(&path).unwrap().0.save([guest("vm1", "/run/vm1")].iter()).unwrap();
        let error = StateFile::lock(&path).unwrap_err();
        assert!(matches!(error, StateError::InUse(_)) && error.to_string().contains("switch.state_file"), "{error}");
        drop(lock);
        drop(StateFile::lock(&path).unwrap());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing but the state file is left");
    }

    #[test]
    fn what_is_no_state_is_an_error_that_names_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        let corrupt = [
            "",
            "{",
            "[]",
            r#"{"version":1}"#,
            r#"{"version":1,"guests":[],"uplinks":[],"more":[]}"#,
            r#"{"version":1,"guests":[{"name":"-","socket":"/x"}],"uplinks":[]}"#,
            r#"{"version":1,"guests":[{"name":"a","socket":"relative"}],"uplinks":[]}"#,
        ];
        for text in corrupt {
            fs::write(&path, text).unwrap();
            let error = open(&path).unwrap_err();
            assert!(matches!(error, StateError::Corrupt { .. }), "{text}: {error}");
            assert!(error.to_string().contains("state.json") && error.to_string().contains("move it away"), "{error}");
        }
        fs::write(&path, r#"{"version":2,"new":"things"}"#).unwrap();
        assert!(matches!(open(&path).unwrap_err(), StateError::Version { found: 2, .. }));
    }

    #[test]
    fn a_directory_that_is_not_there_is_found_at_once() {
        let error = open(Path::new("/nonexistent/state.json")).unwrap_err();
        assert!(matches!(error, StateError::NoDirectory { .. }), "{error}");
    }

    #[test]
    fn a_failed_write_keeps_the_old_content() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        let (file, _) = open(&path).unwrap();
        file.save([guest("vm1", "/run/vm1")].iter()).unwrap();
        // A directory in the temporary file's place stops any user, root too.
        fs::create_dir(directory.path().join("state.json.new")).unwrap();
        assert!(matches!(file.save([].iter()).unwrap_err(), StateError::Write { .. }));
        assert_eq!(open(&path).unwrap().1.len(), 1);
    }
}
