//! What scrapes of many guests make an I/O core execute. The switch that this program holds runs under callgrind, each of its threads counted by itself: once
//! while nobody asks it anything, then while one scrape of `/metrics` follows the other. What a scrape itself executes is other threads' work.
//!
//! Threads take turns under valgrind, so that the core has more or fewer rounds in the same time; but a round is a round. What any function of the core's
//! thread executed beyond its part of so many rounds, or for the first time, is put down to the scrapes. Guests are of class latency: their rings are looked
//! at by number, not by time.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use synthetic_guest::{Guest, GuestConfig};
use tempfile::TempDir;

/// Guests with a queue pair each.
const GUESTS: usize = 256;
/// Scrapes in a row.
const SCRAPES: usize = 5;
/// Time without any.
const QUIET: Duration = Duration::from_secs(4);
/// Longest wait for anything that has to happen.
const LIMIT: Duration = Duration::from_secs(120);
/// The part of its instructions that scrapes may cost an I/O core.
const MOST: f64 = 0.01;
/// What an I/O core calls once in a fixed number of its rounds (`AGEING_ROUNDS`): its calls tell how many rounds there were, to one in some thousands.
const AGEING: &str = "Fdb::age";
/// Calls of it without which nothing can be said.
const LEAST: u64 = 1000;

/// What the I/O core's thread executed in a time.
#[derive(Clone)]
struct Account {
    /// Instructions of each function, without those of functions that it calls.
    functions: BTreeMap<String, u64>,
    /// Calls of [`AGEING`].
    ageings: u64,
}

/// What was counted.
pub(crate) struct Scrapes {
    /// Instructions of the I/O core while it was scraped.
    all: f64,
    /// Those that it would not have executed otherwise.
    because: f64,
    /// The function that executed most, its part of all, and how much more that was for each round than otherwise, in parts.
    busiest: (String, f64, f64),
    /// Functions that ran for the first time.
    new: Vec<String>,
}

impl Scrapes {
    /// Whether they cost little enough.
    pub(crate) fn is_within(&self) -> bool {
        self.share() <= MOST
    }

    fn share(&self) -> f64 {
        self.because / self.all
    }

    /// A line for people.
    pub(crate) fn line(&self) -> String {
        let note = if self.is_within() { String::new() } else { format!("  OVER BUDGET, new: {:?}", self.new) };
        let (busiest, part, more) = &self.busiest;
        format!(
            "{SCRAPES} scrapes of {GUESTS} guests in a row: {:.3} % of the I/O core's instructions ({:.0} of {:.0}), {:.0} % at most{note}\n\
             (of these, {:.1} % are of {busiest}, whose rounds execute {:+.3} %)\n",
            self.share() * 100.0,
            self.because,
            self.all,
            MOST * 100.0,
            part * 100.0,
            more * 100.0,
        )
    }

    /// The same for programs.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "guests": GUESTS, "scrapes": SCRAPES, "instructions": self.all, "because_of_scrapes": self.because,
            "share": self.share(), "budget": MOST,
            "busiest": { "function": self.busiest.0, "part": self.busiest.1, "more_a_round": self.busiest.2 },
        })
    }
}

/// Starts a switch and its guests, and counts.
pub(crate) fn measure() -> Result<Scrapes> {
    let dir = TempDir::new()?;
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let socket = |guest: usize| dir.path().join(format!("{guest}.sock"));
    let mut text = format!(
        "[switch]\nio_cores = [0]\nhugepages = \"off\"\nmemory_mib = 64\ncontrol_socket = \"{}\"\nhttp_listen = \"127.0.0.1:{port}\"\n[scheduler]\n\
         rebalance = false\n",
        dir.path().join("control.sock").display()
    );
    for guest in 0..GUESTS {
        text +=
            &format!("[[guest]]\nname = \"g{guest}\"\nclass = \"latency\"\nsocket = \"{}\"\n", socket(guest).display());
    }
    let file = dir.path().join("sidecore.toml");
    std::fs::write(&file, text)?;
    let switch = Switch::start(dir.path(), &file)?;
    eventually("a switch that answers", || Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()))?;
    let guests = (0..GUESTS).map(|guest| {
        let mut config = GuestConfig::new(socket(guest));
        (config.rx_ring, config.tx_ring) = (64, 64);
        config.session.reply_timeout = LIMIT;
        Guest::start(config)
    });
    let _guests = guests.collect::<Result<Vec<_>, _>>()?;
    let served = format!("sidecore_core_queue_pairs{{core=\"0\"}} {GUESTS}\n");
    eventually("served guests", || Ok(scrape(port)?.contains(&served)))?;

    switch.control(&["--instr=on"])?;
    // Rings come to rest, and code is translated.
    sleep(QUIET / 4);
    switch.control(&["--zero"])?;
    sleep(QUIET);
    switch.control(&["--dump=quiet"])?;
    for _ in 0..SCRAPES {
        ensure!(scrape(port)?.contains(&served), "a scrape shows all guests");
    }
    switch.control(&["--dump=scraped"])?;
    // What the I/O core does answer has to be seen in the same way.
    for _ in 0..SCRAPES {
        show_stations(&dir.path().join("control.sock"))?;
    }
    switch.control(&["--dump=asked"])?;
    let [quiet, scraped, asked] = ["quiet", "scraped", "asked"].map(|reason| thread_of_the_core(dir.path(), reason));
    let quiet = quiet?;
    let answers = compare(&quiet, &asked?);
    ensure!(answers.because > 10_000.0 && !answers.new.is_empty(), "what the I/O core is asked is not seen");
    for function in quiet.functions.keys() {
        sees_more_in(&quiet, function)?;
    }
    Ok(compare(&quiet, &scraped?))
}

/// Had one of the core's functions executed more in each round, by twice of what is allowed, that would be over budget, whichever function it is.
fn sees_more_in(quiet: &Account, function: &str) -> Result<()> {
    let mut more = quiet.clone();
    let all: u64 = quiet.functions.values().sum();
    *more.functions.entry(function.to_owned()).or_default() += (2.0 * MOST * all as f64) as u64;
    ensure!(!compare(quiet, &more).is_within(), "more work in {function} is not seen");
    Ok(())
}

/// What the second account has beyond the first, made as long as it by the rounds of both.
fn compare(quiet: &Account, scraped: &Account) -> Scrapes {
    let scale = scraped.ageings as f64 / quiet.ageings as f64;
    let otherwise = |function: &str| scale * quiet.functions.get(function).copied().unwrap_or(0) as f64;
    let all = scraped.functions.values().sum::<u64>() as f64;
    let beyond = |(function, count): (&String, &u64)| (*count as f64 - otherwise(function)).max(0.0);
    let new = scraped.functions.keys().filter(|function| !quiet.functions.contains_key(*function));
    let busiest = scraped.functions.iter().max_by_key(|(_, count)| **count);
    let of_busiest = |(function, count): (&String, &u64)| {
        let count = *count as f64;
        (function.clone(), count / all, count / otherwise(function) - 1.0)
    };
    Scrapes {
        all,
        because: scraped.functions.iter().map(beyond).sum(),
        busiest: busiest.map(of_busiest).unwrap_or_default(),
        new: new.cloned().collect(),
    }
}

/// A switch under callgrind.
struct Switch(Child);

impl Switch {
    fn start(dir: &Path, config: &Path) -> Result<Self> {
        let log = std::fs::File::create(dir.join("log"))?;
        let child = Command::new("valgrind")
            .args(["--tool=callgrind", "--quiet", "--separate-threads=yes", "--fair-sched=yes", "--instr-atstart=no"])
            .arg(format!("--callgrind-out-file={}", dir.join("profile").display()))
            .arg(std::env::current_exe().context("cannot find the bench's own program")?)
            .args(["run", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        Ok(Self(child.context("cannot run valgrind: install it (scripts/install-deps.sh bench-instr)")?))
    }

    /// Has callgrind do something.
    fn control(&self, what: &[&str]) -> Result<()> {
        let output = Command::new("callgrind_control").args(what).arg(self.0.id().to_string()).output();
        let output = output.context("cannot run callgrind_control, which comes with valgrind")?;
        ensure!(output.status.success(), "callgrind_control {what:?}: {}", String::from_utf8_lossy(&output.stdout));
        Ok(())
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // It has told what it was to tell.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn eventually(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let begin = Instant::now();
    while !condition()? {
        ensure!(begin.elapsed() < LIMIT, "no {what} within {LIMIT:?}");
        sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn scrape(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: switch\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    ensure!(text.starts_with("HTTP/1.1 200"), "a scrape answers {}", text.lines().next().unwrap_or_default());
    Ok(text)
}

/// Asks for something that only the I/O core can tell.
fn show_stations(control: &Path) -> Result<()> {
    let mut stream = UnixStream::connect(control)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"{\"command\":\"fdb_show\"}\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    ensure!(line.starts_with("{\"ok\""), "the switch answers {line}");
    Ok(())
}

/// The I/O core's thread, from the files of the dump that was made for this reason.
fn thread_of_the_core(dir: &Path, reason: &str) -> Result<Account> {
    let mut found = None;
    for file in std::fs::read_dir(dir)? {
        let path = file?.path();
        if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("profile")) {
            continue;
        }
        let text = std::fs::read_to_string(&path)?;
        if text.lines().any(|line| line.starts_with("desc: Trigger:") && line.contains(reason)) {
            let account = account(&text).with_context(|| format!("in {}", path.display()))?;
            if account.functions.keys().any(|function| function.contains("io_core")) {
                ensure!(found.replace(account).is_none(), "there is one I/O core");
            }
        }
    }
    match found {
        Some(account) if account.ageings >= LEAST => Ok(account),
        Some(_) => bail!("callgrind saw the I/O core's thread do next to nothing, or not call {AGEING}"),
        None => bail!("callgrind wrote nothing of the I/O core's thread for {reason}"),
    }
}

/// Reads a profile (Valgrind manual, "Callgrind Format Specification").
fn account(text: &str) -> Result<Account> {
    let mut names = BTreeMap::<&str, &str>::new();
    let mut account = Account { functions: BTreeMap::new(), ageings: 0 };
    let (mut function, mut called) = ("", "");
    let mut is_call = false;
    let number = |line: &str, nth: usize| -> Result<u64> {
        line.split(' ').nth(nth).unwrap_or("0").parse().with_context(|| format!("in {line:?}"))
    };
    for line in text.lines() {
        let named =
            line.strip_prefix("fn=").map(|name| (name, true)).or(line.strip_prefix("cfn=").map(|name| (name, false)));
        if let Some((name, is_here)) = named {
            // "(12) name" where a name is used first, "(12)" after.
            let (id, text) = name.split_once(' ').unwrap_or((name, ""));
            let name = if text.is_empty() { names.get(id).copied().unwrap_or(id) } else { text };
            names.insert(id, name);
            *(if is_here { &mut function } else { &mut called }) = name;
        } else if let Some(calls) = line.strip_prefix("calls=") {
            // The next line is what the call cost: the other function's.
            is_call = true;
            if called.ends_with(AGEING) {
                account.ageings += number(calls, 0)?;
            }
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            let cost = number(line, 1)?;
            if !std::mem::take(&mut is_call) {
                *account.functions.entry(function.to_owned()).or_default() += cost;
            }
        }
    }
    Ok(account)
}
