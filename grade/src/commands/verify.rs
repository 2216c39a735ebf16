//! `tito grade verify RESULT`: the same submission, graded again.

use std::path::Path;

use anyhow::Result;
use serde_json::json;
use tito::failure::{Failure, Outcome};
use tito::ui::{self, BAD, GOOD, paint};

use super::{Context, explain};
use crate::batch::Batch;
use crate::compare::changes;
use crate::course::Course;
use crate::model::Plan;
use crate::receipts::differences;
use crate::results::Results;
use crate::sandbox::{Launcher, probe};
use crate::seal;
use crate::workshop::Toolchain;

/// Grades the submission of a result again, from the same folder with the same seed, and compares all that makes the grade.
///
/// # Errors
///
/// Usage, if the file is no result beside its plan; environment, if something of the course does not compile.
pub fn run(context: &Context<'_>, path: &Path) -> Result<Outcome> {
    let before = explain::load(path)?;
    let old = before.receipt.clone().ok_or_else(|| {
        Failure::usage(format!(
            "{} has no receipt: it was never graded",
            path.display()
        ))
    })?;
    let plan = path
        .parent()
        .and_then(Path::parent)
        .map(|folder| Results::new(folder).plan())
        .transpose()?
        .flatten()
        .ok_or_else(|| Failure::usage(format!("{} lies beside no plan.json", path.display())))?;
    let workspace = context.workspace()?;
    let course = Course::load(&workspace, &plan.module, plan.options.hidden.as_deref())?;
    let plan = Plan {
        toolchain: Toolchain::find(&workspace.root)?.hash,
        submissions: vec![before.submission.clone()],
        ..plan
    };
    let scratch = tempfile::tempdir()?;
    let results = Results::new(scratch.path());
    let launcher = Launcher::myself()?;
    let confinement = probe(&launcher)?;
    let batch = Batch {
        workspace: &workspace,
        course: &course,
        plan: &plan,
        results: &results,
        launcher,
        confinement,
        jobs: 1,
    };
    batch.run(&|_, _, _| {})?;
    let after = results
        .get(&before.submission.id)?
        .ok_or_else(|| Failure::environment("the submission was not graded"))?;
    let new = after.receipt.clone().ok_or_else(|| {
        Failure::environment(format!(
            "it could not be graded again: {}",
            after.reasons.join("; ")
        ))
    })?;
    let causes = differences(&old, &new);
    let by_hand = seal::problems(&before);
    let changes = changes(&before, &after);
    let same = changes.is_empty() && by_hand.is_empty();
    if context.json {
        ui::print_json(&json!({
            "same": same,
            "points": [before.points, after.points],
            "causes": causes,
            "changed_by_hand": by_hand,
            "changes": changes,
        }));
    } else {
        let points = tito::receipt::points;
        let word = if same {
            paint(GOOD, "the same")
        } else {
            paint(BAD, "another")
        };
        ui::say(format!(
            "{}: {word} result, {} and {} of {} points",
            before.submission.id,
            points(before.points),
            points(after.points),
            after.of
        ));
        for what in &by_hand {
            ui::say(format!(
                "  the file was changed after it was graded: {what}"
            ));
        }
        for change in &changes {
            let (before, after) = (&change.before, &change.after);
            ui::say(format!("  {}: {before} -> {after}", change.what));
        }
        for cause in &causes {
            ui::say(format!("  changed since: {cause}"));
        }
    }
    Ok(if same {
        Outcome::Good
    } else {
        Outcome::WorkLeft
    })
}
