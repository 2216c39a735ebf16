//! The proof that a release holds no solution: every line of every solution is looked for in every byte of every file.
//!
//! Blanks do not count, so a line is found with another indentation, in the middle of another line, or in a string; the strings of a JSON
//! file are also looked through as what they mean, with their escapes undone. A line of a solution *tells* if it has [`TELLING`] characters or more
//! and is not listed as commonplace. Of the hidden checks, each identifier tells, and each line of [`HIDDEN`] characters or more
//! that is not also a line of the public exam.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use super::files::Files;

/// Fewer characters (blanks not counted) say no more than a keyword and a name, `return Ok(());` or `.enumerate()`.
pub const TELLING: usize = 16;

/// Lines of hidden checks share more idioms with the public ones.
const HIDDEN: usize = 24;

/// Below this, the body of a catalogued mistake is not looked for as a whole.
const BODY: usize = 40;

/// What must not be found, and where it comes from.
#[derive(Debug, Default)]
pub struct Secrets {
    /// Text without blanks to a description: `the solution of 15.3`.
    telling: BTreeMap<Vec<u8>, String>,
    /// Lines that were excused, without blanks, and the words of the entry.
    excused: BTreeMap<Vec<u8>, String>,
    /// Excused lines that a solution has.
    used: BTreeSet<Vec<u8>>,
}

impl Secrets {
    /// Nothing yet, with the lines that are commonplace.
    pub fn new(commonplace: &[String]) -> Secrets {
        let excused = commonplace
            .iter()
            .map(|line| (squeeze(line.as_bytes()), line.clone()))
            .collect();
        Secrets {
            excused,
            ..Secrets::default()
        }
    }

    /// Adds the body of a hole.
    pub fn add_solution(&mut self, tag: &str, body: &str) {
        for line in body.lines() {
            let line = squeeze(line.as_bytes());
            if self.excused.contains_key(&line) {
                self.used.insert(line);
            } else if line.len() >= TELLING {
                self.telling
                    .entry(line)
                    .or_insert_with(|| format!("a line of the solution of {tag}"));
            }
        }
    }

    /// Adds a file of hidden checks. `public` holds the lines of the public exam, without blanks.
    pub fn add_hidden(&mut self, path: &str, text: &str, public: &BTreeSet<Vec<u8>>) {
        for line in text.lines() {
            let is_id = line.trim_start().starts_with("id: \"");
            let line = squeeze(line.as_bytes());
            if (is_id || line.len() >= HIDDEN) && !public.contains(&line) {
                self.telling
                    .entry(line)
                    .or_insert_with(|| format!("a line of the hidden checks in {path}"));
            }
        }
    }

    /// Adds the wrong body or the explanation of a catalogued mistake, as a whole.
    pub fn add_mistake(&mut self, slug: &str, body: &str) {
        let body = squeeze(body.as_bytes());
        if body.len() >= BODY {
            self.telling
                .entry(body)
                .or_insert_with(|| format!("the wrong solution `{slug}`"));
        }
    }

    /// How many texts are looked for.
    pub fn len(&self) -> usize {
        self.telling.len()
    }

    /// Every place where one of them is, and every entry of the commonplace lines that is not needed.
    pub fn problems(&self, files: &Files) -> Vec<String> {
        let texts = self.telling.keys().chain(&self.used);
        let index = Index::new(texts.map(Vec::as_slice));
        let mut problems = Vec::new();
        let mut needed: BTreeSet<&[u8]> = BTreeSet::new();
        for (path, content) in files {
            let mut found = index.find(&squeeze(content));
            for text in meanings(path, content) {
                found.extend(index.find(&squeeze(text.as_bytes())));
            }
            for text in found {
                match self.telling.get(text) {
                    Some(what) => problems.push(format!(
                        "{path} holds {what}: `{}`",
                        String::from_utf8_lossy(text)
                    )),
                    None => {
                        needed.insert(text);
                    }
                }
            }
        }
        for (line, words) in &self.excused {
            if !needed.contains(line.as_slice()) {
                problems.push(format!(
                    "modules/release.toml: the commonplace line `{words}` is not in a solution and elsewhere in the release; remove it"
                ));
            }
        }
        problems
    }
}

/// The strings of a JSON file, escapes undone.
fn meanings(path: &str, content: &[u8]) -> Vec<String> {
    fn walk(value: Value, strings: &mut Vec<String>) {
        match value {
            Value::String(text) => strings.push(text),
            Value::Array(items) => items.into_iter().for_each(|item| walk(item, strings)),
            Value::Object(fields) => {
                for (name, value) in fields {
                    strings.push(name);
                    walk(value, strings);
                }
            }
            _ => {}
        }
    }
    let mut strings = Vec::new();
    if path.ends_with(".json")
        && let Ok(value) = serde_json::from_slice(content)
    {
        walk(value, &mut strings);
    }
    strings
}

/// The bytes that are not white space.
pub fn squeeze(text: &[u8]) -> Vec<u8> {
    text.iter()
        .copied()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect()
}

/// Many texts looked for in one pass: by their first eight bytes. None is shorter.
struct Index<'a> {
    by_beginning: HashMap<u64, Vec<&'a [u8]>>,
}

impl<'a> Index<'a> {
    fn new(texts: impl Iterator<Item = &'a [u8]>) -> Index<'a> {
        let mut by_beginning: HashMap<u64, Vec<&[u8]>> = HashMap::new();
        for text in texts {
            if let Some(beginning) = text.first_chunk() {
                let key = u64::from_le_bytes(*beginning);
                by_beginning.entry(key).or_default().push(text);
            }
        }
        Index { by_beginning }
    }

    fn find(&self, content: &[u8]) -> BTreeSet<&'a [u8]> {
        let mut found = BTreeSet::new();
        for at in 0..content.len() {
            let Some(beginning) = content[at..].first_chunk() else {
                break;
            };
            let texts = self.by_beginning.get(&u64::from_le_bytes(*beginning));
            found.extend(
                texts
                    .into_iter()
                    .flatten()
                    .filter(|text| content[at..].starts_with(text)),
            );
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str =
        "    let scale = largest / codes.max as f32;\n    for batch in batches {\n    }\n";

    fn problems(path: &str, text: &str) -> Vec<String> {
        let mut secrets = Secrets::new(&["for batch in batches {".to_owned()]);
        secrets.add_solution("15.1", BODY);
        let files = Files::from([
            (path.to_owned(), text.as_bytes().to_vec()),
            ("given.rs".to_owned(), b"for batch in batches {".to_vec()),
        ]);
        secrets.problems(&files)
    }

    #[test]
    fn a_line_is_found_wherever_it_hides() {
        for text in [
            "let scale=largest/codes.max as f32;",
            "// once it was: let scale =\n//  largest / codes.max as f32;"
                .replace("\n//", "")
                .as_str(),
            "\u{0}\u{1}binary let scale = largest / codes.max as f32; more",
        ] {
            let found = problems("a.bin", text);
            assert_eq!(found.len(), 1, "{text}");
            assert!(found[0].starts_with("a.bin holds a line of the solution of 15.1"));
        }
    }

    #[test]
    fn strings_of_json_are_read_with_their_escapes_undone() {
        let text = r#"{"a": ["let scale = largest \u002f codes.max as f32;"]}"#;
        assert_eq!(problems("a.json", text).len(), 1);
        assert_eq!(problems("a.txt", text).len(), 0);
    }

    #[test]
    fn braces_and_commonplace_lines_tell_nothing() {
        assert_eq!(
            problems("a.rs", "for batch in batches {\n}\n"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn an_entry_that_excuses_nothing_is_stale() {
        let secrets = Secrets::new(&["let mut unheard_of = 1;".to_owned()]);
        let problems = secrets.problems(&Files::new());
        assert!(problems[0].contains("unheard_of"), "{problems:?}");
    }

    #[test]
    fn of_hidden_checks_identifiers_tell_and_what_the_public_exam_says_too_does_not() {
        let mut secrets = Secrets::new(&[]);
        let public = BTreeSet::from([squeeze(b"use tinytorch_exam::{Case, Check};")]);
        let hidden = "use tinytorch_exam::{Case, Check};\n    id: \"1.1/rare\",\n    what: \"numbers that nobody expects\",\n";
        secrets.add_hidden("exam/hidden/mod.rs", hidden, &public);
        assert_eq!(secrets.len(), 2);
        let text = "use tinytorch_exam::{Case, Check};\nid: \"1.1/rarely\"\nid: \"1.1/rare\",";
        let files = Files::from([("x.rs".to_owned(), text.into())]);
        assert_eq!(secrets.problems(&files).len(), 1);
    }
}
