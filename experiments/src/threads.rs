//! Threads of a system from outside: which of them forward, and which only keep house.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process, setpriority_process};
use sidecore_tests::process::must;

/// A thread as /proc shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thread {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// The CPUs it may run on, in the kernel's list format.
    pub cpus: String,
}

/// The threads of a process.
pub fn of_process(pid: u32) -> Result<Vec<Thread>> {
    let folder = format!("/proc/{pid}/task");
    let mut threads = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| folder.clone())? {
        // A thread that has just ended is none.
        if let Some(thread) = entry.ok().and_then(|entry| read(&entry.path())) {
            threads.push(thread);
        }
    }
    ensure!(!threads.is_empty(), "{folder} lists no thread");
    Ok(threads)
}

fn read(folder: &Path) -> Option<Thread> {
    let id = folder.file_name()?.to_str()?.parse().ok()?;
    let status = fs::read_to_string(folder.join("status")).ok()?;
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned());
    Some(Thread { id, name: field("Name:")?, cpus: field("Cpus_allowed_list:")? })
}

/// CPU time of a thread up to now. Linux brings it up to date a few hundred times a second at least.
pub fn cpu_time(process: u32, thread: u32) -> Result<Duration> {
    let path = format!("/proc/{process}/task/{thread}/schedstat");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    // The first number is the time spent on a CPU, in nanoseconds.
    let ns = text.split_whitespace().next().and_then(|ns| ns.parse().ok());
    ns.map(Duration::from_nanos).with_context(|| format!("no time in {path}"))
}

/// The one thread that forwards: the only one that is bound to the switch's CPU and nothing else.
pub fn forwarding(threads: &[Thread], switch_cpu: usize) -> Result<Thread> {
    let bound: Vec<&Thread> = threads.iter().filter(|thread| thread.cpus == switch_cpu.to_string()).collect();
    ensure!(
        bound.len() == 1,
        "{} threads are bound to CPU {switch_cpu}, not one: {:?}",
        bound.len(),
        threads.iter().map(|thread| format!("{} on {}", thread.name, thread.cpus)).collect::<Vec<_>>()
    );
    Ok(bound[0].clone())
}

/// Lets threads that keep house give way to the generator, which may share their CPU.
pub fn give_way(threads: &[Thread], forwarding: &Thread) -> Result<()> {
    for thread in threads.iter().filter(|thread| thread.id != forwarding.id) {
        let id = pid(thread.id)?;
        // Linux keeps the nice value of each thread, and takes a thread's id here. One that has just ended is none.
        match setpriority_process(Some(id), 10) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot lower the priority of {}", thread.name)),
        }
    }
    Ok(())
}

/// Lets a thread run at once whenever it wants to, before all ordinary ones: for threads that sleep nearly always.
pub fn prefer(id: u32) -> Result<()> {
    must(&["chrt", "-f", "-p", "1", &id.to_string()]).context("cannot raise a priority: that needs root").map(drop)
}

/// Lets an ordinary thread, which runs all the time, have its CPU before all other ordinary ones.
pub fn favour(id: u32) -> Result<()> {
    setpriority_process(Some(pid(id)?), -20).context("cannot raise a priority: that needs root")
}

/// This thread, preferred until it is dropped. What it starts meanwhile is, too.
pub struct Preferred(u32);

impl Preferred {
    /// From now on.
    pub fn this_thread() -> Result<Self> {
        let id = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        // First, and dropped if the other fails: beside a thread that was favoured before it `chrt` would take a second.
        favour(id)?;
        let me = Self(id);
        prefer(id).map(|()| me)
    }
}

impl Drop for Preferred {
    fn drop(&mut self) {
        // It was raised a moment ago; what cannot be lowered is better than a panic.
        let _ = must(&["chrt", "-o", "-p", "0", &self.0.to_string()]);
        let _ = pid(self.0).map(|id| setpriority_process(Some(id), 0));
    }
}

/// Halts all threads of a process, or lets them go on.
pub fn signal_process(id: u32, signal: Signal) -> Result<()> {
    kill_process(pid(id)?, signal).with_context(|| format!("cannot signal process {id}"))
}

fn pid(id: u32) -> Result<Pid> {
    i32::try_from(id).ok().and_then(Pid::from_raw).with_context(|| format!("{id} is no process id"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(id: u32, name: &str, cpus: &str) -> Thread {
        Thread { id, name: name.to_owned(), cpus: cpus.to_owned() }
    }

    #[test]
    fn the_forwarding_thread_is_the_one_bound_to_the_cpu() {
        let threads = [thread(1, "main", "0"), thread(2, "pmd", "1"), thread(3, "handler", "0-1")];
        assert_eq!(forwarding(&threads, 1).unwrap().id, 2);
        let none = forwarding(&threads, 5).unwrap_err().to_string();
        assert!(none.contains("handler on 0-1"), "{none}");
        let two = [threads.to_vec(), vec![thread(4, "session", "1")]].concat();
        assert!(forwarding(&two, 1).is_err(), "a second thread on the switch's CPU would disturb it");
    }

    #[test]
    fn a_thread_that_works_has_cpu_time() {
        let me = std::process::id();
        let thread = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        let before = cpu_time(me, thread).unwrap();
        let end = std::time::Instant::now() + Duration::from_millis(50);
        while std::time::Instant::now() < end {}
        assert!(cpu_time(me, thread).unwrap() > before);
        assert!(cpu_time(me, u32::MAX).is_err());
    }

    #[test]
    fn this_process_has_threads() {
        let threads = of_process(std::process::id()).unwrap();
        assert!(threads.iter().any(|thread| thread.id == std::process::id() && !thread.cpus.is_empty()), "{threads:?}");
    }
}
