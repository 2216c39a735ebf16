//! The compiler: where it is, how it is called, what it says.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;
use serde::Deserialize;
use tito::failure::Failure;
use tito::lock::cannot_write;
use tito::snapshot::hash;
use tito::subject::FLAGS;

use super::{Halves, Workshop, place};

/// An installed compiler.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// The folder with `bin` and `lib`.
    pub sysroot: PathBuf,
    /// `x86_64-unknown-linux-gnu`.
    pub host: String,
    /// SHA-256 over what it says of its version.
    pub hash: String,
}

impl Toolchain {
    /// The compiler that the course is built with.
    ///
    /// # Errors
    ///
    /// An environment error if there is none.
    pub fn find(course: &Path) -> Result<Toolchain> {
        let program = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let ask = |arguments: &[&str]| -> Result<String> {
            let output = Command::new(&program)
                .args(arguments)
                .current_dir(course)
                .stdin(Stdio::null())
                .output()
                .map_err(|error| Failure::environment(format!("cannot start rustc: {error}")))?;
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let version = ask(&["-vV"])?;
        let host = version
            .lines()
            .find_map(|line| line.strip_prefix("host: "))
            .ok_or_else(|| Failure::environment("rustc does not say for which machine it is"))?;
        Ok(Toolchain {
            sysroot: PathBuf::from(ask(&["--print", "sysroot"])?),
            host: host.to_owned(),
            hash: hash(version.as_bytes()),
        })
    }

    /// The same compiler where every user can reach it: as it is, or its needed parts under `folder`.
    ///
    /// # Errors
    ///
    /// An environment error if the parts cannot be put there.
    pub fn reachable(self, folder: &Path) -> Result<Toolchain> {
        use std::os::unix::fs::PermissionsExt;
        let is_open = |path: &Path| {
            fs::metadata(path).is_ok_and(|data| data.permissions().mode() & 0o001 != 0)
        };
        if self.sysroot.ancestors().all(is_open) {
            return Ok(self);
        }
        let std = format!("lib/rustlib/{}", self.host);
        for part in [
            "bin/rustc",
            "lib",
            &format!("{std}/lib"),
            &format!("{std}/bin"),
        ] {
            let from = self.sysroot.join(part);
            if from.exists() {
                let to = folder.join(part);
                copy(&from, &to, part != "lib").map_err(|error| cannot_write(&to, &error))?;
            }
        }
        Ok(Toolchain {
            sysroot: folder.to_owned(),
            ..self
        })
    }

    /// The compiler.
    pub fn program(&self) -> PathBuf {
        self.sysroot.join("bin/rustc")
    }

    /// A call of it, outside of any cell.
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.program());
        command.stdin(Stdio::null());
        command
    }
}

/// Copies a file or a folder; without `deep` only the folder's own files.
fn copy(from: &Path, to: &Path, deep: bool) -> std::io::Result<()> {
    if from.is_file() {
        to.parent().map_or(Ok(()), fs::create_dir_all)?;
        return place(from, to);
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if deep || entry.path().is_file() {
            copy(&entry.path(), &to.join(entry.file_name()), deep)?;
        }
    }
    Ok(())
}

fn common(workshop: &Workshop, product: &Path, scratch: &Path) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = FLAGS.iter().map(OsString::from).collect();
    arguments.push("-Flong_running_const_eval".into());
    arguments.push(joined("--sysroot=", &workshop.toolchain.sysroot));
    arguments.push(joined("-Ldependency=", &workshop.root().join("crates")));
    arguments.push(joined("--emit=link=", product));
    arguments.push(joined("--out-dir=", scratch));
    arguments
}

/// Arguments that make a student's crate, but for the crate root.
pub(super) fn subject_arguments(
    workshop: &Workshop,
    product: &Path,
    scratch: &Path,
) -> Vec<OsString> {
    let mut arguments = common(workshop, product, scratch);
    arguments.extend(["--crate-name=subject".into(), "--crate-type=rlib".into()]);
    arguments.extend(externs(workshop.student_externs()));
    arguments
}

/// Arguments that find the errors of a student's crate and make nothing of it, but for the crate root.
pub(super) fn check_arguments(workshop: &Workshop, scratch: &Path) -> Vec<OsString> {
    let mut arguments = subject_arguments(workshop, &scratch.join("none"), scratch);
    arguments.retain(|argument| !argument.to_string_lossy().starts_with("--emit="));
    // What functions without bodies do not use is nobody's fault.
    arguments.extend(["--emit=metadata".into(), "-Aunused".into()]);
    arguments
}

/// Arguments that make the crate of a submission's holes, but for the crate root.
pub(super) fn holes_arguments(
    workshop: &Workshop,
    library: &Path,
    product: &Path,
    scratch: &Path,
) -> Vec<OsString> {
    let mut arguments = common(workshop, product, scratch);
    arguments.extend(["--crate-name=holes".into(), "--crate-type=rlib".into()]);
    arguments.extend(externs(workshop.student_externs()));
    arguments.push(joined("--extern=subject=", library));
    arguments
}

/// Arguments that make a library of the exam, but for the crate root.
pub(super) fn exam_arguments(
    workshop: &Workshop,
    library: &Path,
    product: &Path,
    scratch: &Path,
) -> Vec<OsString> {
    let mut arguments = common(workshop, product, scratch);
    arguments
        .extend(["--crate-name=exam", "--crate-type=rlib", "--cfg=hidden"].map(OsString::from));
    arguments.extend(externs(&workshop.externs));
    arguments.push(joined("--extern=subject=", library));
    arguments
}

/// Arguments that link a submission's holes with the two libraries, but for the crate root.
pub(super) fn link_arguments(
    workshop: &Workshop,
    halves: &Halves,
    holes: &Path,
    product: &Path,
    scratch: &Path,
) -> Vec<OsString> {
    let mut arguments = common(workshop, product, scratch);
    arguments.extend(
        [
            "--crate-name=runner",
            "--crate-type=bin",
            "-Crelocation-model=static",
        ]
        .map(OsString::from),
    );
    arguments.push(joined("--extern=exam=", &halves.exam));
    arguments.push(joined("--extern=holes=", holes));
    for library in [&halves.library, &halves.exam] {
        let folder = library.parent().unwrap_or(library);
        arguments.push(joined("-Ldependency=", folder));
    }
    arguments
}

/// Arguments that link the exam with a student's crate, but for the crate root.
pub(super) fn runner_arguments(
    workshop: &Workshop,
    subject: &Path,
    product: &Path,
    scratch: &Path,
) -> Vec<OsString> {
    let mut arguments = common(workshop, product, scratch);
    arguments.extend(
        [
            "--crate-name=runner",
            "--crate-type=bin",
            "--cfg=hidden",
            "-Crelocation-model=static",
        ]
        .map(OsString::from),
    );
    arguments.extend(externs(&workshop.externs));
    arguments.push(joined("--extern=subject=", subject));
    arguments
}

/// Arguments that name libraries.
fn externs<'a>(
    libraries: impl IntoIterator<Item = (&'a String, &'a PathBuf)>,
) -> impl Iterator<Item = OsString> {
    let libraries = libraries.into_iter();
    libraries.map(|(name, file)| joined(&format!("--extern={name}="), file))
}

fn joined(option: &str, path: &Path) -> OsString {
    let mut argument = OsString::from(option);
    argument.push(path);
    argument
}

/// Runs a compilation of ours.
pub(super) fn must_succeed(command: &mut Command, what: &str) -> Result<()> {
    let output = command
        .output()
        .map_err(|error| Failure::environment(format!("cannot start rustc: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said: Vec<String> = errors(&output.stderr)
        .into_iter()
        .filter_map(|error| error.rendered)
        .take(3)
        .collect();
    let said = if said.is_empty() {
        String::from_utf8_lossy(&output.stderr).trim().to_owned()
    } else {
        said.join("\n")
    };
    Err(Failure::environment(format!("{what} does not compile\n{said}")).into())
}

/// One of the compiler's messages.
#[derive(Clone, Debug, Deserialize)]
pub struct Diagnostic {
    /// `error`, `warning`.
    pub level: String,
    /// The first line.
    pub message: String,
    /// `E0308`.
    pub code: Option<Code>,
    /// Places.
    pub spans: Vec<Span>,
    /// What goes with it.
    #[serde(default)]
    pub children: Vec<Diagnostic>,
    /// As rustc shows it.
    pub rendered: Option<String>,
}

/// The number of an error.
#[derive(Clone, Debug, Deserialize)]
pub struct Code {
    /// `E0308`.
    pub code: String,
}

/// A place.
#[derive(Clone, Debug, Deserialize)]
pub struct Span {
    /// As rustc was given it.
    pub file_name: String,
    /// From 1.
    pub line_start: usize,
    /// The main one.
    pub is_primary: bool,
    /// Where a macro was called.
    #[serde(default)]
    pub expansion: Option<Box<Expansion>>,
}

/// The call of a macro.
#[derive(Clone, Debug, Deserialize)]
pub struct Expansion {
    /// Where.
    pub span: Span,
}

/// The errors in what the compiler wrote; its last words (`aborting due to ...`) are none.
pub fn errors(stderr: &[u8]) -> Vec<Diagnostic> {
    stderr
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<Diagnostic>(line).ok())
        .filter(|found| found.level.starts_with("error"))
        .filter(|found| !(found.spans.is_empty() && found.message.starts_with("aborting")))
        .collect()
}
