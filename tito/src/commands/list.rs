//! `tito list`: the twenty modules, from the manifests.

use anyhow::Result;
use serde_json::json;

use super::Context;
use crate::failure::Outcome;
use crate::ui::{self, FAINT, GOOD, STRONG, paint};

/// Prints the course's table of contents.
///
/// # Errors
///
/// An environment error if a manifest is damaged.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut rows = Vec::new();
    for entry in &context.workspace.course.modules {
        let exercises = if context.workspace.is_written(entry) {
            Some(context.workspace.load(entry)?.manifest.exercises.len())
        } else {
            None
        };
        rows.push((entry, exercises));
    }
    if context.json {
        let modules: Vec<_> = rows
            .iter()
            .map(|(entry, exercises)| {
                json!({
                    "number": entry.number,
                    "name": entry.name,
                    "module": entry.folder(),
                    "title": entry.title,
                    "written": exercises.is_some(),
                    "exercises": exercises,
                })
            })
            .collect();
        ui::print_json(&json!({ "modules": modules }));
        return Ok(Outcome::Good);
    }
    let titles = rows.iter().map(|(entry, _)| entry.title.len());
    let width = titles.max().unwrap_or(0);
    for (entry, exercises) in rows {
        let name = format!("{:<18}", entry.folder());
        let title = format!("{:<width$}", entry.title);
        ui::say(match exercises {
            Some(number) => format!(
                "{} {title} {}",
                paint(STRONG, name),
                paint(GOOD, ui::count(number, "exercise"))
            ),
            None => paint(FAINT, format!("{name} {title} not written yet")),
        });
    }
    Ok(Outcome::Good)
}
