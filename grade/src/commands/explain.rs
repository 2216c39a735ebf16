//! `tito grade explain A B`: why two results differ.

use std::path::Path;

use anyhow::Result;
use serde_json::json;
use tito::failure::{Failure, Outcome};
use tito::ui;

use super::Context;
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
    let checks = changed_checks(&first, &second);
    if context.json {
        ui::print_json(&json!({
            "points": [first.points, second.points],
            "causes": causes,
            "checks": checks.iter().map(|(id, a, b)| json!({"id": id, "a": a, "b": b})).collect::<Vec<_>>(),
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
    for (id, a, b) in &checks {
        ui::say(format!("  {id}: {a} -> {b}"));
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

/// Checks that ended differently: id, how it ended in the first, how in the second.
fn changed_checks(a: &SubmissionResult, b: &SubmissionResult) -> Vec<(String, String, String)> {
    let all = |result: &SubmissionResult| {
        let checks = result.exercises.iter().flat_map(|one| &one.checks);
        checks
            .map(|check| (check.id.clone(), check.message.clone()))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    let (a, b) = (all(a), all(b));
    let ids: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let of = |map: &std::collections::BTreeMap<String, String>, id: &String| {
        map.get(id).cloned().unwrap_or_else(|| "not asked".into())
    };
    ids.into_iter()
        .map(|id| (id.clone(), of(&a, id), of(&b, id)))
        .filter(|(_, a, b)| a != b)
        .collect()
}
