//! Workshops of runs that were killed: nobody else removes them.
//!
//! A run holds a lock on a file in its workshop, and the system lets go of it when the run ends, however it ends.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

/// What their names begin with.
pub const PREFIX: &str = "tito-grade-";

/// The locked file.
const OWNER: &str = "owner";

/// One without a locked file may have been made this very moment.
const YOUNG: Duration = Duration::from_secs(600);

/// Says that `workshop` is in use for as long as the file is open.
///
/// # Errors
///
/// If it cannot be written or locked.
pub fn own(workshop: &Path) -> io::Result<File> {
    let file = File::create_new(workshop.join(OWNER))?;
    file.lock()?;
    Ok(file)
}

/// Removes what this user's killed runs left in `folder`. What cannot be removed stays: the next run does not depend on it.
pub fn remove(folder: &Path) {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir(folder).into_iter().flatten();
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_ours = name.starts_with(PREFIX)
            && fs::symlink_metadata(&path).is_ok_and(|data| {
                data.is_dir() && data.uid() == rustix::process::geteuid().as_raw()
            });
        if is_ours && is_abandoned(&path) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

fn is_abandoned(workshop: &Path) -> bool {
    match File::open(workshop.join(OWNER)) {
        Ok(file) => file.try_lock().is_ok(),
        Err(_) => {
            let age = fs::metadata(workshop).and_then(|data| data.modified());
            age.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > YOUNG))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_holds_any_more_is_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = |name: &str| folder.path().join(name);
        for name in [
            "tito-grade-dead",
            "tito-grade-alive",
            "tito-grade-young",
            "other",
        ] {
            fs::create_dir(place(name)).expect("a folder");
        }
        drop(own(&place("tito-grade-dead")).expect("locked"));
        drop(own(&place("other")).expect("locked"));
        let _alive = own(&place("tito-grade-alive")).expect("locked");
        std::os::unix::fs::symlink("other", place("tito-grade-link")).expect("a link");
        remove(folder.path());
        assert!(!place("tito-grade-dead").exists());
        for name in [
            "tito-grade-alive",
            "tito-grade-young",
            "other",
            "tito-grade-link",
        ] {
            assert!(place(name).exists(), "{name}");
        }
    }
}
