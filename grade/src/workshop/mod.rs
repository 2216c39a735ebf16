//! The folder in which submissions are compiled: all that a cell may see, and nothing that it may not.
//!
//! ```text
//! WORKSHOP/toolchain/    compiler and standard library, if the cells' user cannot reach the installed ones
//! WORKSHOP/crates/       compiled crates a student's crate is linked with; not the library that holds the reference
//! WORKSHOP/library/      the part of a student's crate that does not depend on the student, compiled
//! WORKSHOP/exam/         the exam, as source and compiled: seen by the link step alone, which sees no text of students
//! WORKSHOP/reference/    the reference, compiled: seen by nobody
//! WORKSHOP/job-0/        one per job: see `job`
//! ```
//!
//! It lies in the system's folder for temporary files, so that a user who may not enter the course's folder can still be shown parts of it.

mod abandoned;
mod budget;
mod job;
mod rustc;
mod split;
mod stopped;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use tempfile::TempDir;
use tito::dependencies;
use tito::failure::Failure;
use tito::lock::cannot_write;

pub use job::{Built, Job};
pub use rustc::{Diagnostic, Toolchain, errors};
pub use stopped::Stop;

use split::Split;

use crate::course::{Course, HARNESS, Texts};
use crate::sandbox::{Confinement, LINK_GROUP, Launcher};

/// The crate name of [`HARNESS`], and of the exam's own library: what the link step knows and a student's crate does not.
const FOR_THE_EXAM: [&str; 2] = ["tito_grade_harness", "tinytorch_exam"];

/// The main function of a runner whose halves were compiled before.
const LINK: &str = "fn main() -> std::process::ExitCode {
    holes::install();
    exam::main()
}
";

/// See the module's head.
#[derive(Debug)]
pub struct Workshop {
    /// Says that somebody works here.
    _owner: fs::File,
    folder: TempDir,
    pub(crate) launcher: Launcher,
    pub(crate) confinement: Confinement,
    pub(crate) toolchain: Toolchain,
    /// Crate name to compiled crate.
    pub(crate) externs: BTreeMap<String, PathBuf>,
    pub(crate) compile_limit: std::time::Duration,
    /// What is compiled once for all submissions; nothing if this course cannot be cut in two.
    pub(crate) halves: Option<Halves>,
}

/// What is compiled once for all submissions.
#[derive(Debug)]
pub(crate) struct Halves {
    split: Split,
    /// The given part of a student's crate.
    library: PathBuf,
    /// The exam.
    exam: PathBuf,
}

impl Workshop {
    /// Builds what is linked, and lays everything out.
    ///
    /// # Errors
    ///
    /// An environment error if a crate does not compile or the folder cannot be written.
    pub fn open(
        course: &Course,
        launcher: Launcher,
        confinement: Confinement,
        compile_limit: std::time::Duration,
    ) -> Result<Workshop> {
        let built = dependencies::build_with(&course.module, &[HARNESS])?;
        abandoned::remove(&std::env::temp_dir());
        let folder = tempfile::Builder::new()
            .prefix(abandoned::PREFIX)
            .tempdir()
            .context("cannot make a folder for temporary files")?;
        let root = folder.path();
        let owner = abandoned::own(root).map_err(|error| cannot_write(root, &error))?;
        open_to_all(root)?;
        let crates = root.join("crates");
        make_folder(&crates)?;
        let mut moved = BTreeMap::new();
        for (_, file) in &built.closure {
            let name = file.file_name().unwrap_or_default();
            let target = crates.join(name);
            place(file, &target).map_err(|error| cannot_write(&target, &error))?;
            moved.insert(file.clone(), target);
        }
        let mut externs = BTreeMap::new();
        for (name, file) in &built.externs {
            let target = moved.get(file).ok_or_else(|| {
                Failure::environment(format!("{name} is not among the compiled crates"))
            })?;
            externs.insert(name.clone(), target.clone());
        }
        let toolchain = Toolchain::find(&course.module.root)?;
        let toolchain = if confinement.drops_user {
            toolchain.reachable(&root.join("toolchain"))?
        } else {
            toolchain
        };
        let exam = root.join("exam");
        lay_out(&exam, &course.exam)?;
        if confinement.drops_user {
            only_for_links(&exam)?;
        } else {
            close_to_others(&exam)?;
        }
        let mut workshop = Workshop {
            _owner: owner,
            folder,
            launcher,
            confinement,
            toolchain,
            externs,
            compile_limit,
            halves: None,
        };
        workshop.halves = workshop.compile_once(course)?;
        Ok(workshop)
    }

    /// Compiles what does not depend on submissions, outside of any cell: it is ours.
    fn compile_once(&self, course: &Course) -> Result<Option<Halves>> {
        let Some(split) = Split::new(course) else {
            return Ok(None);
        };
        let source = self.root().join("given");
        lay_out(&source, &split.library)?;
        let folder = self.root().join("library");
        make_folder(&folder)?;
        let library = folder.join("libsubject.rlib");
        let mut command = self.toolchain.command();
        command
            .args(rustc::subject_arguments(self, &library, &folder))
            .arg(course.module.shown(&course.module.manifest.root))
            .current_dir(&source);
        if let Err(error) = rustc::must_succeed(&mut command, "the library without its holes") {
            // Every submission is compiled whole then, which is right as well, and slow.
            tito::ui::note(format!("submissions are compiled as a whole: {error:#}"));
            return Ok(None);
        }
        let folder = self.root().join("exam");
        let link = folder.join("link.rs");
        fs::write(&link, LINK).map_err(|error| cannot_write(&link, &error))?;
        let exam = folder.join("libexam.rlib");
        let mut command = self.toolchain.command();
        command
            .args(rustc::exam_arguments(self, &library, &exam, &folder))
            .arg("main.rs")
            .current_dir(&folder);
        rustc::must_succeed(&mut command, "the exam")?;
        Ok(Some(Halves {
            split,
            library,
            exam,
        }))
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    /// Compiled crates that a student's crate is linked with.
    pub(crate) fn student_externs(&self) -> impl Iterator<Item = (&String, &PathBuf)> {
        let externs = self.externs.iter();
        externs.filter(|(name, _)| !FOR_THE_EXAM.contains(&name.as_str()))
    }

    /// The system's files that a runner is started with: the dynamic loader and the C library. Everything else is linked in.
    ///
    /// # Errors
    ///
    /// An environment error if a job has made no runner yet.
    pub fn libraries(&self) -> Result<Vec<PathBuf>> {
        let runner = self.root().join("job-0/runner");
        let output = Command::new("ldd")
            .arg(&runner)
            .output()
            .map_err(|error| Failure::environment(format!("cannot start ldd: {error}")))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f...)`, `/lib64/ld-linux-x86-64.so.2 (0x7f...)`
        let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
        Ok(paths
            .map(PathBuf::from)
            .filter(|path| path.is_file())
            .collect())
    }

    /// Compiles the reference with the exam, outside of any cell: it is ours.
    ///
    /// # Errors
    ///
    /// An environment error with the compiler's words; a usage error if the instructor's own checks are at fault.
    pub fn reference(&self, course: &Course) -> Result<PathBuf> {
        let folder = self.root().join("reference");
        fs::create_dir(&folder).map_err(|error| cannot_write(&folder, &error))?;
        close_to_others(&folder)?;
        let library = folder.join("libsubject.rlib");
        let root = course.module.root.join(&course.module.manifest.target);
        let mut command = self.toolchain.command();
        command
            .args(rustc::subject_arguments(self, &library, &folder))
            .arg(root.join("src/lib.rs"))
            .current_dir(&folder);
        rustc::must_succeed(&mut command, "the reference")?;
        let program = folder.join("runner");
        let mut command = self.toolchain.command();
        command
            .args(rustc::runner_arguments(self, &library, &program, &folder))
            .arg(self.root().join("exam/main.rs"))
            .current_dir(&folder);
        rustc::must_succeed(&mut command, "the exam")?;
        Ok(program)
    }
}

/// Writes texts into a folder.
pub(crate) fn lay_out(folder: &Path, texts: &Texts) -> Result<()> {
    for (path, text) in texts {
        let target = folder.join(path);
        let written = target
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(&target, text));
        written.map_err(|error| cannot_write(&target, &error))?;
    }
    Ok(())
}

fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|error| cannot_write(path, &error))?;
    open_to_all(path)
}

/// The same file under another name if the disk allows it, else a copy.
fn place(from: &Path, to: &Path) -> io::Result<()> {
    if fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    fs::copy(from, to).map(|_| ())
}

fn mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|error| cannot_write(path, &error).into())
}

fn open_to_all(path: &Path) -> Result<()> {
    mode(path, 0o755)
}

fn close_to_others(path: &Path) -> Result<()> {
    mode(path, 0o700)
}

/// Of all users but root only the group of cells that link may look in.
fn only_for_links(path: &Path) -> Result<()> {
    std::os::unix::fs::chown(path, None, Some(LINK_GROUP))
        .map_err(|error| cannot_write(path, &error))?;
    mode(path, 0o750)
}
