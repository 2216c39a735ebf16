//! `tito-grade`, called through `cargo tito grade ...`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tito::failure::{self, Failure, Outcome};
use tito_grade::results::Results;

/// Grade untrusted submissions: compiled and run in a sandbox, judged outside it.
#[derive(Parser, Debug)]
#[command(name = "tito grade", version, about, disable_help_subcommand = true)]
struct Arguments {
    /// Print one JSON document instead of text.
    #[arg(long, global = true)]
    json: bool,
    /// The course's folder; without it, the nearest one at or above the current folder.
    #[arg(long, global = true, value_name = "DIR")]
    workspace: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Print the points in a folder of results.
    Show {
        /// The folder that `run --out` wrote.
        results: PathBuf,
    },
    /// What a cell is worth on this machine.
    Isolation,
}

fn main() -> ExitCode {
    if let Some(code) = tito_grade::sandbox::become_cell() {
        return code;
    }
    let arguments = Arguments::parse();
    let done = match &arguments.command {
        Command::Show { results } => show(&Results::new(results)),
        Command::Isolation => isolation(),
    };
    match done {
        Ok(outcome) => outcome.into(),
        Err(error) => failure::report(&error, arguments.json),
    }
}

fn show(results: &Results) -> anyhow::Result<Outcome> {
    let ids = results.ids()?;
    if ids.is_empty() {
        let folder = results.folder().display();
        return Err(Failure::usage(format!("there are no results in {folder}")).into());
    }
    for id in ids {
        if let Some(result) = results.get(&id)? {
            tito::ui::say(format!("{id}  {} of {}", result.points, result.of));
        }
    }
    Ok(Outcome::Good)
}

fn isolation() -> anyhow::Result<Outcome> {
    let found = tito_grade::sandbox::probe(&tito_grade::sandbox::Launcher::myself()?)?;
    println!("{}", serde_json::to_string_pretty(&found.layers)?);
    Ok(Outcome::Good)
}
