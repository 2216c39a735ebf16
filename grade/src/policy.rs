//! L1: words that have no place in an exercise are noticed, with the place and the reason. Advice, not a wall: no points are lost by it.
//!
//! Decided on tokens, since macro bodies are nothing but tokens: `use std::include_str as innocent` and a name put together in
//! `macro_rules!` are seen as well. A name may be innocent (a variable called `link`), so most words count only where they can do
//! something: before `!`, in an attribute, or in a path that begins at `std`, `core` or `alloc`. A module that needs one of them says so in
//! its manifest: `grants = ["fs", "thread"]`.

use proc_macro2::{Delimiter, Ident, Span, TokenStream, TokenTree};

use crate::model::Finding;

/// Where a word counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Where {
    /// Anywhere.
    Anywhere,
    /// Anywhere but as the name of a variable or field: macros can be renamed and passed on.
    Macro,
    /// In an attribute.
    Attribute,
    /// In a path or `use` of the standard library.
    Path,
}

/// Word, where it counts, whether staff should look, and what to tell the student.
const WORDS: &[(&str, Where, bool, &str)] = &[
    (
        "unsafe",
        Where::Anywhere,
        true,
        "exercises are solved in safe Rust: an index or an iterator does it",
    ),
    ("include", Where::Macro, true, READS),
    // These are nobody's names of variables: also as a word that is passed to a macro.
    ("include_str", Where::Anywhere, true, READS),
    ("include_bytes", Where::Anywhere, true, READS),
    ("env", Where::Macro, true, ENVIRONMENT),
    ("option_env", Where::Anywhere, true, ENVIRONMENT),
    ("asm", Where::Anywhere, true, MACHINE),
    ("global_asm", Where::Anywhere, true, MACHINE),
    ("naked_asm", Where::Anywhere, true, MACHINE),
    ("naked", Where::Attribute, true, MACHINE),
    ("no_mangle", Where::Attribute, true, LINKER),
    ("export_name", Where::Attribute, true, LINKER),
    ("link", Where::Attribute, true, LINKER),
    ("link_section", Where::Attribute, true, LINKER),
    ("link_name", Where::Attribute, true, LINKER),
    ("proc_macro", Where::Attribute, true, LINKER),
    (
        "macro_export",
        Where::Attribute,
        true,
        "a macro of an exercise stays in its file",
    ),
    (
        "path",
        Where::Attribute,
        true,
        "an exercise consists of its own file; a module cannot be taken from elsewhere",
    ),
    (
        "long_running_const_eval",
        Where::Attribute,
        true,
        "what takes long is computed at run time, not while compiling",
    ),
    (
        "unsafe_code",
        Where::Attribute,
        true,
        "exercises are solved in safe Rust",
    ),
    (
        "recursion_limit",
        Where::Attribute,
        true,
        "no exercise needs a higher limit",
    ),
    (
        "process",
        Where::Path,
        true,
        "a function returns its result or an error; it starts and ends no programs",
    ),
    ("net", Where::Path, true, "no exercise needs the network"),
    (
        "os",
        Where::Path,
        true,
        "no exercise needs the operating system",
    ),
    (
        "fs",
        Where::Path,
        true,
        "no exercise reads or writes files: its input is its arguments",
    ),
    ("env", Where::Path, true, ENVIRONMENT),
    ("set_hook", Where::Anywhere, true, HOOK),
    ("take_hook", Where::Anywhere, true, HOOK),
    ("update_hook", Where::Anywhere, true, HOOK),
    ("kernels", Where::Anywhere, true, FINISHED),
    ("tinytorch_kernels", Where::Anywhere, true, FINISHED),
    (
        "catch_unwind",
        Where::Anywhere,
        false,
        "bad input is answered with an error where it is noticed, not with a caught panic",
    ),
    (
        "thread",
        Where::Path,
        false,
        "threads make nothing clearer here; correct first",
    ),
    (
        "thread_local",
        Where::Macro,
        false,
        "the answer depends on the arguments alone",
    ),
];

const READS: &str = "an exercise is solved by code, not by the contents of another file; where it is graded that file does not exist";
const ENVIRONMENT: &str =
    "the answer depends on the arguments alone; where it is graded the environment is empty";
const MACHINE: &str = "exercises are solved in safe, portable Rust";
const LINKER: &str = "nothing here is for the linker";
const FINISHED: &str = "the library's finished kernels compute this already; the exercise is to write it, not to call it";
const HOOK: &str = "panics are reported by the course; return an error instead";

/// A part of a file to look at.
pub struct Part<'a> {
    /// `quantize.rs`.
    pub file: &'a str,
    /// The line (from 1) of the file in which the part begins.
    pub line: usize,
    /// Its text.
    pub text: &'a str,
}

/// What is noticed in a part of a file.
///
/// # Errors
///
/// Line and column of what is no Rust: a bracket without its partner, a string that does not end.
pub fn look(part: &Part<'_>, grants: &[String]) -> Result<Vec<Finding>, (usize, usize)> {
    let mut found = Vec::new();
    words(part, &mut |ident, context, position| {
        let word = ident.to_string();
        let word = word.trim_start_matches("r#");
        let hit = WORDS.iter().find(|(known, place, _, _)| {
            *known == word
                && !grants.iter().any(|grant| grant == word)
                && match place {
                    Where::Anywhere => true,
                    Where::Macro => position.is_call || context.in_std || context.in_use,
                    Where::Attribute => context.in_attribute,
                    Where::Path => context.in_std,
                }
        });
        if let Some((_, _, needs_human, message)) = hit {
            found.push(finding(part, word, ident.span(), message, *needs_human));
        }
    })?;
    found.sort_by_key(|finding| (finding.line, finding.column));
    found.truncate(50);
    Ok(found)
}

/// Why a hole is not graded where an instructor wants exercises written, not called: it names the library's finished kernels in a path. A variable of that
/// name is none, and what passes the word to a macro is left to a person's eye.
pub fn calls_kernels(part: &Part<'_>, grants: &[String]) -> Option<&'static str> {
    let mut is_found = false;
    let known = words(part, &mut |ident, context, position| {
        let word = ident.to_string();
        let word = word.trim_start_matches("r#");
        let is_kernels = WORDS
            .iter()
            .any(|(known, _, _, message)| *known == word && *message == FINISHED);
        let is_granted = grants.iter().any(|grant| grant == word);
        is_found |= is_kernels && !is_granted && (position.is_in_path || context.in_use);
    });
    (known.is_ok() && is_found).then_some(FINISHED)
}

/// Shows every word of a part.
fn words(
    part: &Part<'_>,
    see: &mut impl FnMut(&Ident, Context, Position),
) -> Result<(), (usize, usize)> {
    let stream: TokenStream = part.text.parse().map_err(|error: proc_macro2::LexError| {
        let start = error.span().start();
        (part.line + start.line.saturating_sub(1), start.column + 1)
    })?;
    // A stack of our own: a submission may nest its brackets as deep as it likes.
    let mut waiting = vec![(stream, Context::default())];
    while let Some((stream, context)) = waiting.pop() {
        let tokens: Vec<TokenTree> = stream.into_iter().collect();
        walk(&tokens, context, &mut waiting, see);
    }
    Ok(())
}

fn finding(part: &Part<'_>, word: &str, span: Span, message: &str, needs_human: bool) -> Finding {
    let start = span.start();
    Finding {
        file: part.file.to_owned(),
        line: part.line + start.line.saturating_sub(1),
        column: start.column + 1,
        word: word.to_owned(),
        message: message.to_owned(),
        needs_human,
    }
}

/// What stands beside a word.
#[derive(Clone, Copy)]
struct Position {
    /// A `!` behind it.
    is_call: bool,
    /// A `::` before or behind it.
    is_in_path: bool,
}

#[derive(Clone, Copy, Default)]
struct Context {
    in_attribute: bool,
    in_use: bool,
    in_std: bool,
}

/// Goes through the tokens of one group; groups inside are left for later.
fn walk(
    tokens: &[TokenTree],
    outer: Context,
    waiting: &mut Vec<(TokenStream, Context)>,
    see: &mut impl FnMut(&Ident, Context, Position),
) {
    let punct = |index: usize| match tokens.get(index) {
        Some(TokenTree::Punct(punct)) => Some(punct.as_char()),
        _ => None,
    };
    let mut context = outer;
    for (index, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Ident(ident) => {
                let word = ident.to_string();
                if word == "use" || word == "extern" {
                    context.in_use = true;
                }
                let begins_path =
                    index < 2 || punct(index - 1) != Some(':') || punct(index - 2) != Some(':');
                if matches!(word.as_str(), "std" | "core" | "alloc") {
                    context.in_std = true;
                } else if begins_path && !context.in_use && !outer.in_std {
                    context.in_std = false;
                }
                let is_path_end = |at: usize| punct(at) == Some(':') && punct(at + 1) == Some(':');
                let position = Position {
                    is_call: punct(index + 1) == Some('!'),
                    is_in_path: !begins_path || is_path_end(index + 1),
                };
                see(ident, context, position);
            }
            TokenTree::Punct(punct) if punct.as_char() == ';' => {
                context = outer;
            }
            TokenTree::Group(group) => {
                let is_attribute = group.delimiter() == Delimiter::Bracket
                    && index > 0
                    && (punct(index - 1) == Some('#')
                        || (index > 1
                            && punct(index - 1) == Some('!')
                            && punct(index - 2) == Some('#')));
                let mut inner = context;
                inner.in_attribute |= is_attribute;
                if group.delimiter() == Delimiter::Brace && !context.in_use {
                    inner.in_std = false;
                }
                if group.delimiter() == Delimiter::Parenthesis {
                    inner.in_std = false;
                }
                waiting.push((group.stream(), inner));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let part = Part {
            file: "q.rs",
            line: 10,
            text,
        };
        let found = look(&part, &[]).expect("tokens");
        found.into_iter().map(|finding| finding.word).collect()
    }

    #[test]
    fn a_word_is_found_with_its_place() {
        let part = Part {
            file: "q.rs",
            line: 10,
            text: "let x = 1;\n    let y = include_str!(\"/etc/passwd\");\n",
        };
        let found = look(&part, &[]).expect("tokens");
        assert_eq!((found[0].line, found[0].column), (11, 13));
        assert_eq!(found[0].word, "include_str");
    }

    #[test]
    fn renamed_quoted_and_hidden_in_macros() {
        assert_eq!(words("use std::include_str as innocent;"), ["include_str"]);
        assert_eq!(
            words("use std::{include_bytes as a, mem};"),
            ["include_bytes"]
        );
        assert_eq!(
            words("macro_rules! m { () => { include!(\"x\") } }"),
            ["include"]
        );
        assert_eq!(words("#[cfg_attr(all(), path = \"x\")] mod y;"), ["path"]);
        assert_eq!(words("std::process::exit(0)"), ["process"]);
        assert_eq!(words("use std::process;"), ["process"]);
        assert_eq!(words("m!(global_asm)"), ["global_asm"]);
        assert_eq!(words("call!(include_str, \"x\")"), ["include_str"]);
        assert_eq!(
            words("crate::kernels::dequantize(x)"),
            ["kernels"],
            "a finished kernel is no exercise solved"
        );
        assert_eq!(words("r#unsafe { }"), ["unsafe"]);
        assert_eq!(words("std::panic::set_hook(x)"), ["set_hook"]);
        assert_eq!(words("fn f() { ::std::fs::read(p) }"), ["fs"]);
        assert_eq!(
            words("#![allow(long_running_const_eval)]"),
            ["long_running_const_eval"]
        );
    }

    #[test]
    fn kernels_are_called_by_their_path() {
        let calls = |text: &str, grants: &[String]| {
            let part = Part {
                file: "q.rs",
                line: 1,
                text,
            };
            calls_kernels(&part, grants).is_some()
        };
        for text in [
            "crate::kernels::dequantize_i8_f32(x)",
            "use crate::{kernels as k, scheme};",
            "if x { use tinytorch_kernels; }",
            "{ super::r#kernels::gemm(a) }",
        ] {
            assert!(calls(text, &[]), "{text}");
            let granted = ["kernels", "tinytorch_kernels"].map(str::to_owned);
            assert!(!calls(text, &granted), "{text}");
        }
        for text in [
            "let kernels = 3; f(kernels)",
            "// crate::kernels::x",
            "\"kernels::x\"",
            "(",
        ] {
            assert!(!calls(text, &[]), "{text}");
        }
    }

    #[test]
    fn innocent_names_are_left_alone() {
        for text in [
            "let path = 3; let link = path; env(path);",
            "struct S { fs: f32, process: u8, include: bool } s.include",
            "values.iter().map(|value| value / scale).collect::<Vec<f32>>()",
            "let os = 1; std::cmp::max(os, 2)",
            "// unsafe\n\"unsafe include_str!\"",
            "std::iter::repeat(0).take(process)",
        ] {
            assert_eq!(words(text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn a_grant_of_the_manifest_is_respected() {
        let part = Part {
            file: "q.rs",
            line: 1,
            text: "std::fs::read(p)",
        };
        assert!(look(&part, &["fs".to_owned()]).expect("tokens").is_empty());
    }

    #[test]
    fn what_does_not_pair_is_told_with_its_place() {
        for text in ["1 }", "(", "/* never", "\"never"] {
            let part = Part {
                file: "q.rs",
                line: 5,
                text,
            };
            assert!(look(&part, &[]).is_err(), "{text}");
        }
    }
}
