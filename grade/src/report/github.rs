//! GitHub Classroom: what a runner hands to the reporter.
//!
//! A step of the workflow sets an output `result`, base64 of a JSON document. The reporter adds up the scores of the tests; its console shows
//! the share of passed tests of `max_score`. Here every test has its score, all or nothing, in hundredths that add up to the points earned; `max_score` is what the
//! exercises are worth without bonus, so that full marks need no bonus and a bonus shows as more than all.

use std::fmt::Write;

use serde_json::{Value, json};

use super::book::{Book, Hundredths, Row, hundredths, shares};
use super::{escape, points};
use tinytorch_exam::Visibility;

/// The document of one student.
pub fn runner(book: &Book, row: &Row) -> Value {
    let number = |value: f64| points(value).parse::<f64>().unwrap_or(value);
    let command = format!("tito test {}", book.plan.module);
    let mut tests = Vec::new();
    let mut all = true;
    let parts = row.result.iter().flat_map(hundredths);
    for (share, part) in row.result.iter().flat_map(shares).zip(parts) {
        let check = share.check;
        all &= check.passed() || share.exercise.bonus;
        let message = match check.visibility {
            _ if check.passed() => String::new(),
            // In the log of a repository that students can read, even the name of a hidden check's failure is enough.
            Visibility::Hidden => "a hidden check failed".into(),
            Visibility::Public => escape::github(&check.message),
        };
        tests.push(json!({
            "name": escape::github(&check.id),
            "status": if check.passed() { "pass" } else { "fail" },
            "score": Hundredths::to_points(part.points),
            "message": message,
            "test_code": command,
            "filename": "",
            "line_no": 0,
            "duration": check.for_student().milliseconds,
        }));
    }
    let status = match row.total {
        Some(_) if all && !tests.is_empty() => "pass",
        Some(_) => "fail",
        None => "error",
    };
    let max: f64 = match &row.result {
        Some(result) if !result.exercises.is_empty() => {
            let required = result.exercises.iter().filter(|exercise| !exercise.bonus);
            required.map(|exercise| f64::from(exercise.of)).sum()
        }
        _ => book.of(),
    };
    json!({ "version": 3, "status": status, "max_score": number(max), "tests": tests })
}

/// As the step's output wants it.
pub fn encoded(document: &Value) -> String {
    base64(document.to_string().as_bytes())
}

/// RFC 4648, section 4, with padding.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let mut word = [0; 4];
        word[1..=three.len()].copy_from_slice(three);
        let word = u32::from_be_bytes(word);
        for index in 0..4 {
            let six = word >> (18 - 6 * index) & 63;
            if index <= three.len() {
                text.push(char::from(LETTERS[six as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

/// Foreign text for a runner's log: no command in it is obeyed until the token comes again. The token must be one that the text's author could not know.
pub fn fenced(text: &str, token: &str) -> String {
    let mut log = format!("::stop-commands::{token}\n");
    for line in crate::clean::text(text).lines() {
        let _ = writeln!(log, "{line}");
    }
    let _ = writeln!(log, "::{token}::");
    log
}

/// Checks a document against what the reporter reads.
pub fn problems(document: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    let mut check = |is_right: bool, what: &str| {
        if !is_right {
            problems.push(what.to_owned());
        }
    };
    let is_status = |value: &Value| {
        value
            .as_str()
            .is_some_and(|word| ["pass", "fail", "error"].contains(&word))
    };
    check(document["version"].is_u64(), "version");
    check(is_status(&document["status"]), "status");
    check(document["max_score"].is_number(), "max_score");
    let tests = document["tests"].as_array();
    check(tests.is_some(), "tests");
    for test in tests.into_iter().flatten() {
        check(is_status(&test["status"]), "a test's status");
        // A missing score becomes NaN in the reporter's sum.
        check(
            test["score"].as_f64().is_some_and(f64::is_finite),
            "a test's score",
        );
        check(
            test["line_no"].is_u64() && test["duration"].is_number(),
            "a test's line_no or duration",
        );
        for field in ["name", "message", "test_code", "filename"] {
            let text = test[field].as_str();
            check(text.is_some_and(|text| !text.contains(['\n', '\r'])), field);
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn base64_is_that_of_the_standard() {
        // RFC 4648, section 10.
        for (text, wanted) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(text.as_bytes()), wanted);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }

    #[test]
    fn every_document_is_what_the_reporter_reads() {
        let book = sample::book();
        for row in &book.rows {
            let document = runner(&book, row);
            assert_eq!(problems(&document), Vec::<String>::new());
            let text = document.to_string();
            assert!(
                !text.contains(sample::CANARY) && !text.contains("::") && !text.contains("##["),
                "{text}"
            );
            let encoded = encoded(&document);
            assert!(
                encoded
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte))
            );
        }
    }

    #[test]
    fn scores_add_up_to_the_points() {
        let book = sample::book();
        let document = runner(&book, &book.rows[1]);
        let scores = document["tests"].as_array().expect("tests").iter();
        let sum: f64 = scores.filter_map(|test| test["score"].as_f64()).sum();
        assert_eq!(format!("{sum:.2}"), "58.33");
        // The bonus counted as required: without it nobody had full marks.
        assert_eq!(document["max_score"], 100.0);
        assert_eq!(document["status"], "fail");
        assert_eq!(runner(&book, &book.rows[0])["status"], "pass");
        assert_eq!(runner(&book, &book.rows[4])["status"], "error");
        assert_eq!(runner(&book, &book.rows[3])["status"], "fail");
    }

    /// Each score rounded for itself gave a perfect submission 104.98 of 105.
    #[test]
    fn thirds_and_sevenths_add_up_and_a_missing_bonus_costs_nothing() {
        let (plan, _) = sample::class();
        let all = sample::all_checks();
        let required: Vec<&str> = all
            .iter()
            .map(String::as_str)
            .filter(|id| !id.starts_with("1.3/"))
            .collect();
        let mut result = sample::result(plan.submissions[0].clone(), &required, "");
        for exercise in &mut result.exercises {
            let copy = exercise.checks[0].clone();
            exercise.checks.extend(std::iter::repeat_n(copy, 4));
        }
        let parts = hundredths(&result);
        let of: i64 = parts.iter().map(|part| part.of).sum();
        let points: i64 = parts.iter().map(|part| part.points).sum();
        assert_eq!((points, of), (10_000, 10_500));
        for (share, part) in shares(&result).iter().zip(&parts) {
            let off = share.of * 100.0 - part.of as f64;
            assert!(off.abs() < 1.0, "{off}");
        }
        let book = Book::new(
            sample::plan(vec![plan.submissions[0].clone()]),
            vec![Some(result)],
            None,
            None,
        )
        .expect("a book");
        let document = runner(&book, &book.rows[0]);
        assert_eq!(document["max_score"], 100.0);
        assert_eq!(document["status"], "pass");
    }

    #[test]
    fn a_log_obeys_nothing_inside_the_fence() {
        let log = fenced(sample::HOSTILE, "a1b2c3");
        assert!(log.starts_with("::stop-commands::a1b2c3\n"));
        assert!(log.ends_with("\n::a1b2c3::\n"));
        assert!(!log.contains('\u{1b}'));
    }
}
