//! The catalogue of wrong solutions: `tests/15_quantization/wrong/<slug>.toml`, each a typical mistake in one hole.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;
use tinytorch_exam::{MistakeRecord, Reply};

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

impl Mistake {
    /// The mistake as an exam records it, with what it replies to a check.
    #[must_use]
    pub fn record(&self, replies: Vec<Reply>) -> MistakeRecord {
        MistakeRecord {
            title: self.title.clone(),
            explanation: self.explanation.trim().to_owned(),
            replies: replies.into_iter().map(placeless).collect(),
        }
    }
}

/// Where a mistake panicked is a place in a file nobody has; panics are compared by their text.
#[must_use]
pub(crate) fn placeless(mut reply: Reply) -> Reply {
    if let Reply::Panicked(panic) = &mut reply {
        panic.file = None;
        panic.line = None;
    }
    reply
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

/// The environment variable that says which wrong solution a runner shall be.
pub const VARIABLE: &str = "TITO_WRONG_SOLUTION";

/// Compiles the reference, with the hidden checks.
///
/// # Errors
///
/// An environment error if it does not compile.
pub fn build_reference(module: &Module, dependencies: &Dependencies) -> Result<Runner> {
    let source = Source {
        who: "reference".into(),
        root: Path::new(&module.manifest.target)
            .join("src")
            .join("lib.rs"),
        hidden: true,
        is_edited: false,
    };
    must_build(module, dependencies, &source)
}

/// Compiles all wrong solutions into one crate, and returns a runner for each, in the order of the catalogue.
///
/// One compilation instead of a hundred: in the copy of the reference each hole asks, when it is reached, which wrong solution this
/// process shall be, and falls through to the reference's body. A hole ends its function, so its bodies can stand in the branches of one `if`.
///
/// # Errors
///
/// An environment error if one does not compile (it would prove nothing) or its hole does not exist.
pub fn build_all(
    module: &Module,
    dependencies: &Dependencies,
    mistakes: &[Mistake],
) -> Result<Vec<Runner>> {
    let who = "wrong-solutions";
    let folder = subject::products(module, dependencies)
        .join(who)
        .join("src");
    let original = module.root.join(&module.manifest.target).join("src");
    let mut filled = Vec::new();
    copy(&original, &folder, &mut |text, is_root| {
        let marked = Marked::parse(&text).ok()?;
        let mut changed = marked.with_bodies(|hole| {
            let mine: Vec<&Mistake> = mistakes.iter().filter(|m| m.hole == hole.tag).collect();
            filled.extend(mine.iter().map(|mistake| mistake.slug.clone()));
            (!mine.is_empty()).then(|| branches(&mine, &marked.body(hole)))
        });
        if is_root {
            changed.push_str(SWITCH);
        }
        Some(changed)
    })?;
    if let Some(lost) = mistakes
        .iter()
        .find(|mistake| !filled.contains(&mistake.slug))
    {
        return Err(Failure::environment(format!(
            "{}/wrong/{}.toml fills hole {}, which {} does not have",
            module.manifest.exam, lost.slug, lost.hole, module.manifest.target
        ))
        .into());
    }
    let source = Source {
        who: who.into(),
        root: folder.join("lib.rs"),
        hidden: true,
        is_edited: false,
    };
    let runner = must_build(module, dependencies, &source)?;
    Ok(mistakes
        .iter()
        .map(|mistake| runner.as_wrong(&mistake.slug))
        .collect())
}

/// Appended to the copy of the crate root.
const SWITCH: &str = "
#[doc(hidden)]
pub fn this_wrong_solution_is(slug: &str) -> bool {
    static WANTED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let wanted = WANTED.get_or_init(|| std::env::var(\"TITO_WRONG_SOLUTION\").ok());
    wanted.as_deref() == Some(slug)
}
";

/// The bodies of a hole, the reference's last. Each begins with a comment that names it, for the compiler's messages.
fn branches(mistakes: &[&Mistake], reference: &str) -> String {
    let mut text = String::new();
    for mistake in mistakes {
        text += &format!(
            "if crate::this_wrong_solution_is(\"{}\") {{ // {}.toml\n{}\n}} else ",
            mistake.slug,
            mistake.slug,
            mistake.body.trim_end()
        );
    }
    text + "{\n" + reference + "}\n"
}

/// Copies sources, passing each through `change`; a file that would not change is not written again.
fn copy(
    from: &Path,
    to: &Path,
    change: &mut impl FnMut(String, bool) -> Option<String>,
) -> Result<()> {
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
            && let Some(changed) = change(text, entry.file_name() == "lib.rs")
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
