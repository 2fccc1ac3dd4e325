//! How long a thread was ready to run and its CPU ran something else, as the kernel counts it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// Three numbers of at most twenty digits, each with what separates it from the next.
const TEXT: usize = 64;

/// Of one thread.
#[derive(Debug)]
pub(super) struct CpuWait(Option<File>);

impl CpuWait {
    /// Of the thread that calls this.
    pub(super) fn of_this_thread() -> Self {
        Self(File::open("/proc/thread-self/schedstat").ok())
    }

    /// All of it up to now, without a wait that has not ended; nothing where the kernel does not say.
    pub(super) fn total(&self) -> Duration {
        let mut text = [0; TEXT];
        // A thread that has ended says nothing, either.
        let length = self.0.as_ref().and_then(|file| file.read_at(&mut text, 0).ok()).unwrap_or(0);
        std::str::from_utf8(&text[..length]).ok().and_then(waited).unwrap_or_default()
    }
}

/// The second of the three numbers: nanoseconds on the CPU, nanoseconds waited, and how often it got the CPU (Documentation/scheduler/sched-stats).
fn waited(text: &str) -> Option<Duration> {
    text.split_ascii_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    use super::*;

    #[test]
    fn it_is_the_second_number() {
        assert_eq!(waited("5111 2000000 7\n"), Some(Duration::from_millis(2)));
        assert_eq!(waited("5111\n"), None);
        assert_eq!(waited("5111 none 7\n"), None);
        let most = format!("{0} {0} {0}\n", u64::MAX);
        assert!(most.len() <= TEXT && waited(&most) == Some(Duration::from_nanos(u64::MAX)));
    }

    #[test]
    fn where_the_kernel_does_not_say_nobody_waits() {
        assert_eq!(CpuWait(None).total(), Duration::ZERO);
        assert_eq!(CpuWait(Some(File::open("/dev/null").unwrap())).total(), Duration::ZERO);
    }

    /// Binds this thread to the first CPU it may run on, with whatever else runs there.
    fn bind() {
        let may = sched_getaffinity(None).unwrap();
        let mut first = CpuSet::new();
        first.set((0..CpuSet::MAX_CPU).find(|cpu| may.is_set(*cpu)).unwrap());
        sched_setaffinity(None, &first).unwrap();
    }

    #[test]
    fn of_two_threads_on_one_cpu_each_waits_for_the_other() {
        if !std::path::Path::new("/proc/thread-self/schedstat").exists() {
            return;
        }
        let ends = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                bind();
                while !ends.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
            let waiting = scope.spawn(|| {
                bind();
                let (wait, begin) = (CpuWait::of_this_thread(), Instant::now());
                // It has waited for the CPU that it is bound to.
                let waited = wait.total();
                while begin.elapsed() < Duration::from_millis(300) {
                    std::hint::spin_loop();
                }
                let sleeps = wait.total();
                std::thread::sleep(Duration::from_millis(100));
                (wait.total() - waited, sleeps - waited, begin.elapsed())
            });
            let (total, before, length) = waiting.join().unwrap();
            ends.store(true, Ordering::Relaxed);
            // Half of the 300 ms, more where others want that CPU too.
            assert!(
                before >= Duration::from_millis(60) && total >= before && total <= length,
                "{before:?} {total:?} {length:?}"
            );
        });
    }
}
