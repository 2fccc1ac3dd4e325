//! The experiments of `make experiments`: how Sidecore behaves with many guests, and what it does about it.
//!
//! | module | what it is |
//! |---|---|
//! | [`finding`] | what an experiment found, as it is written to its JSON file |
//! | [`chart`], [`page`] | the pictures and the report, made from that alone |
//! | [`stage`] | the switch, its guests and the generator |
//! | [`turns`] | cases that take short turns, so that all meet the same machine |
//! | the others | an experiment each |

pub mod answer;
pub mod chart;
pub mod classes;
pub mod finding;
pub mod idle;
pub mod interrupts;
pub mod page;
pub mod paper;
pub mod saturation;
pub mod scale;
pub mod simulator;
pub mod stage;
pub mod traffic;
pub mod turns;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rustix::thread::{CpuSet, sched_setaffinity};
use sidecore_tests::interrupt::Interrupt;
use sidecore_tests::paths;

use finding::{Conditions, Finding};

/// An experiment.
#[derive(Clone, Copy)]
pub struct Study {
    /// Its name.
    pub name: &'static str,
    /// What it is about, in a few words.
    pub about: &'static str,
    run: fn(&Lab) -> Result<Finding>,
}

impl Study {
    /// Makes it.
    pub fn make(&self, lab: &Lab) -> Result<Finding> {
        let begin = Instant::now();
        let finding = (self.run)(lab)?.weighed();
        Ok(Finding { took_s: begin.elapsed().as_secs_f64(), ..finding })
    }
}

/// All experiments, in the order of the report.
pub const ALL: &[Study] = &[
    Study { name: "paper", about: "traditional against exitless, from what make exits has counted", run: paper::run },
    Study { name: "saturation", about: "one I/O core up to its limit and beyond", run: saturation::run },
    Study { name: "classes", about: "round trips of a latency-class guest beside busy neighbours", run: classes::run },
    Study { name: "answer", about: "load shifts, and guests move to another I/O core", run: answer::run },
    Study { name: "interrupts", about: "interrupts for each packet against latency", run: interrupts::run },
    Study { name: "idle", about: "what idle guests cost, and how late their first packet is", run: idle::run },
    Study { name: "scale", about: "64 I/O cores and 1,024 guests, simulated", run: scale::run },
];

/// How thoroughly an experiment is made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effort {
    /// Rounds, which take turns.
    pub rounds: usize,
    /// Measured seconds of each turn.
    pub seconds: f64,
    /// Fewer places along the way.
    pub coarse: bool,
    /// Seconds that are simulated.
    pub simulated_s: f64,
}

impl Effort {
    /// For figures that are to be quoted.
    pub const FULL: Self = Self { rounds: 7, seconds: 1.0, coarse: false, simulated_s: 600.0 };
    /// All of it in less than ten minutes.
    pub const QUICK: Self = Self { rounds: 5, seconds: 0.3, coarse: true, simulated_s: 180.0 };
    /// Shows in which direction things go, and no more.
    pub const CHECK: Self = Self { rounds: 1, seconds: 0.2, coarse: true, simulated_s: 20.0 };

    /// The command that makes an experiment as thoroughly.
    fn command(self, name: &str) -> String {
        let usual = if self.coarse { Self::QUICK } else { Self::FULL };
        let options = [
            self.coarse.then(|| " QUICK=1".to_owned()),
            (self.rounds != usual.rounds).then(|| format!(" ROUNDS={}", self.rounds)),
            (self.seconds != usual.seconds).then(|| format!(" SECONDS_PER_ROUND={}", self.seconds)),
        ];
        format!("make experiments{} ONLY={name}", options.into_iter().flatten().collect::<String>())
    }
}

/// Who runs where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cpus {
    /// The generator, and all else that is not an I/O core.
    pub generator: usize,
    io: Vec<usize>,
}

impl Cpus {
    /// On a machine with so many CPUs: the first is the generator's.
    #[must_use]
    pub fn of(count: usize) -> Self {
        Self { generator: 0, io: if count > 1 { (1..count).collect() } else { vec![0] } }
    }

    /// The CPUs of so many I/O cores. Where there are too few, they share them.
    #[must_use]
    pub fn io_cores(&self, count: usize) -> Vec<usize> {
        (0..count).map(|core| self.io[core % self.io.len()]).collect()
    }

    /// The same, but rather than share one with an earlier one, they have the generator's.
    #[must_use]
    pub fn spread(&self, count: usize) -> Vec<usize> {
        (0..count).map(|core| self.io.get(core).copied().unwrap_or(self.generator)).collect()
    }

    /// All of them, in the kernel's list format.
    #[must_use]
    pub fn list(&self) -> String {
        let all: BTreeSet<usize> = self.io.iter().chain([&self.generator]).copied().collect();
        all.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
    }

    /// Whether so many I/O cores have a CPU each, and all else one besides.
    #[must_use]
    pub fn are_enough_for(&self, count: usize) -> bool {
        self.io.len() >= count
    }
}

/// Everything an experiment needs.
pub struct Lab {
    /// How thoroughly.
    pub effort: Effort,
    /// Who runs where.
    pub cpus: Cpus,
    /// The generator's binary.
    pub ringgen: PathBuf,
    /// Where results go.
    pub out: PathBuf,
    /// Ctrl-C.
    pub interrupt: Interrupt,
}

impl Lab {
    /// On this machine. This process, and all that it starts, keeps off the I/O cores' CPUs.
    pub fn new(effort: Effort, out: PathBuf) -> Result<Self> {
        let cpus = Cpus::of(std::thread::available_parallelism()?.get());
        let mut set = CpuSet::new();
        set.set(cpus.generator);
        sched_setaffinity(None, &set).with_context(|| format!("cannot run on CPU {}", cpus.generator))?;
        fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
        Ok(Self { effort, cpus, ringgen: paths::ringgen()?, out, interrupt: Interrupt::install()? })
    }

    /// What the experiment is made on.
    #[must_use]
    pub fn conditions(&self) -> Conditions {
        Conditions::now(self.effort.rounds, self.effort.seconds)
    }

    /// The command that repeats an experiment.
    #[must_use]
    pub fn repeat(&self, name: &str) -> String {
        self.effort.command(name)
    }

    /// Calls `turn` for every place in every round: rounds take turns, so that a machine that is slower for a while is so for all. Returns the
    /// results by place.
    pub fn rounds<P, T>(&self, places: &[P], mut turn: impl FnMut(&P) -> Result<T>) -> Result<Vec<Vec<T>>> {
        let mut results: Vec<Vec<T>> = places.iter().map(|_| Vec::new()).collect();
        for _ in 0..self.effort.rounds {
            for (place, results) in places.iter().zip(&mut results) {
                self.interrupt.check()?;
                results.push(turn(place)?);
            }
        }
        Ok(results)
    }

    /// Writes what was found, and the report of all that was found up to now.
    pub fn write(&self, finding: &Finding) -> Result<()> {
        let write = |name: String, text: &str| {
            let path = self.out.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        write(format!("{}.json", finding.name), &(serde_json::to_string(finding)? + "\n"))?;
        write(format!("{}.md", finding.name), &page::markdown(finding))?;
        for one in &finding.charts {
            write(format!("{}-{}.svg", finding.name, one.name), &chart::render(one))?;
        }
        let (findings, unreadable) = found(&self.out);
        write("report.html".to_owned(), &page::html(&findings, &unreadable))
    }
}

/// What was found up to now, in the order of the experiments, and why some of it cannot be read.
#[must_use]
pub fn found(out: &Path) -> (Vec<Finding>, Vec<String>) {
    let (mut findings, mut unreadable) = (Vec::new(), Vec::new());
    for path in ALL.iter().map(|study| out.join(format!("{}.json", study.name))).filter(|path| path.exists()) {
        let read = || anyhow::Ok(serde_json::from_str(&fs::read_to_string(&path)?)?);
        match read() {
            Ok(finding) => findings.push(finding),
            Err(error) => unreadable.push(format!("{} cannot be read: {error:#}", path.display())),
        }
    }
    (findings, unreadable)
}

/// The experiments of these names; all, if there is none.
pub fn chosen(names: &[String]) -> Result<Vec<Study>> {
    let names: Vec<&str> = names.iter().map(|name| name.trim()).filter(|name| !name.is_empty()).collect();
    for name in &names {
        let known = ALL.iter().any(|study| study.name == *name);
        ensure!(known, "there is no experiment '{name}': `experiments --list` shows their names");
    }
    Ok(ALL.iter().filter(|study| names.is_empty() || names.contains(&study.name)).copied().collect())
}

/// Why an experiment is left out when all are made: what it needs is not there. Whoever asks for it by name gets an error instead.
#[must_use]
pub fn left_out(study: &Study, names: &[String], out: &Path) -> Option<String> {
    let is_missing =
        study.name == "paper" && names.iter().all(|name| name.trim().is_empty()) && !out.join(paper::COUNTED).exists();
    is_missing.then(|| "left out: `make exits` has not counted VM exits yet".to_owned())
}

/// Jain's index: 1 where all have the same, 1/n where one has all.
#[must_use]
pub fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    if squares > 0.0 { sum * sum / (shares.len() as f64 * squares) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fairness_is_between_one_has_all_and_all_have_the_same() {
        assert!((jain(&[2.0; 8]) - 1.0).abs() < 1e-12);
        assert!((jain(&[5.0, 0.0, 0.0, 0.0]) - 0.25).abs() < 1e-12);
        assert_eq!(jain(&[0.0; 3]), 0.0);
    }

    #[test]
    fn io_cores_share_cpus_only_where_they_have_to() {
        assert_eq!(Cpus::of(2).io_cores(2), [1, 1]);
        assert_eq!(Cpus::of(4).io_cores(2), [1, 2]);
        assert_eq!((Cpus::of(1).list(), Cpus::of(3).list()), ("0".to_owned(), "0,1,2".to_owned()));
        assert_eq!((Cpus::of(2).spread(3), Cpus::of(4).spread(2)), (vec![1, 0, 0], vec![1, 2]));
        assert!(Cpus::of(4).are_enough_for(3) && !Cpus::of(2).are_enough_for(2));
    }

    #[test]
    fn what_repeats_an_experiment_is_what_was_done() {
        let command = |effort: Effort| effort.command("idle");
        assert_eq!(command(Effort::FULL), "make experiments ONLY=idle");
        assert_eq!(command(Effort::QUICK), "make experiments QUICK=1 ONLY=idle");
        let few = Effort { rounds: 3, ..Effort::QUICK };
        assert_eq!(command(few), "make experiments QUICK=1 ROUNDS=3 ONLY=idle");
        let short = Effort { seconds: 0.3, ..Effort::FULL };
        assert_eq!(command(short), "make experiments SECONDS_PER_ROUND=0.3 ONLY=idle");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_a_line_in_the_report() {
        let folder = tempfile::tempdir().unwrap();
        let idle = Finding { name: "idle".to_owned(), title: "Idle guests".to_owned(), ..Finding::default() };
        fs::write(folder.path().join("idle.json"), serde_json::to_string(&idle).unwrap()).unwrap();
        fs::write(folder.path().join("scale.json"), "{\"name\": null}").unwrap();
        let (findings, unreadable) = found(folder.path());
        assert_eq!((findings.as_slice(), unreadable.len()), ([idle].as_slice(), 1));
        let page = page::html(&findings, &unreadable);
        assert!(page.contains("Idle guests") && page.contains("scale.json cannot be read"), "{page}");
    }

    #[test]
    fn experiments_are_chosen_by_name() {
        assert_eq!(chosen(&[]).unwrap().len(), ALL.len());
        assert_eq!(chosen(&["saturation".to_owned()]).unwrap().len(), 1);
        assert!(chosen(&["nonsense".to_owned()]).is_err());
    }

    #[test]
    fn what_is_not_asked_for_by_name_and_cannot_be_made_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let left_out = |names: &[String]| {
            let missing = ALL.iter().filter(|study| left_out(study, names, folder.path()).is_some());
            missing.map(|study| study.name).collect::<Vec<_>>()
        };
        assert_eq!(left_out(&[]), ["paper"]);
        assert!(left_out(&["paper".to_owned()]).is_empty());
        fs::write(folder.path().join(paper::COUNTED), "[]").unwrap();
        assert!(left_out(&[]).is_empty());
    }
}
