//! Runs a program that may loop, crash, print without end or eat all memory, and comes back in time.
//!
//! On Linux the program gets a process group of its own, which is killed as a whole, with whatever it started, unless that left the group. A
//! group of its own does not hear Ctrl-C, so the kernel also limits its processor time: a loop ends even if we are gone; only a program that
//! sleeps may outlive us. Memory is limited as well. Elsewhere there is no such limit to set on a child, so it stays in our group, where
//! Ctrl-C reaches it, and only the program itself is killed: what it started goes on, and memory is not limited.

use std::io::{self, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What is kept of each of a program's outputs.
const KEPT_BYTES: usize = 64 << 10;

/// Memory a check may use; no check needs a tenth of it.
#[cfg(target_os = "linux")]
const MEMORY_BYTES: u64 = 1 << 30;

/// How a program ended, and what it printed.
#[derive(Debug)]
pub struct Finished {
    /// `None` if it had to be stopped.
    pub status: Option<ExitStatus>,
    /// The beginning of its standard output.
    pub stdout: Captured,
    /// The beginning of its standard error.
    pub stderr: Captured,
}

/// The beginning of an output.
#[derive(Clone, Debug, Default)]
pub struct Captured {
    /// What was kept, with anything that is not text or a line break made visible.
    pub text: String,
    /// True if there was more.
    pub is_cut: bool,
}

#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    is_cut: bool,
}

/// Starts the program, feeds it `input`, waits at most `limit`, then kills it by its id.
///
/// # Errors
///
/// If it cannot be started.
pub fn run(command: &mut Command, input: Vec<u8>, limit: Duration) -> io::Result<Finished> {
    let deadline = Instant::now() + limit;
    let mut child = alone(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    limit_resources(&child, limit);
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read must not stop us; when it ends the pipe breaks and so does the thread.
        std::thread::spawn(move || {
            let _ = stdin.write_all(&input);
        });
    }
    let (done, closed) = mpsc::channel();
    let stdout = child.stdout.take().map(|pipe| collect(pipe, done.clone()));
    let stderr = child.stderr.take().map(|pipe| collect(pipe, done));
    let status = wait(&mut child, &closed, deadline)?;
    Ok(Finished {
        status,
        stdout: captured(stdout),
        stderr: captured(stderr),
    })
}

/// Both pipes close when the program ends, unless it closed them itself or left a child behind that holds them.
fn wait(
    child: &mut Child,
    closed: &mpsc::Receiver<()>,
    deadline: Instant,
) -> io::Result<Option<ExitStatus>> {
    let mut pause = Duration::from_millis(1);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            kill_all(child)?;
            child.wait()?;
            return Ok(None);
        }
        match closed.recv_timeout(left.min(Duration::from_millis(20))) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(pause.min(left));
                pause = (pause * 2).min(Duration::from_millis(20));
            }
        }
        if has_ended(child)? {
            // Also what it left behind; before it is waited for, so that its id is still its own.
            let _ = kill_all(child);
            let status = child.wait()?;
            // What is still in the pipes belongs to the output; a grandchild may hold them open for ever.
            while closed.recv_timeout(Duration::from_millis(50)).is_ok() {}
            return Ok(Some(status));
        }
    }
}

fn collect(mut pipe: impl Read + Send + 'static, done: mpsc::Sender<()>) -> Arc<Mutex<Buffer>> {
    let buffer = Arc::new(Mutex::new(Buffer::default()));
    let shared = Arc::clone(&buffer);
    std::thread::spawn(move || {
        let mut chunk = [0; 8192];
        loop {
            let read = match pipe.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            let Ok(mut buffer) = shared.lock() else { break };
            let room = KEPT_BYTES.saturating_sub(buffer.bytes.len()).min(read);
            buffer.bytes.extend_from_slice(&chunk[..room]);
            buffer.is_cut |= room < read;
        }
        let _ = done.send(());
    });
    buffer
}

fn captured(buffer: Option<Arc<Mutex<Buffer>>>) -> Captured {
    let Some(buffer) = buffer else {
        return Captured::default();
    };
    let Ok(buffer) = buffer.lock() else {
        return Captured::default();
    };
    let text = String::from_utf8_lossy(&buffer.bytes);
    let visible = text.chars().map(|letter| match letter {
        '\n' | '\t' => letter,
        // Escape sequences of a program's output are not for our terminal.
        control if control.is_control() => '\u{fffd}',
        other => other,
    });
    Captured {
        text: visible.collect(),
        is_cut: buffer.is_cut,
    }
}

#[cfg(target_os = "linux")]
fn alone(command: &mut Command) -> &mut Command {
    std::os::unix::process::CommandExt::process_group(command, 0)
}

#[cfg(not(target_os = "linux"))]
fn alone(command: &mut Command) -> &mut Command {
    command
}

#[cfg(target_os = "linux")]
fn pid(child: &Child) -> Option<rustix::process::Pid> {
    rustix::process::Pid::from_raw(i32::try_from(child.id()).ok()?)
}

/// True if the program has ended. It is not waited for yet: until then nobody else gets its id.
#[cfg(target_os = "linux")]
fn has_ended(child: &Child) -> io::Result<bool> {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let Some(pid) = pid(child) else {
        return Ok(true);
    };
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    match waitid(WaitId::Pid(pid), options) {
        Ok(status) => Ok(status.is_some()),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn has_ended(child: &mut Child) -> io::Result<bool> {
    Ok(child.try_wait()?.is_some())
}

/// Kills the program and what it started.
#[cfg(target_os = "linux")]
fn kill_all(child: &mut Child) -> io::Result<()> {
    use rustix::process::{Signal, kill_process_group};
    match pid(child).map(|group| kill_process_group(group, Signal::KILL)) {
        Some(Ok(())) => Ok(()),
        _ => child.kill(),
    }
}

#[cfg(not(target_os = "linux"))]
fn kill_all(child: &mut Child) -> io::Result<()> {
    child.kill()
}

/// An endless `push` must end in this process, not in the machine's memory, and an endless loop also if we are stopped first.
#[cfg(target_os = "linux")]
fn limit_resources(child: &Child, limit: Duration) {
    use rustix::process::{Resource, Rlimit, prlimit};
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let seconds = limit.as_secs().saturating_add(1);
    let limits = [
        (Resource::Data, MEMORY_BYTES),
        (Resource::Cpu, seconds.saturating_mul(threads as u64)),
    ];
    for (resource, most) in limits {
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        // Where it is refused the time limit remains.
        let _ = pid(child).map(|pid| prlimit(Some(pid), resource, limit));
    }
}

#[cfg(not(target_os = "linux"))]
fn limit_resources(_child: &Child, _limit: Duration) {}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn shell(script: &str, input: &str, limit: u64) -> Finished {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run(
            &mut command,
            input.as_bytes().to_vec(),
            Duration::from_millis(limit),
        )
        .expect("sh starts")
    }

    #[test]
    fn input_reaches_the_program_and_both_outputs_come_back() {
        let done = shell("cat; echo oops >&2; exit 3", "hello", 10_000);
        assert_eq!(done.status.and_then(|status| status.code()), Some(3));
        assert_eq!(done.stdout.text, "hello");
        assert_eq!(done.stderr.text, "oops\n");
    }

    #[test]
    fn a_program_that_never_ends_is_stopped() {
        let done = shell("echo begun; exec sleep 60", "", 300);
        assert!(done.status.is_none());
        assert_eq!(done.stdout.text, "begun\n");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_a_program_started_is_stopped_with_it() {
        let is_running = |pid: &str| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
            status.is_ok_and(|status| !status.contains("State:\tZ"))
        };
        for script in [
            "sleep 60 & echo $!; wait",
            "sleep 60 & echo $!; exit 0",
            "sh -c 'sleep 60 & echo $!; wait'",
        ] {
            let begun = Instant::now();
            let done = shell(script, "", 300);
            let grandchild = done.stdout.text.trim();
            assert!(!grandchild.is_empty(), "{script}");
            while is_running(grandchild) && begun.elapsed() < Duration::from_secs(20) {
                std::thread::sleep(Duration::from_millis(10));
            }
            assert!(!is_running(grandchild), "{script}");
        }
    }

    #[test]
    fn a_program_that_closes_its_outputs_and_goes_on_is_stopped_too() {
        let done = shell("exec >&- 2>&-; exec sleep 60", "", 300);
        assert!(done.status.is_none());
    }

    #[test]
    fn endless_output_is_cut_and_not_collected() {
        let done = shell("exec yes", "", 300);
        assert!(done.stdout.is_cut);
        assert_eq!(done.stdout.text.len(), KEPT_BYTES);
    }

    #[test]
    fn escape_sequences_are_made_visible() {
        let done = shell("printf 'a\\033[31mb'", "", 10_000);
        assert_eq!(done.stdout.text, "a\u{fffd}[31mb");
    }
}
