//! `tito test 15_quantization`: build the student's files, put the exam's questions to them, say what came.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use serde_json::json;

use super::Context;
use crate::compiler_words;
use crate::dependencies;
use crate::exam;
use crate::failure::{Failure, Outcome};
use crate::manifest::Exercise;
use crate::progress;
use crate::receipt::{self, Receipt};
use crate::report::Report;
use crate::subject::{self, Build, CompileError, Source};
use crate::ui::{self, FAINT, paint};
use crate::workspace::Module;

/// How a test is wanted.
pub struct Wishes<'a> {
    /// Only this exercise.
    pub exercise: Option<&'a str>,
    /// Again on every save.
    pub watch: bool,
    /// The check of it to show first.
    pub check: Option<&'a str>,
    /// Seconds a check may take.
    pub time_limit: u64,
    /// Show every failed check.
    pub all: bool,
}

/// Tests a module, once or on every save.
///
/// # Errors
///
/// Those of finding module and exercise, of the markers, and of the environment.
pub fn run(context: &Context, module: &str, wishes: &Wishes<'_>) -> Result<Outcome> {
    let module = context.workspace.module(module)?;
    super::refuse_empty_libraries(context, &module.manifest.prerequisites, &module.name)?;
    let (only, check) = match wishes
        .exercise
        .map(|typed| typed.split_once('/').ok_or(typed))
    {
        Some(Ok((typed, name))) => {
            let exercise = module.manifest.exercise(typed)?.clone();
            let check = check(&module, &exercise, name)?;
            (Some(exercise), Some(check))
        }
        Some(Err(typed)) => (Some(module.manifest.exercise(typed)?.clone()), None),
        None => (None, None),
    };
    let wishes = &Wishes {
        check: check.as_deref(),
        ..*wishes
    };
    if !wishes.watch {
        return once(context, &module, only.as_ref(), wishes);
    }
    loop {
        let saved = last_saved(&module);
        // A file that cannot be read or parsed now may be whole again after the next save.
        if let Err(error) = once(context, &module, only.as_ref(), wishes) {
            crate::failure::report(&error, context.json);
        }
        ui::note(paint(FAINT, "watching; Ctrl-C ends it"));
        while last_saved(&module) == saved {
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// The whole name of a check of an exercise.
fn check(module: &Module, exercise: &Exercise, name: &str) -> Result<String> {
    let wanted = format!("{}/{name}", exercise.id);
    let known: Vec<String> = exam::load(module)?
        .checks
        .into_iter()
        .filter(|check| check.exercise == exercise.id)
        .map(|check| check.id)
        .collect();
    if known.contains(&wanted) {
        return Ok(wanted);
    }
    Err(
        Failure::usage(format!("exercise {} has no check `{name}`", exercise.id))
            .help(format!("its checks: {}", known.join(", ")))
            .into(),
    )
}

fn once(
    context: &Context,
    module: &Module,
    only: Option<&Exercise>,
    wishes: &Wishes<'_>,
) -> Result<Outcome> {
    let record = exam::load(module)?;
    let files = module.student_files()?;
    let standings = progress::standings(module, &files)?;
    let dependencies = dependencies::build(module)?;
    let runner = match subject::build(module, &dependencies, &student(module))? {
        Build::Ready(runner) => runner,
        Build::Errors(errors) => return Ok(does_not_compile(context, module, &errors)),
    };
    let exercises: Vec<&Exercise> = match only {
        Some(exercise) => vec![exercise],
        None => module.manifest.exercises.iter().collect(),
    };
    let limit = Duration::from_secs(wishes.time_limit.max(1));
    let graded = exam::grade(&runner, &record, &exercises, limit)?;

    let basis = receipt::basis(module, &files);
    let kept = Receipt::keep(&context.workspace, module, &graded, &basis);

    let report = Report {
        module,
        files: &files,
        standings: &standings,
        graded: &graded,
        all: wishes.all,
        check: wishes.check,
    };
    if context.json {
        ui::print_json(&report.json());
    } else {
        report.print();
        if let Some(check) = wishes.check {
            say_check(check, &graded);
        }
    }
    // The verdict does not depend on whether it can be remembered.
    if let Err(error) = kept {
        ui::note(format!("this result is not remembered: {error:#}"));
    }
    // The bonus is beside the hundred, also here; alone it counts for itself.
    let done = graded
        .iter()
        .filter(|graded| only.is_some() || !graded.exercise.bonus)
        .all(exam::Graded::is_full);
    Ok(if done {
        Outcome::Good
    } else {
        Outcome::WorkLeft
    })
}

/// A check is asked and counted with its exercise; here is how the one named did.
fn say_check(check: &str, graded: &[exam::Graded<'_>]) {
    let mut all = graded.iter().flat_map(|graded| &graded.checks);
    let passed = all.any(|checked| checked.record.id == check && checked.verdict.passed);
    let verb = if passed { "passed" } else { "failed" };
    ui::say(format!(
        "\n{check} {verb}; a check is tested with its whole exercise, which earns the points."
    ));
}

/// The student's crate.
pub fn student(module: &Module) -> Source {
    Source {
        who: "student".into(),
        root: module.shown(&module.manifest.root).into(),
        hidden: false,
        is_edited: true,
    }
}

fn does_not_compile(context: &Context, module: &Module, errors: &[CompileError]) -> Outcome {
    if context.json {
        ui::print_json(&json!({
            "module": module.name,
            "compiled": false,
            "points": 0,
            "compile_errors": errors,
        }));
    } else {
        compiler_words::print_compile_errors(errors);
    }
    Outcome::WorkLeft
}

/// The refusal of a command that needs files that compile.
pub fn compile_refusal(what: &str, errors: &[CompileError]) -> Failure {
    let first = errors.first().map_or("", |error| error.rendered.trim_end());
    Failure::work(format!(
        "{what}: your files do not compile, {}\n{first}",
        ui::count(errors.len(), "error")
    ))
}

/// When a file of the module was saved last.
fn last_saved(module: &Module) -> Option<Vec<(std::ffi::OsString, SystemTime)>> {
    let folder = std::fs::read_dir(module.root.join(module.folder())).ok()?;
    let mut times: Vec<_> = folder
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let is_source = entry.path().extension().is_some_and(|kind| kind == "rs");
            let time = entry.metadata().ok()?.modified().ok()?;
            is_source.then(|| (entry.file_name(), time))
        })
        .collect();
    times.sort();
    Some(times)
}
