//! One command per file. Each prints what it found and returns how it ended.

pub mod dev;
mod doctor;
mod export;
mod grade;
mod hint;
mod kernels;
mod lab;
mod list;
mod release;
mod reset;
mod start;
mod status;
mod submit;
mod test;
mod undo;

use anyhow::Result;

use crate::cli::{Arguments, Command};
use crate::exported::Export;
use crate::failure::{Failure, Outcome};
use crate::lock::Lock;
use crate::snapshot::Store;
use crate::ui;
use crate::workspace::{Module, Workspace};

/// What every command gets.
pub struct Context {
    /// Print one JSON document.
    pub json: bool,
    /// The course.
    pub workspace: Workspace,
    /// The memory of what was changed.
    pub store: Store,
}

/// Runs the command that was asked for.
///
/// # Errors
///
/// Whatever stopped it; see `failure`.
pub fn run(arguments: Arguments) -> Result<Outcome> {
    let workspace = Workspace::find(arguments.workspace.as_deref())?;
    let context = Context {
        json: arguments.json,
        store: Store::new(&workspace.root),
        workspace,
    };
    complete_interrupted(&context)?;
    match arguments.command.unwrap_or(Command::Status) {
        Command::Status => status::run(&context),
        Command::List => list::run(&context),
        Command::Start { module } => start::run(&context, &module),
        Command::Test {
            module,
            exercise,
            watch,
            time_limit,
            all,
        } => {
            let wishes = test::Wishes {
                exercise: exercise.as_deref(),
                check: None,
                watch,
                time_limit,
                all,
            };
            test::run(&context, &module, &wishes)
        }
        Command::Export {
            module,
            restore: true,
            ..
        } => export::restore(&context, &module),
        Command::Export {
            module, time_limit, ..
        } => export::run(&context, &module, time_limit),
        Command::Hint {
            module,
            exercise,
            again,
        } => hint::run(&context, &module, exercise.as_deref(), again),
        Command::Kernels => kernels::run(&context),
        Command::Lab { module, arguments } => lab::run(&context, &module, &arguments),
        Command::Reset { module, exercise } => reset::run(&context, &module, exercise.as_deref()),
        Command::Undo { change, list } => undo::run(&context, change, list),
        Command::Submit { module, out } => submit::run(&context, &module, out.as_deref()),
        Command::Grade { arguments } => grade::run(&context, &arguments),
        Command::Release {
            update: Some(folder),
            modules,
            ..
        } => release::update(&context, &folder, &modules),
        Command::Release { out, modules, .. } => {
            // Without `--update` the command line insists on `--out`.
            release::out(&context, &out.unwrap_or_default(), &modules)
        }
        Command::Doctor => doctor::run(&context),
        Command::Dev(command) => dev::run(&context, command),
    }
}

/// If an earlier `tito` was killed in the middle of a change, completes the change before anything reads the files.
fn complete_interrupted(context: &Context) -> Result<()> {
    if !context.store.is_interrupted() {
        return Ok(());
    }
    let lock = Lock::take(&context.workspace.state())?;
    if let Some(recovered) = context.store.recover(&lock)? {
        ui::note(format!(
            "`{}` was interrupted and is now complete; {} takes it back.",
            recovered.label,
            ui::advice("undo")
        ));
        for file in recovered.left_alone {
            ui::note(format!("  {file} was edited since and stays as it is."));
        }
    }
    Ok(())
}

/// The cargo to call: the one that called us, or the one on the path.
pub fn cargo() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// True if the library holds what the student exported.
fn is_exported(context: &Context, module: &Module) -> Result<bool> {
    match Export::load(module)? {
        Some(export) => export.is_in_place(&context.store),
        None => Ok(false),
    }
}

/// In a student's repository a library holds empty exercises until they are exported: what runs on it, runs on none.
fn refuse_empty_libraries<'a>(
    context: &Context,
    modules: impl IntoIterator<Item = &'a u32>,
    what: &str,
) -> Result<()> {
    let numbers: Vec<u32> = modules.into_iter().copied().collect();
    for entry in context.workspace.written() {
        if !numbers.contains(&entry.number) {
            continue;
        }
        let below = context.workspace.load(entry)?;
        let waiting = below.unfinished_in_library()?;
        if !waiting.is_empty() {
            return Err(Failure::work(format!(
                "{what} runs on {}, where exercises wait for your export: {}",
                below.manifest.target,
                waiting.join(", ")
            ))
            .help(format!(
                "first {}; where you are: {}",
                ui::advice(&format!("export {}", below.name)),
                ui::advice("status")
            ))
            .into());
        }
    }
    Ok(())
}
