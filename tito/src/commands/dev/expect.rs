//! `tito dev expect`: asks the reference and every catalogued mistake, and records their answers for the students' machines.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;
use tinytorch_exam::{CheckRecord, ExamRecord, MistakeRecord, Reply, judge_check};

use crate::commands::Context;
use crate::dependencies::{self, Dependencies};
use crate::exam;
use crate::failure::{Failure, Outcome};
use crate::lock::Lock;
use crate::manifest::exercise_id;
use crate::mistakes::{self, Mistake};
use crate::parallel;
use crate::process;
use crate::snapshot::Change;
use crate::subject::Runner;
use crate::ui::{self, GOOD, paint};
use crate::workspace::Module;

/// Longest a whole record or a check of ours may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Writes `public.json` of every written module, or with `check` only says whether it is up to date.
///
/// # Errors
///
/// An environment error if something does not compile or the exam cannot be asked.
pub fn run(context: &Context, check: bool) -> Result<Outcome> {
    let mut changes = Vec::new();
    for entry in context.workspace.written() {
        let module = context.workspace.load(entry)?;
        let dependencies = dependencies::build(&module)?;
        let text = public(&module, &Proven::build(&module, &dependencies)?)?;
        let path = format!("{}/public.json", module.manifest.exam);
        let now = std::fs::read(module.root.join(&path)).unwrap_or_default();
        if now != text.as_bytes() {
            changes.push(Change {
                path,
                content: Some(text.into_bytes()),
            });
        }
    }
    let paths: Vec<String> = changes.iter().map(|change| change.path.clone()).collect();
    if !check {
        let lock = Lock::take(&context.workspace.state())?;
        context.store.apply(&lock, "dev expect", &changes)?;
    }
    if context.json {
        ui::print_json(&json!({ "check": check, "differ": paths }));
    } else if paths.is_empty() {
        ui::say(paint(GOOD, "the recorded exams are up to date"));
    } else {
        for path in &paths {
            let verb = if check { "is out of date" } else { "written" };
            ui::say(format!("{path} {verb}"));
        }
    }
    if check && !paths.is_empty() {
        ui::note(format!("record them: {}", ui::advice("dev expect")));
        return Ok(Outcome::WorkLeft);
    }
    Ok(Outcome::Good)
}

/// The reference and the catalogue, compiled.
pub struct Proven {
    /// The reference.
    pub reference: Runner,
    /// Every wrong solution.
    pub mistakes: Vec<(Mistake, Runner)>,
}

impl Proven {
    /// Compiles all of it.
    ///
    /// # Errors
    ///
    /// An environment error if something does not compile.
    pub fn build(module: &Module, dependencies: &Dependencies) -> Result<Proven> {
        let reference = mistakes::build_reference(module, dependencies)?;
        let catalogue = mistakes::load(module)?;
        let runners = mistakes::build_all(module, dependencies, &catalogue)?;
        Ok(Proven {
            reference,
            mistakes: catalogue.into_iter().zip(runners).collect(),
        })
    }
}

/// What `public.json` should hold: one line per check, so that a change is seen where it is.
///
/// # Errors
///
/// As for [`run`].
pub fn public(module: &Module, proven: &Proven) -> Result<String> {
    let seed = u64::from(module.manifest.number);
    let mut record = ask(&proven.reference, seed, "public")?;
    let answers = parallel::map(&proven.mistakes, |(mistake, runner)| {
        answers_of(mistake, runner, &record)
    });
    let answers: Vec<_> = answers.into_iter().collect::<Result<_>>()?;
    for (index, check) in record.checks.iter_mut().enumerate() {
        let mut own = Vec::new();
        let mut others = Vec::new();
        for (_, mistake, is_named) in answers
            .iter()
            .flatten()
            .filter(|(check, _, _)| *check == index)
        {
            let list = if *is_named { &mut own } else { &mut others };
            list.push(mistake.clone());
        }
        own.append(&mut others);
        check.mistakes = own;
    }
    to_lines(&record)
}

/// Asks a runner for a whole record.
///
/// # Errors
///
/// An environment error if it cannot give one.
pub fn ask(runner: &Runner, seed: u64, visibility: &str) -> Result<ExamRecord> {
    let wrong = runner.wrong.as_deref().unwrap_or("none");
    let reply = runner
        .scratch
        .join(format!("record-{}-{wrong}", std::process::id()));
    let mut command = runner.command();
    command
        .args(["expect", "--seed", &seed.to_string()])
        .args(["--visibility", visibility])
        .arg("--reply")
        .arg(&reply);
    let finished = process::run(&mut command, Vec::new(), PATIENCE)
        .with_context(|| format!("cannot run {}", runner.program.display()))?;
    let text = std::fs::read(&reply);
    let _ = std::fs::remove_file(&reply);
    if !finished.status.is_some_and(|status| status.success()) {
        return Err(Failure::environment(format!(
            "{} did not answer the exam: {}",
            runner.program.display(),
            finished.stderr.text.trim()
        ))
        .into());
    }
    let text = text.with_context(|| format!("cannot read {}", reply.display()))?;
    let record: ExamRecord = serde_json::from_slice(&text)
        .with_context(|| format!("{} is no record", reply.display()))?;
    Ok(record)
}

/// A runner's replies to every check of a record, in order; `None` where it did not get to the end.
///
/// One process answers everything. If that fails (a wrong solution may loop or abort) each check gets its own.
///
/// # Errors
///
/// An environment error if a process cannot be started.
pub fn replies(
    runner: &Runner,
    record: &ExamRecord,
    visibility: &str,
) -> Result<Vec<Option<Vec<Reply>>>> {
    if let Ok(answered) = ask(runner, record.seed, visibility) {
        let is_same = |a: &CheckRecord, b: &CheckRecord| {
            a.id == b.id
                && a.cases.len() == b.cases.len()
                && a.cases.iter().zip(&b.cases).all(|(a, b)| a.case == b.case)
        };
        let mut pairs = answered.checks.iter().zip(&record.checks);
        if answered.checks.len() == record.checks.len() && pairs.all(|(a, b)| is_same(a, b)) {
            let replies_of = |check: CheckRecord| {
                Some(check.cases.into_iter().map(|case| case.expected).collect())
            };
            return Ok(answered.checks.into_iter().map(replies_of).collect());
        }
    }
    let checks: Vec<&CheckRecord> = record.checks.iter().collect();
    let results = exam::run_all(runner, &checks, PATIENCE)?;
    Ok(results
        .into_iter()
        .map(|checked| checked.stopped.is_none().then_some(checked.replies))
        .collect())
}

/// A mistake's wrong answers to the checks of its own exercise: check, answers, whether the check names the mistake.
fn answers_of(
    mistake: &Mistake,
    runner: &Runner,
    record: &ExamRecord,
) -> Result<Vec<(usize, MistakeRecord, bool)>> {
    let exercise = exercise_id(&mistake.hole);
    let mut answers = Vec::new();
    let replies = replies(runner, record, "public")?;
    for (index, (check, replies)) in record.checks.iter().zip(replies).enumerate() {
        let is_named = check.id == mistake.caught_by;
        // Without all replies there is nothing to compare a student's with.
        let (true, Some(replies)) = (check.exercise == exercise || is_named, replies) else {
            continue;
        };
        if judge_check(check, &replies).passed {
            continue;
        }
        let answer = mistake.record(replies);
        answers.push((index, answer, is_named));
    }
    Ok(answers)
}

/// A record as its file holds it: a line per check.
///
/// # Errors
///
/// None in practice.
pub fn to_lines(record: &ExamRecord) -> Result<String> {
    let mut checks = Vec::new();
    for check in &record.checks {
        checks.push(serde_json::to_string(check)?);
    }
    Ok(format!(
        "{{\"module\":{},\"seed\":{},\"checks\":[\n{}\n]}}\n",
        serde_json::to_string(&record.module)?,
        record.seed,
        checks.join(",\n")
    ))
}
