//! L1, second half: which rooms of the course a hole may name. The library is given but for its exercises, and some of its rooms compute, for their own
//! ends, what an exercise asks for; who calls these has solved nothing. Advice as in [`crate::policy`]: the place is told, no points are lost.
//!
//! The rule needs no list. A hole may name, by `crate::` or `super::`,
//!
//! ```text
//! the rooms that its own file brings in outside the holes     what the exercise is meant to be built on
//! the exercise files before it in the lesson, and its own     the student's own work
//! error, scheme                                               the words everybody speaks in
//! ```
//!
//! and what the crate's root exports of these. Whatever hides which room is meant (a glob, a new name for the crate, a macro's argument) is told as well.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Delimiter, Ident, Span, TokenStream, TokenTree};

use crate::graft::Stubs;
use crate::model::Finding;
use crate::policy::Part;

/// Rooms that hold types and errors, nothing that computes.
const WORDS: [&str; 2] = ["error", "scheme"];

/// Told by [`crate::policy`] already, with a reason of its own.
const KERNELS: &str = "kernels";

const GIVEN: &str = "this part of the course is finished and not what the exercise builds on; it is written with what its own file brings in and with the exercises before it";

/// What every exercise file may name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rooms {
    /// Exercise file to the rooms it may name.
    allowed: BTreeMap<String, BTreeSet<String>>,
    /// What the root exports, to the room it is from.
    exports: BTreeMap<String, String>,
}

impl Rooms {
    /// Of the exercise files in the order of the lesson, their stubs, and the crate's root.
    pub fn new(files: &[String], stubs: &Stubs, root: &str) -> Rooms {
        let mut rooms = Rooms {
            exports: exports(root),
            ..Rooms::default()
        };
        let mut before: BTreeSet<String> = WORDS.map(str::to_owned).into();
        for file in files {
            before.insert(file.trim_end_matches(".rs").to_owned());
            let mut own = before.clone();
            let stub = stubs.get(file).map_or("", String::as_str);
            let named = named(stub).unwrap_or_default();
            own.extend(named.into_iter().map(|(name, _)| rooms.room(&name)));
            rooms.allowed.insert(file.clone(), own);
        }
        rooms
    }

    /// The room of a name at the root: its own, or the one it is exported from.
    fn room(&self, name: &str) -> String {
        self.exports
            .get(name)
            .map_or_else(|| name.to_owned(), String::clone)
    }

    /// What a hole names that is not for it. What is no Rust is told elsewhere.
    pub fn look(&self, part: &Part<'_>) -> Vec<Finding> {
        let Some(allowed) = self.allowed.get(part.file) else {
            return Vec::new();
        };
        let named = named(part.text).unwrap_or_default().into_iter();
        let strange = named.filter(|(name, _)| {
            name != KERNELS && !allowed.contains(name) && !allowed.contains(&self.room(name))
        });
        let finding = |(name, span): (String, Span)| {
            let start = span.start();
            Finding {
                file: part.file.to_owned(),
                line: part.line + start.line.saturating_sub(1),
                column: start.column + 1,
                word: match name.as_str() {
                    HIDDEN => "crate".to_owned(),
                    name => format!("crate::{name}"),
                },
                message: GIVEN.to_owned(),
                needs_human: true,
            }
        };
        let mut found: Vec<Finding> = strange.map(finding).collect();
        found.sort_by_key(|finding| (finding.line, finding.column));
        found.truncate(20);
        found
    }
}

/// Stands for a name that is not to be seen.
const HIDDEN: &str = "?";

/// What `pub use room::{...}` of the root brings out, to the room.
fn exports(root: &str) -> BTreeMap<String, String> {
    let mut exports = BTreeMap::new();
    let Ok(stream) = root.parse::<TokenStream>() else {
        return exports;
    };
    let tokens: Vec<TokenTree> = stream.into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        let (true, Some(room)) = (is_word(token, "use"), ident(tokens.get(at + 1))) else {
            continue;
        };
        let rest = tokens.iter().skip(at + 2);
        let rest = rest.take_while(|token| !is_punct(Some(token), ';'));
        let mut waiting: Vec<TokenTree> = rest.cloned().collect();
        while let Some(token) = waiting.pop() {
            match token {
                TokenTree::Ident(name) => {
                    exports.insert(name.to_string(), room.to_string());
                }
                TokenTree::Group(group) => waiting.extend(group.stream()),
                _ => {}
            }
        }
    }
    exports
}

/// The first names behind `crate::` and `super::`, with their places; nothing for what is no Rust.
fn named(text: &str) -> Option<Vec<(String, Span)>> {
    let mut found = Vec::new();
    // A stack of our own: a submission may nest its brackets as deep as it likes.
    let mut waiting = vec![text.parse::<TokenStream>().ok()?];
    while let Some(stream) = waiting.pop() {
        let tokens: Vec<TokenTree> = stream.into_iter().collect();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            at += 1;
            match token {
                // `pub(crate)` names no room.
                TokenTree::Ident(word) if word == "pub" => {
                    let is_scope = |token: &TokenTree| matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Parenthesis);
                    at += usize::from(tokens.get(at).is_some_and(is_scope));
                }
                TokenTree::Ident(word) if is_root(word) => {
                    while is_path(&tokens, at) && ident(tokens.get(at + 2)).is_some_and(is_root) {
                        at += 3;
                    }
                    if is_path(&tokens, at) {
                        behind(tokens.get(at + 2), word.span(), &mut found);
                    } else {
                        found.push((HIDDEN.to_owned(), word.span()));
                    }
                }
                TokenTree::Group(group) => waiting.push(group.stream()),
                _ => {}
            }
        }
    }
    Some(found)
}

/// What stands behind `crate::`: a name, or names in braces.
fn behind(token: Option<&TokenTree>, root: Span, found: &mut Vec<(String, Span)>) {
    let mut waiting: Vec<TokenTree> = token.cloned().into_iter().collect();
    if waiting.is_empty() {
        found.push((HIDDEN.to_owned(), root));
    }
    while let Some(token) = waiting.pop() {
        match token {
            TokenTree::Ident(name) if !is_root(&name) && name != "self" => {
                let text = name.to_string();
                let text = text.trim_start_matches("r#").to_owned();
                found.push((text, name.span()));
            }
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
                let items = tokens.split(|token| is_punct(Some(token), ','));
                waiting.extend(items.filter_map(|item| item.first().cloned()));
            }
            other => found.push((HIDDEN.to_owned(), other.span())),
        }
    }
}

fn is_root(word: &Ident) -> bool {
    word == "crate" || word == "super"
}

fn ident(token: Option<&TokenTree>) -> Option<&Ident> {
    match token {
        Some(TokenTree::Ident(ident)) => Some(ident),
        _ => None,
    }
}

fn is_word(token: &TokenTree, word: &str) -> bool {
    ident(Some(token)).is_some_and(|ident| ident == word)
}

fn is_punct(token: Option<&TokenTree>, char: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == char)
}

fn is_path(tokens: &[TokenTree], at: usize) -> bool {
    is_punct(tokens.get(at), ':') && is_punct(tokens.get(at + 1), ':')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rooms() -> Rooms {
        let stubs = Stubs::from([
            ("a.rs".to_owned(), "use crate::finite::check;".to_owned()),
            ("b.rs".to_owned(), String::new()),
        ]);
        let root = "pub mod a; pub use a::{A, first}; pub use dialect::{Dialect, give};";
        Rooms::new(&["a.rs".to_owned(), "b.rs".to_owned()], &stubs, root)
    }

    fn words(file: &str, text: &str) -> Vec<String> {
        let part = Part {
            file,
            line: 1,
            text,
        };
        let found = rooms().look(&part);
        found.into_iter().map(|finding| finding.word).collect()
    }

    #[test]
    fn what_an_exercise_builds_on_is_no_finding() {
        for text in [
            "crate::finite::check(x)",
            "crate::scheme::QParams { scale }",
            "use crate::error::{Error, Result};",
            "crate::a::second(crate::first(x))",
            "pub(crate) fn help() {}",
            "let dialect = 1; dialect.step()",
            "// crate::dialect\n\"crate::dialect\"",
        ] {
            assert_eq!(words("a.rs", text), Vec::<String>::new(), "{text}");
        }
        assert_eq!(words("b.rs", "crate::A::new()"), Vec::<String>::new());
    }

    /// Given code that computes what an exercise asks for earned its points unseen.
    #[test]
    fn a_given_room_is_noticed_however_it_is_named() {
        for (text, wanted) in [
            ("crate::dialect::choose(x)", "crate::dialect"),
            ("super::dialect::choose(x)", "crate::dialect"),
            ("super::super::dialect::choose(x)", "crate::dialect"),
            ("self::super::r#dialect::choose(x)", "crate::dialect"),
            ("crate::give(x)", "crate::give"),
            (
                "use crate::{scheme::QParams, {dialect as d}};",
                "crate::dialect",
            ),
            (
                "macro_rules! m { () => { $crate::flow::run() } }",
                "crate::flow",
            ),
            ("use crate::*;", "crate"),
            ("use crate as c; c::flow::run()", "crate"),
            ("use crate::{self as c};", "crate"),
            (
                "macro_rules! m { ($r:ident) => { crate::$r::run() } }",
                "crate",
            ),
            ("m!(crate flow)", "crate"),
            ("crate::finite::check(m!(crate::step::x))", "crate::step"),
        ] {
            assert_eq!(words("a.rs", text), [wanted], "{text}");
        }
        // An exercise that comes later, and a room that another file brings in.
        assert_eq!(words("a.rs", "crate::b::x()"), ["crate::b"]);
        assert_eq!(words("b.rs", "crate::finite::check(x)"), ["crate::finite"]);
    }

    #[test]
    fn the_place_is_that_of_the_file() {
        let part = Part {
            file: "a.rs",
            line: 10,
            text: "let x = 1;\n    crate::flow::run(x)",
        };
        let found = &rooms().look(&part)[0];
        assert_eq!((found.line, found.column), (11, 12));
        assert!(found.needs_human);
    }
}
