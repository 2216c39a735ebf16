//! `tito dev ...`: what keeps the course itself in order.

mod check;
mod documents;
pub mod expect;
pub mod stubs;

use anyhow::Result;

use super::Context;
use crate::cli::Dev;
use crate::failure::Outcome;

/// Runs a maintainer's command.
///
/// # Errors
///
/// Whatever stopped it.
pub fn run(context: &Context, command: Dev) -> Result<Outcome> {
    match command {
        Dev::Stubs { check } => stubs::run(context, check),
        Dev::Expect { check } => expect::run(context, check),
        Dev::Check => check::run(context),
    }
}
