//! Which errors of a submission's holes, compiled against the library, are errors of the whole crate as well: for these it need not be compiled.
//!
//! The library has every name of the course and shows more of it than the course does, so a mistake about types, names or borrows that lies in a body
//! and points to nothing outside is one in both. What one crate may not do with another's types is none: implementing something for them, say.

use super::Diagnostic;
use crate::graft::Assembled;

/// Errors about types, values, borrows and names, which know nothing of crates.
const SAME: [&str; 47] = [
    "E0023", "E0026", "E0027", "E0040", "E0054", "E0060", "E0061", "E0063", "E0067", "E0069",
    "E0070", "E0106", "E0107", "E0267", "E0268", "E0277", "E0282", "E0283", "E0308", "E0368",
    "E0369", "E0381", "E0382", "E0384", "E0412", "E0425", "E0499", "E0502", "E0505", "E0506",
    "E0507", "E0515", "E0559", "E0560", "E0594", "E0596", "E0597", "E0599", "E0600", "E0604",
    "E0605", "E0606", "E0608", "E0609", "E0614", "E0618", "E0716",
];

/// Words of bodies in which names or methods may mean others where more is public: a trait of their own beside a method that was private, a
/// glob that brings a function that was.
const RESOLVED_ANEW: [&str; 3] = ["trait ", "impl ", "::*"];

/// Whether all these errors, found in the holes of these files of `folder`, would be found in the whole crate, with the same message and line.
pub fn are_certain(found: &[Diagnostic], folder: &str, files: &[Assembled]) -> bool {
    let means_the_same = |line: &str| !RESOLVED_ANEW.iter().any(|word| line.contains(word));
    !found.is_empty()
        && found.iter().all(|error| is_certain(error, folder, files))
        && files.iter().flat_map(bodies).all(means_the_same)
}

/// The lines of all holes of a file.
fn bodies(file: &Assembled) -> impl Iterator<Item = &str> {
    let hole = |&(_, begin, end): &(String, usize, usize)| {
        file.text
            .lines()
            .skip(begin)
            .take(end.saturating_sub(begin + 1))
    };
    file.holes.iter().flat_map(hole)
}

fn is_certain(error: &Diagnostic, folder: &str, files: &[Assembled]) -> bool {
    let is_known = match &error.code {
        Some(code) => SAME.contains(&code.code.as_str()),
        // The parser's errors have no code. Others without one may: a file that is not found, a field that nobody may name.
        None => ["expected ", "unexpected "]
            .iter()
            .any(|begin| error.message.starts_with(begin)),
    };
    // The names that the two crates have.
    let is_of_the_cut = ["subject", "holes", "own_", "HOLE_", "Like_"]
        .iter()
        .any(|name| error.message.contains(name));
    is_known
        && !is_of_the_cut
        && error.spans.iter().any(|span| span.is_primary)
        && all(error).all(|span| is_inside(&span.file_name, span.line_start, folder, files))
}

/// All places that an error points to.
fn all(error: &Diagnostic) -> Box<dyn Iterator<Item = &super::rustc::Span> + '_> {
    let of_children = error.children.iter().flat_map(all);
    Box::new(error.spans.iter().chain(of_children))
}

/// Whether a line lies in a hole.
fn is_inside(path: &str, line: usize, folder: &str, files: &[Assembled]) -> bool {
    let file = path
        .strip_prefix(folder)
        .and_then(|rest| rest.strip_prefix('/'));
    let own = files.iter().find(|own| Some(own.file.as_str()) == file);
    own.is_some_and(|own| own.hole_at(line).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str =
        "fn a() -> u8 {\n    // BEGIN SOLUTION 1.1\n    \"no\"\n    // END SOLUTION\n}\n";

    fn is(json: &str) -> bool {
        let files = [Assembled::new("a.rs", FILE.to_owned())];
        let found: Diagnostic = serde_json::from_str(json).expect("a message");
        are_certain(&[found], "modules/01", &files)
    }

    fn error(code: &str, message: &str, path: &str, line: usize) -> String {
        let span = format!(r#"{{"file_name":"{path}","line_start":{line},"is_primary":true}}"#);
        format!(
            r#"{{"level":"error","message":"{message}","code":{code},"spans":[{span}],"children":[],"rendered":null}}"#
        )
    }

    #[test]
    fn a_mistake_in_a_hole_is_one_everywhere() {
        let types = r#"{"code":"E0308"}"#;
        assert!(is(&error(types, "mismatched types", "modules/01/a.rs", 3)));
        assert!(is(&error(
            "null",
            "expected one of `;`",
            "modules/01/a.rs",
            3
        )));
    }

    #[test]
    fn what_the_cut_may_have_caused_is_looked_at_again() {
        let types = r#"{"code":"E0308"}"#;
        for (code, message, path, line) in [
            // Implementing something for a type of the course.
            (r#"{"code":"E0116"}"#, "inherent impl", "modules/01/a.rs", 3),
            (r#"{"code":"E0117"}"#, "only traits", "modules/01/a.rs", 3),
            ("null", "cannot find macro `x`", "modules/01/a.rs", 3),
            ("null", "couldn't read `b.rs`", "modules/01/a.rs", 3),
            // In other words than the course's.
            (types, "expected `subject::A`", "modules/01/a.rs", 3),
            // The marker, the line after the hole, another file, a file of the library.
            (types, "mismatched types", "modules/01/a.rs", 2),
            (types, "mismatched types", "modules/01/a.rs", 5),
            (types, "mismatched types", "modules/01/b.rs", 3),
            (types, "mismatched types", "a.rs", 3),
        ] {
            let error = error(code, message, path, line);
            assert!(!is(&error), "{error}");
        }
        let nowhere = error(types, "mismatched types", "modules/01/a.rs", 3);
        assert!(!is(
            &nowhere.replace("\"is_primary\":true", "\"is_primary\":false")
        ));
        let child = error("null", "defined here", "crates/x.rs", 3);
        let parent = error(types, "mismatched types", "modules/01/a.rs", 3);
        assert!(!is(
            &parent.replace("\"children\":[]", &format!("\"children\":[{child}]"))
        ));
        assert!(!are_certain(&[], "modules/01", &[]));
        // A method of the student's own trait, where the library has one of the same name that the course keeps private.
        for body in ["impl Own for A {}", "trait Own {}", "use crate::b::*;"] {
            let file = Assembled::new("a.rs", FILE.replace("\"no\"", &format!("{body}\n3")));
            let found = serde_json::from_str(&parent).expect("a message");
            assert!(!are_certain(&[found], "modules/01", &[file]), "{body}");
        }
    }
}
