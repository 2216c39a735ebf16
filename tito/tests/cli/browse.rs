//! The commands that look around: status, list, start, hint, doctor, lab, and how modules are named.

use std::process::Stdio;

use crate::course::{Course, outcome};

#[test]
fn without_a_command_the_status_is_shown() {
    let course = Course::new();
    let (code, out, err) = course.run(&[]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("0 of 3 exercises written"), "{out}");
    assert!(out.contains("not tested yet"), "{out}");
    assert!(
        out.contains("next: 1.1 Halves, modules/01_mini/halves.rs:7"),
        "{out}"
    );
    assert_eq!(course.run(&["status"]).1, out);
}

#[test]
fn the_list_says_what_is_not_written() {
    let course = Course::new();
    let (code, out, _) = course.run(&["list"]);
    assert_eq!(code, 0);
    assert!(
        out.contains("01_mini") && out.contains("3 exercises"),
        "{out}"
    );
    let later = out.lines().find(|line| line.contains("02_later")).unwrap();
    assert!(later.contains("not written yet"), "{later}");
}

#[test]
fn every_name_of_a_module_is_understood() {
    let course = Course::new();
    for name in [
        "1",
        "01",
        "mini",
        "01_mini",
        "1_MINI",
        "tiny",
        "minimal",
        "m01-mini",
        "modules/01_mini/",
    ] {
        let name = if name == "1_MINI" { "01-Mini" } else { name };
        let (code, value) = course.json(&["start", name]);
        assert_eq!(
            (code, value["module"].as_str()),
            (0, Some("01_mini")),
            "{name}"
        );
    }
}

#[test]
fn a_mistyped_module_is_answered_with_the_nearest() {
    let course = Course::new();
    let (code, out, err) = course.run(&["start", "mimi"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(
        err.contains("no module `mimi`") && err.contains("did you mean 01_mini?"),
        "{err}"
    );
    let (code, _, err) = course.run(&["hint", "1", "Summer::summ"]);
    assert_eq!(code, 2);
    assert!(err.contains("did you mean Summer::sum?"), "{err}");
}

#[test]
fn a_module_that_is_not_written_is_never_started_or_passed() {
    let course = Course::new();
    for command in ["start", "test", "export", "hint", "reset", "submit", "lab"] {
        let (code, _, err) = course.run(&[command, "2"]);
        assert_eq!(code, 2, "{command}");
        assert!(
            err.contains("02_later is not written yet"),
            "{command}: {err}"
        );
    }
}

#[test]
fn wrong_usage_ends_with_code_2_as_text_and_as_json() {
    let course = Course::new();
    assert_eq!(course.run(&["tset", "1"]).0, 2);
    let (code, value) = course.json(&["test"]);
    assert_eq!(code, 2);
    assert!(
        value["error"]["message"]
            .as_str()
            .unwrap()
            .contains("MODULE")
    );
    let (code, value) = course.json(&["start", "mimi"]);
    assert_eq!((code, value["error"]["exit_code"].as_i64()), (2, Some(2)));
}

#[test]
fn the_course_is_found_from_any_folder_below_it_or_by_name() {
    let course = Course::new();
    let mut below = course.tito_in("crates/mini/src", &["list"]);
    assert_eq!(outcome(&mut below).0, 0);
    let elsewhere = tempfile::TempDir::new().unwrap();
    let mut lost = course.tito(&["list"]);
    let (code, _, err) = outcome(lost.current_dir(elsewhere.path()));
    assert_eq!(code, 3);
    assert!(
        err.contains("no course at or above") && err.contains("--workspace"),
        "{err}"
    );
    let root = course.path("");
    let mut named = course.tito(&["--workspace", root.to_str().unwrap(), "list"]);
    assert_eq!(outcome(named.current_dir(elsewhere.path())).0, 0);
    let mut wrong = course.tito(&["--workspace", elsewhere.path().to_str().unwrap(), "list"]);
    assert_eq!(outcome(&mut wrong).0, 3);
}

#[test]
fn a_damaged_manifest_is_named_with_its_line() {
    let course = Course::new();
    course.edit(
        "modules/01_mini/module.toml",
        "points = 40",
        "points = \"forty\"",
    );
    let (code, _, err) = course.run(&["status"]);
    assert_eq!(code, 3);
    assert!(
        err.contains("modules/01_mini/module.toml is damaged") && err.contains("line 2"),
        "{err}"
    );
}

#[test]
fn start_shows_the_beginning_of_the_lesson_and_the_first_exercise() {
    let course = Course::new();
    let (code, out, _) = course.run(&["start", "1"]);
    assert_eq!(code, 0);
    for words in [
        "## First",
        "modules/01_mini/ABOUT.md",
        "1.1 Halves",
        "modules/01_mini/halves.rs:7",
        "Builds on: 02_later",
    ] {
        assert!(out.contains(words), "{words}: {out}");
    }
    assert!(!out.contains("## Second"), "{out}");
}

#[test]
fn hints_come_one_by_one_and_are_remembered() {
    let course = Course::new();
    let hints = |again: &[&str]| {
        let (code, value) = course.json(&[&["hint", "1", "1.2"], again].concat());
        assert_eq!(code, 0);
        (
            value["hints"].as_array().unwrap().len(),
            value["left"].as_u64().unwrap(),
        )
    };
    assert_eq!(hints(&[]), (1, 2));
    assert_eq!(hints(&[]), (2, 1));
    assert_eq!(hints(&[]), (3, 0));
    assert_eq!(hints(&[]), (3, 0));
    assert_eq!(hints(&["--again"]), (1, 2));
    // Without an exercise: the next one that is not done.
    let (_, out, _) = course.run(&["hint", "mini"]);
    assert!(
        out.contains("1.1") && out.contains("A nudge about halves."),
        "{out}"
    );
    assert!(!out.contains("Closer"), "{out}");
}

#[test]
fn when_everything_is_written_a_hint_needs_an_exercise() {
    let course = Course::solved();
    assert_eq!(course.run(&["hint", "1"]).0, 2);
    assert_eq!(course.run(&["hint", "1", "half"]).0, 0);
}

#[test]
fn the_doctor_finds_this_machine_ready() {
    let course = Course::new();
    let (code, value) = course.json(&["doctor"]);
    assert_eq!(code, 0, "{value}");
    assert_eq!(value["ready"], true);
    let what: Vec<_> = value["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["what"].clone())
        .collect();
    for thing in ["compiler", "cargo", "folder", "offline", "processor"] {
        assert!(what.iter().any(|what| what == thing), "{thing}");
    }
    assert!(course.run(&["doctor"]).1.contains("Ready."));
}

#[test]
fn the_doctor_notices_a_compiler_that_is_too_old() {
    let course = Course::new();
    course.edit(
        "Cargo.toml",
        "rust-version = \"1.95\"",
        "rust-version = \"1.9999\"",
    );
    let (code, out, _) = course.run(&["doctor"]);
    assert_eq!(code, 3);
    assert!(out.contains("rustup update stable"), "{out}");
}

#[test]
fn a_module_without_a_lab_says_so() {
    let course = Course::new();
    let (code, _, err) = course.run(&["lab", "1"]);
    assert_eq!(code, 2);
    assert!(err.contains("01_mini has no lab"), "{err}");
}

#[test]
fn a_lab_gets_its_arguments_and_its_exit_code_is_ours() {
    let course = Course::new();
    course.edit(
        "modules/01_mini/module.toml",
        "exam = ",
        "lab = \"lab-mini\"\nexam = ",
    );
    course.edit("Cargo.toml", "members = [", "members = [\"labs\", ");
    std::fs::create_dir_all(course.path("labs/src/bin")).unwrap();
    course.write(
        "labs/Cargo.toml",
        "[package]\nname = \"tinytorch-labs\"\nversion = \"0.1.0\"\nedition = \"2024\"\n",
    );
    course.write(
        "labs/src/bin/lab-mini.rs",
        "fn main() { println!(\"{:?}\", std::env::args().skip(1).collect::<Vec<_>>()); std::process::exit(1) }",
    );
    let (code, out, err) = course.run(&["lab", "1", "--epochs", "2"]);
    assert_eq!(
        (code, out.as_str()),
        (1, "[\"--epochs\", \"2\"]\n"),
        "{err}"
    );
}

#[test]
fn colours_are_for_terminals_and_never_where_they_are_not_wanted() {
    let course = Course::new();
    let has_colour = |command: &mut assert_cmd::Command| outcome(command).1.contains('\u{1b}');
    assert!(!has_colour(&mut course.tito(&["status"])));
    assert!(has_colour(
        course.tito(&["status"]).env("CLICOLOR_FORCE", "1")
    ));
    assert!(!has_colour(course.tito(&["status"]).env("NO_COLOR", "1")));
    assert!(!has_colour(
        course
            .tito(&["status", "--json"])
            .env("CLICOLOR_FORCE", "1")
    ));
}

#[test]
fn a_pipe_that_closes_early_is_no_panic() {
    let course = Course::new();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_tito"))
        .args(["list"])
        .current_dir(course.path(""))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn advice_names_the_command_as_it_was_called() {
    let course = Course::new();
    assert!(!course.run(&["status"]).1.contains("cargo tito"));
    let (_, out, _) = outcome(course.tito(&["status"]).env("CARGO", "cargo"));
    assert!(out.contains("cargo tito test 1 1.1"), "{out}");
}

#[test]
fn help_and_status_ask_neither_cargo_nor_the_compiler() {
    let course = Course::new();
    let nowhere = course.path("nowhere");
    for arguments in [
        &["--help"][..],
        &["status"],
        &["list"],
        &["start", "1"],
        &["--version"],
    ] {
        let mut command = course.tito(arguments);
        command
            .env("PATH", &nowhere)
            .env("CARGO", &nowhere)
            .env("RUSTC", &nowhere);
        assert_eq!(outcome(&mut command).0, 0, "{arguments:?}");
    }
    let mut command = course.tito(&["test", "1"]);
    let (code, _, err) = outcome(command.env("PATH", &nowhere));
    assert_eq!(code, 3);
    assert!(
        err.contains("cannot start cargo") && err.contains("doctor"),
        "{err}"
    );
}
