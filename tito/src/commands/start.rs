//! `tito start 15`: the beginning of the lesson, the file to open, the first exercise.

use anyhow::Result;
use serde_json::json;

use super::Context;
use crate::failure::Outcome;
use crate::manifest::Entry;
use crate::progress;
use crate::receipt::{Receipt, basis};
use crate::ui::{self, CODE, FAINT, STRONG, paint};

/// Lines of the lesson that are shown; the rest is for the editor.
const LINES: usize = 40;

/// Prints where to begin.
///
/// # Errors
///
/// Those of finding the module and reading its files.
pub fn run(context: &Context, module: &str) -> Result<Outcome> {
    let module = context.workspace.module(module)?;
    let files = module.student_files()?;
    let standings = progress::standings(&module, &files)?;
    let receipt = Receipt::load(&context.workspace, &module);
    let next = progress::next(&standings, receipt.as_ref(), &basis(&module, &files));
    let about = module.shown("ABOUT.md");
    let lesson = std::fs::read_to_string(module.root.join(&about)).ok();
    let prerequisites: Vec<String> = context
        .workspace
        .course
        .modules
        .iter()
        .filter(|entry| module.manifest.prerequisites.contains(&entry.number))
        .map(Entry::folder)
        .collect();
    let number = module.manifest.number;
    if context.json {
        ui::print_json(&json!({
            "module": module.name,
            "title": module.manifest.title,
            "lesson": lesson.is_some().then_some(&about),
            "root": module.shown(&module.manifest.root),
            "prerequisites": module.manifest.prerequisites,
            "next": next.map(|next| json!({
                "id": next.exercise.id,
                "title": next.exercise.title,
                "place": next.place,
            })),
        }));
        return Ok(Outcome::Good);
    }
    ui::say(format!(
        "{}  {}\n",
        paint(STRONG, &module.name),
        module.manifest.title
    ));
    if let Some(lesson) = lesson {
        ui::say(opening(&lesson));
        ui::say(format!(
            "\n{} {}",
            paint(FAINT, "The whole lesson:"),
            paint(CODE, &about)
        ));
    }
    if !prerequisites.is_empty() {
        ui::say(format!(
            "{} {}, as the library has them",
            paint(FAINT, "Builds on:"),
            prerequisites.join(", ")
        ));
    }
    ui::say(format!(
        "{} {}",
        paint(FAINT, "The map of the files:"),
        paint(CODE, module.shown(&module.manifest.root))
    ));
    match next {
        Some(next) => {
            let id = &next.exercise.id;
            ui::say(format!(
                "\n{} {id} {}\n  1. open     {}\n  2. replace  the line between BEGIN SOLUTION and END SOLUTION\n  3. run      {}\n     stuck?   {}",
                paint(STRONG, "Next exercise:"),
                next.exercise.title,
                paint(CODE, &next.place),
                ui::advice(&format!("test {number} {id}")),
                ui::advice(&format!("hint {number} {id}")),
            ));
        }
        None => ui::say(format!(
            "\nEvery exercise is written. Check them: {}",
            ui::advice(&format!("test {}", module.name))
        )),
    }
    Ok(Outcome::Good)
}

/// The lesson up to its second section, or its first lines.
fn opening(lesson: &str) -> String {
    let mut sections = 0;
    let lines = lesson.lines().take(LINES).take_while(|line| {
        sections += usize::from(line.starts_with("## "));
        sections < 2
    });
    lines.collect::<Vec<_>>().join("\n").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_opening_ends_before_the_second_section() {
        let lesson = "# Title\nwords\n## One\nmore\n\n## Two\nlast\n";
        assert_eq!(opening(lesson), "# Title\nwords\n## One\nmore");
    }
}
