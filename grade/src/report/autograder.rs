//! Gradescope's autograder as one zip file: the course, and the two scripts that Gradescope calls.
//!
//! It holds the reference and the hidden checks; it is for Gradescope's upload form and for nobody else.

use std::io::{Cursor, Write};
use std::path::Path;

use anyhow::{Context, Result};
use clap::ValueEnum;
use tito::failure::Failure;
use tito::release::{Files, collect};
use tito::workspace::Workspace;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::gradescope::Hidden;
use crate::model::Isolation;

const SETUP: &str = include_str!("autograder/setup.sh");
const RUN: &str = include_str!("autograder/run_autograder");

/// How it shall grade.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// Refuse to grade with less.
    pub isolation: Isolation,
    /// When students may see how hidden checks ended.
    pub hidden: Hidden,
    /// The instructor's own hidden checks.
    pub own_checks: Option<&'a Path>,
}

/// The zip file. The same course makes the same bytes.
///
/// # Errors
///
/// An environment error for a course that cannot be read, a usage error for a module that is not there.
pub fn zip(workspace: &Workspace, module: &str, settings: Settings<'_>) -> Result<Vec<u8>> {
    let module = workspace.module(module)?;
    let files = course(workspace)?;
    let isolation = match settings.isolation {
        Isolation::Full => "full",
        Isolation::Reduced => "reduced",
    };
    let hidden = settings.hidden.to_possible_value();
    let toolchain = toolchain(workspace)?;
    let own = match settings.own_checks {
        Some(_) => "--hidden \"$autograder/source/own-checks\"",
        None => "",
    };
    let script = |text: &str| {
        text.replace("{module}", &module.name)
            .replace("{isolation}", isolation)
            .replace(
                "{hidden}",
                hidden.as_ref().map_or("hidden", |value| value.get_name()),
            )
            .replace("{toolchain}", &toolchain)
            .replace("{own}", own)
    };
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let plain = SimpleFileOptions::default().unix_permissions(0o644);
    let program = SimpleFileOptions::default().unix_permissions(0o755);
    let mut add = |name: &str, content: &[u8], options: SimpleFileOptions| {
        archive
            .start_file(name, options)
            .and_then(|()| Ok(archive.write_all(content)?))
            .with_context(|| format!("cannot pack {name}"))
    };
    add("setup.sh", script(SETUP).as_bytes(), program)?;
    add("run_autograder", script(RUN).as_bytes(), program)?;
    for (path, content) in &files {
        add(&format!("course/{path}"), content, plain)?;
    }
    if let Some(own) = settings.own_checks {
        let name = own
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or_else(|| Failure::usage(format!("{} names no folder", own.display())))?;
        if !own.join("mod.rs").is_file() {
            return Err(Failure::usage(format!("{} has no mod.rs", own.display())).into());
        }
        let mut files = Files::new();
        let above = own.parent().unwrap_or(Path::new("."));
        collect(above, name, &|_| true, &mut files)?;
        for (path, content) in &files {
            let inside = path.strip_prefix(name).unwrap_or(path);
            add(&format!("own-checks{inside}"), content, plain)?;
        }
    }
    Ok(archive
        .finish()
        .context("cannot finish the archive")?
        .into_inner())
}

/// The whole course but for what builds and editors leave.
fn course(workspace: &Workspace) -> Result<Files> {
    let mut files = Files::new();
    let entries = std::fs::read_dir(&workspace.root).map_err(|error| {
        Failure::environment(format!("cannot read the course's folder: {error}"))
    })?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| !["target", ".git", ".github", ".ci", ".tito"].contains(&name.as_str()))
        .filter(|name| !name.ends_with(".zip") && !name.ends_with(".tmp"))
        .collect();
    names.sort();
    for name in names {
        // Only what the workspace is made of: results, downloads and the like may lie beside.
        let is_ours = workspace.root.join(&name).is_file() || is_part(workspace, &name);
        if is_ours {
            collect(&workspace.root, &name, &|_| true, &mut files)?;
        }
    }
    Ok(files)
}

/// True for a folder that the workspace's manifest names, and for those of every course.
fn is_part(workspace: &Workspace, name: &str) -> bool {
    let manifest = std::fs::read_to_string(workspace.root.join("Cargo.toml")).unwrap_or_default();
    let members = manifest
        .parse::<toml::Table>()
        .ok()
        .and_then(|table| Some(table.get("workspace")?.get("members")?.as_array()?.clone()))
        .unwrap_or_default();
    let mut roots: Vec<String> = members
        .iter()
        .filter_map(|member| Some(member.as_str()?.split('/').next()?.to_owned()))
        .collect();
    roots.extend([".cargo", "docs", "modules", "exam"].map(str::to_owned));
    roots.iter().any(|root| root == name)
}

/// The compiler that the grades of this course are made with: `1.95.0`.
fn toolchain(workspace: &Workspace) -> Result<String> {
    let output = std::process::Command::new("rustc")
        .arg("--version")
        .current_dir(&workspace.root)
        .output()
        .map_err(|error| Failure::environment(format!("cannot start rustc: {error}")))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_whitespace().nth(1).unwrap_or_default();
    let is_version = version.split('.').count() == 3
        && version
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-');
    if !is_version {
        return Err(Failure::environment(format!(
            "rustc does not say its version: {}",
            text.trim()
        ))
        .into());
    }
    Ok(version.to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::Command;

    use super::*;

    #[test]
    fn the_archive_holds_the_course_and_two_scripts_that_can_run() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let workspace = Workspace::find(Some(&root)).expect("the course");
        let settings = Settings {
            isolation: Isolation::Full,
            hidden: Hidden::AfterPublished,
            own_checks: None,
        };
        let bytes = zip(&workspace, "15", settings).expect("a zip file");
        let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).expect("a zip file");
        let folder = tempfile::TempDir::new().expect("a folder");
        for name in ["setup.sh", "run_autograder"] {
            let mut file = archive.by_name(name).expect(name);
            assert_eq!(file.unix_mode().map(|mode| mode & 0o777), Some(0o755));
            let mut text = String::new();
            file.read_to_string(&mut text).expect("text");
            for placeholder in ["{module}", "{isolation}", "{hidden}", "{toolchain}"] {
                assert!(!text.contains(placeholder), "{text}");
            }
            assert!(
                text.contains("--module 15_quantization")
                    && text.contains("--require-isolation full")
            );
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("writes");
            // Not on every system; where it is there, the scripts must be bash.
            if let Ok(status) = Command::new("bash").arg("-n").arg(&path).status() {
                assert!(status.success(), "{name}");
            }
        }
        for name in [
            "course/Cargo.lock",
            "course/grade/Cargo.toml",
            "course/modules/course.toml",
            "course/tests/15_quantization/exam/hidden/mod.rs",
            "course/tests/15_quantization/wrong/truncation.toml",
        ] {
            assert!(archive.by_name(name).is_ok(), "{name}");
        }
        let names: Vec<String> = archive
            .file_names()
            .map(|name| name.expect("a name").into_owned())
            .collect();
        assert!(
            !names
                .iter()
                .any(|name| name.starts_with("course/target/") || name.starts_with("course/.git/"))
        );
    }

    #[test]
    fn an_instructors_own_checks_are_packed_and_named_to_both_scripts() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let workspace = Workspace::find(Some(&root)).expect("the course");
        let own = root.join("grade/own-checks");
        let settings = Settings {
            isolation: Isolation::Reduced,
            hidden: Hidden::Hidden,
            own_checks: Some(&own),
        };
        let bytes = zip(&workspace, "15", settings).expect("a zip file");
        let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).expect("a zip file");
        let mut read = |name: &str| {
            let mut text = String::new();
            let mut file = archive.by_name(name).expect(name);
            file.read_to_string(&mut text).expect("text");
            text
        };
        let packed = read("own-checks/mod.rs");
        assert_eq!(
            packed,
            std::fs::read_to_string(own.join("mod.rs")).expect("reads")
        );
        assert!(read("run_autograder").contains("--hidden \"$autograder/source/own-checks\""));
        assert!(read("setup.sh").contains("--hidden \"$autograder/source/own-checks\""));

        let none = tempfile::TempDir::new().expect("a folder");
        let settings = Settings {
            own_checks: Some(none.path()),
            ..settings
        };
        let error = zip(&workspace, "15", settings)
            .expect_err("no checks")
            .to_string();
        assert!(error.contains("has no mod.rs"), "{error}");
    }
}
