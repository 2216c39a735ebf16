//! The compiled course with one place left open: the objects of the exercise files.
//!
//! The names of compiled functions depend on where a function stands and on its types, not on its body. So the exam, and the given files, are
//! compiled once, against the stubs; a submission's objects are linked in the place of the stubs'. Of two definitions of one name
//! the first on the command line counts, and the order is: exam, given files, submission, stubs. What a submission has compiled from headers is
//! therefore never what runs, and what of the stubs' objects others need beside the exercises (drop glue) is still found.
//!
//! That this gives the same program is not believed but tried: `batch` has the reference graded this way first.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use tito::failure::Failure;
use tito::lock::cannot_write;

use super::{Workshop, close_to_others, headers, lay_out, only_for_cells, rustc};
use crate::course::{Course, Texts};

/// See the module's head.
#[derive(Clone, Debug)]
pub struct Prebuilt {
    /// The exam linked with the stubs.
    pub runner: PathBuf,
    /// How a submission takes the stubs' place; `None` if this course cannot be put together so.
    pub exchange: Option<Exchange>,
}

/// What a submission is compiled and linked with.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// The given files without bodies.
    pub(super) headers: Texts,
    /// Where the objects are: read by the linking cell alone.
    pub(super) folder: PathBuf,
    /// The linker's arguments before the objects of a submission, and after them.
    before: Vec<OsString>,
    after: Vec<OsString>,
}

/// Objects of their own for every module.
const ONE_PER_MODULE: &str = "-Ccodegen-units=1000";

/// Names that say where a function stands and nothing else.
const NAMES: &str = "-Csymbol-mangling-version=v0";

/// What a submission is compiled with beside the usual.
pub(super) const FOR_SUBMISSIONS: [&str; 2] = [ONE_PER_MODULE, NAMES];

impl Prebuilt {
    /// Compiles the stubs and the exam, outside of any cell: both are ours.
    ///
    /// # Errors
    ///
    /// An environment error if the stubs or the exam do not compile.
    pub fn make(workshop: &Workshop, course: &Course) -> Result<Prebuilt> {
        let folder = workshop.root().join("prebuilt");
        fs::create_dir(&folder).map_err(|error| cannot_write(&folder, &error))?;
        close_to_others(&folder)?;
        let source = folder.join("src");
        lay_out(&source, &course.given)?;
        lay_out(&source.join(course.module.folder()), &bytes(course))?;
        let root = course.module.shown(&course.module.manifest.root);
        let library = folder.join("libsubject.rlib");
        let mut command = workshop.toolchain.command();
        command
            .args(rustc::subject_arguments(workshop, &library, &folder))
            .args(FOR_SUBMISSIONS)
            // Also what nothing of the stubs calls: a submission may.
            .args(["-Clink-dead-code", "-Csave-temps"])
            .arg(&root)
            .current_dir(&source);
        rustc::must_succeed(&mut command, "the stubs")?;

        let runner = folder.join("runner");
        let mut command = workshop.toolchain.command();
        command
            .args(rustc::runner_arguments(
                workshop, &library, &runner, &folder,
            ))
            .args([NAMES, "-Csave-temps", "--print=link-args"])
            .arg(workshop.root().join("exam/main.rs"))
            .current_dir(&folder);
        let said = rustc::must_succeed(&mut command, "the exam")?;
        let exchange = Exchange::new(&folder, course, &root, split(&words(&said), &library))?;
        if workshop.confinement.drops_user {
            only_for_cells(&folder)?;
        }
        Ok(Prebuilt { runner, exchange })
    }
}

fn bytes(course: &Course) -> Texts {
    let stubs = course.stubs.iter();
    stubs
        .map(|(file, text)| (file.clone(), text.clone().into_bytes()))
        .collect()
}

impl Exchange {
    fn new(
        folder: &Path,
        course: &Course,
        root: &str,
        line: Option<(Vec<OsString>, Vec<OsString>)>,
    ) -> Result<Option<Exchange>> {
        for text in course.stubs.values() {
            if !headers::can_be_exchanged(text)? {
                return Ok(None);
            }
        }
        let (Some((mut before, rest)), Some((given, stubs))) = (line, objects(folder, course)?)
        else {
            return Ok(None);
        };
        before.extend(given.into_iter().map(PathBuf::into_os_string));
        let mut after: Vec<OsString> = vec!["-Wl,--start-lib".into()];
        after.extend(stubs.into_iter().map(PathBuf::into_os_string));
        after.push("-Wl,--end-lib".into());
        after.extend(rest);
        after.extend(["-Wl,-z,muldefs", "-Wl,--threads=1"].map(OsString::from));
        Ok(Some(Exchange {
            headers: headers::headers(&course.given, root)?,
            folder: folder.to_owned(),
            before,
            after,
        }))
    }

    /// Arguments of the C compiler, which calls the linker.
    pub(super) fn link_arguments(&self, library: &Path, program: &Path) -> Vec<OsString> {
        let mut arguments = self.before.clone();
        arguments.push(library.into());
        arguments.extend_from_slice(&self.after);
        arguments.push("-o".into());
        arguments.push(program.into());
        arguments
    }
}

/// The words of the line that rustc prints: quoted as Rust quotes strings, after variables of the environment.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut letters = line.trim().chars().peekable();
    while let Some(letter) = letters.next() {
        if letter.is_whitespace() {
            continue;
        }
        let mut word = String::new();
        if letter != '"' {
            word.push(letter);
        }
        let mut is_quoted = letter == '"';
        while let Some(&next) = letters.peek() {
            if next.is_whitespace() && !is_quoted {
                break;
            }
            letters.next();
            match next {
                '"' => is_quoted = !is_quoted,
                '\\' if is_quoted => word.extend(letters.next()),
                _ => word.push(next),
            }
        }
        words.push(word);
    }
    words
}

/// What comes before the student's library and after it, without what belongs to that one call.
fn split(words: &[String], library: &Path) -> Option<(Vec<OsString>, Vec<OsString>)> {
    let begin = words.iter().position(|word| word == "cc")?;
    let mut kept: Vec<&String> = Vec::new();
    let mut rest = words[begin + 1..].iter();
    while let Some(word) = rest.next() {
        match word.as_str() {
            "-o" => {
                rest.next()?;
            }
            // Of a folder that is gone by now: symbols that nobody in it exports.
            word if word.ends_with("symbols.o") => {}
            _ => kept.push(word),
        }
    }
    let place = kept.iter().position(|word| Path::new(word) == library)?;
    let texts = |words: &[&String]| words.iter().map(OsString::from).collect();
    Some((texts(&kept[..place]), texts(&kept[place + 1..])))
}

/// The objects of the given files and those of the exercise files, by the names that they define.
fn objects(folder: &Path, course: &Course) -> Result<Option<(Vec<PathBuf>, Vec<PathBuf>)>> {
    let mut all: Vec<PathBuf> = fs::read_dir(folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("subject.") && name.ends_with(".rcgu.o")
        })
        .collect();
    all.sort();
    let output = Command::new("nm")
        .args(["--defined-only", "--print-file-name", "--portability"])
        .args(&all)
        .output()
        .map_err(|error| Failure::environment(format!("cannot start nm: {error}")))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let modules: Vec<String> = course
        .stubs
        .keys()
        .filter_map(|file| file.strip_suffix(".rs"))
        .map(|module| format!("{}{module}", module.len()))
        .collect();
    let mut is_met = vec![false; modules.len()];
    let mut of_stubs = std::collections::BTreeSet::new();
    for line in text.lines() {
        // `PATH: NAME TYPE VALUE SIZE`
        let Some((path, rest)) = line.split_once(": ") else {
            continue;
        };
        let name = rest.split(' ').next().unwrap_or_default();
        if let Some(place) = stands_in(name)
            && let Some(number) = modules.iter().position(|module| place.starts_with(module))
        {
            is_met[number] = true;
            of_stubs.insert(PathBuf::from(path));
        }
    }
    if all.is_empty() || is_met.contains(&false) {
        return Ok(None);
    }
    Ok(Some(
        all.into_iter().partition(|path| !of_stubs.contains(path)),
    ))
}

/// Where in the student's crate a function or method stands that is not generic: what follows the crate's name in `_RNvNtCs1234_7subject8quantize8quantize`.
fn stands_in(name: &str) -> Option<&str> {
    let path = name.strip_prefix("_RN")?;
    let (kinds, rest) = path.split_once("NtCs")?;
    let is_plain = kinds
        .chars()
        .all(|letter| letter.is_ascii_digit() || matches!(letter, 'N' | 'v' | 'M' | 's' | '_'));
    let (disambiguator, place) = rest.split_once("_7subject")?;
    let is_plain = is_plain && disambiguator.chars().all(|one| one.is_ascii_alphanumeric());
    is_plain.then_some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linkers_line_is_read_and_cut_at_the_library() {
        let line = r#"LC_ALL="C" PATH="/a b" "cc" "-m64" "/t/symbols.o" "/t/r.o" "/w/libsubject.rlib" "/w/a \"b\".rlib" "-o" "/w/runner" "-no-pie""#;
        let (before, after) = split(&words(line), Path::new("/w/libsubject.rlib")).expect("found");
        assert_eq!(before, ["-m64", "/t/r.o"]);
        assert_eq!(after, ["/w/a \"b\".rlib", "-no-pie"]);
    }

    #[test]
    fn a_name_tells_where_its_function_stands() {
        for (name, place) in [
            (
                "_RNvNtCs1a2B_7subject8quantize8quantize",
                Some("8quantize8quantize"),
            ),
            (
                "_RNvMs_NtCs1a2B_7subject6linearNtB4_7QLinear7forward",
                Some("6linearNtB4_7QLinear7forward"),
            ),
            ("_RINvNtCs1a2B_7subject6finite5checkNtB2_1XE", None),
            ("_RNvNtCs1a2B_4core6option4take", None),
            ("memcpy", None),
        ] {
            assert_eq!(stands_in(name), place, "{name}");
        }
    }
}
