//! The catalogue of wrong solutions: `tests/15_quantization/wrong/<slug>.toml`, each a typical mistake in one hole.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::dependencies::Dependencies;
use crate::failure::Failure;
use crate::manifest;
use crate::markers::Marked;
use crate::subject::{self, Build, Runner, Source};
use crate::workspace::Module;

/// One typical mistake.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mistake {
    /// The file's name, without the ending.
    #[serde(skip)]
    pub slug: String,
    /// Completes "your values are those of ...".
    pub title: String,
    /// The hole it fills wrongly.
    pub hole: String,
    /// The check that names it.
    pub caught_by: String,
    /// What it does, why that matters.
    pub explanation: String,
    /// What it puts between the markers.
    pub body: String,
}

/// Reads the catalogue of a module, in the order of the file names.
///
/// # Errors
///
/// An environment error if a file is damaged.
pub fn load(module: &Module) -> Result<Vec<Mistake>> {
    let shown = format!("{}/wrong", module.manifest.exam);
    let folder = module.root.join(&shown);
    let mut files: Vec<PathBuf> = match fs::read_dir(&folder) {
        Ok(entries) => entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|kind| kind == "toml"))
            .collect(),
        Err(_) => Vec::new(),
    };
    files.sort();
    files
        .iter()
        .map(|path| {
            let slug = path.file_stem().unwrap_or_default().to_string_lossy();
            let mut mistake: Mistake = manifest::read(path, &format!("{shown}/{slug}.toml"))?;
            mistake.slug = slug.into_owned();
            Ok(mistake)
        })
        .collect()
}

/// The reference: the crate the module is exported to.
pub fn reference(module: &Module) -> Source {
    Source {
        who: "reference".into(),
        root: Path::new(&module.manifest.target)
            .join("src")
            .join("lib.rs"),
    }
}

/// Compiles the reference.
///
/// # Errors
///
/// An environment error if it does not compile.
pub fn build_reference(module: &Module, dependencies: &Dependencies) -> Result<Runner> {
    must_build(module, dependencies, &reference(module))
}

/// Compiles wrong solutions, as many at a time as there are processors; in the order of the catalogue.
///
/// # Errors
///
/// An environment error if one does not compile: it would prove nothing.
pub fn build_all(
    module: &Module,
    dependencies: &Dependencies,
    mistakes: &[Mistake],
) -> Result<Vec<Runner>> {
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let next = AtomicUsize::new(0);
    let mut built: Vec<(usize, Result<Runner>)> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..workers)
            .map(|_| {
                scope.spawn(|| {
                    let mut mine = Vec::new();
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(mistake) = mistakes.get(index) else {
                            return mine;
                        };
                        mine.push((index, build(module, dependencies, mistake)));
                    }
                })
            })
            .collect();
        let done = handles
            .into_iter()
            .flat_map(|handle| handle.join().unwrap_or_default());
        done.collect()
    });
    built.sort_by_key(|(index, _)| *index);
    built.into_iter().map(|(_, runner)| runner).collect()
}

fn build(module: &Module, dependencies: &Dependencies, mistake: &Mistake) -> Result<Runner> {
    let who = format!("wrong-{}", mistake.slug);
    let folder = subject::products(module, dependencies)
        .join(&who)
        .join("src");
    let original = module.root.join(&module.manifest.target).join("src");
    let mut is_filled = false;
    copy(&original, &folder, &mut |text| {
        let marked = Marked::parse(&text).ok()?;
        marked.hole(&mistake.hole)?;
        is_filled = true;
        Some(marked.with_bodies(|hole| (hole.tag == mistake.hole).then(|| mistake.body.clone())))
    })?;
    if !is_filled {
        return Err(Failure::environment(format!(
            "{}/wrong/{}.toml fills hole {}, which {} does not have",
            module.manifest.exam, mistake.slug, mistake.hole, module.manifest.target
        ))
        .into());
    }
    let source = Source {
        who,
        root: folder.join("lib.rs"),
    };
    must_build(module, dependencies, &source)
}

/// Copies sources, passing each through `change`; a file that would not change is not written again.
fn copy(from: &Path, to: &Path, change: &mut impl FnMut(String) -> Option<String>) -> Result<()> {
    fs::create_dir_all(to).map_err(|error| crate::lock::cannot_write(to, &error))?;
    let entries = fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))?;
    for entry in entries {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target, change)?;
            continue;
        }
        let mut content = fs::read(entry.path())?;
        if let Ok(text) = String::from_utf8(content.clone())
            && let Some(changed) = change(text)
        {
            content = changed.into_bytes();
        }
        if fs::read(&target).ok().as_ref() != Some(&content) {
            fs::write(&target, &content)
                .map_err(|error| crate::lock::cannot_write(&target, &error))?;
        }
    }
    Ok(())
}

/// Compiles a subject that has no excuse.
///
/// # Errors
///
/// An environment error with rustc's first errors.
pub fn must_build(module: &Module, dependencies: &Dependencies, source: &Source) -> Result<Runner> {
    match subject::build(module, dependencies, source)? {
        Build::Ready(runner) => Ok(runner),
        Build::Errors(errors) => {
            let shown: Vec<&str> = errors
                .iter()
                .take(2)
                .map(|error| error.rendered.trim_end())
                .collect();
            Err(Failure::environment(format!(
                "{} does not compile\n{}",
                source.who,
                shown.join("\n\n")
            ))
            .into())
        }
    }
}
