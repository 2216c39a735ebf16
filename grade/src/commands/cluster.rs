//! `tito grade run --slurm`, `shard`, `merge`, `resume`: a class in pieces, wherever they are graded.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use serde_json::json;
use tito::failure::{Failure, Outcome};
use tito::lock::cannot_write;
use tito::snapshot::write_atomically;
use tito::ui::{self, CODE, FAINT, GOOD, OPEN, paint};

use super::Context;
use crate::batch::Batch;
use crate::course::Course;
use crate::model::Plan;
use crate::report::{Book, tables};
use crate::results::Results;
use crate::sandbox::{Launcher, probe};
use crate::slurm::{Call, Options, Round, missing};
use crate::workshop::Toolchain;

/// A piece of a class.
#[derive(Args, Clone, Debug)]
pub struct Piece {
    /// The folder of results.
    pub results: PathBuf,
    /// The round.
    #[arg(long, default_value_t = 1)]
    pub round: u32,
    /// The task of the round.
    #[arg(long)]
    pub index: usize,
}

/// What is missing, to be graded.
#[derive(Args, Clone, Debug)]
pub struct Rest {
    /// The folder of results.
    pub results: PathBuf,
    /// Submissions graded at the same time; without it, one per processor.
    #[arg(long)]
    pub jobs: Option<usize>,
    /// On a cluster.
    #[command(flatten)]
    pub cluster: Options,
}

/// Writes a round of everything that is missing, and submits it.
///
/// # Errors
///
/// An environment error if the course does not compile, files cannot be written or `sbatch` refuses.
pub fn submit(context: &Context<'_>, batch: &Batch<'_>, options: &Options) -> Result<Outcome> {
    let ids = missing(batch.plan, batch.results)?;
    if ids.is_empty() {
        return merge(context, batch.results.folder());
    }
    // Once, here: the tasks find the crates compiled and the questions answered.
    batch.prepare()?;
    let call = Call {
        program: std::env::current_exe()?,
        workspace: batch.workspace.root.clone(),
        results: batch.results.folder().to_owned(),
    };
    let round = Round::write(batch.results, &ids, options, &call)?;
    let submitted = if options.no_submit {
        None
    } else {
        Some(round.submit(options, &call)?)
    };
    let script = round.folder.join("grade.sbatch");
    if context.json {
        ui::print_json(&json!({
            "results": batch.results.folder().display().to_string(),
            "round": round.number,
            "tasks": round.shards.tasks.len(),
            "students": ids.len(),
            "script": script.display().to_string(),
            "submitted": submitted,
        }));
        return Ok(Outcome::Good);
    }
    ui::say(format!(
        "round {}: {} in {}  {}",
        round.number,
        ui::count(ids.len(), "student"),
        ui::count(round.shards.tasks.len(), "task"),
        paint(CODE, script.display())
    ));
    match submitted {
        Some(jobs) => ui::say(format!(
            "{} array job {}, merge {}; what they print: {}",
            paint(GOOD, "submitted"),
            jobs.array,
            jobs.merge,
            round.folder.join("logs").display()
        )),
        None => ui::say(paint(FAINT, "not submitted")),
    }
    Ok(Outcome::Good)
}

/// Grades the students of one task.
///
/// # Errors
///
/// Usage, for a task that is not there or a course that has changed since the plan was made; an environment error as for a run.
pub fn shard(context: &Context<'_>, piece: &Piece) -> Result<Outcome> {
    let results = Results::new(std::path::absolute(&piece.results)?);
    let round = Round::load(&results, piece.round)?;
    let ids = round.task(piece.index)?;
    grade(context, &results, ids, Some(1))
}

/// Grades what is missing, here or as another round.
///
/// # Errors
///
/// As for [`shard`] and [`submit`].
pub fn resume(context: &Context<'_>, rest: &Rest) -> Result<Outcome> {
    let results = Results::new(std::path::absolute(&rest.results)?);
    let plan = plan(&results)?;
    if rest.cluster.slurm {
        return with_batch(context, &results, &plan, rest.jobs, |batch| {
            submit(context, batch, &rest.cluster)
        });
    }
    let ids = missing(&plan, &results)?;
    if !ids.is_empty() {
        grade(context, &results, &ids, rest.jobs)?;
    }
    merge(context, results.folder())
}

fn grade(
    context: &Context<'_>,
    results: &Results,
    ids: &[String],
    jobs: Option<usize>,
) -> Result<Outcome> {
    let mut part = plan(results)?;
    part.submissions
        .retain(|submission| ids.contains(&submission.id));
    with_batch(context, results, &part, jobs, |batch| {
        let summary = batch.run(&|done, of, result| {
            ui::note(format!("{done:>4} of {of}  {}", result.submission.id));
        })?;
        ui::note(format!(
            "{} graded, {} kept, {} not graded, {:.1} s",
            summary.graded, summary.kept, summary.faults, summary.seconds
        ));
        Ok(if summary.faults > 0 {
            Outcome::WorkLeft
        } else {
            Outcome::Good
        })
    })
}

fn with_batch<T>(
    context: &Context<'_>,
    results: &Results,
    plan: &Plan,
    jobs: Option<usize>,
    then: impl FnOnce(&Batch<'_>) -> Result<T>,
) -> Result<T> {
    let workspace = context.workspace()?;
    let course = Course::load(&workspace, &plan.module, plan.options.hidden.as_deref())?;
    let toolchain = Toolchain::find(&workspace.root)?.hash;
    for (what, now, planned) in [
        ("the course", &course.course_hash, &plan.course),
        ("the exam", &course.exam_hash, &plan.exam),
        ("the compiler", &toolchain, &plan.toolchain),
    ] {
        if now != planned {
            return Err(Failure::usage(format!(
                "{what} is not the one these results were begun with"
            ))
            .help(format!(
                "finish with the version they were begun with, or begin anew: {}",
                ui::advice("grade run SUBMISSIONS --out RESULTS")
            ))
            .into());
        }
    }
    let launcher = Launcher::myself()?;
    let confinement = probe(&launcher)?;
    let all = || std::thread::available_parallelism().map_or(1, usize::from);
    then(&Batch {
        workspace: &workspace,
        course: &course,
        plan,
        results,
        launcher,
        confinement,
        jobs: jobs.unwrap_or_else(all),
    })
}

fn plan(results: &Results) -> Result<Plan> {
    Ok(results.plan()?.ok_or_else(|| {
        Failure::usage(format!("{} holds no plan.json", results.folder().display()))
            .help("name the folder that `tito grade run --out` wrote")
    })?)
}

/// Says what is there and what is missing, and writes the table of grades.
///
/// # Errors
///
/// Usage, if it is no folder of results; an environment error if a result is damaged or the table cannot be written.
pub fn merge(context: &Context<'_>, results: &Path) -> Result<Outcome> {
    let results = Results::new(results);
    let book = Book::load(&results, None, None)?;
    let missing = missing(&book.plan, &results)?;
    let table = results.folder().join("grades.csv");
    write_atomically(&table, tables::grades(&book).as_bytes())
        .map_err(|error| cannot_write(&table, &error))?;
    let all = book.rows.len();
    if context.json {
        ui::print_json(&json!({
            "submissions": all,
            "graded": all - missing.len(),
            "missing": missing,
            "grades": table.display().to_string(),
        }));
    } else {
        ui::say(format!(
            "{} of {}  {}",
            all - missing.len(),
            ui::count(all, "submission"),
            paint(CODE, table.display())
        ));
        for id in &missing {
            ui::note(paint(OPEN, format!("missing: {id}")));
        }
        if !missing.is_empty() {
            ui::note(format!(
                "grade what is missing: {}",
                ui::advice(&format!("grade resume {}", results.folder().display()))
            ));
        }
    }
    Ok(if missing.is_empty() {
        Outcome::Good
    } else {
        Outcome::WorkLeft
    })
}
