//! Which submissions a folder holds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use tito::failure::Failure;

use super::{gradescope, names};
use crate::clean;
use crate::model::{Origin, Submission};

/// What was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listing {
    /// In the order of their ids.
    pub submissions: Vec<Submission>,
    /// What is there and is no submission.
    pub left_alone: Vec<String>,
    /// Submissions that may be the same student's: a sentence each.
    pub alike: Vec<String>,
}

/// Of every student of a Canvas download the number of the last upload.
fn newest(paths: &[PathBuf]) -> BTreeMap<String, u64> {
    let mut newest = BTreeMap::new();
    for path in paths {
        let stem = path.to_str().and_then(|name| {
            name.strip_suffix(".zip")
                .or_else(|| name.strip_suffix(".ZIP"))
        });
        if let Some(canvas) = stem.and_then(names::canvas) {
            let last: &mut u64 = newest.entry(canvas.number).or_default();
            *last = canvas.upload.max(*last);
        }
    }
    newest
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
    let newest = newest(&paths);
    let mut ids = BTreeSet::new();
    for path in paths {
        let Some(name) = path.to_str().map(str::to_owned) else {
            // Plans and results name it in JSON, which is text.
            let shown = clean::line(&path.to_string_lossy(), 200);
            let why = "its name is no UTF-8 text: rename it, or it is not graded";
            listing.left_alone.push(format!("{shown}: {why}"));
            continue;
        };
        let kind = fs::symlink_metadata(folder.join(&path)).map(|data| data.file_type());
        let is_folder = kind.as_ref().is_ok_and(fs::FileType::is_dir);
        let is_file = kind.as_ref().is_ok_and(fs::FileType::is_file);
        let stem = name
            .strip_suffix(".zip")
            .or_else(|| name.strip_suffix(".ZIP"));
        let is_hidden = name.starts_with('.') || name == "__MACOSX";
        let mut submission = match stem {
            _ if is_hidden => continue,
            _ if name == "submission_metadata.yml" => continue,
            Some(stem) if is_file => {
                let upload = names::canvas(stem).map(|canvas| (canvas.number, canvas.upload));
                if let Some((student, upload)) = upload
                    && newest.get(&student).is_some_and(|newest| *newest > upload)
                {
                    let shown = clean::line(&name, 200);
                    listing
                        .left_alone
                        .push(format!("{shown}: the same student uploaded again later"));
                    continue;
                }
                archive(stem, &path)
            }
            _ if is_folder => blank(&name, Origin::Folder, &path),
            _ => {
                listing.left_alone.push(clean::line(&name, 200));
                continue;
            }
        };
        if let Some(known) = metadata.get(&name) {
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
        // `jane` and `jane.zip`, or names that differ only in capital letters, which some systems take for one.
        let mut number = 1;
        let base = submission.id.clone();
        while !ids.insert(submission.id.to_lowercase()) {
            number += 1;
            submission.id = format!("{base}-{number}");
        }
        if number > 1 {
            listing.alike.push(format!(
                "{} is graded as {}, since there is another {base}: one student, or two?",
                clean::line(&name, 200),
                submission.id
            ));
        }
        listing.submissions.push(submission);
    }
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

fn archive(stem: &str, path: &Path) -> Submission {
    match names::canvas(stem) {
        Some(canvas) => Submission {
            id: names::id(&format!("{}_{}", canvas.name, canvas.number)),
            name: clean::line(&canvas.name, 100),
            student_number: Some(canvas.number),
            late: Some(canvas.late),
            ..blank(stem, Origin::Canvas, path)
        },
        None => blank(stem, Origin::Archive, path),
    }
}

fn blank(name: &str, origin: Origin, path: &Path) -> Submission {
    Submission {
        id: names::id(name),
        name: clean::line(name, 100),
        email: None,
        student_number: None,
        group: Vec::new(),
        origin,
        source: path.to_owned(),
        submitted: None,
        late: None,
        files: Vec::new(),
        answers: None,
        missing: Vec::new(),
        refused: Vec::new(),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    /// Both were graded, and the older one's grade was published.
    #[test]
    fn of_two_uploads_of_one_student_the_later_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in [
            "doejane_1001_70001_hw.zip",
            "doejane_1001_70009_hw-1.zip",
            "roejo_1002_70003_hw.zip",
        ] {
            fs::write(folder.path().join(name), "").expect("written");
        }
        for name in ["kim", "Kim"] {
            fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        let listing = list(folder.path()).expect("submissions");
        let sources: Vec<String> = listing
            .submissions
            .iter()
            .map(|one| one.source.display().to_string())
            .collect();
        assert!(sources.contains(&"doejane_1001_70009_hw-1.zip".to_owned()));
        assert!(!sources.contains(&"doejane_1001_70001_hw.zip".to_owned()));
        assert_eq!((listing.left_alone.len(), listing.alike.len()), (1, 1));
    }

    /// One such name ended the whole run before anybody was graded.
    #[test]
    fn a_name_that_is_no_text_is_left_alone_and_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let odd = std::ffi::OsStr::from_bytes(b"j\xe4ne");
        // Not every disk takes such a name.
        if fs::create_dir(folder.path().join(odd)).is_err() {
            return;
        }
        fs::create_dir(folder.path().join("jane")).expect("a folder");
        let listing = list(folder.path()).expect("there is jane");
        assert_eq!(listing.submissions.len(), 1);
        assert!(listing.left_alone[0].contains("rename it"));
        assert!(serde_json::to_string(&listing.submissions).is_ok());
    }
}
