//! The class: one row per student of the plan, with all that makes the grade.

use anyhow::Result;
use tito::failure::Failure;

use super::answers::Marks;
use super::late::{Lateness, Policy};
use crate::graft::CHANGED_OUTSIDE;
use crate::model::{
    CheckInfo, CheckResult, ExerciseResult, Outcome, Plan, Status, Submission, SubmissionResult,
};
use crate::results::Results;
use crate::seal;

/// All that reports are made of.
#[derive(Clone, Debug)]
pub struct Book {
    /// What was asked.
    pub plan: Plan,
    /// In the order of the plan.
    pub rows: Vec<Row>,
    /// Points to be had for written answers; 0 without marks.
    pub written_of: f64,
}

/// One student.
#[derive(Clone, Debug)]
pub struct Row {
    /// Who, from the result if there is one.
    pub submission: Submission,
    /// What came of it; nothing if it was not graded yet.
    pub result: Option<SubmissionResult>,
    /// How late it was.
    pub lateness: Lateness,
    /// Points for written answers, if they were marked.
    pub written: Option<f64>,
    /// Points of code and bonus and written answers, before lateness.
    pub earned: f64,
    /// What is left after lateness: the grade. Nothing, while it is not known.
    pub total: Option<f64>,
    /// What is left to a person to decide, a sentence each.
    pub open: Vec<String>,
}

impl Book {
    /// Reads a folder of results.
    ///
    /// # Errors
    ///
    /// Usage, if there is no plan; whatever is wrong with a result, the policy's times or the marks.
    pub fn load(results: &Results, policy: Option<&Policy>, marks: Option<&Marks>) -> Result<Book> {
        let Some(plan) = results.plan()? else {
            return Err(Failure::usage(format!(
                "{} holds no plan.json, so it is no folder of results",
                results.folder().display()
            ))
            .help("name the folder that `tito grade run --out` wrote")
            .into());
        };
        let mut graded = Vec::new();
        let mut refused = Vec::new();
        for submission in &plan.submissions {
            let kept = results.get(&submission.id)?;
            let why = kept
                .as_ref()
                .and_then(|result| not_taken(result, &plan, &submission.id));
            // Nothing of it may be published: it is as if it was not graded.
            graded.push(kept.filter(|_| why.is_none()));
            refused.push(why);
        }
        let mut book = Book::new(plan, graded, policy, marks)?;
        for (row, why) in book.rows.iter_mut().zip(refused) {
            row.open.extend(why);
        }
        Ok(book)
    }

    /// The book of a plan and a result, or none, for each of its submissions.
    ///
    /// # Errors
    ///
    /// Those of the policy's times and the marks.
    pub fn new(
        mut plan: Plan,
        graded: Vec<Option<SubmissionResult>>,
        policy: Option<&Policy>,
        marks: Option<&Marks>,
    ) -> Result<Book> {
        if plan.checks.is_empty() {
            plan.checks = checks(&graded);
        }
        let ids: Vec<&str> = plan.submissions.iter().map(|one| one.id.as_str()).collect();
        if let Some(stranger) = policy.and_then(|policy| policy.strangers(&ids).next()) {
            return Err(Failure::usage(format!(
                "the late policy has an exception for `{stranger}`, who is not in this class"
            ))
            .help("exceptions go by the id of the submission, as the results name it")
            .into());
        }
        let written_of = marks.map_or(0.0, Marks::of);
        let mut rows = Vec::new();
        for (planned, result) in plan.submissions.iter().zip(graded) {
            let submission = result
                .as_ref()
                .map_or(planned, |result| &result.submission)
                .clone();
            let lateness = match policy {
                Some(policy) => policy.lateness(&submission)?,
                None => Lateness::default(),
            };
            let written = marks.and_then(|marks| marks.points_of(&submission.id));
            let mut row = row(submission, result, lateness, written, policy, marks);
            let exception = policy.and_then(|policy| policy.students.get(&planned.id));
            if !exception.is_some_and(|exception| exception.settled) {
                row.open.extend(row.result.as_ref().and_then(to_look_at));
                // Of the plan: what lies beside a submission may have changed since it was graded.
                row.open.extend(planned.notes.iter().cloned());
            }
            rows.push(row);
        }
        Ok(Book {
            plan,
            rows,
            written_of,
        })
    }

    /// Points to be had without bonus: code and written answers.
    pub fn of(&self) -> f64 {
        let code = self
            .plan
            .exercises
            .iter()
            .filter(|exercise| !exercise.bonus);
        let code: u32 = code.map(|exercise| exercise.points).sum();
        f64::from(code) + self.written_of
    }
}

/// Why a result's file is not taken for a grade, as a sentence for staff.
fn not_taken(result: &SubmissionResult, plan: &Plan, id: &str) -> Option<String> {
    let strange = seal::strangeness(result, plan, id);
    let changed = seal::problems(result);
    let (what, why) = match (changed.is_empty(), strange.is_empty()) {
        (true, true) => return None,
        (false, _) => ("was changed after it was graded", changed),
        (true, false) => ("is not of this run", strange),
    };
    Some(format!(
        "its result {what}: {}; it counts for nothing until `run` has graded it again",
        why.join("; ")
    ))
}

/// The checks as the results know them, where the plan does not name them.
fn checks(graded: &[Option<SubmissionResult>]) -> Vec<CheckInfo> {
    let first = graded
        .iter()
        .flatten()
        .find(|result| result.status == Status::Graded);
    let exercises = first.into_iter().flat_map(|result| &result.exercises);
    exercises
        .flat_map(|exercise| exercise.checks.iter().map(move |check| (exercise, check)))
        .map(|(exercise, check)| CheckInfo {
            id: check.id.clone(),
            exercise: exercise.id.clone(),
            weight: check.weight,
            visibility: check.visibility,
            what: String::new(),
            why: String::new(),
            item: String::new(),
        })
        .collect()
}

/// What somebody should look at, as its places.
fn suspicions(result: &SubmissionResult) -> Vec<String> {
    let found = result.findings.iter().filter(|one| one.needs_human);
    let found = found.map(|one| format!("`{}` in {}:{}", one.word, one.file, one.line));
    let refused = result
        .submission
        .refused
        .iter()
        .filter(|one| one.suspicious);
    let refused = refused.map(|one| format!("{}: {}", one.path, one.why));
    // The graft says it in a sentence of its own.
    let changed = result
        .reasons
        .iter()
        .filter(|one| one.contains(CHANGED_OUTSIDE));
    found.chain(refused).chain(changed.cloned()).collect()
}

/// What a person has to decide about a result, if anything.
fn to_look_at(result: &SubmissionResult) -> Option<String> {
    let ask = "ask whether it is the right upload";
    if result.status == Status::Refused {
        return Some(format!("nothing in it could be graded: {ask}"));
    }
    let mut checks = result.exercises.iter().flat_map(|one| &one.checks);
    let is_open = |check: &CheckResult| matches!(check.outcome, Outcome::Unfinished(_));
    if result.status == Status::Graded && checks.clone().next().is_some() && checks.all(is_open) {
        return Some(format!("nothing in it is written: {ask}"));
    }
    if !result.needs_human {
        return None;
    }
    let look = "somebody should look at it before the grade is published";
    Some(match suspicions(result).as_slice() {
        [] => look.to_owned(),
        [only] => format!("{look}: {only}"),
        [first, others @ ..] => format!("{look}: {first}; and {} more", others.len()),
    })
}

fn row(
    submission: Submission,
    result: Option<SubmissionResult>,
    lateness: Lateness,
    written: Option<f64>,
    policy: Option<&Policy>,
    marks: Option<&Marks>,
) -> Row {
    let mut open = Vec::new();
    let code = result
        .as_ref()
        .map_or(0.0, |result| result.points + result.bonus);
    let earned = code + written.unwrap_or(0.0);
    let of = result.as_ref().map_or(0.0, |result| f64::from(result.of));
    let of = of + marks.map_or(0.0, Marks::of);
    let mut is_known = true;
    match result.as_ref().map(|result| result.status) {
        None => {
            open.push("not graded yet".to_owned());
            is_known = false;
        }
        Some(Status::Fault) => {
            open.push("the grader failed, not the student: grade it again".to_owned());
            is_known = false;
        }
        Some(Status::Refused | Status::Graded) => {}
    }
    if lateness.is_unknown {
        open.push("it is not known when it was handed in".to_owned());
    }
    if marks.is_some() && written.is_none() {
        open.push("the written answers are not marked".to_owned());
    }
    let total = is_known.then(|| {
        let left = policy.map_or(earned, |policy| policy.left(&lateness, earned, of));
        // Grades are published with two decimals; what is shown is what is counted.
        (left * 100.0).round() / 100.0
    });
    Row {
        submission,
        result,
        lateness,
        written,
        earned,
        total,
        open,
    }
}

/// Points in hundredths, for formats that add up what the checks are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hundredths {
    /// To be had.
    pub of: i64,
    /// All of them or none.
    pub points: i64,
}

impl Hundredths {
    /// As points.
    pub fn to_points(hundredths: i64) -> f64 {
        hundredths as f64 / 100.0
    }
}

/// What every check of [`shares`] is worth, in its order: less than a hundredth off, and in sum exactly the points that were earned and the points that were to
/// be had. Each is the difference of two rounded running sums, those of the passed checks first.
pub fn hundredths(result: &SubmissionResult) -> Vec<Hundredths> {
    let shares = shares(result);
    let rounded = |points: f64| (points * 100.0).round() as i64;
    let earned = rounded(result.points + result.bonus);
    let all = rounded(shares.iter().map(|share| share.of).sum());
    let mut parts = vec![Hundredths { of: 0, points: 0 }; shares.len()];
    let (mut sum, mut before) = (0.0, 0);
    for passed in [true, false] {
        let own: Vec<usize> = (0..shares.len())
            .filter(|at| shares[*at].check.passed() == passed)
            .collect();
        for at in &own {
            sum += shares[*at].of;
            // The sums of the result were added in another order, which may decide a tie.
            let until = match own.last() == Some(at) {
                true if passed => earned,
                true => all,
                false => rounded(sum),
            };
            parts[*at].of = until - before;
            parts[*at].points = if passed { until - before } else { 0 };
            before = until;
        }
    }
    parts
}

/// A check and the points it is worth and earned.
#[derive(Clone, Copy, Debug)]
pub struct Share<'a> {
    /// The exercise it is of.
    pub exercise: &'a ExerciseResult,
    /// The check.
    pub check: &'a CheckResult,
    /// Its share of the exercise's points.
    pub of: f64,
    /// All of them or none.
    pub points: f64,
}

/// The checks of a result with their points: the shares of an exercise add up to its points.
pub fn shares(result: &SubmissionResult) -> Vec<Share<'_>> {
    let mut shares = Vec::new();
    for exercise in &result.exercises {
        let weights: u32 = exercise.checks.iter().map(|check| check.weight).sum();
        for check in &exercise.checks {
            let of = f64::from(exercise.of) * f64::from(check.weight) / f64::from(weights.max(1));
            let points = if check.passed() { of } else { 0.0 };
            shares.push(Share {
                exercise,
                check,
                of,
                points,
            });
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Finding;
    use crate::report::sample;

    #[test]
    fn every_student_of_the_plan_has_a_row() {
        let (plan, results) = sample::class();
        let book = Book::new(plan.clone(), results, None, None).expect("a book");
        assert_eq!(book.rows.len(), plan.submissions.len());
        let perfect = &book.rows[0];
        // 60 + 40 points and the bonus of 5.
        assert_eq!(
            (perfect.earned, perfect.total, book.of()),
            (105.0, Some(105.0), 100.0)
        );
        let missing = book
            .rows
            .iter()
            .find(|row| row.submission.id == "not-yet")
            .expect("there");
        assert_eq!((missing.total, missing.open.len()), (None, 1));
        let fault = book
            .rows
            .iter()
            .find(|row| row.submission.id == "fault")
            .expect("there");
        assert_eq!(fault.total, None);
    }

    #[test]
    fn shares_add_up_to_the_points_of_the_exercise() {
        let (_, results) = sample::class();
        for result in results.iter().flatten() {
            for exercise in &result.exercises {
                let own = shares(result);
                let own = own.iter().filter(|share| share.exercise.id == exercise.id);
                let (points, of) = own.fold((0.0, 0.0), |(points, of), share| {
                    (points + share.points, of + share.of)
                });
                // A sum of three quotients of numbers below 100: three roundings of half a unit in the last place of 64.
                let tolerance = 3.0 * 64.0 * f64::EPSILON;
                assert!((of - f64::from(exercise.of)).abs() <= tolerance);
                assert!(
                    (points - exercise.points).abs() <= tolerance,
                    "{}",
                    exercise.id
                );
            }
        }
    }

    #[test]
    fn lateness_is_taken_of_everything_earned() {
        let (mut plan, mut results) = sample::class();
        plan.submissions[0].submitted = Some("2026-02-02T00:00:00Z".into());
        if let Some(result) = &mut results[0] {
            result.submission.submitted = plan.submissions[0].submitted.clone();
        }
        let policy: Policy =
            toml::from_str("deadline = 2026-01-31T12:00:00Z\npercent_per_day = 10")
                .expect("a policy");
        let book = Book::new(plan, results, Some(&policy), None).expect("a book");
        // One and a half days late: two days begun, 20 % of 105.
        assert_eq!(book.rows[0].total, Some(84.0));
    }

    /// It said that somebody should look, and not at what.
    #[test]
    fn what_somebody_should_look_at_is_named() {
        let (plan, mut results) = sample::class();
        let mut first = results[0].take().expect("a result");
        first.needs_human = true;
        first.reasons.push(format!("x.rs {CHANGED_OUTSIDE}"));
        first.findings = vec![Finding {
            file: "x.rs".into(),
            line: 7,
            column: 1,
            word: "kernels".into(),
            message: String::new(),
            needs_human: true,
        }];
        results[0] = Some(first);
        let book = Book::new(plan, results, None, None).expect("a book");
        let open = book.rows[0].open.concat();
        assert!(
            open.ends_with("published: `kernels` in x.rs:7; and 1 more"),
            "{open}"
        );
    }

    /// Who uploaded the wrong folder had no points, and nobody was asked to look.
    #[test]
    fn an_empty_submission_is_open_until_somebody_settles_it() {
        let (plan, mut results) = sample::class();
        let mut stubs = results[1].take().expect("a result");
        let checks = stubs.exercises.iter_mut().flat_map(|one| &mut one.checks);
        checks.for_each(|check| check.outcome = Outcome::Unfinished("1.1".into()));
        results[1] = Some(stubs);
        let policy = "deadline = 2026-01-31T12:00:00Z\n[students.partial]\nsettled = true\nsubmitted = 2026-01-30T12:00:00Z";
        let policy: Policy = toml::from_str(policy).expect("a policy");
        let open = |policy: Option<&Policy>, id: &str| {
            let book = Book::new(plan.clone(), results.clone(), policy, None).expect("a book");
            let mut rows = book.rows.into_iter();
            let row = rows.find(|row| row.submission.id == id).expect("there");
            row.open.join("; ")
        };
        assert!(open(None, "partial").starts_with("nothing in it is written"));
        assert!(open(None, "refused").starts_with("nothing in it could be graded"));
        assert_eq!(open(Some(&policy), "partial"), "");
        assert!(open(Some(&policy), "not-yet").contains("not graded yet"));
    }

    #[test]
    fn an_exception_for_a_stranger_is_a_typing_error() {
        let (plan, results) = sample::class();
        let policy: Policy =
            toml::from_str("deadline = 2026-01-31T12:00:00Z\n[students.jnae]\nwaived = true")
                .expect("a policy");
        let error = Book::new(plan, results, Some(&policy), None).expect_err("a stranger");
        assert!(error.to_string().contains("jnae"));
    }
}
