//! Counts what libtest prints and what tests report as skipped.

use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Results of a whole run.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: u64,
    pub(crate) failed: u64,
    /// `name: reason`. A test that skips itself is one that libtest calls passed.
    skipped: BTreeSet<String>,
    /// Names of tests that libtest left out (`#[ignore]`).
    ignored: BTreeSet<String>,
    failures: Vec<String>,
}

impl Tally {
    /// Reads one line of libtest's output.
    pub(crate) fn read(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.passed += count_before(counts, " passed");
            self.failed += count_before(counts, " failed");
        } else if let Some((name, result)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
            if result.starts_with("ignored") {
                self.ignored.insert(name.to_owned());
            } else if result == "FAILED" {
                self.failures.push(name.to_owned());
            }
        }
    }

    /// Takes a skip a test has reported, as `name: reason`.
    pub(crate) fn skip(&mut self, line: &str) {
        self.skipped.insert(line.trim().to_owned());
    }

    /// Counts a check that is not libtest's.
    pub(crate) fn pass(&mut self) {
        self.passed += 1;
    }

    /// Counts a failure that libtest did not see.
    pub(crate) fn fail(&mut self, what: &str) {
        self.failed += 1;
        self.failures.push(what.to_owned());
    }

    /// Whether all is well, given the text of tests/skips.txt.
    pub(crate) fn is_success(&self, listed: &str) -> bool {
        self.failed == 0 && self.passed > 0 && self.unlisted(listed).is_empty()
    }

    /// The end of the run's output. Its last line is the summary.
    pub(crate) fn report(&self, listed: &str) -> String {
        let mut text = String::new();
        for failure in &self.failures {
            let _ = writeln!(text, "FAILED {failure}");
        }
        for skip in self.all_skips() {
            let _ = writeln!(text, "SKIPPED {skip}");
        }
        let unlisted = self.unlisted(listed);
        for skip in &unlisted {
            let _ = writeln!(text, "FAILED {skip} (this skip is not in tests/skips.txt)");
        }
        let skipped = self.all_skips().len() - unlisted.len();
        let passed = self.passed.saturating_sub(self.skipped.len() as u64);
        let failed = self.failed + unlisted.len() as u64;
        let _ = writeln!(text, "{passed} passed, {failed} failed, {skipped} skipped");
        text
    }

    fn all_skips(&self) -> Vec<String> {
        let ignored = self.ignored.iter().map(|name| format!("{name}: ignored"));
        self.skipped.iter().cloned().chain(ignored).collect()
    }

    fn unlisted(&self, listed: &str) -> Vec<String> {
        let known: BTreeSet<&str> =
            listed.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        self.all_skips().into_iter().filter(|skip| !known.contains(skip.as_str())).collect()
    }
}

/// The number right before `word`, 0 when there is none.
fn count_before(text: &str, word: &str) -> u64 {
    text.split_once(word).and_then(|(before, _)| before.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use sidecore_tests::paths;

    use super::*;

    fn tally(lines: &[&str]) -> Tally {
        let mut tally = Tally::default();
        lines.iter().for_each(|line| tally.read(line));
        tally
    }

    #[test]
    fn results_of_all_binaries_add_up() {
        let tally = tally(&[
            "test a ... ok",
            "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s",
        ]);
        assert!(tally.is_success(""));
        assert_eq!(tally.report(""), "15 passed, 0 failed, 0 skipped\n");
    }

    #[test]
    fn a_failure_is_named() {
        let tally = tally(&["test x::y ... FAILED", "test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured"]);
        assert!(!tally.is_success(""));
        assert_eq!(tally.report(""), "FAILED x::y\n1 passed, 1 failed, 0 skipped\n");
    }

    #[test]
    fn a_skip_needs_its_line_in_the_list() {
        let mut tally = tally(&["test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured"]);
        tally.skip("kvm_exits: no hardware virtualisation");
        assert!(!tally.is_success("# nothing\n"));
        assert!(tally.report("").ends_with("1 passed, 1 failed, 0 skipped\n"));
        let listed = "# why\nkvm_exits: no hardware virtualisation\n";
        assert!(tally.is_success(listed));
        assert!(tally.report(listed).ends_with("1 passed, 0 failed, 1 skipped\n"));
        assert!(!tally.is_success("kvm_exits: another reason\n"));
    }

    #[test]
    fn an_ignored_test_is_a_skip_too() {
        let tally = tally(&["test slow ... ignored, takes long", "test result: ok. 1 passed; 0 failed; 1 ignored"]);
        assert!(!tally.is_success(""));
        assert!(tally.is_success("slow: ignored"));
    }

    /// All Rust files below a folder.
    fn sources(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let below = |path: PathBuf| if path.is_dir() { sources(&path) } else { vec![path] };
        entries.flat_map(below).filter(|path| path.extension().is_some_and(|end| end == "rs")).collect()
    }

    /// Where a test can run here, nobody would notice before it cannot elsewhere.
    #[test]
    fn skips_that_the_code_spells_out_are_in_the_list() {
        let listed = fs::read_to_string(paths::workspace().join("tests/skips.txt")).unwrap();
        let mut found = 0;
        for file in ["tests", "experiments"].iter().flat_map(|folder| sources(&paths::workspace().join(folder))) {
            let text = fs::read_to_string(&file).unwrap();
            for call in text.split("skip(").skip(1).filter_map(|rest| Some(rest.split_once(");")?.0)) {
                let words: Vec<&str> = call.split('"').skip(1).step_by(2).collect();
                let [name, reason] = words[..] else { continue };
                let line = format!("{name}: {reason}");
                assert!(listed.lines().any(|listed| listed == line), "{}: {line}", file.display());
                found += 1;
            }
        }
        assert!(found >= 8, "{found} found");
    }

    #[test]
    fn nothing_run_is_no_success() {
        assert!(!Tally::default().is_success(""));
    }
}
