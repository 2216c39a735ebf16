//! `tito status`: where am I, and what is next. Reads files only; builds and runs nothing.

use anyhow::Result;
use serde_json::{Value, json};

use super::Context;
use crate::failure::Outcome;
use crate::progress::{self, Standing};
use crate::receipt::{self, Receipt, points};
use crate::ui::{self, CODE, FAINT, GOOD, OPEN, STRONG, paint};
use crate::workspace::Module;

/// Prints a line per written module and the next step.
///
/// # Errors
///
/// Those of reading the manifests and the student's files.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut documents = Vec::new();
    let written = context.workspace.written();
    let all = context.workspace.course.modules.len();
    if !context.json {
        let (number, verb) = (written.len(), if written.len() == 1 { "is" } else { "are" });
        ui::say(format!(
            "{}  {}",
            paint(STRONG, "TinyTorch in Rust"),
            paint(FAINT, format!("{number} of {all} modules {verb} written"))
        ));
    }
    for entry in written {
        let module = context.workspace.load(entry)?;
        let files = module.student_files()?;
        let standings = progress::standings(&module, &files)?;
        let receipt = Receipt::load(&context.workspace, &module);
        let basis = receipt::basis(&module, &files);
        if context.json {
            documents.push(document(
                context,
                &module,
                &basis,
                &standings,
                receipt.as_ref(),
            )?);
        } else {
            describe(context, &module, &basis, &standings, receipt.as_ref())?;
        }
    }
    if context.json {
        ui::print_json(&json!({ "modules_in_course": all, "modules": documents }));
    }
    Ok(Outcome::Good)
}

fn describe(
    context: &Context,
    module: &Module,
    basis: &str,
    standings: &[Standing],
    receipt: Option<&Receipt>,
) -> Result<()> {
    let done = standings
        .iter()
        .filter(|standing| standing.is_written())
        .count();
    ui::say(format!(
        "\n{}  {}",
        paint(STRONG, &module.name),
        module.manifest.title
    ));
    ui::say(format!(
        "  {} of {} exercises written",
        done,
        standings.len()
    ));
    match receipt {
        None => ui::say("  not tested yet"),
        Some(receipt) => {
            let (earned, bonus) = receipt.points();
            let bonus = if bonus > 0.0 {
                format!(" and {} bonus", points(bonus))
            } else {
                String::new()
            };
            let since = if receipt.is_current(basis) {
                ""
            } else {
                " (files changed since)"
            };
            let style = if earned >= 100.0 { GOOD } else { OPEN };
            ui::say(format!(
                "  last test: {}{since}",
                paint(style, format!("{} of 100 points{bonus}", points(earned)))
            ));
        }
    }
    if super::is_exported(context, module)? {
        ui::say("  exported: the library runs on your code");
    }
    let next = progress::next(standings, receipt, basis);
    if next.is_none_or(|next| next.exercise.bonus) {
        ui::say(format!(
            "  next: {}",
            ui::advice(&next_command(context, module, basis, receipt)?)
        ));
    }
    if let Some(next) = next {
        let id = &next.exercise.id;
        let number = module.manifest.number;
        let word = if next.exercise.bonus { "bonus" } else { "next" };
        ui::say(format!(
            "  {word}: {id} {}, {}\n        {}    {}",
            next.exercise.title,
            paint(CODE, &next.place),
            ui::advice(&format!("hint {number} {id}")),
            ui::advice(&format!("test {number} {id}")),
        ));
    }
    Ok(())
}

fn next_command(
    context: &Context,
    module: &Module,
    basis: &str,
    receipt: Option<&Receipt>,
) -> Result<String> {
    let tested = receipt.is_some_and(|receipt| {
        receipt.is_current(basis) && receipt.exercises.len() == module.manifest.exercises.len()
    });
    let verb = if !tested {
        "test"
    } else if super::is_exported(context, module)? {
        "lab"
    } else {
        "export"
    };
    Ok(format!("{verb} {}", module.name))
}

fn document(
    context: &Context,
    module: &Module,
    basis: &str,
    standings: &[Standing],
    receipt: Option<&Receipt>,
) -> Result<Value> {
    let exercises: Vec<Value> = standings
        .iter()
        .map(|standing| {
            let earned = receipt.and_then(|receipt| receipt.exercises.get(&standing.exercise.id));
            json!({
                "id": standing.exercise.id,
                "title": standing.exercise.title,
                "bonus": standing.exercise.bonus,
                "of": standing.exercise.points,
                "written": standing.is_written(),
                "points": earned.map(|earned| earned.points),
                "place": standing.place,
            })
        })
        .collect();
    let points = receipt.map(Receipt::points);
    let next = progress::next(standings, receipt, basis);
    Ok(json!({
        "module": module.name,
        "number": module.manifest.number,
        "points": points.map(|(points, _)| points),
        "bonus": points.map(|(_, bonus)| bonus),
        "changed_since_test": receipt.is_some_and(|receipt| !receipt.is_current(basis)),
        "exported": super::is_exported(context, module)?,
        "next": next.map(|next| &next.exercise.id),
        "exercises": exercises,
    }))
}
