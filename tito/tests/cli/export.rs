//! Export, restore, reset, undo, submit: what they change, what they refuse, and the way back.

use std::io::Read;

use crate::course::Course;

const STUDENT: &str = "modules/01_mini";
const LIBRARY: &str = "crates/mini/src";

/// A solved course whose student halves in another way than the library.
fn own_way() -> Course {
    let course = Course::solved();
    course.edit("modules/01_mini/halves.rs", "value / TWO", "value * 0.5");
    course
}

#[test]
fn export_copies_the_students_files_byte_for_byte() {
    let course = own_way();
    let original = course.files(LIBRARY);
    let (code, out, err) = course.run(&["export", "01_mini"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("now runs on your code"), "{out}");
    assert_eq!(course.files(LIBRARY), course.files(STUDENT));
    assert!(course.run(&["status"]).1.contains("exported"));
    let (code, out, _) = course.run(&["export", "01_mini"]);
    assert!(code == 0 && out.contains("Nothing to do"), "{out}");

    let (code, out, _) = course.run(&["export", "--restore", "01_mini"]);
    assert!(code == 0 && out.contains("its own 3 files again"), "{out}");
    assert_eq!(course.files(LIBRARY), original);
    assert!(!course.run(&["status"]).1.contains("exported"));
    assert_eq!(course.run(&["export", "--restore", "01_mini"]).0, 2);
}

#[test]
fn restore_brings_the_librarys_own_files_also_after_several_exports() {
    let course = own_way();
    let original = course.files(LIBRARY);
    assert_eq!(course.run(&["export", "1"]).0, 0);
    course.edit("modules/01_mini/extra.rs", "number * 2", "number + number");
    assert_eq!(course.run(&["export", "1"]).0, 0);
    assert_eq!(course.files(LIBRARY), course.files(STUDENT));
    assert_eq!(course.run(&["export", "1", "--restore"]).0, 0);
    assert_eq!(course.files(LIBRARY), original);
    // And the undo of the restore is the second export.
    assert_eq!(course.run(&["undo"]).0, 0);
    assert_eq!(course.files(LIBRARY), course.files(STUDENT));
    assert!(course.run(&["status"]).1.contains("exported"));
}

#[test]
fn export_refuses_while_exercises_are_unfinished() {
    let course = Course::new();
    let library = course.files(LIBRARY);
    let (code, _, err) = course.run(&["export", "1"]);
    assert_eq!(code, 1);
    assert!(err.contains("2 exercises unfinished (1.1, 1.2)"), "{err}");
    assert!(
        err.contains("modules/01_mini/halves.rs:7") && err.contains("hint 1 1.1"),
        "{err}"
    );
    assert_eq!(course.files(LIBRARY), library);
}

#[test]
fn export_refuses_while_checks_fail_or_files_do_not_compile() {
    let course = own_way();
    let library = course.files(LIBRARY);
    course.edit(
        "modules/01_mini/halves.rs",
        "value * 0.5",
        "(value * 0.5).trunc()",
    );
    let (code, _, err) = course.run(&["export", "1"]);
    assert_eq!(code, 1);
    assert!(
        err.contains("checks fail in 1.1 (60 points so far)"),
        "{err}"
    );
    course.edit("modules/01_mini/halves.rs", ".trunc()", ".trunk()");
    let (code, value) = course.json(&["export", "1"]);
    assert_eq!(code, 1);
    assert!(
        value["error"]["message"]
            .as_str()
            .unwrap()
            .contains("do not compile"),
        "{value}"
    );
    assert_eq!(course.files(LIBRARY), library);
}

#[test]
fn export_refuses_text_that_changed_outside_the_markers_and_shows_it() {
    let course = own_way();
    course.edit("modules/01_mini/sums.rs", "pub fn mean(", "pub fn average(");
    let (code, _, err) = course.run(&["export", "1"]);
    assert_eq!(code, 1);
    assert!(
        err.contains("-    pub fn mean(") && err.contains("+    pub fn average("),
        "{err}"
    );
    // Bodies are not shown: the diff is about what must not change.
    assert!(!err.contains("count > 0.0"), "{err}");
}

#[test]
fn an_unfinished_bonus_is_not_exported() {
    let course = own_way();
    course.edit(
        "modules/01_mini/extra.rs",
        "number * 2",
        "todo!(\"exercise 1.3\")",
    );
    let (code, value) = course.json(&["export", "1"]);
    assert_eq!(code, 0, "{value}");
    assert_eq!(value["kept_from_library"][0], "1.3");
    assert!(
        course
            .read("crates/mini/src/extra.rs")
            .contains("number * 2")
    );
}

#[test]
fn reset_and_undo_and_undo_again() {
    let course = own_way();
    let mine = course.files(STUDENT);
    let (code, out, _) = course.run(&["reset", "1"]);
    assert!(code == 0 && out.contains("3 files fresh again"), "{out}");
    let fresh = Course::new().files(STUDENT);
    assert_eq!(course.files(STUDENT), fresh);
    assert!(course.run(&["reset", "1"]).1.contains("Nothing to reset"));
    assert_eq!(course.run(&["undo"]).0, 0);
    assert_eq!(course.files(STUDENT), mine);
    assert_eq!(course.run(&["undo"]).0, 0);
    assert_eq!(course.files(STUDENT), fresh);
    let (_, out, _) = course.run(&["undo", "--list"]);
    assert_eq!(out.lines().count(), 3, "{out}");
    // An older change, by its number.
    assert_eq!(course.run(&["undo", "1"]).0, 0);
    assert_eq!(course.files(STUDENT), mine);
    assert_eq!(course.run(&["undo", "99"]).0, 2);
}

#[test]
fn one_exercise_can_be_reset_alone() {
    let course = own_way();
    let (code, value) = course.json(&["reset", "1", "1.2"]);
    assert_eq!((code, value["changed"].as_array().unwrap().len()), (0, 1));
    let sums = course.read("modules/01_mini/sums.rs");
    assert!(sums.contains("exercise 1.2a") && sums.contains("exercise 1.2b"));
    assert!(
        course
            .read("modules/01_mini/halves.rs")
            .contains("value * 0.5")
    );
}

#[test]
fn reset_repairs_files_that_lost_their_markers_or_are_gone() {
    let course = own_way();
    course.write("modules/01_mini/halves.rs", "// oh no");
    std::fs::remove_file(course.path("modules/01_mini/sums.rs")).unwrap();
    let (code, _, err) = course.run(&["status"]);
    assert_eq!(code, 1, "{err}");
    assert!(
        err.contains("reset 1") && err.contains("undo --list"),
        "{err}"
    );
    assert_eq!(course.run(&["reset", "1"]).0, 0);
    assert_eq!(course.files(STUDENT), Course::new().files(STUDENT));
    assert_eq!(course.run(&["undo"]).0, 0);
    assert_eq!(course.read("modules/01_mini/halves.rs"), "// oh no");
    assert!(!course.path("modules/01_mini/sums.rs").exists());
}

#[test]
fn an_edit_after_a_change_survives_its_undo() {
    let course = own_way();
    assert_eq!(course.run(&["reset", "1"]).0, 0);
    course.half("vec![0.5]");
    let edited = course.files(STUDENT);
    let (code, out, _) = course.run(&["undo"]);
    assert!(code == 0 && out.contains("was edited since"), "{out}");
    assert_eq!(course.run(&["undo"]).0, 0);
    assert_eq!(course.files(STUDENT), edited);
}

#[test]
fn without_a_change_there_is_nothing_to_undo() {
    let course = Course::new();
    let (code, _, err) = course.run(&["undo"]);
    assert!(code == 2 && err.contains("nothing to take back"), "{err}");
    assert_eq!(
        course.json(&["undo", "--list"]),
        (0, serde_json::json!({ "changes": [] }))
    );
}

#[test]
fn submit_packs_files_answers_and_hashes() {
    let course = own_way();
    assert_eq!(course.run(&["test", "1"]).0, 0);
    let (code, value) = course.json(&["submit", "1"]);
    assert_eq!((code, value["points"].as_f64()), (0, Some(100.0)));
    let bundle = std::fs::read(course.path("01_mini-submission.zip")).unwrap();
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(bundle.clone())).unwrap();
    let mut names: Vec<String> = archive
        .file_names()
        .map(|name| name.unwrap().into_owned())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "QUESTIONS.md",
            "extra.rs",
            "halves.rs",
            "manifest.json",
            "sums.rs"
        ]
        .map(|name| format!("01_mini/{name}"))
    );
    let mut text = String::new();
    archive
        .by_name("01_mini/halves.rs")
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, course.read("modules/01_mini/halves.rs"));
    let mut manifest = String::new();
    archive
        .by_name("01_mini/manifest.json")
        .unwrap()
        .read_to_string(&mut manifest)
        .unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest["sha256"]["halves.rs"], value["files"]["halves.rs"]);
    assert_eq!(manifest["sha256"].as_object().unwrap().len(), 4);

    // The same files make the same bundle, wherever it is written.
    let (code, _, _) = course.run(&["submit", "1", "--out", "other.zip"]);
    assert_eq!(code, 0);
    assert_eq!(std::fs::read(course.path("other.zip")).unwrap(), bundle);
}

#[test]
fn unfinished_work_can_be_submitted_and_is_said_to_be() {
    let course = Course::new();
    let (code, out, _) = course.run(&["submit", "1"]);
    assert_eq!(code, 0);
    assert!(
        out.contains("not tested yet") && out.contains("Unfinished: 1.1, 1.2, 1.3"),
        "{out}"
    );
    let (code, _, err) = course.run(&["submit", "1", "--out", "README.md/x.zip"]);
    assert!(code == 3 && err.contains("cannot write"), "{err}");
}
