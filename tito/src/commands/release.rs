//! `tito release --out DIR`: a student's repository. `tito release --update DIR`: a later version for one that is being worked in.

use std::path::Path;

use anyhow::Result;
use serde_json::json;

use super::Context;
use crate::failure::{Failure, Outcome};
use crate::release::update::{self, INCOMING, Update};
use crate::release::{Record, Release, write};
use crate::ui::{self, BAD, CODE, FAINT, GOOD, paint};

/// Makes a release as a new folder.
///
/// # Errors
///
/// Those of making and of writing a release.
pub fn out(context: &Context, folder: &Path, modules: &[String]) -> Result<Outcome> {
    refuse_inside(&context.workspace.root, folder)?;
    let release = Release::make(&context.workspace, modules)?;
    write::new_folder(&release, folder)?;
    let bytes: usize = release.files.values().map(Vec::len).sum();
    if context.json {
        ui::print_json(&json!({
            "folder": folder.display().to_string(),
            "release": release.record.release,
            "modules": release.record.modules,
            "files": release.files.len(),
            "bytes": bytes,
            "looked_for": release.secrets,
        }));
        return Ok(Outcome::Good);
    }
    ui::say(format!(
        "{}  {}, {:.1} MB: {}",
        paint(CODE, folder.display()),
        ui::count(release.files.len(), "file"),
        bytes as f64 / 1e6,
        release.record.modules.join(", ")
    ));
    if release.secrets > 0 {
        ui::say(format!(
            "{} none of {} lines of solutions, hidden checks and known mistakes is in it",
            paint(GOOD, "✓"),
            release.secrets
        ));
    }
    ui::say(paint(
        FAINT,
        format!("release {}", &release.record.release[..16]),
    ));
    Ok(Outcome::Good)
}

/// Inside the course a release would be committed with it, and handed out with the next one. Only where cargo builds nothing is kept.
fn refuse_inside(root: &Path, folder: &Path) -> Result<()> {
    let absolute = std::path::absolute(folder)?;
    // The folder itself need not be there yet, and may be reached through links.
    let place = absolute
        .ancestors()
        .find_map(|above| {
            let real = above.canonicalize().ok()?;
            Some(real.join(absolute.strip_prefix(above).ok()?))
        })
        .unwrap_or(absolute);
    let root = root.canonicalize()?;
    let is_built = |above: &Path| above.join("CACHEDIR.TAG").is_file();
    let is_inside = place.starts_with(&root);
    let mut above = place.ancestors().skip(1).take_while(|above| *above != root);
    if !is_inside || above.any(is_built) {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "{} lies in a folder of the course",
        folder.display()
    ))
    .help("choose a folder beside the course, as in --out ../student")
    .into())
}

/// Brings a student's repository up to date. Without modules named, it gets those it has.
///
/// # Errors
///
/// Those of making a release and of updating.
pub fn update(context: &Context, folder: &Path, modules: &[String]) -> Result<Outcome> {
    let is_course = Record::load(&context.workspace.root)?.is_none();
    let mut modules = modules.to_vec();
    if is_course && let Some(record) = Record::load(folder)? {
        modules.extend(record.modules);
    }
    let release = Release::make(&context.workspace, &modules)?;
    let update = update::run(&release, folder)?;
    if context.json {
        ui::print_json(&json!({
            "folder": folder.display().to_string(),
            "release": release.record.release,
            "update": update,
            "undo": update.done.as_ref().map(|done| done.id),
        }));
    } else {
        tell(folder, &update);
    }
    Ok(if update.conflicts.is_empty() {
        Outcome::Good
    } else {
        Outcome::WorkLeft
    })
}

fn tell(folder: &Path, update: &Update) {
    if update.done.is_none() {
        ui::say(format!("{} is up to date.", paint(CODE, folder.display())));
        return;
    }
    let lists = [
        ("new", &update.added),
        ("replaced", &update.replaced),
        ("with your text in the new version", &update.merged),
        ("removed", &update.removed),
    ];
    for (what, files) in lists {
        if !files.is_empty() {
            ui::say(format!("{}, {what}:", ui::count(files.len(), "file")));
        }
        for path in files.iter().take(SHOWN) {
            ui::say(format!("  {}", paint(CODE, path)));
        }
        if files.len() > SHOWN {
            ui::say(format!("  and {} more", files.len() - SHOWN));
        }
    }
    for (path, why) in &update.conflicts {
        ui::say(format!(
            "{} {}: {why}. It stays as it is; the new version, to compare: {}",
            paint(BAD, "conflict"),
            paint(CODE, path),
            paint(CODE, format!("{INCOMING}/{path}"))
        ));
    }
    ui::say(format!(
        "Take all of it back, in {}: {}",
        folder.display(),
        ui::advice("undo")
    ));
}

/// Of a long list the first few are enough.
const SHOWN: usize = 12;
