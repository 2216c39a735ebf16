//! `tito lab 15_quantization`: the module's experiments, built and run by cargo.

use std::process::Command;

use anyhow::Result;

use super::Context;
use crate::failure::{Failure, Outcome};
use crate::ui;

/// Runs the lab with the terminal as its own; its exit code becomes ours.
///
/// # Errors
///
/// Usage, if the module has no lab; environment, if cargo cannot be started.
pub fn run(context: &Context, module: &str, arguments: &[String]) -> Result<Outcome> {
    let module = context.workspace.module(module)?;
    let Some(lab) = &module.manifest.lab else {
        return Err(Failure::usage(format!("module {} has no lab", module.name)).into());
    };
    let own = [module.manifest.number];
    let below = module.manifest.prerequisites.iter().chain(&own);
    super::refuse_empty_libraries(context, below, "the lab")?;
    let mut command = Command::new(super::cargo());
    command
        .args([
            "run",
            "--release",
            "--quiet",
            "-p",
            "tinytorch-labs",
            "--bin",
            lab,
            "--",
        ])
        .args(arguments)
        // The lab ends with advice, which should name the command its reader typed.
        .env("TITO_INVOCATION", ui::tito())
        .current_dir(&context.workspace.root);
    if context.json {
        command.arg("--json");
    }
    let status = command.status().map_err(|error| {
        Failure::environment(format!("cannot start cargo: {error}")).help(ui::advice("doctor"))
    })?;
    Ok(match status.code() {
        Some(0) => Outcome::Good,
        Some(code) => Outcome::Code(u8::try_from(code).unwrap_or(3)),
        None => Outcome::Code(3),
    })
}
