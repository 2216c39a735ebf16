//! The holes of an exercise file: what lies between `// BEGIN SOLUTION 15.3` and `// END SOLUTION`.
//!
//! One source is the reference, the stub and the student's file: outside the holes all three are the same bytes. This room cuts a file at
//! its markers, empties the holes, fills them, and compares what lies outside.

use std::fmt;
use std::ops::Range;

const BEGIN: &str = "// BEGIN SOLUTION";
const END: &str = "// END SOLUTION";

/// A file cut at its markers.
#[derive(Clone, Debug)]
pub struct Marked<'a> {
    /// Every line with its line break.
    lines: Vec<&'a str>,
    /// In the order of the file.
    holes: Vec<Hole<'a>>,
}

/// One hole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hole<'a> {
    /// `15.6b`: the exercise, plus a letter if it has several holes.
    pub tag: &'a str,
    /// White space before the marker.
    indent: &'a str,
    /// Index of the BEGIN line.
    begin: usize,
    /// Index of the END line.
    end: usize,
}

impl Hole<'_> {
    /// The line (from 1) of the BEGIN marker.
    pub fn line(&self) -> usize {
        self.begin + 1
    }

    /// What the emptied hole holds, at the indentation of its marker.
    pub fn stub_body(&self) -> String {
        format!("{}todo!(\"exercise {}\")\n", self.indent, self.tag)
    }

    fn body(&self) -> Range<usize> {
        self.begin + 1..self.end
    }
}

/// Markers that do not pair, and the line that shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkerError {
    /// From 1.
    pub line: usize,
    /// What is wrong there.
    pub what: String,
}

impl fmt::Display for MarkerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

impl<'a> Marked<'a> {
    /// Cuts a text at its markers.
    ///
    /// # Errors
    ///
    /// The first marker that has no partner, no tag, or a tag that was there before.
    pub fn parse(text: &'a str) -> Result<Marked<'a>, MarkerError> {
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let mut holes: Vec<Hole<'a>> = Vec::new();
        let mut open: Option<(usize, &'a str, &'a str)> = None;
        for (index, line) in lines.iter().enumerate() {
            let error = |what: String| MarkerError {
                line: index + 1,
                what,
            };
            let code = line.trim();
            if let Some(tag) = code.strip_prefix(BEGIN) {
                if let Some((begin, tag, _)) = open {
                    return Err(error(format!(
                        "a solution begins here, but that of {tag} (line {}) has not ended",
                        begin + 1
                    )));
                }
                let tag = tag.trim();
                if tag.is_empty() {
                    return Err(error("`BEGIN SOLUTION` does not say which exercise".into()));
                }
                if let Some(twin) = holes.iter().find(|hole| hole.tag == tag) {
                    return Err(error(format!(
                        "a second solution {tag}; the first is in line {}",
                        twin.line()
                    )));
                }
                let indent = &line[..line.len() - line.trim_start().len()];
                open = Some((index, tag, indent));
            } else if code.starts_with(END) {
                let Some((begin, tag, indent)) = open.take() else {
                    return Err(error(
                        "`END SOLUTION` without a `BEGIN SOLUTION` above it".into(),
                    ));
                };
                holes.push(Hole {
                    tag,
                    indent,
                    begin,
                    end: index,
                });
            }
        }
        if let Some((begin, tag, _)) = open {
            return Err(MarkerError {
                line: begin + 1,
                what: format!("the solution of {tag} begins here and never ends"),
            });
        }
        Ok(Marked { lines, holes })
    }

    /// The holes, in the order of the file.
    pub fn holes(&self) -> &[Hole<'a>] {
        &self.holes
    }

    /// The hole with this tag.
    pub fn hole(&self, tag: &str) -> Option<&Hole<'a>> {
        self.holes.iter().find(|hole| hole.tag == tag)
    }

    /// The text between a hole's markers.
    pub fn body(&self, hole: &Hole<'_>) -> String {
        self.lines[hole.body()].concat()
    }

    /// True if the hole still waits: it is empty or calls `todo!` or `unimplemented!`.
    pub fn is_unfinished(&self, hole: &Hole<'_>) -> bool {
        let code: String = self.lines[hole.body()]
            .iter()
            .map(|line| line.split("//").next().unwrap_or(""))
            .collect();
        code.trim().is_empty() || code.contains("todo!") || code.contains("unimplemented!")
    }

    /// The file with every hole emptied: the student's stub.
    pub fn stub(&self) -> String {
        self.with_bodies(|hole| Some(hole.stub_body()))
    }

    /// The file with other bodies: `choose` returns the new text between the markers, or nothing to leave a hole as it is.
    pub fn with_bodies(&self, mut choose: impl FnMut(&Hole<'a>) -> Option<String>) -> String {
        let mut text = String::new();
        let mut next = 0;
        for hole in &self.holes {
            text.extend(self.lines[next..=hole.begin].iter().copied());
            match choose(hole) {
                Some(mut body) => {
                    if !body.is_empty() && !body.ends_with('\n') {
                        body.push('\n');
                    }
                    text.push_str(&body);
                }
                None => text.extend(self.lines[hole.body()].iter().copied()),
            }
            next = hole.end;
        }
        text.extend(self.lines[next..].iter().copied());
        text
    }

    /// What lies outside the holes, with uniform line breaks, to be compared.
    pub fn outside(&self) -> String {
        self.with_bodies(|_| Some(String::new()))
            .replace("\r\n", "\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
pub fn scale(max_abs: f32) -> f32 {
    // BEGIN SOLUTION 15.1
    let scale = max_abs / 127.0;
    scale
    // END SOLUTION
}

impl X {
    fn two(&self) -> i32 {
        // BEGIN SOLUTION 15.6b
        2
        // END SOLUTION
    }
}
";

    const STUB: &str = "\
pub fn scale(max_abs: f32) -> f32 {
    // BEGIN SOLUTION 15.1
    todo!(\"exercise 15.1\")
    // END SOLUTION
}

impl X {
    fn two(&self) -> i32 {
        // BEGIN SOLUTION 15.6b
        todo!(\"exercise 15.6b\")
        // END SOLUTION
    }
}
";

    #[test]
    fn a_stub_is_the_file_with_its_holes_emptied() {
        let marked = Marked::parse(FILE).expect("markers pair");
        assert_eq!(marked.stub(), STUB);
    }

    #[test]
    fn the_stub_of_a_stub_is_itself() {
        let stub = Marked::parse(STUB).expect("markers pair");
        assert_eq!(stub.stub(), STUB);
        assert!(stub.holes().iter().all(|hole| stub.is_unfinished(hole)));
    }

    #[test]
    fn outside_the_holes_file_and_stub_are_the_same_also_with_other_line_breaks() {
        let file = Marked::parse(FILE).expect("markers pair");
        let windows = STUB.replace('\n', "\r\n");
        let stub = Marked::parse(&windows).expect("markers pair");
        assert_eq!(file.outside(), stub.outside());
    }

    #[test]
    fn one_body_can_be_replaced_and_the_rest_stays() {
        let marked = Marked::parse(FILE).expect("markers pair");
        let wrong = marked.with_bodies(|hole| (hole.tag == "15.6b").then(|| "        3".into()));
        assert_eq!(wrong, FILE.replace("        2\n", "        3\n"));
    }

    #[test]
    fn a_comment_about_todo_does_not_make_a_hole_unfinished() {
        let text = "// BEGIN SOLUTION 1.1\n1 // was todo!()\n// END SOLUTION\n";
        let marked = Marked::parse(text).expect("markers pair");
        assert!(!marked.is_unfinished(&marked.holes()[0]));
    }

    #[test]
    fn markers_that_do_not_pair_are_named_by_line() {
        let cases = [
            ("x\n// END SOLUTION\n", 2, "without"),
            ("// BEGIN SOLUTION 1.1\n", 1, "never ends"),
            ("// BEGIN SOLUTION\n// END SOLUTION\n", 1, "which exercise"),
            (
                "// BEGIN SOLUTION 1.1\n// BEGIN SOLUTION 1.2\n",
                2,
                "has not ended",
            ),
            (
                "// BEGIN SOLUTION 1.1\n// END SOLUTION\n// BEGIN SOLUTION 1.1\n// END SOLUTION\n",
                3,
                "second",
            ),
        ];
        for (text, line, words) in cases {
            let error = Marked::parse(text).expect_err(text);
            assert_eq!(error.line, line, "{text}");
            assert!(error.what.contains(words), "{}", error.what);
        }
    }
}
