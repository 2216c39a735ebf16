//! What is compiled once for all submissions, kept from one run to the next beside what cargo builds.
//!
//! A folder's name is a hash over all that its libraries are made from: the course's text, the exam's, the compiler, the compiled crates and the
//! grader itself. Its sums tell whether the libraries are still those that were put there. There may be hidden checks in it, so nobody but
//! the owner looks in; a cell, which sees what it is shown, never does.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tito::snapshot::hash;

use super::place;

/// Versions that are kept: some courses have two or three of them, with and without an instructor's own checks.
const VERSIONS: usize = 4;

/// The file with a line for each library.
const SUMS: &str = "sums";

/// Libraries kept under one key.
#[derive(Clone, Debug)]
pub struct Kept {
    store: PathBuf,
    key: String,
}

impl Kept {
    /// Those in `store` that were made from `parts`, in whatever order these are named.
    pub fn new(store: PathBuf, mut parts: Vec<String>) -> Kept {
        parts.sort();
        Kept {
            store,
            key: hash(parts.join("\n").as_bytes())[..32].to_owned(),
        }
    }

    fn folder(&self) -> PathBuf {
        self.store.join(&self.key)
    }

    /// Puts them where they are needed. False if they are not there, or not what was kept.
    pub fn give(&self, products: &[&Path]) -> bool {
        let folder = self.folder();
        let Ok(wanted) = fs::read_to_string(folder.join(SUMS)) else {
            return false;
        };
        let kept: Vec<PathBuf> = products
            .iter()
            .map(|product| folder.join(product.file_name().unwrap_or_default()))
            .collect();
        let is_whole = sums(&kept).is_ok_and(|found| found == wanted);
        is_whole
            && kept
                .iter()
                .zip(products)
                .all(|(from, to)| place(from, to).is_ok())
    }

    /// Keeps them for the next run, whole or not at all, and removes what was not kept lately.
    ///
    /// # Errors
    ///
    /// If they cannot be written; nothing depends on it.
    pub fn take(&self, products: &[&Path]) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        fs::create_dir_all(&self.store)?;
        fs::set_permissions(&self.store, fs::Permissions::from_mode(0o700))?;
        let fresh = tempfile::tempdir_in(&self.store)?;
        let mut copies = Vec::new();
        for product in products {
            let copy = fresh.path().join(product.file_name().unwrap_or_default());
            fs::copy(product, &copy)?;
            copies.push(copy);
        }
        fs::write(fresh.path().join(SUMS), sums(&copies)?)?;
        let folder = self.folder();
        // One that is there is damaged, or another run's of just now and as good.
        let _ = fs::remove_dir_all(&folder);
        fs::rename(fresh.keep(), &folder)?;
        self.forget()
    }

    fn forget(&self) -> io::Result<()> {
        let mut versions: Vec<(SystemTime, PathBuf)> = fs::read_dir(&self.store)?
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                Some((fs::metadata(&path).ok()?.modified().ok()?, path))
            })
            .collect();
        versions.sort();
        let too_many = versions.len().saturating_sub(VERSIONS);
        for (_, path) in &versions[..too_many] {
            fs::remove_dir_all(path)?;
        }
        Ok(())
    }
}

fn sums(files: &[PathBuf]) -> io::Result<String> {
    let lines = files.iter().map(|file| Ok(hash(&fs::read(file)?) + "\n"));
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(store: &Path, part: &str) -> Kept {
        Kept::new(store.join("store"), vec![part.to_owned()])
    }

    #[test]
    fn what_was_kept_comes_back_under_its_own_key_only() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let (made, wanted) = (folder.path().join("made"), folder.path().join("wanted"));
        fs::create_dir(&made).expect("a folder");
        fs::create_dir(&wanted).expect("a folder");
        fs::write(made.join("lib"), "text").expect("written");
        let product = wanted.join("lib");
        let one = kept(folder.path(), "one");
        assert!(!one.give(&[&product]));
        one.take(&[&made.join("lib")]).expect("kept");
        assert!(!kept(folder.path(), "other").give(&[&product]));
        assert!(one.give(&[&product]));
        assert_eq!(fs::read_to_string(&product).expect("there"), "text");
        let mode = fs::metadata(&one.store).expect("there").permissions();
        assert_eq!(mode.mode() & 0o077, 0);
    }

    /// Cargo names compiled crates in another order every time, and nothing that was kept was found again.
    #[test]
    fn the_order_of_parts_says_nothing() {
        let key =
            |parts: [&str; 2]| Kept::new(PathBuf::new(), parts.map(str::to_owned).to_vec()).key;
        assert_eq!(key(["one", "other"]), key(["other", "one"]));
        assert_ne!(key(["one", "other"]), key(["one", "one"]));
    }

    #[test]
    fn what_was_changed_is_not_used() {
        let folder = tempfile::tempdir().expect("a folder");
        let product = folder.path().join("lib");
        fs::write(&product, "text").expect("written");
        let one = kept(folder.path(), "one");
        one.take(&[&product]).expect("kept");
        fs::remove_file(&product).expect("removed");
        fs::write(one.folder().join("lib"), "tex").expect("written");
        assert!(!one.give(&[&product]));
        fs::write(&product, "text").expect("written");
        one.take(&[&product]).expect("kept again");
        fs::remove_file(&product).expect("removed");
        assert!(one.give(&[&product]));
    }

    #[test]
    fn only_the_latest_versions_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let product = folder.path().join("lib");
        fs::write(&product, "text").expect("written");
        for number in 0..VERSIONS + 3 {
            let one = kept(folder.path(), &number.to_string());
            one.take(&[&product]).expect("kept");
        }
        let store = fs::read_dir(folder.path().join("store")).expect("there");
        assert_eq!(store.count(), VERSIONS);
    }
}
