//! What the catalogued mistakes answer to the questions of a run, so that a student is told whose values theirs are.
//!
//! The questions are drawn from the run's seed, so the answers recorded for students' machines do not help. All mistakes are compiled into one
//! copy of the reference (`tito::mistakes`), once for a version of the course; each is asked the checks of its own exercise, once for a seed.
//! They are ours and run outside of any cell.

use std::time::Duration;

use anyhow::Result;
use tinytorch_exam::{CheckRecord, ExamRecord, MistakeRecord, judge_check};
use tito::manifest::exercise_id;
use tito::mistakes::Mistake;
use tito::subject::Runner;
use tito::{dependencies, exam, mistakes};

use crate::course::{Course, HARNESS};

/// What a check may take; some mistakes are endless loops.
const PATIENCE: Duration = Duration::from_secs(2);

/// Enters what every catalogued mistake answers.
///
/// # Errors
///
/// An environment error if the mistakes do not compile or cannot be started.
pub fn enter(course: &Course, record: &mut ExamRecord) -> Result<()> {
    let catalogue = mistakes::load(&course.module)?;
    if catalogue.is_empty() {
        return Ok(());
    }
    // As for submissions: asked for without the harness, cargo would compile some crates once more, with other features.
    let mut dependencies = dependencies::build_with(&course.module, &[HARNESS])?;
    dependencies.externs.remove(&HARNESS.replace('-', "_"));
    let runners = mistakes::build_all(&course.module, &dependencies, &catalogue)?;
    let mut found = Vec::new();
    for (mistake, runner) in catalogue.iter().zip(&runners) {
        found.extend(wrong_answers(mistake, runner, record)?);
    }
    // The mistake that a check is there to name comes first: of two that answer alike it is the likelier one.
    found.sort_by_key(|(_, _, is_named)| !is_named);
    for (index, mistake, _) in found {
        record.checks[index].mistakes.push(mistake);
    }
    Ok(())
}

/// A mistake's wrong answers to the checks of its own exercise: check, answers, whether the check is there to name it.
fn wrong_answers(
    mistake: &Mistake,
    runner: &Runner,
    record: &ExamRecord,
) -> Result<Vec<(usize, MistakeRecord, bool)>> {
    let exercise = exercise_id(&mistake.hole);
    let concerned: Vec<(usize, &CheckRecord)> = record
        .checks
        .iter()
        .enumerate()
        .filter(|(_, check)| check.exercise == exercise || check.id == mistake.caught_by)
        .collect();
    let checks: Vec<&CheckRecord> = concerned.iter().map(|(_, check)| *check).collect();
    let answered = exam::run_all(runner, &checks, PATIENCE)?;
    let mut answers = Vec::new();
    for ((index, check), answer) in concerned.into_iter().zip(answered) {
        // One that does not get to the end, or does not know the instructor's own checks, has nothing to compare with.
        let is_whole = answer.stopped.is_none() && answer.replies.len() == check.cases.len();
        if !is_whole || judge_check(check, &answer.replies).passed {
            continue;
        }
        let mistake_record = mistake.record(answer.replies);
        answers.push((index, mistake_record, check.id == mistake.caught_by));
    }
    Ok(answers)
}
