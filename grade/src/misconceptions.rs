//! What the catalogued mistakes answer to the questions of a run, so that a student is told whose values theirs are.
//!
//! The questions are drawn from the run's seed, so the answers recorded for students' machines do not help. All mistakes are compiled into one
//! copy of the reference (`tito::mistakes`), once for a version of the course; each is asked the checks of its own exercise, once for a seed.
//! They are ours and run outside of any cell.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use tinytorch_exam::{CheckRecord, ExamRecord, MistakeRecord, judge_check};
use tito::dependencies::Dependencies;
use tito::manifest::exercise_id;
use tito::mistakes::Mistake;
use tito::subject::Runner;
use tito::{exam, mistakes};

use crate::course::{Course, HARNESS};

/// What a check may take; some mistakes are endless loops.
const PATIENCE: Duration = Duration::from_secs(2);

/// The mistakes of a module, compiled.
#[derive(Debug)]
pub struct Mistakes(Vec<(Mistake, Runner)>);

impl Mistakes {
    /// Compiles them, unless that was done before.
    ///
    /// # Errors
    ///
    /// An environment error if they do not compile.
    pub fn compile(course: &Course, dependencies: &Dependencies) -> Result<Mistakes> {
        let catalogue = mistakes::load(&course.module)?;
        if catalogue.is_empty() {
            return Ok(Mistakes(Vec::new()));
        }
        let mut dependencies = dependencies.clone();
        dependencies.externs.remove(&HARNESS.replace('-', "_"));
        let runners = mistakes::build_all(&course.module, &dependencies, &catalogue)?;
        Ok(Mistakes(catalogue.into_iter().zip(runners).collect()))
    }

    /// The reference with the course's own exam: the same program, which is no mistake unless it is told so. It stays as it is while this is held.
    pub fn reference(&self) -> Option<&Path> {
        self.0.first().map(|(_, runner)| runner.program.as_path())
    }

    /// Enters what every catalogued mistake answers.
    ///
    /// # Errors
    ///
    /// An environment error if one cannot be started.
    pub fn enter(&self, record: &mut ExamRecord) -> Result<()> {
        let mut found = Vec::new();
        for (mistake, runner) in &self.0 {
            found.extend(wrong_answers(mistake, runner, record)?);
        }
        // The mistake that a check is there to name comes first: of two that answer alike it is the likelier one.
        found.sort_by_key(|(_, _, is_named)| !is_named);
        for (index, mistake, _) in found {
            record.checks[index].mistakes.push(mistake);
        }
        Ok(())
    }
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
