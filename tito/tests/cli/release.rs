//! `tito release`: what a student gets, what never leaves the course, and how a later version arrives.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::course::{Course, FILES, outcome};

/// Path to content of every file below a folder.
fn tree(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(folder: &Path, prefix: &str, files: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            if entry.path().is_dir() {
                walk(&entry.path(), &format!("{path}/"), files);
            } else {
                files.insert(path, fs::read(entry.path()).unwrap());
            }
        }
    }
    let mut files = BTreeMap::new();
    walk(folder, "", &mut files);
    files
}

/// Runs `tito` in a folder below the course's.
fn run_in(course: &Course, folder: &str, arguments: &[&str]) -> (i32, String, String) {
    outcome(&mut course.tito_in(folder, arguments))
}

/// A course and a release of it in `student`.
fn released() -> Course {
    let course = Course::new();
    let (code, out, err) = course.run(&["release", "--out", "../student"]);
    assert_eq!(code, 0, "{out}{err}");
    course
}

/// The bodies of the library's holes, trimmed lines of at least 16 characters; found here by other means than the program's.
fn telling_lines(course: &Course) -> Vec<String> {
    let mut lines = Vec::new();
    for file in FILES {
        let text = course.read(&format!("crates/mini/src/{file}"));
        for part in text.split("// BEGIN SOLUTION").skip(1) {
            let body = part.split("// END SOLUTION").next().unwrap();
            let body = body.lines().skip(1).map(|line| line.trim().to_owned());
            lines.extend(body.filter(|line| line.replace(' ', "").len() >= 16));
        }
    }
    assert!(lines.len() >= 5, "{lines:?}");
    lines
}

#[test]
fn a_release_holds_no_solution_no_hidden_check_and_no_catalogue() {
    let course = released();
    let files = tree(&course.path("../student"));
    for line in telling_lines(&course) {
        for (path, content) in &files {
            assert!(
                !String::from_utf8_lossy(content).contains(&line),
                "{path}: {line}"
            );
        }
    }
    for (path, content) in &files {
        let text = String::from_utf8_lossy(content);
        for words in [
            "1.1/random",
            "1.2/hidden",
            "twice another number",
            "caught_by =",
            // Its title and what it answers were open in the record of the public exam.
            "the sum instead of the mean",
            "\"mistakes\"",
            "\"replies\"",
        ] {
            assert!(!text.contains(words), "{path}: {words}");
        }
        assert!(
            !path.contains("hidden") && !path.contains("wrong"),
            "{path}"
        );
    }
    let paths: Vec<&str> = files.keys().map(String::as_str).collect();
    for path in [
        ".github/workflows/course.yml",
        ".vscode/settings.json",
        "Cargo.lock",
        "README.md",
        "crates/mini/src/given.rs",
        "exam/01_mini/public.json",
        "exam/01_mini/runner.rs",
        "modules/01_mini/ABOUT.md",
        "modules/01_mini/QUESTIONS.md",
        "release.json",
    ] {
        assert!(paths.contains(&path), "{path} is missing: {paths:?}");
    }
    let workflow = String::from_utf8_lossy(&files[".github/workflows/course.yml"]);
    assert!(workflow.contains("cargo tito test 01_mini"), "{workflow}");
    for path in [
        ".vscode/settings.json",
        ".vscode/tasks.json",
        ".vscode/extensions.json",
    ] {
        serde_json::from_slice::<serde_json::Value>(&files[path]).unwrap();
    }
    let readme = String::from_utf8_lossy(&files["README.md"]);
    assert!(
        !readme.contains("{first}") && !readme.contains("{modules}"),
        "{readme}"
    );
}

/// The catalogue stays in the course, and its mistakes are named all the same.
#[test]
fn a_known_mistake_is_named_in_a_students_repository() {
    let course = released();
    assert!(
        course
            .read("../student/exam/01_mini/public.json")
            .contains("\"sealed\"")
    );
    for file in ["halves.rs", "sums.rs"] {
        let solution = course.read(&format!("crates/mini/src/{file}"));
        course.write(&format!("../student/modules/01_mini/{file}"), &solution);
    }
    let path = "../student/modules/01_mini/sums.rs";
    let right = course.read(path);
    let (begin, rest) = right.split_once("// BEGIN SOLUTION 1.2b\n").unwrap();
    let (_, end) = rest.split_once("        // END SOLUTION").unwrap();
    let body = "        self.sum(values).ok().map(|sum| sum as f32)\n";
    let wrong = format!("{begin}// BEGIN SOLUTION 1.2b\n{body}        // END SOLUTION{end}");
    course.write(path, &wrong);
    let (_, out, err) = run_in(&course, "../student", &["test", "01"]);
    assert!(
        out.contains("your values are those of the sum instead of the mean"),
        "{out}{err}"
    );
}

/// One in a new folder at the course's top was made, and a commit of the course took it along.
#[test]
fn no_release_goes_into_the_course() {
    let course = Course::new();
    for folder in ["modules/student", "student", "a/new/place", "."] {
        let (code, _, err) = course.run(&["release", "--out", folder]);
        assert_eq!(code, 2, "{folder}: {err}");
        assert!(err.contains("lies in a folder of the course"), "{err}");
        assert!(folder == "." || !course.path(folder).exists());
    }
    // What cargo builds is nobody's to commit.
    fs::create_dir(course.path("target")).unwrap();
    course.write("target/CACHEDIR.TAG", "");
    let (code, _, err) = course.run(&["release", "--out", "target/student"]);
    assert_eq!(code, 0, "{err}");
    // An update of what is no release is a wrong word too.
    let (code, _, err) = course.run(&["release", "--update", "modules"]);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("was not made by `tito release`"), "{err}");
}

#[test]
fn a_student_works_in_it_from_the_first_test_to_the_export() {
    let course = released();
    let (code, out, err) = run_in(&course, "../student", &["test", "01"]);
    assert_eq!(code, 1, "{err}");
    assert!(out.contains("0 of 100 points"), "{out}");
    let library = course.read("../student/crates/mini/src/halves.rs");
    assert_eq!(library, course.read("../student/modules/01_mini/halves.rs"));
    assert!(library.contains("todo!(\"exercise 1.1\")"), "{library}");
    // The bonus stays undone: the library has none of its own either.
    for file in ["halves.rs", "sums.rs"] {
        let solution = course.read(&format!("crates/mini/src/{file}"));
        course.write(&format!("../student/modules/01_mini/{file}"), &solution);
    }
    let (code, out, err) = run_in(&course, "../student", &["test", "01"]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("100 of 100 points"), "{out}");
    let (code, out, err) = run_in(&course, "../student", &["export", "01"]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(
        out.contains("bonus 1.3 is unfinished, here and in the library"),
        "{out}"
    );
    assert!(
        course
            .read("../student/crates/mini/src/halves.rs")
            .contains("value / TWO")
    );
    assert_eq!(run_in(&course, "../student", &["undo"]).0, 0);
    assert_eq!(course.read("../student/crates/mini/src/halves.rs"), library);
    let (code, _, err) = run_in(&course, "../student", &["grade", "show", "."]);
    assert_eq!(code, 2, "{err}");
}

#[test]
fn the_same_course_gives_the_same_bytes() {
    let course = released();
    // What editors, builds and students leave behind is not handed out.
    fs::create_dir_all(course.path("crates/mini/target")).unwrap();
    course.write("crates/mini/target/x.rs", "x");
    // cargo's own mark: a source folder may be called so too.
    course.write("crates/mini/target/CACHEDIR.TAG", "x");
    course.write("crates/mini/src/halves.rs.orig", "x");
    course.write("notes.md", "x");
    assert_eq!(course.run(&["release", "--out", "../again"]).0, 0);
    assert_eq!(
        tree(&course.path("../student")),
        tree(&course.path("../again"))
    );
}

#[test]
fn only_an_empty_folder_or_an_untouched_release_is_written_to() {
    let course = released();
    fs::create_dir(course.path("../empty")).unwrap();
    assert_eq!(course.run(&["release", "--out", "../empty"]).0, 0);
    // An earlier release in which nobody worked is replaced as a whole.
    course.edit("crates/mini/src/given.rs", "are made with", "are made of");
    assert_eq!(course.run(&["release", "--out", "../student"]).0, 0);
    assert!(
        course
            .read("../student/crates/mini/src/given.rs")
            .contains("are made of")
    );

    course.write("../student/modules/01_mini/QUESTIONS.md", "my answers");
    let before = tree(&course.path("../student"));
    let (code, _, err) = course.run(&["release", "--out", "../student"]);
    assert_eq!(code, 2);
    assert!(
        err.contains("QUESTIONS.md") && err.contains("--update"),
        "{err}"
    );
    assert_eq!(tree(&course.path("../student")), before);

    fs::create_dir(course.path("../foreign")).unwrap();
    course.write("../foreign/thesis.txt", "years of work");
    let (code, _, err) = course.run(&["release", "--out", "../foreign"]);
    assert_eq!(code, 2);
    assert!(err.contains("not empty"), "{err}");
    assert_eq!(tree(&course.path("../foreign")).len(), 1);
    let leftovers = fs::read_dir(course.path("..")).unwrap();
    let temporary = |name: &std::ffi::OsStr| name.to_string_lossy().ends_with(".tmp");
    assert!(
        !leftovers
            .flatten()
            .any(|entry| temporary(&entry.file_name()))
    );
}

#[test]
fn a_release_that_would_tell_a_solution_is_refused_with_the_place() {
    let course = Course::new();
    course.edit(
        "crates/mini/src/given.rs",
        "//! Given, in both crates.",
        "//! Given. Try values.iter().map(|value| value/TWO).collect() some day.",
    );
    let (code, _, err) = course.run(&["release", "--out", "../student"]);
    assert_eq!(code, 1);
    assert!(
        err.contains("crates/mini/src/given.rs holds a line of the solution of 1.1"),
        "{err}"
    );
    assert!(!course.path("../student").exists());
    let (code, out, _) = course.run(&["dev", "check"]);
    assert_eq!(code, 1);
    assert!(out.contains("holds a line of the solution of 1.1"), "{out}");
}

#[test]
fn a_hidden_check_among_the_public_ones_is_refused() {
    let course = Course::new();
    let hidden = "exam/01_mini/exam/hidden/mod.rs";
    let text = course.read(hidden);
    course.write("exam/01_mini/exam/moved.rs", &text);
    let (code, _, err) = course.run(&["release", "--out", "../student"]);
    assert_eq!(code, 1);
    assert!(
        err.contains("exam/01_mini/exam/moved.rs:10: a hidden check outside exam/hidden"),
        "{err}"
    );
}

#[test]
fn an_exported_library_is_not_taken_for_the_reference() {
    let course = Course::solved();
    course.edit(
        "modules/01_mini/halves.rs",
        "value / TWO",
        "value * (1.0 / TWO)",
    );
    assert_eq!(course.run(&["export", "01"]).0, 0);
    let (code, _, err) = course.run(&["release", "--out", "../student"]);
    assert_eq!(code, 1);
    assert!(err.contains("export --restore 01_mini"), "{err}");
}

#[cfg(unix)]
#[test]
fn a_link_is_not_followed_out_of_the_course() {
    let course = Course::new();
    std::os::unix::fs::symlink("/etc/hostname", course.path("crates/mini/src/x.rs")).unwrap();
    let (code, _, err) = course.run(&["release", "--out", "../student"]);
    assert_eq!(code, 3);
    assert!(err.contains("crates/mini/src/x.rs is a link"), "{err}");
}

/// A later version of the course: other words outside the markers, another given file, one file more and one less.
fn moves_on(course: &Course) {
    for folder in ["crates/mini/src", "modules/01_mini"] {
        course.edit(
            &format!("{folder}/halves.rs"),
            "Half of every value",
            "One half of every value",
        );
        course.edit(
            &format!("{folder}/sums.rs"),
            "/// Adds up.",
            "/// Adds numbers up.",
        );
    }
    course.edit("crates/mini/src/given.rs", "are made with", "are made of");
    course.edit("modules/01_mini/QUESTIONS.md", "1. What", "1. Say: what");
    course.write("crates/mini/src/more.rs", "//! More.\n");
    course.edit(
        "crates/mini/src/lib.rs",
        "pub mod given;",
        "pub mod given;\npub mod more;",
    );
    fs::remove_file(course.path("modules/01_mini/ABOUT.md")).unwrap();
}

#[test]
fn an_update_keeps_what_the_student_wrote_and_can_be_taken_back() {
    let course = released();
    let mine = "../student/modules/01_mini/halves.rs";
    course.edit(
        mine,
        "todo!(\"exercise 1.1\")",
        "values.iter().map(|v| 0.5 * v).collect()",
    );
    // Outside the markers: the student's own doing.
    course.edit(
        "../student/modules/01_mini/sums.rs",
        "/// Adds up.",
        "/// Mine.",
    );
    course.write("../student/modules/01_mini/QUESTIONS.md", "my answers");
    course.write("../student/notes.md", "my notes");
    course.write("../student/crates/mini/src/more.rs", "// my own file\n");
    moves_on(&course);
    let before = tree(&course.path("../student"));

    let (code, out, err) = course.run(&["release", "--update", "../student"]);
    assert_eq!(code, 1, "conflicts are work left: {out}{err}");
    let text = course.read(mine);
    assert!(
        text.contains("0.5 * v") && text.contains("One half of every value"),
        "{text}"
    );
    assert!(
        course
            .read("../student/crates/mini/src/given.rs")
            .contains("are made of")
    );
    assert!(!course.path("../student/modules/01_mini/ABOUT.md").exists());
    for (path, content) in [
        ("modules/01_mini/QUESTIONS.md", "my answers"),
        ("notes.md", "my notes"),
        ("crates/mini/src/more.rs", "// my own file\n"),
    ] {
        assert_eq!(course.read(&format!("../student/{path}")), content);
    }
    assert!(
        course
            .read("../student/modules/01_mini/sums.rs")
            .contains("/// Mine.")
    );
    for path in [
        "modules/01_mini/QUESTIONS.md",
        "modules/01_mini/sums.rs",
        "crates/mini/src/more.rs",
    ] {
        assert!(out.contains(&format!(".tito/incoming/{path}")), "{out}");
        assert!(
            course
                .path(&format!("../student/.tito/incoming/{path}"))
                .is_file()
        );
    }
    let incoming = course.read("../student/.tito/incoming/modules/01_mini/sums.rs");
    assert!(incoming.contains("Adds numbers up."), "{incoming}");

    // Nothing is new any more, so nothing is asked again.
    let (code, out, _) = course.run(&["release", "--update", "../student"]);
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("is up to date"), "{out}");

    assert_eq!(run_in(&course, "../student", &["undo"]).0, 0);
    let mut after = tree(&course.path("../student"));
    after.retain(|path, _| !path.starts_with(".tito/"));
    assert_eq!(after, before);
}

#[test]
fn an_export_survives_an_update() {
    let course = released();
    for file in FILES {
        let solution = course.read(&format!("crates/mini/src/{file}"));
        let mine = solution.replace("value / TWO", "value * (1.0 / TWO)");
        course.write(&format!("../student/modules/01_mini/{file}"), &mine);
    }
    assert_eq!(run_in(&course, "../student", &["export", "01"]).0, 0);
    moves_on(&course);
    let (code, out, err) = course.run(&["release", "--update", "../student"]);
    assert_eq!(code, 0, "{out}{err}");
    let library = course.read("../student/crates/mini/src/halves.rs");
    assert!(
        library.contains("1.0 / TWO") && library.contains("One half of"),
        "{library}"
    );
    assert_eq!(library, course.read("../student/modules/01_mini/halves.rs"));
    let (_, out, _) = run_in(&course, "../student", &["status"]);
    assert!(out.contains("exported"), "{out}");
    // The library's own is that of the new version, empty as it was given.
    let (code, _, err) = run_in(&course, "../student", &["export", "01", "--restore"]);
    assert_eq!(code, 0, "{err}");
    let library = course.read("../student/crates/mini/src/halves.rs");
    assert!(
        library.contains("todo!") && library.contains("One half of"),
        "{library}"
    );
}

#[test]
fn a_student_updates_from_a_release_that_was_unpacked_beside() {
    let course = released();
    course.edit(
        "../student/modules/01_mini/halves.rs",
        "todo!(\"exercise 1.1\")",
        "values.iter().map(|v| 0.5 * v).collect()",
    );
    moves_on(&course);
    assert_eq!(course.run(&["release", "--out", "../new"]).0, 0);
    let (code, out, err) = run_in(&course, "../new", &["release", "--update", "../student"]);
    assert_eq!(code, 0, "{out}{err}");
    let text = course.read("../student/modules/01_mini/halves.rs");
    assert!(
        text.contains("0.5 * v") && text.contains("One half of"),
        "{text}"
    );
    // A release in which somebody worked is no source for others.
    let (code, _, err) = run_in(&course, "../student", &["release", "--update", "../new"]);
    assert_eq!(code, 1);
    assert!(err.contains("halves.rs is not as it was given"), "{err}");
    // And what is no release is not updated.
    let (code, _, err) = course.run(&["release", "--update", "."]);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("was not made by `tito release`"), "{err}");
}

#[test]
fn a_release_says_what_it_is_as_json() {
    let course = Course::new();
    let (code, value) = course.json(&["release", "--out", "../student"]);
    assert_eq!(code, 0);
    assert_eq!(value["modules"], serde_json::json!(["01_mini"]));
    assert!(value["looked_for"].as_u64().unwrap() >= 10, "{value}");
    let (code, value) = course.json(&["release", "--out", "../other", "--modules", "2"]);
    assert_eq!((code, value["error"]["exit_code"].as_u64()), (2, Some(2)));
    assert_eq!(course.run(&["release"]).0, 2);
}
