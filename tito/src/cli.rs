//! The command line, as clap sees it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The command line of TinyTorch in Rust: build a machine-learning framework, module by module.
#[derive(Parser, Debug)]
#[command(name = "tito", version, about, disable_help_subcommand = true)]
#[command(
    after_help = "Modules are named by number, by name or both: 15, quantization, 15_quantization.\n\
    Exit codes: 0 good, 1 work left or a check failed, 2 wrong usage, 3 the environment is broken."
)]
pub struct Arguments {
    /// Print one JSON document instead of text.
    #[arg(long, global = true)]
    pub json: bool,
    /// The course's folder; without it, the nearest one at or above the current folder.
    #[arg(long, global = true, value_name = "DIR")]
    pub workspace: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Where am I: modules, exercises done, the next step.
    Status,
    /// The twenty modules of the course.
    List,
    /// Begin a module: what it is about, the file to open, the first exercise.
    Start {
        /// Number, name or both: 15, quantization, 15_quantization.
        module: String,
    },
    /// Build and check your files: points, and for a failure what went wrong and where to look.
    Test {
        /// Number, name or both: 15, quantization, 15_quantization.
        module: String,
        /// Only this exercise: 15.3, 3 or the name of its function; 15.3/check also shows that check first.
        exercise: Option<String>,
        /// Test again whenever a file of the module is saved; stop with Ctrl-C.
        #[arg(long)]
        watch: bool,
        /// Seconds a single check may take.
        #[arg(long, value_name = "SECONDS", default_value_t = 4)]
        time_limit: u64,
        /// Show every failed check, not only the first of each exercise.
        #[arg(long)]
        all: bool,
    },
    /// The next hint for an exercise, from a nudge to nearly the answer.
    Hint {
        /// Number, name or both: 15, quantization, 15_quantization.
        module: String,
        /// 15.3, 3 or the name of its function; without it, the next unfinished exercise.
        exercise: Option<String>,
        /// Begin again with the first hint.
        #[arg(long)]
        again: bool,
    },
    /// Run the experiments of a module on real data.
    Lab {
        /// Number, name or both: 15, quantization, 15_quantization.
        module: String,
        /// Passed on to the lab.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Show the INT8 kernels of this CPU, which one is used, and what each reaches here.
    Kernels,
    /// Put your finished files into the library that later modules use.
    Export {
        /// Number, name or both: 15, quantization, 15_quantization.
        module: String,
        /// Put the library's own files back instead.
        #[arg(long)]
        restore: bool,
        /// Seconds a single check may take.
        #[arg(long, value_name = "SECONDS", default_value_t = 4)]
        time_limit: u64,
    },
    /// Fresh exercises; your files are kept and `undo` brings them back.
    Reset {
        /// Number, name or both: 15, quantization, 15_quantization.
        module: String,
        /// Only the file of this exercise, only this exercise's part of it.
        exercise: Option<String>,
    },
    /// Take back the last export, reset or undo.
    Undo {
        /// The number of an older change, as `--list` shows it.
        change: Option<u64>,
        /// Show the changes that can be taken back.
        #[arg(long)]
        list: bool,
    },
    /// Make the bundle an instructor collects.
    Submit {
        /// Number, name or both: 15, quantization, 15_quantization.
        module: String,
        /// Where to write it.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// For instructors: grade submissions in a sandbox, repeat and explain a grade.
    #[command(disable_help_flag = true)]
    Grade {
        /// Passed on to the grader; `grade --help` shows what it knows.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// For instructors: a repository for students, without solutions and hidden checks; or a later version for one of theirs.
    #[command(group = clap::ArgGroup::new("where").required(true).args(["out", "update"]))]
    Release {
        /// Make it as this new folder.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Bring the repository in this folder up to date: what its student wrote stays.
        #[arg(long, value_name = "DIR")]
        update: Option<PathBuf>,
        /// Only these modules, and what they build on; without it, all that are written, or those the repository has.
        #[arg(long, value_name = "MODULES", value_delimiter = ',')]
        modules: Vec<String>,
    },
    /// Is this machine ready?
    Doctor,
    /// For maintainers of the course.
    #[command(subcommand)]
    Dev(Dev),
}

#[derive(Subcommand, Debug)]
pub enum Dev {
    /// Generate the students' files from the library.
    Stubs {
        /// Only say whether they are up to date, and show what differs.
        #[arg(long)]
        check: bool,
    },
    /// Record the public exam: what the reference and every known mistake answer.
    Expect {
        /// Only say whether the records are up to date.
        #[arg(long)]
        check: bool,
    },
    /// Prove that the course is sound: manifests, stubs, exam, wrong solutions, documents.
    Check,
}

/// Reads the arguments. A wrong one is explained, as JSON if that was asked for, and ends the program with exit code 2.
///
/// # Errors
///
/// The exit code: 0 after `--help` and `--version`.
pub fn parse() -> Result<Arguments, ExitCode> {
    Arguments::try_parse().map_err(|mut error| {
        keep_nearest(&mut error);
        let is_wrong = error.use_stderr();
        if is_wrong && std::env::args().any(|argument| argument == "--json") {
            let message = error.render().to_string();
            crate::ui::print_json(&serde_json::json!({
                "error": { "message": message.trim(), "exit_code": 2 }
            }));
        } else {
            let _ = error.print();
        }
        ExitCode::from(if is_wrong { 2 } else { 0 })
    })
}

/// Of the commands that clap thinks were meant, only the nearest.
fn keep_nearest(error: &mut clap::Error) {
    use clap::error::{ContextKind, ContextValue};
    let (Some(ContextValue::String(typed)), Some(ContextValue::Strings(known))) = (
        error.get(ContextKind::InvalidSubcommand),
        error.get(ContextKind::SuggestedSubcommand),
    ) else {
        return;
    };
    if let Some(near) = crate::manifest::nearest(typed, known.clone()) {
        error.insert(
            ContextKind::SuggestedSubcommand,
            ContextValue::Strings(vec![near]),
        );
    }
}
