//! L0, second half: of a taken file only what stands between the markers counts. The text outside is the course's own.
//!
//! So a signature cannot be changed, no attribute or module can be added to a file, and what one student wrote outside the markers cannot
//! break another exercise. That it was changed is told, since `tito export` wants it unchanged as well.

use std::collections::{BTreeMap, BTreeSet};

use tito::markers::Marked;

use crate::intake::Taken;
use crate::model::{CompileError, Finding, Replaced};
use crate::policy::{Part, calls_kernels, look};
use crate::rooms::Rooms;

/// What is said of a file with other text than the course's around the holes.
pub const CHANGED_OUTSIDE: &str = "was changed outside the markers";

/// The course's stubs: file to text.
pub type Stubs = BTreeMap<String, String>;

/// One hole of a submission that will be compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filled {
    /// `quantize.rs`.
    pub file: String,
    /// `15.3`.
    pub tag: String,
    /// The student's text.
    pub body: String,
    /// The line of the student's file on which the marker stands.
    pub line: usize,
}

/// What a submission brings to be compiled, and what was noticed on the way.
#[derive(Clone, Debug, Default)]
pub struct Graft {
    /// The holes that are filled.
    pub filled: Vec<Filled>,
    /// What the stub stands in for.
    pub replaced: Vec<Replaced>,
    /// What the source policy noticed.
    pub findings: Vec<Finding>,
    /// Text that is no Rust.
    pub errors: Vec<CompileError>,
    /// Sentences for the student.
    pub reasons: Vec<String>,
    /// True if text outside the markers differs from the course's.
    pub is_changed_outside: bool,
}

/// How strictly holes are looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules<'a> {
    /// Words that the module may use.
    pub grants: &'a [String],
    /// What exercises may name of the course; without it, everything.
    pub rooms: Option<&'a Rooms>,
    /// A hole that calls the library's finished kernels is left to the stub.
    pub refuses_kernels: bool,
}

/// Takes the bodies of the holes out of the files handed in.
pub fn graft(stubs: &Stubs, taken: &Taken, rules: Rules<'_>) -> Graft {
    let mut graft = Graft::default();
    for (file, stub) in stubs {
        match taken.get(file) {
            Some(text) => one(file, stub, text, rules, &mut graft),
            None => {
                graft.reasons.push(format!(
                    "{file} was not handed in; its exercises earn nothing"
                ));
                graft.replaced.push(Replaced {
                    file: file.clone(),
                    hole: None,
                    why: "not handed in".into(),
                });
            }
        }
    }
    graft
}

fn one(file: &str, stub: &str, text: &str, rules: Rules<'_>, graft: &mut Graft) {
    // What some editors put at the beginning and at the ends of lines is nobody's change.
    let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
    let Ok(own) = Marked::parse(stub) else {
        return;
    };
    let theirs = match Marked::parse(&text) {
        Ok(marked) => marked,
        Err(error) => {
            graft.reasons.push(format!(
                "{file}, {error}; without the markers nobody knows what is yours, so the course's stub stands in"
            ));
            graft.replaced.push(Replaced {
                file: file.to_owned(),
                hole: None,
                why: error.to_string(),
            });
            return;
        }
    };
    if own.outside() != theirs.outside() {
        graft.is_changed_outside = true;
        let line = first_difference(&own.outside(), &theirs.outside());
        graft.reasons.push(format!(
            "{file} {CHANGED_OUTSIDE}{line}; it was graded with the course's own text there"
        ));
    }
    for hole in own.holes() {
        let replaced = |why: &str| Replaced {
            file: file.to_owned(),
            hole: Some(hole.tag.to_owned()),
            why: why.to_owned(),
        };
        let Some(found) = theirs.hole(hole.tag) else {
            graft
                .reasons
                .push(format!("{file} has lost the markers of {}", hole.tag));
            graft.replaced.push(replaced("its markers are gone"));
            continue;
        };
        let body = theirs.body(found);
        let part = Part {
            file,
            line: found.line() + 1,
            text: &body,
        };
        match look(&part, rules.grants) {
            Ok(findings) => {
                graft.findings.extend(findings);
                let rooms = rules.rooms.map(|rooms| rooms.look(&part));
                graft.findings.extend(rooms.into_iter().flatten());
                let refused = rules
                    .refuses_kernels
                    .then(|| calls_kernels(&part, rules.grants));
                if let Some(why) = refused.flatten() {
                    graft.replaced.push(replaced(why));
                    continue;
                }
                graft.filled.push(Filled {
                    file: file.to_owned(),
                    tag: hole.tag.to_owned(),
                    body,
                    line: found.line(),
                });
            }
            Err((line, column)) => {
                graft.errors.push(CompileError {
                    code: None,
                    message: format!("a bracket, string or comment does not end where it should (column {column})"),
                    file: Some(file.to_owned()),
                    line: Some(line),
                });
                graft
                    .replaced
                    .push(replaced("it is no whole piece of Rust"));
            }
        }
    }
}

fn first_difference(own: &str, theirs: &str) -> String {
    let mut pairs = own.lines().zip(theirs.lines()).enumerate();
    match pairs.find(|(_, (own, theirs))| own != theirs) {
        Some((_, (own, _))) => format!(" (first near `{}`)", crate::clean::line(own, 60)),
        None => String::new(),
    }
}

/// A file ready to be compiled, and the lines on which its holes lie.
#[derive(Clone, Debug)]
pub struct Assembled {
    /// `quantize.rs`.
    pub file: String,
    /// The text.
    pub text: String,
    /// Tag, line of the BEGIN marker, line of the END marker.
    pub holes: Vec<(String, usize, usize)>,
}

impl Assembled {
    /// A file with all its holes filled.
    pub fn new(file: &str, text: String) -> Assembled {
        let mut holes = Vec::new();
        // A body may hold text that looks like a marker's, so the lines are counted, not searched for again.
        if let Ok(marked) = Marked::parse(&text) {
            let lines = text.lines().count();
            for hole in marked.holes() {
                let begin = hole.line();
                let end = begin + marked.body(hole).lines().count() + 1;
                holes.push((hole.tag.to_owned(), begin, end.min(lines)));
            }
        }
        Assembled {
            file: file.to_owned(),
            text,
            holes,
        }
    }

    /// The hole in whose body a line lies: its tag, and the line of its BEGIN marker.
    pub fn hole_at(&self, line: usize) -> Option<(&str, usize)> {
        let mut holes = self.holes.iter();
        let (tag, begin, _) = holes.find(|(_, begin, end)| line > *begin && line < *end)?;
        Some((tag, *begin))
    }
}

/// The course's files with the bodies of the submission, but for the holes in `without`.
pub fn assemble(stubs: &Stubs, filled: &[Filled], without: &BTreeSet<String>) -> Vec<Assembled> {
    stubs
        .iter()
        .map(|(file, stub)| {
            let text = match Marked::parse(stub) {
                Ok(marked) => marked.with_bodies(|hole| {
                    filled
                        .iter()
                        .find(|one| one.tag == hole.tag && !without.contains(&one.tag))
                        .map(|one| one.body.clone())
                }),
                Err(_) => stub.clone(),
            };
            Assembled::new(file, text)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STUB: &str = "fn a() {\n    // BEGIN SOLUTION 1.1\n    todo!(\"exercise 1.1\")\n    // END SOLUTION\n}\nfn b() {\n    // BEGIN SOLUTION 1.2\n    todo!(\"exercise 1.2\")\n    // END SOLUTION\n}\n";

    fn stubs() -> Stubs {
        Stubs::from([("a.rs".to_owned(), STUB.to_owned())])
    }

    fn handed_in(text: &str) -> Graft {
        let taken = Taken::from([("a.rs".to_owned(), text.to_owned())]);
        graft(&stubs(), &taken, Rules::default())
    }

    #[test]
    fn only_what_is_between_the_markers_is_taken() {
        let text = STUB
            .replace("todo!(\"exercise 1.1\")", "1\n    + 1")
            .replace("fn b", "#[path = \"x\"] mod x;\nfn b");
        let graft = handed_in(&text);
        assert!(graft.is_changed_outside && graft.findings.is_empty());
        let assembled = assemble(&stubs(), &graft.filled, &BTreeSet::new());
        assert_eq!(
            assembled[0].text,
            STUB.replace("todo!(\"exercise 1.1\")", "1\n    + 1")
        );
        assert_eq!(assembled[0].holes[0], ("1.1".to_owned(), 2, 5));
        assert_eq!(graft.filled[1].line, 9);
    }

    #[test]
    fn a_comment_cannot_reach_from_one_hole_to_the_next() {
        let text = STUB
            .replace("todo!(\"exercise 1.1\")", "/*")
            .replace("todo!(\"exercise 1.2\")", "*/");
        let graft = handed_in(&text);
        // The end alone is two operators, which the compiler will not take; the beginning alone is no token.
        assert_eq!(graft.filled.len(), 1);
        assert_eq!(
            (graft.filled[0].tag.as_str(), graft.errors.len()),
            ("1.2", 1)
        );
        assert_eq!(graft.errors[0].line, Some(3));
    }

    #[test]
    fn a_function_cannot_be_closed_early() {
        let graft = handed_in(&STUB.replace("todo!(\"exercise 1.1\")", "} fn evil() {"));
        assert_eq!(graft.filled.len(), 1);
    }

    /// By itself it is only marked for a look.
    #[test]
    fn a_hole_that_calls_a_finished_kernel_is_the_stub_if_the_instructor_says_so() {
        let text = STUB.replace("todo!(\"exercise 1.1\")", "crate::kernels::quantize(x)");
        let taken = Taken::from([("a.rs".to_owned(), text)]);
        let by_itself = graft(&stubs(), &taken, Rules::default());
        assert_eq!((by_itself.filled.len(), by_itself.replaced.len()), (2, 0));
        let strict = Rules {
            refuses_kernels: true,
            ..Rules::default()
        };
        let strict = graft(&stubs(), &taken, strict);
        assert_eq!(
            (strict.filled.len(), strict.filled[0].tag.as_str()),
            (1, "1.2")
        );
        assert_eq!(strict.replaced[0].hole.as_deref(), Some("1.1"));
        assert!(strict.replaced[0].why.contains("finished kernels"));
        // In both cases the place is told.
        assert!(by_itself.findings[0].needs_human && strict.findings[0].needs_human);
    }

    #[test]
    fn lost_markers_and_missing_files_have_their_reasons() {
        let graft = handed_in(&STUB.replacen("// END SOLUTION", "", 1));
        assert!(graft.filled.is_empty() && graft.reasons[0].contains("a.rs"));
        let none = super::graft(&stubs(), &Taken::new(), Rules::default());
        assert!(none.reasons[0].contains("not handed in"));
    }

    #[test]
    fn a_file_of_another_editor_is_the_same_file() {
        let windows = format!("\u{feff}{}", STUB.replace('\n', "\r\n"));
        assert!(!handed_in(&windows).is_changed_outside);
    }

    #[test]
    fn a_hole_can_be_left_out() {
        let graft = handed_in(&STUB.replace("todo!(\"exercise 1.1\")", "1"));
        let without = BTreeSet::from(["1.1".to_owned()]);
        assert_eq!(assemble(&stubs(), &graft.filled, &without)[0].text, STUB);
    }
}
