//! One submission, from its files to its result.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use tinytorch_exam::score;
use tito::failure::Failure;
use tito::markers::Marked;

use crate::clean;
use crate::course::Course;
use crate::examine::Examiner;
use crate::graft::{Assembled, Graft, Rules, assemble, graft};
use crate::intake::{Taken, take};
use crate::model::{
    CheckResult, CompileError, ExerciseResult, FORMAT, Plan, Receipt, Replaced, Status, Submission,
    SubmissionResult,
};
use crate::questions::Questions;
use crate::receipts::{self, Basis};
use crate::workshop::{Built, Diagnostic, Job, Stop};

/// Rounds of compiling with fewer and fewer of a submission's holes.
const ROUNDS: usize = 8;

/// The part of the limit that a compilation gets after the first one was stopped.
const LATER: u32 = 4;

/// Compiler errors that are told.
const TOLD: usize = 20;

/// Grades one submission after the other with one job.
pub struct Grader<'a> {
    /// The course.
    pub course: &'a Course,
    /// What is asked.
    pub questions: &'a Questions,
    /// The plan.
    pub plan: &'a Plan,
    /// What grades depend on beside the submission.
    pub basis: &'a Basis,
    /// Compiles.
    pub job: Job<'a>,
    /// Asks.
    pub examiner: Examiner<'a>,
}

impl Grader<'_> {
    /// Grades a submission. A fault of the machine is a result as well, so that the others go on.
    pub fn grade(&self, submission: &Submission) -> SubmissionResult {
        let begun = Instant::now();
        let mut submission = submission.clone();
        let taken = take(
            &self.course.module,
            &self.plan.submissions_folder,
            &mut submission,
        );
        let mut result = self.blank(submission);
        if let Err(error) = self.fill(&taken, &mut result) {
            result.status = Status::Fault;
            result.needs_human = true;
            let why = clean::line(&format!("{error:#}"), 400);
            result.reasons.push(format!(
                "this could not be graded, and that is not your fault: {why}"
            ));
        }
        result.seconds = begun.elapsed().as_secs_f64();
        result
    }

    fn blank(&self, submission: Submission) -> SubmissionResult {
        let sum = |bonus: bool| {
            let exercises = self.plan.exercises.iter();
            exercises
                .filter(|one| one.bonus == bonus)
                .map(|one| one.points)
                .sum()
        };
        SubmissionResult {
            format: FORMAT,
            module: self.plan.module.clone(),
            needs_human: submission.refused.iter().any(|one| one.suspicious),
            submission,
            status: Status::Graded,
            reasons: Vec::new(),
            points: 0.0,
            of: sum(false),
            bonus: 0.0,
            bonus_of: sum(true),
            exercises: Vec::new(),
            findings: Vec::new(),
            replaced: Vec::new(),
            compile_errors: Vec::new(),
            receipt: None,
            seconds: 0.0,
            seal: String::new(),
        }
    }

    fn fill(&self, taken: &Taken, result: &mut SubmissionResult) -> Result<()> {
        if taken.is_empty() {
            result.status = Status::Refused;
            let files = self.course.module.manifest.files.join(", ");
            result.reasons.push(format!(
                "none of the exercise files could be taken; they are {files}"
            ));
            for refused in &result.submission.refused {
                result
                    .reasons
                    .push(format!("{}: {}", refused.path, refused.why));
            }
            result.exercises = self.exercises(&[]);
            result.receipt = Some(self.receipt(result));
            return Ok(());
        }
        let rules = Rules {
            grants: &self.course.grants,
            rooms: Some(&self.course.rooms),
            refuses_kernels: self.plan.options.strict_kernels,
        };
        let mut graft = graft(&self.course.stubs, taken, rules);
        result.reasons.append(&mut graft.reasons);
        result.findings.append(&mut graft.findings);
        result.compile_errors.append(&mut graft.errors);
        result.needs_human |=
            graft.is_changed_outside || result.findings.iter().any(|one| one.needs_human);
        let runner = self.compile(&mut graft, result)?;
        result.replaced.clone_from(&graft.replaced);
        let checks = match runner {
            Some(runner) => self.ask(&runner, &graft)?,
            None => Vec::new(),
        };
        result.exercises = self.exercises(&checks);
        let points = |bonus: bool| {
            let exercises = result.exercises.iter().filter(|one| one.bonus == bonus);
            exercises.map(|one| one.points).sum()
        };
        (result.points, result.bonus) = (points(false), points(true));
        result.receipt = Some(self.receipt(result));
        Ok(())
    }

    /// Asks all checks.
    fn ask(&self, runner: &Path, graft: &Graft) -> Result<Vec<CheckResult>> {
        let without: BTreeSet<String> = graft
            .replaced
            .iter()
            .filter_map(|one| one.hole.clone())
            .collect();
        self.examiner.ask(runner, &self.open(graft, &without))
    }

    /// The holes in which the stub stands.
    fn open(&self, graft: &Graft, without: &BTreeSet<String>) -> BTreeSet<String> {
        let all = self.course.stubs.values().filter_map(|stub| {
            let marked = Marked::parse(stub).ok()?;
            let tags = marked.holes().iter().map(|hole| hole.tag.to_owned());
            Some(tags.collect::<Vec<String>>())
        });
        all.flatten()
            .filter(|tag| {
                let filled = graft.filled.iter().find(|one| one.tag == *tag);
                without.contains(tag) || filled.is_none_or(|one| is_stub(&one.body))
            })
            .collect()
    }

    /// Ids of the checks that the reference does not pass.
    ///
    /// # Errors
    ///
    /// An environment error if it cannot be compiled or asked.
    pub fn failures_of_the_reference(&self) -> Result<Vec<String>> {
        let files = self.course.module.twin_files()?.into_iter();
        let files: Vec<Assembled> = files
            .map(|file| Assembled::new(&file.name, file.text))
            .collect();
        let runner = match self.job.build(&files, self.job.limit)? {
            Built::Ready(runner) => runner,
            Built::Errors(found) => {
                let said: Vec<String> = found.into_iter().filter_map(|one| one.rendered).collect();
                let said: String = said.join("\n").chars().take(3_000).collect();
                return Err(Failure::environment(format!(
                    "the course's own solution does not compile in a cell\n{said}"
                ))
                .into());
            }
            Built::Stopped(_, why) => return Err(Failure::environment(why).into()),
        };
        let asked = self.examiner.ask(&runner, &BTreeSet::new())?;
        let failed = asked.iter().filter(|check| !check.passed());
        Ok(failed.map(|check| check.id.clone()).collect())
    }

    fn exercises(&self, checks: &[CheckResult]) -> Vec<ExerciseResult> {
        self.plan
            .exercises
            .iter()
            .map(|exercise| {
                let prefix = format!("{}/", exercise.id);
                let own: Vec<CheckResult> = checks
                    .iter()
                    .filter(|check| check.id.starts_with(&prefix))
                    .cloned()
                    .collect();
                let shares = own.iter().map(|check| (check.weight, check.passed()));
                ExerciseResult {
                    id: exercise.id.clone(),
                    title: exercise.title.clone(),
                    points: score(f64::from(exercise.points), shares),
                    of: exercise.points,
                    bonus: exercise.bonus,
                    checks: own,
                }
            })
            .collect()
    }

    /// Compiles; a hole that does not compile is left to the stub, so that the others still count.
    fn compile(
        &self,
        graft: &mut Graft,
        result: &mut SubmissionResult,
    ) -> Result<Option<std::path::PathBuf>> {
        self.job.begin();
        let mut most = self.job.limit;
        let mut without = BTreeSet::new();
        for round in 0..=ROUNDS {
            let files = assemble(&self.course.stubs, &graft.filled, &without);
            let built = self.job.build(&files, most)?;
            let before = without.len();
            let mut is_over = false;
            let why = match built {
                Built::Ready(runner) => return Ok(Some(runner)),
                Built::Errors(found) => {
                    for diagnostic in &found {
                        self.blame(diagnostic, &files, graft, &mut without, result);
                    }
                    "it does not compile".to_owned()
                }
                Built::Stopped(Stop::Budget(_), why) => {
                    result.needs_human = true;
                    result.reasons.push(why.clone());
                    is_over = true;
                    why
                }
                Built::Stopped(_, why) => {
                    result.needs_human = true;
                    // From now on it is known that time is needed for more than one attempt.
                    most = self.job.limit / LATER;
                    let culprits = self.search(graft, &without, most)?;
                    result.reasons.push(format!(
                        "{why}; it is graded without {}",
                        culprits.join(", ")
                    ));
                    without.extend(culprits);
                    why
                }
            };
            if without.len() == before || round + 1 >= ROUNDS {
                // Nothing to blame, or too much: nothing of it is compiled.
                without.extend(graft.filled.iter().map(|one| one.tag.clone()));
            }
            for filled in &graft.filled {
                let is_told = graft
                    .replaced
                    .iter()
                    .any(|one| one.hole.as_ref() == Some(&filled.tag));
                if without.contains(&filled.tag) && !is_told {
                    graft.replaced.push(Replaced {
                        file: filled.file.clone(),
                        hole: Some(filled.tag.clone()),
                        why: why.clone(),
                    });
                }
            }
            if is_over {
                break;
            }
        }
        Ok(None)
    }

    /// Finds the hole in which an error lies.
    fn blame(
        &self,
        diagnostic: &Diagnostic,
        files: &[Assembled],
        graft: &Graft,
        without: &mut BTreeSet<String>,
        result: &mut SubmissionResult,
    ) {
        let place = places(diagnostic).into_iter().find_map(|(file, line)| {
            let own = files
                .iter()
                .find(|one| Path::new(&file).ends_with(&one.file))?;
            let is_own = file.contains(&self.course.module.folder());
            let (tag, begin) = own.hole_at(line)?;
            let filled = graft.filled.iter().find(|one| one.tag == tag)?;
            is_own.then(|| (own.file.clone(), filled.line + line - begin, tag.to_owned()))
        });
        let told = CompileError {
            code: diagnostic.code.as_ref().map(|code| code.code.clone()),
            message: clean::line(&diagnostic.message, 300),
            file: place.as_ref().map(|(file, _, _)| file.clone()),
            line: place.as_ref().map(|(_, line, _)| *line),
        };
        if result.compile_errors.len() < TOLD && !result.compile_errors.contains(&told) {
            result.compile_errors.push(told);
        }
        without.extend(place.map(|(_, _, tag)| tag));
    }

    /// The holes that the compiler does not survive, by halving: the first found alone, so at most a few compilations. If time runs out they are
    /// several, so that what is left is enough to compile the others.
    fn search(
        &self,
        graft: &Graft,
        without: &BTreeSet<String>,
        most: Duration,
    ) -> Result<Vec<String>> {
        let mut suspects: Vec<String> = graft
            .filled
            .iter()
            .filter(|one| !without.contains(&one.tag) && !is_stub(&one.body))
            .map(|one| one.tag.clone())
            .collect();
        while suspects.len() > 1 && self.job.left() >= most * 2 {
            let half = suspects.split_off(suspects.len() / 2);
            // Compile with the first half only: all others are the stub's.
            let others: BTreeSet<String> = graft
                .filled
                .iter()
                .map(|one| one.tag.clone())
                .filter(|tag| !suspects.contains(tag))
                .collect();
            let files = assemble(&self.course.stubs, &graft.filled, &others);
            if !matches!(self.job.build(&files, most)?, Built::Stopped(..)) {
                suspects = half;
            }
        }
        Ok(suspects)
    }

    fn receipt(&self, result: &SubmissionResult) -> Receipt {
        receipts::receipt(self.basis, self.questions, result)
    }
}

fn is_stub(body: &str) -> bool {
    // Notes of the student's beside it change nothing.
    let lines = body.lines().map(str::trim);
    let mut code = lines.filter(|line| !line.is_empty() && !line.starts_with("//"));
    code.next().is_some_and(|line| line.starts_with("todo!(")) && code.next().is_none()
}

/// All places of an error: the main ones first, then those of what goes with it, each with the calls of macros around it.
fn places(diagnostic: &Diagnostic) -> Vec<(String, usize)> {
    let mut spans: Vec<_> = diagnostic.spans.iter().collect();
    spans.sort_by_key(|span| !span.is_primary);
    spans.extend(diagnostic.children.iter().flat_map(|child| &child.spans));
    let mut places = Vec::new();
    for span in spans {
        let mut next = Some(span);
        while let Some(span) = next {
            places.push((span.file_name.clone(), span.line_start));
            next = span.expansion.as_ref().map(|expansion| &expansion.span);
        }
    }
    places
}
