//! `tito lab 15_quantization`: the module's experiments, built and run by cargo.

use std::process::Command;

use anyhow::Result;

use super::Context;
use crate::failure::{Failure, Outcome};
use crate::ui;
use crate::workspace::Module;

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
    refuse_empty_library(context, &module)?;
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

/// In a student's repository the library holds empty exercises until they are exported; the lab runs on it, and on the libraries of the modules it builds on.
fn refuse_empty_library(context: &Context, module: &Module) -> Result<()> {
    for entry in context.workspace.written() {
        let is_below = module.manifest.prerequisites.contains(&entry.number);
        if entry.number != module.manifest.number && !is_below {
            continue;
        }
        let below = context.workspace.load(entry)?;
        let waiting = below.unfinished_in_library()?;
        if !waiting.is_empty() {
            return Err(Failure::work(format!(
                "the lab runs on {}, where exercises wait for your export: {}",
                below.manifest.target,
                waiting.join(", ")
            ))
            .help(format!(
                "first {}; where you are: {}",
                ui::advice(&format!("export {}", below.name)),
                ui::advice("status")
            ))
            .into());
        }
    }
    Ok(())
}
