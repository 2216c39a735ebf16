//! A whole class: what is already graded is kept, the rest is graded by several jobs, every result is written when it is there.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use tito::failure::Failure;
use tito::ui;
use tito::workspace::Workspace;

use crate::course::Course;
use crate::examine::Examiner;
use crate::grading::Grader;
use crate::intake::take;
use crate::misconceptions::Mistakes;
use crate::model::{Isolation, Plan, Status, Submission, SubmissionResult};
use crate::questions::Questions;
use crate::receipts::{Basis, submission_hash};
use crate::results::Results;
use crate::sandbox::{Confinement, Launcher, thread_limit};
use crate::seal;
use crate::workshop::{Job, Workshop};

/// A run: who grades what, with which walls.
pub struct Batch<'a> {
    /// The workspace.
    pub workspace: &'a Workspace,
    /// The module.
    pub course: &'a Course,
    /// What is asked of whom.
    pub plan: &'a Plan,
    /// Where results go.
    pub results: &'a Results,
    /// Starts cells.
    pub launcher: Launcher,
    /// What cells are worth here.
    pub confinement: Confinement,
    /// Submissions that are graded at the same time.
    pub jobs: usize,
}

/// How a run ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Results that were there already and still hold.
    pub kept: usize,
    /// Submissions that were graded now.
    pub graded: usize,
    /// Those of them with nothing to grade.
    pub refused: usize,
    /// Those that the machine failed on.
    pub faults: usize,
    /// Results that were there and had been changed by hand: id and what was noticed. They were graded again.
    pub changed: Vec<(String, String)>,
    /// Wall time.
    pub seconds: f64,
}

/// Told after each submission: how many are done, of how many, and the result.
pub type Progress<'a> = &'a (dyn Fn(usize, usize, &SubmissionResult) + Sync);

impl Batch<'_> {
    /// Grades what is not graded yet, or no longer holds.
    ///
    /// # Errors
    ///
    /// An environment error if the isolation demanded is not to be had, if something of the course does not compile, or if a result
    /// cannot be written. What was written until then is whole and stays.
    pub fn run(&self, progress: Progress<'_>) -> Result<Summary> {
        let begun = Instant::now();
        let layers = &self.confinement.layers;
        if self.plan.options.require_isolation > layers.isolation {
            let missing: Vec<String> = layers
                .missing
                .iter()
                .map(|(layer, why)| format!("{layer:?}: {why}"))
                .collect();
            return Err(Failure::environment(
                "full isolation was demanded and is not to be had here",
            )
            .help(missing.join("\n"))
            .into());
        }
        let basis = Basis::new(self.course, self.plan, layers);
        let open: Vec<&Submission> = self
            .plan
            .submissions
            .iter()
            .filter(|one| !self.is_current(&basis, one))
            .collect();
        let changed = open.iter().filter_map(|one| {
            let result = self.results.get(&one.id).ok()??;
            let found = seal::problems(&result);
            (!found.is_empty()).then(|| (one.id.clone(), found.join("; ")))
        });
        let mut summary = Summary {
            kept: self.plan.submissions.len() - open.len(),
            changed: changed.collect(),
            ..Summary::default()
        };
        if !open.is_empty() {
            self.grade(&open, &basis, progress, &mut summary)?;
        }
        summary.seconds = begun.elapsed().as_secs_f64();
        Ok(summary)
    }

    /// True if the result that is there would come out again.
    fn is_current(&self, basis: &Basis, submission: &Submission) -> bool {
        let Ok(Some(result)) = self.results.get(&submission.id) else {
            return false;
        };
        let Some(receipt) = &result.receipt else {
            return false;
        };
        let mut now = submission.clone();
        take(&self.course.module, &self.plan.submissions_folder, &mut now);
        result.status != Status::Fault
            && seal::problems(&result).is_empty()
            && result.submission == now
            && basis.is_current(receipt, &submission_hash(&now))
    }

    fn grade(
        &self,
        open: &[&Submission],
        basis: &Basis,
        progress: Progress<'_>,
        summary: &mut Summary,
    ) -> Result<()> {
        let limit = Duration::from_millis(self.plan.options.compile_ms);
        let workshop = Workshop::open(
            self.course,
            self.launcher.clone(),
            self.confinement.clone(),
            limit,
        )?;
        ui::note(
            "preparing: the course's own solution, its exam and its catalogue of mistakes are compiled and asked ...",
        );
        let jobs = self.jobs.clamp(1, open.len());
        // The reference is compiled and asked while the rest is prepared.
        let (questions, prepared) = std::thread::scope(|scope| {
            let ask = scope.spawn(|| self.questions(&workshop));
            if let Err(error) = workshop.prepare(self.course) {
                return (join(ask), vec![Err(error)]);
            }
            let make: Vec<_> = (0..jobs)
                .map(|number| {
                    let workshop = &workshop;
                    let number = u32::try_from(number).unwrap_or(u32::MAX);
                    scope.spawn(move || Job::new(workshop, self.course, number))
                })
                .collect();
            let prepared: Vec<_> = make.into_iter().map(join).collect();
            (join(ask), prepared)
        });
        let questions = questions?;
        self.name_checks(&questions)?;
        let libraries = workshop.libraries()?;
        let limits_threads = self.confinement.limits_threads;
        let shared_processes = limits_threads.then(thread_limit);
        let mut graders = Vec::new();
        for job in prepared {
            let job = job?;
            graders.push(Grader {
                course: self.course,
                questions: &questions,
                plan: self.plan,
                basis,
                examiner: Examiner {
                    launcher: &self.launcher,
                    confinement: &self.confinement,
                    questions: &questions,
                    options: &self.plan.options,
                    libraries: &libraries,
                    user: job.user(),
                    processes: match job.user() {
                        Some(_) => Some(OWN_PROCESSES),
                        None => shared_processes,
                    },
                },
                job,
            });
        }
        try_the_reference(&mut graders)?;
        let next = AtomicUsize::new(0);
        let done = Mutex::new((std::mem::take(summary), None::<anyhow::Error>));
        std::thread::scope(|scope| {
            for grader in &graders {
                scope.spawn(|| {
                    while let Some(submission) = open.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let result = grader.grade(submission);
                        let kept = self.results.keep(&result);
                        let Ok(mut done) = done.lock() else { return };
                        if let Err(error) = kept {
                            done.1 = Some(error);
                        }
                        if done.1.is_some() {
                            return;
                        }
                        let count = &mut done.0;
                        count.graded += 1;
                        count.refused += usize::from(result.status == Status::Refused);
                        count.faults += usize::from(result.status == Status::Fault);
                        let total = self.plan.submissions.len();
                        progress(count.kept + count.graded, total, &result);
                    }
                });
            }
        });
        let (counted, error) = done.into_inner().unwrap_or_default();
        *summary = counted;
        error.map_or(Ok(()), Err)
    }

    /// Builds what is built once and asks the reference, so that others find it done.
    ///
    /// # Errors
    ///
    /// An environment error if something of the course does not compile.
    pub fn prepare(&self) -> Result<()> {
        let limit = Duration::from_millis(self.plan.options.compile_ms);
        let (launcher, confinement) = (self.launcher.clone(), self.confinement.clone());
        let workshop = Workshop::open(self.course, launcher, confinement, limit)?;
        let questions = std::thread::scope(|scope| {
            let ask = scope.spawn(|| self.questions(&workshop));
            workshop.prepare(self.course)?;
            join(ask)
        })?;
        self.name_checks(&questions)
    }

    /// Reports name the checks by the plan; they are known only once the exam is compiled.
    fn name_checks(&self, questions: &Questions) -> Result<()> {
        let checks = questions.checks();
        match self.results.plan()? {
            Some(mut kept) if kept.checks != checks => {
                kept.checks = checks;
                self.results.keep_plan(&kept)
            }
            _ => Ok(()),
        }
    }

    fn questions(&self, workshop: &Workshop) -> Result<Questions> {
        let (toolchain, seed) = (&self.plan.toolchain, self.plan.seed);
        match Questions::kept(self.workspace, self.course, toolchain, seed) {
            Some(questions) => Ok(questions),
            None => {
                let mistakes = Mistakes::compile(self.course, &workshop.dependencies);
                let compiled = mistakes.as_ref().ok().and_then(Mistakes::reference);
                // An instructor's own checks are in no exam of the course's.
                let compiled = compiled.filter(|_| self.plan.options.hidden.is_none());
                let reference: PathBuf = match compiled {
                    Some(program) => program.to_owned(),
                    None => workshop.reference(self.course)?,
                };
                let asked = (toolchain.as_str(), seed);
                let closed = workshop.closed();
                Questions::ask(
                    self.workspace,
                    self.course,
                    asked,
                    &closed,
                    &reference,
                    mistakes,
                )
            }
        }
    }

    /// The isolation that would be recorded.
    pub fn isolation(&self) -> Isolation {
        self.confinement.layers.isolation
    }
}

fn join<T>(handle: std::thread::ScopedJoinHandle<'_, T>) -> T {
    match handle.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Processes and threads of a user that a job has for itself: one runner at a time, whose threads are counted as well.
const OWN_PROCESSES: u64 = 64;

/// What compiling the reference may take.
const REFERENCE_LIMIT: Duration = Duration::from_secs(120);

/// The reference is graded first, as submissions will be. If it does not earn everything, nobody is graded.
fn try_the_reference(graders: &mut [Grader<'_>]) -> Result<()> {
    let Some(first) = graders.first_mut() else {
        return Ok(());
    };
    // It is ours: that it takes long is no attack, but a machine with much to do.
    let limit = std::mem::replace(&mut first.job.limit, REFERENCE_LIMIT);
    let failed = first.failures_of_the_reference()?;
    first.job.limit = limit;
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::environment(format!(
        "the course's own solution does not pass when it is graded here: {}",
        failed.join(", ")
    ))
    .help("is this machine overloaded, or a check of yours not the same twice? see --time-limit, --hidden")
    .into())
}
