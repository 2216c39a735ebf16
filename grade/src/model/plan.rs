//! What a run asks, of whom, and with which random numbers: enough to repeat it elsewhere.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tinytorch_exam::Visibility;

use super::Submission;

/// `RESULTS/plan.json`: written once, before the first submission is graded; a resumed run reads it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// [`super::FORMAT`].
    pub format: u32,
    /// Seconds since 1970.
    pub created: u64,
    /// `15_quantization`.
    pub module: String,
    /// The module's title.
    pub title: String,
    /// SHA-256 over the course's sources that a submission is compiled with.
    pub course: String,
    /// SHA-256 over the exam's sources, hidden checks included.
    pub exam: String,
    /// SHA-256 over what `rustc -vV` says.
    pub toolchain: String,
    /// All cases are drawn from it.
    pub seed: u64,
    /// What was wished.
    pub options: Options,
    /// The folder the submissions were found in, absolute.
    pub submissions_folder: PathBuf,
    /// In the order of the lesson.
    pub exercises: Vec<ExerciseInfo>,
    /// In the order of the exam.
    pub checks: Vec<CheckInfo>,
    /// In the order of their ids. Their files are not listed yet: they are read when their turn comes.
    pub submissions: Vec<Submission>,
}

/// What was wished for a run, as far as it can change a grade.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// The instructor's own hidden checks, outside the course; absolute.
    pub hidden: Option<PathBuf>,
    /// How much isolation is demanded.
    pub require_isolation: Isolation,
    /// Milliseconds of wall time a check may take.
    pub check_ms: u64,
    /// Milliseconds of processor time a call of the compiler may take.
    pub compile_ms: u64,
    /// Bytes of address space a check may take.
    pub memory_bytes: u64,
    /// An exercise that calls the library's finished kernels is graded as if it were not written.
    #[serde(default)]
    pub strict_kernels: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            hidden: None,
            require_isolation: Isolation::Reduced,
            check_ms: 4_000,
            compile_ms: 30_000,
            memory_bytes: 1 << 30,
            strict_kernels: false,
        }
    }
}

/// How well submissions are kept apart from everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// Some layer that this kernel could have is missing.
    Reduced,
    /// Every layer that grading is designed with.
    Full,
}

/// An exercise, as reports name it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExerciseInfo {
    /// `15.3`.
    pub id: String,
    /// For people.
    pub title: String,
    /// The student's file with its holes.
    pub file: String,
    /// Its worth.
    pub points: u32,
    /// Counted beside the hundred.
    pub bonus: bool,
}

/// A check, as reports name it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckInfo {
    /// `15.3/ties-to-even`.
    pub id: String,
    /// `15.3`.
    pub exercise: String,
    /// Share of the exercise's points.
    pub weight: u32,
    /// Who may see its cases.
    pub visibility: Visibility,
    /// What is tried.
    pub what: String,
    /// Why it matters.
    pub why: String,
    /// The function or type to look at.
    pub item: String,
}
