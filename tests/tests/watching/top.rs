//! `sidecore top`, in a terminal of 80 by 24.

use std::time::Duration;

use rustix::process::Signal;
use sidecore_tests::paths;
use sidecore_tests::process::{Process, eventually};
use sidecore_tests::switch::SwitchProcess;

use crate::scene::{LIMIT, Scene};

/// What enters and leaves the screen that programs like this have for themselves.
const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?1049l";

/// It runs on a terminal that `script` made, and everything it writes there is kept.
fn start(scene: &Scene, name: &str) -> Process {
    let control = scene.config.control_socket();
    let top = format!("{} top --interval 0.1 --control {}", paths::sidecore().unwrap().display(), control.display());
    let command = format!("stty cols 80 rows 24; {top}; echo status $?; stty -a");
    let log = scene.dir.path().join(name);
    let mut process = Process::spawn("top", "script", ["-qefc", command.as_str(), "/dev/null"], &log).unwrap();
    see(&mut process, "RX BIT/s");
    process
}

/// Waits until a text is on the screen.
fn see(process: &mut Process, text: &str) {
    let on_screen = |process: &mut Process| Ok(screen(&process.output()).contains(text).then_some(()));
    process.wait_until(&format!("{text:?} on the screen"), LIMIT, on_screen).unwrap();
}

/// What a terminal would show: only cells that changed are written, with moves between them.
fn screen(output: &str) -> String {
    let mut cells = [[' '; 80]; 24];
    let (mut row, mut column) = (0, 0);
    let mut rest = output.split_once(ENTER).map_or("", |(_, shown)| shown).chars();
    while let Some(next) = rest.next() {
        if next != '\u{1b}' {
            if let Some(cell) = cells.get_mut(row).and_then(|row| row.get_mut(column)) {
                *cell = next;
            }
            column += 1;
            continue;
        }
        // ESC [ numbers letter. All but moves and clearing change no text.
        let mut numbers = String::new();
        let letter = rest.by_ref().skip(1).find(|sign| {
            let is_letter = sign.is_ascii_alphabetic();
            numbers.extend((!is_letter).then_some(*sign));
            is_letter
        });
        match letter {
            Some('H') => {
                let mut places =
                    numbers.split(';').map(|number| number.parse::<usize>().unwrap_or(1).saturating_sub(1));
                (row, column) = (places.next().unwrap_or(0), places.next().unwrap_or(0));
            }
            Some('J') => cells = [[' '; 80]; 24],
            _ => {}
        }
    }
    cells.map(String::from_iter).join("\n")
}

/// What the shell around it sees when it has ended.
fn assert_restored(mut process: Process, status: &str) {
    process.wait(LIMIT).unwrap();
    let output = process.output();
    let (_, after) = output.rsplit_once(LEAVE).unwrap();
    assert!(output.contains(ENTER) && !after.contains(ENTER), "{output}");
    assert!(after.contains(&format!("status {status}")), "{after}");
    assert!(after.contains("icanon"), "no word of the terminal: {after}");
    assert!(["-icanon", "-echo ", "-isig"].iter().all(|setting| !after.contains(setting)), "still raw: {after}");
}

#[test]
fn top_shows_a_live_switch_and_gives_the_terminal_back() {
    let mut scene = Scene::start().unwrap();
    let mut top = start(&scene, "top.log");
    for text in ["sidecore 0.1.0", "web-1", "db.2", "late", "wan", "q quit"] {
        see(&mut top, text);
    }
    // A filter that leaves only one, and back.
    type_in(&mut top, "/late\r");
    see(&mut top, "filter: late (Esc clears)");
    type_in(&mut top, "2");
    see(&mut top, "MOSTLY");

    // The switch goes, and another one comes.
    scene.switch.take().unwrap().stop_within(Signal::TERM, LIMIT).unwrap();
    see(&mut top, "NO ANSWER for");
    scene.switch = Some(SwitchProcess::start(&scene.config).unwrap());
    see(&mut top, "STARTED AGAIN");
    type_in(&mut top, "q");
    assert_restored(top, "0");

    // A signal ends it as well.
    let killed = start(&scene, "killed.log");
    let control = scene.config.control_socket().display().to_string();
    let pid = eventually("top's process", LIMIT, || Ok(pid_of(&control))).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert_restored(killed, "0");

    // So does a terminal that goes without a word.
    let mut gone = start(&scene, "gone.log");
    eventually("top's process", LIMIT, || Ok(pid_of(&control))).unwrap();
    gone.kill().unwrap();
    eventually("its end", LIMIT, || Ok(pid_of(&control).is_none().then_some(()))).unwrap();
}

#[test]
fn top_prints_once_for_scripts() {
    let scene = Scene::start().unwrap();
    let text =
        scene.switch().must(&["top", "--once", "--interval", "0.1", "--sort", "name", "--filter", "guest"]).unwrap();
    let names: Vec<_> = text.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(names, ["NAME", "db.2", "late", "web-1"]);
    let cores = scene.switch().must(&["top", "--once", "--interval", "0.1", "--view", "cores"]).unwrap();
    assert_eq!(cores.lines().count(), 4, "{cores}");
    let refused = scene.switch().cli(&["top"]).unwrap();
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("--once"), "{refused:?}");
    let wrong = scene.switch().cli(&["top", "--once", "--sort", "nonsense"]).unwrap();
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("there is no column \"nonsense\""), "{wrong:?}");
}

fn type_in(top: &mut Process, keys: &str) {
    use std::io::Write as _;
    let stdin = top.stdin().unwrap();
    stdin.write_all(keys.as_bytes()).unwrap();
    stdin.flush().unwrap();
    // Keys that come at once are read one by one all the same; this keeps escape sequences apart.
    std::thread::sleep(Duration::from_millis(20));
}

/// The `sidecore top` that talks to this control socket.
fn pid_of(control: &str) -> Option<rustix::process::Pid> {
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let found = processes.filter_map(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        let is_top = words.get(1).is_some_and(|word| word == "top") && words.iter().any(|word| word == control);
        is_top.then(|| entry.file_name().to_str()?.parse().ok()).flatten()
    });
    found.into_iter().next().and_then(rustix::process::Pid::from_raw)
}
