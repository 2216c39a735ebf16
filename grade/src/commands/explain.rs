//! `tito grade explain A B`: why two results differ.

use std::path::Path;

use anyhow::Result;
use serde_json::json;
use tito::failure::{Failure, Outcome};
use tito::ui;

use super::Context;
use crate::compare::changes;
use crate::model::SubmissionResult;
use crate::receipts::differences;
use crate::results;

/// Compares two results.
///
/// # Errors
///
/// A usage error if one is missing or has no receipt.
pub fn run(context: &Context<'_>, a: &Path, b: &Path) -> Result<Outcome> {
    let (first, second) = (load(a)?, load(b)?);
    let receipt = |result: &SubmissionResult, path: &Path| {
        result.receipt.clone().ok_or_else(|| {
            Failure::usage(format!(
                "{} has no receipt: it was never graded",
                path.display()
            ))
        })
    };
    let causes = differences(&receipt(&first, a)?, &receipt(&second, b)?);
    let changes = changes(&first, &second);
    if context.json {
        ui::print_json(&json!({
            "points": [first.points, second.points],
            "causes": causes,
            "changes": changes,
        }));
        return Ok(Outcome::Good);
    }
    let points = tito::receipt::points;
    ui::say(format!(
        "{} -> {} of {} points",
        points(first.points),
        points(second.points),
        second.of
    ));
    if causes.is_empty() {
        ui::say("everything the grade depends on is the same");
    }
    for cause in &causes {
        ui::say(format!("  changed: {cause}"));
    }
    for change in &changes {
        let (before, after) = (&change.before, &change.after);
        ui::say(format!("  {}: {before} -> {after}", change.what));
    }
    Ok(Outcome::Good)
}

/// Reads a result file.
///
/// # Errors
///
/// A usage error if it is not there or no result.
pub fn load(path: &Path) -> Result<SubmissionResult> {
    let read = results::read(path).map_err(|_| {
        Failure::usage(format!("{} is no result of a student", path.display()))
            .help("results are RESULTS/students/NAME.json")
    })?;
    read.ok_or_else(|| Failure::usage(format!("there is no {}", path.display())).into())
}
