//! How long the I/O cores' CPUs may take to wake up: a limit that Linux keeps for each CPU by itself (`pm_qos_resume_latency_us`,
//! Documentation/ABI/testing/sysfs-devices-power), and by which it chooses among idle states.
//!
//! The limit is the machine's and outlives this process. So what was there is noted in a file before it is changed, and given back at the end; a
//! switch that is killed leaves both behind, and the next one begins with giving back.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use config::{Mode, SwitchConfig};
use tracing::{info, warn};

/// Where Linux shows its CPUs.
const CPUS: &str = "/sys/devices/system/cpu";
/// What the note is called after the control socket beside it: a switch of its own has a note of its own.
const NOTE_SUFFIX: &str = ".wake";

/// The limits, for as long as this lives.
#[derive(Debug)]
pub(super) struct WakeLatency {
    cpus: PathBuf,
    note: PathBuf,
    /// What the configuration asks for, in microseconds.
    pub(super) wanted_us: Option<u32>,
    held: Vec<Held>,
}

/// Why CPUs cannot be held to a limit.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WakeLatencyError {
    /// The kernel's file is not there, or not for this user.
    #[error(
        "CPU {cpu} cannot be held to switch.wake_latency_us: {}: {source}; start as root where /sys can be written, or take that key out",
        path.display()
    )]
    Cpu {
        /// The CPU.
        cpu: u32,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is changed must not be forgotten.
    #[error(
        "what switch.wake_latency_us changes cannot be noted in {}: {source}; let this user write there, or take that key out",
        path.display()
    )]
    Note {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What a CPU may take to wake up, in microseconds; none: anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limit(Option<u32>);

impl Limit {
    /// As the kernel writes it: its 0 is no limit, and what should be 0 is `n/a`.
    fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "n/a" => Some(Self(Some(0))),
            number => number.parse().ok().map(|us: u32| Self((us > 0).then_some(us))),
        }
    }

    fn is_within(self, us: u32) -> bool {
        self.0.is_some_and(|limit| limit <= us)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(0) => f.write_str("n/a"),
            us => write!(f, "{}", us.unwrap_or(0)),
        }
    }
}

/// A CPU whose limit was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    cpu: u32,
    found: Limit,
    set: Limit,
}

impl Held {
    /// A line of the note.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let cpu = words.next()?.parse().ok()?;
        Some(Self { cpu, found: Limit::parse(words.next()?)?, set: Limit::parse(words.next()?)? })
    }

    /// Gives back what was found, unless somebody else has changed it since.
    fn give_back(self, cpus: &Path) {
        let path = file(cpus, self.cpu);
        if read(&path).is_ok_and(|now| now == self.set)
            && let Err(error) = write(&path, self.found)
        {
            warn!("{} stays at {}: {error}; it was {}", path.display(), self.set, self.found);
        }
    }
}

impl WakeLatency {
    /// Gives back what a switch at this control socket left behind that was killed; then holds the I/O cores' CPUs to the limit, if there is one.
    pub(super) fn hold(config: &SwitchConfig) -> Result<Self, WakeLatencyError> {
        let always_awake = config.mode == Mode::Poll && config.io_cores.min == config.io_cores.cpus.len();
        if config.wake_latency_us.is_some() && always_awake {
            warn!("switch.wake_latency_us makes no difference: in mode poll no I/O core sleeps");
        }
        let mut note = config.control_socket.clone().into_os_string();
        note.push(NOTE_SUFFIX);
        let cores = config.io_cores.cpus.iter().map(|cpu| cpu.0).collect();
        Self::hold_at(CPUS.into(), note.into(), &cores, config.wake_latency_us)
    }

    fn hold_at(
        cpus: PathBuf,
        note: PathBuf,
        cores: &BTreeSet<u32>,
        wanted_us: Option<u32>,
    ) -> Result<Self, WakeLatencyError> {
        give_back_what_was_left(&cpus, &note);
        let mut me = Self { cpus, note, wanted_us, held: Vec::new() };
        let Some(us) = wanted_us else { return Ok(me) };
        let failed = |cpu: u32, path: PathBuf| move |source: io::Error| WakeLatencyError::Cpu { cpu, path, source };
        for &cpu in cores {
            let path = file(&me.cpus, cpu);
            let found = read(&path).map_err(failed(cpu, path))?;
            // Somebody who wants it to be sooner still has a reason.
            if !found.is_within(us) {
                me.held.push(Held { cpu, found, set: Limit(Some(us)) });
            }
        }
        me.write_note()?;
        // Should one fail, those before it are given back as this is dropped.
        for Held { cpu, found, set } in &me.held {
            let path = file(&me.cpus, *cpu);
            write(&path, *set).map_err(failed(*cpu, path))?;
            info!(
                "CPU {cpu} is to wake up within {us} us while this switch runs (pm_qos_resume_latency_us was {found})"
            );
        }
        Ok(me)
    }

    fn write_note(&self) -> Result<(), WakeLatencyError> {
        if self.held.is_empty() {
            return Ok(());
        }
        let lines: String =
            self.held.iter().map(|held| format!("{} {} {}\n", held.cpu, held.found, held.set)).collect();
        // There is none (see above), and nobody else's link is followed.
        let note = File::options().write(true).create_new(true).mode(0o600).open(&self.note);
        note.and_then(|mut file| file.write_all(lines.as_bytes()))
            .map_err(|source| WakeLatencyError::Note { path: self.note.clone(), source })
    }

    /// What a CPU may take to wake up now, in microseconds, where a limit is configured; none: anything.
    pub(super) fn now_us(&self, cpu: usize) -> Option<u32> {
        self.wanted_us?;
        read(&file(&self.cpus, u32::try_from(cpu).ok()?)).ok()?.0
    }
}

impl Drop for WakeLatency {
    fn drop(&mut self) {
        self.held.iter().for_each(|held| held.give_back(&self.cpus));
        if !self.held.is_empty() {
            remove_note(&self.note);
        }
    }
}

fn give_back_what_was_left(cpus: &Path, note: &Path) {
    let Ok(lines) = fs::read_to_string(note) else { return };
    for held in lines.lines().filter_map(Held::parse) {
        held.give_back(cpus);
        info!("CPU {} had a limit on waking up from a switch that was killed", held.cpu);
    }
    remove_note(note);
}

fn remove_note(note: &Path) {
    if let Err(error) = fs::remove_file(note)
        && error.kind() != io::ErrorKind::NotFound
    {
        warn!("{} stays behind: {error}", note.display());
    }
}

fn file(cpus: &Path, cpu: u32) -> PathBuf {
    cpus.join(format!("cpu{cpu}/power/pm_qos_resume_latency_us"))
}

fn read(path: &Path) -> io::Result<Limit> {
    let text = fs::read_to_string(path)?;
    let strange =
        || io::Error::new(io::ErrorKind::InvalidData, format!("it says {:?}, which is no limit", text.trim()));
    Limit::parse(&text).ok_or_else(strange)
}

fn write(path: &Path, limit: Limit) -> io::Result<()> {
    // Never made: it is the kernel's.
    let mut file = File::options().write(true).truncate(true).open(path)?;
    file.write_all(format!("{limit}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine's CPUs, as files in a folder.
    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new(limits: &[&str]) -> Self {
            let me = Self(tempfile::tempdir().unwrap());
            for (cpu, limit) in limits.iter().enumerate() {
                fs::create_dir_all(file(me.0.path(), cpu as u32).parent().unwrap()).unwrap();
                me.set(cpu as u32, limit);
            }
            me
        }

        fn set(&self, cpu: u32, limit: &str) {
            fs::write(file(self.0.path(), cpu), format!("{limit}\n")).unwrap();
        }

        fn limits(&self) -> Vec<String> {
            let read = |cpu| fs::read_to_string(file(self.0.path(), cpu)).ok().map(|text| text.trim().to_owned());
            (0..).map_while(read).collect()
        }

        fn note(&self) -> PathBuf {
            self.0.path().join("control.sock.wake")
        }

        fn hold(&self, cores: &[u32], us: Option<u32>) -> Result<WakeLatency, WakeLatencyError> {
            WakeLatency::hold_at(self.0.path().into(), self.note(), &cores.iter().copied().collect(), us)
        }

        /// A switch that is killed gives nothing back.
        fn hold_and_be_killed(&self, cores: &[u32], us: u32) {
            std::mem::forget(self.hold(cores, Some(us)).unwrap());
            assert!(self.note().exists());
        }
    }

    #[test]
    fn limits_are_as_the_kernel_writes_them() {
        for (text, limit) in [("0\n", None), ("n/a\n", Some(0)), ("7\n", Some(7))] {
            let parsed = Limit::parse(text).unwrap();
            assert_eq!((parsed.0, format!("{parsed}\n")), (limit, text.to_owned()));
        }
        assert!(["", "auto", "-1", "99999999999"].iter().all(|text| Limit::parse(text).is_none()));
    }

    #[test]
    fn they_are_held_and_given_back() {
        let machine = Machine::new(&["0", "100", "0", "3", "n/a"]);
        let before = machine.limits();
        let held = machine.hold(&[1, 2, 3, 4], Some(10)).unwrap();
        assert_eq!(machine.limits(), ["0", "10", "10", "3", "n/a"], "no CPU is slowed down, and CPU 0 is nobody's");
        assert_eq!([2, 3, 4, 9].map(|cpu| held.now_us(cpu)), [Some(10), Some(3), Some(0), None]);
        drop(held);
        assert_eq!(machine.limits(), before);
        assert!(!machine.note().exists());

        let held = machine.hold(&[0, 1], Some(0)).unwrap();
        assert_eq!(machine.limits()[..2], ["n/a", "n/a"]);
        assert_eq!(held.now_us(0), Some(0));
    }

    #[test]
    fn without_the_key_nothing_is_touched() {
        // Not even looked at: CPU 7 is not there.
        let machine = Machine::new(&["5"]);
        let held = machine.hold(&[0, 7], None).unwrap();
        assert_eq!((machine.limits(), held.now_us(0)), (vec!["5".to_owned()], None));
        assert!(!machine.note().exists());
    }

    #[test]
    fn what_somebody_else_has_set_since_stays() {
        let machine = Machine::new(&["0", "0"]);
        let held = machine.hold(&[0, 1], Some(10)).unwrap();
        machine.set(1, "50");
        assert_eq!(held.now_us(1), Some(50));
        drop(held);
        assert_eq!(machine.limits(), ["0", "50"]);
    }

    #[test]
    fn what_a_killed_switch_left_is_given_back_by_the_next() {
        let machine = Machine::new(&["0", "200"]);
        machine.hold_and_be_killed(&[0, 1], 10);
        machine.hold_and_be_killed(&[1], 0);
        assert_eq!(machine.limits(), ["0", "n/a"], "the second one has no use for CPU 0");
        machine.hold_and_be_killed(&[0, 1], 10);
        // Once by one that sets nothing, once after somebody else did.
        drop(machine.hold(&[0, 1], None).unwrap());
        assert_eq!(machine.limits(), ["0", "200"]);
        assert!(!machine.note().exists());
        machine.hold_and_be_killed(&[0, 1], 10);
        machine.set(0, "20");
        drop(machine.hold(&[0, 1], Some(10)).unwrap());
        assert_eq!(machine.limits(), ["20", "200"]);
    }

    #[test]
    fn a_note_that_says_nothing_does_no_harm() {
        let machine = Machine::new(&["0"]);
        fs::write(machine.note(), "0 n/a\n../x 0 n/a\n9 0 0\n\u{fffd}").unwrap();
        drop(machine.hold(&[0], Some(10)).unwrap());
        assert_eq!(machine.limits(), ["0"]);
    }

    #[test]
    fn where_one_cannot_be_held_none_is() {
        let machine = Machine::new(&["0", "strange"]);
        for (cores, word) in [(&[0, 1], "strange"), (&[0, 2], "cpu2/power")] {
            let error = machine.hold(cores, Some(10)).unwrap_err();
            assert!(error.to_string().contains("wake_latency_us") && error.to_string().contains(word), "{error}");
            assert_eq!(machine.limits()[0], "0");
        }
        // A note that cannot be written.
        fs::create_dir(machine.note()).unwrap();
        let error = machine.hold(&[0], Some(10)).unwrap_err();
        assert!(matches!(error, WakeLatencyError::Note { .. }), "{error}");
        assert_eq!(machine.limits()[0], "0");
    }
}
