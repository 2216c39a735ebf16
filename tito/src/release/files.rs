//! Reading a course's files: in a fixed order, and nothing that an editor, a build or a link left behind.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::failure::Failure;

/// Path from the root, with `/`, to content.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Names that no one hands out; a folder `target` only if it is cargo's, which marks it: a source may be called so.
fn is_litter(folder: &Path, name: &str) -> bool {
    let is_cargos = name == "target" && folder.join(name).join("CACHEDIR.TAG").is_file();
    is_cargos
        || [
            ".git",
            ".tito",
            ".DS_Store",
            "__pycache__",
            ".venv",
            "node_modules",
        ]
        .contains(&name)
        || [".tmp", ".swp", ".orig", ".rej", ".bak", ".pyc", "~"]
            .iter()
            .any(|end| name.ends_with(end))
}

/// Adds a file or all files of a folder. A path that is not there adds nothing.
///
/// # Errors
///
/// An environment error for what cannot be read, for links, and for names that are not text.
pub fn collect(
    root: &Path,
    path: &str,
    wanted: &dyn Fn(&str) -> bool,
    files: &mut Files,
) -> Result<()> {
    let place = root.join(path);
    let Ok(kind) = fs::symlink_metadata(&place).map(|data| data.file_type()) else {
        return Ok(());
    };
    if !wanted(path) {
        return Ok(());
    }
    if kind.is_symlink() {
        return Err(Failure::environment(format!(
            "{path} is a link: a release holds files only"
        ))
        .help("put the file itself there, or list it under `leave_out` in modules/release.toml")
        .into());
    }
    let unreadable =
        |error: std::io::Error| Failure::environment(format!("cannot read {path}: {error}"));
    if kind.is_file() {
        files.insert(path.to_owned(), fs::read(&place).map_err(unreadable)?);
        return Ok(());
    }
    for entry in fs::read_dir(&place).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        let Some(name) = name.to_str() else {
            return Err(Failure::environment(format!(
                "{path} holds a file whose name is not UTF-8: {}",
                name.display()
            ))
            .into());
        };
        if !is_litter(&place, name) {
            collect(root, &format!("{path}/{name}"), wanted, files)?;
        }
    }
    Ok(())
}

/// Adds every file below a folder but what builds and `tito` leave there; for looking, not for handing out.
///
/// # Errors
///
/// Those of the file system.
pub fn collect_everything(root: &Path, path: &str, files: &mut Files) -> std::io::Result<()> {
    for entry in fs::read_dir(root.join(path))? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let below = if path.is_empty() {
            name.clone().into_owned()
        } else {
            format!("{path}/{name}")
        };
        if entry.file_type()?.is_dir() {
            if !(path.is_empty() && (name == "target" || name == ".tito")) {
                collect_everything(root, &below, files)?;
            }
        } else {
            files.insert(below, fs::read(entry.path()).unwrap_or_default());
        }
    }
    Ok(())
}
