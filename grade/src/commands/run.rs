//! `tito grade run SUBMISSIONS --module 15 --out RESULTS`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use serde_json::json;
use tito::failure::{Failure, Outcome};
use tito::lock::Lock;
use tito::receipt::points;
use tito::snapshot::now;
use tito::ui::{self, BAD, FAINT, GOOD, STRONG, paint};
use tito::workspace::Workspace;

use super::{Context, isolation};
use crate::batch::{Batch, Summary};
use crate::course::Course;
use crate::intake::{Listing, list};
use crate::model::{FORMAT, Isolation, Options, Plan, Status, SubmissionResult};
use crate::questions::exercises;
use crate::results::Results;
use crate::sandbox::{Launcher, probe};
use crate::workshop::Toolchain;

/// How a run is wanted.
#[derive(Args, Clone, Debug)]
pub struct Wishes {
    /// A folder with a folder or a zip file per student, as they are, or as Canvas or Gradescope give them.
    pub submissions: PathBuf,
    /// Number, name or both: 15, quantization, 15_quantization.
    #[arg(long)]
    pub module: String,
    /// Where results go; what is there already is kept if it still holds.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Your own hidden checks: a folder shaped like the exam's `hidden`.
    #[arg(long, value_name = "DIR")]
    pub hidden: Option<PathBuf>,
    /// Submissions graded at the same time; without it, one per processor.
    #[arg(long)]
    pub jobs: Option<usize>,
    /// All inputs are drawn from it; without it, the one of the last run here, or a random one.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Refuse to grade with less.
    #[arg(long, value_name = "LEVEL", default_value = "reduced", value_parser = level)]
    pub require_isolation: Isolation,
    /// Seconds of wall time a check may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 4)]
    pub time_limit: u64,
    /// Seconds of processor time that a compilation of a submission may take; all its compilations together may take four times as much.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub compile_limit: u64,
    /// Grade an exercise that calls the library's finished kernels as if it were not written; without it, it is marked for a look.
    #[arg(long)]
    pub strict_kernels: bool,
    /// On a cluster.
    #[command(flatten)]
    pub cluster: crate::slurm::Options,
}

fn level(text: &str) -> Result<Isolation, String> {
    match text {
        "full" => Ok(Isolation::Full),
        "reduced" => Ok(Isolation::Reduced),
        _ => Err("`full` or `reduced`".into()),
    }
}

/// Grades what is not graded yet.
///
/// # Errors
///
/// Usage, if there are no submissions; environment, if the isolation demanded is not to be had or the course does not compile.
pub fn run(context: &Context<'_>, wishes: &Wishes) -> Result<Outcome> {
    let workspace = context.workspace()?;
    let hidden = wishes.hidden.as_deref().map(absolute).transpose()?;
    let course = Course::load(&workspace, &wishes.module, hidden.as_deref())?;
    let results = Results::new(absolute(&wishes.out)?);
    let _lock = Lock::take(&results.folder().join(".lock"))?;
    let (plan, listing) = plan(&workspace, &course, &results, wishes, hidden)?;
    results.keep_plan(&plan)?;
    let launcher = Launcher::myself()?;
    let confinement = probe(&launcher)?;
    let jobs = wishes
        .jobs
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let batch = Batch {
        workspace: &workspace,
        course: &course,
        plan: &plan,
        results: &results,
        launcher,
        confinement,
        jobs,
    };
    if !context.json && batch.isolation() == Isolation::Reduced {
        isolation::print(&batch.confinement.layers);
    }
    if wishes.cluster.slurm {
        return super::cluster::submit(context, &batch, &wishes.cluster);
    }
    let summary = batch.run(&|done, of, result| {
        ui::note(format!("{done:>4} of {of}  {}", line(result)));
    })?;
    if context.json {
        ui::print_json(&json!({
            "module": plan.module,
            "results": results.folder().display().to_string(),
            "seed": plan.seed,
            "isolation": batch.isolation(),
            "submissions": plan.submissions.len(),
            "kept": summary.kept,
            "graded": summary.graded,
            "refused": summary.refused,
            "faults": summary.faults,
            "changed": summary.changed,
            "left_alone": listing.left_alone,
            "notes": notes(&plan),
            "seconds": summary.seconds,
        }));
    } else {
        print(&plan, &results, &summary, &listing, batch.isolation());
    }
    Ok(if summary.faults > 0 {
        Outcome::WorkLeft
    } else {
        Outcome::Good
    })
}

/// What will be asked of whom. The seed of an earlier run into the same folder is kept, so that an interrupted run goes on and a regrade
/// asks the same.
fn plan(
    workspace: &Workspace,
    course: &Course,
    results: &Results,
    wishes: &Wishes,
    hidden: Option<PathBuf>,
) -> Result<(Plan, Listing)> {
    let folder = absolute(&wishes.submissions)?;
    let listing = list(&folder)?;
    let before = results.plan()?;
    if let Some(before) = &before
        && before.module != course.module.name
    {
        return Err(Failure::usage(format!(
            "{} holds results of {}",
            results.folder().display(),
            before.module
        ))
        .help("give every module its own folder")
        .into());
    }
    let kept = before.as_ref().map(|plan| plan.seed);
    // The checks are known when they are asked; if nothing is asked, they are those of before.
    let checks = before.as_ref().filter(|plan| plan.exam == course.exam_hash);
    let checks = checks.map(|plan| plan.checks.clone()).unwrap_or_default();
    let plan = Plan {
        format: FORMAT,
        created: before.as_ref().map_or_else(now, |plan| plan.created),
        module: course.module.name.clone(),
        title: course.module.manifest.title.clone(),
        course: course.course_hash.clone(),
        exam: course.exam_hash.clone(),
        toolchain: Toolchain::find(&workspace.root)?.hash,
        seed: wishes.seed.or(kept).unwrap_or_else(random),
        options: Options {
            hidden,
            require_isolation: wishes.require_isolation,
            check_ms: wishes.time_limit.max(1).saturating_mul(1000),
            compile_ms: wishes.compile_limit.max(1).saturating_mul(1000),
            strict_kernels: wishes.strict_kernels,
            ..Options::default()
        },
        submissions_folder: folder,
        exercises: exercises(course),
        checks,
        submissions: listing.submissions.clone(),
    };
    Ok((plan, listing))
}

/// From the system, through the hasher that the standard library seeds with it.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(now())
}

fn absolute(path: &Path) -> Result<PathBuf> {
    Ok(std::path::absolute(path)?)
}

/// What staff should know of how submissions were handed in: id and a sentence.
fn notes(plan: &Plan) -> Vec<(&str, &str)> {
    let all = plan.submissions.iter();
    all.flat_map(|one| {
        one.notes
            .iter()
            .map(|note| (one.id.as_str(), note.as_str()))
    })
    .collect()
}

fn line(result: &SubmissionResult) -> String {
    let verdict = match result.status {
        Status::Graded => format!("{} of {}", points(result.points), result.of),
        Status::Refused => "refused".to_owned(),
        Status::Fault => paint(BAD, "not graded: the machine failed"),
    };
    let look = if result.needs_human {
        "  needs a look"
    } else {
        ""
    };
    format!("{}  {verdict}{look}", result.submission.id)
}

fn print(
    plan: &Plan,
    results: &Results,
    summary: &Summary,
    listing: &Listing,
    isolation: Isolation,
) {
    for name in &listing.left_alone {
        ui::note(format!("not graded: {name}"));
    }
    for (id, note) in notes(plan) {
        ui::note(format!("{id}: {note}"));
    }
    for (id, what) in &summary.changed {
        ui::note(format!(
            "{id}: its result had been changed after it was graded ({what}); it was graded again"
        ));
    }
    let mut parts = vec![format!("{} graded", summary.graded)];
    let more = [
        (summary.kept, "kept from before"),
        (summary.refused, "with nothing to grade"),
        (summary.faults, "not graded"),
    ];
    parts.extend(
        more.into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}")),
    );
    let style = if summary.faults > 0 { BAD } else { GOOD };
    ui::say(format!(
        "{}  {}",
        paint(STRONG, &plan.module),
        paint(style, parts.join(", "))
    ));
    ui::say(paint(
        FAINT,
        format!(
            "seed {}, {isolation:?} isolation, {:.1} s",
            plan.seed, summary.seconds
        )
        .to_lowercase(),
    ));
    ui::say(format!("{}", results.folder().display()));
}
