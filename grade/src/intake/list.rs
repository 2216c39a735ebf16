//! Which submissions a folder holds.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use tito::failure::Failure;
use tito::snapshot::hash;

use super::{canvas, gradescope, names};
use crate::clean;
use crate::model::{Origin, Submission};

/// What was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listing {
    /// In the order of their ids.
    pub submissions: Vec<Submission>,
    /// What is there and is no submission.
    pub left_alone: Vec<String>,
}

/// Lists a folder of submissions. No submission is read.
///
/// # Errors
///
/// A usage error if the folder cannot be read or holds none.
pub fn list(folder: &Path) -> Result<Listing> {
    let shown = folder.display();
    let entries = fs::read_dir(folder).map_err(|error| {
        Failure::usage(format!("cannot read the submissions in {shown}: {error}"))
    })?;
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(PathBuf::from(entry.ok()?.file_name())))
        .collect();
    paths.sort();
    let metadata = fs::read_to_string(folder.join("submission_metadata.yml"))
        .map(|text| gradescope::parse(&text))
        .unwrap_or_default();
    let mut listing = Listing::default();
    let mut uploads: BTreeMap<(bool, String), Vec<canvas::Upload>> = BTreeMap::new();
    for path in paths {
        let Some(name) = path.to_str() else {
            listing.submissions.push(unreadable(&path));
            continue;
        };
        let kind = fs::symlink_metadata(folder.join(&path)).map(|data| data.file_type());
        let is_folder = kind.as_ref().is_ok_and(fs::FileType::is_dir);
        let is_file = kind.as_ref().is_ok_and(fs::FileType::is_file);
        let stem = name
            .strip_suffix(".zip")
            .or_else(|| name.strip_suffix(".ZIP"));
        let is_ours = name.starts_with('.')
            || name == "__MACOSX"
            || name == "submission_metadata.yml"
            || name == "submission_metadata.yaml";
        if is_ours {
            continue;
        }
        let upload = is_file.then(|| canvas::read(name)).flatten();
        let mut submission = match (upload, stem) {
            (Some(upload), _) => {
                let whose = (upload.anonymous, upload.number.clone());
                let all = uploads.entry(whose).or_default();
                all.push(upload);
                continue;
            }
            (None, Some(stem)) if is_file => blank(stem, Origin::Archive, &path),
            _ if is_folder => blank(name, Origin::Folder, &path),
            _ => match OTHER_ARCHIVES
                .iter()
                .find_map(|kind| name.strip_suffix(kind))
            {
                Some(stem) if is_file && !stem.is_empty() => Submission {
                    notes: vec![unread(&[name])],
                    ..blank(stem, Origin::Archive, &path)
                },
                _ => {
                    listing.left_alone.push(clean::line(name, 200));
                    continue;
                }
            },
        };
        if let Some(known) = metadata.get(name) {
            submission.origin = Origin::Gradescope;
            submission.submitted.clone_from(&known.created);
            if let Some(first) = known.submitters.first() {
                first.name.clone_into(&mut submission.name);
                submission.email.clone_from(&first.email);
                submission.student_number.clone_from(&first.number);
            }
            let others = known.submitters.iter().skip(1);
            submission.group = others.map(|person| person.name.clone()).collect();
        }
        listing.submissions.push(submission);
    }
    let uploads = uploads.into_values().filter_map(canvas::gather);
    listing.submissions.extend(uploads);
    keep_apart(&mut listing.submissions);
    if listing.submissions.is_empty() {
        return Err(
            Failure::usage(format!("there are no submissions in {shown}"))
                .help("a folder or a zip file per student is a submission")
                .into(),
        );
    }
    listing.submissions.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(listing)
}

/// Packings that are not read; whoever used one is in the class all the same.
const OTHER_ARCHIVES: [&str; 9] = [
    ".tar.gz", ".tar.xz", ".tar.bz2", ".tar.zst", ".tgz", ".tar", ".7z", ".rar", ".gz",
];

pub(super) fn unread(names: &[&str]) -> String {
    format!(
        "handed in as {}, which is not read: make a folder or a zip file of it and grade again",
        clean::line(&names.join(", "), 300)
    )
}

/// Something whose name cannot be written into a result: named by its escapes, and never opened.
fn unreadable(path: &Path) -> Submission {
    let escaped: String = path
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .flat_map(|byte| std::ascii::escape_default(*byte))
        .map(char::from)
        .collect();
    Submission {
        notes: vec![format!(
            "the name {} is not UTF-8: rename it and grade again",
            clean::line(&escaped, 200)
        )],
        ..blank(&escaped, Origin::Folder, Path::new(&escaped))
    }
}

/// Gives submissions ids of their own, and names those that may be one person's.
///
/// `jane` and `jane.zip`, or names that differ only in capital letters, which some systems take for one, all get the hash of their own name: numbers would
/// depend on who else is there, and an exception for one would become another's.
fn keep_apart(submissions: &mut [Submission]) {
    let mut by_id: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let mut by_number: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, submission) in submissions.iter().enumerate() {
        by_id
            .entry(submission.id.to_lowercase())
            .or_default()
            .push(at);
        if let Some(number) = &submission.student_number {
            by_number.entry(number.clone()).or_default().push(at);
        }
    }
    let mut name = |group: &[usize], what: &str| {
        let sources: Vec<String> = group
            .iter()
            .map(|at| submissions[*at].source.display().to_string())
            .collect();
        let note = format!("{what}: {}", clean::line(&sources.join(", "), 300));
        for at in group {
            submissions[*at].notes.push(note.clone());
        }
    };
    let twice = |groups: BTreeMap<String, Vec<usize>>| {
        let mut groups: Vec<Vec<usize>> = groups.into_values().collect();
        groups.retain(|group| group.len() > 1);
        groups
    };
    let same_id = twice(by_id);
    for group in &same_id {
        name(group, "several submissions have one name");
    }
    for group in twice(by_number) {
        name(&group, "several submissions have one student number");
    }
    for at in same_id.concat() {
        let source = submissions[at].source.to_string_lossy().into_owned();
        let own = &hash(source.as_bytes())[..16];
        submissions[at].id = format!("{}-{own}", submissions[at].id);
    }
}

pub(super) fn blank(name: &str, origin: Origin, path: &Path) -> Submission {
    Submission {
        id: names::id(name),
        name: clean::line(name, 100),
        email: None,
        student_number: None,
        group: Vec::new(),
        notes: Vec::new(),
        origin,
        source: path.to_owned(),
        submitted: None,
        late: None,
        files: Vec::new(),
        answers: None,
        loose: Vec::new(),
        missing: Vec::new(),
        refused: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(names: &[&str]) -> Listing {
        let folder = tempfile::TempDir::new().expect("a folder");
        for name in names {
            let path = folder.path().join(name);
            let done = match name.strip_suffix('/') {
                Some(_) => fs::create_dir(&path),
                None => fs::write(&path, "x"),
            };
            done.expect("writes");
        }
        list(folder.path()).expect("submissions")
    }

    fn ids(listing: &Listing) -> Vec<&str> {
        let all = listing.submissions.iter();
        all.map(|submission| submission.id.as_str()).collect()
    }

    /// The older upload had the student's id and filled the gradebook; the newer one got another id and no row.
    #[test]
    fn of_two_uploads_the_newest_zip_is_graded_and_the_other_named() {
        let newest = "doejane_1001_70009_hw-1.zip";
        let listing = listed(&[
            "doejane_1001_70001_hw.zip",
            newest,
            "doejane_1001_70010_notes.md",
            "doejane_LATE_1002_70002_hw.zip",
        ]);
        assert_eq!(ids(&listing), ["doejane_1001", "doejane_1002"]);
        let jane = &listing.submissions[0];
        assert_eq!(jane.source, Path::new(newest));
        assert!(jane.notes[0].contains("70001_hw.zip") && jane.notes[0].contains("notes.md"));
        assert_eq!(listing.submissions[1].notes, [] as [String; 0]);
    }

    /// They were in no table of grades: neither a grade nor a question whether there should be one.
    #[test]
    fn what_is_not_read_is_in_the_class_with_its_reason() {
        let listing = listed(&["doejane_1001_70001_hw.tar.gz", "kim.tar.gz", "readme.txt"]);
        assert_eq!(ids(&listing), ["doejane_1001", "kim"]);
        for submission in &listing.submissions {
            assert!(
                submission.notes[0].contains("is not read"),
                "{submission:?}"
            );
        }
        assert!(listing.submissions[0].notes[0].contains("hw.tar.gz"));
        assert_eq!(listing.left_alone, ["readme.txt"]);
    }

    /// Ids counted up in the order of names, so an exception for `jane` went to whoever sorted first.
    #[test]
    fn an_id_never_passes_to_another_submission() {
        let alone = listed(&["jane.zip", "kim/"]);
        assert_eq!(ids(&alone), ["jane", "kim"]);
        let both = listed(&["jane.zip", "jane/", "kim/"]);
        assert!(!ids(&both).contains(&"jane"));
        let three = listed(&["jane.zip", "jane/", "Jane/", "kim/"]);
        let of = |listing: &Listing, source: &str| {
            let mut all = listing.submissions.iter();
            all.find(|one| one.source == Path::new(source))
                .map(|one| one.id.clone())
                .expect("there")
        };
        assert_eq!(of(&both, "jane.zip"), of(&three, "jane.zip"));
        let notes = |listing: &Listing| listing.submissions[0].notes.concat();
        assert!(notes(&three).contains("jane.zip"), "{}", notes(&three));
        assert_eq!(three.submissions[3].notes, [] as [String; 0]);
    }

    /// Its path could not be written into the plan, and nobody of the class was graded.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_name_that_is_no_utf8_is_one_refused_submission() {
        use std::os::unix::ffi::OsStrExt;
        let folder = tempfile::TempDir::new().expect("a folder");
        let name = std::ffi::OsStr::from_bytes(b"\xff\xfez");
        fs::create_dir(folder.path().join(name)).expect("makes");
        fs::create_dir(folder.path().join("kim")).expect("makes");
        let listing = list(folder.path()).expect("submissions");
        let text = serde_json::to_string(&listing.submissions).expect("JSON");
        assert!(text.contains("xff"), "{text}");
        assert_eq!(listing.submissions.len(), 2);
        let note = listing.submissions.iter().flat_map(|one| &one.notes).next();
        assert!(
            note.is_some_and(|note| note.contains("not UTF-8") && note.contains("\\xff")),
            "{note:?}"
        );
    }
}
