//! What is asked: every check with cases drawn from the run's seed and the reference's answers, made once per exam and seed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tinytorch_exam::{ExamRecord, Visibility};
use tito::failure::Failure;
use tito::lock;
use tito::snapshot::{hash, write_atomically};
use tito::ui;
use tito::workspace::Workspace;

use crate::course::Course;
use crate::misconceptions::Mistakes;
use crate::model::{CheckInfo, ExerciseInfo};

/// The reference answers all checks within this time.
const PATIENCE: Duration = Duration::from_secs(120);

/// The questions of a run.
#[derive(Clone, Debug)]
pub struct Questions {
    /// Checks with cases and expected values.
    pub record: ExamRecord,
    /// SHA-256 over cases and expected values.
    pub cases_hash: String,
    /// SHA-256 over the judges.
    pub judges_hash: String,
}

impl Questions {
    /// Those of an earlier run with the same sources and seed, if they were kept.
    pub fn kept(
        workspace: &Workspace,
        course: &Course,
        toolchain: &str,
        seed: u64,
    ) -> Option<Questions> {
        let text = fs::read(path(workspace, course, toolchain, seed)).ok()?;
        Questions::new(course, serde_json::from_slice(&text).ok()?).ok()
    }

    /// Asks the reference and the catalogued mistakes, and keeps their answers where only their owner can read them. In the folder `closed` nobody
    /// else can look meanwhile.
    ///
    /// # Errors
    ///
    /// An environment error if it does not answer, or does not answer a check of every exercise.
    pub fn ask(
        workspace: &Workspace,
        course: &Course,
        (toolchain, seed): (&str, u64),
        closed: &Path,
        reference: &Path,
        mistakes: Result<Mistakes>,
    ) -> Result<Questions> {
        let reply = closed.join("record");
        let mut command = std::process::Command::new(reference);
        command
            .env_remove(tito::mistakes::VARIABLE)
            .args(["expect", "--seed", &seed.to_string(), "--reply"])
            .arg(&reply);
        let finished = tito::process::run(&mut command, Vec::new(), PATIENCE)
            .context("cannot run the reference")?;
        if !finished.status.is_some_and(|status| status.success()) {
            return Err(Failure::environment(format!(
                "the reference did not answer the exam: {}",
                finished.stderr.text.trim()
            ))
            .into());
        }
        let text = fs::read(&reply).context("cannot read the reference's answers")?;
        let mut record: ExamRecord =
            serde_json::from_slice(&text).context("the reference's answers are damaged")?;
        if let Err(error) = mistakes.and_then(|mistakes| mistakes.enter(&mut record)) {
            ui::note(format!(
                "no mistake of the catalogue will be named: {error:#}"
            ));
        }
        let text = serde_json::to_vec(&record)?;
        let questions = Questions::new(course, record)?;
        lock::prepare(&workspace.state())?;
        keep(&path(workspace, course, toolchain, seed), &text)
            .map_err(|error| lock::cannot_write(&workspace.state(), &error))?;
        Ok(questions)
    }

    fn new(course: &Course, record: ExamRecord) -> Result<Questions> {
        let manifest = &course.module.manifest;
        let mut ids: Vec<&str> = record
            .checks
            .iter()
            .map(|check| check.id.as_str())
            .collect();
        ids.sort_unstable();
        if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(
                Failure::usage(format!("there are two checks called {}", twice[0]))
                    .help("give your own checks names that the course does not use")
                    .into(),
            );
        }
        for check in &record.checks {
            if !manifest
                .exercises
                .iter()
                .any(|exercise| exercise.id == check.exercise)
            {
                return Err(Failure::usage(format!(
                    "check {} belongs to no exercise of {}",
                    check.id, course.module.name
                ))
                .into());
            }
        }
        for exercise in &manifest.exercises {
            if !record
                .checks
                .iter()
                .any(|check| check.exercise == exercise.id)
            {
                return Err(
                    Failure::environment(format!("exercise {} has no check", exercise.id)).into(),
                );
            }
        }
        let cases: Vec<_> = record
            .checks
            .iter()
            .map(|check| (&check.id, &check.cases))
            .collect();
        let judges: Vec<_> = record
            .checks
            .iter()
            .map(|check| (&check.id, check.weight, &check.judge))
            .collect();
        Ok(Questions {
            cases_hash: hash(&serde_json::to_vec(&cases)?),
            judges_hash: hash(&serde_json::to_vec(&judges)?),
            record,
        })
    }

    /// The checks, as reports name them.
    pub fn checks(&self) -> Vec<CheckInfo> {
        self.record
            .checks
            .iter()
            .map(|check| CheckInfo {
                id: check.id.clone(),
                exercise: check.exercise.clone(),
                weight: check.weight,
                visibility: check.visibility,
                what: check.what.clone(),
                why: check.why.clone(),
                item: check.item.clone(),
            })
            .collect()
    }

    /// Number of public and hidden checks.
    pub fn count(&self) -> (usize, usize) {
        let checks = &self.record.checks;
        let hidden = checks
            .iter()
            .filter(|check| check.visibility == Visibility::Hidden)
            .count();
        (checks.len() - hidden, hidden)
    }
}

/// The exercises, as reports name them.
pub fn exercises(course: &Course) -> Vec<ExerciseInfo> {
    course
        .module
        .manifest
        .exercises
        .iter()
        .map(|exercise| ExerciseInfo {
            id: exercise.id.clone(),
            title: exercise.title.clone(),
            file: exercise.file.clone(),
            points: exercise.points,
            bonus: exercise.bonus,
        })
        .collect()
}

fn path(workspace: &Workspace, course: &Course, toolchain: &str, seed: u64) -> PathBuf {
    let parts = format!(
        "{} {} {toolchain} {seed}",
        course.course_hash, course.exam_hash
    );
    let name = format!("{}.json", &hash(parts.as_bytes())[..32]);
    workspace.state().join("grade").join(name)
}

/// Hidden checks with their answers: nobody else on this machine may read them.
fn keep(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    }
    write_atomically(path, text)
}
