//! Killed at any moment, two at once, no room, no right to write: nothing is lost, and files change together or not at all.

use std::process::Stdio;
use std::time::Duration;

use crate::course::{Course, outcome};

const STUDENT: &str = "modules/01_mini";
const LIBRARY: &str = "crates/mini/src";

/// Ends the process at every step of writing in turn; afterwards the next `tito` must find the old files or the new ones, never a mixture,
/// and what was replaced must come back by `undo`.
fn kill_at_every_step(course: &Course, folder: &str, arguments: &[&str]) {
    let before = course.files(folder);
    assert_eq!(course.run(arguments).0, 0);
    let target = course.files(folder);
    assert_ne!(before, target);
    let back = |what: &str| {
        assert_eq!(course.run(&["undo"]).0, 0, "{what}");
        assert_eq!(course.files(folder), before, "undo after {what}");
    };
    back("the first time");
    let (mut nothing, mut completed) = (0, 0);
    for step in 1.. {
        let what = format!("a kill at step {step}");
        let mut command = course.tito(arguments);
        let (code, _, err) = outcome(command.env("TITO_FAIL_AT", step.to_string()));
        if code == 0 {
            assert!(nothing > 3 && completed > 3, "{nothing} and {completed}");
            return;
        }
        assert_eq!(code, -1, "{what}: {err}");
        assert_eq!(course.run(&["status"]).0, 0, "{what}");
        let after = course.files(folder);
        assert!(!course.path(".tito/pending.json").exists(), "{what}");
        if after == before {
            nothing += 1;
            // The same command, undisturbed, does its work.
            assert_eq!(course.run(arguments).0, 0, "{what}");
            assert_eq!(course.files(folder), target, "{what}");
        } else {
            assert_eq!(after, target, "a mixture after {what}");
            completed += 1;
        }
        assert_eq!(leftovers(course), Vec::<String>::new(), "{what}");
        back(&what);
    }
}

fn leftovers(course: &Course) -> Vec<String> {
    [STUDENT, LIBRARY, ""]
        .iter()
        .flat_map(|folder| std::fs::read_dir(course.path(folder)).unwrap())
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".tmp"))
        .collect()
}

fn own_way() -> Course {
    let course = Course::solved();
    course.edit("modules/01_mini/halves.rs", "value / TWO", "value * 0.5");
    course.edit("modules/01_mini/extra.rs", "number * 2", "number + number");
    course
}

#[test]
fn reset_killed_at_any_step_loses_nothing() {
    kill_at_every_step(&Course::solved(), STUDENT, &["reset", "1"]);
}

#[test]
fn undo_killed_at_any_step_loses_nothing() {
    let course = Course::solved();
    assert_eq!(course.run(&["reset", "1"]).0, 0);
    kill_at_every_step(&course, STUDENT, &["undo"]);
}

#[test]
fn export_killed_at_any_step_loses_nothing() {
    kill_at_every_step(&own_way(), LIBRARY, &["export", "1"]);
}

#[test]
fn a_full_disk_at_any_step_changes_nothing_and_is_said() {
    for step in 1.. {
        let course = Course::solved();
        let before = course.files(STUDENT);
        let mut command = course.tito(&["reset", "1"]);
        let (code, _, err) = outcome(command.env("TITO_FULL_AT", step.to_string()));
        if code == 0 {
            assert!(step > 5);
            return;
        }
        assert_eq!(code, 3, "step {step}: {err}");
        assert!(
            err.contains("cannot write") && err.contains("disk is full"),
            "step {step}: {err}"
        );
        // The last step only removes the journal: the change is complete, the next tito says so.
        let after = course.files(STUDENT);
        let is_complete = course.path(".tito/pending.json").exists();
        assert!(after == before || is_complete, "step {step}");
        assert_eq!(course.run(&["reset", "1"]).0, 0, "step {step}");
        assert_eq!(
            course.files(STUDENT),
            Course::new().files(STUDENT),
            "step {step}"
        );
    }
}

#[cfg(unix)]
#[test]
fn a_real_kill_at_many_moments_loses_nothing() {
    let fresh = Course::new().files(STUDENT);
    for moment in 0..40 {
        let course = Course::solved();
        let before = course.files(STUDENT);
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_tito"))
            .args(["reset", "1"])
            .current_dir(course.path(""))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(moment * 400));
        let _ = child.kill();
        child.wait().unwrap();
        assert_eq!(course.run(&["status"]).0, 0);
        let after = course.files(STUDENT);
        assert!(
            after == before || after == fresh,
            "a mixture after {moment}"
        );
        if after == fresh {
            assert_eq!(course.run(&["undo"]).0, 0);
            assert_eq!(course.files(STUDENT), before);
        }
    }
}

#[test]
fn a_file_edited_between_the_kill_and_the_next_tito_is_left_alone() {
    // Step by step until the journal is there: from then on the change is completed.
    for step in 1..60 {
        let course = Course::solved();
        let mut command = course.tito(&["reset", "1"]);
        let (code, _, _) = outcome(command.env("TITO_FAIL_AT", step.to_string()));
        let is_pending = course.path(".tito/pending.json").exists();
        let sums = course.read("modules/01_mini/sums.rs");
        if code == 0 || !is_pending || sums.contains("todo!") {
            continue;
        }
        course.write("modules/01_mini/sums.rs", "// written after the crash");
        let (_, _, err) = course.run(&["list"]);
        assert!(
            err.contains("interrupted") && err.contains("sums.rs was edited since"),
            "{err}"
        );
        assert_eq!(
            course.read("modules/01_mini/sums.rs"),
            "// written after the crash"
        );
        assert!(course.read("modules/01_mini/halves.rs").contains("todo!"));
        return;
    }
    panic!("no step leaves a journal");
}

#[test]
fn many_at_once_take_turns() {
    let course = Course::solved();
    let before = course.files(STUDENT);
    let fresh = Course::new().files(STUDENT);
    assert_eq!(course.run(&["reset", "1"]).0, 0);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let course = &course;
            scope.spawn(move || {
                let arguments = if number % 2 == 0 {
                    vec!["undo"]
                } else {
                    vec!["reset", "1"]
                };
                let (code, _, err) = course.run(&arguments);
                assert_eq!(code, 0, "{err}");
            });
        }
    });
    let after = course.files(STUDENT);
    assert!(after == before || after == fresh, "a mixture");
    assert_eq!(course.run(&["undo", "--list"]).0, 0);
    assert!(!course.path(".tito/pending.json").exists());
}

#[test]
fn a_second_tito_waits_a_little_and_then_says_who_holds_the_files() {
    let course = Course::solved();
    assert_eq!(course.run(&["reset", "1"]).0, 0);
    let lock = std::fs::File::open(course.path(".tito/lock")).unwrap();
    lock.lock().unwrap();
    let mut command = course.tito(&["undo"]);
    let (code, _, err) = outcome(command.env("TITO_LOCK_WAIT_MS", "50"));
    assert_eq!(code, 3);
    assert!(
        err.contains("another tito is changing files here: process") && err.contains("reset 1"),
        "{err}"
    );
    // Reading is always allowed.
    assert_eq!(course.run(&["status"]).0, 0);
    drop(lock);
    assert_eq!(course.run(&["undo"]).0, 0);
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error_that_says_so() {
    let course = Course::solved();
    // Where its memory should be is a file: also root cannot write below it.
    course.write(".tito", "");
    let (code, _, err) = course.run(&["reset", "1"]);
    assert_eq!(code, 3);
    assert!(
        err.contains("cannot write") && err.contains(".tito"),
        "{err}"
    );
    // What only wants to remember something goes on without.
    assert_eq!(course.run(&["status"]).0, 0);
    let (code, out, err) = course.run(&["hint", "1", "1.1"]);
    assert!(code == 0 && out.contains("A nudge about halves."), "{out}");
    assert!(err.contains("not remembered"), "{err}");
    let (code, out, err) = course.run(&["test", "1"]);
    assert!(code == 0 && out.contains("100 of 100"), "{out}");
    assert!(err.contains("not remembered"), "{err}");
}

#[cfg(unix)]
#[test]
fn a_read_only_module_keeps_all_its_files() {
    use std::os::unix::fs::PermissionsExt;
    let course = Course::solved();
    let before = course.files(STUDENT);
    let folder = course.path(STUDENT);
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o555)).unwrap();
    let is_root = std::fs::write(folder.join("probe"), "").is_ok();
    let (code, _, err) = course.run(&["reset", "1"]);
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).unwrap();
    if is_root {
        eprintln!("not tested: this user may write everywhere");
        return;
    }
    assert_eq!(code, 3);
    assert!(err.contains("read-only for you"), "{err}");
    assert_eq!(course.files(STUDENT), before);
    assert!(!course.path(".tito/pending.json").exists());
}

#[test]
fn a_damaged_object_is_noticed_before_anything_is_overwritten() {
    let course = Course::solved();
    assert_eq!(course.run(&["reset", "1"]).0, 0);
    let fresh = course.files(STUDENT);
    for folder in std::fs::read_dir(course.path(".tito/objects")).unwrap() {
        for object in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            std::fs::write(object.unwrap().path(), "rot").unwrap();
        }
    }
    let (code, _, err) = course.run(&["undo"]);
    assert!(code == 3 && err.contains("is damaged"), "{err}");
    assert_eq!(course.files(STUDENT), fresh);
}
