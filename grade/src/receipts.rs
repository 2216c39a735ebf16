//! What a grade depends on, hashed; and what a difference between two receipts means.

use tito::snapshot::hash;

use crate::course::Course;
use crate::model::{Layers, Options, Plan, Receipt, Submission, SubmissionResult};
use crate::questions::Questions;

/// Everything a grade depends on but the submission.
#[derive(Clone, Debug, PartialEq)]
pub struct Basis {
    course: String,
    exam: String,
    toolchain: String,
    grader: String,
    seed: u64,
    limits: String,
    layers: Layers,
}

impl Basis {
    /// Of a plan, on this machine.
    pub fn new(course: &Course, plan: &Plan, layers: &Layers) -> Basis {
        Basis {
            course: course.course_hash.clone(),
            exam: course.exam_hash.clone(),
            toolchain: plan.toolchain.clone(),
            grader: course.grader_hash.clone(),
            seed: plan.seed,
            limits: limits(&plan.options),
            layers: layers.clone(),
        }
    }

    /// True if a result with this receipt would come out again: nothing it depends on has changed.
    pub fn is_current(&self, receipt: &Receipt, submission: &str) -> bool {
        receipt.submission == submission
            && receipt.course == self.course
            && receipt.exam == self.exam
            && receipt.toolchain == self.toolchain
            && receipt.grader == self.grader
            && receipt.seed == self.seed
            && receipt.limits == self.limits
            && receipt.layers == self.layers
    }
}

fn limits(options: &Options) -> String {
    let mut parts = format!(
        "{} {} {}",
        options.check_ms, options.compile_ms, options.memory_bytes
    );
    if options.strict_kernels {
        parts += " strict kernels";
    }
    hash(parts.as_bytes())
}

/// The hash of what was handed in: names, contents, and what was missing or refused.
pub fn submission_hash(submission: &Submission) -> String {
    let lines: Vec<String> = submission
        .files
        .iter()
        .map(|file| format!("{} {}", file.sha256, file.name))
        .chain(
            submission
                .refused
                .iter()
                .map(|one| format!("refused {}", one.path)),
        )
        .collect();
    hash(lines.join("\n").as_bytes())
}

/// The hash of what came out: how it ended, and for every check its weight and whether it was passed. The points follow from these.
pub fn outcome(result: &SubmissionResult) -> String {
    let mut lines = vec![format!("{:?}", result.status)];
    for exercise in &result.exercises {
        lines.push(format!(
            "{} of {} {}",
            exercise.id, exercise.of, exercise.bonus
        ));
        let checks = exercise.checks.iter();
        lines.extend(
            checks.map(|check| format!("{} {} {}", check.id, check.weight, check.passed())),
        );
    }
    hash(lines.join("\n").as_bytes())
}

/// The receipt of a graded submission.
pub fn receipt(basis: &Basis, questions: &Questions, result: &SubmissionResult) -> Receipt {
    Receipt {
        submission: submission_hash(&result.submission),
        course: basis.course.clone(),
        exam: basis.exam.clone(),
        judges: questions.judges_hash.clone(),
        cases: questions.cases_hash.clone(),
        toolchain: basis.toolchain.clone(),
        grader: basis.grader.clone(),
        seed: basis.seed,
        limits: basis.limits.clone(),
        outcome: outcome(result),
        layers: basis.layers.clone(),
    }
}

/// What differs between two receipts, as sentences; the first is what most likely changed the grade.
pub fn differences(a: &Receipt, b: &Receipt) -> Vec<&'static str> {
    let pairs = [
        (
            a.submission != b.submission,
            "the code: other files were handed in",
        ),
        (
            a.judges != b.judges,
            "the tolerances: a check compares in another way, or has another weight",
        ),
        (
            a.exam != b.exam && a.judges == b.judges,
            "the exam: its checks were changed, the tolerances were not",
        ),
        (
            a.exam != b.exam && a.judges != b.judges,
            "the exam: its checks were changed",
        ),
        (
            a.course != b.course,
            "the course: the sources a submission is compiled or compared with were changed",
        ),
        (a.seed != b.seed, "the seed: other random inputs were asked"),
        (
            a.seed == b.seed && a.exam == b.exam && a.course == b.course && a.cases != b.cases,
            "the cases: the same exam and seed asked for something else, which should not be",
        ),
        (a.toolchain != b.toolchain, "the compiler"),
        (a.grader != b.grader, "the grader's own version"),
        (
            a.limits != b.limits,
            "the run's options: limits of time and memory, or whether finished kernels may be called",
        ),
        (a.layers != b.layers, "the walls around the submission"),
    ];
    pairs
        .into_iter()
        .filter_map(|(differs, what)| differs.then_some(what))
        .collect()
}
