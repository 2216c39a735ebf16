//! What a cell is worth on this machine: a cell is started and tries what it must not be able to do.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tito::failure::Failure;

use super::{Cell, Launcher, Limits, Wishes, run};
use crate::model::{Isolation, Layer, Layers};

/// In place of a program: report and end.
pub const PROGRAM: &str = "probe";

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confinement {
    /// How well Landlock holds; every later cell must find the same.
    pub landlock: String,
    /// True if cells give up root for a user of their own.
    pub drops_user: bool,
    /// True if the kernel's limit on threads can be told what the user has already. Not in a container whose user has others outside.
    pub limits_threads: bool,
    /// For the results.
    pub layers: Layers,
}

/// What a cell says about itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Report {
    user: u32,
    landlock: String,
    can_read_files: bool,
    can_write_files: bool,
    can_open_sockets: bool,
    can_start_programs: bool,
    can_start_threads: bool,
}

/// Inside the cell: tries, and says what came of it.
#[cfg(target_os = "linux")]
pub fn report(state: &super::enter::State) -> String {
    use std::fs::File;
    let report = Report {
        user: state.user,
        landlock: state.landlock.clone(),
        can_read_files: File::open("/etc/passwd").is_ok() || File::open("/proc/self/mem").is_ok(),
        can_write_files: can_write(),
        can_open_sockets: std::net::UdpSocket::bind("127.0.0.1:0").is_ok(),
        can_start_programs: std::process::Command::new("/bin/true").spawn().is_ok(),
        can_start_threads: can_start_threads(),
    };
    serde_json::to_string(&report).unwrap_or_default()
}

/// As many as the given code divides large products among.
#[cfg(target_os = "linux")]
fn can_start_threads() -> bool {
    let start = |_| std::thread::Builder::new().spawn(|| ());
    let started: Vec<_> = (0..4).map(start).collect();
    started
        .into_iter()
        .all(|thread| thread.is_ok_and(|thread| thread.join().is_ok()))
}

/// Leaves nothing behind if it can.
#[cfg(target_os = "linux")]
fn can_write() -> bool {
    let path = format!("/tmp/tito-grade-probe-{}", std::process::id());
    let written = std::fs::File::create_new(&path).is_ok();
    if written {
        let _ = std::fs::remove_file(path);
    }
    written
}

/// Starts a cell as `user` and asks it.
///
/// # Errors
///
/// An environment error if no cell can be started at all.
#[cfg(target_os = "linux")]
pub fn probe(launcher: &Launcher) -> Result<Confinement> {
    let is_root = rustix::process::geteuid().is_root();
    let limits = Limits {
        memory: 256 << 20,
        cpu_seconds: 5,
        file: 0,
        files: 32,
        processes: (!is_root).then(super::thread_limit),
    };
    let ask = |user: Option<u32>| -> Result<std::result::Result<Report, String>> {
        let cell = Cell {
            user,
            limits,
            ..Cell::default()
        };
        let mut command = launcher.command(&cell, Path::new(PROGRAM));
        let wishes = Wishes {
            wall: Duration::from_secs(10),
            stdout: 64 << 10,
            stderr: 64 << 10,
            threads: None,
        };
        let ended = run(&mut command, b"", &wishes)
            .map_err(|error| Failure::environment(format!("cannot start a cell: {error}")))?;
        Ok(serde_json::from_slice(&ended.stdout)
            .map_err(|_| crate::clean::line(&String::from_utf8_lossy(&ended.stderr), 200)))
    };
    let mut dropped = is_root;
    let mut why_root = String::new();
    let mut report = ask(is_root.then_some(super::FIRST_USER))?;
    if is_root && let Err(why) = &report {
        // A container may know this one user only.
        dropped = false;
        why_root.clone_from(why);
        report = ask(None)?;
    }
    let report =
        report.map_err(|why| Failure::environment(format!("no cell can be locked: {why}")))?;
    Ok(judge(&report, is_root, dropped, &why_root))
}

/// There are no cells elsewhere.
///
/// # Errors
///
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn probe(_launcher: &Launcher) -> Result<Confinement> {
    Err(
        Failure::environment("untrusted code is graded on Linux only")
            .help("use a Linux machine, a container or a virtual machine")
            .into(),
    )
}

fn judge(report: &Report, is_root: bool, dropped: bool, why_root: &str) -> Confinement {
    // Root has no limit, a user of its own has a small one, and any other is tried with what it has already.
    let limits_threads = dropped || !is_root && report.can_start_threads;
    let mut active = BTreeMap::from([
        (
            Layer::Intake,
            "only listed files, only text between the markers".to_owned(),
        ),
        (Layer::SourcePolicy, "advice".to_owned()),
        (
            Layer::CompileSandbox,
            "neither hidden checks nor the reference".to_owned(),
        ),
        (
            Layer::ResourceLimits,
            if limits_threads {
                "memory, time, files, threads"
            } else {
                "memory, time, files"
            }
            .to_owned(),
        ),
        (Layer::ProcessPerCheck, "killed as a group".to_owned()),
        (Layer::JudgedOutside, "values on a pipe".to_owned()),
        (Layer::Descriptors, "three pipes".to_owned()),
    ]);
    let mut missing = BTreeMap::new();
    if is_root && !dropped {
        missing.insert(
            Layer::User,
            format!("root could not be given up: {why_root}"),
        );
    } else {
        let detail = if is_root {
            "one per job"
        } else {
            "the caller's, which is not root"
        };
        active.insert(Layer::User, detail.to_owned());
    }
    let files_closed = !report.can_read_files && !report.can_write_files;
    if report.landlock.starts_with("full") && files_closed {
        active.insert(Layer::Landlock, report.landlock.clone());
    } else {
        missing.insert(Layer::Landlock, report.landlock.clone());
    }
    if report.can_open_sockets || report.can_start_programs {
        missing.insert(
            Layer::Seccomp,
            "a forbidden call was not refused".to_owned(),
        );
    } else {
        active.insert(
            Layer::Seccomp,
            "sockets, other processes, the kernel".to_owned(),
        );
    }
    Confinement {
        landlock: report.landlock.clone(),
        drops_user: dropped,
        limits_threads,
        layers: Layers {
            isolation: if missing.is_empty() {
                Isolation::Full
            } else {
                Isolation::Reduced
            },
            active,
            missing,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locked() -> Report {
        Report {
            user: 1000,
            landlock: "full (files, TCP, signals)".to_owned(),
            can_read_files: false,
            can_write_files: false,
            can_open_sockets: false,
            can_start_programs: false,
            can_start_threads: true,
        }
    }

    /// As nobody, on a machine with much to do, sixteen thousand threads were there before the supervisor counted them.
    #[test]
    fn threads_are_limited_where_the_kernel_s_count_is_known() {
        let crowded = Report {
            can_start_threads: false,
            ..locked()
        };
        assert!(judge(&locked(), false, false, "").limits_threads);
        assert!(judge(&locked(), true, true, "").limits_threads);
        assert!(!judge(&crowded, false, false, "").limits_threads);
        assert!(!judge(&locked(), true, false, "no such user").limits_threads);
    }

    #[test]
    fn isolation_is_full_only_if_nothing_is_missing() {
        assert_eq!(
            judge(&locked(), false, false, "").layers.isolation,
            Isolation::Full
        );
        let as_root = judge(&locked(), true, false, "no such user");
        assert_eq!(as_root.layers.isolation, Isolation::Reduced);
        assert!(as_root.layers.missing[&Layer::User].contains("no such user"));
    }

    #[test]
    fn what_a_cell_could_do_counts_more_than_what_the_kernel_says() {
        let leaky = Report {
            can_read_files: true,
            ..locked()
        };
        assert!(
            judge(&leaky, false, false, "")
                .layers
                .missing
                .contains_key(&Layer::Landlock)
        );
        let talking = Report {
            can_open_sockets: true,
            ..locked()
        };
        assert!(
            judge(&talking, false, false, "")
                .layers
                .missing
                .contains_key(&Layer::Seccomp)
        );
    }
}
