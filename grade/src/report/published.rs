//! All that a student may come to see, whatever the instructor publishes with. What must not get out is looked for here: by tests, and by the self-attack.

use clap::ValueEnum;

use super::book::{Book, Row};
use super::feedback::Feedback;
use super::gradescope::{self, Hidden};
use super::{github, junit, pages};
use crate::model::SubmissionResult;

/// Every document about one student, with the name of its format.
pub fn documents(book: &Book, row: &Row) -> Vec<(&'static str, String)> {
    let told = Feedback::of(book, row, None);
    let alone = Book {
        rows: vec![row.clone()],
        ..book.clone()
    };
    let mut all = vec![
        ("feedback.md", pages::markdown(&told)),
        ("feedback.html", pages::html(&told)),
        (
            "feedback.json",
            serde_json::to_string(&told).unwrap_or_default(),
        ),
        ("GitHub Classroom", github::runner(book, row).to_string()),
        ("JUnit", junit::document(&alone)),
    ];
    let gradescope = Hidden::value_variants().iter();
    all.extend(gradescope.map(|hidden| {
        let document = gradescope::results(book, row, *hidden);
        ("Gradescope", document.to_string())
    }));
    all
}

/// The same result on another day: its hidden checks, and so the whole, took other times.
pub fn at_another_pace(result: &SubmissionResult) -> SubmissionResult {
    let mut other = result.clone();
    other.seconds += 1.5;
    let checks = other.exercises.iter_mut().flat_map(|one| &mut one.checks);
    for check in checks.filter(|check| check.visibility == tinytorch_exam::Visibility::Hidden) {
        check.milliseconds += 1500;
    }
    other
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    /// GitHub Classroom was told how long a hidden check took: a submission that sleeps by the bits of an input told its author the input.
    #[test]
    fn no_document_of_a_student_depends_on_the_time_of_hidden_checks() {
        let (plan, results) = sample::class();
        let slower = results
            .iter()
            .map(|result| result.as_ref().map(at_another_pace))
            .collect();
        let book = Book::new(plan.clone(), results, None, None).expect("a book");
        let slower = Book::new(plan, slower, None, None).expect("a book");
        for (row, slow) in book.rows.iter().zip(&slower.rows) {
            let pairs = documents(&book, row)
                .into_iter()
                .zip(documents(&slower, slow));
            for ((name, text), (_, other)) in pairs {
                assert_eq!(text, other, "{name}");
            }
        }
    }

    #[test]
    fn a_public_check_tells_its_time() {
        let book = sample::book();
        let document = github::runner(&book, &book.rows[0]);
        let times: Vec<u64> = document["tests"]
            .as_array()
            .expect("tests")
            .iter()
            .filter_map(|test| test["duration"].as_u64())
            .collect();
        // The third and the fifth are hidden.
        assert_eq!(times, [3, 3, 0, 3, 0, 3]);
    }
}
