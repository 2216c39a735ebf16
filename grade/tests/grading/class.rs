//! Submissions made of the reference, the stubs and the catalogue of mistakes, and `tito-grade` called on them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;
use tito::markers::Marked;
use tito::mistakes::{self, Mistake};
use tito::workspace::{Module, Workspace};
use tito_grade::model::{CheckResult, SubmissionResult};
use tito_grade::results::Results;

/// A folder of submissions and one for results.
pub struct Class {
    folder: TempDir,
    pub module: Module,
    /// Exercise file to the reference's text.
    pub reference: BTreeMap<String, String>,
}

/// What a hole of a submission holds.
pub enum Body {
    Solved,
    Open,
    Text(String),
}

impl Class {
    pub fn new() -> Class {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let module = Workspace::find(Some(root)).unwrap().module("15").unwrap();
        let files = module.twin_files().unwrap();
        let class = Class {
            folder: TempDir::new().unwrap(),
            reference: files
                .into_iter()
                .map(|file| (file.name, file.text))
                .collect(),
            module,
        };
        fs::create_dir(class.submissions()).unwrap();
        class
    }

    pub fn submissions(&self) -> PathBuf {
        self.folder.path().join("submissions")
    }

    pub fn results(&self) -> Results {
        Results::new(self.folder.path().join("results"))
    }

    pub fn mistakes(&self) -> Vec<Mistake> {
        mistakes::load(&self.module).unwrap()
    }

    /// The files of a submission, each hole as `choose` says; a line of the student's own makes every submission another.
    pub fn files(&self, name: &str, choose: impl Fn(&str) -> Body) -> BTreeMap<String, String> {
        let text = |reference: &String| {
            let marked = Marked::parse(reference).unwrap();
            marked.with_bodies(|hole| {
                let body = match choose(hole.tag) {
                    Body::Solved => marked.body(hole),
                    Body::Open => hole.stub_body(),
                    Body::Text(text) => text,
                };
                Some(format!("    // Handed in by {name}.\n{body}"))
            })
        };
        let files = self.reference.iter();
        files
            .map(|(file, reference)| (file.clone(), text(reference)))
            .collect()
    }

    /// Writes a submission as a folder.
    pub fn write(&self, name: &str, choose: impl Fn(&str) -> Body) {
        let folder = self.submissions().join(name);
        fs::create_dir_all(&folder).unwrap();
        for (file, text) in self.files(name, choose) {
            fs::write(folder.join(file), text).unwrap();
        }
    }

    pub fn write_wrong(&self, name: &str, mistake: &Mistake) {
        self.write(name, |tag| match tag == mistake.hole {
            true => Body::Text(mistake.body.clone()),
            false => Body::Solved,
        });
    }

    /// `tito-grade` in the course, as a student's machine would never have it.
    pub fn grader(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tito-grade"));
        command
            .arg("--workspace")
            .arg(&self.module.root)
            .args(arguments)
            // As an instructor has them built; `cargo test` builds the same libraries with other features.
            .env_remove("TITO_PROFILE")
            .env("CARGO_NET_OFFLINE", "true");
        command
    }

    pub fn run_command(&self, more: &[&str]) -> Command {
        let submissions = self.submissions().display().to_string();
        let results = self.results().folder().display().to_string();
        let mut arguments = vec![
            "--json",
            "run",
            &submissions,
            "--module",
            "15",
            "--out",
            &results,
        ];
        arguments.extend(more);
        self.grader(&arguments)
    }

    /// Grades the class and returns the summary.
    pub fn run(&self, more: &[&str]) -> serde_json::Value {
        json(self.run_command(more).output().unwrap())
    }

    pub fn result(&self, id: &str) -> SubmissionResult {
        self.results()
            .get(id)
            .unwrap()
            .unwrap_or_else(|| panic!("no result of {id}"))
    }
}

pub fn json(output: Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        let said = String::from_utf8_lossy(&output.stderr);
        panic!(
            "{error}: {}\n{said}",
            String::from_utf8_lossy(&output.stdout)
        )
    })
}

pub fn checks(result: &SubmissionResult) -> impl Iterator<Item = &CheckResult> {
    result
        .exercises
        .iter()
        .flat_map(|exercise| &exercise.checks)
}

/// Ids of the checks that failed, in order.
pub fn failed(result: &SubmissionResult) -> Vec<String> {
    checks(result)
        .filter(|check| !check.passed())
        .map(|check| check.id.clone())
        .collect()
}
