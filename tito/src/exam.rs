//! Puts the exam's questions to a subject: one process per check, values out, verdict here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use tinytorch_exam::{
    CheckRecord, CheckVerdict, ExamRecord, MistakeRecord, Reply, Request, judge_check,
    read_replies, score,
};

use crate::failure::Failure;
use crate::manifest::Exercise;
use crate::process::{self, Captured};
use crate::sealed;
use crate::snapshot::hash;
use crate::subject::Runner;
use crate::workspace::Module;

/// What came of one check.
#[derive(Clone, Debug)]
pub struct Checked<'a> {
    /// The question.
    pub record: &'a CheckRecord,
    /// The judgement.
    pub verdict: CheckVerdict,
    /// The mistake that the replies opened, in a student's repository.
    pub unsealed: Option<MistakeRecord>,
    /// The replies, as many as came.
    pub replies: Vec<Reply>,
    /// Why there are not as many replies as cases.
    pub stopped: Option<Stopped>,
    /// The hole that the failed case ran into, if it is not filled in yet.
    pub waits_for: Option<String>,
    /// What the subject printed.
    pub printed: Captured,
}

impl Checked<'_> {
    /// The catalogued mistake that answers exactly so.
    pub fn mistake(&self) -> Option<&MistakeRecord> {
        match self.verdict.mistake {
            Some(number) => self.record.mistakes.get(number),
            None => self.unsealed.as_ref(),
        }
    }
}

/// A process that did not get to the end.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stopped {
    /// It ran longer than this many seconds.
    TimedOut(f64),
    /// It ended by itself, without all replies.
    Died(String),
}

/// One exercise's checks and points.
#[derive(Clone, Debug)]
pub struct Graded<'a> {
    /// The exercise.
    pub exercise: &'a Exercise,
    /// Its checks, in the order of the exam.
    pub checks: Vec<Checked<'a>>,
    /// What they earned.
    pub points: f64,
}

impl Graded<'_> {
    /// Checks that passed.
    pub fn passed(&self) -> usize {
        let checks = self.checks.iter();
        checks.filter(|checked| checked.verdict.passed).count()
    }

    /// True if every check passed.
    pub fn is_full(&self) -> bool {
        self.passed() == self.checks.len()
    }

    /// Whether a check failed although the code it needs is written: a wrong answer, not a missing one.
    pub fn fails_where_written(&self) -> bool {
        let mut checks = self.checks.iter();
        checks.any(|checked| !checked.verdict.passed && checked.waits_for.is_none())
    }
}

/// Reads the recorded public exam of a module.
///
/// # Errors
///
/// An environment error if it is missing, damaged, or has no check for an exercise.
pub fn load(module: &Module) -> Result<ExamRecord> {
    let shown = format!("{}/public.json", module.manifest.exam);
    let text = std::fs::read(module.root.join(&shown))
        .map_err(|error| Failure::environment(format!("cannot read {shown}: {error}")))?;
    let record: ExamRecord = serde_json::from_slice(&text)
        .map_err(|error| Failure::environment(format!("{shown} is damaged: {error}")))?;
    for exercise in &module.manifest.exercises {
        if !record
            .checks
            .iter()
            .any(|check| check.exercise == exercise.id)
        {
            return Err(Failure::environment(format!(
                "{shown} has no check for exercise {}",
                exercise.id
            ))
            .into());
        }
    }
    Ok(record)
}

/// Runs the checks of the exercises given, several at a time, and counts the points.
///
/// # Errors
///
/// An environment error if a process cannot be started.
pub fn grade<'a>(
    runner: &Runner,
    record: &'a ExamRecord,
    exercises: &[&'a Exercise],
    limit: Duration,
) -> Result<Vec<Graded<'a>>> {
    let checks: Vec<&CheckRecord> = record
        .checks
        .iter()
        .filter(|check| {
            exercises
                .iter()
                .any(|exercise| exercise.id == check.exercise)
        })
        .collect();
    let mut by_exercise: BTreeMap<&str, Vec<Checked<'a>>> = BTreeMap::new();
    // One endless loop costs one long wait: what is asked of that exercise after it gets less, which still is plenty for an answer.
    let timed_out = Mutex::new(BTreeSet::new());
    let results = crate::parallel::map(&checks, |check| {
        let is_known = || {
            timed_out
                .lock()
                .is_ok_and(|all| all.contains(&check.exercise))
        };
        let limit = if is_known() { shortened(limit) } else { limit };
        let checked = run_check(runner, check, limit)?;
        if let (Some(Stopped::TimedOut(_)), Ok(mut all)) = (&checked.stopped, timed_out.lock()) {
            all.insert(&check.exercise);
        }
        Ok(checked)
    });
    for checked in results.into_iter().collect::<Result<Vec<_>>>()? {
        by_exercise
            .entry(&checked.record.exercise)
            .or_default()
            .push(checked);
    }
    Ok(exercises
        .iter()
        .map(|exercise| {
            let checks = by_exercise.remove(exercise.id.as_str()).unwrap_or_default();
            let shares = checks
                .iter()
                .map(|checked| (checked.record.weight, checked.verdict.passed));
            Graded {
                points: score(f64::from(exercise.points), shares),
                exercise,
                checks,
            }
        })
        .collect())
}

/// A quarter of the time, but at least a second if there was one: right answers come within milliseconds.
fn shortened(limit: Duration) -> Duration {
    (limit / 4).max(Duration::from_secs(1)).min(limit)
}

/// Runs checks on every processor there is; results in the order of the checks.
///
/// # Errors
///
/// An environment error if a process cannot be started.
pub fn run_all<'a>(
    runner: &Runner,
    checks: &[&'a CheckRecord],
    limit: Duration,
) -> Result<Vec<Checked<'a>>> {
    crate::parallel::map(checks, |check| run_check(runner, check, limit))
        .into_iter()
        .collect()
}

/// Starts one process for one check and judges what it replies.
fn run_check<'a>(runner: &Runner, record: &'a CheckRecord, limit: Duration) -> Result<Checked<'a>> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let id = std::process::id();
    let reply_file = runner.scratch.join(format!("reply-{id}-{number}"));
    let request = Request {
        check: record.id.clone(),
        nonce: nonce(number),
        cases: record.cases.iter().map(|case| case.case.clone()).collect(),
    };
    let mut command = runner.command();
    command.arg("run").arg("--reply").arg(&reply_file);
    let finished = process::run(&mut command, serde_json::to_vec(&request)?, limit);
    let replies = read_replies(&reply_file, &request);
    let _ = std::fs::remove_file(&reply_file);
    let finished = finished.map_err(|error| cannot_start(&runner.program, &error))?;
    let replies = replies.map_err(|error| cannot_start(&reply_file, &error))?;

    let verdict = judge_check(record, &replies.replies);
    let stopped = (replies.replies.len() < record.cases.len()).then(|| match finished.status {
        None => Stopped::TimedOut(limit.as_secs_f64()),
        Some(status) => Stopped::Died(last_words(status, &finished.stderr.text)),
    });
    let waits_for = verdict
        .case
        .and_then(|case| replies.replies.get(case)?.unfinished())
        .map(str::to_owned);
    let mut printed = finished.stdout;
    // An abort writes its reason to standard error; it is told as the reason, not as what was printed.
    if stopped.is_none() && !finished.stderr.text.trim().is_empty() {
        printed.text.push_str(&finished.stderr.text);
        printed.is_cut |= finished.stderr.is_cut;
    }
    let unsealed = (!verdict.passed)
        .then(|| sealed::open(&record.id, &record.sealed, &replies.replies))
        .flatten();
    Ok(Checked {
        record,
        verdict,
        unsealed,
        replies: replies.replies,
        stopped,
        waits_for,
        printed,
    })
}

/// How a process ended that should have gone on.
fn last_words(status: std::process::ExitStatus, stderr: &str) -> String {
    let mut text = match status.code() {
        Some(code) => format!("the process left with exit code {code}"),
        None => format!("the process was killed ({status})"),
    };
    let reason = stderr
        .lines()
        .find(|line| line.contains("overflowed its stack") || line.contains("memory allocation"));
    let reason = reason.or_else(|| stderr.lines().rfind(|line| !line.trim().is_empty()));
    if let Some(reason) = reason {
        text.push_str(": ");
        text.push_str(reason.trim());
    }
    text
}

/// Not a secret: it tells a reply of this process from an old one.
fn nonce(number: u64) -> String {
    let time = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    hash(format!("{time} {} {number}", std::process::id()).as_bytes())[..16].to_owned()
}

fn cannot_start(path: &Path, error: &std::io::Error) -> Failure {
    Failure::environment(format!("cannot run {}: {error}", path.display()))
}
