//! Gradescope's `results.json`, one per student.

use serde_json::{Value, json};

use super::book::{Book, Hundredths, Row, hundredths};
use super::feedback::Feedback;
use super::{escape, pages, points, short};

/// When students may see that a hidden check exists and how it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Hidden {
    /// Never.
    #[default]
    Hidden,
    /// From the deadline on.
    AfterDueDate,
    /// Once grades are published.
    AfterPublished,
    /// At once.
    Visible,
}

impl Hidden {
    fn word(self) -> &'static str {
        match self {
            Hidden::Hidden => "hidden",
            Hidden::AfterDueDate => "after_due_date",
            Hidden::AfterPublished => "after_published",
            Hidden::Visible => "visible",
        }
    }
}

/// The document of one student. Where the grade is not known there is none of it: Gradescope then shows the submission as not graded.
pub fn results(book: &Book, row: &Row, hidden: Hidden) -> Value {
    let feedback = Feedback::of(book, row, None);
    let mut tests = Vec::new();
    // In the order of the feedback, which is the result's.
    let mut parts = row.result.iter().flat_map(hundredths);
    for (number, exercise) in feedback.exercises.iter().enumerate() {
        for (position, check) in exercise.checks.iter().enumerate() {
            let mut words: Vec<String> = Vec::new();
            words.extend(check.message.iter().map(|text| escape::line(text)));
            words.extend(check.misconception.iter().map(|mistake| {
                escape::line(&format!(
                    "This is the answer of: {}. {}",
                    mistake.title, mistake.explanation
                ))
            }));
            words.extend(
                (!check.passed).then(|| escape::line(&format!("Why it matters: {}", check.why))),
            );
            let (score, of) =
                parts
                    .next()
                    .map_or((rounded(check.points), rounded(check.of)), |part| {
                        (
                            Hundredths::to_points(part.points),
                            Hundredths::to_points(part.of),
                        )
                    });
            tests.push(json!({
                "score": score,
                "max_score": of,
                "status": if check.passed { "passed" } else { "failed" },
                "name": format!("{}: {}", exercise.title, short(&check.id)),
                "name_format": "text",
                "number": format!("{}.{}", number + 1, position + 1),
                // Plain text: nothing of it is interpreted.
                "output": words.join("\n"),
                "output_format": "text",
                "tags": [exercise.id],
                "visibility": if check.hidden { hidden.word() } else { "visible" },
                "extra_data": {},
            }));
        }
    }
    let mut document = json!({
        "output": pages::markdown(&without_exercises(feedback)),
        "output_format": "md",
        "test_output_format": "text",
        "test_name_format": "text",
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "tests": tests,
    });
    let result = row.result.as_ref();
    if let Some(total) = row.total {
        document["score"] = json!(total);
    } else {
        document["output"] =
            json!("The grader failed; your instructor will grade this submission again.");
        document["tests"] = json!([]);
    }
    if let Some(result) = result {
        // No `execution_time`: hidden checks are part of it, and code can wait as long as a hidden input says.
        if let Some(receipt) = &result.receipt {
            document["extra_data"] =
                json!({ "submission": receipt.submission, "outcome": receipt.outcome });
        }
    }
    document
}

/// What the tests say is not said twice.
fn without_exercises(mut feedback: Feedback) -> Feedback {
    feedback.exercises.clear();
    feedback
}

fn rounded(number: f64) -> f64 {
    points(number).parse().unwrap_or(number)
}

/// Checks a document against what Gradescope's autograder specification says of it. Used on everything that is written, and by tests.
pub fn problems(document: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    let mut check = |is_right: bool, what: &str| {
        if !is_right {
            problems.push(what.to_owned());
        }
    };
    let is_word = |value: &Value, words: &[&str]| {
        value.is_null() || value.as_str().is_some_and(|word| words.contains(&word))
    };
    const FORMATS: [&str; 5] = ["text", "html", "simple_format", "md", "ansi"];
    const VISIBILITIES: [&str; 4] = ["visible", "hidden", "after_due_date", "after_published"];
    let tests = document["tests"].as_array();
    let score = &document["score"];
    check(
        score.is_null() || score.as_f64().is_some_and(|score| score >= 0.0),
        "score is no number",
    );
    for field in ["output_format", "test_output_format", "test_name_format"] {
        check(is_word(&document[field], &FORMATS), field);
    }
    for field in ["visibility", "stdout_visibility"] {
        check(is_word(&document[field], &VISIBILITIES), field);
    }
    check(document["output"].is_string(), "output is no text");
    check(tests.is_some(), "tests is no list");
    for test in tests.into_iter().flatten() {
        check(
            test["score"].is_number() && test["max_score"].is_number(),
            "a test without score",
        );
        check(
            is_word(&test["status"], &["passed", "failed"]),
            "a test's status",
        );
        check(
            is_word(&test["visibility"], &VISIBILITIES),
            "a test's visibility",
        );
        check(
            is_word(&test["output_format"], &FORMATS),
            "a test's output_format",
        );
        check(
            test["name"].is_string() && test["output"].is_string(),
            "a test without name or output",
        );
        check(
            test["tags"]
                .as_array()
                .is_some_and(|tags| tags.iter().all(Value::is_string)),
            "a test's tags",
        );
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn every_document_is_as_specified_and_tells_no_secret() {
        let book = sample::book();
        for row in &book.rows {
            let document = results(&book, row, Hidden::AfterPublished);
            assert_eq!(problems(&document), Vec::<String>::new());
            let text = document.to_string();
            assert!(!text.contains(sample::CANARY), "{text}");
            assert!(
                !text.contains("\\u001b") && !text.contains('\u{202e}'),
                "{text}"
            );
            // Interpreted as Markdown; the tests' own texts are shown as they are.
            let interpreted = document["output"].as_str().expect("text");
            assert!(!interpreted.contains("<script>"), "{interpreted}");
        }
    }

    #[test]
    fn scores_are_those_of_the_book_and_hidden_checks_are_hidden() {
        let book = sample::book();
        let document = results(&book, &book.rows[1], Hidden::default());
        assert_eq!(document["score"], 58.33);
        let tests = document["tests"].as_array().expect("tests");
        let hidden: Vec<&Value> = tests
            .iter()
            .filter(|test| test["visibility"] == "hidden")
            .collect();
        assert_eq!((tests.len(), hidden.len()), (6, 2));
        assert_eq!(tests[0]["number"], "1.1");
        assert_eq!(tests[1]["max_score"], 30.0);
    }

    /// Each rounded for itself, they were a hundredth or two short of the grade.
    #[test]
    fn the_tests_add_up_to_the_score() {
        let book = sample::book();
        for (row, wanted) in [(0, "105.00 of 105.00"), (1, "58.33 of 105.00")] {
            let document = results(&book, &book.rows[row], Hidden::default());
            let tests = document["tests"].as_array().expect("tests");
            let sum =
                |field: &str| -> f64 { tests.iter().filter_map(|test| test[field].as_f64()).sum() };
            let found = format!("{:.2} of {:.2}", sum("score"), sum("max_score"));
            assert_eq!(found, wanted);
        }
    }

    #[test]
    fn a_fault_has_no_score() {
        let book = sample::book();
        let document = results(&book, &book.rows[4], Hidden::default());
        assert!(document["score"].is_null());
        // A refusal has: nothing.
        let document = results(&book, &book.rows[3], Hidden::default());
        assert_eq!(document["score"], 0.0);
    }

    #[test]
    fn a_wrong_document_is_noticed() {
        let wrong = json!({"output": 3, "visibility": "secret", "tests": [{"status": "ok"}]});
        assert!(problems(&wrong).len() >= 5, "{:?}", problems(&wrong));
    }
}
