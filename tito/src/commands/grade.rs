//! `tito grade ...`: the instructor's program `tito-grade`, built and run by cargo, so that students never compile what it needs.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Context;
use crate::failure::{Failure, Outcome};
use crate::ui;

/// Exit codes that mean something; cargo's own (101, when the grader does not compile) is not among them.
const OURS: std::ops::RangeInclusive<i32> = 0..=3;

/// What is up to date is found so within this time.
const SILENCE: Duration = Duration::from_secs(2);

/// Builds the grader, and says so where that takes its time: whoever waits for minutes before a silent terminal ends it.
/// False if it does not compile: cargo has said why.
fn build(root: &Path, is_there: bool) -> Result<bool> {
    let why = |error: std::io::Error| {
        Failure::environment(format!("cannot start cargo: {error}")).help(ui::advice("doctor"))
    };
    let mut building = Command::new(super::cargo())
        .args(["build", "--release", "--quiet", "--manifest-path"])
        .arg(root.join("Cargo.toml"))
        .args(["--package", "tito-grade", "--bin", "tito-grade"])
        .spawn()
        .map_err(why)?;
    if !is_there {
        ui::note(
            "building the grader: some minutes the first time, then only when the course has changed ...",
        );
    }
    let begun = Instant::now();
    let mut is_told = !is_there;
    loop {
        if let Some(status) = building.try_wait().map_err(why)? {
            return Ok(status.success());
        }
        if !is_told && begun.elapsed() > SILENCE {
            ui::note("building the grader again, since the course has changed ...");
            is_told = true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs the grader in the caller's folder, with the terminal as its own; its exit code becomes ours.
///
/// # Errors
///
/// Usage, if this copy of the course has no grader; environment, if cargo cannot be started.
pub fn run(context: &Context, arguments: &[String]) -> Result<Outcome> {
    let root = &context.workspace.root;
    if !root.join("grade/Cargo.toml").is_file() {
        return Err(Failure::usage("this copy of the course has no grader")
            .help(
                "grading is the instructor's: it works in the course that `release` was called in",
            )
            .into());
    }
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
    let built: std::path::PathBuf = target.join("release/tito-grade");
    if !build(root, built.is_file())? {
        return Ok(Outcome::Code(3));
    }
    let mut command = Command::new(super::cargo());
    command
        .args(["run", "--release", "--quiet", "--manifest-path"])
        .arg(root.join("Cargo.toml"))
        .args(["--package", "tito-grade", "--bin", "tito-grade", "--"])
        .arg("--workspace")
        .arg(root)
        .env("TITO_INVOCATION", ui::tito());
    if context.json {
        command.arg("--json");
    }
    let status = command.args(arguments).status().map_err(|error| {
        Failure::environment(format!("cannot start cargo: {error}")).help(ui::advice("doctor"))
    })?;
    Ok(match status.code() {
        Some(0) => Outcome::Good,
        Some(code) if OURS.contains(&code) => Outcome::Code(u8::try_from(code).unwrap_or(3)),
        _ => Outcome::Code(3),
    })
}
