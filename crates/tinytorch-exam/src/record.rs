//! What is recorded of an exam, and how replies are judged against the record.

use serde::{Deserialize, Serialize};

use crate::capture::run_case;
use crate::case::Case;
use crate::check::{Check, Visibility};
use crate::judge::{Difference, Judge, compare};
use crate::value::Reply;

/// The checks of a module with their cases, expected values and catalogued mistakes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExamRecord {
    /// The module, such as `15_quantization`.
    pub module: String,
    /// The seed the cases were built from.
    pub seed: u64,
    /// The checks, in the order of the exercises.
    pub checks: Vec<CheckRecord>,
}

/// One check, as data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckRecord {
    /// `15.3/ties-to-even`.
    pub id: String,
    /// `15.3`.
    pub exercise: String,
    /// Share of the exercise's points.
    pub weight: u32,
    /// Who may see it.
    pub visibility: Visibility,
    /// What was tried.
    pub what: String,
    /// Why it matters.
    pub why: String,
    /// Where to look in the student's file.
    pub item: String,
    /// How values are compared.
    pub judge: Judge,
    /// The cases with the reference's values.
    pub cases: Vec<CaseRecord>,
    /// What the catalogued mistakes that name this check answer to the same cases.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mistakes: Vec<MistakeRecord>,
    /// The same in a student's repository, where only its own wrong answers open a mistake's text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sealed: Vec<SealedMistake>,
}

/// A catalogued mistake whose text is hidden with its wrong answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedMistake {
    /// Which mistake: a hash of its wrong answers, in hexadecimal digits.
    pub key: String,
    /// Title and explanation, hidden, in hexadecimal digits.
    pub text: String,
}

/// A case and the reference's reply.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaseRecord {
    /// The input.
    pub case: Case,
    /// The reference's reply.
    pub expected: Reply,
}

/// A typical wrong solution and its replies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MistakeRecord {
    /// Completes "your values are those of ...".
    pub title: String,
    /// What it does and why that matters.
    pub explanation: String,
    /// Its reply to each case of the check.
    pub replies: Vec<Reply>,
}

/// Runs a check on its cases with the subject linked in (the reference, or a wrong solution) and records the replies
/// as the expected ones. No mistakes are recorded yet.
///
/// # Errors
///
/// If a case does not fit its own check.
pub fn expect_check(check: &Check, seed: u64) -> Result<CheckRecord, String> {
    let cases = check
        .cases(seed)
        .into_iter()
        .map(|case| run_case(check, &case).map(|expected| CaseRecord { case, expected }))
        .collect::<Result<_, _>>()?;
    Ok(CheckRecord {
        id: check.id.to_owned(),
        exercise: check.exercise().to_owned(),
        weight: check.weight,
        visibility: check.visibility,
        what: check.what.to_owned(),
        why: check.why.to_owned(),
        item: check.item.to_owned(),
        judge: (check.judge)(),
        cases,
        mistakes: Vec::new(),
        sealed: Vec::new(),
    })
}

/// What came of one check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckVerdict {
    /// Whether every case was answered, and rightly. A check without cases is never passed.
    pub passed: bool,
    /// The number of the first case that failed or has no reply.
    pub case: Option<usize>,
    /// The first difference in that case; `None` if it has no reply.
    pub difference: Option<Difference>,
    /// The number of the catalogued mistake (of [`CheckRecord::mistakes`]) that answers exactly so.
    pub mistake: Option<usize>,
}

/// Judges the replies to a check's cases, in order; fewer replies than cases is a failure. Never panics.
pub fn judge_check(record: &CheckRecord, replies: &[Reply]) -> CheckVerdict {
    let failure =
        record
            .cases
            .iter()
            .enumerate()
            .find_map(|(number, case)| match replies.get(number) {
                None => Some((number, None)),
                Some(reply) => {
                    let verdict = compare(&record.judge, &case.expected, reply);
                    (!verdict.passed).then_some((number, verdict.difference))
                }
            });
    match failure {
        None => CheckVerdict {
            passed: !record.cases.is_empty() && replies.len() == record.cases.len(),
            case: None,
            difference: None,
            mistake: None,
        },
        Some((number, difference)) => CheckVerdict {
            passed: false,
            case: Some(number),
            difference,
            mistake: record
                .mistakes
                .iter()
                .position(|mistake| mistake.answers_like(replies)),
        },
    }
}

impl MistakeRecord {
    /// Whether all replies are this mistake's, bit for bit. Panics are compared by their text: lines differ.
    pub fn answers_like(&self, replies: &[Reply]) -> bool {
        self.replies.len() == replies.len()
            && self
                .replies
                .iter()
                .zip(replies)
                .all(|(mine, theirs)| match (mine, theirs) {
                    (Reply::Panicked(mine), Reply::Panicked(theirs)) => {
                        mine.message == theirs.message
                    }
                    _ => mine == theirs,
                })
    }
}

/// The points of an exercise: its points times the passed share of the weight in play; none if nothing was in play.
pub fn score(points: f64, checks: impl IntoIterator<Item = (u32, bool)>) -> f64 {
    let (mut passed, mut total) = (0.0, 0.0);
    for (weight, ok) in checks {
        total += f64::from(weight);
        passed += if ok { f64::from(weight) } else { 0.0 };
    }
    if total > 0.0 {
        points * passed / total
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::value::Values;

    fn doubling() -> Check {
        Check {
            id: "1.1/doubles",
            weight: 2,
            visibility: Visibility::Public,
            what: "doubles",
            why: "so that it is twice as much",
            item: "double",
            cases: |rng| {
                (0..3)
                    .map(|_| Case::new("random", Values::new().int("n", rng.int(1, 9))))
                    .collect()
            },
            run: |case| Ok(Values::new().int("twice", 2 * case.int::<i64>("n")?)),
            judge: || Judge::Equal,
        }
    }

    fn answers(record: &CheckRecord, map: impl Fn(i64) -> i64) -> Vec<Reply> {
        record
            .cases
            .iter()
            .map(|case| Reply::Values(Values::new().int("twice", map(case.case.int("n").unwrap()))))
            .collect()
    }

    #[test]
    fn the_reference_passes_and_a_known_mistake_is_named() {
        let mut record = expect_check(&doubling(), 7).unwrap();
        let squares = answers(&record, |n| n * n);
        record.mistakes.push(MistakeRecord {
            title: "squaring".to_owned(),
            explanation: String::new(),
            replies: squares.clone(),
        });
        assert!(judge_check(&record, &answers(&record, |n| n + n)).passed);
        let verdict = judge_check(&record, &squares);
        assert_eq!((verdict.passed, verdict.mistake), (false, Some(0)));
        assert_eq!(judge_check(&record, &answers(&record, |n| n)).mistake, None);
    }

    #[test]
    fn missing_and_surplus_replies_and_checks_without_cases_fail() {
        let mut record = expect_check(&doubling(), 7).unwrap();
        let mut right = answers(&record, |n| n + n);
        right.push(right[0].clone());
        assert!(!judge_check(&record, &right).passed);
        let verdict = judge_check(&record, &right[..2]);
        assert_eq!(
            (verdict.passed, verdict.case, verdict.difference),
            (false, Some(2), None)
        );
        record.cases.clear();
        assert!(!judge_check(&record, &[]).passed);
    }

    #[test]
    fn a_record_survives_json() {
        let record = ExamRecord {
            module: "1_one".to_owned(),
            seed: 7,
            checks: vec![expect_check(&doubling(), 7).unwrap()],
        };
        let json = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<ExamRecord>(&json).unwrap(), record);
    }

    #[test]
    fn points_follow_the_passed_weight() {
        assert_eq!(score(10.0, [(1, true), (3, false)]), 2.5);
        assert_eq!(score(10.0, []), 0.0);
    }
}
