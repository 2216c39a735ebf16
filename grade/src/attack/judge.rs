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
                .or(replaced.map(|replaced| &replaced.why))
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

/// True if an attack that was meant to run was not compiled, and not because of what it says: on a machine with much to do the clock ends even
/// what is short. It proves nothing then, and is to be tried again with more time.
pub fn ran_out_of_time(attack: &Attack, result: &SubmissionResult) -> bool {
    let is_its_own = |hole: &Option<String>| *hole == attack.hole;
    attack.runs == Some(true)
        && result.compile_errors.is_empty()
        && result.replaced.iter().any(|one| is_its_own(&one.hole))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{CompileError, Replaced};
    use crate::report::sample;

    /// On a busy machine one of forty-nine was not compiled in time, and the self-attack failed without a reason.
    #[test]
    fn what_the_clock_ended_is_told_from_what_does_not_compile() {
        let attack: Attack = toml::from_str(
            "id = \"A1\"\ntitle = \"t\"\nstopped_by = \"s\"\nruns = true\nhole = \"1.1\"",
        )
        .expect("an attack");
        let (_, results) = sample::class();
        let mut result = results.into_iter().nth(1).flatten().expect("a result");
        assert!(!ran_out_of_time(&attack, &result));
        result.replaced = vec![Replaced {
            file: "halves.rs".into(),
            hole: Some("1.1".into()),
            why: "compiling your files took more than 6 s".into(),
        }];
        assert!(ran_out_of_time(&attack, &result));
        let proof = judge(&attack, Some(&result));
        assert!(
            proof.problems.iter().any(|one| one.contains("6 s")),
            "{proof:?}"
        );
        result.compile_errors = vec![CompileError {
            code: None,
            message: "expected a value".into(),
            file: None,
            line: None,
        }];
        assert!(!ran_out_of_time(&attack, &result));
    }
}
