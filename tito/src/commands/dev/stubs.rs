//! `tito dev stubs`: the students' files are generated from the library, body by body.

use anyhow::Result;
use serde_json::json;

use crate::commands::Context;
use crate::failure::{Failure, Outcome};
use crate::lock::Lock;
use crate::markers::Marked;
use crate::snapshot::Change;
use crate::ui::{self, GOOD, paint};
use crate::workspace::Module;

/// A generated file that is not what it should be.
pub struct Stale {
    /// `modules/15_quantization/quantize.rs`.
    pub path: String,
    /// What is there now.
    pub now: String,
    /// What should be there.
    pub wanted: String,
}

/// Writes the stubs, or with `check` only shows what differs.
///
/// # Errors
///
/// An environment error for markers that do not pair.
pub fn run(context: &Context, check: bool) -> Result<Outcome> {
    let mut stale = Vec::new();
    let mut files = 0;
    for entry in context.workspace.written() {
        let module = context.workspace.load(entry)?;
        files += module.manifest.files.len();
        stale.extend(find_stale(&module)?);
    }
    let paths: Vec<&str> = stale.iter().map(|stale| stale.path.as_str()).collect();
    if context.json {
        ui::print_json(&json!({ "files": files, "check": check, "differ": paths }));
    }
    if check {
        if !context.json {
            for stale in &stale {
                ui::say(crate::ui::diff(&stale.path, &stale.now, &stale.wanted));
            }
        }
        if stale.is_empty() {
            if !context.json {
                ui::say(paint(
                    GOOD,
                    format!("{} up to date", ui::count(files, "stub")),
                ));
            }
            return Ok(Outcome::Good);
        }
        ui::note(format!("write them: {}", ui::advice("dev stubs")));
        return Ok(Outcome::WorkLeft);
    }
    let changes: Vec<Change> = stale
        .iter()
        .map(|stale| Change {
            path: stale.path.clone(),
            content: Some(stale.wanted.clone().into_bytes()),
        })
        .collect();
    let lock = Lock::take(&context.workspace.state())?;
    context.store.apply(&lock, "dev stubs", &changes)?;
    if !context.json {
        ui::say(format!("{} of {files} stubs written", changes.len()));
    }
    Ok(Outcome::Good)
}

/// The stubs of a module that differ from what the library says they are.
///
/// # Errors
///
/// An environment error for markers that do not pair.
pub fn find_stale(module: &Module) -> Result<Vec<Stale>> {
    let mut stale = Vec::new();
    for twin in module.twin_files()? {
        let marked = Marked::parse(&twin.text).map_err(|error| {
            Failure::environment(format!("{}:{}: {}", twin.shown, error.line, error.what))
        })?;
        let wanted = marked.stub();
        let path = module.shown(&twin.name);
        let now = std::fs::read_to_string(module.root.join(&path)).unwrap_or_default();
        if now != wanted {
            stale.push(Stale { path, now, wanted });
        }
    }
    Ok(stale)
}
