//! `tito reset 15`: fresh exercises. What was there is kept; `undo` brings it back.

use anyhow::Result;
use serde_json::json;

use super::Context;
use crate::failure::{Failure, Outcome};
use crate::lock::Lock;
use crate::manifest::exercise_id;
use crate::markers::Marked;
use crate::progress;
use crate::snapshot::Change;
use crate::ui::{self, CODE, FAINT, paint};
use crate::workspace::{Module, SourceFile};

/// Empties every hole of the module, or those of one exercise.
///
/// # Errors
///
/// Those of finding module and exercise; an environment error if files cannot be written, and then they are as before.
pub fn run(context: &Context, module: &str, exercise: Option<&str>) -> Result<Outcome> {
    let module = context.workspace.module(module)?;
    let (label, changes) = match exercise {
        Some(typed) => {
            let id = module.manifest.exercise(typed)?.id.clone();
            (
                format!("reset {} {id}", module.name),
                one_exercise(&module, &id)?,
            )
        }
        None => (format!("reset {}", module.name), whole_module(&module)?),
    };
    let lock = Lock::take(&context.workspace.state())?;
    let done = context.store.apply(&lock, &label, &changes)?;
    let paths: Vec<&str> = done
        .iter()
        .flat_map(|done| done.files.iter().map(|file| file.path.as_str()))
        .collect();
    if context.json {
        ui::print_json(&json!({
            "module": module.name,
            "changed": paths,
            "undo": done.as_ref().map(|done| done.id),
        }));
        return Ok(Outcome::Good);
    }
    if paths.is_empty() {
        ui::say("Nothing to reset: the exercises are fresh.");
        return Ok(Outcome::Good);
    }
    ui::say(format!("{} fresh again:", ui::count(paths.len(), "file")));
    for path in paths {
        ui::say(format!("  {}", paint(CODE, path)));
    }
    ui::say(format!(
        "{} {}",
        paint(FAINT, "Your versions are kept; bring them back:"),
        ui::advice("undo")
    ));
    Ok(Outcome::Good)
}

/// Every file as it was given out, also where the student's own lost its markers: made from the library's twin.
fn whole_module(module: &Module) -> Result<Vec<Change>> {
    let twins = module.twin_files()?;
    twins
        .iter()
        .map(|twin| {
            Ok(Change {
                path: module.shown(&twin.name),
                content: Some(fresh(twin)?.into_bytes()),
            })
        })
        .collect()
}

/// The student's files with the holes of one exercise emptied; a file that lost them is made anew from the library's twin.
fn one_exercise(module: &Module, id: &str) -> Result<Vec<Change>> {
    let mut changes = Vec::new();
    for name in &module.manifest.files {
        let tags = progress::holes_of(module, name);
        if !tags.iter().any(|tag| exercise_id(tag) == id) {
            continue;
        }
        let text = match emptied(module, name, id, &tags) {
            Some(text) => text,
            None => fresh(&module.twin_file(name)?)?,
        };
        changes.push(Change {
            path: module.shown(name),
            content: Some(text.into_bytes()),
        });
    }
    Ok(changes)
}

/// The student's file without the bodies of one exercise; nothing if it does not hold its holes any more.
fn emptied(module: &Module, name: &str, id: &str, tags: &[String]) -> Option<String> {
    let file = module.student_file(name).ok()?;
    let marked = Marked::parse(&file.text).ok()?;
    let mut own = tags.iter().filter(|tag| exercise_id(tag) == id);
    own.all(|tag| marked.hole(tag).is_some())
        .then(|| marked.with_bodies(|hole| (exercise_id(hole.tag) == id).then(|| hole.stub_body())))
}

/// A file as it was given out.
fn fresh(twin: &SourceFile) -> Result<String> {
    let marked = Marked::parse(&twin.text).map_err(|error| {
        Failure::environment(format!("{}:{}: {}", twin.shown, error.line, error.what))
    })?;
    Ok(marked.stub())
}
