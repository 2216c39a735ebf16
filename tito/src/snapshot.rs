//! Nothing of the student's is ever lost: contents are kept by their hash, and several files change together or not at all.
//!
//! ```text
//! .tito/objects/ab/cdef...    every content that was ever replaced, or that replaced one
//! .tito/staged/               new contents, complete, waiting to be renamed
//! .tito/pending.json          what is about to be renamed: written before, removed after
//! .tito/history/000007.json   what was done, for `undo`
//! ```
//!
//! A change goes through five stages: objects, staged files, the journal, one rename per file, the history entry. A process killed before
//! the journal is written has changed nothing; killed after, the next `tito` finds the journal and completes the change. A disk can be full only
//! up to the journal, since a rename needs no room. An error while renaming rolls the files back.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::failure::Failure;
use crate::fault;
use crate::lock::{Lock, cannot_write};
use crate::workspace::SourceFile;

/// The memory of one workspace.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    state: PathBuf,
}

/// A file's new content; `None` removes it.
#[derive(Clone, Debug)]
pub struct Change {
    /// From the workspace's root, with `/`.
    pub path: String,
    /// What it will hold.
    pub content: Option<Vec<u8>>,
}

/// A file's content before and after a transaction, by hash; `None` is a file that is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// From the workspace's root, with `/`.
    pub path: String,
    /// Hash of the content that was replaced.
    pub before: Option<String>,
    /// Hash of the content that replaced it.
    pub after: Option<String>,
}

/// Files that changed together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// 1, 2, 3, ...
    pub id: u64,
    /// `export 15_quantization`.
    pub label: String,
    /// Seconds since 1970.
    pub time: u64,
    /// In no particular order.
    pub files: Vec<FileRecord>,
}

/// What was found in the journal of an earlier, killed `tito`.
#[derive(Debug)]
pub struct Recovered {
    /// Its label.
    pub label: String,
    /// Files that meanwhile held something else and were left alone.
    pub left_alone: Vec<String>,
}

impl Store {
    /// The store of the workspace at `root`.
    pub fn new(root: &Path) -> Store {
        Store {
            root: root.to_owned(),
            state: root.join(".tito"),
        }
    }

    /// True if an earlier `tito` was killed in the middle of a change.
    pub fn is_interrupted(&self) -> bool {
        self.pending().is_file()
    }

    /// Replaces all the files or none, and remembers both contents.
    ///
    /// Files whose content would not change are left out; if none is left nothing happens and no transaction is recorded.
    ///
    /// # Errors
    ///
    /// An environment error; the files are as before.
    pub fn apply(
        &self,
        lock: &Lock,
        label: &str,
        changes: &[Change],
    ) -> Result<Option<Transaction>> {
        self.recover(lock)?;
        let mut files = Vec::new();
        let mut contents: BTreeMap<String, &[u8]> = BTreeMap::new();
        let mut olds = Vec::new();
        for change in changes {
            let old = self.read(&change.path)?;
            if old.as_deref() == change.content.as_deref() {
                continue;
            }
            let after = change.content.as_deref().map(hash);
            if let (Some(content), Some(hash)) = (&change.content, &after) {
                contents.insert(hash.clone(), content);
            }
            files.push(FileRecord {
                path: change.path.clone(),
                before: old.as_deref().map(hash),
                after,
            });
            olds.extend(old);
        }
        if files.is_empty() {
            return Ok(None);
        }
        let transaction = Transaction {
            id: self.last_id()? + 1,
            label: label.to_owned(),
            time: now(),
            files,
        };
        let prepared = self.prepare(&olds, &contents, &transaction);
        if let Err(error) = prepared {
            self.clear_staged();
            return Err(cannot_write(&self.state, &error).into());
        }
        if let Err((path, error)) = self.rename_all(&transaction) {
            self.roll_back(&transaction).context(
                "the change failed, and so did taking it back; the next tito will try again",
            )?;
            return Err(cannot_write(&self.root.join(path), &error).into());
        }
        self.conclude(&transaction)
            .map_err(|error| cannot_write(&self.state, &error))?;
        Ok(Some(transaction))
    }

    /// Completes what a killed `tito` began.
    ///
    /// A file that holds neither the old nor the new content was edited since: it is left alone.
    ///
    /// # Errors
    ///
    /// An environment error; the journal stays for the next attempt.
    pub fn recover(&self, _lock: &Lock) -> Result<Option<Recovered>> {
        let pending = self.pending();
        if !pending.is_file() {
            self.clear_staged();
            return Ok(None);
        }
        let mut transaction: Transaction = read_json(&pending)?;
        let mut left_alone = Vec::new();
        let mut done = Vec::new();
        for file in &transaction.files {
            let now = self.read(&file.path)?.as_deref().map(hash);
            if now == file.after {
                done.push(file.clone());
            } else if now == file.before {
                let content = file
                    .after
                    .as_deref()
                    .map(|hash| self.get(hash))
                    .transpose()?;
                self.put_in_place(&file.path, content.as_deref())
                    .map_err(|error| cannot_write(&self.root.join(&file.path), &error))?;
                done.push(file.clone());
            } else {
                left_alone.push(file.path.clone());
            }
        }
        transaction.files = done;
        self.conclude(&transaction)
            .map_err(|error| cannot_write(&self.state, &error))?;
        Ok(Some(Recovered {
            label: transaction.label,
            left_alone,
        }))
    }

    /// What was done, oldest first.
    ///
    /// # Errors
    ///
    /// An environment error if an entry is unreadable.
    pub fn history(&self) -> Result<Vec<Transaction>> {
        let mut ids = self.ids()?;
        ids.sort_unstable();
        ids.into_iter()
            .map(|id| read_json(&self.entry(id)))
            .collect()
    }

    /// The changes that take a transaction back.
    ///
    /// # Errors
    ///
    /// An environment error if a content is missing or damaged.
    pub fn reverse(&self, transaction: &Transaction) -> Result<Vec<Change>> {
        transaction
            .files
            .iter()
            .map(|file| {
                Ok(Change {
                    path: file.path.clone(),
                    content: file
                        .before
                        .as_deref()
                        .map(|hash| self.get(hash))
                        .transpose()?,
                })
            })
            .collect()
    }

    /// Keeps the content of a file, whether or not it will change.
    ///
    /// # Errors
    ///
    /// An environment error if it cannot be written.
    pub fn keep(&self, _lock: &Lock, file: Option<&SourceFile>) -> Result<()> {
        if let Some(file) = file {
            self.put(file.text.as_bytes())
                .map_err(|error| cannot_write(&self.state, &error))?;
        }
        Ok(())
    }

    /// Keeps a content, whether or not a file has it.
    ///
    /// # Errors
    ///
    /// An environment error if it cannot be written.
    pub fn keep_content(&self, _lock: &Lock, content: &[u8]) -> Result<()> {
        Ok(self
            .put(content)
            .map_err(|error| cannot_write(&self.state, &error))?)
    }

    /// The content with this hash.
    ///
    /// # Errors
    ///
    /// An environment error if it is missing or no longer has that hash.
    pub fn get(&self, wanted: &str) -> Result<Vec<u8>> {
        let path = self.object(wanted);
        let content = fs::read(&path).map_err(|error| {
            Failure::environment(format!("cannot read {}: {error}", path.display()))
        })?;
        if hash(&content) != wanted {
            return Err(Failure::environment(format!("{} is damaged", path.display())).into());
        }
        Ok(content)
    }

    /// The hash of a file of the workspace, if it is there.
    ///
    /// # Errors
    ///
    /// An environment error if it is there and cannot be read.
    pub fn hash_of(&self, path: &str) -> Result<Option<String>> {
        Ok(self.read(path)?.as_deref().map(hash))
    }

    fn prepare(
        &self,
        olds: &[Vec<u8>],
        contents: &BTreeMap<String, &[u8]>,
        transaction: &Transaction,
    ) -> io::Result<()> {
        for old in olds {
            self.put(old)?;
        }
        for content in contents.values() {
            self.put(content)?;
        }
        for (index, file) in transaction.files.iter().enumerate() {
            if let Some(hash) = &file.after {
                write_synced(&self.staged(index), contents[hash])?;
            }
        }
        let journal = serde_json::to_vec_pretty(transaction)?;
        write_atomically(&self.pending(), &journal)
    }

    fn rename_all(&self, transaction: &Transaction) -> Result<(), (String, io::Error)> {
        for (index, file) in transaction.files.iter().enumerate() {
            let path = self.root.join(&file.path);
            let done = fault::step().and_then(|()| match &file.after {
                Some(_) => make_parent(&path).and_then(|()| fs::rename(self.staged(index), &path)),
                None => fs::remove_file(&path),
            });
            done.map_err(|error| (file.path.clone(), error))?;
            sync_parent(&path);
        }
        Ok(())
    }

    fn roll_back(&self, transaction: &Transaction) -> Result<()> {
        for file in &transaction.files {
            if self.hash_of(&file.path)? != file.before {
                let content = file
                    .before
                    .as_deref()
                    .map(|hash| self.get(hash))
                    .transpose()?;
                self.put_in_place(&file.path, content.as_deref())?;
            }
        }
        fs::remove_file(self.pending())?;
        self.clear_staged();
        Ok(())
    }

    /// Writes the history entry, then removes the journal: in this order a killed process repeats the step harmlessly.
    fn conclude(&self, transaction: &Transaction) -> io::Result<()> {
        if !transaction.files.is_empty() {
            let entry = serde_json::to_vec_pretty(transaction)?;
            write_atomically(&self.entry(transaction.id), &entry)?;
        }
        fault::step()?;
        fs::remove_file(self.pending())?;
        sync_parent(&self.pending());
        self.clear_staged();
        Ok(())
    }

    fn put(&self, content: &[u8]) -> io::Result<()> {
        let path = self.object(&hash(content));
        if fs::read(&path).is_ok_and(|kept| kept == content) {
            return Ok(());
        }
        write_atomically(&path, content)
    }

    fn put_in_place(&self, path: &str, content: Option<&[u8]>) -> io::Result<()> {
        let path = self.root.join(path);
        match content {
            Some(content) => {
                let staged = self.state.join("staged").join("recovered");
                write_synced(&staged, content)?;
                make_parent(&path)?;
                fault::step()?;
                fs::rename(&staged, &path)?;
            }
            None => fs::remove_file(&path)?,
        }
        sync_parent(&path);
        Ok(())
    }

    fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        match fs::read(self.root.join(path)) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::environment(format!("cannot read {path}: {error}")).into()),
        }
    }

    fn ids(&self) -> Result<Vec<u64>> {
        let folder = self.state.join("history");
        let Ok(entries) = fs::read_dir(&folder) else {
            return Ok(Vec::new());
        };
        Ok(entries
            .filter_map(|entry| {
                let name = entry.ok()?.file_name();
                name.to_str()?.strip_suffix(".json")?.parse().ok()
            })
            .collect())
    }

    fn last_id(&self) -> Result<u64> {
        Ok(self.ids()?.into_iter().max().unwrap_or(0))
    }

    fn object(&self, hash: &str) -> PathBuf {
        let (first, rest) = hash.split_at(2.min(hash.len()));
        self.state.join("objects").join(first).join(rest)
    }

    fn entry(&self, id: u64) -> PathBuf {
        self.state.join("history").join(format!("{id:06}.json"))
    }

    fn pending(&self) -> PathBuf {
        self.state.join("pending.json")
    }

    fn staged(&self, index: usize) -> PathBuf {
        self.state.join("staged").join(index.to_string())
    }

    fn clear_staged(&self) {
        let _ = fs::remove_dir_all(self.state.join("staged"));
    }
}

/// SHA-256, in hexadecimal.
pub fn hash(content: &[u8]) -> String {
    Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Writes a file beside the target, then renames it over the target.
///
/// # Errors
///
/// Those of the file system; the target is as before.
pub fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let written = write_synced(&beside, content)
        .and_then(|()| fault::step())
        .and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    sync_parent(path);
    written
}

fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    make_parent(path)?;
    fault::step()?;
    let mut file = File::create(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn make_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => fs::create_dir_all(parent),
        None => Ok(()),
    }
}

/// Makes a rename durable where a folder can be opened as a file; elsewhere the system takes care of it.
fn sync_parent(path: &Path) {
    if let Some(folder) = path.parent()
        && let Ok(folder) = File::open(folder)
    {
        let _ = folder.sync_all();
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read(path).map_err(|error| {
        Failure::environment(format!("cannot read {}: {error}", path.display()))
    })?;
    let value = serde_json::from_slice(&text)
        .map_err(|error| Failure::environment(format!("{} is damaged: {error}", path.display())))?;
    Ok(value)
}

/// Seconds since 1970.
pub fn now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
