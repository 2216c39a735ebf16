//! `tito dev ...`: each thing that can be unsound is made so, and must be found.

use crate::course::Course;

#[test]
fn the_made_up_course_is_sound() {
    let course = Course::new();
    let (code, out, err) = course.run(&["dev", "check"]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(
        out.contains("6 of 6 caught by the check that names them"),
        "{out}"
    );
    let (code, value) = course.json(&["dev", "check"]);
    assert_eq!((code, value["sound"].as_bool()), (0, Some(true)));
    assert_eq!(value["kill_matrix"].as_array().unwrap().len(), 6);
}

#[test]
fn stubs_are_written_from_the_library_and_checked() {
    let course = Course::new();
    assert_eq!(course.run(&["dev", "stubs", "--check"]).0, 0);
    course.edit(
        "crates/mini/src/halves.rs",
        "Half of every value",
        "A half of every value",
    );
    course.edit(
        "crates/mini/src/lib.rs",
        "pub mod given;",
        "pub mod given;\npub mod more;",
    );
    course.write("crates/mini/src/more.rs", "//! More.\n");
    let (code, out, _) = course.run(&["dev", "stubs", "--check"]);
    assert_eq!(code, 1);
    assert!(out.contains("+/// A half of every value"), "{out}");
    assert_eq!(course.run(&["dev", "stubs"]).0, 0);
    assert_eq!(course.run(&["dev", "stubs", "--check"]).0, 0);
    let stub = course.read("modules/01_mini/halves.rs");
    assert!(
        stub.contains("    todo!(\"exercise 1.1\")\n    // END SOLUTION"),
        "{stub}"
    );
    let root = course.read("modules/01_mini/mini_dev.rs");
    assert!(
        root.contains("#[path = \"../../crates/mini/src/more.rs\"]\npub mod more;"),
        "{root}"
    );
    assert!(root.contains("\npub mod halves;"), "{root}");
}

#[test]
fn the_recorded_exam_is_what_the_reference_and_the_mistakes_answer() {
    let course = Course::new();
    assert_eq!(course.run(&["dev", "expect", "--check"]).0, 0);
    course.edit("crates/mini/src/extra.rs", "number * 2", "number * 3");
    let (code, out, _) = course.run(&["dev", "expect", "--check"]);
    assert!(
        code == 1 && out.contains("exam/01_mini/public.json is out of date"),
        "{out}"
    );
    assert_eq!(course.run(&["dev", "expect"]).0, 0);
    assert_eq!(course.run(&["dev", "expect", "--check"]).0, 0);
}

#[test]
fn everything_that_is_unsound_is_found() {
    let course = Course::new();
    let manifest = "modules/01_mini/module.toml";
    course.edit(manifest, "points = 40", "points = 41");
    course.edit(manifest, "item = \"half\"", "item = \"quarter\"");
    course.edit(manifest, "\"Closer to sums.\", ", "");
    course.edit("README.md", "cargo tito status", "cargo tito complete 01");
    // A stub that holds its solution.
    let solution = course.read("crates/mini/src/halves.rs");
    course.write("modules/01_mini/halves.rs", &solution);
    // A mistake that is none, and one that is missing.
    course.edit("exam/01_mini/wrong/whole-halves.toml", ".trunc()", "");
    std::fs::remove_file(course.path("exam/01_mini/wrong/wrapping-sum.toml")).unwrap();
    course.edit(
        "exam/01_mini/exam/hidden/mod.rs",
        "id: \"1.1/random\",\n            visibility: Visibility::Hidden,",
        "id: \"1.1/random\",",
    );
    // A reference that answers differently each time, and panics.
    course.edit(
        "crates/mini/src/extra.rs",
        "number * 2",
        "if number == 21 { panic!(\"no\") } else { number + std::process::id() as i32 }",
    );
    let (code, out, err) = course.run(&["dev", "check"]);
    assert_eq!(code, 1, "{err}");
    for words in [
        "the points sum to 101",
        "halves.rs has no `quarter`",
        "exercise 1.2 has 2 hints",
        "README.md:1: there is no `tito complete`",
        "modules/01_mini/halves.rs:7: hole 1.1 is not empty",
        "1.1/fractions passes on the stub",
        "whole-halves is not caught by 1.1/fractions",
        "ESCAPED",
        "1.2/overflow catches no wrong solution",
        "exercise 1.1 has no hidden check",
        "1.3/twice (seed 1): panicked",
        "1.3/hidden fails on the reference",
        "exam/01_mini/public.json is out of date",
    ] {
        assert!(out.contains(words), "{words}: {out}");
    }
    assert!(!out.contains("The course is sound."), "{out}");
}

#[test]
fn a_wrong_solution_that_does_not_compile_is_an_error() {
    let course = Course::new();
    course.edit(
        "exam/01_mini/wrong/square.toml",
        "number * number",
        "numer * number",
    );
    let (code, _, err) = course.run(&["dev", "check"]);
    assert_eq!(code, 3);
    assert!(
        err.contains("wrong-solutions does not compile") && err.contains("numer"),
        "{err}"
    );
}

#[test]
fn a_wrong_solution_that_never_ends_is_caught() {
    let course = Course::new();
    course.edit(
        "exam/01_mini/wrong/square.toml",
        "number * number",
        "if number > 0 { std::process::abort() } number",
    );
    assert_eq!(course.run(&["dev", "expect"]).0, 0);
    let (code, out, err) = course.run(&["dev", "check"]);
    assert_eq!(code, 0, "{out}{err}");
}
