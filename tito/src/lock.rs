//! One `tito` at a time may change files.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::failure::Failure;

/// Held while files change; the operating system lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock in `state`, waiting a little for another `tito`.
    ///
    /// # Errors
    ///
    /// An environment error that says who holds it, or that the folder cannot be written.
    pub fn take(state: &Path) -> Result<Lock> {
        prepare(state)?;
        let path = state.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| cannot_write(state, &error))?;
        let owner = state.join("lock.owner");
        let patience = Instant::now() + Duration::from_millis(wait());
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < patience => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(TryLockError::WouldBlock) => {
                    let who = std::fs::read_to_string(&owner).unwrap_or_default();
                    let who = who.trim();
                    let who = if who.is_empty() {
                        "another process"
                    } else {
                        who
                    };
                    return Err(Failure::environment(format!(
                        "another tito is changing files here: {who}"
                    ))
                    .help("wait until it has finished, then try again")
                    .into());
                }
                Err(TryLockError::Error(error)) => {
                    return Err(Failure::environment(format!(
                        "cannot lock {}: {error}",
                        path.display()
                    ))
                    .into());
                }
            }
        }
        // Only advice for the one who waits: that it cannot be written is no reason to stop.
        let words: Vec<String> = std::env::args().skip(1).collect();
        let _ = std::fs::write(
            &owner,
            format!("process {}, tito {}", std::process::id(), words.join(" ")),
        );
        Ok(Lock { _file: file })
    }
}

/// Milliseconds to wait for another `tito`; tests shorten it.
fn wait() -> u64 {
    let set = std::env::var("TITO_LOCK_WAIT_MS").ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(3000)
}

/// Makes the folder in which `tito` remembers things, which version control should not see.
///
/// # Errors
///
/// An environment error if the folder cannot be written.
pub fn prepare(state: &Path) -> Result<()> {
    let ignore = state.join(".gitignore");
    if ignore.is_file() {
        return Ok(());
    }
    std::fs::create_dir_all(state).map_err(|error| cannot_write(state, &error))?;
    std::fs::write(&ignore, "*\n").map_err(|error| cannot_write(state, &error))?;
    Ok(())
}

/// The error for a folder that is read-only or full.
pub fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    let failure = Failure::environment(format!("cannot write {}: {error}", path.display()));
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => failure
            .help("the disk is full: make room and try again; no file of yours was changed"),
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => failure
            .help("the folder is read-only for you: change its permissions or copy the course elsewhere"),
        _ => failure,
    }
}
