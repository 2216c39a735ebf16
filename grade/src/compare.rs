//! What differs between two results of one submission, by name: all that makes the grade and all that is told with it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use tito::receipt::points;

use crate::model::{Outcome, SubmissionResult};

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// `points`, `15.3`, `15.3/ties-to-even`, `finding quantize.rs:40:5 unsafe`.
    pub what: String,
    /// In the first result.
    pub before: String,
    /// In the second.
    pub after: String,
}

/// All differences, from the whole to its parts. Times and what a submission printed are no part of it: they are other ones every time.
pub fn changes(before: &SubmissionResult, after: &SubmissionResult) -> Vec<Change> {
    let (first, second) = (facts(before), facts(after));
    let names: BTreeSet<&(u8, String)> = first.keys().chain(second.keys()).collect();
    let of = |facts: &Facts, name: &(u8, String)| {
        let fact = facts.get(name).cloned();
        fact.unwrap_or_else(|| "not there".to_owned())
    };
    let all = names.into_iter().map(|name| Change {
        what: name.1.clone(),
        before: of(&first, name),
        after: of(&second, name),
    });
    all.filter(|change| change.before != change.after).collect()
}

/// By rank, then name.
type Facts = BTreeMap<(u8, String), String>;

fn facts(result: &SubmissionResult) -> Facts {
    let mut facts = Facts::new();
    let mut say = |rank: u8, what: String, fact: String| {
        facts.insert((rank, what), fact);
    };
    let part = |earned: f64, of: u32| format!("{} of {of}", points(earned));
    let status = serde_json::to_value(result.status).unwrap_or_default();
    say(
        0,
        "status".into(),
        status.as_str().unwrap_or_default().into(),
    );
    say(0, "points".into(), part(result.points, result.of));
    say(0, "bonus".into(), part(result.bonus, result.bonus_of));
    say(0, "needs a look".into(), yes(result.needs_human).into());
    for exercise in &result.exercises {
        let kind = if exercise.bonus { " (bonus)" } else { "" };
        say(
            1,
            exercise.id.clone(),
            part(exercise.points, exercise.of) + kind,
        );
        for check in &exercise.checks {
            let mistake = check.misconception.as_ref();
            let mistake = mistake.map_or(String::new(), |one| format!(", as by {}", one.title));
            let verdict = verdict(&check.outcome);
            let weight = check.weight;
            say(
                2,
                check.id.clone(),
                format!("{verdict}{mistake}, weight {weight}"),
            );
        }
    }
    for found in &result.findings {
        let place = format!("{}:{}:{}", found.file, found.line, found.column);
        say(
            3,
            format!("finding {place} {}", found.word),
            format!(
                "{}, needs a look: {}",
                found.message,
                yes(found.needs_human)
            ),
        );
    }
    for replaced in &result.replaced {
        let hole = replaced.hole.as_deref().unwrap_or(&replaced.file);
        say(3, format!("replaced {hole}"), replaced.why.clone());
    }
    for error in &result.compile_errors {
        let place = error.file.clone().unwrap_or_default();
        let line = error.line.unwrap_or_default();
        say(
            3,
            format!("compiler {place}:{line} {}", error.message),
            "said".into(),
        );
    }
    for reason in &result.reasons {
        say(3, format!("reason \"{reason}\""), "given".into());
    }
    facts
}

fn yes(is_so: bool) -> &'static str {
    if is_so { "yes" } else { "no" }
}

/// How a check ended, in the words of the results' files.
fn verdict(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Unfinished(tag) => format!("unfinished {tag}"),
        other => {
            let word = serde_json::to_value(other).unwrap_or_default();
            word.as_str().unwrap_or_default().replace('_', " ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Finding, Replaced, Status};
    use crate::report::sample;

    fn partial() -> SubmissionResult {
        let (_, results) = sample::class();
        results.into_iter().nth(1).flatten().expect("a result")
    }

    fn changed(change: impl FnOnce(&mut SubmissionResult)) -> Vec<String> {
        let mut other = partial();
        change(&mut other);
        let changes = changes(&partial(), &other);
        changes
            .into_iter()
            .map(|one| format!("{}: {} -> {}", one.what, one.before, one.after))
            .collect()
    }

    #[test]
    fn what_takes_another_time_and_prints_another_text_is_the_same() {
        let found = changed(|result| {
            result.seconds = 99.0;
            result.exercises[0].checks[0].milliseconds = 99;
            result.exercises[0].checks[0].printed = Some("0x7f".into());
        });
        assert_eq!(found, Vec::<String>::new());
    }

    /// `verify` looked at the points without bonus, and at a hash of what was passed.
    #[test]
    fn every_part_of_a_grade_is_compared_and_named() {
        type Case<'a> = (&'a str, fn(&mut SubmissionResult));
        let cases: [Case<'_>; 11] = [
            ("points: 58.33 of 100 -> 100 of 100", |one| {
                one.points = 100.0;
            }),
            ("bonus: 0 of 5 -> 5 of 5", |one| one.bonus = 5.0),
            ("status: graded -> refused", |one| {
                one.status = Status::Refused;
            }),
            ("needs a look: no -> yes", |one| one.needs_human = true),
            ("1.2: 13.33 of 40 -> 40 of 40", |one| {
                one.exercises[1].points = 40.0;
            }),
            ("1.3: 0 of 5 (bonus) -> not there", |one| {
                one.exercises.truncate(2);
                one.exercises[1].checks.clear();
            }),
            (
                "1.2/hidden: wrong values, as by truncation <b>, weight 2 -> passed, weight 2",
                |one| {
                    let check = &mut one.exercises[1].checks[1];
                    check.outcome = Outcome::Passed;
                    check.misconception = None;
                },
            ),
            ("1.2/sums: passed, weight 1 -> passed, weight 3", |one| {
                one.exercises[1].checks[0].weight = 3;
            }),
            (
                "finding x.rs:7:1 unsafe: not there -> no, needs a look: yes",
                |one| {
                    one.findings.push(Finding {
                        file: "x.rs".into(),
                        line: 7,
                        column: 1,
                        word: "unsafe".into(),
                        message: "no".into(),
                        needs_human: true,
                    });
                },
            ),
            ("replaced 1.1: not there -> it does not compile", |one| {
                one.replaced.push(Replaced {
                    file: "x.rs".into(),
                    hole: Some("1.1".into()),
                    why: "it does not compile".into(),
                });
            }),
            ("reason \"late\": not there -> given", |one| {
                one.reasons.push("late".into());
            }),
        ];
        for (wanted, change) in cases {
            let found = changed(change);
            assert!(found.iter().any(|one| one == wanted), "{wanted}: {found:?}");
        }
    }
}
