//! Writes the "newc" cpio archive that the kernel unpacks as its initramfs.

/// An archive under construction.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

const DIRECTORY: u32 = 0o040_755;
const SYMLINK: u32 = 0o120_777;
const EXECUTABLE: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

impl Archive {
    /// Adds a directory. Parents come first.
    pub(super) fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY, (0, 0), &[]);
    }

    /// Adds a file that everybody may read and run.
    pub(super) fn file(&mut self, path: &str, content: &[u8]) {
        self.entry(path, EXECUTABLE, (0, 0), content);
    }

    /// Adds a symbolic link.
    pub(super) fn symlink(&mut self, path: &str, target: &str) {
        self.entry(path, SYMLINK, (0, 0), target.as_bytes());
    }

    /// Adds a character device node.
    pub(super) fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.entry(path, CHARACTER_DEVICE, (major, minor), &[]);
    }

    /// Closes the archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let name_size = path.len() + 1;
        let fields = [
            self.entries,
            mode,
            0, // uid
            0, // gid
            1, // links
            0, // mtime: the same input gives the same archive
            u32::try_from(content.len()).unwrap_or(u32::MAX),
            0, // device of the file system
            0,
            device.0,
            device.1,
            u32::try_from(name_size).unwrap_or(u32::MAX),
            0, // checksum, not used by newc
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    #[test]
    fn busybox_reads_what_is_written() {
        let mut archive = Archive::default();
        archive.directory("a");
        archive.file("a/b", b"hello\n");
        archive.symlink("c", "a/b");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);

        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new("busybox")
            .args(["cpio", "-i"])
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(std::fs::read_to_string(dir.path().join("c")).unwrap(), "hello\n");
    }
}
