//! Configuration files for tests.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// A configuration under construction. Sockets are in the folder of the test's switch.
#[derive(Debug, Clone)]
pub struct SwitchConfig {
    dir: PathBuf,
    io_cores: Vec<usize>,
    switch_keys: Vec<String>,
    ports: String,
}

impl SwitchConfig {
    /// One I/O core on the last CPU, no ports. Small buffers, no hugepages, unless [`key`](Self::key) says otherwise.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        let last = std::thread::available_parallelism().map_or(1, usize::from) - 1;
        Self { dir: dir.to_owned(), io_cores: vec![last], switch_keys: Vec::new(), ports: String::new() }
    }

    /// These CPUs as I/O cores. On a machine with too few, they share CPU 0.
    #[must_use]
    pub fn io_cores(mut self, count: usize) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        if count <= cpus {
            self.io_cores = (0..count).collect();
            return self;
        }
        self.io_cores = (0..count).map(|core| core % cpus).collect();
        self.key("allow_shared_cpu = true")
    }

    /// Adds a line to the `[switch]` section.
    #[must_use]
    pub fn key(mut self, line: &str) -> Self {
        self.switch_keys.push(line.to_owned());
        self
    }

    /// Adds a guest with lines of its own.
    #[must_use]
    pub fn guest(mut self, name: &str, lines: &[&str]) -> Self {
        let socket = self.socket(name);
        let _ = write!(self.ports, "\n[[guest]]\nname = \"{name}\"\nsocket = \"{}\"\n", socket.display());
        self.lines(lines)
    }

    /// Adds an uplink with lines of its own.
    #[must_use]
    pub fn uplink(mut self, name: &str, device: &str, lines: &[&str]) -> Self {
        let _ = write!(self.ports, "\n[[uplink]]\nname = \"{name}\"\ndevice = \"{device}\"\n");
        self.lines(lines)
    }

    fn lines(mut self, lines: &[&str]) -> Self {
        for line in lines {
            let _ = writeln!(self.ports, "{line}");
        }
        self
    }

    /// The vhost-user socket of a guest.
    #[must_use]
    pub fn socket(&self, guest: &str) -> PathBuf {
        self.dir.join(format!("{guest}.sock"))
    }

    /// The control socket.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    /// The file's text.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = format!(
            "[switch]\nio_cores = {:?}\ncontrol_socket = \"{}\"\n",
            self.io_cores,
            self.control_socket().display()
        );
        if !self.switch_keys.iter().any(|key| key.starts_with("hugepages")) {
            text.push_str("hugepages = \"off\"\n");
        }
        for line in &self.switch_keys {
            let _ = writeln!(text, "{line}");
        }
        text + &self.ports
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_follow_each_other() {
        let config = SwitchConfig::new(Path::new("/tmp/x"))
            .key("log_level = \"debug\"")
            .guest("vm1", &["queue_pairs = 2"])
            .uplink("wan", "net_null0", &[]);
        let text = config.to_toml();
        let places: Vec<_> = ["[switch]", "log_level", "[[guest]]", "/tmp/x/vm1.sock", "queue_pairs", "[[uplink]]"]
            .iter()
            .map(|part| text.find(part).unwrap_or_else(|| panic!("{part} is missing in {text}")))
            .collect();
        assert!(places.is_sorted(), "{text}");
    }
}
