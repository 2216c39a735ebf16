//! What came of a submission.

use serde::{Deserialize, Serialize};
use tinytorch_exam::{Difference, Visibility};

use super::{Receipt, Submission};

/// `RESULTS/students/<id>.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubmissionResult {
    /// [`super::FORMAT`].
    pub format: u32,
    /// `15_quantization`.
    pub module: String,
    /// Who, and which files.
    pub submission: Submission,
    /// How grading ended.
    pub status: Status,
    /// Why, where the status or the points need a reason: a sentence each, for the student.
    pub reasons: Vec<String>,
    /// Points without bonus.
    pub points: f64,
    /// Points to be had without bonus.
    pub of: u32,
    /// Bonus points.
    pub bonus: f64,
    /// Bonus points to be had.
    pub bonus_of: u32,
    /// In the order of the lesson.
    pub exercises: Vec<ExerciseResult>,
    /// What the source policy noticed.
    pub findings: Vec<Finding>,
    /// What had to be replaced by the course's stub so that the rest could be graded.
    pub replaced: Vec<Replaced>,
    /// The compiler's errors.
    pub compile_errors: Vec<CompileError>,
    /// True if staff should look before the grade is published.
    pub needs_human: bool,
    /// Hashes of all that the grade depends on; `None` if nothing could be graded.
    pub receipt: Option<Receipt>,
    /// Seconds of wall time it took.
    pub seconds: f64,
    /// SHA-256 over the rest as it was written, so that what is changed afterwards is noticed; see [`crate::seal`].
    #[serde(default)]
    pub seal: String,
}

/// How grading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Every check was asked.
    Graded,
    /// Nothing in it could be graded; no points. The reasons say why.
    Refused,
    /// The grader or the machine failed, not the student: to be graded again.
    Fault,
}

/// What an exercise earned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExerciseResult {
    /// `15.3`.
    pub id: String,
    /// For people.
    pub title: String,
    /// Earned.
    pub points: f64,
    /// To be had.
    pub of: u32,
    /// Counted beside the hundred.
    pub bonus: bool,
    /// In the order of the exam.
    pub checks: Vec<CheckResult>,
}

/// What came of one check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckResult {
    /// `15.3/ties-to-even`.
    pub id: String,
    /// Share of the exercise's points.
    pub weight: u32,
    /// Who may see its cases.
    pub visibility: Visibility,
    /// How it ended.
    pub outcome: Outcome,
    /// One sentence for the student; reveals neither inputs nor expected values.
    pub message: String,
    /// What is wrong in the values, for staff.
    pub difference: Option<Difference>,
    /// The note of the case that failed, for staff.
    pub case: Option<String>,
    /// The catalogued mistake that answers exactly so.
    pub misconception: Option<Misconception>,
    /// SHA-256 over a wrong answer, so that equal wrong answers of several students can be found.
    pub answer: Option<String>,
    /// What the submission printed.
    pub printed: Option<String>,
    /// Milliseconds by the clock, less what it waited for a processor.
    pub milliseconds: u64,
}

impl CheckResult {
    /// True if it earned its weight.
    pub fn passed(&self) -> bool {
        self.outcome == Outcome::Passed
    }

    /// The same without what would reveal a hidden check's inputs and expected values. Its time would: code can wait as long as an input says.
    pub fn for_student(&self) -> Self {
        let mut shown = self.clone();
        if self.visibility == Visibility::Hidden {
            shown.difference = None;
            shown.case = None;
            shown.printed = None;
            shown.answer = None;
            shown.milliseconds = 0;
        }
        shown
    }
}

/// How a check ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every case was answered rightly.
    Passed,
    /// Values came, and they are wrong.
    WrongValues,
    /// An error came where values were due, or the other way round.
    WrongOutcome,
    /// It panicked.
    Panicked,
    /// It ran into a hole that is not filled in: `15.6b`.
    Unfinished(String),
    /// It did not end in time.
    TimedOut,
    /// The process ended without answering: exit, abort, stack overflow, out of memory, stopped by the sandbox.
    Died,
    /// What came back is no answer.
    Malformed,
}

/// A catalogued mistake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Misconception {
    /// Completes "your values are those of ...".
    pub title: String,
    /// What it does and why that matters.
    pub explanation: String,
}

/// Something the source policy noticed. No points are lost by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// `quantize.rs`.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1.
    pub column: usize,
    /// The word that was noticed.
    pub word: String,
    /// Why it has no place in an exercise, for the student.
    pub message: String,
    /// True if staff should look.
    pub needs_human: bool,
}

/// A part of a submission that the course's stub stands in for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    /// `quantize.rs`.
    pub file: String,
    /// `15.6b`; `None` if the whole file is the stub's.
    pub hole: Option<String>,
    /// Why, for the student.
    pub why: String,
}

/// One of the compiler's errors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompileError {
    /// `E0308`, where it has a number.
    pub code: Option<String>,
    /// The first line.
    pub message: String,
    /// `quantize.rs`, where it is known.
    pub file: Option<String>,
    /// From 1, in the file as handed in.
    pub line: Option<usize>,
}
