//! The given files of a course without the bodies of their functions: enough for the compiler to find the errors in a submission's own, and soon done.
//!
//! It goes by lines, since the course's text is formatted. A body that others need to know of stays: one that is computed while compiling, one whose
//! type the signature does not say, and one with items inside.

use crate::course::Texts;

/// What stands in the place of a body. Its type is any.
const NOTHING: &str = "loop {}";

/// The skeletons of given files, with the same names.
pub fn skeletons(given: &Texts) -> Texts {
    let skeletons = given.iter().map(|(path, text)| {
        let text = match std::str::from_utf8(text) {
            Ok(text) if path.ends_with(".rs") => skeleton(text).into_bytes(),
            _ => text.clone(),
        };
        (path.clone(), text)
    });
    skeletons.collect()
}

fn skeleton(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut out = String::new();
    let mut at = 0;
    while at < lines.len() {
        let body = body(&lines, at);
        let end = body.as_ref().map_or(at + 1, |body| body.start);
        for line in &lines[at..end] {
            out.push_str(line);
            out.push('\n');
        }
        if body.is_some() {
            out.push_str(NOTHING);
            out.push('\n');
        }
        at = body.map_or(end, |body| body.end);
    }
    out
}

/// The lines of the body of the function that begins at `first`, if one does and its body can be left out.
fn body(lines: &[&str], first: usize) -> Option<std::ops::Range<usize>> {
    let line = lines[first];
    let code = line.trim_start();
    let indent = &line[..line.len() - code.len()];
    let before = code.split("fn ").next()?;
    let is_function =
        before.len() < code.len() && matches!(before, "" | "pub " | "pub(crate) " | "pub(super) ");
    if !is_function {
        return None;
    }
    // A signature ends where something is opened, or is all there is.
    let is_end = |line: &&str| line.ends_with('{') || line.ends_with(';') || line.ends_with('}');
    let open = first + lines[first..].iter().position(is_end)?;
    let is_opened = lines[open].ends_with('{') && lines[open].starts_with(indent);
    let close = open
        + lines[open..]
            .iter()
            .position(|line| line.strip_prefix(indent).is_some_and(|rest| rest == "}"))?;
    let has = |range: &[&str], word: &str| range.iter().any(|line| line.contains(word));
    let is_needed = has(&lines[first..=open], "impl ")
        || ["impl ", "impl<", "macro_rules!"]
            .iter()
            .any(|word| has(&lines[open + 1..close], word));
    (is_opened && !is_needed && close > open + 1).then_some(open + 1..close)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_go_and_signatures_stay() {
        let text = "\
use std::fmt;

/// A sum.
pub fn sum(
    values: &[f32],
    scale: f32,
) -> f32 {
    let all = |values: &[f32]| {
        values.iter().sum::<f32>()
    };
    all(values) * scale
}

impl Range {
    fn is_empty(&self) -> bool {
        self.min > self.max
    }

    fn all() {}
}
";
        let wanted = text
            .replace(
                "    let all = |values: &[f32]| {
        values.iter().sum::<f32>()
    };
    all(values) * scale
",
                "loop {}\n",
            )
            .replace("        self.min > self.max\n", "loop {}\n");
        assert_eq!(skeleton(text), wanted);
    }

    #[test]
    fn what_others_need_to_know_of_stays() {
        for text in [
            "pub const fn two() -> usize {\n    2\n}\n",
            "fn all(n: usize) -> impl Iterator<Item = usize> {\n    0..n\n}\n",
            "fn some(\n    n: usize,\n) -> Option<impl Iterator<Item = usize>> {\n    Some(0..n)\n}\n",
            "fn named() {\n    struct A;\n    impl Shown for A {}\n}\n",
            "trait Shown {\n    fn show(&self);\n    fn fail(&self);\n}\n",
            "const A: fn() = || {\n    fn b() {}\n};\n",
            "/// ```\n/// fn main() {\n/// }\n/// ```\nstruct A;\n",
        ] {
            assert_eq!(skeleton(text), text);
        }
    }
}
