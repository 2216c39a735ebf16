//! The command line, as clap sees it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tito::failure;

use crate::commands;
use crate::report;

/// Grade untrusted submissions: compiled and run in a sandbox, judged outside it.
#[derive(Parser, Debug)]
#[command(name = "tito grade", version, about, disable_help_subcommand = true)]
#[command(
    after_help = "Exit codes: 0 good, 1 something needs a look, 2 wrong usage, 3 the environment is broken."
)]
pub struct Arguments {
    /// Print one JSON document instead of text.
    #[arg(long, global = true)]
    pub json: bool,
    /// The course's folder; without it, the nearest one at or above the current folder.
    #[arg(long, global = true, value_name = "DIR")]
    pub workspace: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Grade a folder of submissions; what is graded already is kept.
    Run(commands::run::Wishes),
    /// Grade the students of one task of a round; what a cluster's array job calls.
    Shard(commands::cluster::Piece),
    /// Say what of a class is graded and what is missing, and write the table of grades.
    Merge {
        /// The folder of results.
        results: PathBuf,
    },
    /// Grade only what is missing, here or on a cluster.
    Resume(commands::cluster::Rest),
    /// Grade one result again and say whether the same comes out.
    Verify {
        /// A file of `RESULTS/students`.
        result: PathBuf,
    },
    /// Say why two results of a student differ: the code, the exam, a tolerance, the machine.
    Explain {
        /// A result.
        a: PathBuf,
        /// Another.
        b: PathBuf,
    },
    /// Write grades and feedback as others read them: tables, Gradescope, Canvas, GitHub Classroom, JUnit, pages for students, statistics.
    Report(report::cli::Wishes),
    /// Lay the written answers out to be marked, question by question.
    Answers(report::cli::AnswerWishes),
    /// Attack the grader with every attack of the catalogue, and say what stopped each.
    SelfAttack {
        /// Only attacks whose file begins so: `a16`, `a16-threads`. Without it, all.
        #[arg(long, value_name = "NAME")]
        only: Vec<String>,
    },
    /// Lay the submissions out for MOSS and Dolos, with the stub as what everybody was given.
    Plagiarism(report::cli::CopyWishes),
    /// Pack the autograder that Gradescope wants to be uploaded.
    GradescopeZip(report::cli::ZipWishes),
    /// What the walls around a submission are worth on this machine.
    Isolation,
}

/// Reads the command line, runs the command, reports what went wrong.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let is_wrong = error.use_stderr();
            if is_wrong && std::env::args().any(|argument| argument == "--json") {
                let message = error.render().to_string();
                tito::ui::print_json(&serde_json::json!({
                    "error": { "message": message.trim(), "exit_code": 2 }
                }));
            } else {
                let _ = error.print();
            }
            return ExitCode::from(if is_wrong { 2 } else { 0 });
        }
    };
    match commands::run_command(&arguments) {
        Ok(outcome) => outcome.into(),
        Err(error) => failure::report(&error, arguments.json),
    }
}
