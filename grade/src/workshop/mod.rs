//! The folder in which submissions are compiled: all that a cell may see, and nothing that it may not.
//!
//! ```text
//! WORKSHOP/toolchain/    compiler and standard library, if the cells' user cannot reach the installed ones
//! WORKSHOP/crates/       compiled crates a student's crate is linked with; not the library that holds the reference
//! WORKSHOP/library/      the part of a student's crate that does not depend on the student, compiled
//! WORKSHOP/exam/         the exam, as source and compiled: seen by the link step alone, which sees no text of students
//! WORKSHOP/reference/    the reference's answers, and the reference itself where it is compiled here: seen by nobody
//! WORKSHOP/job-0/        one per job: see `job`
//! ```
//!
//! It lies in the system's folder for temporary files, so that a user who may not enter the course's folder can still be shown parts of it.

mod abandoned;
mod budget;
mod certain;
mod job;
mod kept;
mod public;
mod rustc;
mod skeleton;
mod slot;
mod split;
mod stopped;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, Result};
use tempfile::TempDir;
use tito::dependencies::{self, Dependencies};
use tito::failure::Failure;
use tito::lock::cannot_write;

pub use job::{Built, Job};
pub use rustc::{Diagnostic, Toolchain, errors};
pub use stopped::Stop;

use kept::Kept;
use split::Split;

use crate::course::{Course, HARNESS, Texts, digest};
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
    /// What cargo built for it.
    pub(crate) dependencies: Dependencies,
    /// What is compiled once for all submissions; nothing before [`Workshop::prepare`], or if this course cannot be cut in two.
    halves: OnceLock<Halves>,
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
        let reference = root.join("reference");
        fs::create_dir(&reference).map_err(|error| cannot_write(&reference, &error))?;
        close_to_others(&reference)?;
        Ok(Workshop {
            _owner: owner,
            folder,
            launcher,
            confinement,
            toolchain,
            externs,
            compile_limit,
            dependencies: built,
            halves: OnceLock::new(),
        })
    }

    /// Makes what does not depend on submissions. Jobs come after it.
    ///
    /// # Errors
    ///
    /// An environment error if the exam does not compile.
    pub fn prepare(&self, course: &Course) -> Result<()> {
        if let Some(halves) = self.compile_once(course)? {
            let _ = self.halves.set(halves);
        }
        Ok(())
    }

    pub(crate) fn halves(&self) -> Option<&Halves> {
        self.halves.get()
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
        let for_exam = self.root().join("exam");
        let exam = for_exam.join("libexam.rlib");
        let link = for_exam.join("link.rs");
        fs::write(&link, LINK).map_err(|error| cannot_write(&link, &error))?;
        let kept = self.kept(course, &split);
        if kept.give(&[&library, &exam]) {
            return Ok(Some(Halves {
                split,
                library,
                exam,
            }));
        }
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
        let mut command = self.toolchain.command();
        command
            .args(rustc::exam_arguments(self, &library, &exam, &for_exam))
            .arg("main.rs")
            .current_dir(&for_exam);
        rustc::must_succeed(&mut command, "the exam")?;
        // The next run compiles it again then, which takes longer and changes nothing.
        let _ = kept.take(&[&library, &exam]);
        Ok(Some(Halves {
            split,
            library,
            exam,
        }))
    }

    /// What an earlier run may have compiled of the same course.
    fn kept(&self, course: &Course, split: &Split) -> Kept {
        let mut parts = vec![
            self.toolchain.hash.clone(),
            digest(&split.library),
            course.exam_hash.clone(),
            course.grader_hash.clone(),
        ];
        parts.extend(tito::subject::FLAGS.map(str::to_owned));
        for (_, file) in &self.dependencies.closure {
            let seen = fs::metadata(file).map(|data| (data.len(), data.modified().ok()));
            parts.push(format!("{} {seen:?}", file.display()));
        }
        let products = tito::subject::products(&course.module, &self.dependencies);
        Kept::new(products.join("graded"), parts)
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

    /// Where nobody else looks in.
    pub fn closed(&self) -> PathBuf {
        self.root().join("reference")
    }

    /// Compiles the reference with the exam, outside of any cell: it is ours.
    ///
    /// # Errors
    ///
    /// An environment error with the compiler's words; a usage error if the instructor's own checks are at fault.
    pub fn reference(&self, course: &Course) -> Result<PathBuf> {
        let folder = self.closed();
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
