//! L4 and L5: one cell per check. Values come out on a pipe; the verdict is made here.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use tinytorch_exam::{CheckRecord, Reply, Request, Visibility, judge_check, parse_replies};
use tito::failure::Failure;
use tito::snapshot::hash;

use crate::clean;
use crate::model::{CheckResult, Misconception, Options, Outcome};
use crate::questions::Questions;
use crate::sandbox::{Cell, Confinement, Ended, Ending, Launcher, Limits, Wishes, run};

/// Bytes of replies that are read; the largest honest reply has a tenth of it.
const REPLY: usize = 4 << 20;

/// Bytes of what a submission prints that are kept.
const PRINTED: usize = 16 << 10;

/// Threads of a runner; what is given uses [`WORKERS`].
const THREADS: usize = 64;

/// Threads among which the given code divides large products, whatever machine this is.
const WORKERS: &str = "2";

/// What all time-outs of one submission may cost together; after that a check has [`LAST_CHANCE`].
const PATIENCE: Duration = Duration::from_secs(20);

/// What asking one submission may take, but for waiting for a processor; right ones take a second. After that a check has [`LAST_CHANCE`] as well.
const BUDGET: Duration = Duration::from_secs(60);

/// Still fifty times what a right answer takes.
const LAST_CHANCE: Duration = Duration::from_millis(500);

/// What the first line of a sealed runner's answer is; the harness writes it before any code of the submission runs.
const SEALED: &[u8] = b"sealed\n";

/// In which order checks are asked: those of a kind in the order of the exam.
fn public_first(records: &[CheckRecord]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..records.len()).collect();
    order.sort_by_key(|&index| records[index].visibility != Visibility::Public);
    order
}

/// Asks one submission.
pub struct Examiner<'a> {
    /// Starts cells.
    pub launcher: &'a Launcher,
    /// What cells are worth here.
    pub confinement: &'a Confinement,
    /// What is asked.
    pub questions: &'a Questions,
    /// Limits.
    pub options: &'a Options,
    /// System files that the runner is linked with.
    pub libraries: &'a [std::path::PathBuf],
    /// The user cells run as.
    pub user: Option<u32>,
    /// Processes and threads that user may have.
    pub processes: Option<u64>,
}

impl Examiner<'_> {
    /// Asks every check in a process of its own, the public ones first: what a hidden one takes must change nothing that students see. `open` are the holes in which the stub stands: a panic may say it came from another, and then it
    /// is the submission that talks.
    ///
    /// # Errors
    ///
    /// An environment error if a cell cannot be locked: that is never the submission's doing.
    pub fn ask(&self, runner: &Path, open: &BTreeSet<String>) -> Result<Vec<CheckResult>> {
        let mut spent = Duration::ZERO;
        let mut lost = Duration::ZERO;
        let mut slow: Vec<&str> = Vec::new();
        let records = &self.questions.record.checks;
        let mut results = vec![None; records.len()];
        let full = Duration::from_millis(self.options.check_ms);
        for index in public_first(records) {
            let record = &records[index];
            let limit = if lost >= PATIENCE || spent >= BUDGET {
                LAST_CHANCE.min(full)
            } else if slow.contains(&record.exercise.as_str()) {
                // One endless loop costs one long wait: what is asked of that exercise after it gets less.
                (full / 4).max(Duration::from_secs(1)).min(full)
            } else {
                full
            };
            let result = self.check(runner, record, limit, open)?;
            spent += Duration::from_millis(result.milliseconds);
            if result.outcome == Outcome::TimedOut {
                lost += limit;
                slow.push(&record.exercise);
            }
            results[index] = Some(result);
        }
        Ok(results.into_iter().flatten().collect())
    }

    fn cell(&self, runner: &Path, limit: Duration) -> Cell {
        Cell {
            user: self.user,
            links: false,
            read: Vec::new(),
            execute: self.libraries.to_vec(),
            start: vec![runner.to_owned()],
            write: Vec::new(),
            limits: Limits {
                memory: self.options.memory_bytes,
                // Threads count together.
                cpu_seconds: limit.as_secs().saturating_add(1).saturating_mul(4),
                file: 0,
                files: 32,
                processes: self.processes,
            },
            starts_programs: false,
            needs_landlock: Some(self.confinement.landlock.clone()),
        }
    }

    fn check(
        &self,
        runner: &Path,
        record: &CheckRecord,
        limit: Duration,
        open: &BTreeSet<String>,
    ) -> Result<CheckResult> {
        let begun = Instant::now();
        let request = Request {
            check: record.id.clone(),
            nonce: nonce(),
            cases: record.cases.iter().map(|case| case.case.clone()).collect(),
        };
        let mut command = self.launcher.command(&self.cell(runner, limit), runner);
        command
            .arg("answer")
            .current_dir("/")
            .env("RUST_BACKTRACE", "0")
            .env("RAYON_NUM_THREADS", WORKERS);
        let wishes = Wishes {
            wall: limit,
            stdout: REPLY,
            stderr: PRINTED,
            threads: Some(THREADS),
        };
        let ended = run(&mut command, &serde_json::to_vec(&request)?, &wishes)
            .map_err(|error| Failure::environment(format!("cannot start a cell: {error}")))?;
        let Some(bytes) = ended.stdout.strip_prefix(SEALED) else {
            if ended.ending == Ending::TimedOut {
                return Err(Failure::environment(
                    "a cell was not ready in time: is this machine overloaded?",
                )
                .into());
            }
            return Err(Failure::environment(format!(
                "a cell could not be locked: {}",
                clean::line(&String::from_utf8_lossy(&ended.stderr), 300)
            ))
            .into());
        };
        let replies = parse_replies(bytes, &request);
        let mut result = judge(
            record,
            &replies.replies,
            replies.problem.as_deref(),
            &ended,
            limit,
            open,
        );
        let took = begun.elapsed().saturating_sub(ended.waited);
        result.milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        Ok(result)
    }
}

/// Unguessable, and different for every process.
fn nonce() -> String {
    use std::hash::{BuildHasher, RandomState};
    let word = || RandomState::new().hash_one(Instant::now());
    format!("{:016x}{:016x}", word(), word())
}

fn judge(
    record: &CheckRecord,
    replies: &[Reply],
    problem: Option<&str>,
    ended: &Ended,
    limit: Duration,
    open: &BTreeSet<String>,
) -> CheckResult {
    let verdict = judge_check(record, replies);
    let reply = verdict.case.and_then(|case| replies.get(case));
    let (outcome, message) = if verdict.passed {
        (Outcome::Passed, "passed".to_owned())
    } else {
        let is_outcome = verdict
            .difference
            .as_ref()
            .is_some_and(|one| one.name == "outcome");
        let unfinished = reply
            .and_then(Reply::unfinished)
            .and_then(|tag| open.get(tag));
        match unfinished {
            Some(tag) => (
                Outcome::Unfinished(tag.clone()),
                format!("exercise {tag} is not written yet"),
            ),
            None => failure(record.visibility, reply, is_outcome, problem, ended, limit),
        }
    };
    let printed = clean::bytes(&ended.stderr);
    CheckResult {
        id: record.id.clone(),
        weight: record.weight,
        visibility: record.visibility,
        outcome,
        message,
        difference: verdict.difference.map(|mut difference| {
            difference.got = clean::line(&difference.got, 300);
            difference
        }),
        case: verdict
            .case
            .and_then(|case| record.cases.get(case))
            .map(|case| case.case.note.clone()),
        misconception: verdict
            .mistake
            .and_then(|number| record.mistakes.get(number))
            .map(|mistake| Misconception {
                title: mistake.title.clone(),
                explanation: mistake.explanation.clone(),
            }),
        answer: (!verdict.passed && !replies.is_empty())
            .then(|| serde_json::to_vec(replies).ok())
            .flatten()
            .map(|text| hash(&text)),
        printed: (!printed.trim().is_empty()).then_some(printed),
        milliseconds: 0,
    }
}

/// Why a check failed: for the student, without inputs or expected values.
fn failure(
    visibility: Visibility,
    reply: Option<&Reply>,
    is_outcome: bool,
    problem: Option<&str>,
    ended: &Ended,
    limit: Duration,
) -> (Outcome, String) {
    match reply {
        Some(Reply::Panicked(panic)) => {
            // A panic's text may hold the values that the code was given; the line in the student's own file is enough.
            let place = match (&panic.file, panic.line) {
                (Some(file), Some(line)) => {
                    let file = file.rsplit('/').next().unwrap_or(file);
                    format!(" at {}:{line}", clean::line(file, 60))
                }
                _ => String::new(),
            };
            let message = match visibility {
                Visibility::Public => {
                    format!("panicked{place}: {}", clean::line(&panic.message, 200))
                }
                Visibility::Hidden => format!("panicked{place}"),
            };
            (Outcome::Panicked, message)
        }
        Some(reply) => {
            if is_outcome && matches!(reply, Reply::Error(_)) {
                (
                    Outcome::WrongOutcome,
                    "an error where values were due, or another error than was due".into(),
                )
            } else if is_outcome {
                (
                    Outcome::WrongOutcome,
                    "values where an error was due".into(),
                )
            } else {
                (Outcome::WrongValues, "the values are wrong".into())
            }
        }
        None => match ended.ending {
            Ending::TimedOut => {
                let seconds = limit.as_secs_f64();
                (
                    Outcome::TimedOut,
                    format!("no answer after {seconds} s; does every loop come to its end?"),
                )
            }
            Ending::Flooded => (Outcome::Malformed, "the answer has no end".into()),
            Ending::TooManyThreads => (
                Outcome::Died,
                "it started threads without end; no exercise needs one".into(),
            ),
            Ending::Killed(signal) => (
                Outcome::Died,
                format!(
                    "the process was ended by signal {signal}: {}",
                    of_signal(signal)
                ),
            ),
            // Left without an answer, or with something that is none.
            Ending::Left(code) => {
                if problem.is_some_and(|problem| problem.starts_with("there is no reply")) {
                    (
                        Outcome::Died,
                        format!("the process left with exit code {code} before it answered"),
                    )
                } else {
                    (Outcome::Malformed, "what came back is no answer".into())
                }
            }
        },
    }
}

fn of_signal(signal: i32) -> &'static str {
    match signal {
        4 | 6 => "it aborted: memory or stack used up, a panic while panicking, or a call of abort",
        9 => "it used up its processor time",
        11 => "its stack or memory was used up",
        24 => "it used up its processor time",
        25 => "it wrote to a file",
        31 => "it tried what no exercise needs",
        _ => "it did not end by itself",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinytorch_exam::{Case, CaseRecord, Judge, Panic, Values};

    fn record(visibility: Visibility) -> CheckRecord {
        CheckRecord {
            id: "15.3/x".into(),
            exercise: "15.3".into(),
            weight: 1,
            visibility,
            what: String::new(),
            why: String::new(),
            item: String::new(),
            judge: Judge::Equal,
            cases: vec![CaseRecord {
                case: Case::new("", Values::new()),
                expected: Reply::Values(Values::new()),
            }],
            mistakes: Vec::new(),
            sealed: Vec::new(),
        }
    }

    fn outcome(message: &str) -> Outcome {
        let record = record(Visibility::Hidden);
        let reply = Reply::Panicked(Panic {
            message: message.to_owned(),
            file: None,
            line: None,
        });
        let ended = Ended {
            ending: Ending::Left(0),
            stdout: Vec::new(),
            stderr: Vec::new(),
            took: Duration::ZERO,
            waited: Duration::ZERO,
            processor: Duration::ZERO,
        };
        let open = BTreeSet::from(["15.4".to_owned()]);
        judge(
            &record,
            &[reply],
            None,
            &ended,
            Duration::from_secs(1),
            &open,
        )
        .outcome
    }

    /// A panic that said `not yet implemented: exercise <input>` was shown to students with the input.
    #[test]
    fn only_a_hole_that_is_open_counts_as_unfinished() {
        let said = |what: &str| outcome(&format!("not yet implemented: exercise {what}"));
        assert_eq!(said("15.4"), Outcome::Unfinished("15.4".into()));
        assert_eq!(said("15.3"), Outcome::Panicked);
        assert_eq!(said("[0.25, 1.5]"), Outcome::Panicked);
    }

    /// A hidden check that was slow shortened the time of a public one behind it, whose verdict students see.
    #[test]
    fn public_checks_come_before_hidden_ones_and_keep_their_order() {
        use Visibility::{Hidden, Public};
        let records: Vec<_> = [Hidden, Public, Hidden, Public].map(record).into();
        assert_eq!(public_first(&records), [1, 3, 0, 2]);
    }
}
