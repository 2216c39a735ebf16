//! `tito`, the course's command line: where am I, test, hint, lab, export, undo, submit.
//!
//! Every command is one file in `commands/`. The rooms below them: `manifest` and `workspace` (what there is), `markers` (the holes of
//! a file), `snapshot` (nothing is ever lost), `dependencies`, `subject` and `process`
//! (compile a student's files and run them), `exam` and `report` (judge the values that come out, in a process their code never ran in).
//!
//! Exit codes: 0 good, 1 work left or a check failed, 2 wrong usage, 3 the environment is broken.
//!
//! The rooms are a library, so that `tito-grade`, the instructor's program, uses the same ones; nothing in it is meant for others.

mod cli;
mod commands;
pub mod compiler_words;
pub mod dependencies;
pub mod ending;
pub mod exam;
pub mod exported;
pub mod failure;
pub mod fault;
pub mod lock;
pub mod manifest;
pub mod markers;
pub mod mistakes;
pub mod parallel;
pub mod process;
pub mod progress;
pub mod receipt;
pub mod release;
pub mod report;
pub mod sealed;
pub mod snapshot;
pub mod subject;
pub mod ui;
pub mod workspace;

use std::process::ExitCode;

pub use commands::cargo;

/// Reads the command line, runs the command, reports what went wrong.
pub fn main() -> ExitCode {
    let arguments = match cli::parse() {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let json = arguments.json;
    match commands::run(arguments) {
        Ok(outcome) => outcome.into(),
        Err(error) => failure::report(&error, json),
    }
}
