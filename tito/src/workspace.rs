//! Where the course is on this disk, and a module of it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::failure::Failure;
use crate::manifest::{self, Course, Entry, Manifest};
use crate::markers::Marked;

/// The file that makes a folder the course's.
const COURSE: &str = "modules/course.toml";

/// The course on this disk.
#[derive(Debug)]
pub struct Workspace {
    /// Absolute.
    pub root: PathBuf,
    /// The table of contents.
    pub course: Course,
}

/// A module whose lesson is written.
#[derive(Clone, Debug)]
pub struct Module {
    /// What `module.toml` says.
    pub manifest: Manifest,
    /// The workspace.
    pub root: PathBuf,
    /// `15_quantization`.
    pub name: String,
}

/// One of the student's files, as read.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceFile {
    /// `quantize.rs`.
    pub name: String,
    /// `modules/15_quantization/quantize.rs`.
    pub shown: String,
    /// The whole file.
    pub text: String,
}

impl Workspace {
    /// Finds the course: the folder given, or the nearest at or above the current one.
    ///
    /// # Errors
    ///
    /// An environment error if there is none.
    pub fn find(given: Option<&Path>) -> Result<Workspace> {
        let root = match given {
            Some(folder) if folder.join(COURSE).is_file() => folder.to_owned(),
            Some(folder) => {
                return Err(Failure::environment(format!(
                    "{} is not the course's folder: it has no {COURSE}",
                    folder.display()
                ))
                .into());
            }
            None => {
                let here = std::env::current_dir().map_err(|error| {
                    Failure::environment(format!("cannot tell the current folder: {error}"))
                })?;
                here.ancestors()
                    .find(|folder| folder.join(COURSE).is_file())
                    .map(Path::to_owned)
                    .ok_or_else(|| {
                        Failure::environment(format!(
                            "no course at or above {}: looked for {COURSE}",
                            here.display()
                        ))
                        .help(
                            "go to the folder you cloned, or name it: tito --workspace DIR status",
                        )
                    })?
            }
        };
        let root = std::path::absolute(&root).unwrap_or(root);
        let course = manifest::read(&root.join(COURSE), COURSE)?;
        Ok(Workspace { root, course })
    }

    /// Where `tito` keeps what it remembers.
    pub fn state(&self) -> PathBuf {
        self.root.join(".tito")
    }

    /// True if the module's lesson is there.
    pub fn is_written(&self, entry: &Entry) -> bool {
        self.root
            .join("modules")
            .join(entry.folder())
            .join("module.toml")
            .is_file()
    }

    /// Finds a module by what a user typed.
    ///
    /// # Errors
    ///
    /// A usage error that names the nearest module.
    pub fn entry(&self, typed: &str) -> Result<&Entry> {
        let wanted = typed.trim().to_lowercase().replace('-', "_");
        let wanted = wanted.trim_start_matches("modules/").trim_end_matches('/');
        let found = self.course.modules.iter().find(|entry| {
            entry.names().iter().any(|name| name == wanted)
                || wanted == format!("m{:02}_{}", entry.number, entry.name)
        });
        // A module's own manifest may add names.
        let by_alias = || {
            self.course.modules.iter().find(|entry| {
                self.is_written(entry)
                    && self.load(entry).is_ok_and(|module| {
                        module.manifest.aliases.iter().any(|name| name == wanted)
                    })
            })
        };
        if let Some(entry) = found.or_else(by_alias) {
            return Ok(entry);
        }
        // The number is right and the name mistyped, or the other way round: suggest whole names only.
        let known = self.course.modules.iter().flat_map(|entry| {
            let mut names = vec![(entry.folder(), entry), (entry.name.clone(), entry)];
            names.extend(entry.aliases.iter().map(|alias| (alias.clone(), entry)));
            names
        });
        let near = known
            .map(|(name, entry)| (strsim::jaro_winkler(wanted, &name), entry))
            .filter(|(likeness, _)| *likeness > 0.75)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let failure = Failure::usage(format!("there is no module `{typed}`"));
        Err(match near {
            Some((_, entry)) => failure.help(format!("did you mean {}?", entry.folder())),
            None => failure.help(format!("see all: {}", crate::ui::advice("list"))),
        }
        .into())
    }

    /// A written module, by what a user typed.
    ///
    /// # Errors
    ///
    /// A usage error if it is unknown or not written yet; an environment error if its manifest is damaged.
    pub fn module(&self, typed: &str) -> Result<Module> {
        let entry = self.entry(typed)?;
        if !self.is_written(entry) {
            let written: Vec<String> = self.written().iter().map(|entry| entry.folder()).collect();
            return Err(
                Failure::usage(format!("module {} is not written yet", entry.folder()))
                    .help(format!("written so far: {}", written.join(", ")))
                    .into(),
            );
        }
        self.load(entry)
    }

    /// The modules whose lessons are there.
    pub fn written(&self) -> Vec<&Entry> {
        let modules = self.course.modules.iter();
        modules.filter(|entry| self.is_written(entry)).collect()
    }

    /// Reads the manifest of a written module.
    ///
    /// # Errors
    ///
    /// An environment error if it is damaged or is another module's.
    pub fn load(&self, entry: &Entry) -> Result<Module> {
        let name = entry.folder();
        let shown = format!("modules/{name}/module.toml");
        let manifest: Manifest = manifest::read(&self.root.join(&shown), &shown)?;
        if manifest.number != entry.number || manifest.name != entry.name {
            return Err(Failure::environment(format!(
                "{shown} describes module {:02}_{}, {COURSE} says {name}",
                manifest.number, manifest.name
            ))
            .into());
        }
        Ok(Module {
            manifest,
            root: self.root.clone(),
            name,
        })
    }
}

impl Module {
    /// `modules/15_quantization`.
    pub fn folder(&self) -> String {
        format!("modules/{}", self.name)
    }

    /// A file of the module as shown to the student: `modules/15_quantization/quantize.rs`.
    pub fn shown(&self, file: &str) -> String {
        format!("{}/{file}", self.folder())
    }

    /// The library's twin of an exercise file: `crates/tinytorch-quantization/src/quantize.rs`.
    pub fn twin(&self, file: &str) -> String {
        format!("{}/src/{file}", self.manifest.target)
    }

    /// Reads the exercise files of the student.
    ///
    /// # Errors
    ///
    /// Which file is missing or unreadable, and how to get it back.
    pub fn student_files(&self) -> Result<Vec<SourceFile>> {
        let files = self.manifest.files.iter();
        files.map(|name| self.student_file(name)).collect()
    }

    /// Reads the library's twins of the exercise files.
    ///
    /// # Errors
    ///
    /// Which file is missing or unreadable.
    pub fn twin_files(&self) -> Result<Vec<SourceFile>> {
        let files = self.manifest.files.iter();
        files.map(|name| self.twin_file(name)).collect()
    }

    /// Reads one exercise file of the student.
    ///
    /// # Errors
    ///
    /// Work left, if it is gone or is not text; an environment error if it cannot be read.
    pub fn student_file(&self, name: &str) -> Result<SourceFile> {
        let shown = self.shown(name);
        let content = std::fs::read(self.root.join(&shown)).map_err(|error| {
            let failure = match error.kind() {
                ErrorKind::NotFound => Failure::work(format!("{shown} is gone")),
                _ => Failure::environment(format!("cannot read {shown}: {error}")),
            };
            failure.help(self.way_back(name))
        })?;
        let text = String::from_utf8(content).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let before = &error.as_bytes()[..at];
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            Failure::work(format!(
                "{shown}:{line}: not UTF-8 text, first at byte offset {at}; save the file as UTF-8"
            ))
            .help(self.way_back(name))
        })?;
        Ok(SourceFile {
            name: name.to_owned(),
            shown,
            text,
        })
    }

    /// Reads the library's twin of one exercise file.
    ///
    /// # Errors
    ///
    /// An environment error if it is missing or unreadable.
    pub fn twin_file(&self, name: &str) -> Result<SourceFile> {
        let shown = self.twin(name);
        let text = std::fs::read_to_string(self.root.join(&shown))
            .map_err(|error| Failure::environment(format!("cannot read {shown}: {error}")))?;
        Ok(SourceFile {
            name: name.to_owned(),
            shown,
            text,
        })
    }

    /// The exercises, without the bonus, whose solution the library does not have: those of a student's repository before the export.
    ///
    /// # Errors
    ///
    /// Those of reading the library's files.
    pub fn unfinished_in_library(&self) -> Result<Vec<String>> {
        let mut waiting = Vec::new();
        for twin in self.twin_files()? {
            let marked = Marked::parse(&twin.text).map_err(|error| {
                Failure::environment(format!("{}:{}: {}", twin.shown, error.line, error.what))
            })?;
            for hole in marked
                .holes()
                .iter()
                .filter(|hole| marked.is_unfinished(hole))
            {
                let exercise = self.manifest.exercise_of_hole(hole.tag);
                if let Some(exercise) = exercise.filter(|exercise| !exercise.bonus)
                    && !waiting.contains(&exercise.id)
                {
                    waiting.push(exercise.id.clone());
                }
            }
        }
        Ok(waiting)
    }

    /// How to get an exercise file back that was lost or damaged.
    pub fn way_back(&self, name: &str) -> String {
        let number = self.manifest.number;
        let mut exercises = self.manifest.exercises.iter();
        let mut lines = Vec::new();
        if let Some(exercise) = exercises.find(|exercise| exercise.file == name) {
            lines.push(format!(
                "this file anew, the others stay: {}",
                crate::ui::advice(&format!("reset {number} {}", exercise.id))
            ));
        }
        lines.push(format!(
            "all files anew (yours are kept): {}",
            crate::ui::advice(&format!("reset {number}"))
        ));
        lines.push(format!(
            "take back what tito changed last: {}; older changes: {}",
            crate::ui::advice("undo"),
            crate::ui::advice("undo --list")
        ));
        lines.join("\n")
    }
}

/// The line (from 1) on which `fn item` or `fn method` of `Type::method` begins.
pub fn line_of_item(text: &str, item: &str) -> Option<usize> {
    let (owner, function) = match item.rsplit_once("::") {
        Some((owner, function)) => (Some(owner), function),
        None => (None, item),
    };
    let mut inside = owner.is_none();
    for (index, line) in text.lines().enumerate() {
        let code = line.trim_start();
        if let Some(owner) = owner
            && (code.starts_with("impl")
                || code.starts_with("trait")
                || code.starts_with("pub trait"))
        {
            let header = code.split('{').next().unwrap_or(code);
            let owner_named = header
                .split(|letter: char| !(letter.is_alphanumeric() || letter == '_'))
                .any(|word| word == owner);
            inside = owner_named;
        }
        if inside && !code.starts_with("//") && declares(code, function) {
            return Some(index + 1);
        }
    }
    None
}

/// True if the line of code contains `fn name` and the name ends there.
fn declares(code: &str, name: &str) -> bool {
    code.match_indices("fn ").any(|(at, _)| {
        let begins = at == 0 || code[..at].ends_with(|letter: char| !letter.is_alphanumeric());
        let rest = code[at + 3..].trim_start();
        begins
            && rest.strip_prefix(name).is_some_and(|rest| {
                !rest.starts_with(|letter: char| letter.is_alphanumeric() || letter == '_')
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
//! fn quantize is described here
pub fn quantize_bias() {}
pub fn quantize(values: &[f32]) {}
impl Observer for MinMax {
    fn observe(&mut self) {}
}
impl Observer for Percentile<'_> {
    fn observe(&mut self) {}
}
";

    #[test]
    fn a_function_is_found_by_its_whole_name() {
        assert_eq!(line_of_item(TEXT, "quantize"), Some(3));
        assert_eq!(line_of_item(TEXT, "quant"), None);
    }

    #[test]
    fn a_method_is_found_in_its_own_type() {
        assert_eq!(line_of_item(TEXT, "MinMax::observe"), Some(5));
        assert_eq!(line_of_item(TEXT, "Percentile::observe"), Some(8));
    }
}
