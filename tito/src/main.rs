//! `tito`, the course's command line: where am I, test, hint, lab, export, undo, submit.
//!
//! Every command is one file in `commands/`. The rooms below them: `manifest` and `workspace` (what there is), `markers` (the holes of
//! a file), `snapshot` (nothing is ever lost), `dependencies`, `subject` and `process`
//! (compile a student's files and run them), `exam` and `report` (judge the values that come out, in a process their code never ran in).
//!
//! Exit codes: 0 good, 1 work left or a check failed, 2 wrong usage, 3 the environment is broken.

mod cli;
mod commands;
mod compiler_words;
mod dependencies;
mod ending;
mod exam;
mod exported;
mod failure;
mod fault;
mod lock;
mod manifest;
mod markers;
mod mistakes;
mod parallel;
mod process;
mod progress;
mod receipt;
mod report;
mod snapshot;
mod subject;
mod ui;
mod workspace;

use std::process::ExitCode;

fn main() -> ExitCode {
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
