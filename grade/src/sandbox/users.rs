//! Whose users are free: two runs on one machine must not share one, or the cells of one could see and signal those of the other.
//!
//! A user belongs to whoever holds the lock on its file. The system lets go of the lock when that process ends, however it ends, and cells end with
//! the process that started them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Result;
use tito::failure::Failure;

use super::FIRST_USER;

/// Where the files are, in the first of [`PLACES`] that can be written. Only root's cells have users of their own.
const NAME: &str = "tito-grade-users";

/// The second is for containers whose system's folders are read-only.
const PLACES: [&str; 2] = ["/run", "/tmp"];

/// How many users there are, [`FIRST_USER`] the first of them.
pub const USERS: u32 = 600;

/// A user that nobody else has as long as this lives.
#[derive(Debug)]
pub struct User {
    /// Its number.
    pub id: u32,
    _lock: File,
}

/// The folder of the files on this machine.
pub fn folder() -> PathBuf {
    let folders = PLACES.map(|place| Path::new(place).join(NAME));
    let is_there = |folder: &&PathBuf| match fs::create_dir(folder) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::AlreadyExists,
    };
    let found = folders.iter().find(is_there).cloned();
    found.unwrap_or_else(|| PathBuf::from(PLACES[0]).join(NAME))
}

/// Takes the first of `count` users that is free.
///
/// # Errors
///
/// An environment error if none is free, or if the files cannot be locked.
pub fn take(folder: &Path, count: u32) -> Result<User> {
    match first_free(folder, count) {
        Ok(Some(user)) => Ok(user),
        Ok(None) => Err(Failure::environment(format!(
            "all {count} users that cells may run as are in use"
        ))
        .help("wait until another grading run on this machine has ended, or take fewer --jobs")
        .into()),
        Err(error) => Err(Failure::environment(format!(
            "cannot take a user for a cell in {}: {error}",
            folder.display()
        ))
        .help("it belongs to root and holds a file for each user; remove it while nobody grades")
        .into()),
    }
}

fn first_free(folder: &Path, count: u32) -> io::Result<Option<User>> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = fs::symlink_metadata(folder)?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("it belongs to somebody else"));
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    for id in (FIRST_USER..).take(usize::try_from(count).unwrap_or(usize::MAX)) {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(folder.join(id.to_string()))?;
        match file.try_lock() {
            Ok(()) => return Ok(Some(User { id, _lock: file })),
            Err(fs::TryLockError::WouldBlock) => {}
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two runs at once gave their first jobs the same user.
    #[test]
    fn nobody_gets_a_user_that_somebody_has() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path().join("users");
        let first = take(&folder, 2).expect("one is free");
        let second = take(&folder, 2).expect("another is free");
        assert_eq!((first.id, second.id), (FIRST_USER, FIRST_USER + 1));
        let none = take(&folder, 2).expect_err("both are taken");
        assert!(none.to_string().contains("all 2 users"), "{none}");
        drop(first);
        assert_eq!(take(&folder, 2).expect("free again").id, FIRST_USER);
    }

    #[test]
    fn a_folder_that_is_none_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join("users");
        std::os::unix::fs::symlink(folder.path(), &place).expect("a link");
        let refused = take(&place, 2).expect_err("a link is refused");
        assert!(refused.to_string().contains("somebody else"), "{refused}");
    }
}
