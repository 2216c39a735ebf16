//! `tito`, the course's command line: where am I, test, hint, lab, export, undo, submit.
//!
//! Every command is one file in `commands/`. The rooms below them: `manifest` and `workspace` (what there is), `markers` (the holes of
//! a file), `snapshot` (nothing is ever lost), `subject` and `runner` (compile a student's files and ask them for values), `verdict` and
//! `report` (judge those values, in a process their code never ran in).
//!
//! Exit codes: 0 good, 1 work left or a check failed, 2 wrong usage, 3 the environment is broken.

mod cli;
mod commands;
mod failure;
mod fault;
mod lock;
mod manifest;
mod markers;
mod progress;
mod receipt;
mod snapshot;
mod ui;
mod workspace;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = cli::parse();
    let json = arguments.json;
    match commands::run(arguments) {
        Ok(outcome) => outcome.into(),
        Err(error) => failure::report(&error, json),
    }
}
