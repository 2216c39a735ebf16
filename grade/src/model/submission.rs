//! Who handed in what.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One student's submission.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Submission {
    /// Names the result file: letters, digits, `-`, `_` and `.` only; unique in a run.
    pub id: String,
    /// The student's name as the source gives it; the id if it gives none.
    pub name: String,
    /// Mail address, where the source gives one.
    pub email: Option<String>,
    /// The number by which the learning platform knows the student (Canvas `ID`, Gradescope `SID`), where the source gives one.
    pub student_number: Option<String>,
    /// Other members of the group, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub group: Vec<String>,
    /// How it was handed in.
    pub origin: Origin,
    /// What staff should know of how it was handed in, a sentence each: another upload of the same student, a packing that is not read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Folder, archive or newest loose file, relative to the folder of submissions.
    pub source: PathBuf,
    /// Files handed in one by one, which lie beside `source`; none where that is a folder or an archive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loose: Vec<LooseFile>,
    /// When it was handed in, as the source writes it.
    pub submitted: Option<String>,
    /// Whether the platform marked it as late.
    pub late: Option<bool>,
    /// The exercise files that were taken, in the order of the manifest.
    #[serde(default)]
    pub files: Vec<SubmittedFile>,
    /// The written answers (`QUESTIONS.md`), if they were handed in as text.
    #[serde(default)]
    pub answers: Option<String>,
    /// Exercise files that were not handed in.
    #[serde(default)]
    pub missing: Vec<String>,
    /// What was there and was not taken, with the reason.
    #[serde(default)]
    pub refused: Vec<Refused>,
}

/// A file that was handed in by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LooseFile {
    /// As the student called it.
    pub name: String,
    /// Where it lies, relative to the folder of submissions.
    pub source: PathBuf,
}

/// Where a submission comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A folder named after the student.
    Folder,
    /// A zip file named after the student, such as a bundle of `tito submit`.
    Archive,
    /// A zip file, or loose files, as Canvas names downloads: `lastfirst_LATE_12345_67890_name.zip`.
    Canvas,
    /// A folder of a Gradescope export: `submission_12345` beside `submission_metadata.yml`.
    Gradescope,
}

/// An exercise file as handed in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubmittedFile {
    /// `quantize.rs`.
    pub name: String,
    /// Of the bytes handed in.
    pub sha256: String,
    /// Their number.
    pub bytes: u64,
}

/// Something that was handed in and not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Its path in the submission, cleaned for display.
    pub path: String,
    /// Why, as a sentence for the student.
    pub why: String,
    /// True if somebody should look: links, paths that climb, bombs. False for what is merely not asked for.
    pub suspicious: bool,
}
