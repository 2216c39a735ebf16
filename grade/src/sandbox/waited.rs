//! How long a process could have run and did not, because the machine had other work.
//!
//! A limit by the clock alone takes points from right answers on a busy machine. The kernel counts what each thread waited for a processor
//! (`/proc/PID/schedstat`, second number, nanoseconds: "time spent waiting on a runqueue", Documentation/scheduler/sched-stats.rst); that time is nobody's fault.
//! One who sleeps waits for no processor, and gets nothing.

use std::path::Path;
use std::time::Duration;

/// What the thread of process `pid` that waited longest has waited for a processor; nothing if the kernel does not count it or the process has ended and is reaped.
pub fn waited(pid: u32) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
    threads
        .into_iter()
        .flatten()
        .flatten()
        .map(|thread| of_file(&thread.path().join("schedstat")))
        .max()
        .unwrap_or_default()
}

fn of_file(path: &Path) -> Duration {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    parse(&text).unwrap_or_default()
}

/// `running waiting slices`, times in nanoseconds.
fn parse(text: &str) -> Option<Duration> {
    let waiting = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(Duration::from_nanos(waiting))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_number_is_the_time_waited() {
        assert_eq!(
            parse("988715 118392 2\n"),
            Some(Duration::from_nanos(118_392))
        );
        assert_eq!(parse("988715"), None);
        assert_eq!(parse(""), None);
        assert_eq!(parse("a b c"), None);
    }

    #[test]
    fn nobody_waited_in_a_process_that_is_not_there() {
        // The largest process number Linux can be set to give is 2^22.
        assert_eq!(waited(1 << 23), Duration::ZERO);
    }
}
