//! One command per file. Each prints what it found and returns how it ended.

pub mod cluster;
mod explain;
mod isolation;
pub mod run;
mod self_attack;
mod verify;

use anyhow::Result;
use tito::failure::Outcome;
use tito::workspace::Workspace;

use crate::cli::{Arguments, Command};
use crate::report;

/// What every command gets.
pub struct Context<'a> {
    /// Print one JSON document.
    pub json: bool,
    arguments: &'a Arguments,
}

impl Context<'_> {
    /// The course.
    ///
    /// # Errors
    ///
    /// An environment error if there is none.
    pub fn workspace(&self) -> Result<Workspace> {
        Workspace::find(self.arguments.workspace.as_deref())
    }
}

/// Runs the command that was asked for.
///
/// # Errors
///
/// Whatever stopped it; see `tito::failure`.
pub fn run_command(arguments: &Arguments) -> Result<Outcome> {
    let context = Context {
        json: arguments.json,
        arguments,
    };
    match &arguments.command {
        Command::Run(wishes) => run::run(&context, wishes),
        Command::Shard(piece) => cluster::shard(&context, piece),
        Command::Merge { results } => cluster::merge(&context, results),
        Command::Resume(rest) => cluster::resume(&context, rest),
        Command::Verify { result } => verify::run(&context, result),
        Command::Explain { a, b } => explain::run(&context, a, b),
        Command::Report(wishes) => {
            report::cli::report(arguments.workspace.as_deref(), wishes, context.json)
        }
        Command::Answers(wishes) => {
            report::cli::answer_sheets(arguments.workspace.as_deref(), wishes, context.json)
        }
        Command::SelfAttack { only } => self_attack::run(&context, only),
        Command::Plagiarism(wishes) => {
            report::cli::lay_out(arguments.workspace.as_deref(), wishes, context.json)
        }
        Command::GradescopeZip(wishes) => {
            report::cli::gradescope_zip(arguments.workspace.as_deref(), wishes, context.json)
        }
        Command::Isolation => isolation::run(&context),
    }
}
