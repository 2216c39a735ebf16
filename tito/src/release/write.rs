//! A release as a new folder: all of it or nothing, and never over somebody's work.

use std::path::Path;

use anyhow::Result;

use super::record::Given;
use super::{Files, RECORD, Record, Release};
use crate::failure::Failure;

/// Writes a release as a new folder: complete beside its place, then renamed.
///
/// An empty folder is taken, and so is an earlier release in which nothing was changed.
///
/// # Errors
///
/// Usage, if the folder holds anything else; an environment error if it cannot be written, and then there is nothing.
pub fn new_folder(release: &Release, folder: &Path) -> Result<()> {
    let folder = std::path::absolute(folder)?;
    let folder = folder.as_path();
    let is_earlier = refuse_foreign(folder)?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let beside =
        |what: &str| folder.with_file_name(format!(".{name}.{what}.{}.tmp", std::process::id()));
    let (new, old) = (beside("new"), beside("old"));
    let written = write_all(&release.files, &new)
        .and_then(|()| {
            if is_earlier {
                std::fs::rename(folder, &old)
            } else {
                // An empty folder is in the way of the rename on some systems.
                match std::fs::remove_dir(folder) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                    _ => Ok(()),
                }
            }
        })
        .and_then(|()| std::fs::rename(&new, folder));
    if let Err(error) = written {
        let _ = std::fs::remove_dir_all(&new);
        if is_earlier && !folder.exists() {
            let _ = std::fs::rename(&old, folder);
        }
        return Err(crate::lock::cannot_write(folder, &error).into());
    }
    let _ = std::fs::remove_dir_all(&old);
    Ok(())
}

fn write_all(files: &Files, folder: &Path) -> std::io::Result<()> {
    for (path, content) in files {
        let place = folder.join(path);
        if let Some(parent) = place.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(place, content)?;
    }
    Ok(())
}

/// True for an earlier release that can be replaced, false for nothing or an empty folder.
fn refuse_foreign(folder: &Path) -> Result<bool> {
    let shown = folder.display();
    let foreign = |why: String| Failure::usage(format!("{shown} is not empty: {why}"));
    let unreadable =
        |error: std::io::Error| Failure::environment(format!("cannot read {shown}: {error}"));
    match std::fs::symlink_metadata(folder) {
        Err(_) => return Ok(false),
        Ok(data) if !data.is_dir() => {
            return Err(Failure::usage(format!("{shown} is there and is no folder")).into());
        }
        Ok(_) => {}
    }
    let mut entries = std::fs::read_dir(folder).map_err(unreadable)?;
    if entries.next().is_none() {
        return Ok(false);
    }
    let Some(record) = Record::load(folder)? else {
        return Err(foreign("it was not made by `tito release`".into())
            .help("choose a new folder")
            .into());
    };
    let mut there = Files::new();
    super::files::collect_everything(folder, "", &mut there).map_err(unreadable)?;
    let touched = there.iter().find(|(path, content)| {
        path.as_str() != RECORD && record.files.get(*path) != Some(&Given::of(content))
    });
    match touched {
        None => Ok(true),
        Some((path, _)) => Err(foreign(format!(
            "it is a release in which {path} is not as it was given"
        ))
        .help(format!(
            "to bring it up to date and keep that: {}",
            crate::ui::advice(&format!("release --update {shown}"))
        ))
        .into()),
    }
}
