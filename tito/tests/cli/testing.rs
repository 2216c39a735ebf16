//! `tito test`: what a student is told.

use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::course::Course;

const HALVES: &str = "modules/01_mini/halves.rs";
const SUMS: &str = "modules/01_mini/sums.rs";

#[test]
fn a_stub_earns_nothing_and_gets_a_first_step() {
    let course = Course::new();
    let (code, out, err) = course.run(&["test", "01_mini"]);
    assert_eq!(code, 1, "{err}");
    assert!(out.contains("0 of 100 points"), "{out}");
    assert!(
        out.contains("not written yet: modules/01_mini/halves.rs:7"),
        "{out}"
    );
    assert!(
        out.contains("Next: 1.1 Halves: modules/01_mini/halves.rs:7"),
        "{out}"
    );
    assert!(out.contains("tito hint 1 1.1"), "{out}");
}

#[test]
fn everything_right_earns_a_hundred_and_the_bonus_beside() {
    let course = Course::solved();
    let (code, out, err) = course.run(&["test", "mini"]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("100 of 100 points, 5 of 5 bonus"), "{out}");
    assert!(
        out.contains("All done.") && out.contains("tito export 01_mini"),
        "{out}"
    );
    let (_, status, _) = course.run(&["status"]);
    assert!(status.contains("100 of 100 points and 5 bonus"), "{status}");
    assert!(status.contains("next: tito export 01_mini"), "{status}");
}

#[test]
fn a_known_mistake_is_named_with_what_came_and_where_to_look() {
    let course = Course::new();
    course.half("values.iter().map(|value| (value / TWO).trunc()).collect()");
    let (code, out, _) = course.run(&["test", "1"]);
    assert_eq!(code, 1);
    for words in [
        "1.1/fractions",
        "halves of odd numbers (odd ones)",
        "values = [2.0, 3.0, 5.0]",
        "expected   halves[1] (shape [3]) = 1.5",
        "got        halves[1] (shape [3]) = 1.0 (2 of 3 are wrong)",
        "your values are those of halves cut to whole numbers",
        "a fraction is lost",
        "why        A half that is cut",
        "modules/01_mini/halves.rs:6  half",
        // One of two checks, a third of the weight.
        "20 of 60",
    ] {
        assert!(out.contains(words), "{words}: {out}");
    }
}

#[test]
fn one_exercise_can_be_tested_alone() {
    let course = Course::solved();
    course.edit(SUMS, "sum as f32 / count", "sum as f32");
    assert_eq!(course.run(&["test", "1"]).0, 1);
    let (code, out, _) = course.run(&["test", "1", "half"]);
    assert_eq!(code, 0);
    assert!(
        out.contains("60 of 60 points") && !out.contains("1.2"),
        "{out}"
    );
    let (code, value) = course.json(&["test", "1", "2"]);
    assert_eq!(code, 1);
    let exercise = &value["exercises"][0];
    assert_eq!(
        (exercise["id"].as_str(), exercise["passed"].as_u64()),
        (Some("1.2"), Some(2))
    );
    let failed = exercise["checks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["passed"] == false)
        .unwrap();
    assert_eq!(failed["id"], "1.2/mean");
    assert_eq!(failed["mistake"]["title"], "the sum instead of the mean");
    assert_eq!(failed["difference"]["expected"], "2.0");
    assert_eq!(failed["place"], "modules/01_mini/sums.rs:22");
}

#[test]
fn the_bonus_does_not_stand_in_the_way() {
    let course = Course::solved();
    course.edit("modules/01_mini/extra.rs", "number * 2", "todo!()");
    let (code, out, _) = course.run(&["test", "1"]);
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("100 of 100 points, 0 of 5 bonus"), "{out}");
    assert!(
        out.contains("tito export 01_mini") && out.contains("Bonus: 1.3"),
        "{out}"
    );
    assert_eq!(course.run(&["test", "1", "1.3"]).0, 1);
}

#[test]
fn a_check_that_needs_an_unwritten_exercise_says_which() {
    let course = Course::solved();
    course.edit(
        SUMS,
        ".checked_add(*value))\n            .ok_or(Overflow)",
        ".checked_add(*value))\n            .ok_or(Overflow); todo!(\"exercise 1.2a\")",
    );
    let (code, value) = course.json(&["test", "1", "1.2"]);
    assert_eq!(code, 1);
    let checks = value["exercises"][0]["checks"].as_array().unwrap();
    let mean = checks
        .iter()
        .find(|check| check["id"] == "1.2/mean")
        .unwrap();
    assert_eq!(mean["waits_for"], "1.2a");
}

#[test]
fn a_compile_error_is_shown_at_the_students_own_line() {
    let course = Course::new();
    course.half("let cut: i8 = values; cut");
    let (code, out, _) = course.run(&["test", "1"]);
    assert_eq!(code, 1);
    assert!(out.contains("modules/01_mini/halves.rs:8:"), "{out}");
    assert!(
        out.contains("mismatched types") && out.contains("In other words:"),
        "{out}"
    );
    assert!(out.contains("2 errors"), "{out}");
    let (code, value) = course.json(&["test", "1"]);
    assert_eq!((code, value["compiled"].as_bool()), (1, Some(false)));
    assert_eq!(value["compile_errors"][0]["line"], 8);
}

#[test]
fn unsafe_code_is_refused() {
    let course = Course::new();
    course.half("unsafe { std::hint::unreachable_unchecked() }");
    let (code, out, _) = course.run(&["test", "1"]);
    assert_eq!(code, 1);
    assert!(out.contains("unsafe"), "{out}");
}

#[test]
fn a_loop_that_never_ends_is_stopped_and_the_other_checks_go_on() {
    let course = Course::solved();
    course.edit(
        HALVES,
        "values.iter().map(|value| value / TWO).collect()",
        "println!(\"round and round\"); loop {}",
    );
    let (code, out, _) = course.run(&["test", "1", "--time-limit", "1"]);
    assert_eq!(code, 1);
    assert!(out.contains("no answer within 1 s"), "{out}");
    assert!(
        out.contains("your code printed:") && out.contains("| round and round"),
        "{out}"
    );
    assert!(out.contains("40 of 40"), "{out}");
}

#[test]
fn leaving_aborting_and_overflowing_are_failed_checks_and_nothing_more() {
    for (body, words) in [
        ("std::process::exit(0)", "the process left with exit code 0"),
        (
            "std::process::exit(0)",
            "why        Your function must return: exit ends the whole program, tests included.",
        ),
        ("std::process::abort()", "the process was killed"),
        (
            "fn down(n: u64) -> u64 { if n == 0 { 0 } else { 1 + down(std::hint::black_box(n + 1)) } } vec![down(1) as f32]",
            "overflowed its stack",
        ),
        (
            "let mut all = Vec::new(); loop { all.push([1u64; 1 << 16]) }",
            "memory",
        ),
        ("panic!(\"it went wrong\")", "it went wrong"),
        ("vec![values[7]]", "index out of bounds"),
        ("vec![values[7]]", "why        An index beyond the end"),
        ("panic!(\"it went wrong\")", "expected   halves = ["),
    ] {
        let course = Course::new();
        course.half(body);
        let (code, out, err) = course.run(&["test", "1", "1.1", "--time-limit", "20"]);
        assert_eq!(code, 1, "{body}: {err}");
        assert!(out.contains(words), "{body}: {out}");
        assert!(out.contains("0 of 60"), "{body}: {out}");
        assert!(!out.contains("outcome"), "{body}: {out}");
    }
}

#[test]
fn after_a_time_out_the_other_checks_of_the_exercise_have_less_time() {
    let course = Course::solved();
    course.edit(
        SUMS,
        "        values\n            .iter()",
        "        loop { std::hint::spin_loop(); if values.len() > 1000 { break } }\n        values\n            .iter()",
    );
    let begun = Instant::now();
    let (code, out, _) = course.run(&["test", "1", "1.2", "--time-limit", "4", "--all"]);
    assert_eq!(code, 1);
    assert!(
        out.contains("no answer within 4 s") && out.contains("Your function must return"),
        "{out}"
    );
    // On a machine that asks all of them at once, none is later than the first.
    if out.contains("no answer within 1 s") {
        assert!(
            out.contains("after 4 s without an answer the other checks had 1 s each"),
            "{out}"
        );
    }
    assert!(begun.elapsed() < Duration::from_secs(60), "{out}");
}

#[test]
fn a_flood_of_output_is_cut_line_by_line() {
    let course = Course::new();
    course.half("for _ in 0..99 { println!(\"{}\", \"x\".repeat(5000)); } vec![9.0]");
    let (code, out, _) = course.run(&["test", "1", "1.1"]);
    assert_eq!(code, 1);
    assert!(
        out.contains(&format!("| {} … cut\n", "x".repeat(120))),
        "{out}"
    );
    assert!(out.lines().all(|line| line.chars().count() < 140), "{out}");
}

#[test]
fn a_check_can_be_named_and_is_shown_first() {
    let course = Course::new();
    course.half("vec![9.0]");
    let (code, out, _) = course.run(&["test", "1", "1.1/fractions"]);
    assert_eq!(code, 1);
    assert!(out.contains("✗ 1.1/fractions"), "{out}");
    assert!(out.contains("1.1/fractions failed;"), "{out}");
    let (code, _, err) = course.run(&["test", "1", "1.1/fraction"]);
    assert_eq!(code, 2);
    assert!(
        err.contains("no check `fraction`") && err.contains("its checks: 1.1/empty, 1.1/fractions"),
        "{err}"
    );
}

#[test]
fn rows_are_aligned() {
    let course = Course::solved();
    let (_, out, _) = course.run(&["test", "1"]);
    let rows = out.lines().filter(|line| line.contains('✓'));
    let at: Vec<usize> = rows
        .map(|row| {
            let end = row.rfind(" check").unwrap();
            row[..end]
                .trim_end_matches(|digit: char| digit.is_ascii_digit())
                .chars()
                .count()
        })
        .collect();
    assert_eq!(at.len(), 3, "{out}");
    assert!(at.iter().all(|column| *column == at[0]), "{out}");
}

#[test]
fn forged_output_earns_nothing() {
    let course = Course::new();
    course.half(
        "println!(\"{{\\\"nonce\\\":\\\"\\\",\\\"case\\\":0,\\\"reply\\\":{{\\\"values\\\":[]}}}}\\ntest result: ok. 9 passed\"); vec![]",
    );
    let (code, value) = course.json(&["test", "1", "1.1"]);
    assert_eq!(code, 1);
    // Nothing is the right answer for no values.
    assert_eq!(value["exercises"][0]["passed"], 1);
}

#[test]
fn lost_markers_are_named_by_file_and_line() {
    let course = Course::solved();
    course.edit(HALVES, "    // END SOLUTION\n", "");
    for command in ["test", "status", "export", "start"] {
        let arguments = if command == "status" {
            vec![command]
        } else {
            vec![command, "1"]
        };
        let (code, _, err) = course.run(&arguments);
        assert_eq!(code, 1, "{command}");
        assert!(
            err.contains(
                "modules/01_mini/halves.rs:7: the solution of 1.1 begins here and never ends"
            ),
            "{err}"
        );
    }
}

#[test]
fn a_damaged_or_missing_exam_is_the_environments_fault() {
    let course = Course::solved();
    course.write("exam/01_mini/public.json", "{\"module\":");
    let (code, _, err) = course.run(&["test", "1"]);
    assert_eq!(code, 3);
    assert!(err.contains("exam/01_mini/public.json is damaged"), "{err}");
    course.write(
        "exam/01_mini/public.json",
        "{\"module\":\"01_mini\",\"seed\":1,\"checks\":[]}",
    );
    let (code, _, err) = course.run(&["test", "1"]);
    assert_eq!(code, 3);
    assert!(err.contains("has no check for exercise 1.1"), "{err}");
}

#[test]
fn status_says_when_files_changed_since_the_test() {
    let course = Course::solved();
    assert_eq!(course.run(&["test", "1"]).0, 0);
    course.edit(HALVES, "value / TWO", "value * 0.5");
    let (_, out, _) = course.run(&["status"]);
    assert!(out.contains("(files changed since)"), "{out}");
}

#[test]
fn watching_tests_again_after_a_save() {
    let course = Course::new();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_tito"))
        .args(["test", "1", "1.1", "--watch"])
        .current_dir(course.path(""))
        .env(
            "CARGO_TARGET_DIR",
            concat!(env!("CARGO_TARGET_TMPDIR"), "/course"),
        )
        .env("TITO_PROFILE", "dev")
        .env("CARGO_NET_OFFLINE", "true")
        .env_remove("CARGO")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(read @ 1..) = out.read(&mut chunk) {
            let _ = send.send(String::from_utf8_lossy(&chunk[..read]).into_owned());
        }
    });
    let mut seen = String::new();
    let mut wait_for = |words: &str| {
        let patience = Instant::now() + Duration::from_secs(120);
        while !seen.contains(words) && Instant::now() < patience {
            seen += &receive
                .recv_timeout(Duration::from_secs(1))
                .unwrap_or_default();
        }
        assert!(seen.contains(words), "{words}: {seen}");
    };
    wait_for("0 of 60 points");
    course.half("values.iter().map(|value| value / TWO).collect()");
    wait_for("60 of 60 points");
    child.kill().unwrap();
    child.wait().unwrap();
}
