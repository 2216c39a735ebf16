//! Canvas' download of all submissions: one folder with every file of every student, who is in the names of the files.
//!
//! ```text
//! doejane_1001_70001_hw.zip              name, number of the student, number of the upload, name of the file
//! doejane_LATE_1001_70001_hw.zip         handed in late
//! doejane_1001_70002_quantize-1.rs       handed in unpacked; the second file of this name that the student uploaded
//! anon_Ab3dE_70001_hw.zip                names are hidden: a code instead of name and number
//! LATE_anon_Ab3dE_70001_hw.zip           likewise, late
//! ```
//!
//! Source: Canvas, `lib/content_zipper.rb`. The name is the student's sortable name in small letters, without all that is no letter, digit or underscore.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::list::{blank, unread};
use super::names;
use crate::clean;
use crate::model::{LooseFile, Origin, Submission};

/// A file of the download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Upload {
    /// Last and first name in one word.
    pub name: String,
    /// Canvas' number of the student, or the code that stands for it.
    pub number: String,
    /// True if it is a code, which the gradebook does not know.
    pub anonymous: bool,
    /// Canvas' number of the upload; later ones are higher.
    pub upload: u64,
    /// Marked as late.
    pub late: bool,
    /// The file's name as the student had it, but for the number that Canvas adds to a second one.
    pub file: String,
    /// The file's name in the download.
    pub source: String,
}

/// Reads the name of a file; `None` for one that is not from Canvas.
pub(super) fn read(source: &str) -> Option<Upload> {
    if let Some(upload) = read_anonymous(source) {
        return Some(upload);
    }
    let parts: Vec<&str> = source.split('_').collect();
    let is_number = |at: usize| {
        let part = parts.get(at)?;
        let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then_some(*part)
    };
    // A name may have underscores, but not around a number: Canvas takes these out.
    let at = (1..parts.len()).find(|at| is_number(*at).is_some())?;
    let (number, upload) = (is_number(at)?, is_number(at + 1)?);
    let late = at > 1 && parts[at - 1] == "LATE";
    let name = parts[..at - usize::from(late)].join("_");
    let file = parts.get(at + 2..)?.join("_");
    let is_whole = !name.is_empty() && file.contains('.') && !file.starts_with('.');
    Some(Upload {
        name,
        number: number.to_owned(),
        anonymous: false,
        upload: upload.parse().ok()?,
        late,
        file: without_count(&file),
        source: source.to_owned(),
    })
    .filter(|_| is_whole)
}

/// `anon`, a code of five letters and digits, the number of the upload, the file.
fn read_anonymous(source: &str) -> Option<Upload> {
    let rest = source.strip_prefix("LATE_");
    let late = rest.is_some();
    let mut parts = rest.unwrap_or(source).strip_prefix("anon_")?.splitn(3, '_');
    let (code, upload, file) = (parts.next()?, parts.next()?, parts.next()?);
    let is_code = code.len() == 5 && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let is_whole = is_code && file.contains('.') && !file.starts_with('.');
    let is_number = upload.bytes().all(|byte| byte.is_ascii_digit());
    Some(Upload {
        name: "anon".to_owned(),
        number: code.to_owned(),
        anonymous: true,
        upload: upload.parse().ok().filter(|_| is_number)?,
        late,
        file: without_count(file),
        source: source.to_owned(),
    })
    .filter(|_| is_whole)
}

/// `quantize-1.rs` is the `quantize.rs` that was uploaded after another.
fn without_count(file: &str) -> String {
    let Some((stem, kind)) = file.rsplit_once('.') else {
        return file.to_owned();
    };
    match stem.rsplit_once('-') {
        Some((stem, count))
            if !stem.is_empty()
                && !count.is_empty()
                && count.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            format!("{stem}.{kind}")
        }
        _ => file.to_owned(),
    }
}

impl Upload {
    fn is(&self, kinds: &[&str]) -> bool {
        let kind = self.file.rsplit_once('.').map_or("", |(_, kind)| kind);
        kinds.iter().any(|one| kind.eq_ignore_ascii_case(one))
    }
}

/// One submission of all files of a student: the zip file uploaded last, or else the loose files, the newest of each name. Its id does not depend on
/// what lies beside it.
pub(super) fn gather(mut uploads: Vec<Upload>) -> Option<Submission> {
    uploads.sort_by_key(|upload| upload.upload);
    let late = uploads.iter().any(|upload| upload.late);
    let newest = uploads.last()?.clone();
    let (mut zips, others): (Vec<Upload>, Vec<Upload>) =
        uploads.into_iter().partition(|upload| upload.is(&["zip"]));
    let (texts, unknown): (Vec<Upload>, Vec<Upload>) = others
        .into_iter()
        .partition(|upload| upload.is(&["rs", "md"]));
    let mut notes = Vec::new();
    let mut loose = Vec::new();
    let mut source = newest.source.clone();
    if let Some(zip) = zips.pop() {
        let others = [zips, texts, unknown].concat();
        if !others.is_empty() {
            notes.push(format!(
                "of several uploads {} was graded, the newest zip file; not {}",
                clean::line(&zip.source, 200),
                listed(&others)
            ));
        }
        source = zip.source;
    } else {
        // Capital letters are the file system's business: which of two is meant, the intake asks.
        let mut by_name: BTreeMap<String, Upload> = BTreeMap::new();
        let mut older = Vec::new();
        for upload in texts {
            older.extend(by_name.insert(upload.file.clone(), upload));
        }
        if !older.is_empty() {
            notes.push(format!(
                "of several uploads of a file the newest was graded; not {}",
                listed(&older)
            ));
        }
        if !unknown.is_empty() {
            let names: Vec<&str> = unknown.iter().map(|one| one.source.as_str()).collect();
            notes.push(unread(&names));
        }
        loose = by_name
            .into_values()
            .map(|upload| LooseFile {
                name: upload.file,
                source: PathBuf::from(upload.source),
            })
            .collect();
    }
    let path = PathBuf::from(&source);
    Some(Submission {
        id: names::id(&format!("{}_{}", newest.name, newest.number)),
        name: if newest.anonymous {
            clean::line(&format!("{} {}", newest.name, newest.number), 100)
        } else {
            clean::line(&newest.name, 100)
        },
        student_number: (!newest.anonymous).then_some(newest.number),
        late: Some(late),
        notes,
        loose,
        ..blank(&source, Origin::Canvas, &path)
    })
}

fn listed(uploads: &[Upload]) -> String {
    let names: Vec<&str> = uploads
        .iter()
        .map(|upload| upload.source.as_str())
        .collect();
    clean::line(&names.join(", "), 300)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_canvas_are_taken_apart() {
        let of = |source: &str| {
            let read = read(source).expect(source);
            (read.name, read.number, read.upload, read.late, read.file)
        };
        let expected =
            |name: &str, late, file: &str| (name.into(), "12345".into(), 67890, late, file.into());
        for (source, name, late, file) in [
            (
                "doejane_12345_67890_my_hw.zip",
                "doejane",
                false,
                "my_hw.zip",
            ),
            (
                "doejane_LATE_12345_67890_hw-1.zip",
                "doejane",
                true,
                "hw.zip",
            ),
            (
                "doejane_12345_67890_quantize-12.rs",
                "doejane",
                false,
                "quantize.rs",
            ),
            ("doejane_12345_67890_a-b.rs", "doejane", false, "a-b.rs"),
            ("doejane_12345_67890_1_2_x.rs", "doejane", false, "1_2_x.rs"),
            ("o_late_LATE_12345_67890_x.rs", "o_late", true, "x.rs"),
            ("müller_12345_67890_x.rs", "müller", false, "x.rs"),
        ] {
            assert_eq!(of(source), expected(name, late, file), "{source}");
        }
        for other in [
            "jane.rs",
            "jane_doe_1_x.rs",
            "_1_2_x.rs",
            "jane_1_2",
            "jane_1_2_",
            "jane_1_2_x",
            "jane_1_2_.rs",
            "jane_1a_2_x.rs",
            "jane_1_99999999999999999999999_x.rs",
            "a_b_c_d.rs",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    /// They were archives of somebody unknown: late ones were on time, and of two uploads both were graded.
    #[test]
    fn downloads_without_names_are_gathered_by_their_codes() {
        let kim = gathered(&[
            "LATE_anon_Ab3dE_70009_my_hw-1.zip",
            "LATE_anon_Ab3dE_70001_my_hw.zip",
        ]);
        assert_eq!(
            (kim.id.as_str(), kim.name.as_str()),
            ("anon_Ab3dE", "anon Ab3dE")
        );
        assert_eq!((kim.late, kim.student_number), (Some(true), None));
        assert!(kim.source.ends_with("LATE_anon_Ab3dE_70009_my_hw-1.zip"));
        assert!(kim.notes[0].contains("70001"));
        // A code of digits alone is nobody's number in the gradebook.
        let digits = gathered(&["anon_12345_70001_quantize.rs"]);
        assert_eq!(loose(&digits).len(), 1);
        assert_eq!((digits.late, digits.student_number), (Some(false), None));
        for other in [
            "anon_Ab3dE_x_hw.zip",
            "anon_Ab3dE_70001_hw",
            "anon_Ab3d_70001.zip",
        ] {
            assert_eq!(read_anonymous(other), None, "{other}");
        }
    }

    fn gathered(names: &[&str]) -> Submission {
        let uploads: Vec<Upload> = names.iter().map(|name| read(name).expect(name)).collect();
        gather(uploads).expect("a submission")
    }

    fn loose(submission: &Submission) -> Vec<(&str, &str)> {
        let files = submission.loose.iter();
        files
            .map(|file| (file.name.as_str(), file.source.to_str().expect("text")))
            .collect()
    }

    /// They were named, and never graded.
    #[test]
    fn loose_files_are_one_submission_the_newest_of_each_name() {
        let jane = gathered(&[
            "doejane_LATE_1001_70009_quantize-1.rs",
            "doejane_LATE_1001_70001_quantize.rs",
            "doejane_LATE_1001_70002_QUESTIONS.md",
            "doejane_LATE_1001_70003_plot.pdf",
        ]);
        assert_eq!((jane.id.as_str(), jane.late), ("doejane_1001", Some(true)));
        assert_eq!(
            loose(&jane),
            [
                ("QUESTIONS.md", "doejane_LATE_1001_70002_QUESTIONS.md"),
                ("quantize.rs", "doejane_LATE_1001_70009_quantize-1.rs"),
            ]
        );
        assert!(jane.notes[0].contains("not doejane_LATE_1001_70001_quantize.rs"));
        assert!(jane.notes[1].contains("plot.pdf") && jane.notes[1].contains("not read"));
    }

    #[test]
    fn a_zip_file_goes_before_loose_files_and_these_are_named() {
        let jane = gathered(&[
            "doejane_1001_70001_hw.zip",
            "doejane_1001_70002_QUESTIONS.md",
        ]);
        assert!(jane.loose.is_empty());
        assert!(jane.source.ends_with("doejane_1001_70001_hw.zip"));
        assert!(jane.notes[0].contains("QUESTIONS.md"));
    }
}
