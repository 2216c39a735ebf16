//! What grading takes from the course: the stubs, the files given to every student, the exam; and the hashes of all a grade depends on.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use tito::failure::Failure;
use tito::markers::Marked;
use tito::snapshot::hash;
use tito::workspace::{Module, Workspace};

use crate::graft::Stubs;
use crate::rooms::Rooms;

/// The package that runs sealed.
pub const HARNESS: &str = "tito-grade-harness";

/// Texts by their path; paths are relative and use `/`.
pub type Texts = BTreeMap<String, Vec<u8>>;

/// A module as it is graded.
#[derive(Clone, Debug)]
pub struct Course {
    /// The module.
    pub module: Module,
    /// Exercise file to stub, made from the library, since the module's folder may hold somebody's own work.
    pub stubs: Stubs,
    /// The other sources of a student's crate: its root, and what it takes from the library. Nothing of the reference.
    pub given: Texts,
    /// The exam with its hidden checks, and the main function that seals the process.
    pub exam: Texts,
    /// Words of the source policy that this module grants.
    pub grants: Vec<String>,
    /// What exercises may name of the course.
    pub rooms: Rooms,
    /// SHA-256 over the sources a submission is compiled and compared with.
    pub course_hash: String,
    /// SHA-256 over the exam's sources.
    pub exam_hash: String,
    /// SHA-256 over the grader's own sources.
    pub grader_hash: String,
}

impl Course {
    /// Reads a module for grading, with the instructor's own hidden checks if a folder is given.
    ///
    /// # Errors
    ///
    /// Usage, if that folder is not shaped like `exam/hidden`; environment, if a file of the course cannot be read.
    pub fn load(workspace: &Workspace, module: &str, hidden: Option<&Path>) -> Result<Course> {
        let module = workspace.module(module)?;
        let mut stubs = Stubs::new();
        let mut reference = Texts::new();
        for file in module.twin_files()? {
            let marked = Marked::parse(&file.text)
                .map_err(|error| Failure::environment(format!("{}, {error}", file.shown)))?;
            stubs.insert(file.name, marked.stub());
            reference.insert(file.shown, file.text.into_bytes());
        }
        let root = module.root.clone();
        let given = given(&module)?;
        let exam = exam(&module, hidden)?;
        let mut parts = vec![digest(&given), digest(&reference)];
        for folder in [
            "crates/tinytorch-core",
            "crates/tinytorch-kernels",
            "crates/tinytorch-exam",
            "grade/harness",
        ] {
            if root.join(folder).is_dir() {
                parts.push(digest(&read_tree(&root, Path::new(folder))?));
            }
        }
        let wrong = Path::new(&module.manifest.exam).join("wrong");
        if root.join(&wrong).is_dir() {
            parts.push(digest(&read_tree(&root, &wrong)?));
        }
        parts.push(hash(&fs::read(root.join("Cargo.lock")).unwrap_or_default()));
        let own = root.join("grade/src");
        let own = if own.is_dir() {
            read_tree(&root, Path::new("grade/src"))?
        } else {
            Texts::new()
        };
        let crate_root = given.get(&module.shown(&module.manifest.root));
        let crate_root =
            crate_root.map_or("", |text| std::str::from_utf8(text).unwrap_or_default());
        Ok(Course {
            grants: module.manifest.grants.clone(),
            rooms: Rooms::new(&module.manifest.files, &stubs, crate_root),
            stubs,
            course_hash: hash(parts.join(" ").as_bytes()),
            exam_hash: digest(&exam),
            grader_hash: hash(format!("{} {}", env!("CARGO_PKG_VERSION"), digest(&own)).as_bytes()),
            given,
            exam,
            module,
        })
    }
}

/// A student's crate without the exercise files, laid out as in the course.
fn given(module: &Module) -> Result<Texts> {
    let library = PathBuf::from(&module.manifest.target).join("src");
    let mut texts = read_tree(&module.root, &library)?;
    let twins: Vec<String> = module
        .manifest
        .files
        .iter()
        .map(|file| module.twin(file))
        .collect();
    let root_twin = module.twin("lib.rs");
    texts.retain(|path, _| !twins.contains(path) && *path != root_twin);
    let root = module.shown(&module.manifest.root);
    let text = read(&module.root, &root)?;
    texts.insert(root, text);
    Ok(texts)
}

/// Appended to the exam's own module, where an instructor brings checks.
const INSTRUCTOR: &str = "
mod instructor;

/// The instructor's own checks; whatever they say of themselves, students do not see them.
pub fn instructor_checks() -> Vec<Check> {
    let mut checks = instructor::checks();
    for check in &mut checks {
        check.visibility = tinytorch_exam::Visibility::Hidden;
    }
    checks
}
";

/// The exam as it is compiled for grading: `main.rs`, `exam/...`.
fn exam(module: &Module, hidden: Option<&Path>) -> Result<Texts> {
    let folder = Path::new(&module.manifest.exam).join("exam");
    let shown = folder.to_string_lossy().replace('\\', "/");
    let mut exam: Texts = read_tree(&module.root, &folder)?
        .into_iter()
        .map(|(path, text)| (path.replacen(&shown, "exam", 1), text))
        .collect();
    let mut more = "";
    if let Some(hidden) = hidden {
        if !hidden.join("mod.rs").is_file() {
            return Err(Failure::usage(format!("{} has no mod.rs", hidden.display()))
                .help(format!(
                    "it is shaped like {shown}/hidden: `mod.rs` with `pub(super) fn checks() -> Vec<Check>`"
                ))
                .into());
        }
        for (path, text) in read_tree(hidden, Path::new(""))? {
            exam.insert(format!("exam/instructor/{path}"), text);
        }
        let root = exam.entry("exam/mod.rs".to_owned()).or_default();
        root.extend_from_slice(INSTRUCTOR.as_bytes());
        more = "    checks.extend(exam::instructor_checks());\n";
    }
    let main = format!(
        "extern crate subject;\n\nmod exam;\n\n/// Answers.\npub fn main() -> std::process::ExitCode {{\n    \
         #[allow(unused_mut)]\n    let mut checks = exam::checks();\n{more}    \
         tito_grade_harness::main({:?}, &checks)\n}}\n",
        module.name
    );
    exam.insert("main.rs".into(), main.into_bytes());
    Ok(exam)
}

fn read(root: &Path, path: &str) -> Result<Vec<u8>> {
    Ok(fs::read(root.join(path))
        .map_err(|error| Failure::environment(format!("cannot read {path}: {error}")))?)
}

/// All files beneath `root/folder`, by their path from `root`.
fn read_tree(root: &Path, folder: &Path) -> Result<Texts> {
    let mut texts = Texts::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        let shown = root.join(&folder);
        let fail = |error: std::io::Error| {
            Failure::environment(format!("cannot read {}: {error}", shown.display()))
        };
        for entry in fs::read_dir(&shown).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let path = folder.join(entry.file_name());
            // What cargo builds; a module of that name is a source.
            if entry.file_name() == "target" && entry.path().join("CACHEDIR.TAG").is_file() {
                continue;
            }
            if entry.path().is_dir() {
                waiting.push(path);
            } else {
                let name = path.to_string_lossy().replace('\\', "/");
                texts.insert(name, fs::read(entry.path()).map_err(fail)?);
            }
        }
    }
    Ok(texts)
}

/// SHA-256 over names and contents.
pub fn digest(texts: &Texts) -> String {
    let lines: Vec<String> = texts
        .iter()
        .map(|(path, text)| format!("{} {path}", hash(text)))
        .collect();
    hash(lines.join("\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Part;

    /// An exercise that its own solution could not be written in would be a trap.
    #[test]
    fn the_solutions_name_nothing_that_is_not_for_them() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let workspace = Workspace::find(Some(&root)).expect("the course");
        let course = Course::load(&workspace, "15", None).expect("module 15");
        let mut holes = 0;
        for file in course.module.twin_files().expect("the solutions") {
            let marked = Marked::parse(&file.text).expect("markers");
            for hole in marked.holes() {
                let text = marked.body(hole);
                let part = Part {
                    file: &file.name,
                    line: hole.line() + 1,
                    text: &text,
                };
                assert_eq!(course.rooms.look(&part), Vec::new(), "{}", hole.tag);
                holes += 1;
            }
        }
        assert!(holes > 20, "{holes}");
        let given = |file: &str, text: &str| {
            let part = Part {
                file,
                line: 1,
                text,
            };
            course.rooms.look(&part).len()
        };
        assert_eq!(given("qparams.rs", "crate::dialect::Dialect::Onnx"), 1);
        assert_eq!(given("fake_quantize.rs", "crate::learned::round(x)"), 1);
        assert_eq!(given("quantize.rs", "crate::fake_quantize_learned(x)"), 1);
    }
}
