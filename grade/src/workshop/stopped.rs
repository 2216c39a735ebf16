//! Why the compiler was stopped, or fell, told from how it ended and what it said last.

use std::fmt;
use std::time::Duration;

use super::Diagnostic;
use crate::sandbox::{Ended, Ending};

/// Why there is no program, and no error of the compiler's either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It used up its processor time: this many seconds.
    Processor(u64),
    /// It waited, or was made to wait, longer than this many seconds.
    Wall(u64),
    /// It wanted more memory than it may have.
    Memory,
    /// It wanted to write a longer file than it may, or the disk is full.
    Disk,
    /// It wrote messages without end.
    Flooded,
    /// Its stack was used up.
    Stack,
    /// Somebody else ended it, with this signal.
    Killed(i32),
    /// It fell over its own feet.
    Crashed,
    /// All compilations of this submission together used up their processor time: this many seconds.
    Budget(u64),
}

impl Stop {
    /// What the end of a compilation shows, which was allowed so much processor time and time by the clock.
    pub fn of(ended: &Ended, processor: Duration, wall: Duration) -> Stop {
        let said = last_words(&ended.stderr).to_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
        let allowed = processor.as_secs().max(1);
        match ended.ending {
            Ending::TimedOut => Stop::Wall(wall.as_secs().max(1)),
            Ending::Flooded => Stop::Flooded,
            Ending::Killed(25) => Stop::Disk,
            Ending::Killed(24) => Stop::Processor(allowed),
            // The kernel counts whole seconds, and ends it with the same signal as somebody who needs its memory.
            Ending::Killed(9) if ended.processor.as_secs_f64() + 1.0 >= allowed as f64 => {
                Stop::Processor(allowed)
            }
            _ if says(&[
                "memory allocation of",
                "out of memory",
                "cannot allocate memory",
                "memory exhausted",
            ]) =>
            {
                Stop::Memory
            }
            _ if says(&[
                "file size limit exceeded",
                "file too large",
                "no space left on device",
            ]) =>
            {
                Stop::Disk
            }
            _ if says(&["stack overflow", "overflowed its stack", "sigsegv"]) => Stop::Stack,
            Ending::Killed(11) => Stop::Stack,
            Ending::Killed(signal) if signal != 6 => Stop::Killed(signal),
            _ => Stop::Crashed,
        }
    }

    /// The sentence for student and staff: what was compiled, and why it was not.
    pub fn sentence(self, what: &str) -> String {
        format!("compiling {what} {self}")
    }
}

/// What was said, but for messages about places in the text: those may quote the submission.
fn last_words(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let words = text
        .lines()
        .filter_map(|line| match serde_json::from_str::<Diagnostic>(line) {
            Ok(message) if !message.spans.is_empty() => None,
            Ok(message) => message.rendered,
            Err(_) => Some(line.to_owned()),
        });
    words.collect::<Vec<String>>().join("\n")
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::Processor(seconds) => write!(f, "took more than {seconds} s of processor time"),
            Stop::Wall(seconds) => write!(f, "was not done after {seconds} s by the clock"),
            Stop::Memory => write!(f, "needed more memory than a compilation may have"),
            Stop::Disk => write!(f, "wrote a longer file than a compilation may write"),
            Stop::Flooded => write!(f, "wrote messages without end"),
            Stop::Stack => write!(
                f,
                "used up the compiler's stack: something is nested too deep"
            ),
            Stop::Killed(signal) => write!(f, "was ended from outside (signal {signal})"),
            Stop::Crashed => write!(f, "made the compiler itself fail"),
            Stop::Budget(seconds) => write!(
                f,
                "took more than {seconds} s of processor time in all, one attempt after the other"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::{Wishes, run};
    use std::process::Command;

    fn ended(ending: Ending, said: &str, processor: u64) -> Ended {
        Ended {
            ending,
            stdout: Vec::new(),
            stderr: said.into(),
            took: Duration::ZERO,
            waited: Duration::ZERO,
            processor: Duration::from_secs(processor),
        }
    }

    fn stop(ending: Ending, said: &str, processor: u64) -> Stop {
        let limit = Duration::from_secs(30);
        Stop::of(&ended(ending, said, processor), limit, limit * 10)
    }

    /// All of these were called out of time or memory.
    #[test]
    fn every_end_has_its_own_reason() {
        assert_eq!(stop(Ending::Killed(9), "", 30), Stop::Processor(30));
        assert_eq!(stop(Ending::Killed(24), "", 0), Stop::Processor(30));
        assert_eq!(stop(Ending::Killed(9), "", 3), Stop::Killed(9));
        assert_eq!(stop(Ending::TimedOut, "", 3), Stop::Wall(300));
        assert_eq!(stop(Ending::Flooded, "", 3), Stop::Flooded);
        assert_eq!(
            stop(Ending::Killed(6), "memory allocation of 8 bytes failed", 3),
            Stop::Memory
        );
        assert_eq!(
            stop(Ending::Left(101), "LLVM ERROR: out of memory", 3),
            Stop::Memory
        );
        assert_eq!(stop(Ending::Killed(25), "", 3), Stop::Disk);
        let linker =
            "collect2: fatal error: ld terminated with signal 25 [File size limit exceeded]";
        assert_eq!(stop(Ending::Left(1), linker, 3), Stop::Disk);
        assert_eq!(
            stop(Ending::Left(1), "rustc interrupted by SIGSEGV", 3),
            Stop::Stack
        );
        assert_eq!(stop(Ending::Killed(11), "", 3), Stop::Stack);
        assert_eq!(
            stop(Ending::Left(101), "the compiler unexpectedly panicked", 3),
            Stop::Crashed
        );
        // The submission's own words are no evidence.
        let quoted = r#"{"level":"error","message":"out of memory","code":null,"spans":[{"file_name":"a.rs","line_start":1,"is_primary":true}],"rendered":"out of memory"}"#;
        assert_eq!(stop(Ending::Left(1), quoted, 3), Stop::Crashed);
    }

    fn shell(script: &str, limit: Duration, wall: Duration) -> Stop {
        let wishes = Wishes {
            wall,
            stdout: 1 << 10,
            stderr: 1 << 10,
            threads: None,
        };
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let ended = run(&mut command, b"", &wishes).expect("sh starts");
        Stop::of(&ended, limit, wall)
    }

    #[test]
    fn what_the_kernel_ends_is_told_apart() {
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        let busy = "ulimit -t 1; while :; do :; done";
        assert_eq!(shell(busy, second, minute), Stop::Processor(1));
        let long = "file=$(mktemp); ulimit -f 1; (exec head -c 100000 /dev/zero > $file); code=$?; rm $file; kill -$((code - 128)) $$";
        assert_eq!(shell(long, minute, minute), Stop::Disk);
        assert_eq!(shell("exec sleep 60", minute, second), Stop::Wall(1));
        assert_eq!(shell("kill -9 $$", minute, minute), Stop::Killed(9));
    }
}
