//! One job: a corner of the workshop with a user of its own, in which one submission after the other is compiled.
//!
//! ```text
//! job-0/src/    the student's crate: the given files, and the exercise files of the submission; read by the cell
//! job-0/out/    what the cell writes; emptied before every submission
//! job-0/seed/   what the compiler found out about the stubs; a copy of it makes every compilation short
//! job-0/runner  the linked program; a cell may start it and not read it
//! ```
//!
//! The seed is made of the course's own stubs, by the same compiler in the same cell, and every submission begins with a fresh copy: nothing
//! of one student's code is left when the next one's turn comes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use tito::failure::Failure;
use tito::lock::cannot_write;

use super::{Diagnostic, Workshop, errors, lay_out, make_folder, mode, rustc};
use crate::course::Course;
use crate::graft::Assembled;
use crate::sandbox::{Cell, Ended, Ending, FIRST_USER, GROUP, Limits, Wishes, run};

/// Bytes of the compiler's words that are kept.
const SAID: usize = 4 << 20;

/// How many times its processor time a compilation may take by the clock.
const PATIENCE: u32 = 10;

/// What the course's own stubs may take.
const SEED_LIMIT: Duration = Duration::from_secs(120);

/// See the module's head.
#[derive(Debug)]
pub struct Job<'a> {
    /// Processor time that a compilation may take.
    pub limit: Duration,
    workshop: &'a Workshop,
    folder: PathBuf,
    user: Option<u32>,
    root: String,
    module: String,
}

/// How a compilation ended.
#[derive(Clone, Debug)]
pub enum Built {
    /// The program is there.
    Ready(PathBuf),
    /// The student's crate does not compile.
    Errors(Vec<Diagnostic>),
    /// The compiler was stopped or fell over the student's crate: a sentence.
    Stopped(String),
}

impl<'a> Job<'a> {
    /// Makes job `number` and its seed.
    ///
    /// # Errors
    ///
    /// An environment error if the stubs do not compile with the exam in a cell.
    pub fn new(workshop: &'a Workshop, course: &Course, number: u32) -> Result<Job<'a>> {
        let folder = workshop.root().join(format!("job-{number}"));
        make_folder(&folder)?;
        let mut job = Job {
            limit: SEED_LIMIT,
            workshop,
            folder,
            user: workshop
                .confinement
                .drops_user
                .then_some(FIRST_USER + number),
            root: course.module.shown(&course.module.manifest.root),
            module: course.module.folder(),
        };
        lay_out(&job.folder.join("src"), &course.given)?;
        let stubs: Vec<Assembled> = course
            .stubs
            .iter()
            .map(|(file, text)| Assembled {
                file: file.clone(),
                text: text.clone(),
                holes: Vec::new(),
            })
            .collect();
        match job.build(&stubs)? {
            Built::Ready(_) => {}
            Built::Errors(found) => {
                let said: Vec<String> = found.into_iter().filter_map(|one| one.rendered).collect();
                return Err(Failure::environment(format!(
                    "the stubs do not compile in a cell\n{}",
                    said.join("\n").chars().take(3_000).collect::<String>()
                ))
                .into());
            }
            Built::Stopped(why) => {
                return Err(
                    Failure::environment(format!("the stubs cannot be compiled: {why}")).into(),
                );
            }
        }
        let seed = job.folder.join("seed");
        fs::rename(job.memory(), &seed).map_err(|error| cannot_write(&seed, &error))?;
        mode(&seed, 0o700)?;
        job.limit = workshop.compile_limit;
        Ok(job)
    }

    /// The user its cells run as.
    pub fn user(&self) -> Option<u32> {
        self.user
    }

    /// Compiles a submission and links it with the exam.
    ///
    /// # Errors
    ///
    /// An environment error if the machine, not the submission, is at fault.
    pub fn build(&self, files: &[Assembled]) -> Result<Built> {
        self.clear()?;
        for file in files {
            let path = self.folder.join("src").join(&self.module).join(&file.file);
            let is_same = fs::read(&path).is_ok_and(|text| text == file.text.as_bytes());
            if !is_same {
                fs::write(&path, &file.text).map_err(|error| cannot_write(&path, &error))?;
            }
        }
        let out = self.out();
        let library = out.join("libsubject.rlib");
        let mut arguments = rustc::subject_arguments(self.workshop, &library, &out);
        arguments.push(format!("-Cincremental={}", self.memory().join("subject").display()).into());
        arguments.push(self.root.clone().into());
        let source = self.folder.join("src");
        let ended = self.compile(&arguments, std::slice::from_ref(&source), &source)?;
        if ended.ending != Ending::Left(0) {
            return self.failed(&ended, "your files");
        }
        let program = out.join("runner");
        let mut arguments = rustc::runner_arguments(self.workshop, &library, &program, &out);
        arguments.push(format!("-Cincremental={}", self.memory().join("runner").display()).into());
        let exam = self.workshop.root().join("exam");
        arguments.push("main.rs".into());
        let ended = self.compile(&arguments, std::slice::from_ref(&exam), &exam)?;
        if ended.ending != Ending::Left(0) {
            return self.failed(&ended, "the exam with your files");
        }
        let runner = self.folder.join("runner");
        fs::rename(&program, &runner).map_err(|error| cannot_write(&runner, &error))?;
        if self.user.is_some() {
            // Ours again, so that a process that may start it can neither read nor change it, and is not dumpable.
            std::os::unix::fs::chown(&runner, Some(0), Some(GROUP))
                .map_err(|error| cannot_write(&runner, &error))?;
            mode(&runner, 0o710)?;
        }
        Ok(Built::Ready(runner))
    }

    fn out(&self) -> PathBuf {
        self.folder.join("out")
    }

    fn memory(&self) -> PathBuf {
        self.out().join("memory")
    }

    /// Empties the folder of the last submission, and puts a fresh copy of the seed there.
    fn clear(&self) -> Result<()> {
        let out = self.out();
        let fresh = (|| -> io::Result<()> {
            match fs::remove_dir_all(&out) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let _ = fs::remove_file(self.folder.join("runner"));
            for folder in [&out, &self.memory(), &out.join("tmp")] {
                fs::create_dir(folder)?;
                self.give(folder)?;
            }
            let seed = self.folder.join("seed");
            if seed.is_dir() {
                self.copy(&seed, &self.memory())?;
            }
            Ok(())
        })();
        fresh.map_err(|error| cannot_write(&out, &error).into())
    }

    fn give(&self, path: &Path) -> io::Result<()> {
        match self.user {
            Some(user) => std::os::unix::fs::lchown(path, Some(user), Some(GROUP)),
            None => Ok(()),
        }
    }

    fn copy(&self, from: &Path, to: &Path) -> io::Result<()> {
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let target = to.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                fs::create_dir_all(&target)?;
                self.copy(&entry.path(), &target)?;
            } else {
                fs::copy(entry.path(), &target)?;
            }
            self.give(&target)?;
        }
        Ok(())
    }

    /// Calls the compiler in a cell that sees the toolchain, the compiled crates, `see`, and its own folder.
    fn compile(
        &self,
        arguments: &[std::ffi::OsString],
        see: &[PathBuf],
        folder: &Path,
    ) -> Result<Ended> {
        let limit = self.limit;
        let present = |paths: &[&str]| -> Vec<PathBuf> {
            let paths = paths.iter().map(PathBuf::from);
            paths.filter(|path| path.exists()).collect()
        };
        let mut read = vec![self.workshop.root().join("crates")];
        read.extend_from_slice(see);
        read.extend(present(&["/etc/ld.so.cache"]));
        let sysroot = &self.workshop.toolchain.sysroot;
        let mut execute = vec![sysroot.join("bin"), sysroot.join("lib")];
        // The linker is the system's. The C compiler that calls it brings its parts along.
        execute.extend(present(&[
            "/bin",
            "/lib",
            "/lib32",
            "/lib64",
            "/usr/bin",
            "/usr/lib",
            "/usr/lib32",
            "/usr/lib64",
            "/usr/libexec",
        ]));
        // Procedural macros are libraries that the compiler loads.
        execute.push(self.workshop.root().join("crates"));
        let mut write = vec![self.out()];
        write.extend(present(&["/dev/null"]));
        let cell = Cell {
            user: self.user,
            read,
            execute,
            start: Vec::new(),
            write,
            limits: Limits {
                memory: 4 << 30,
                cpu_seconds: limit.as_secs().max(1),
                file: 256 << 20,
                files: 512,
                processes: self.user.map(|_| 128),
            },
            starts_programs: true,
            needs_landlock: Some(self.workshop.confinement.landlock.clone()),
        };
        let mut command = self
            .workshop
            .launcher
            .command(&cell, &self.workshop.toolchain.program());
        command
            .args(arguments)
            .current_dir(folder)
            .env("PATH", "/usr/bin:/bin")
            .env("TMPDIR", self.out().join("tmp"))
            .env("LC_ALL", "C");
        let wishes = Wishes {
            // Processor time is what counts; a busy machine takes longer for it.
            wall: limit.saturating_mul(PATIENCE),
            stdout: SAID,
            stderr: SAID,
            threads: None,
        };
        Ok(run(&mut command, b"", &wishes)
            .map_err(|error| Failure::environment(format!("cannot start a cell: {error}")))?)
    }

    fn failed(&self, ended: &Ended, what: &str) -> Result<Built> {
        let said = String::from_utf8_lossy(&ended.stderr);
        if ended.ending == Ending::Left(crate::sandbox::NOT_LOCKED.into())
            && said.starts_with("cell: ")
        {
            return Err(Failure::environment(said.trim().to_owned()).into());
        }
        let found = errors(&ended.stderr);
        if !found.is_empty() && matches!(ended.ending, Ending::Left(_)) {
            return Ok(Built::Errors(found));
        }
        let seconds = self.limit.as_secs().max(1);
        Ok(Built::Stopped(match ended.ending {
            // XCPU, or the KILL that follows it.
            Ending::TimedOut | Ending::Killed(9 | 24) => {
                format!("compiling {what} took more than {seconds} s")
            }
            Ending::Flooded => format!("compiling {what} wrote without end"),
            Ending::Killed(_) | Ending::Left(_) | Ending::TooManyThreads => {
                format!(
                    "the compiler did not survive {what}: out of memory or time, or brackets nested too deep"
                )
            }
        }))
    }
}
