//! `tito kernels`: the kernels of this CPU, measured by a program that cargo builds and runs.

use std::process::Command;

use anyhow::Result;

use super::Context;
use crate::failure::{Failure, Outcome};
use crate::ui;

/// Runs the program with the terminal as its own; its exit code becomes ours.
///
/// # Errors
///
/// Environment, if cargo cannot be started.
pub fn run(context: &Context) -> Result<Outcome> {
    let status = Command::new(super::cargo())
        .args([
            "run",
            "--release",
            "--quiet",
            "-p",
            "tinytorch-labs",
            "--bin",
            "kernels",
        ])
        .current_dir(&context.workspace.root)
        .status()
        .map_err(|error| {
            Failure::environment(format!("cannot start cargo: {error}")).help(ui::advice("doctor"))
        })?;
    Ok(match status.code() {
        Some(0) => Outcome::Good,
        Some(code) => Outcome::Code(u8::try_from(code).unwrap_or(3)),
        None => Outcome::Code(3),
    })
}
