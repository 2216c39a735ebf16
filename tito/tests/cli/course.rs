//! A copy of the made-up course, and `tito` called in it.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use tempfile::TempDir;

/// The exercise files of the made-up module.
pub const FILES: [&str; 3] = ["halves.rs", "sums.rs", "extra.rs"];

/// The course's folder, in one of its own.
const COURSE: &str = "course";

/// A course in a folder that goes away with the value.
pub struct Course {
    folder: TempDir,
}

impl Course {
    /// A fresh copy: every exercise is still to be done.
    pub fn new() -> Course {
        let folder = TempDir::new().unwrap();
        let own = Path::new(env!("CARGO_MANIFEST_DIR"));
        let repository = own.parent().unwrap();
        // A folder in a folder: a release is made beside the course, and goes when it goes.
        copy(&own.join("tests/course"), &folder.path().join(COURSE));
        let course = Course { folder };
        let exam = repository.join("crates/tinytorch-exam");
        let manifest = course.read("Cargo.toml");
        let exam = exam.display().to_string().replace('\\', "/");
        course.write("Cargo.toml", &manifest.replace("EXAM_CRATE", &exam));
        // The versions that are on this disk: nothing is looked up.
        fs::copy(repository.join("Cargo.lock"), course.path("Cargo.lock")).unwrap();
        course
    }

    /// A copy in which every exercise is done as the library does it.
    pub fn solved() -> Course {
        let course = Course::new();
        for file in FILES {
            let text = course.read(&format!("crates/mini/src/{file}"));
            course.write(&format!("modules/01_mini/{file}"), &text);
        }
        course
    }

    /// `tito` with these arguments, in the course's folder.
    pub fn tito(&self, arguments: &[&str]) -> Command {
        self.tito_in("", arguments)
    }

    /// `tito` with these arguments, in a folder below the course's.
    pub fn tito_in(&self, folder: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tito"));
        command
            .args(arguments)
            .current_dir(self.path(folder))
            .env(
                "CARGO_TARGET_DIR",
                Path::new(env!("CARGO_TARGET_TMPDIR")).join("course"),
            )
            .env("CARGO_NET_OFFLINE", "true")
            .env("TITO_PROFILE", "dev")
            .env_remove("CARGO")
            .env_remove("NO_COLOR")
            .env_remove("CLICOLOR_FORCE");
        command
    }

    /// Runs `tito` and returns its exit code, its output and its complaints.
    pub fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        outcome(&mut self.tito(arguments))
    }

    /// Runs `tito --json` and returns its exit code and the document.
    pub fn json(&self, arguments: &[&str]) -> (i32, serde_json::Value) {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
        let (code, out, err) = self.run(&arguments);
        let value = serde_json::from_str(&out);
        (
            code,
            value.unwrap_or_else(|error| panic!("{error} in {out:?}; {err}")),
        )
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(COURSE).join(path)
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    pub fn write(&self, path: &str, text: &str) {
        fs::write(self.path(path), text).unwrap();
    }

    /// Replaces a text that must be there.
    pub fn edit(&self, path: &str, old: &str, new: &str) {
        let text = self.read(path);
        assert!(text.contains(old), "{path} has no {old:?}");
        self.write(path, &text.replace(old, new));
    }

    /// Does 1.1 in this way.
    pub fn half(&self, body: &str) {
        self.edit("modules/01_mini/halves.rs", "todo!(\"exercise 1.1\")", body);
    }

    /// The three exercise files, of the student or of the library.
    pub fn files(&self, folder: &str) -> Vec<String> {
        FILES
            .iter()
            .map(|file| self.read(&format!("{folder}/{file}")))
            .collect()
    }
}

/// Exit code, output, complaints.
pub fn outcome(command: &mut Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
