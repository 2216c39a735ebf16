//! One job: a corner of the workshop with a user of its own, in which one submission after the other is compiled.
//!
//! ```text
//! job-0/holes/   the submission's functions with holes, and nothing else: read by the cell that compiles them against the library
//! job-0/src/     the student's crate as a whole, for what cannot be compiled so: the given files, and the submission's
//! job-0/bare/    the same, without the bodies of the functions in the given files: for the errors in the submission's
//! job-0/out/     what cells write; emptied before every submission
//! job-0/runner   the linked program; a cell may start it and not read it
//! ```
//!
//! A submission is compiled in two cells. The first reads its text, the course's compiled crates and the library; there is nothing of the exam that it could read.
//! The second reads the compiled exam and what the first wrote, and no text of the submission's.
//!
//! What does not compile as holes is compiled as a whole crate, whose errors count: a body may do what only its own crate may, such as
//! implementing a method. Errors that are the same in both are told at once: see `certain`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use tito::failure::Failure;
use tito::lock::cannot_write;

use super::budget::Budget;
use super::certain::are_certain;
use super::skeleton::skeletons;
use super::{Diagnostic, Halves, Stop, Workshop, errors, lay_out, make_folder, mode, rustc, split};
use crate::course::Course;
use crate::graft::Assembled;
use crate::sandbox::{Cell, Ended, Ending, GROUP, Limits, Wishes, run, users};

/// Bytes of the compiler's words that are kept.
const SAID: usize = 4 << 20;

/// How many times its processor time a compilation may take by the clock.
const PATIENCE: u32 = 10;

/// What the course's own stubs may take.
const STUBS_LIMIT: Duration = Duration::from_secs(120);

/// What is compiled, in words.
const YOURS: &str = "your files";

/// The same for the second step.
const WITH_EXAM: &str = "the exam with your files";

/// See the module's head.
#[derive(Debug)]
pub struct Job<'a> {
    /// Processor time that a compilation may take.
    pub limit: Duration,
    budget: Budget,
    workshop: &'a Workshop,
    folder: PathBuf,
    user: Option<users::User>,
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
    /// The compiler was stopped or fell over the student's crate: why, and a sentence.
    Stopped(Stop, String),
}

/// A cell of the compiler's.
#[derive(Clone, Copy)]
struct Step<'a> {
    /// Beside the toolchain and the compiled crates.
    see: &'a [PathBuf],
    /// Where it runs.
    folder: &'a Path,
    /// Whether it links, and so sees the exam and no student's text.
    links: bool,
}

impl<'a> Job<'a> {
    /// Makes job `number`.
    ///
    /// # Errors
    ///
    /// An environment error if the stubs do not compile with the exam in a cell.
    pub fn new(workshop: &'a Workshop, course: &Course, number: u32) -> Result<Job<'a>> {
        let folder = workshop.root().join(format!("job-{number}"));
        make_folder(&folder)?;
        let mut job = Job {
            limit: STUBS_LIMIT,
            budget: Budget::default(),
            workshop,
            folder,
            user: match workshop.confinement.drops_user {
                true => Some(users::take(&users::folder(), users::USERS)?),
                false => None,
            },
            root: course.module.shown(&course.module.manifest.root),
            module: course.module.folder(),
        };
        lay_out(&job.folder.join("src"), &course.given)?;
        lay_out(&job.folder.join("bare"), &skeletons(&course.given))?;
        let stubs: Vec<Assembled> = course
            .stubs
            .iter()
            .map(|(file, text)| Assembled::new(file, text.clone()))
            .collect();
        match job.build(&stubs, STUBS_LIMIT)? {
            Built::Ready(_) => {}
            Built::Errors(found) => {
                let said: Vec<String> = found.into_iter().filter_map(|one| one.rendered).collect();
                return Err(Failure::environment(format!(
                    "the stubs do not compile in a cell\n{}",
                    said.join("\n").chars().take(3_000).collect::<String>()
                ))
                .into());
            }
            Built::Stopped(_, why) => {
                return Err(
                    Failure::environment(format!("the stubs cannot be compiled: {why}")).into(),
                );
            }
        }
        job.limit = workshop.compile_limit;
        Ok(job)
    }

    /// The user its cells run as.
    pub fn user(&self) -> Option<u32> {
        self.user.as_ref().map(|user| user.id)
    }

    /// Another submission's turn: what all its compilations may take together is counted anew.
    pub fn begin(&self) {
        self.budget.begin();
    }

    /// Processor time that this submission may still use.
    pub fn left(&self) -> Duration {
        self.budget.left(self.limit)
    }

    /// Compiles a submission and links it with the exam. It may take `most`, and not more than is left.
    ///
    /// # Errors
    ///
    /// An environment error if the machine, not the submission, is at fault.
    pub fn build(&self, files: &[Assembled], most: Duration) -> Result<Built> {
        let Some(halves) = self.workshop.halves() else {
            return self.build_whole(files, most, false);
        };
        match self.build_holes(halves, files, most)? {
            Some(built) => Ok(built),
            None => self.build_whole(files, most, true),
        }
    }

    /// The holes against the library; nothing if the whole crate must say what is wrong.
    fn build_holes(
        &self,
        halves: &Halves,
        files: &[Assembled],
        most: Duration,
    ) -> Result<Option<Built>> {
        self.clear()?;
        let Some(texts) = halves.split.holes(files) else {
            return Ok(None);
        };
        let source = self.folder.join("holes");
        lay_out(&source, &texts)?;
        let out = self.out();
        let holes = out.join("libholes.rlib");
        let library = halves.library.parent().unwrap_or(&halves.library);
        let mut arguments = rustc::holes_arguments(self.workshop, &halves.library, &holes, &out);
        arguments.push(split::ROOT.into());
        let step = Step {
            see: &[source.clone(), library.to_owned()],
            folder: &source,
            links: false,
        };
        if let Some(built) = self.compile(&arguments, step, most, YOURS)? {
            let is_final = match &built {
                Built::Errors(found) => are_certain(found, &self.module, files),
                _ => true,
            };
            return Ok(is_final.then_some(built));
        }
        let program = out.join("runner");
        let mut arguments = rustc::link_arguments(self.workshop, halves, &holes, &program, &out);
        arguments.push("link.rs".into());
        let exam = self.workshop.root().join("exam");
        let step = Step {
            see: &[exam.clone(), library.to_owned()],
            folder: &exam,
            links: true,
        };
        match self.compile(&arguments, step, most, WITH_EXAM)? {
            None => self.ready(&program).map(Some),
            Some(Built::Errors(_)) => Ok(None),
            stopped => Ok(stopped),
        }
    }

    /// The whole crate. With `check`, its errors are looked for first, which is the most that most of those that come here need.
    fn build_whole(&self, files: &[Assembled], most: Duration, check: bool) -> Result<Built> {
        self.clear()?;
        if check && let Some(built) = self.check_bare(files, most)? {
            return Ok(built);
        }
        let out = self.out();
        let library = out.join("libsubject.rlib");
        let source = self.folder.join("src");
        self.hand_in(&source, files)?;
        let step = Step {
            see: std::slice::from_ref(&source),
            folder: &source,
            links: false,
        };
        let mut arguments = rustc::subject_arguments(self.workshop, &library, &out);
        arguments.push(self.root.clone().into());
        if let Some(built) = self.compile(&arguments, step, most, YOURS)? {
            return Ok(built);
        }
        let program = out.join("runner");
        let mut arguments = rustc::runner_arguments(self.workshop, &library, &program, &out);
        let exam = self.workshop.root().join("exam");
        arguments.push("main.rs".into());
        let step = Step {
            see: std::slice::from_ref(&exam),
            folder: &exam,
            links: true,
        };
        match self.compile(&arguments, step, most, WITH_EXAM)? {
            None => self.ready(&program),
            Some(built) => Ok(built),
        }
    }

    /// Looks for errors in the submission's files among skeletons of the given ones; nothing if there is none, or one that is not the submission's.
    fn check_bare(&self, files: &[Assembled], most: Duration) -> Result<Option<Built>> {
        let source = self.folder.join("bare");
        self.hand_in(&source, files)?;
        let mut arguments = rustc::check_arguments(self.workshop, &self.out());
        arguments.push(self.root.clone().into());
        let step = Step {
            see: std::slice::from_ref(&source),
            folder: &source,
            links: false,
        };
        let built = self.compile(&arguments, step, most, YOURS)?;
        let own: Vec<String> = files
            .iter()
            .map(|file| format!("{}/{}", self.module, file.file))
            .collect();
        let is_own = |error: &Diagnostic| {
            let mut main = error.spans.iter().filter(|span| span.is_primary);
            !error.spans.is_empty() && main.all(|span| own.contains(&span.file_name))
        };
        Ok(built.filter(|built| match built {
            Built::Errors(found) => found.iter().all(is_own),
            _ => true,
        }))
    }

    /// Puts a submission's files where the given ones are.
    fn hand_in(&self, source: &Path, files: &[Assembled]) -> Result<()> {
        for file in files {
            let path = source.join(&self.module).join(&file.file);
            let is_same = fs::read(&path).is_ok_and(|text| text == file.text.as_bytes());
            if !is_same {
                fs::write(&path, &file.text).map_err(|error| cannot_write(&path, &error))?;
            }
        }
        Ok(())
    }

    /// Puts a linked program where cells may start it.
    fn ready(&self, program: &Path) -> Result<Built> {
        let runner = self.folder.join("runner");
        fs::rename(program, &runner).map_err(|error| cannot_write(&runner, &error))?;
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

    /// Empties the folder of the last submission.
    fn clear(&self) -> Result<()> {
        let out = self.out();
        let fresh = (|| -> io::Result<()> {
            match fs::remove_dir_all(&out) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let _ = fs::remove_file(self.folder.join("runner"));
            for folder in [&out, &out.join("tmp")] {
                fs::create_dir(folder)?;
                self.give(folder)?;
            }
            Ok(())
        })();
        fresh.map_err(|error| cannot_write(&out, &error).into())
    }

    fn give(&self, path: &Path) -> io::Result<()> {
        match self.user() {
            Some(user) => std::os::unix::fs::lchown(path, Some(user), Some(GROUP)),
            None => Ok(()),
        }
    }

    /// Calls the compiler in a cell; nothing if it made what it was asked for.
    fn compile(
        &self,
        arguments: &[std::ffi::OsString],
        step: Step<'_>,
        most: Duration,
        what: &str,
    ) -> Result<Option<Built>> {
        let Some(limit) = self.budget.next(self.limit, most) else {
            let stop = Stop::Budget(Budget::of(self.limit).as_secs());
            return Ok(Some(Built::Stopped(stop, stop.sentence(what))));
        };
        let wall = limit.saturating_mul(PATIENCE);
        let ended = self.call(arguments, step, limit, wall)?;
        self.budget.spend(ended.processor);
        if ended.ending == Ending::Left(0) {
            return Ok(None);
        }
        let said = String::from_utf8_lossy(&ended.stderr);
        if ended.ending == Ending::Left(crate::sandbox::NOT_LOCKED.into())
            && said.starts_with("cell: ")
        {
            return Err(Failure::environment(said.trim().to_owned()).into());
        }
        let found = errors(&ended.stderr);
        let stop = Stop::of(&ended, limit, wall);
        // A linker that was stopped is an error of the compiler's too, without a place in the text.
        let is_error = found.iter().any(|error| !error.spans.is_empty())
            || !found.is_empty() && stop == Stop::Crashed;
        if is_error && matches!(ended.ending, Ending::Left(_)) {
            return Ok(Some(Built::Errors(found)));
        }
        Ok(Some(Built::Stopped(stop, stop.sentence(what))))
    }

    /// A cell that sees the toolchain, the compiled crates, what the step needs, and its own folder.
    fn call(
        &self,
        arguments: &[std::ffi::OsString],
        step: Step<'_>,
        limit: Duration,
        wall: Duration,
    ) -> Result<Ended> {
        let present = |paths: &[&str]| -> Vec<PathBuf> {
            let paths = paths.iter().map(PathBuf::from);
            paths.filter(|path| path.exists()).collect()
        };
        let mut read = vec![self.workshop.root().join("crates")];
        read.extend_from_slice(step.see);
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
            user: self.user(),
            links: step.links,
            read,
            execute,
            start: Vec::new(),
            write,
            limits: Limits {
                memory: 4 << 30,
                cpu_seconds: limit.as_secs().max(1),
                file: 256 << 20,
                files: 512,
                processes: self.user().map(|_| 128),
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
            .current_dir(step.folder)
            .env("PATH", "/usr/bin:/bin")
            .env("TMPDIR", self.out().join("tmp"))
            .env("LC_ALL", "C");
        let wishes = Wishes {
            // Processor time is what counts; a busy machine takes longer for it.
            wall,
            stdout: SAID,
            stderr: SAID,
            threads: None,
        };
        Ok(run(&mut command, b"", &wishes)
            .map_err(|error| Failure::environment(format!("cannot start a cell: {error}")))?)
    }
}
