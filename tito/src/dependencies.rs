//! The compiled crates a module is linked with, built and found by cargo. A no-op when nothing changed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;
use serde::Deserialize;

use crate::commands::cargo;
use crate::failure::Failure;
use crate::ui;
use crate::workspace::Module;

/// The crate every exam is written with.
const EXAM: &str = "tinytorch-exam";

/// Compiled crates, ready for `--extern`.
#[derive(Clone, Debug)]
pub struct Dependencies {
    /// Crate name (`tinytorch_core`) to its rlib: what the module's manifest asks for, and the exam.
    pub externs: BTreeMap<String, PathBuf>,
    /// Where their own dependencies are.
    pub search: PathBuf,
    /// Where our own products go: beside cargo's.
    pub products: PathBuf,
    /// Every compiled crate they need, by crate name; the crate the module is exported to is not among them.
    pub closure: Vec<(String, PathBuf)>,
}

/// One message of `cargo build --message-format=json`.
#[derive(Deserialize)]
struct Message {
    reason: String,
    package_id: Option<String>,
    target: Option<Target>,
    filenames: Option<Vec<PathBuf>>,
    message: Option<Diagnostic>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Diagnostic {
    level: String,
    rendered: Option<String>,
}

/// Builds what the module needs and finds the files.
///
/// The crate the module is exported to is built too: it pulls in every dependency with the features the course uses. It is not linked.
///
/// # Errors
///
/// An environment error if cargo cannot be started or a crate does not compile.
pub fn build(module: &Module) -> Result<Dependencies> {
    build_with(module, &[])
}

/// The same with further packages of the workspace, which are then among the externs.
///
/// # Errors
///
/// As for [`build`].
pub fn build_with(module: &Module, packages: &[&str]) -> Result<Dependencies> {
    let target = package_name(&module.root.join(&module.manifest.target).join("Cargo.toml"))?;
    let mut wanted = wanted(module)?;
    wanted.extend(packages.iter().map(|package| Wanted {
        package: (*package).to_owned(),
        version: None,
    }));
    let mut command = Command::new(cargo());
    command
        .args(["build", "--quiet", "--keep-going", "--message-format=json"])
        .args(["--package", &target, "--package", EXAM])
        .args(packages.iter().flat_map(|package| ["--package", package]))
        .current_dir(&module.root)
        .stdin(Stdio::null());
    if profile() == "release" {
        command.arg("--release");
    }
    let first = FirstTime::watch(module);
    let output = command.output().map_err(|error| {
        Failure::environment(format!("cannot start cargo: {error}")).help(ui::advice("doctor"))
    })?;
    drop(first);

    let mut found: Vec<(String, String, PathBuf)> = Vec::new();
    let mut errors = Vec::new();
    for line in output.stdout.split(|byte| *byte == b'\n') {
        let Ok(message) = serde_json::from_slice::<Message>(line) else {
            continue;
        };
        if let Some(diagnostic) = message.message
            && diagnostic.level == "error"
        {
            errors.extend(diagnostic.rendered);
        }
        if message.reason != "compiler-artifact" {
            continue;
        }
        let (Some(id), Some(target), Some(files)) =
            (message.package_id, message.target, message.filenames)
        else {
            continue;
        };
        let is_library = target
            .kind
            .iter()
            .any(|kind| kind == "lib" || kind == "rlib" || kind == "proc-macro");
        let file = files.into_iter().find(|file| is_linkable(file));
        if let (true, Some(file)) = (is_library, file) {
            found.push((target.name.replace('-', "_"), id, file));
        }
    }

    let mut externs = BTreeMap::new();
    for want in &wanted {
        let rlib = found
            .iter()
            .filter(|(name, id, _)| *name == want.crate_name() && want.matches(id))
            .map(|(_, _, file)| file.clone())
            .next_back();
        let Some(rlib) = rlib else {
            return Err(not_built(want, &errors, &output.stderr).into());
        };
        externs.insert(want.crate_name(), rlib);
    }
    let exam = externs
        .get(&EXAM.replace('-', "_"))
        .ok_or_else(|| Failure::environment(format!("cargo did not build {EXAM}")))?;
    let profile_folder = folder_of_profile(exam);
    Ok(Dependencies {
        search: profile_folder.join("deps"),
        products: profile_folder.with_file_name("tito"),
        externs,
        closure: found
            .into_iter()
            .filter(|(name, _, _)| *name != target.replace('-', "_"))
            .map(|(name, _, file)| (name, file))
            .collect(),
    })
}

/// `release`, unless a test of ours asks for what `cargo test` has built anyway.
pub fn profile() -> String {
    std::env::var("TITO_PROFILE").unwrap_or_else(|_| "release".into())
}

/// A dependency, with its version where the lock file has several of that name.
#[derive(Debug)]
struct Wanted {
    package: String,
    version: Option<String>,
}

impl Wanted {
    fn crate_name(&self) -> String {
        self.package.replace('-', "_")
    }

    fn matches(&self, package_id: &str) -> bool {
        self.version
            .as_ref()
            .is_none_or(|version| package_id.ends_with(&format!("@{version}")))
    }
}

/// What the module's own manifest depends on, and the exam.
fn wanted(module: &Module) -> Result<Vec<Wanted>> {
    let path = module.root.join(module.folder()).join("Cargo.toml");
    let manifest = table(&path)?;
    let mut packages = vec![EXAM.to_owned()];
    if let Some(dependencies) = manifest
        .get("dependencies")
        .and_then(|value| value.as_table())
    {
        packages.extend(dependencies.keys().cloned());
    }
    let locked = locked_versions(&module.root, &module.manifest.package);
    Ok(packages
        .into_iter()
        .map(|package| Wanted {
            version: locked.get(&package).cloned(),
            package,
        })
        .collect())
}

/// The lock file names the version of a dependency only where there are several.
fn locked_versions(root: &Path, package: &str) -> BTreeMap<String, String> {
    let dependencies = || {
        let lock = table(&root.join("Cargo.lock")).ok()?;
        let packages = lock.get("package")?.as_array()?.clone();
        let own = packages
            .into_iter()
            .find(|entry| entry.get("name").and_then(|name| name.as_str()) == Some(package))?;
        Some(own.get("dependencies")?.as_array()?.clone())
    };
    dependencies()
        .unwrap_or_default()
        .iter()
        .filter_map(|entry| {
            let mut words = entry.as_str()?.split(' ');
            Some((words.next()?.to_owned(), words.next()?.to_owned()))
        })
        .collect()
}

fn package_name(path: &Path) -> Result<String> {
    let manifest = table(path)?;
    let name = manifest
        .get("package")
        .and_then(|package| package.get("name"))
        .and_then(|name| name.as_str());
    Ok(name
        .ok_or_else(|| Failure::environment(format!("{} names no package", path.display())))?
        .to_owned())
}

fn table(path: &Path) -> Result<toml::Table> {
    crate::manifest::read(path, &path.display().to_string())
}

/// Cargo puts a copy of a library that was asked for one folder above the others.
fn folder_of_profile(rlib: &Path) -> PathBuf {
    let folder = rlib.parent().unwrap_or(rlib);
    if folder.ends_with("deps") {
        folder.parent().unwrap_or(folder).to_owned()
    } else {
        folder.to_owned()
    }
}

fn is_linkable(file: &Path) -> bool {
    matches!(
        file.extension().and_then(|extension| extension.to_str()),
        Some("rlib" | "so" | "dylib" | "dll")
    )
}

fn not_built(want: &Wanted, errors: &[String], stderr: &[u8]) -> Failure {
    let stderr = String::from_utf8_lossy(stderr);
    let detail = if errors.is_empty() {
        stderr.trim().to_owned()
    } else {
        errors
            .iter()
            .take(2)
            .map(|text| text.trim())
            .collect::<Vec<_>>()
            .join("\n\n")
    };
    Failure::environment(format!("{} was not built\n{detail}", want.package)).help(format!(
        "is this machine ready? {}\nif you exported code that no longer fits: {}",
        ui::advice("doctor"),
        ui::advice("undo --list")
    ))
}

/// Says what is going on when it takes long: only a first build does.
struct FirstTime {
    _stop: std::sync::mpsc::Sender<()>,
}

impl FirstTime {
    fn watch(module: &Module) -> FirstTime {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let name = module.name.clone();
        std::thread::spawn(move || {
            let patience = std::time::Duration::from_millis(1500);
            if stopped.recv_timeout(patience) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                ui::note(format!(
                    "building the crates {name} is linked with; only after they changed ..."
                ));
            }
        });
        FirstTime { _stop: stop }
    }
}
