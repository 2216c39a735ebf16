//! What the class says about the exam: how hard each check was, whether it tells good from poor work, and which wrong answers many gave.
//!
//! | word | meaning |
//! |---|---|
//! | difficulty | share of the graded submissions that passed: 1 is what everybody can do |
//! | discrimination | correlation of passing this check with the points of all *other* checks (corrected item-total correlation) |
//!
//! A check that nobody fails or everybody fails has no discrimination: it tells nothing about anybody. Source of both: Ebel and Frisbie, "Essentials of
//! Educational Measurement", chapter 13.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::book::{Book, shares};
use super::{escape, points};
use crate::model::{Outcome, Status};

/// The whole.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Statistics {
    /// Submissions in which every check was asked.
    pub graded: usize,
    /// All submissions.
    pub submissions: usize,
    /// Of the totals.
    pub mean: Option<f64>,
    /// Of the totals.
    pub median: Option<f64>,
    /// In the order of the exam.
    pub checks: Vec<CheckStatistics>,
    /// Wrong answers that several gave, the most frequent first.
    pub clusters: Vec<Cluster>,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CheckStatistics {
    /// `15.3/ties-to-even`.
    pub id: String,
    /// Who passed.
    pub passed: usize,
    /// Who was asked.
    pub asked: usize,
    /// Share that passed.
    pub difficulty: f64,
    /// Nothing where it is not defined.
    pub discrimination: Option<f64>,
    /// What staff should look at.
    pub remark: Option<&'static str>,
}

/// The same wrong answer of several students.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cluster {
    /// The check.
    pub check: String,
    /// Ids of the submissions.
    pub students: Vec<String>,
    /// The catalogued mistake, if it is one. If not, it may be worth a place in the catalogue.
    pub mistake: Option<String>,
}

impl Statistics {
    /// Of a class.
    pub fn of(book: &Book) -> Statistics {
        let graded: Vec<_> = book
            .rows
            .iter()
            .filter_map(|row| row.result.as_ref())
            .filter(|result| result.status == Status::Graded)
            .collect();
        let mut answers: BTreeMap<(usize, &str), Cluster> = BTreeMap::new();
        let mut checks = Vec::new();
        for (index, info) in book.plan.checks.iter().enumerate() {
            // Passed or not, and the points of everything else.
            let mut pairs = Vec::new();
            for result in &graded {
                let shares = shares(result);
                let all: f64 = shares.iter().map(|share| share.points).sum();
                let Some(own) = shares.iter().find(|share| share.check.id == info.id) else {
                    continue;
                };
                pairs.push((f64::from(u8::from(own.check.passed())), all - own.points));
                // What nobody wrote, or what panicked, has no values that two could share.
                let has_values = matches!(
                    own.check.outcome,
                    Outcome::WrongValues | Outcome::WrongOutcome
                );
                if let (true, Some(answer)) = (has_values, &own.check.answer) {
                    let cluster = answers.entry((index, answer)).or_insert_with(|| Cluster {
                        check: info.id.clone(),
                        students: Vec::new(),
                        mistake: own
                            .check
                            .misconception
                            .as_ref()
                            .map(|mistake| mistake.title.clone()),
                    });
                    cluster.students.push(result.submission.id.clone());
                }
            }
            let passed = pairs.iter().filter(|(passed, _)| *passed > 0.0).count();
            let discrimination = correlation(&pairs);
            checks.push(CheckStatistics {
                id: info.id.clone(),
                passed,
                asked: pairs.len(),
                difficulty: if pairs.is_empty() {
                    0.0
                } else {
                    passed as f64 / pairs.len() as f64
                },
                discrimination,
                remark: match (pairs.len(), passed) {
                    (0, _) => Some("nobody was asked"),
                    (asked, passed) if passed == asked => {
                        Some("nobody fails it: does it test anything?")
                    }
                    (_, 0) => Some("everybody fails it: is it right, and is the exercise clear?"),
                    _ if discrimination.is_some_and(|value| value < 0.0) => {
                        Some("those who do well otherwise fail it: look at it")
                    }
                    _ => None,
                },
            });
        }
        let mut clusters: Vec<Cluster> = answers
            .into_values()
            .filter(|cluster| cluster.students.len() > 1)
            .collect();
        clusters.sort_by_key(|cluster| std::cmp::Reverse(cluster.students.len()));
        let mut totals: Vec<f64> = book.rows.iter().filter_map(|row| row.total).collect();
        totals.sort_by(f64::total_cmp);
        Statistics {
            graded: graded.len(),
            submissions: book.rows.len(),
            mean: (!totals.is_empty()).then(|| totals.iter().sum::<f64>() / totals.len() as f64),
            median: median(&totals),
            checks,
            clusters,
        }
    }

    /// For reading.
    pub fn markdown(&self) -> String {
        let safe = escape::markdown;
        let mut text = format!("{} of {} submissions graded", self.graded, self.submissions);
        if let (Some(mean), Some(median)) = (self.mean, self.median) {
            let _ = write!(text, "; mean {}, median {}", points(mean), points(median));
        }
        text += "\n\n| check | passed | difficulty | discrimination | |\n|---|---|---|---|---|\n";
        for check in &self.checks {
            let _ = writeln!(
                text,
                "| `{}` | {} of {} | {:.2} | {} | {} |",
                // Identifiers of the course's, in code.
                check.id.replace('`', "'"),
                check.passed,
                check.asked,
                check.difficulty,
                check
                    .discrimination
                    .map_or("undefined".into(), |value| format!("{value:.2}")),
                check.remark.unwrap_or_default()
            );
        }
        if !self.clusters.is_empty() {
            text += "\nThe same wrong answer:\n\n";
        }
        for cluster in &self.clusters {
            let mistake = cluster
                .mistake
                .as_deref()
                .map_or("not in the catalogue".into(), safe);
            let _ = writeln!(
                text,
                "- `{}`: {} students ({}): {}",
                cluster.check.replace('`', "'"),
                cluster.students.len(),
                mistake,
                safe(&cluster.students.join(", "))
            );
        }
        text
    }
}

fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// Pearson's correlation; nothing where one side does not vary.
fn correlation(pairs: &[(f64, f64)]) -> Option<f64> {
    let count = pairs.len() as f64;
    let (x, y) = pairs
        .iter()
        .fold((0.0, 0.0), |sum, pair| (sum.0 + pair.0, sum.1 + pair.1));
    let (mean_x, mean_y) = (x / count, y / count);
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for (x, y) in pairs {
        let (dx, dy) = (x - mean_x, y - mean_y);
        xx += dx * dx;
        yy += dy * dy;
        xy += dx * dy;
    }
    // Rounding leaves a trace of variance where there is none.
    (xx > 1e-9 && yy > 1e-9).then(|| xy / (xx * yy).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn the_worked_example() {
        // Passing 1, 1, 0, 0 with 4, 2, 2, 0 points elsewhere: means 0.5 and 2, sum of products 2, of squares 1 and 8.
        let pairs = [(1.0, 4.0), (1.0, 2.0), (0.0, 2.0), (0.0, 0.0)];
        let found = correlation(&pairs).expect("defined");
        // One square root and one division.
        assert!(
            (found - 2.0 / 8f64.sqrt()).abs() <= 2.0 * f64::EPSILON,
            "{found}"
        );
        assert_eq!(correlation(&[(1.0, 4.0), (1.0, 2.0)]), None);
        assert_eq!(correlation(&[]), None);
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), Some(3.0));
        assert_eq!(median(&[]), None);
    }

    /// Half of a class that had not begun an exercise was listed as having given one wrong answer.
    #[test]
    fn what_is_not_written_is_no_common_answer() {
        let mut book = sample::book();
        assert!(!Statistics::of(&book).clusters.is_empty());
        for outcome in [Outcome::Unfinished("1.1".into()), Outcome::Panicked] {
            let results = book.rows.iter_mut().filter_map(|row| row.result.as_mut());
            for check in results
                .flat_map(|result| &mut result.exercises)
                .flat_map(|one| &mut one.checks)
            {
                if !check.passed() {
                    check.outcome = outcome.clone();
                }
            }
            assert_eq!(Statistics::of(&book).clusters, []);
        }
    }

    #[test]
    fn the_class_is_counted() {
        let statistics = Statistics::of(&sample::book());
        assert_eq!((statistics.graded, statistics.submissions), (3, 6));
        let check = |id: &str| {
            statistics
                .checks
                .iter()
                .find(|check| check.id == id)
                .expect("there")
        };
        assert_eq!(
            (check("1.1/empty").passed, check("1.1/empty").difficulty),
            (3, 1.0)
        );
        assert!(
            check("1.1/empty")
                .remark
                .is_some_and(|remark| remark.starts_with("nobody fails"))
        );
        assert_eq!(check("1.1/empty").discrimination, None);
        assert_eq!(check("1.1/fractions").passed, 2);
        assert!(
            check("1.1/fractions")
                .discrimination
                .is_some_and(|value| value > 0.0)
        );
        // Both who failed gave the same answer.
        let cluster = &statistics.clusters[0];
        assert_eq!(cluster.students, ["partial", "hostile"]);
        assert!(statistics.markdown().contains("nobody fails it"));
    }
}
