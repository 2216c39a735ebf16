//! Runs a command that may loop, crash, flood its pipes or start others, and comes back in time with all of it gone.
//!
//! One thread per command: it feeds standard input, takes both outputs up to a limit, and waits, all with one `poll`. The end of the process
//! is a descriptor too (`pidfd`), so there is nothing to ask again and again. What exceeds a limit is killed with its whole group.

use std::time::Duration;

/// Limits of one run.
#[derive(Clone, Copy, Debug)]
pub struct Wishes {
    /// Wall time, less what the command waited for a processor; ten times as much in all.
    pub wall: Duration,
    /// Bytes of standard output; one more and the command is killed.
    pub stdout: usize,
    /// Bytes of standard error that are kept; what follows is read and dropped.
    pub stderr: usize,
    /// Threads of the command; more and it is killed. A limit of the kernel's counts all processes of a user, and root's not at all.
    pub threads: Option<usize>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With this exit code.
    Left(i32),
    /// By this signal.
    Killed(i32),
    /// We killed it: it took too long.
    TimedOut,
    /// We killed it: it wrote too much to standard output.
    Flooded,
    /// We killed it: it started too many threads.
    TooManyThreads,
}

/// A finished run.
#[derive(Clone, Debug)]
pub struct Ended {
    /// How.
    pub ending: Ending,
    /// All of standard output, up to the limit.
    pub stdout: Vec<u8>,
    /// The beginning of standard error.
    pub stderr: Vec<u8>,
    /// Wall time.
    pub took: Duration,
    /// What of it the command waited for a processor that others had.
    pub waited: Duration,
    /// Processor time of the command, and of what it started and waited for.
    pub processor: Duration,
}

#[cfg(target_os = "linux")]
pub use linux::run;

/// There is no supervisor elsewhere.
///
/// # Errors
///
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn run(
    _command: &mut std::process::Command,
    _input: &[u8],
    _wishes: &Wishes,
) -> std::io::Result<Ended> {
    Err(std::io::ErrorKind::Unsupported.into())
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io::{self, Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Child, ChildStdin, Command, Stdio};
    use std::time::{Duration, Instant};

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

    use super::super::waited::waited;
    use super::{Ended, Ending, Wishes};

    /// Starts the command in a group of its own, feeds it `input` and waits within the limits.
    ///
    /// # Errors
    ///
    /// If it cannot be started or watched; it is then gone as well.
    pub fn run(command: &mut Command, input: &[u8], wishes: &Wishes) -> io::Result<Ended> {
        let begun = Instant::now();
        let mut child = command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut seen = Duration::ZERO;
        let watched = watch(&mut child, input, wishes, begun, &mut seen);
        // A thread that has ended is not there any more.
        let waited = waited(child.id()).max(seen);
        let processor = processor(&child);
        // Also what it left behind; it is not waited for yet, so the group's number still is its own.
        kill(&child);
        let status = child.wait()?;
        let (stdout, stderr, stopped) = watched?;
        let ending = stopped.unwrap_or_else(|| match (status.code(), status.signal()) {
            (Some(code), _) => Ending::Left(code),
            (None, signal) => Ending::Killed(signal.unwrap_or(0)),
        });
        Ok(Ended {
            ending,
            stdout,
            stderr,
            took: begun.elapsed(),
            waited,
            processor,
        })
    }

    /// What a process that is not waited for yet has used; nothing if the system does not tell.
    fn processor(child: &Child) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id()));
        let stat = stat.unwrap_or_default();
        // The name, in brackets, may hold blanks. Of what follows, 12 to 15 are its own times and those of its children.
        let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
        let ticks: u64 = fields
            .skip(11)
            .take(4)
            .filter_map(|ticks| ticks.parse::<u64>().ok())
            .sum();
        let second = rustix::param::clock_ticks_per_second().max(1);
        Duration::from_millis(ticks.saturating_mul(1000) / second)
    }

    fn kill(child: &Child) {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended by itself.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }

    /// How many times its limit a command may take by the clock, however busy the machine is.
    const PATIENCE: u32 = 10;

    /// Less is not worth waiting for.
    const SHORTEST: Duration = Duration::from_millis(1);

    /// How often threads are counted.
    const COUNT_EVERY: Duration = Duration::from_millis(10);

    /// Threads of a process; 0 if it has ended.
    fn threads(child: &Child) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()));
        let status = status.unwrap_or_default();
        let count = status
            .lines()
            .find_map(|line| line.strip_prefix("Threads:"));
        count
            .and_then(|count| count.trim().parse().ok())
            .unwrap_or(0)
    }

    type Watched = (Vec<u8>, Vec<u8>, Option<Ending>);

    fn watch(
        child: &mut Child,
        input: &[u8],
        wishes: &Wishes,
        begun: Instant,
        seen: &mut Duration,
    ) -> io::Result<Watched> {
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .ok_or(io::ErrorKind::NotFound)?;
        let end = pidfd_open(pid, PidfdFlags::empty())?;
        let mut stdin = child.stdin.take();
        let mut out = Drain::new(child.stdout.take(), wishes.stdout)?;
        let mut err = Drain::new(child.stderr.take(), wishes.stderr)?;
        if let Some(pipe) = &stdin {
            unblock(pipe)?;
        }
        let mut counted = begun;
        let mut rest = input;
        if rest.is_empty() {
            stdin = None;
        }
        let mut allowed = wishes.wall;
        loop {
            let mut left = allowed.saturating_sub(begun.elapsed());
            if left < SHORTEST {
                *seen = waited(child.id()).max(*seen);
                let more = wishes.wall.saturating_add(*seen);
                allowed = more.min(wishes.wall.saturating_mul(PATIENCE));
                left = allowed.saturating_sub(begun.elapsed());
            }
            // What is left of a wait shrinks with every look: an end must come.
            if left < SHORTEST {
                kill(child);
                out.take_in()?;
                err.take_in()?;
                return Ok((out.kept, err.kept, Some(Ending::TimedOut)));
            }
            let mut waits = vec![PollFd::new(&end, PollFlags::IN)];
            waits.extend(stdin.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::OUT)));
            waits.extend(
                out.pipe
                    .as_ref()
                    .map(|pipe| PollFd::new(pipe, PollFlags::IN)),
            );
            waits.extend(
                err.pipe
                    .as_ref()
                    .map(|pipe| PollFd::new(pipe, PollFlags::IN)),
            );
            let wait = match wishes.threads {
                Some(_) => left.min(COUNT_EVERY),
                None => left,
            };
            let wait = Timespec::try_from(wait).map_err(|_| io::ErrorKind::InvalidInput)?;
            match poll(&mut waits, Some(&wait)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let has_ended = !waits[0].revents().is_empty();
            drop(waits);
            feed(&mut stdin, &mut rest);
            out.take_in()?;
            err.take_in()?;
            if out.is_over {
                kill(child);
                return Ok((out.kept, err.kept, Some(Ending::Flooded)));
            }
            if has_ended {
                return Ok((out.kept, err.kept, None));
            }
            if let Some(most) = wishes.threads
                && counted.elapsed() >= COUNT_EVERY
            {
                counted = Instant::now();
                // What a thread waited is not told any more once it has ended: of one that computed until just now nearly all is known.
                *seen = waited(child.id()).max(*seen);
                if threads(child) > most {
                    kill(child);
                    return Ok((out.kept, err.kept, Some(Ending::TooManyThreads)));
                }
            }
        }
    }

    /// Writes what the pipe takes; a program that does not read is no error.
    fn feed(stdin: &mut Option<ChildStdin>, rest: &mut &[u8]) {
        while let Some(pipe) = stdin {
            match pipe.write(rest) {
                Ok(written) => {
                    *rest = &rest[written..];
                    if rest.is_empty() {
                        *stdin = None;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => *stdin = None,
            }
        }
    }

    fn unblock(pipe: &impl AsFd) -> io::Result<()> {
        let flags = rustix::fs::fcntl_getfl(pipe)?;
        rustix::fs::fcntl_setfl(pipe, flags | rustix::fs::OFlags::NONBLOCK)?;
        Ok(())
    }

    /// One output.
    struct Drain<P> {
        pipe: Option<P>,
        kept: Vec<u8>,
        most: usize,
        is_over: bool,
    }

    impl<P: Read + AsFd> Drain<P> {
        fn new(pipe: Option<P>, most: usize) -> io::Result<Self> {
            if let Some(pipe) = &pipe {
                unblock(pipe)?;
            }
            Ok(Self {
                pipe,
                kept: Vec::new(),
                most,
                is_over: false,
            })
        }

        /// Takes what is there, at most a few pipes full, so that a flood cannot keep us here.
        fn take_in(&mut self) -> io::Result<()> {
            let mut chunk = [0; 16 << 10];
            for _ in 0..64 {
                let Some(pipe) = &mut self.pipe else { break };
                match pipe.read(&mut chunk) {
                    Ok(0) => self.pipe = None,
                    Ok(read) => {
                        let room = self.most.saturating_sub(self.kept.len()).min(read);
                        self.kept.extend_from_slice(&chunk[..room]);
                        self.is_over |= room < read;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::process::Command;

    fn shell(script: &str, input: &[u8], milliseconds: u64) -> Ended {
        let wishes = Wishes {
            wall: Duration::from_millis(milliseconds),
            stdout: 1 << 20,
            stderr: 1 << 10,
            threads: Some(8),
        };
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run(&mut command, input, &wishes).expect("sh starts")
    }

    /// Runs an ignored test of this module.
    fn this_test(name: &str, wall: Duration) -> Ended {
        let wishes = Wishes {
            wall,
            stdout: 1 << 20,
            stderr: 1 << 10,
            threads: Some(64),
        };
        let mut command = Command::new(std::env::current_exe().expect("this test"));
        let name = format!("sandbox::supervise::tests::{name}");
        command.args(["--ignored", "--exact", &name]);
        run(&mut command, b"", &wishes).expect("starts")
    }

    #[test]
    fn input_goes_in_and_both_outputs_come_back() {
        let long = vec![b'x'; 300_000];
        let ended = shell("cat; echo oops >&2; exit 3", &long, 10_000);
        assert_eq!(ended.ending, Ending::Left(3));
        assert_eq!(ended.stdout, long);
        assert_eq!(ended.stderr, b"oops\n");
    }

    #[test]
    fn loops_floods_and_those_who_do_not_read_are_ended() {
        assert_eq!(shell("exec sleep 60", b"", 100).ending, Ending::TimedOut);
        assert_eq!(shell("exec yes", b"", 10_000).ending, Ending::Flooded);
        let ended = shell("exec sleep 60", &vec![0; 1 << 20], 100);
        assert_eq!(ended.ending, Ending::TimedOut);
        let ended = shell("yes >&2 & exec sleep 60", b"", 100);
        assert_eq!(
            (ended.ending, ended.stderr.len()),
            (Ending::TimedOut, 1 << 10)
        );
        assert_eq!(shell("kill -9 $$", b"", 10_000).ending, Ending::Killed(9));
    }

    #[test]
    #[ignore = "what the next test starts"]
    fn one_that_starts_threads() {
        let sleep = || std::thread::sleep(Duration::from_secs(60));
        let threads: Vec<_> = (0..200).map(|_| std::thread::spawn(sleep)).collect();
        threads.into_iter().for_each(|thread| drop(thread.join()));
    }

    /// The kernel's limit counts all processes of a user: as nobody, sixteen thousand threads were started.
    #[test]
    fn threads_are_counted_whoever_runs_them() {
        let ended = this_test("one_that_starts_threads", Duration::from_secs(50));
        assert_eq!(ended.ending, Ending::TooManyThreads);
    }

    /// As much processor time on every machine, however fast it is.
    #[test]
    #[ignore = "what the next test starts"]
    fn one_that_computes() {
        let mine = || {
            std::fs::read_to_string("/proc/thread-self/schedstat").expect("a kernel that counts")
        };
        let nanoseconds = || {
            mine()
                .split(' ')
                .next()
                .and_then(|first| first.parse::<u64>().ok())
        };
        while nanoseconds().expect("a number") < 300_000_000 {}
    }

    /// With seven others on the one processor they all have, right answers were called late.
    #[test]
    fn what_waits_for_a_processor_is_not_late() {
        let processors = rustix::thread::sched_getaffinity(None).expect("this thread's");
        let first = (0..1024).find(|number| processors.is_set(*number));
        let mut one = rustix::thread::CpuSet::new();
        one.set(first.expect("a processor to run on"));
        // What this thread starts stays where it is.
        rustix::thread::sched_setaffinity(None, &one).expect("one of its own");
        let mut others: Vec<_> = (0..7)
            .map(|_| {
                let mut command = Command::new("sh");
                command.args(["-c", "while :; do :; done"]);
                command.spawn().expect("sh starts")
            })
            .collect();
        // It computes for 0.3 s, which takes 2.4 s among eight: more than the limit, and less than ten times as much.
        let ended = this_test("one_that_computes", Duration::from_secs(1));
        for other in &mut others {
            other.kill().expect("it has no end of its own");
            other.wait().expect("it was started here");
        }
        assert_eq!(ended.ending, Ending::Left(0), "{ended:?}");
        assert!(ended.waited > ended.took / 2, "{ended:?}");
    }

    #[test]
    fn what_a_command_left_behind_is_gone_with_it() {
        let ended = shell("sleep 60 & echo $!", b"", 10_000);
        let pid = String::from_utf8_lossy(&ended.stdout).trim().to_owned();
        assert!(!pid.is_empty());
        let status = format!("/proc/{pid}/status");
        let is_running =
            || std::fs::read_to_string(&status).is_ok_and(|status| !status.contains("State:\tZ"));
        let begun = std::time::Instant::now();
        while is_running() && begun.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!is_running());
    }
}
