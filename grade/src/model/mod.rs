//! What the grader knows and says, as data: every report, every merge and every regrade works on these types alone.
//!
//! ```text
//! Plan                 one per run: what is asked of whom, with which seed
//!  └─ Submission       one per student: who, and the files that were taken
//!      └─ SubmissionResult      RESULTS/students/<id>.json, written beside and renamed
//!          ├─ ExerciseResult    points
//!          │   └─ CheckResult   one question and what came of it
//!          ├─ Finding, Replaced, CompileError
//!          └─ Receipt           hashes of all that the grade depends on, and the layers that were active
//! ```
//!
//! Every file begins with [`FORMAT`]; a reader refuses what is newer than itself. Fields are only ever added, with a default.
//!
//! What a student may see: everything but [`CheckResult::difference`], [`CheckResult::case`] and [`CheckResult::printed`] of a hidden
//! check (see [`CheckResult::for_student`]). Every text that began in a submission has passed [`crate::clean`]: one kind of line break, no
//! control characters, bounded length. It is not escaped for HTML, Markdown or spreadsheets: that is the report's business.

mod plan;
mod receipt;
mod result;
mod submission;

pub use plan::{CheckInfo, ExerciseInfo, Isolation, Options, Plan};
pub use receipt::{Layer, Layers, Receipt};
pub use result::{
    CheckResult, CompileError, ExerciseResult, Finding, Misconception, Outcome, Replaced, Status,
    SubmissionResult,
};
pub use submission::{LooseFile, Origin, Refused, Submission, SubmittedFile};

/// Version of the files; see the head of this module.
pub const FORMAT: u32 = 1;
