//! L0: from a folder of submissions to the listed source files of each, and nothing else of what was handed in.
//!
//! | what is there | how it is read |
//! |---|---|
//! | `jane/` | a folder named after the student: files at its top, or in `15_quantization/`, or in a whole repository |
//! | `jane.zip` | the same, packed; also a bundle of `tito submit` |
//! | `doejane_LATE_12345_67890_hw.zip` | as Canvas names a download |
//! | `doejane_12345_67890_quantize.rs` | the same, handed in unpacked: all files of a student are one submission |
//! | `submission_metadata.yml`, `submission_123/` | as Gradescope exports an assignment |
//!
//! Only files that the manifest lists, at most [`LARGEST_FILE`] each, are ever read. Links, special files, names that climb and archives
//! that are not what they say are refused, and named in the result. Nothing is unpacked to disk.

mod archive;
mod canvas;
mod folder;
mod gradescope;
mod list;
mod names;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tito::snapshot::hash;
use tito::workspace::Module;

pub use list::{Listing, list};

use crate::clean;
use crate::model::{Refused, Submission, SubmittedFile};

/// Bytes of the largest file that is taken.
pub const LARGEST_FILE: u64 = 1 << 20;

/// Entries of a folder or an archive that are looked at.
const MOST_ENTRIES: usize = 5_000;

/// Refusals that are told one by one.
const TOLD: usize = 20;

/// The written answers of a module.
const ANSWERS: &str = "QUESTIONS.md";

/// A file that may be wanted: its path in the submission, and how to read it.
pub(crate) struct Entry<H> {
    path: PathBuf,
    handle: H,
}

/// What a folder or an archive holds.
pub(crate) struct Found<H> {
    entries: Vec<Entry<H>>,
    refused: Vec<Refused>,
}

impl<H> Found<H> {
    fn refuse(&mut self, path: &Path, why: impl Into<String>, suspicious: bool) {
        self.refused.push(Refused {
            path: clean::line(&path.to_string_lossy(), 200),
            why: why.into(),
            suspicious,
        });
    }
}

/// The files of one submission: name to text, for all that could be taken.
pub type Taken = BTreeMap<String, String>;

/// Reads the files of a submission, and completes what is known of it.
pub fn take(module: &Module, submissions: &Path, submission: &mut Submission) -> Taken {
    let source = submissions.join(&submission.source);
    let is_folder = std::fs::symlink_metadata(&source).is_ok_and(|data| data.is_dir());
    let (taken, refused) = if !submission.loose.is_empty() {
        let files = submission.loose.iter();
        let found = Found {
            entries: files
                .map(|file| Entry {
                    path: PathBuf::from(&file.name),
                    handle: submissions.join(&file.source),
                })
                .collect(),
            refused: Vec::new(),
        };
        choose(module, found, folder::read)
    } else if is_folder {
        choose(module, folder::walk(&source), folder::read)
    } else {
        match archive::Archive::open(&source) {
            Ok((mut archive, found)) => choose(module, found, |index| archive.read(*index)),
            Err(why) => (
                BTreeMap::new(),
                vec![refusal(&submission.source, why, false)],
            ),
        }
    };
    let mut texts = Taken::new();
    submission.refused = refused;
    submission.files.clear();
    for (name, content) in taken {
        match String::from_utf8(content) {
            Ok(text) if name == ANSWERS => submission.answers = Some(clean::long(&text)),
            Ok(text) => {
                texts.insert(name, text);
            }
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let line = error.as_bytes()[..at]
                    .iter()
                    .filter(|byte| **byte == b'\n')
                    .count()
                    + 1;
                let why = format!("line {line} is not UTF-8 text; save the file as UTF-8");
                submission
                    .refused
                    .push(refusal(Path::new(&name), why, false));
            }
        }
    }
    let files = &module.manifest.files;
    submission.files = files
        .iter()
        .filter_map(|name| texts.get_key_value(name))
        .map(|(name, text)| SubmittedFile {
            name: name.clone(),
            sha256: hash(text.as_bytes()),
            bytes: text.len() as u64,
        })
        .collect();
    submission.missing = files
        .iter()
        .filter(|name| !texts.contains_key(*name))
        .cloned()
        .collect();
    if submission.refused.len() > TOLD {
        let more = submission.refused.len() - TOLD;
        let suspicious = submission.refused[TOLD..].iter().any(|one| one.suspicious);
        submission.refused.truncate(TOLD);
        let why = format!("{more} more were not taken either");
        submission
            .refused
            .push(refusal(Path::new("..."), why, suspicious));
    }
    texts
}

fn refusal(path: &Path, why: impl Into<String>, suspicious: bool) -> Refused {
    Refused {
        path: clean::line(&path.to_string_lossy(), 200),
        why: why.into(),
        suspicious,
    }
}

/// Chooses the folder that holds the exercise files, and reads the wanted files of that folder; the written answers may lie elsewhere.
fn choose<H>(
    module: &Module,
    mut found: Found<H>,
    mut read: impl FnMut(&H) -> Result<Vec<u8>, (String, bool)>,
) -> (BTreeMap<String, Vec<u8>>, Vec<Refused>) {
    let wanted: Vec<&str> = module
        .manifest
        .files
        .iter()
        .map(String::as_str)
        .chain([ANSWERS])
        .collect();
    let code = home(module, &found.entries);
    let mut taken = BTreeMap::new();
    let entries = std::mem::take(&mut found.entries);
    for name in wanted {
        let is_called = |entry: &&Entry<H>| {
            let own = entry.path.file_name().map(|name| name.to_string_lossy());
            own.is_some_and(|own| own.eq_ignore_ascii_case(name))
        };
        let mut home = code.clone();
        if name == ANSWERS {
            let all: Vec<&Path> = entries
                .iter()
                .filter(is_called)
                .filter_map(|entry| entry.path.parent())
                .collect();
            let beside_code = all.iter().any(|folder| Some(*folder) == code.as_deref());
            home = match all[..] {
                _ if beside_code => home,
                [] => None,
                // Handed in alone, or beside the folder of the code: there is no doubt which one is meant.
                [one] => Some(one.to_owned()),
                _ => {
                    let why = "several are there, and none beside the exercise files";
                    found.refuse(Path::new(ANSWERS), why, false);
                    None
                }
            };
        }
        let Some(home) = home else { continue };
        let like: Vec<&Entry<H>> = entries
            .iter()
            .filter(|entry| entry.path.parent() == Some(&home))
            .filter(is_called)
            .collect();
        match like[..] {
            [] => {}
            [one] if one.path.ends_with(name) => match read(&one.handle) {
                Ok(content) => {
                    taken.insert(name.to_owned(), content);
                }
                Err((why, suspicious)) => found.refuse(&one.path, why, suspicious),
            },
            [one] => {
                let why = format!("the file must be called {name}, with these letters");
                found.refuse(&one.path, why, false);
            }
            _ => {
                let why = format!("several files are called {name} but for capital letters");
                found.refuse(&home.join(name), why, true);
            }
        }
    }
    (taken, found.refused)
}

/// The folder to take the files from: the module's own if there is one, else the highest with the most of them.
fn home<H>(module: &Module, entries: &[Entry<H>]) -> Option<PathBuf> {
    let mut homes: BTreeMap<&Path, usize> = BTreeMap::new();
    for entry in entries {
        let name = entry.path.file_name().unwrap_or_default().to_string_lossy();
        let files = &module.manifest.files;
        if files.iter().any(|file| file.eq_ignore_ascii_case(&name))
            && let Some(parent) = entry.path.parent()
        {
            *homes.entry(parent).or_default() += 1;
        }
    }
    // The library's own copies of the files lie in a whole repository as well.
    let library = Path::new(&module.manifest.target).join("src");
    homes
        .into_iter()
        .filter(|(home, _)| !home.ends_with(&library))
        .max_by_key(|(home, count)| {
            let depth = home.components().count();
            (
                home.ends_with(&module.name),
                std::cmp::Reverse(depth),
                *count,
            )
        })
        .map(|(home, _)| home.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(paths: &[&str]) -> (Vec<String>, usize) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let workspace = tito::workspace::Workspace::find(Some(&root)).expect("the course");
        let module = workspace.module("15").expect("the module");
        let entries = paths.iter().map(|path| Entry {
            path: PathBuf::from(path),
            handle: (*path).to_owned(),
        });
        let found = Found {
            entries: entries.collect(),
            refused: Vec::new(),
        };
        let (taken, refused) = choose(&module, found, |path| Ok(path.clone().into_bytes()));
        let taken = taken
            .into_values()
            .map(|path| String::from_utf8(path).expect("text"));
        (taken.collect(), refused.len())
    }

    /// The names are Canvas', the contents the student's; links and what cannot be read have their reasons as in a folder.
    #[test]
    fn loose_files_are_taken_as_if_they_were_in_a_folder() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let workspace = tito::workspace::Workspace::find(Some(&root)).expect("the course");
        let module = workspace.module("15").expect("the module");
        let folder = tempfile::TempDir::new().expect("a folder");
        for (name, content) in [
            ("doejane_1001_7_quantize-1.rs", &b"fn q() {}"[..]),
            ("doejane_1001_8_gemm.rs", b"\xff"),
            ("doejane_1001_9_QUESTIONS.md", b"my answers"),
            ("doejane_1001_10_notes.md", b"no exercise"),
            ("doejane_1001_11_OBSERVER.rs", b"fn o() {}"),
        ] {
            std::fs::write(folder.path().join(name), content).expect("writes");
        }
        let mut listing = list(folder.path()).expect("submissions");
        assert_eq!(listing.submissions.len(), 1);
        let mut jane = listing.submissions.remove(0);
        let texts = take(&module, folder.path(), &mut jane);
        assert_eq!(texts.keys().collect::<Vec<_>>(), ["quantize.rs"]);
        assert_eq!(jane.answers.as_deref(), Some("my answers"));
        let refused: Vec<&str> = jane.refused.iter().map(|one| one.why.as_str()).collect();
        assert!(
            refused[0].contains("must be called observer.rs"),
            "{refused:?}"
        );
        assert!(refused[1].contains("not UTF-8"), "{refused:?}");
        // It became a link since it was listed.
        let own = folder.path().join("doejane_1001_7_quantize-1.rs");
        std::fs::remove_file(&own).expect("removes");
        std::os::unix::fs::symlink("/etc/passwd", &own).expect("links");
        let texts = take(&module, folder.path(), &mut jane);
        assert!(texts.is_empty(), "{texts:?}");
        assert!(
            jane.refused[0].path.contains("quantize.rs"),
            "{:?}",
            jane.refused
        );
    }

    /// Answers without code, or beside its folder, were dropped and marked with 0 points as not given.
    #[test]
    fn written_answers_are_found_wherever_there_is_one() {
        assert_eq!(chosen(&["QUESTIONS.md"]), (vec!["QUESTIONS.md".into()], 0));
        let (taken, refused) = chosen(&["QUESTIONS.md", "15_quantization/quantize.rs"]);
        assert_eq!((taken.len(), refused), (2, 0));
        let (taken, _) = chosen(&["a/QUESTIONS.md", "b/QUESTIONS.md", "b/quantize.rs"]);
        assert_eq!(taken, ["b/QUESTIONS.md", "b/quantize.rs"]);
        // Which of two is meant is the student's to say.
        assert_eq!(chosen(&["a/QUESTIONS.md", "b/QUESTIONS.md"]), (vec![], 1));
    }
}
