//! Whether an attack was stopped, and by what the result shows it.

use crate::model::{Outcome, Status, SubmissionResult};

use super::Attack;

/// What became of one attack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// What is wrong; empty if it was stopped as it should be.
    pub problems: Vec<String>,
    /// What shows it: a line of the result.
    pub evidence: String,
}

/// Looks at the result of an attack.
pub fn judge(attack: &Attack, result: Option<&SubmissionResult>) -> Proof {
    let Some(result) = result else {
        return Proof {
            problems: vec!["there is no result".into()],
            evidence: String::new(),
        };
    };
    let mut problems = Vec::new();
    if result.points > 0.0 || result.bonus > 0.0 {
        problems.push(format!("it earned {} points", result.points + result.bonus));
    }
    if result.status == Status::Fault {
        problems.push(format!(
            "it made the grader fail: {}",
            result.reasons.join("; ")
        ));
    }
    let checks = || result.exercises.iter().flat_map(|one| &one.checks);
    let printed: Vec<&str> = checks()
        .filter_map(|check| check.printed.as_deref())
        .collect();
    let says = |word: &str| printed.iter().any(|text| text.contains(word));
    if says("BREACH") {
        let line = printed
            .iter()
            .flat_map(|text| text.lines())
            .find(|line| line.contains("BREACH"));
        problems.push(format!("it got through: {}", line.unwrap_or_default()));
    }
    let hole = attack.hole.as_deref().unwrap_or_default();
    let replaced = result
        .replaced
        .iter()
        .find(|one| one.hole.as_deref() == Some(hole));
    let evidence = match attack.runs {
        Some(true) if replaced.is_some() || !says("ATTEMPT") => {
            let errors = result.compile_errors.first().map(|error| &error.message);
            // Some check's word: why it was not asked to its end.
            let failed = checks().find(|check| !matches!(check.outcome, Outcome::Passed));
            let said = errors
                .or(result.reasons.first())
                .or(failed.map(|check| &check.message))
                .map_or("", String::as_str);
            problems.push(format!("it never ran, so it proves nothing: {said}"));
            String::new()
        }
        Some(true) => printed
            .iter()
            .flat_map(|text| text.lines())
            .find(|line| line.starts_with("stopped"))
            .map_or_else(|| outcome(checks()), str::to_owned),
        Some(false) => match replaced {
            None => {
                problems.push("it was compiled".into());
                String::new()
            }
            Some(replaced) => {
                let error = result.compile_errors.first().map(|error| &error.message);
                error.unwrap_or(&replaced.why).clone()
            }
        },
        None => result
            .submission
            .refused
            .first()
            .map(|refused| format!("{}: {}", refused.path, refused.why))
            .or_else(|| result.reasons.first().cloned())
            .unwrap_or_else(|| format!("only {} files were taken", result.submission.files.len())),
    };
    Proof { problems, evidence }
}

/// How the attacked checks ended, where nothing else was said.
fn outcome<'a>(checks: impl Iterator<Item = &'a crate::model::CheckResult>) -> String {
    let mut attacked = checks.filter(|check| {
        check.printed.is_some()
            && !matches!(check.outcome, Outcome::Unfinished(_) | Outcome::Passed)
    });
    attacked
        .next()
        .map_or_else(String::new, |check| check.message.clone())
}
