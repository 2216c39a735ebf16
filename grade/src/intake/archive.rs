//! A submission that is a zip file. Entries are read one by one, up to a limit, and never unpacked to disk.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use zip::ZipArchive;

use super::{Entry, Found, LARGEST_FILE, MOST_ENTRIES};

/// Bytes of the largest archive that is opened.
const LARGEST_ARCHIVE: u64 = 64 << 20;

/// An open archive.
pub(super) struct Archive {
    zip: ZipArchive<BufReader<File>>,
}

impl Archive {
    /// Opens an archive and lists it.
    ///
    /// # Errors
    ///
    /// Why it is not taken.
    pub fn open(path: &Path) -> Result<(Self, Found<usize>), String> {
        let data =
            std::fs::symlink_metadata(path).map_err(|error| format!("cannot be read: {error}"))?;
        if !data.is_file() {
            return Err("neither a folder nor an ordinary file".into());
        }
        if data.len() > LARGEST_ARCHIVE {
            return Err(format!("longer than {LARGEST_ARCHIVE} bytes"));
        }
        let file = File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
        let mut zip = ZipArchive::new(BufReader::new(file))
            .map_err(|error| format!("no zip archive that can be read: {error}"))?;
        let mut found = Found {
            entries: Vec::new(),
            refused: Vec::new(),
        };
        for index in 0..zip.len() {
            if index >= MOST_ENTRIES {
                let why = format!("more than {MOST_ENTRIES} files");
                found.refuse(Path::new("..."), why, true);
                break;
            }
            let entry = match zip.by_index_raw(index) {
                Ok(entry) => entry,
                Err(error) => {
                    found.refuse(Path::new("?"), format!("damaged: {error}"), false);
                    continue;
                }
            };
            let shown = entry
                .name()
                .map_or_else(|_| "?".into(), |name| Path::new(&*name).to_owned());
            let is_absolute = shown.is_absolute() || shown.to_string_lossy().contains(':');
            let Some(path) = entry.enclosed_name().filter(|_| !is_absolute) else {
                found.refuse(&shown, "a name that leads out of the archive", true);
                continue;
            };
            if entry.is_dir() {
                continue;
            }
            // The kind is in the upper bits of the Unix mode, if there is one.
            let kind = entry.unix_mode().map_or(0, |mode| mode & 0o170_000);
            if entry.is_symlink() || !matches!(kind, 0 | 0o100_000) {
                found.refuse(
                    &shown,
                    "a link or a special file; hand in the file itself",
                    true,
                );
            } else if entry.encrypted() {
                found.refuse(&shown, "encrypted", false);
            } else {
                found.entries.push(Entry {
                    path,
                    handle: index,
                });
            }
        }
        Ok((Self { zip }, found))
    }

    /// Unpacks one entry into memory; what it says of its own length is not believed.
    ///
    /// # Errors
    ///
    /// Why it is not taken, and whether somebody should look.
    pub fn read(&mut self, index: usize) -> Result<Vec<u8>, (String, bool)> {
        let entry = self
            .zip
            .by_index(index)
            .map_err(|error| (format!("cannot be unpacked: {error}"), false))?;
        let mut content = Vec::new();
        entry
            .take(LARGEST_FILE + 1)
            .read_to_end(&mut content)
            .map_err(|error| (format!("cannot be unpacked: {error}"), false))?;
        if content.len() as u64 > LARGEST_FILE {
            return Err((format!("longer than {LARGEST_FILE} bytes"), true));
        }
        Ok(content)
    }
}
