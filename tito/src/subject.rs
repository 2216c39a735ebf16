//! From a module's files to the program that answers the exam: two calls of `rustc`, and none when nothing changed.
//!
//! `subject` is the crate under test, whoever wrote it: the student's files, the reference, a stub, a wrong solution. The runner is
//! the exam's own source, linked with it. Cargo is not asked: no manifest, lock or build script is read here.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::dependencies::Dependencies;
use crate::failure::Failure;
use crate::snapshot::{hash, write_atomically};
use crate::ui;
use crate::workspace::Module;

/// What is compiled as `subject`.
#[derive(Clone, Debug)]
pub struct Source {
    /// Names the folder of the products: `student`, `reference`, `wrong-truncation`.
    pub who: String,
    /// The crate root, from the workspace's root or absolute.
    pub root: PathBuf,
    /// Link the exam with its hidden checks, if they are on this disk.
    pub hidden: bool,
    /// Keep what the compiler found out, for the next time: for sources that are edited all day.
    pub is_edited: bool,
}

/// A program that answers the exam.
#[derive(Clone, Debug)]
pub struct Runner {
    /// The executable.
    pub program: PathBuf,
    /// A folder for its reply files.
    pub scratch: PathBuf,
    /// The wrong solution it shall be; see `mistakes`.
    pub wrong: Option<String>,
    /// Nobody replaces the program while it is in use.
    _lock: Arc<File>,
}

impl Runner {
    /// The same program as one of the wrong solutions compiled into it.
    pub fn as_wrong(&self, slug: &str) -> Runner {
        Runner {
            wrong: Some(slug.to_owned()),
            ..self.clone()
        }
    }

    /// A call of the program, in its folder and not a word about the caller.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .current_dir(&self.scratch)
            .env("RUST_BACKTRACE", "0");
        if let Some(wrong) = &self.wrong {
            command.env(crate::mistakes::VARIABLE, wrong);
        }
        command
    }
}

/// How building ended.
#[derive(Debug)]
pub enum Build {
    /// It is there.
    Ready(Runner),
    /// The subject's own source does not compile.
    Errors(Vec<CompileError>),
}

/// One of rustc's errors.
#[derive(Clone, Debug, Serialize)]
pub struct CompileError {
    /// `E0308`, where it has a number.
    pub code: Option<String>,
    /// The first line.
    pub message: String,
    /// File of the main place, as rustc was given it.
    pub file: Option<String>,
    /// Its line, from 1.
    pub line: Option<usize>,
    /// As rustc shows it.
    #[serde(skip)]
    pub rendered: String,
}

/// What a product was made from, kept beside it.
#[derive(Serialize, Deserialize, PartialEq)]
struct Recipe {
    flags: Vec<String>,
    /// Source file to SHA-256.
    sources: BTreeMap<String, String>,
    /// Linked crate to what is cheap to see of it: path, length, time of the last change.
    externs: BTreeMap<String, (String, u64, u128)>,
}

/// Flags of both calls. Nothing is optimized, so that an edit is compiled soon; overflow is checked: a product of two `i8` that wraps must be seen.
pub const FLAGS: [&str; 9] = [
    "--edition=2024",
    "-Copt-level=0",
    "-Cdebuginfo=0",
    "-Cdebug-assertions=on",
    "-Coverflow-checks=on",
    "-Cembed-bitcode=no",
    "-Cstrip=debuginfo",
    "-Funsafe_code",
    "--error-format=json",
];

/// Compiles the subject and links the exam of the module with it.
///
/// # Errors
///
/// An environment error if rustc cannot be started, or if the exam itself does not compile against a subject that does.
pub fn build(module: &Module, dependencies: &Dependencies, source: &Source) -> Result<Build> {
    let folder = products(module, dependencies).join(&source.who);
    fs::create_dir_all(&folder).map_err(|error| crate::lock::cannot_write(&folder, &error))?;
    let lock = File::create(folder.join("lock"))
        .and_then(|file| file.lock().map(|()| file))
        .with_context(|| format!("cannot lock {}", folder.display()))?;

    let library = folder.join("libsubject.rlib");
    let rustc = || {
        let mut compiler = rustc(module, dependencies);
        if source.is_edited {
            let mut memory = OsString::from("-Cincremental=");
            memory.push(folder.join("incremental"));
            compiler.arg(memory);
        }
        compiler
    };
    let mut compiler = rustc();
    compiler
        .args(["--crate-name=subject", "--crate-type=rlib"])
        .arg(&source.root);
    if let Some(errors) = make(module, compiler, &library, &dependencies.externs)? {
        return Ok(Build::Errors(errors));
    }

    let program = folder.join(format!("runner{}", std::env::consts::EXE_SUFFIX));
    let mut compiler = rustc();
    compiler
        .args(["--crate-name=runner", "--crate-type=bin"])
        .arg(Path::new(&module.manifest.exam).join("runner.rs"));
    if source.hidden
        && module
            .root
            .join(&module.manifest.exam)
            .join("exam/hidden")
            .is_dir()
    {
        compiler.arg("--cfg=hidden");
    }
    let mut externs = dependencies.externs.clone();
    externs.insert("subject".into(), library);
    if let Some(errors) = make(module, compiler, &program, &externs)? {
        return Err(exam_does_not_fit(module, &errors).into());
    }
    Ok(Build::Ready(Runner {
        program,
        scratch: folder,
        wrong: None,
        _lock: Arc::new(lock),
    }))
}

/// Where a module's products go: a target folder may serve several clones of the course.
pub fn products(module: &Module, dependencies: &Dependencies) -> PathBuf {
    let root = hash(module.root.to_string_lossy().as_bytes());
    let folder = format!("{}-{}", module.name, &root[..8]);
    dependencies.products.join(folder)
}

/// Calls rustc unless the product was made from just this. Returns the errors of the source.
fn make(
    module: &Module,
    mut compiler: Command,
    product: &Path,
    externs: &BTreeMap<String, PathBuf>,
) -> Result<Option<Vec<CompileError>>> {
    for (name, file) in externs {
        let mut argument = OsString::from(format!("{name}="));
        argument.push(file);
        compiler.arg("--extern").arg(argument);
    }
    let recipe_file = product.with_extension("json");
    let flags: Vec<String> = compiler
        .get_args()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let externs = seen(externs);
    if is_fresh(module, product, &recipe_file, &flags, &externs) {
        return Ok(None);
    }
    let _ = fs::remove_file(&recipe_file);
    let dep_info = product.with_extension("d");
    let mut emit = OsString::from("--emit=link=");
    emit.push(product);
    emit.push(",dep-info=");
    emit.push(&dep_info);
    compiler.arg(emit);
    if let Some(folder) = product.parent() {
        // For what rustc writes on its way; two at once must not meet.
        compiler.arg("--out-dir").arg(folder);
    }
    if ui::is_colored() {
        compiler.arg("--json=diagnostic-rendered-ansi");
    }
    let output = compiler.output().map_err(|error| {
        Failure::environment(format!("cannot start rustc: {error}")).help(ui::advice("doctor"))
    })?;
    if !output.status.success() {
        let errors = compile_errors(&output.stderr, &module.folder());
        if errors.is_empty() {
            return Err(Failure::environment(format!(
                "rustc stopped without a reason we know:\n{}",
                String::from_utf8_lossy(&output.stderr).trim()
            ))
            .into());
        }
        return Ok(Some(errors));
    }
    let listed = fs::read_to_string(&dep_info)
        .with_context(|| format!("cannot read {}", dep_info.display()))?;
    let recipe = Recipe {
        flags,
        sources: hashes(module, sources(&listed))?,
        externs,
    };
    write_atomically(&recipe_file, &serde_json::to_vec(&recipe)?)
        .map_err(|error| crate::lock::cannot_write(&recipe_file, &error))?;
    Ok(None)
}

fn is_fresh(
    module: &Module,
    product: &Path,
    recipe_file: &Path,
    flags: &[String],
    externs: &BTreeMap<String, (String, u64, u128)>,
) -> bool {
    let recipe = || -> Option<Recipe> {
        let text = fs::read(recipe_file).ok()?;
        serde_json::from_slice(&text).ok()
    };
    product.is_file()
        && recipe().is_some_and(|recipe| {
            recipe.flags == flags
                && &recipe.externs == externs
                && hashes(module, recipe.sources.keys().cloned().collect())
                    .is_ok_and(|now| now == recipe.sources)
        })
}

/// The source files in rustc's dep-info: the first line is `product: source source ...`, blanks in names escaped.
fn sources(dep_info: &str) -> Vec<String> {
    let line = dep_info.lines().next().unwrap_or("");
    let list = line.split_once(": ").map_or("", |(_, list)| list);
    list.replace("\\ ", "\0")
        .split_whitespace()
        .map(|name| name.replace('\0', " "))
        .collect()
}

fn hashes(module: &Module, files: Vec<String>) -> Result<BTreeMap<String, String>> {
    files
        .into_iter()
        .map(|file| {
            let content =
                fs::read(module.root.join(&file)).with_context(|| format!("cannot read {file}"))?;
            Ok((file, hash(&content)))
        })
        .collect()
}

fn seen(externs: &BTreeMap<String, PathBuf>) -> BTreeMap<String, (String, u64, u128)> {
    externs
        .iter()
        .map(|(name, file)| {
            let (length, time) = fs::metadata(file).map_or((0, 0), |data| {
                let changed = data.modified().ok();
                let since = changed
                    .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
                    .map_or(0, |since| since.as_nanos());
                (data.len(), since)
            });
            (name.clone(), (file.display().to_string(), length, time))
        })
        .collect()
}

fn rustc(module: &Module, dependencies: &Dependencies) -> Command {
    let program = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(program);
    let mut search = OsString::from("dependency=");
    search.push(&dependencies.search);
    command
        .args(FLAGS)
        .arg("-L")
        .arg(search)
        .current_dir(&module.root)
        .stdin(Stdio::null());
    command
}

#[derive(Deserialize)]
struct Diagnostic {
    level: String,
    message: String,
    code: Option<Code>,
    spans: Vec<Span>,
    rendered: Option<String>,
}

#[derive(Deserialize)]
struct Code {
    code: String,
}

#[derive(Deserialize)]
struct Span {
    file_name: String,
    line_start: usize,
    is_primary: bool,
}

/// `folder` is the module's: the library's files are included from there by a way up and down again, which nobody wants to read.
fn compile_errors(stderr: &[u8], folder: &str) -> Vec<CompileError> {
    let straight = |text: &str| {
        ["/", "\\"].iter().fold(text.to_owned(), |text, slash| {
            text.replace(&format!("{folder}{slash}../../"), "")
        })
    };
    stderr
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<Diagnostic>(line).ok())
        .filter(|found| found.level.starts_with("error"))
        // rustc's last words: `aborting due to 2 previous errors`.
        .filter(|found| !(found.spans.is_empty() && found.message.starts_with("aborting")))
        .map(|found| {
            let place = found.spans.iter().find(|span| span.is_primary);
            CompileError {
                code: found.code.map(|code| code.code),
                message: found.message,
                file: place.map(|span| straight(&span.file_name)),
                line: place.map(|span| span.line_start),
                rendered: straight(&found.rendered.unwrap_or_default()),
            }
        })
        .collect()
}

fn exam_does_not_fit(module: &Module, errors: &[CompileError]) -> Failure {
    let shown: Vec<&str> = errors
        .iter()
        .take(2)
        .map(|error| error.rendered.trim_end())
        .collect();
    Failure::environment(format!(
        "the exam of {} does not fit these files\n{}",
        module.name,
        shown.join("\n\n")
    ))
    .help(format!(
        "if you changed a function's signature, put it back; a fresh file: {}",
        ui::advice(&format!("reset {}", module.manifest.number))
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_from_dep_info_also_with_blanks_in_their_names() {
        let text = "out/libsubject.rlib: a/b.rs c\\ d.rs\n\na/b.rs:\nc\\ d.rs:\n";
        assert_eq!(sources(text), ["a/b.rs", "c d.rs"]);
    }

    #[test]
    fn errors_are_kept_and_last_words_are_not() {
        let stderr = br#"{"level":"warning","message":"unused","code":null,"spans":[],"rendered":""}
{"level":"error","message":"mismatched types","code":{"code":"E0308"},"spans":[{"file_name":"modules/15_q/../../crates/q/src/q.rs","line_start":7,"is_primary":true}],"rendered":"--> modules/15_q/../../crates/q/src/q.rs:7"}
{"level":"error","message":"aborting due to 1 previous error","code":null,"spans":[],"rendered":""}
"#;
        let errors = compile_errors(stderr, "modules/15_q");
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].code.as_deref(), Some("E0308"));
        assert_eq!(errors[0].line, Some(7));
        assert_eq!(errors[0].file.as_deref(), Some("crates/q/src/q.rs"));
        assert_eq!(errors[0].rendered, "--> crates/q/src/q.rs:7");
    }
}
