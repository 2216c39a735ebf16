//! Whether a result is still what the grader wrote: a file that somebody changed by hand must not become a grade.
//!
//! It is no signature, and no wall: whoever can write the results can grade as well. It notices what was changed in passing, in an editor or by a
//! script, also where all sums were changed along; and it counts the points again from what became of every check.

use tinytorch_exam::score;
use tito::snapshot::hash;

use crate::model::{Plan, Status, SubmissionResult};
use crate::receipts::outcome;

/// What a result is sealed with: SHA-256 over all of it but the seal itself and how long things took.
pub fn seal(result: &SubmissionResult) -> String {
    let mut value = serde_json::to_value(result).unwrap_or_default();
    settle(&mut value);
    hash(value.to_string().as_bytes())
}

/// Leaves out what decides nothing, and writes fractions so that they are the same when they were read from a file.
fn settle(value: &mut serde_json::Value) {
    use serde_json::Value;
    match value {
        Value::Object(fields) => {
            for name in ["seal", "seconds", "milliseconds"] {
                fields.remove(name);
            }
            fields.values_mut().for_each(settle);
        }
        Value::Array(values) => values.iter_mut().for_each(settle),
        // Reading decimal digits may miss the last bit, which no sixth decimal shows.
        Value::Number(number) if number.is_f64() => {
            *value = Value::String(format!("{:.6}", number.as_f64().unwrap_or_default()));
        }
        _ => {}
    }
}

/// Why a result is not taken for a grade: what was changed since it was written, and which of its sums are not those of its checks.
pub fn problems(result: &SubmissionResult) -> Vec<String> {
    let mut problems = Vec::new();
    let mut compare = |what: &str, said: f64, counted: f64| {
        // A sum of products and quotients below 1000: far fewer than a thousand roundings of 2^-43 each.
        if (said - counted).abs() > 1e-9 {
            let points = tito::receipt::points;
            problems.push(format!(
                "{what} says {} points, its checks give {}",
                points(said),
                points(counted)
            ));
        }
    };
    let sum = |bonus: bool| {
        let own = result.exercises.iter().filter(|one| one.bonus == bonus);
        own.map(|one| one.points).sum()
    };
    for exercise in &result.exercises {
        let shares = exercise.checks.iter();
        let shares = shares.map(|check| (check.weight, check.passed()));
        let counted = score(f64::from(exercise.of), shares);
        compare(&exercise.id, exercise.points, counted);
    }
    compare("the result", result.points, sum(false));
    compare("the bonus", result.bonus, sum(true));
    match &result.receipt {
        Some(receipt) if receipt.outcome != outcome(result) => {
            problems.push("the receipt is that of another outcome".into());
        }
        None if result.status == Status::Graded => problems.push("it has no receipt".into()),
        _ => {}
    }
    if problems.is_empty() && result.seal != seal(result) {
        problems.push("its text is not what the grader wrote".into());
    }
    problems
}

/// Why a result is not that of this plan: another student's file, or one of an earlier run that asked for something else.
pub fn strangeness(result: &SubmissionResult, plan: &Plan, id: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut compare = |same: bool, what: &str| {
        if !same {
            found.push(what.to_owned());
        }
    };
    compare(
        result.submission.id == id,
        "it is the result of another submission",
    );
    compare(result.module == plan.module, "it is of another module");
    if let Some(receipt) = &result.receipt {
        compare(receipt.course == plan.course, "the course was another one");
        compare(receipt.exam == plan.exam, "the exam was another one");
        compare(receipt.seed == plan.seed, "the seed was another one");
        compare(
            receipt.toolchain == plan.toolchain,
            "the compiler was another one",
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn written() -> SubmissionResult {
        let (_, results) = sample::class();
        let mut result = results.into_iter().nth(1).flatten().expect("a result");
        result.seal = seal(&result);
        result
    }

    /// Points that were changed in an editor were published.
    #[test]
    fn whatever_is_changed_by_hand_is_noticed() {
        assert_eq!(problems(&written()), Vec::<String>::new());
        type Case<'a> = (&'a str, fn(&mut SubmissionResult));
        let changes: [Case<'_>; 7] = [
            ("58.33", |result| result.points = 100.0),
            ("1.2 says 40 points", |result| {
                result.exercises[1].points = 40.0;
                result.points += 40.0 * 2.0 / 3.0;
            }),
            ("bonus", |result| result.bonus = 5.0),
            ("outcome", |result| {
                let exercise = &mut result.exercises[1];
                for check in &mut exercise.checks {
                    check.outcome = crate::model::Outcome::Passed;
                }
                let more = 40.0 - exercise.points;
                exercise.points = 40.0;
                result.points += more;
            }),
            ("text", |result| result.needs_human = true),
            ("text", |result| result.submission.name = "Somebody".into()),
            ("no receipt", |result| result.receipt = None),
        ];
        for (words, change) in changes {
            let mut result = written();
            change(&mut result);
            let found = problems(&result).join("; ");
            assert!(found.contains(words), "{words}: {found}");
        }
    }

    #[test]
    fn a_result_that_was_read_is_the_one_that_was_written() {
        let mut result = written();
        result.seconds = 1.0 / 3.0;
        let text = serde_json::to_string(&result).expect("JSON");
        let read: SubmissionResult = serde_json::from_str(&text).expect("a result");
        assert_eq!(problems(&read), Vec::<String>::new());
        result.seconds = 7.0;
        assert_eq!(
            problems(&result),
            Vec::<String>::new(),
            "time decides nothing"
        );
    }

    #[test]
    fn the_result_of_another_is_noticed() {
        let (plan, _) = sample::class();
        assert_eq!(
            strangeness(&written(), &plan, "partial"),
            Vec::<String>::new()
        );
        let found = strangeness(&written(), &plan, "jane").concat();
        assert!(found.contains("another submission"), "{found}");
        let other = Plan { seed: 8, ..plan };
        let found = strangeness(&written(), &other, "partial").concat();
        assert!(found.contains("seed"), "{found}");
    }
}
