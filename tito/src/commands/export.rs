//! `tito export 15_quantization`: the student's files become the library's. All of them or none, and never without a way back.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::Context;
use super::test::{compile_refusal, student};
use crate::dependencies;
use crate::exam;
use crate::exported::{Export, Exported};
use crate::failure::{Failure, Outcome};
use crate::lock::Lock;
use crate::manifest::Exercise;
use crate::markers::Marked;
use crate::progress::{self, Standing};
use crate::receipt::{self, Receipt, points};
use crate::snapshot::{Change, Transaction, hash, now};
use crate::subject::{self, Build};
use crate::ui::{self, CODE, GOOD, paint};
use crate::workspace::{Module, SourceFile};

/// The library's file to what it will hold.
type Contents = BTreeMap<String, Vec<u8>>;

/// Exports a module.
///
/// # Errors
///
/// Work left, with the reason, while exercises are unfinished, text outside the markers is changed, files do not compile or checks fail;
/// an environment error if files cannot be written, and then they are as before.
pub fn run(context: &Context, module: &str, time_limit: u64) -> Result<Outcome> {
    let module = context.workspace.module(module)?;
    let files = module.student_files()?;
    let twins = module.twin_files()?;
    let standings = progress::standings(&module, &files)?;
    refuse_unfinished(&module, &standings)?;
    refuse_changed(&module, &files, &twins)?;
    pass_the_exam(context, &module, &files, time_limit)?;

    let (contents, kept) = contents(&files, &twins)?;
    let lock = Lock::take(&context.workspace.state())?;
    if module.student_files()? != files || module.twin_files()? != twins {
        return Err(Failure::work(
            "the files changed while they were tested; nothing was exported",
        )
        .help(ui::advice(&format!("export {}", module.name)))
        .into());
    }
    let done = write(context, &lock, &module, &twins, contents)?;
    tell(context, &module, &twins, &kept, done.as_ref());
    Ok(Outcome::Good)
}

/// Puts the library's own files back.
///
/// # Errors
///
/// Usage, if the module was not exported; an environment error if files cannot be written, and then they are as before.
pub fn restore(context: &Context, module: &str) -> Result<Outcome> {
    let module = context.workspace.module(module)?;
    let lock = Lock::take(&context.workspace.state())?;
    let Some(export) = Export::load(&module)? else {
        return Err(Failure::usage(format!(
            "module {} was not exported: the library holds its own files",
            module.name
        ))
        .into());
    };
    let mut changes = vec![Change {
        path: Export::path(&module),
        content: None,
    }];
    for (path, exported) in &export.files {
        changes.push(Change {
            path: path.clone(),
            content: Some(context.store.get(&exported.original)?),
        });
    }
    let label = format!("export --restore {}", module.name);
    let done = context.store.apply(&lock, &label, &changes)?;
    let paths: Vec<&String> = export.files.keys().collect();
    if context.json {
        ui::print_json(&json!({
            "module": module.name,
            "restored": paths,
            "undo": done.map(|done| done.id),
        }));
        return Ok(Outcome::Good);
    }
    ui::say(format!(
        "{} holds its own {} again. Your files in {} are as they were.",
        paint(CODE, &module.manifest.target),
        ui::count(paths.len(), "file"),
        paint(CODE, module.folder())
    ));
    ui::say(format!("Changed your mind? {}", ui::advice("undo")));
    Ok(Outcome::Good)
}

/// Everything but the bonus must be written.
fn refuse_unfinished(module: &Module, standings: &[Standing]) -> Result<()> {
    let waiting: Vec<&Standing> = standings
        .iter()
        .filter(|standing| !standing.is_written() && !standing.exercise.bonus)
        .collect();
    let Some(first) = waiting.first() else {
        return Ok(());
    };
    let ids: Vec<&str> = waiting
        .iter()
        .map(|standing| standing.exercise.id.as_str())
        .collect();
    Err(Failure::work(format!(
        "not exported: {} unfinished ({})",
        ui::count(ids.len(), "exercise"),
        ids.join(", ")
    ))
    .help(format!(
        "next: {}\n{}",
        first.place,
        ui::advice(&format!(
            "hint {} {}",
            module.manifest.number, first.exercise.id
        ))
    ))
    .into())
}

/// Outside the markers the student's files and the library's are the same bytes, for ever.
fn refuse_changed(module: &Module, files: &[SourceFile], twins: &[SourceFile]) -> Result<()> {
    let mut diffs = Vec::new();
    for (file, twin) in files.iter().zip(twins) {
        let (mine, theirs) = (progress::parse(file)?, parse_twin(twin)?);
        if mine.outside() != theirs.outside() {
            // Compared with the holes emptied, so that only what is wrong is shown.
            diffs.push(ui::diff(&file.shown, &theirs.stub(), &mine.stub()));
        }
    }
    if diffs.is_empty() {
        return Ok(());
    }
    Err(Failure::work(format!(
        "not exported: text outside the markers changed in {}\n{}\n",
        ui::count(diffs.len(), "file"),
        diffs.join("\n")
    ))
    .help(format!(
        "change these lines back; your own helpers belong between the markers.\nOr begin the files anew, yours are kept: {}",
        ui::advice(&format!("reset {}", module.manifest.number))
    ))
    .into())
}

/// Every check that counts must pass.
fn pass_the_exam(
    context: &Context,
    module: &Module,
    files: &[SourceFile],
    time_limit: u64,
) -> Result<()> {
    let record = exam::load(module)?;
    let dependencies = dependencies::build(module)?;
    let runner = match subject::build(module, &dependencies, &student(module))? {
        Build::Ready(runner) => runner,
        Build::Errors(errors) => return Err(compile_refusal("not exported", &errors).into()),
    };
    let exercises: Vec<&Exercise> = module.manifest.exercises.iter().collect();
    let limit = Duration::from_secs(time_limit.max(1));
    let graded = exam::grade(&runner, &record, &exercises, limit)?;
    Receipt::keep(
        &context.workspace,
        module,
        &graded,
        &receipt::basis(module, files),
    )?;
    let failed: Vec<String> = graded
        .iter()
        .filter(|graded| !graded.exercise.bonus && !graded.is_full())
        .map(|graded| graded.exercise.id.clone())
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    let earned: f64 = graded
        .iter()
        .filter(|graded| !graded.exercise.bonus)
        .map(|graded| graded.points)
        .sum();
    Err(Failure::work(format!(
        "not exported: checks fail in {} ({} points so far)",
        failed.join(", "),
        points(earned)
    ))
    .help(format!(
        "see why: {}",
        ui::advice(&format!("test {}", module.name))
    ))
    .into())
}

/// What the library's files will hold, and the bonus holes for which it keeps its own body.
///
/// An unfinished bonus would be a `todo!` in the library, where anyone may call it.
fn contents(files: &[SourceFile], twins: &[SourceFile]) -> Result<(Contents, Vec<String>)> {
    let mut contents = Contents::new();
    let mut kept = Vec::new();
    for (file, twin) in files.iter().zip(twins) {
        let (mine, theirs) = (progress::parse(file)?, parse_twin(twin)?);
        let text = mine.with_bodies(|hole| {
            let own = theirs.hole(hole.tag).filter(|_| mine.is_unfinished(hole))?;
            kept.push(hole.tag.to_owned());
            Some(theirs.body(own))
        });
        contents.insert(twin.shown.clone(), text.into_bytes());
    }
    Ok((contents, kept))
}

fn write(
    context: &Context,
    lock: &Lock,
    module: &Module,
    twins: &[SourceFile],
    contents: Contents,
) -> Result<Option<Transaction>> {
    let earlier = Export::load(module)?;
    let mut export = Export {
        module: module.name.clone(),
        time: now(),
        files: BTreeMap::new(),
    };
    let mut changes = Vec::new();
    let mut is_new = earlier.is_none();
    for (path, content) in contents {
        let before = twins
            .iter()
            .find(|twin| twin.shown == path)
            .map_or_else(String::new, |twin| hash(twin.text.as_bytes()));
        // What was there before the first export is the library's own, whatever was exported since. If the file is neither, the
        // library itself changed: then that is its own.
        let original = earlier
            .as_ref()
            .and_then(|earlier| earlier.files.get(&path))
            .filter(|earlier| earlier.student == before)
            .map_or(before.clone(), |earlier| earlier.original.clone());
        // An original that the export does not change would not be kept by the transaction.
        context
            .store
            .keep(lock, twins.iter().find(|twin| twin.shown == path))?;
        let student = hash(&content);
        is_new |= student != before;
        export
            .files
            .insert(path.clone(), Exported { original, student });
        changes.push(Change {
            path,
            content: Some(content),
        });
    }
    if !is_new {
        return Ok(None);
    }
    changes.push(export.change(module)?);
    context
        .store
        .apply(lock, &format!("export {}", module.name), &changes)
}

/// Whether the library has a body of its own where a bonus is unfinished: in a student's repository it has none.
fn has_own(twins: &[SourceFile], tag: &str) -> bool {
    twins.iter().any(|twin| {
        Marked::parse(&twin.text).is_ok_and(|marked| {
            marked
                .hole(tag)
                .is_some_and(|hole| !marked.is_unfinished(hole))
        })
    })
}

fn tell(
    context: &Context,
    module: &Module,
    twins: &[SourceFile],
    kept: &[String],
    done: Option<&Transaction>,
) {
    if context.json {
        let export = Export::load(module).ok().flatten();
        ui::print_json(&json!({
            "module": module.name,
            "exported": export.map(|export| export.files),
            "changed": done.is_some(),
            "kept_from_library": kept,
            "undo": done.map(|done| done.id),
        }));
        return;
    }
    match done {
        None => ui::say("Nothing to do: the library holds these files already."),
        Some(_) => ui::say(format!(
            "{} {} now runs on your code: labs and later modules too.",
            paint(GOOD, "Exported."),
            paint(CODE, &module.manifest.target)
        )),
    }
    if !kept.is_empty() {
        let (own, empty): (Vec<&str>, Vec<&str>) = kept
            .iter()
            .map(String::as_str)
            .partition(|tag| has_own(twins, tag));
        if !own.is_empty() {
            ui::say(format!(
                "The bonus {} is unfinished: there the library keeps its own code.",
                own.join(", ")
            ));
        }
        if !empty.is_empty() {
            ui::say(format!(
                "The bonus {} is unfinished, here and in the library: what needs it stops there.",
                empty.join(", ")
            ));
        }
    }
    ui::say(format!(
        "See it at work: {}    back to the library's own: {}",
        ui::advice(&format!("lab {}", module.name)),
        ui::advice(&format!("export --restore {}", module.name))
    ));
}

fn parse_twin(twin: &SourceFile) -> Result<Marked<'_>> {
    Ok(Marked::parse(&twin.text).map_err(|error| {
        Failure::environment(format!("{}:{}: {}", twin.shown, error.line, error.what))
    })?)
}
