//! `tito hint 15`: one hint at a time, from a nudge to nearly the answer.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;

use super::Context;
use crate::failure::{Failure, Outcome};
use crate::lock::{self, Lock};
use crate::progress;
use crate::receipt::{Receipt, basis};
use crate::snapshot::write_atomically;
use crate::ui::{self, CODE, FAINT, STRONG, paint};

/// Prints the next hint, and those that were shown before.
///
/// # Errors
///
/// Those of finding module and exercise; an environment error if what was shown cannot be remembered.
pub fn run(
    context: &Context,
    module: &str,
    exercise: Option<&str>,
    again: bool,
) -> Result<Outcome> {
    let module = context.workspace.module(module)?;
    let files = module.student_files()?;
    let standings = progress::standings(&module, &files)?;
    let receipt = Receipt::load(&context.workspace, &module);
    let standing = match exercise {
        Some(typed) => {
            let wanted = module.manifest.exercise(typed)?;
            standings
                .iter()
                .find(|standing| standing.exercise.id == wanted.id)
        }
        None => progress::next(&standings, receipt.as_ref(), &basis(&module, &files)),
    };
    let number = module.manifest.number;
    let Some(standing) = standing else {
        return Err(
            Failure::usage("every exercise is written; of which do you want hints?")
                .help(ui::advice(&format!("hint {number} {number}.1")))
                .into(),
        );
    };
    let exercise = &standing.exercise;

    let seen = match shown(context, number) {
        _ if again => 0,
        shown => shown.get(&exercise.id).copied().unwrap_or(0),
    };
    let now = (seen + 1).min(exercise.hints.len());
    // A hint helps also where it cannot be remembered.
    if let Err(error) = remember(context, number, &exercise.id, now) {
        ui::note(format!(
            "which hints were shown is not remembered: {error:#}"
        ));
    }

    let hints = &exercise.hints[..now];
    if context.json {
        ui::print_json(&json!({
            "module": module.name,
            "exercise": exercise.id,
            "title": exercise.title,
            "place": standing.place,
            "hints": hints,
            "left": exercise.hints.len() - now,
        }));
        return Ok(Outcome::Good);
    }
    ui::say(format!(
        "{} {}  {}",
        paint(STRONG, &exercise.id),
        paint(STRONG, &exercise.title),
        paint(CODE, &standing.place)
    ));
    for (index, hint) in hints.iter().enumerate() {
        let text = ui::fold(&format!("{}. {hint}", index + 1), 2, 96);
        ui::say(if index + 1 == now {
            text
        } else {
            paint(FAINT, text)
        });
    }
    match exercise.hints.len() - now {
        0 => ui::say(paint(
            FAINT,
            "  That was the last one; the worked example above the function is the next place to look.",
        )),
        left => ui::say(paint(
            FAINT,
            format!("  ({} left)", ui::count(left, "hint")),
        )),
    }
    Ok(Outcome::Good)
}

/// How many hints of each exercise were shown.
fn shown(context: &Context, module: u32) -> BTreeMap<String, usize> {
    let remembered = std::fs::read(path(context, module)).unwrap_or_default();
    serde_json::from_slice(&remembered).unwrap_or_default()
}

fn remember(context: &Context, module: u32, exercise: &str, count: usize) -> Result<()> {
    let _lock = Lock::take(&context.workspace.state())?;
    let mut all = shown(context, module);
    all.insert(exercise.to_owned(), count);
    let path = path(context, module);
    write_atomically(&path, &serde_json::to_vec_pretty(&all)?)
        .map_err(|error| lock::cannot_write(&path, &error))?;
    Ok(())
}

fn path(context: &Context, module: u32) -> PathBuf {
    let folder = context.workspace.state().join("hints");
    folder.join(format!("{module:02}.json"))
}
