//! What a student is told: as data, as Markdown, as a page.
//!
//! Of a hidden check they learn that it exists, which function it is about, why it matters, how it ended and, if the answer is that of a
//! catalogued mistake, which one. Neither the words of a panic (a submission could write the inputs into them) nor anything it printed, nor what was
//! tried, expected or got. That is decided here, in [`Feedback::of`], and nowhere else: every text is made from it.

use serde::Serialize;
use tinytorch_exam::Visibility;

use super::answers::Marks;
use super::book::{Book, Row, shares};
use super::late::Lateness;
use crate::model::{CompileError, Misconception, Outcome, Status};

/// A student's grade, explained.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Feedback {
    /// `15_quantization`.
    pub module: String,
    /// The module's title.
    pub title: String,
    /// The student.
    pub name: String,
    /// Names the submission.
    pub id: String,
    /// The grade; nothing while it is not known.
    pub total: Option<f64>,
    /// Points to be had.
    pub of: f64,
    /// Points before lateness.
    pub earned: f64,
    /// What lateness took, in percent, with the days.
    pub late: Option<Late>,
    /// Sentences about the whole.
    pub notes: Vec<String>,
    /// The compiler's errors.
    pub compile_errors: Vec<CompileError>,
    /// Places a person may ask about: file, line and why.
    pub noticed: Vec<String>,
    /// In the order of the lesson.
    pub exercises: Vec<Exercise>,
    /// The written answers.
    pub answers: Vec<Answer>,
    /// SHA-256 of what was handed in, so that it is clear what was graded.
    pub submission: Option<String>,
}

/// Lateness, for the student.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Late {
    /// Days begun after the deadline.
    pub days: u32,
    /// Of these, free ones.
    pub free_days: u32,
    /// Percent taken.
    pub percent: f64,
}

/// An exercise.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Exercise {
    /// `15.3`.
    pub id: String,
    /// For people.
    pub title: String,
    /// Earned.
    pub points: f64,
    /// To be had.
    pub of: f64,
    /// Beside the hundred.
    pub bonus: bool,
    /// In the order of the exam.
    pub checks: Vec<Check>,
}

/// A check.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// `15.3/ties-to-even`.
    pub id: String,
    /// Its cases are not shown.
    pub hidden: bool,
    /// It earned its points.
    pub passed: bool,
    /// Earned.
    pub points: f64,
    /// To be had.
    pub of: f64,
    /// What was tried; not of a hidden one.
    pub what: Option<String>,
    /// Why it matters.
    pub why: String,
    /// The function to look at.
    pub item: String,
    /// How it ended, if it failed.
    pub message: Option<String>,
    /// Whose answer it is.
    pub misconception: Option<Misconception>,
}

/// A written answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// The question.
    pub number: u32,
    /// The question.
    pub title: String,
    /// Given; nothing while it is not marked.
    pub points: Option<f64>,
    /// To be had.
    pub of: f64,
    /// Whoever marked it says.
    pub comment: String,
}

impl Feedback {
    /// Of one student.
    pub fn of(book: &Book, row: &Row, marks: Option<&Marks>) -> Feedback {
        let plan = &book.plan;
        let result = row.result.as_ref();
        let mut notes = row.lateness.notes.clone();
        notes.extend(
            result
                .map(|result| result.reasons.clone())
                .unwrap_or_default(),
        );
        match result.map(|result| result.status) {
            None | Some(Status::Fault) => notes.push("This submission is not graded yet.".into()),
            Some(Status::Refused) => {
                notes.push("Nothing in this submission could be graded.".into())
            }
            Some(Status::Graded) => {}
        }
        let names = |replaced: &crate::model::Replaced| match &replaced.hole {
            Some(hole) => format!(
                "{}, {hole}: the empty exercise was graded instead: {}",
                replaced.file, replaced.why
            ),
            None => format!(
                "{}: the empty file was graded instead: {}",
                replaced.file, replaced.why
            ),
        };
        notes.extend(
            result
                .into_iter()
                .flat_map(|result| result.replaced.iter().map(names)),
        );
        // Where nothing could be taken, that was said already.
        let is_refused = result.is_some_and(|result| result.status == Status::Refused);
        let missing = row.submission.missing.iter().filter(|_| !is_refused);
        notes.extend(missing.map(|file| format!("{file} was not handed in.")));
        let refused = row.submission.refused.iter().filter(|_| !is_refused);
        notes.extend(
            refused.map(|refused| format!("{} was not taken: {}", refused.path, refused.why)),
        );
        let noticed = result.into_iter().flat_map(|result| &result.findings);
        let noticed = noticed
            .map(|finding| {
                format!(
                    "{}:{}:{}: `{}`: {}",
                    finding.file, finding.line, finding.column, finding.word, finding.message
                )
            })
            .collect();
        let answers = marks
            .map(|marks| marks.of_student(&row.submission.id))
            .unwrap_or_default();
        Feedback {
            module: plan.module.clone(),
            title: plan.title.clone(),
            name: row.submission.name.clone(),
            id: row.submission.id.clone(),
            total: row.total,
            of: book.of(),
            earned: row.earned,
            late: late(&row.lateness),
            notes,
            compile_errors: result
                .map(|result| result.compile_errors.clone())
                .unwrap_or_default(),
            noticed,
            exercises: exercises(book, row),
            answers: answers
                .into_iter()
                .map(|(question, mark)| Answer {
                    number: question.number,
                    title: question.title.clone(),
                    points: mark.map(|mark| mark.points),
                    of: question.of(),
                    comment: mark.map_or(String::new(), |mark| mark.comment.clone()),
                })
                .collect(),
            submission: result.and_then(|result| Some(result.receipt.as_ref()?.submission.clone())),
        }
    }
}

fn late(lateness: &Lateness) -> Option<Late> {
    (lateness.days > 0).then_some(Late {
        days: lateness.days,
        free_days: lateness.free_days,
        percent: lateness.percent,
    })
}

fn exercises(book: &Book, row: &Row) -> Vec<Exercise> {
    let Some(result) = &row.result else {
        return Vec::new();
    };
    let mut exercises: Vec<Exercise> = result
        .exercises
        .iter()
        .map(|exercise| Exercise {
            id: exercise.id.clone(),
            title: exercise.title.clone(),
            points: exercise.points,
            of: f64::from(exercise.of),
            bonus: exercise.bonus,
            checks: Vec::new(),
        })
        .collect();
    for share in shares(result) {
        let Some(exercise) = exercises.iter_mut().find(|one| one.id == share.exercise.id) else {
            continue;
        };
        let check = share.check;
        let hidden = check.visibility == Visibility::Hidden;
        let info = book.plan.checks.iter().find(|info| info.id == check.id);
        exercise.checks.push(Check {
            id: check.id.clone(),
            hidden,
            passed: check.passed(),
            points: share.points,
            of: share.of,
            what: info.filter(|_| !hidden).map(|info| info.what.clone()),
            why: info.map(|info| info.why.clone()).unwrap_or_default(),
            item: info.map(|info| info.item.clone()).unwrap_or_default(),
            message: (!check.passed()).then(|| {
                if hidden {
                    ending(&check.outcome)
                } else {
                    check.message.clone()
                }
            }),
            misconception: check.misconception.clone(),
        });
    }
    exercises
}

/// How a check ended, in words that no submission can choose.
fn ending(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Passed => "right".into(),
        Outcome::WrongValues => "the values are wrong".into(),
        Outcome::WrongOutcome => {
            "an error where values were due, or values where an error was due".into()
        }
        Outcome::Panicked => "it panicked".into(),
        Outcome::Unfinished(_) => "it ran into an exercise that is not written".into(),
        Outcome::TimedOut => "it did not end in time".into(),
        Outcome::Died => "the program ended without an answer".into(),
        Outcome::Malformed => "what came back is no answer".into(),
    }
}
