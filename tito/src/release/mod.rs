//! A student's repository, made from the course: stubs in place of every solution, public checks, lessons, and nothing else.
//!
//! ```text
//! course -> settings + files (what is listed) -> cargo (manifests cut to it) -> exercises emptied -> student (readme, editor, CI)
//!        -> leaks (no line of a solution, anywhere) -> record (what was given) -> write (a new folder) or update (an old one)
//! ```
//!
//! The crate a released module is exported to holds the stubs as well, until the student exports: there is no solution anywhere.
//! Crates of earlier modules that are not released are given as they are.

mod cargo;
mod files;
mod leaks;
mod record;
mod settings;
mod student;
pub mod update;
pub mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;

use crate::commands::dev::{expect, stubs};
use crate::exported::Export;
use crate::failure::Failure;
use crate::markers::Marked;
use crate::mistakes;
use crate::sealed;
use crate::snapshot::Store;
use crate::ui;
use crate::workspace::{Module, Workspace};

pub use files::{Files, collect};
pub use record::{RECORD, Record};

use cargo::{Package, text};
use leaks::{Secrets, squeeze};
use settings::Settings;

/// A student's repository, complete, not written yet.
#[derive(Debug)]
pub struct Release {
    /// All files, the record among them.
    pub files: Files,
    /// What was given.
    pub record: Record,
    /// How many lines and texts were looked for and not found; 0 for one that was read from a folder.
    pub secrets: usize,
}

/// A written module, and what becomes of its solutions.
struct Part {
    module: Module,
    /// Its exercises are handed out.
    is_released: bool,
    /// Its library is handed out, solved: a released module builds on it.
    is_given: bool,
}

impl Release {
    /// Makes the release of the modules, or of all that are written. In a student's repository that is still as it was
    /// given, the release is the repository itself.
    ///
    /// # Errors
    ///
    /// Usage, for an unknown module; work left, if a solution or a hidden check would be handed out; an environment error for
    /// files that cannot be read.
    pub fn make(workspace: &Workspace, modules: &[String]) -> Result<Release> {
        match Record::load(&workspace.root)? {
            Some(record) => read(&workspace.root, record, modules),
            None => build(workspace, modules),
        }
    }
}

/// A release that is lying on the disk, as it was given.
fn read(root: &Path, record: Record, modules: &[String]) -> Result<Release> {
    if !modules.is_empty() {
        return Err(Failure::usage(format!(
            "this is a student's repository: it holds {} and no other module can be chosen",
            record.modules.join(", ")
        ))
        .into());
    }
    let mut files = Files::new();
    for (path, given) in &record.files {
        let content = std::fs::read(root.join(path)).unwrap_or_default();
        if record::Given::of(&content) != *given {
            return Err(Failure::work(format!(
                "{path} is not as it was given, so this repository cannot update another"
            ))
            .help("unpack the release anew and call tito there")
            .into());
        }
        files.insert(path.clone(), record::uniform(&content));
    }
    files.insert(RECORD.into(), record.content()?);
    Ok(Release {
        files,
        record,
        secrets: 0,
    })
}

fn build(workspace: &Workspace, modules: &[String]) -> Result<Release> {
    let root = &workspace.root;
    let settings = Settings::load(root)?;
    let mut parts = parts(workspace, modules)?;
    for part in &parts {
        refuse_exported(&part.module)?;
    }
    let mut files = Files::new();
    let wanted = |path: &str| !settings.is_left_out(path);
    for path in &settings.files {
        files::collect(root, path, &wanted, &mut files)?;
    }
    let left_out = leave_out_crates(&mut parts, &mut files)?;
    for part in &parts {
        if part.is_released {
            add_module(&part.module, &mut files)?;
        }
        if !part.is_released && !part.is_given {
            let lab = format!("labs/{}/", part.module.name);
            files.retain(|path, _| !path.starts_with(&lab));
        }
    }
    let released: Vec<&Module> = parts
        .iter()
        .filter(|part| part.is_released)
        .map(|part| &part.module)
        .collect();
    cut_manifests(&released, &left_out, &mut files)?;
    student::add(&released, &mut files)?;

    let secrets = secrets(&settings, &parts, &files)?;
    let mut problems = secrets.problems(&files);
    problems.extend(marked_hidden(&released, &files));
    problems.extend(open_mistakes(&released, &files));
    if !problems.is_empty() {
        return Err(Failure::work(format!(
            "no release: it would hand out what must stay here\n{}",
            problems.join("\n")
        ))
        .help(
            "write these lines differently where they are not the solution; a line that says nothing about a solution \
             can be listed in modules/release.toml",
        )
        .into());
    }
    let modules = released.iter().map(|module| module.name.clone()).collect();
    let record = Record::of(&files, modules);
    files.insert(RECORD.into(), record.content()?);
    Ok(Release {
        files,
        record,
        secrets: secrets.len(),
    })
}

/// Every written module; those asked for are released.
fn parts(workspace: &Workspace, modules: &[String]) -> Result<Vec<Part>> {
    let mut asked = BTreeSet::new();
    for typed in modules {
        asked.insert(workspace.module(typed)?.name);
    }
    let mut parts = Vec::new();
    for entry in workspace.written() {
        let module = workspace.load(entry)?;
        parts.push(Part {
            is_released: asked.is_empty() || asked.contains(&module.name),
            is_given: false,
            module,
        });
    }
    Ok(parts)
}

/// The library must hold the reference: its lines are what is kept from the release.
fn refuse_exported(module: &Module) -> Result<()> {
    let Some(export) = Export::load(module)? else {
        return Ok(());
    };
    if !export.is_in_place(&Store::new(&module.root))? {
        return Ok(());
    }
    Err(Failure::work(format!(
        "no release: {} holds exported files, not the reference",
        module.manifest.target
    ))
    .help(ui::advice(&format!("export --restore {}", module.name)))
    .into())
}

/// Removes the libraries of modules that are neither released nor needed, and says which packages stay here.
fn leave_out_crates(parts: &mut [Part], files: &mut Files) -> Result<BTreeSet<String>> {
    let packages = cargo::packages(files)?;
    let by_name: BTreeMap<&str, &Package> = packages
        .iter()
        .map(|package| (package.name.as_str(), package))
        .collect();
    // What the released libraries are linked with, however far down.
    let mut needed: BTreeSet<&str> = BTreeSet::new();
    let mut open: Vec<&Package> = packages
        .iter()
        .filter(|package| {
            parts
                .iter()
                .any(|part| part.is_released && part.module.manifest.target == package.folder)
        })
        .collect();
    while let Some(package) = open.pop() {
        if needed.insert(&package.folder) {
            let names = package.dependencies.iter();
            open.extend(names.filter_map(|name| by_name.get(name.as_str())));
        }
    }
    let mut left_out = BTreeSet::new();
    for part in parts {
        let target = &part.module.manifest.target;
        if part.is_released {
            continue;
        }
        part.is_given = needed.contains(target.as_str());
        if !part.is_given {
            let folder = format!("{target}/");
            files.retain(|path, _| !path.starts_with(&folder));
            let package = packages.iter().find(|package| package.folder == *target);
            left_out.extend(package.map(|package| package.name.clone()));
        }
    }
    Ok(left_out)
}

/// The lesson, the exercises and the public exam of a module; and its library, emptied.
fn add_module(module: &Module, files: &mut Files) -> Result<()> {
    let exam = &module.manifest.exam;
    let public = |path: &str| {
        let inside = path.strip_prefix(exam.as_str()).unwrap_or(path);
        let inside = inside.trim_start_matches('/');
        inside.is_empty()
            || inside == "public.json"
            || inside == "runner.rs"
            || inside == "exam"
            || (inside.starts_with("exam/")
                && inside != "exam/hidden"
                && !inside.starts_with("exam/hidden/"))
    };
    files::collect(&module.root, exam, &public, files)?;
    let record = format!("{exam}/public.json");
    if let Some(content) = files.get_mut(&record) {
        let mut sealed = crate::exam::load(module)?;
        sealed::seal(&mut sealed)?;
        *content = expect::to_lines(&sealed)?.into_bytes();
    }
    files::collect(&module.root, &module.folder(), &|_| true, files)?;
    for generated in stubs::find_stale(module)? {
        files.insert(generated.path, generated.wanted.into_bytes());
    }
    for twin in module.twin_files()? {
        let marked = Marked::parse(&twin.text).map_err(|error| {
            Failure::environment(format!("{}:{}: {}", twin.shown, error.line, error.what))
        })?;
        let stub = marked.stub().into_bytes();
        files.insert(module.shown(&twin.name), stub.clone());
        files.insert(twin.shown, stub);
    }
    Ok(())
}

/// Cargo's files, cut to what is there.
fn cut_manifests(
    released: &[&Module],
    left_out: &BTreeSet<String>,
    files: &mut Files,
) -> Result<()> {
    let packages = cargo::packages(files)?;
    for package in &packages {
        let path = format!("{}/Cargo.toml", package.folder);
        let mut manifest = cargo::package(text(files, &path)?, &package.folder, files, left_out)?;
        let module = released
            .iter()
            .find(|module| module.manifest.target == package.folder);
        if let Some(module) = module {
            let own = text(files, &module.shown("Cargo.toml"))?;
            manifest = cargo::with_lints_of(&manifest, own);
        }
        files.insert(path, manifest.into_bytes());
    }
    // Once more: what was cut is gone.
    let packages = cargo::packages(files)?;
    let unsolved: BTreeSet<&str> = released
        .iter()
        .flat_map(|module| {
            let target = module.manifest.target.as_str();
            let library = packages.iter().find(|package| package.folder == target);
            library
                .map(|package| package.name.as_str())
                .into_iter()
                .chain([module.manifest.package.as_str()])
        })
        .collect();
    // `cargo test` shall pass on the first day: what runs on a library that is still to be written is left to `tito`.
    let is_default = |package: &Package| {
        !unsolved.contains(package.name.as_str())
            && package.name != env!("CARGO_PKG_NAME")
            && !package
                .dependencies
                .iter()
                .any(|name| unsolved.contains(name.as_str()))
    };
    let manifest = cargo::workspace(text(files, "Cargo.toml")?, &packages, is_default)?;
    files.insert("Cargo.toml".into(), manifest.into_bytes());
    if files.contains_key("Cargo.lock") {
        let mut members: BTreeSet<String> = packages
            .iter()
            .map(|package| package.name.clone())
            .collect();
        // A dependency that lies beside the course, by path, is a member too.
        members.extend(
            packages
                .iter()
                .flat_map(|package| package.dependencies.clone()),
        );
        let lock = cargo::lock(text(files, "Cargo.lock")?, &members)?;
        files.insert("Cargo.lock".into(), lock.into_bytes());
    }
    Ok(())
}

/// All that must not be found: the solutions of every module that is not given solved, the hidden checks, the catalogue.
fn secrets(settings: &Settings, parts: &[Part], files: &Files) -> Result<Secrets> {
    let mut secrets = Secrets::new(&settings.commonplace);
    for part in parts {
        let module = &part.module;
        if !part.is_given {
            for twin in module.twin_files()? {
                let marked = Marked::parse(&twin.text).map_err(|error| {
                    Failure::environment(format!("{}:{}: {}", twin.shown, error.line, error.what))
                })?;
                for hole in marked.holes() {
                    secrets.add_solution(hole.tag, &marked.body(hole));
                }
            }
            for mistake in mistakes::load(module)? {
                secrets.add_mistake(&mistake.slug, &mistake.body);
                secrets.add_mistake(&mistake.slug, &mistake.explanation);
            }
        }
        let exam = format!("{}/", module.manifest.exam);
        let public: BTreeSet<Vec<u8>> = files
            .iter()
            .filter(|(path, _)| path.starts_with(&exam))
            .flat_map(|(_, content)| content.split(|byte| *byte == b'\n').map(squeeze))
            .collect();
        let mut hidden = Files::new();
        let folder = format!("{exam}exam/hidden");
        files::collect(&module.root, &folder, &|_| true, &mut hidden)?;
        for (path, content) in &hidden {
            secrets.add_hidden(path, &String::from_utf8_lossy(content), &public);
        }
    }
    Ok(secrets)
}

/// Answers of catalogued mistakes, and their names, must not lie open in a record.
fn open_mistakes(released: &[&Module], files: &Files) -> Vec<String> {
    let mut problems = Vec::new();
    for module in released {
        let path = format!("{}/public.json", module.manifest.exam);
        let Some(content) = files.get(&path) else {
            continue;
        };
        let record = serde_json::from_slice::<tinytorch_exam::ExamRecord>(content);
        let checks = record.map(|record| record.checks).unwrap_or_default();
        for check in checks.iter().filter(|check| !check.mistakes.is_empty()) {
            problems.push(format!("{path}: the catalogued mistakes of {}", check.id));
        }
    }
    problems
}

/// A check that calls itself hidden must not lie among the public ones.
fn marked_hidden(released: &[&Module], files: &Files) -> Vec<String> {
    let mut problems = Vec::new();
    for module in released {
        let exam = format!("{}/", module.manifest.exam);
        for (path, content) in files.range(exam.clone()..) {
            if !path.starts_with(&exam) {
                break;
            }
            let text = String::from_utf8_lossy(content);
            for (index, line) in text.lines().enumerate() {
                if line.contains("Visibility::Hidden") {
                    problems.push(format!(
                        "{path}:{}: a hidden check outside exam/hidden",
                        index + 1
                    ));
                }
            }
        }
    }
    problems
}
