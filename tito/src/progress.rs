//! How far a student is in a module: which holes still wait, and where the next one is.

use anyhow::Result;

use crate::failure::Failure;
use crate::manifest::Exercise;
use crate::markers::Marked;
use crate::receipt::Receipt;
use crate::ui;
use crate::workspace::{Module, SourceFile, line_of_item};

/// An exercise and what its file says about it.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The exercise.
    pub exercise: Exercise,
    /// Tags of its holes that still wait.
    pub waiting: Vec<String>,
    /// `modules/15_quantization/quantize.rs:31`: the first hole that waits, or the item.
    pub place: String,
}

impl Standing {
    /// True if no hole of it waits.
    pub fn is_written(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// Every exercise of a module, in the order of the lesson.
///
/// # Errors
///
/// Work left, if the markers of a file were damaged: file and line.
pub fn standings(module: &Module, files: &[SourceFile]) -> Result<Vec<Standing>> {
    refuse_lost(module, files)?;
    let mut all: Vec<Standing> = Vec::new();
    for exercise in &module.manifest.exercises {
        let mut waiting = Vec::new();
        let mut place = None;
        for file in files {
            let marked = parse(file)?;
            for hole in marked.holes() {
                let belongs = crate::manifest::exercise_id(hole.tag) == exercise.id;
                if belongs && marked.is_unfinished(hole) {
                    place.get_or_insert(format!("{}:{}", file.shown, hole.line()));
                    waiting.push(hole.tag.to_owned());
                }
            }
        }
        let place =
            place.unwrap_or_else(|| place_of(module, files, &exercise.file, &exercise.item));
        all.push(Standing {
            exercise: exercise.clone(),
            waiting,
            place,
        });
    }
    Ok(all)
}

/// Every hole the library's file has must be in the student's: else the compiler would complain about files nobody touched.
fn refuse_lost(module: &Module, files: &[SourceFile]) -> Result<()> {
    for file in files {
        let mine = parse(file)?;
        let lost: Vec<String> = holes_of(module, &file.name)
            .into_iter()
            .filter(|tag| mine.hole(tag).is_none())
            .collect();
        if !lost.is_empty() {
            let what = if lost.len() == 1 { "hole" } else { "holes" };
            return Err(Failure::work(format!(
                "{} no longer holds the {what} of {}: no line `// BEGIN SOLUTION {}`",
                file.shown,
                lost.join(", "),
                lost[0]
            ))
            .help(module.way_back(&file.name))
            .into());
        }
    }
    Ok(())
}

/// The tags of the holes that an exercise file was given out with; none where the library's own file tells nothing.
pub fn holes_of(module: &Module, file: &str) -> Vec<String> {
    let Ok(twin) = module.twin_file(file) else {
        return Vec::new();
    };
    Marked::parse(&twin.text).map_or_else(
        |_| Vec::new(),
        |marked| {
            marked
                .holes()
                .iter()
                .map(|hole| hole.tag.to_owned())
                .collect()
        },
    )
}

/// Cuts a file of the student's at its markers.
///
/// # Errors
///
/// Work left: file, line and how to get the file back.
pub fn parse(file: &SourceFile) -> Result<Marked<'_>> {
    Ok(Marked::parse(&file.text).map_err(|error| {
        let module = file.shown.split('/').nth(1).unwrap_or_default();
        Failure::work(format!("{}:{}: {}", file.shown, error.line, error.what)).help(format!(
            "put the lines with BEGIN SOLUTION and END SOLUTION back as they were,\nor begin the files anew (yours are kept): {}",
            ui::advice(&format!("reset {module}"))
        ))
    })?)
}

/// File and line of an item of the student's.
pub fn place_of(module: &Module, files: &[SourceFile], file: &str, item: &str) -> String {
    let line = files
        .iter()
        .find(|known| known.name == file)
        .and_then(|known| line_of_item(&known.text, item));
    match line {
        Some(line) => format!("{}:{line}", module.shown(file)),
        None => module.shown(file),
    }
}

/// The exercise to do next: the first, bonus last, that waits or did not earn all its points in a test on just this basis.
pub fn next<'a>(
    standings: &'a [Standing],
    receipt: Option<&Receipt>,
    basis: &str,
) -> Option<&'a Standing> {
    let open = |standing: &&Standing| {
        let earned = receipt.and_then(|receipt| receipt.current(&standing.exercise.id, basis));
        !standing.is_written() || earned.is_some_and(|earned| !earned.is_full())
    };
    let with = |bonus: bool| {
        standings
            .iter()
            .filter(move |standing| standing.exercise.bonus == bonus)
            .find(open)
    };
    with(false).or_else(|| with(true))
}
