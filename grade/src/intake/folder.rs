//! A submission that is a folder.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Entry, Found, LARGEST_FILE, MOST_ENTRIES};

/// Deeper folders hold no exercise files.
const DEEPEST: usize = 8;

/// What programs leave behind; nobody handed that in on purpose.
const SKIPPED: [&str; 6] = [
    "target",
    ".git",
    ".tito",
    "__MACOSX",
    ".vscode",
    "node_modules",
];

/// Lists a folder without following a link.
pub(super) fn walk(root: &Path) -> Found<PathBuf> {
    let mut found = Found {
        entries: Vec::new(),
        refused: Vec::new(),
    };
    let mut waiting = vec![(PathBuf::new(), 0)];
    let mut seen = 0;
    while let Some((inside, depth)) = waiting.pop() {
        let Ok(entries) = fs::read_dir(root.join(&inside)) else {
            found.refuse(&inside, "the folder cannot be read", false);
            continue;
        };
        let mut entries: Vec<_> = entries.filter_map(Result::ok).collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            seen += 1;
            if seen > MOST_ENTRIES {
                found.refuse(&inside, format!("more than {MOST_ENTRIES} files"), true);
                return found;
            }
            let path = inside.join(entry.file_name());
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            if kind.is_symlink() {
                found.refuse(&path, "a link; hand in the file itself", true);
            } else if kind.is_dir() {
                let is_skipped = SKIPPED.iter().any(|name| path.ends_with(name));
                if !is_skipped && depth < DEEPEST {
                    waiting.push((path, depth + 1));
                }
            } else if kind.is_file() {
                let handle = root.join(&path);
                found.entries.push(Entry { path, handle });
            } else {
                found.refuse(&path, "no ordinary file", true);
            }
        }
    }
    found
}

/// Reads one file; it may have become a link or a pipe since it was listed.
pub(super) fn read(path: &PathBuf) -> Result<Vec<u8>, (String, bool)> {
    use std::io::Read;
    let mut options = fs::OpenOptions::new();
    options.read(true);
    #[cfg(target_os = "linux")]
    std::os::unix::fs::OpenOptionsExt::custom_flags(
        &mut options,
        libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC,
    );
    let file = options
        .open(path)
        .map_err(|error| (format!("cannot be read: {error}"), false))?;
    let is_file = file.metadata().is_ok_and(|data| data.is_file());
    if !is_file {
        return Err(("no ordinary file".into(), true));
    }
    let mut content = Vec::new();
    file.take(LARGEST_FILE + 1)
        .read_to_end(&mut content)
        .map_err(|error| (format!("cannot be read: {error}"), false))?;
    if content.len() as u64 > LARGEST_FILE {
        return Err((format!("longer than {LARGEST_FILE} bytes"), true));
    }
    Ok(content)
}
