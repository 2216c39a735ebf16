//! What a student is told whose file is gone, empty or not text, and that no document carries colours.

use crate::course::{Course, outcome};

const HALVES: &str = "modules/01_mini/halves.rs";
const SUMS: &str = "modules/01_mini/sums.rs";

#[test]
fn no_document_has_terminal_escapes() {
    let course = Course::new();
    let calls: [&[&str]; 16] = [
        &["status"],
        &["list"],
        &["start", "1"],
        &["start", "nope"],
        &["test", "nope"],
        &["test", "1"],
        &["test", "1", "nope"],
        &["tst", "1"],
        &["hint", "1"],
        &["lab", "1"],
        &["export", "1"],
        &["export", "1", "--restore"],
        &["reset", "1"],
        &["undo"],
        &["undo", "99"],
        &["submit", "1"],
    ];
    let check = |course: &Course, call: &[&str]| {
        for (variable, value) in [("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")] {
            let mut tito = course.tito(call);
            let (_, out, err) = outcome(tito.arg("--json").env(variable, value));
            assert!(!out.contains("\\u001b") && !out.contains('\u{1b}'), "{out}");
            let document = serde_json::from_str::<serde_json::Value>(&out);
            assert!(document.is_ok(), "{call:?}: {out}{err}");
        }
    };
    for call in calls {
        check(&course, call);
    }
    // Also where rustc's own coloured words are in it, a diff, and the advice about a lost file.
    let solved = Course::solved();
    solved.edit(SUMS, "pub fn mean(", "pub fn average(");
    check(&solved, &["export", "1"]);
    course.half("1i8");
    check(&course, &["test", "1"]);
    solved.edit(SUMS, "pub fn average(", "pub fn mean(");
    solved.edit(HALVES, "value / TWO", "value / 1i8");
    check(&solved, &["export", "1"]);
    solved.write(HALVES, "");
    check(&solved, &["status"]);
}

#[test]
fn an_emptied_file_is_named_with_the_hole_it_lost_and_the_way_back() {
    let course = Course::solved();
    let library = course.read("crates/mini/src/sums.rs");
    course.write(SUMS, "");
    for call in [vec!["test", "1"], vec!["status"], vec!["export", "1"]] {
        let (code, out, err) = course.run(&call);
        assert_eq!(code, 1, "{call:?}: {out}{err}");
        for words in [
            "modules/01_mini/sums.rs no longer holds the holes of 1.2a, 1.2b",
            "// BEGIN SOLUTION 1.2a",
            "tito reset 1 1.2\n",
            "tito undo",
        ] {
            assert!(err.contains(words), "{words}: {err}");
        }
    }
    // Just as advised: this file anew, the others as they are.
    let (code, out, err) = course.run(&["reset", "1", "1.2"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains(SUMS) && !out.contains(HALVES), "{out}");
    assert_eq!(course.read(SUMS), Course::new().read(SUMS));
    assert_eq!(course.read("crates/mini/src/sums.rs"), library);
    assert_eq!(course.run(&["test", "1", "1.1"]).0, 0);
}

#[test]
fn a_marker_that_is_gone_names_its_exercise() {
    let course = Course::solved();
    course.edit(HALVES, "    // BEGIN SOLUTION 1.1\n", "");
    course.edit(HALVES, "    // END SOLUTION\n", "");
    let (code, _, err) = course.run(&["test", "1"]);
    assert_eq!(code, 1);
    assert!(
        err.contains("modules/01_mini/halves.rs no longer holds the hole of 1.1"),
        "{err}"
    );
}

#[test]
fn a_deleted_file_and_one_that_is_not_text_are_the_students_to_repair() {
    let course = Course::solved();
    std::fs::remove_file(course.path(SUMS)).unwrap();
    let (code, _, err) = course.run(&["test", "1"]);
    assert_eq!(code, 1, "{err}");
    assert!(
        err.contains("modules/01_mini/sums.rs is gone")
            && err.contains("tito reset 1 1.2\n")
            && err.contains("tito undo"),
        "{err}"
    );
    assert_eq!(course.run(&["reset", "1", "1.2"]).0, 0);

    std::fs::write(course.path(HALVES), b"// good\n// caf\xe9\n").unwrap();
    let (code, _, err) = course.run(&["test", "1"]);
    assert_eq!(code, 1, "{err}");
    assert!(
        err.contains("modules/01_mini/halves.rs:2: not UTF-8 text, first at byte offset 14")
            && err.contains("tito reset 1 1.1\n"),
        "{err}"
    );
    assert_eq!(course.run(&["reset", "1", "1.1"]).0, 0);
    assert_eq!(course.read(HALVES), Course::new().read(HALVES));
}

#[test]
fn a_mistyped_command_is_answered_with_the_nearest_only() {
    let course = Course::new();
    let (code, _, err) = course.run(&["tst", "1"]);
    assert_eq!(code, 2);
    assert!(err.contains("'test'"), "{err}");
    assert!(!err.contains("'list'") && !err.contains("'start'"), "{err}");
}
