//! A student's crate cut in two: a library of everything that does not depend on the submission, compiled once, and a small crate of the
//! functions with holes, compiled for each submission.
//!
//! ```text
//! library   fn quantize(values, ..) { HOLE_15_3(values, ..) }       a slot for each function with a hole, which is called through it
//! holes     fn quantize(values, ..) { checks; the student's body }  and `install`, which fills the slots before the first check
//! ```
//!
//! The two are made from the course's own text, by lines, since that text is formatted: a function begins and ends at an indentation. What
//! stands in a hole is moved as it is and stays on its line, so that errors and panics name the place in the student's file. All that a body
//! could name in its own crate is public in the library. A body that this does not fit (one that implements something for a type of the course) is
//! compiled the long way, in the whole crate: see `job`. A course whose text this does not fit is compiled that way altogether.

use std::fmt::Write as _;

use tito::markers::Marked;

use super::public::{open, public_items};
use super::slot::Slot;
use crate::course::{Course, Texts};
use crate::graft::Assembled;

/// The crate root of the holes.
pub const ROOT: &str = "holes.rs";

/// How a course is cut.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// The library's sources, with the same names as in the course.
    pub library: Texts,
    /// The folder of the exercise files.
    folder: String,
    files: Vec<Cut>,
}

/// One exercise file.
#[derive(Clone, Debug, PartialEq)]
struct Cut {
    file: String,
    /// The module's name: `quantize`.
    name: String,
    /// Lines (from 0) with imports.
    imports: Vec<usize>,
    slots: Vec<Slot>,
}

impl Split {
    /// Cuts a course; nothing if a function with a hole is not of the kind this knows.
    pub fn new(course: &Course) -> Option<Split> {
        let folder = course.module.folder();
        let mut library: Texts = course
            .given
            .iter()
            .map(|(path, text)| Some((path.clone(), open(std::str::from_utf8(text).ok()?))))
            .map(|pair| pair.map(|(path, text)| (path, text.into_bytes())))
            .collect::<Option<Texts>>()?;
        let root = course.module.shown(&course.module.manifest.root);
        let text = String::from_utf8(library.remove(&root)?).ok()?;
        library.insert(root, public_items(&text).into_bytes());
        let mut files = Vec::new();
        for (file, stub) in &course.stubs {
            let cut = Cut::new(file, stub)?;
            let text = open(&public_items(&cut.library(stub)?));
            library.insert(format!("{folder}/{file}"), text.into_bytes());
            files.push(cut);
        }
        Some(Split {
            library,
            folder,
            files,
        })
    }

    /// The sources of a submission's own crate.
    pub fn holes(&self, files: &[Assembled]) -> Option<Texts> {
        let mut root =
            "#![allow(unused_imports, non_camel_case_types)]\npub use subject::*;\n".to_owned();
        let mut install = String::new();
        let mut texts = Texts::new();
        for cut in &self.files {
            let own = files.iter().find(|one| one.file == cut.file)?;
            let (folder, file, name) = (&self.folder, &cut.file, &cut.name);
            let _ = writeln!(root, "#[path = \"{folder}/{file}\"]\nmod own_{name};");
            let _ = writeln!(install, "    own_{name}::fill_the_slots();");
            texts.insert(format!("{folder}/{file}"), cut.holes(own)?.into_bytes());
        }
        let _ = writeln!(root, "pub fn install() {{\n{install}}}");
        texts.insert(ROOT.to_owned(), root.into_bytes());
        Some(texts)
    }
}

impl Cut {
    fn new(file: &str, stub: &str) -> Option<Cut> {
        let name = file
            .strip_suffix(".rs")
            .filter(|name| !name.contains('/'))?;
        let lines: Vec<&str> = stub.lines().collect();
        let marked = Marked::parse(stub).ok()?;
        let first = marked.holes().first()?.line();
        let mut imports = Vec::new();
        let mut is_import = false;
        for (number, line) in lines.iter().enumerate() {
            is_import |= line.starts_with("use ");
            if is_import {
                // What comes after a hole moves with it.
                (number < first).then_some(())?;
                imports.push(number);
            }
            is_import &= !line.ends_with(';');
        }
        let slots = marked.holes().iter().map(|hole| {
            let begin = hole.line() - 1;
            let end = begin + marked.body(hole).lines().count() + 1;
            Slot::new(&lines, hole.tag, begin, end)
        });
        Some(Cut {
            file: file.to_owned(),
            name: name.to_owned(),
            imports,
            slots: slots.collect::<Option<Vec<Slot>>>()?,
        })
    }

    /// The file as part of the library.
    fn library(&self, stub: &str) -> Option<String> {
        let mut lines: Vec<String> = stub.lines().map(str::to_owned).collect();
        let marked = Marked::parse(stub).ok()?;
        let mut more = String::new();
        for slot in &self.slots {
            let hole = marked.hole(&slot.tag)?;
            let begin = hole.line() - 1;
            let first = begin - slot.before;
            let last = begin + marked.body(hole).lines().count() + 1 + slot.after;
            let open = (first..begin).find(|&line| lines[line].ends_with('{'))?;
            for line in &mut lines[open + 1..last] {
                line.clear();
            }
            let (own, tag) = (slot.own(), &slot.tag);
            let passed: Vec<&str> = slot.arguments.iter().map(|one| &*one.passed).collect();
            let passed = passed.join(", ");
            lines[open + 1] = format!(
                "match {own}.get() {{ Some(hole) => hole({passed}), None => todo!(\"exercise {tag}\") }}"
            );
            let kinds: Vec<&str> = slot.arguments.iter().map(|one| &*one.kind).collect();
            let kind = format!("fn({}){}", kinds.join(", "), slot.output);
            let _ = writeln!(
                more,
                "/// What exercise {tag} calls.\npub static {own}: std::sync::OnceLock<{kind}> = std::sync::OnceLock::new();"
            );
        }
        let tests = lines.iter().position(|line| line == "#[cfg(test)]");
        lines.truncate(tests.unwrap_or(lines.len()));
        Some(format!("{}\n{more}", lines.join("\n")))
    }

    /// The file as part of a submission's own crate: imports and functions with holes, each on its line.
    fn holes(&self, own: &Assembled) -> Option<String> {
        let text: Vec<&str> = own.text.lines().collect();
        let mut lines = vec![String::new(); text.len()];
        for &number in &self.imports {
            lines[number] = (*text.get(number)?).to_owned();
        }
        let mut more = String::new();
        let mut install = String::new();
        for slot in &self.slots {
            let (_, begin, end) = own.holes.iter().find(|(tag, _, _)| *tag == slot.tag)?;
            let first = (begin - 1).checked_sub(slot.before)?;
            let last = end - 1 + slot.after;
            let function = text.get(first..=last)?;
            for (line, text) in lines[first..=last].iter_mut().zip(function) {
                *line = (*text).to_owned();
            }
            let count = slot.arguments.len();
            let names: Vec<String> = (0..count).map(|number| format!("a{number}")).collect();
            let names = names.join(", ");
            let (module, own, name) = (&self.name, slot.own(), &slot.name);
            let called = match &slot.of {
                None => name.clone(),
                Some(of) => {
                    let (hole, like) = (own.to_lowercase(), format!("Like{}", &own[4..]));
                    let head = format!("fn {name}(");
                    let (_, rest) = lines[first].split_once(&head)?;
                    lines[first] = format!("impl {like} for {of} {{ fn {hole}({rest}");
                    lines[last].push('}');
                    let _ = write!(more, "pub trait {like} {{ fn {hole}{}; }} ", slot.signature);
                    format!("{like}::{hole}")
                }
            };
            let _ = write!(
                install,
                "let _ = subject::{module}::{own}.set(|{names}| {called}({names})); "
            );
        }
        lines[0] = format!("use subject::{}::*; {}", self.name, lines[0]);
        Some(format!(
            "{}\n{more}\npub fn fill_the_slots() {{ {install} }}\n",
            lines.join("\n")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STUB: &str = "\
//! A file.
use crate::error::Result;

/// Has a hole.
pub fn scaled(
    values: &[(f32, f32)],
    mut_scale: f32,
) -> Result<Vec<f32>> {
    check(values)?;
    // BEGIN SOLUTION 1.1
    todo!(\"exercise 1.1\")
    // END SOLUTION
}

fn check(values: &[(f32, f32)]) -> Result<()> {
    values.first().map(drop)
}

pub struct Range {
    seen: f32,
}

impl Observer for Range {
    fn observe(&mut self, batches: impl IntoIterator<Item = f32>) {
        // BEGIN SOLUTION 1.2b
        todo!(\"exercise 1.2b\")
        // END SOLUTION
    }
}
";

    #[test]
    fn the_library_calls_what_the_holes_bring() {
        let cut = Cut::new("range.rs", STUB).expect("this can be cut");
        let library = public_items(&cut.library(STUB).expect("a library"));
        for part in [
            "match HOLE_1_1.get() { Some(hole) => hole(values, mut_scale), None =>",
            "HOLE_1_1: std::sync::OnceLock<fn(&[(f32, f32)], f32) -> Result<Vec<f32>>> =",
            "hole(self, &mut batches.into_iter())",
            "OnceLock<fn(&mut Range, &mut dyn Iterator<Item = f32>)> =",
            "\npub fn check(",
            "\n    pub seen: f32,",
            "\n    fn observe(",
        ] {
            assert!(library.contains(part), "{part} is not in\n{library}");
        }
        assert!(!library.contains("BEGIN SOLUTION"));
    }

    #[test]
    fn what_is_in_a_hole_stays_on_its_line() {
        let cut = Cut::new("range.rs", STUB).expect("this can be cut");
        let longer = STUB.replacen(
            "    todo!(\"exercise 1.1\")",
            "    // mine\n    nonsense()",
            1,
        );
        let own = Assembled::new("range.rs", longer.clone());
        let holes = cut.holes(&own).expect("holes");
        for (number, line) in longer.lines().enumerate() {
            let line = line.trim();
            if line == "nonsense()" || line.starts_with("todo!") {
                assert_eq!(holes.lines().nth(number).map(str::trim), Some(line));
            }
        }
        for part in [
            "use subject::range::*; ",
            "impl Like_1_2B for Range { fn hole_1_2b(&mut self, batches: impl",
            "let _ = subject::range::HOLE_1_2B.set(|a0, a1| Like_1_2B::hole_1_2b(a0, a1));",
            "let _ = subject::range::HOLE_1_1.set(|a0, a1| scaled(a0, a1));",
        ] {
            assert!(holes.contains(part), "{part} is not in\n{holes}");
        }
        assert!(!holes.contains("fn check"));
    }

    /// Otherwise every submission of it takes ten times as long.
    #[test]
    fn the_course_can_be_cut() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent();
        let workspace = tito::workspace::Workspace::find(root).expect("the course");
        let course = Course::load(&workspace, "15", None).expect("module 15");
        let split = Split::new(&course).expect("every function with a hole is of a known kind");
        let holes: usize = split.files.iter().map(|cut| cut.slots.len()).sum();
        let markers = course
            .stubs
            .values()
            .map(|stub| stub.matches("BEGIN SOLUTION").count());
        assert_eq!(holes, markers.sum::<usize>());
    }

    #[test]
    fn a_function_of_another_kind_is_not_cut() {
        for (from, to) in [
            ("pub fn scaled(", "pub fn scaled<T>("),
            ("mut_scale: f32", "(a, b): (f32, f32)"),
            ("impl Observer for Range", "impl<T> Observer for Range<T>"),
            ("    mut_scale: f32,\n)", "    of: impl Fn(),\n)"),
        ] {
            let stub = STUB.replace(from, to);
            assert_ne!(stub, STUB);
            assert_eq!(Cut::new("range.rs", &stub), None, "{to}");
        }
    }
}
