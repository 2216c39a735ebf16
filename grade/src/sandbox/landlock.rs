//! Which files a cell can reach, and that it reaches no network and no other process.

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use std::path::PathBuf;

use super::Cell;

/// The newest version whose rights are asked for; files (1 to 3, 5), TCP (4), signals and abstract sockets (6).
const NEWEST: ABI = ABI::V6;

/// Allows what the cell lists and nothing else. Returns how well that holds on this kernel.
///
/// # Errors
///
/// If a listed path is missing, or the kernel refuses what it claims to support.
pub fn restrict(cell: &Cell) -> Result<String, String> {
    let status = rules(cell).map_err(|error| error.to_string())?;
    Ok(match status {
        RulesetStatus::FullyEnforced => "full (files, TCP, signals)".to_owned(),
        RulesetStatus::PartiallyEnforced => "partial (an older kernel)".to_owned(),
        RulesetStatus::NotEnforced => "none".to_owned(),
    })
}

fn rules(cell: &Cell) -> Result<RulesetStatus, Box<dyn std::error::Error>> {
    let execute = AccessFs::Execute;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    let ruleset = allow(ruleset, &cell.read, read)?;
    let ruleset = allow(ruleset, &cell.execute, read | execute)?;
    // The kernel opens for reading what it executes.
    let ruleset = allow(ruleset, &cell.start, AccessFs::ReadFile | execute)?;
    let ruleset = allow(ruleset, &cell.write, AccessFs::from_all(NEWEST))?;
    Ok(ruleset.restrict_self()?.ruleset)
}

fn allow(
    mut ruleset: RulesetCreated,
    paths: &[PathBuf],
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, Box<dyn std::error::Error>> {
    for path in paths {
        let opened = PathFd::new(path)?;
        // Rights about folders make no sense for a file, and the kernel says so.
        let access = if path.is_dir() {
            access
        } else {
            access & AccessFs::from_file(NEWEST)
        };
        let added: Result<RulesetCreated, RulesetError> =
            ruleset.add_rule(PathBeneath::new(opened, access));
        ruleset = added?;
    }
    Ok(ruleset)
}
