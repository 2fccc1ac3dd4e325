//! Configuration files for tests.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// A configuration under construction. Sockets are in the folder of the test's switch.
#[derive(Debug, Clone)]
pub struct SwitchConfig {
    dir: PathBuf,
    io_cores: Vec<usize>,
    /// I/O cores that stay awake, where some may be parked.
    awake: Option<usize>,
    switch_keys: Vec<String>,
    scheduler_keys: Vec<String>,
    ports: String,
}

impl SwitchConfig {
    /// One I/O core on the last CPU, no ports. Small buffers, no hugepages, unless [`key`](Self::key) says otherwise.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        let last = std::thread::available_parallelism().map_or(1, usize::from) - 1;
        Self {
            dir: dir.to_owned(),
            io_cores: vec![last],
            awake: None,
            switch_keys: Vec::new(),
            scheduler_keys: Vec::new(),
            ports: String::new(),
        }
    }

    /// So many I/O cores, from CPU 0 on. On a machine with fewer CPUs, they share them.
    #[must_use]
    pub fn io_cores(self, count: usize) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        self.on_cpus((0..count).map(|core| core % cpus).collect())
    }

    /// I/O cores on these CPUs. One that is there twice is shared.
    #[must_use]
    pub fn on_cpus(mut self, cpus: Vec<usize>) -> Self {
        let is_shared = cpus.iter().enumerate().any(|(core, cpu)| cpus[..core].contains(cpu));
        self.io_cores = cpus;
        if is_shared { self.key("allow_shared_cpu = true") } else { self }
    }

    /// All but so many I/O cores may be parked.
    #[must_use]
    pub fn awake(self, cores: usize) -> Self {
        Self { awake: Some(cores), ..self }
    }

    /// Adds a line to the `[switch]` section.
    #[must_use]
    pub fn key(mut self, line: &str) -> Self {
        self.switch_keys.push(line.to_owned());
        self
    }

    /// Queue pairs stay where they are, unless somebody moves them.
    #[must_use]
    pub fn without_rebalancing(self) -> Self {
        self.scheduler("rebalance = false")
    }

    /// Adds a line to the `[scheduler]` section.
    #[must_use]
    pub fn scheduler(mut self, line: &str) -> Self {
        self.scheduler_keys.push(line.to_owned());
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

    /// Adds lines to the section that was added last.
    #[must_use]
    pub fn lines(mut self, lines: &[&str]) -> Self {
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
        let io_cores = match self.awake {
            Some(min) => format!("{{ cpus = {:?}, min = {min} }}", self.io_cores),
            None => format!("{:?}", self.io_cores),
        };
        let control = self.control_socket();
        let mut text = format!("[switch]\nio_cores = {io_cores}\ncontrol_socket = \"{}\"\n", control.display());
        if !self.switch_keys.iter().any(|key| key.starts_with("hugepages")) {
            text.push_str("hugepages = \"off\"\n");
        }
        for line in &self.switch_keys {
            let _ = writeln!(text, "{line}");
        }
        if !self.scheduler_keys.is_empty() {
            let _ = write!(text, "\n[scheduler]\n{}\n", self.scheduler_keys.join("\n"));
        }
        text + &self.ports
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_shared_only_where_they_have_to_be() {
        let config = |cpus: &[usize]| SwitchConfig::new(Path::new("/tmp/x")).on_cpus(cpus.to_vec()).to_toml();
        assert!(config(&[0, 1, 0]).contains("io_cores = [0, 1, 0]\n"));
        assert!(config(&[0, 1, 0]).contains("allow_shared_cpu = true"));
        assert!(!config(&[1, 2, 3]).contains("allow_shared_cpu"));
    }

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
