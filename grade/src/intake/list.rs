//! Which submissions a folder holds.

use std::collections::BTreeSet;
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
    let mut ids = BTreeSet::new();
    for path in paths {
        let name = path.to_string_lossy().into_owned();
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
            Some(stem) if is_file => archive(stem, &path),
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
