//! What lateness costs: a deadline, a grace period, percent per day, free late days, and exceptions for single students.
//!
//! ```toml
//! deadline = "2026-01-31T23:59:00+01:00"
//! grace_minutes = 15         # handed in within these after the deadline is on time
//! percent_per_day = 10       # for every day begun after the deadline
//! percent_of = "earned"      # or "possible": of the points to be had
//! at_most_percent = 50       # no more is ever taken
//! free_days = 2              # late days a student may use without cost
//! closed_after_days = 7      # later than that earns nothing
//!
//! [students.jane]            # the id of the submission
//! deadline = "2026-02-03T23:59:00+01:00"
//! reason = "ill, certificate of 30 January"
//!
//! [students.kim]
//! free_days_used = 1         # in earlier modules
//! settled = true             # somebody looked at it: nothing about it is open any more
//! submitted = "2026-02-01T08:00:00+01:00"   # where the platform does not tell
//! ```
//!
//! Days are counted from the deadline, also where a grace period was missed: who hands in one minute after the grace period has begun the first day. Free
//! days are used up before anything is charged.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Deserializer};
use tito::failure::Failure;

use super::time::Moment;
use crate::model::Submission;

const DAY: i64 = 86_400;

/// The policy of a module.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Up to here a submission is on time.
    #[serde(deserialize_with = "moment")]
    pub deadline: Moment,
    /// Minutes after the deadline that do not count.
    #[serde(default)]
    pub grace_minutes: u32,
    /// For every day begun.
    #[serde(default)]
    pub percent_per_day: f64,
    /// Of what.
    #[serde(default)]
    pub percent_of: PercentOf,
    /// The most that is taken.
    #[serde(default = "hundred")]
    pub at_most_percent: f64,
    /// Late days without cost.
    #[serde(default)]
    pub free_days: u32,
    /// Later than this many days earns nothing.
    pub closed_after_days: Option<u32>,
    /// By the id of the submission.
    #[serde(default)]
    pub students: BTreeMap<String, Exception>,
}

/// What a percentage is taken of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PercentOf {
    /// Of the points earned.
    #[default]
    Earned,
    /// Of the points to be had; the result is never below zero.
    Possible,
}

/// What is different for one student.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exception {
    /// Another deadline.
    #[serde(default, deserialize_with = "some_moment")]
    pub deadline: Option<Moment>,
    /// When it was handed in, where the platform does not tell or is wrong.
    #[serde(default, deserialize_with = "some_moment")]
    pub submitted: Option<Moment>,
    /// Another number of free days.
    pub free_days: Option<u32>,
    /// Free days used in earlier modules.
    #[serde(default)]
    pub free_days_used: u32,
    /// Nothing is taken, however late.
    #[serde(default)]
    pub waived: bool,
    /// Somebody looked at the submission and found it in order: what a person had to decide is decided.
    #[serde(default)]
    pub settled: bool,
    /// For the record.
    #[serde(default)]
    pub reason: String,
}

/// What lateness came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lateness {
    /// Days begun after the deadline.
    pub days: u32,
    /// Of these, free ones.
    pub free_days: u32,
    /// Of these, charged ones.
    pub charged_days: u32,
    /// What is taken, in percent.
    pub percent: f64,
    /// It was handed in so late that it earns nothing.
    pub is_closed: bool,
    /// Sentences for whoever reads the grade: an exception, or why lateness is not known.
    pub notes: Vec<String>,
    /// Staff must say when it was handed in.
    pub is_unknown: bool,
}

impl Policy {
    /// Reads a policy.
    ///
    /// # Errors
    ///
    /// A usage error that names file, line and what is wrong.
    pub fn load(path: &Path) -> Result<Policy> {
        let shown = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::usage(format!("cannot read {shown}: {error}")))?;
        let policy: Policy = toml::from_str(&text)
            .map_err(|error| Failure::usage(format!("{shown} is no late policy: {error}")))?;
        for (name, percent) in [
            ("percent_per_day", policy.percent_per_day),
            ("at_most_percent", policy.at_most_percent),
        ] {
            if !(0.0..=100.0).contains(&percent) {
                return Err(Failure::usage(format!(
                    "{shown}: {name} is {percent}; it must be from 0 to 100"
                ))
                .into());
            }
        }
        Ok(policy)
    }

    /// Exceptions for students who are not in the class: most likely typing errors.
    pub fn strangers<'a>(&'a self, ids: &'a [&str]) -> impl Iterator<Item = &'a str> {
        let names = self.students.keys().map(String::as_str);
        names.filter(|name| !ids.contains(name))
    }

    /// How late a submission is and what that costs.
    ///
    /// # Errors
    ///
    /// A usage error if the time it was handed in cannot be read; an exception can say it.
    pub fn lateness(&self, submission: &Submission) -> Result<Lateness> {
        let exception = self.students.get(&submission.id);
        let mut lateness = Lateness::default();
        if let Some(reason) = exception.map(|exception| exception.reason.trim())
            && !reason.is_empty()
        {
            lateness.notes.push(format!("exception: {reason}"));
        }
        let is_waived = exception.is_some_and(|exception| exception.waived);
        let submitted = match (
            exception.and_then(|exception| exception.submitted),
            &submission.submitted,
        ) {
            (Some(moment), _) => moment,
            (None, Some(text)) => Moment::parse(text).map_err(|error| {
                Failure::usage(format!("{}: {error}", submission.id)).help(format!(
                    "say it in the late policy: [students.{}] submitted = ...",
                    submission.id
                ))
            })?,
            (None, None) if is_waived => {
                lateness.notes.push("waived".into());
                return Ok(lateness);
            }
            (None, None) => {
                if submission.late != Some(false) {
                    lateness.is_unknown = true;
                    let marked = if submission.late == Some(true) {
                        "the platform marked it as late and does not say how late"
                    } else {
                        "nothing says when it was handed in"
                    };
                    lateness.notes.push(format!("{marked}: nothing was taken"));
                }
                return Ok(lateness);
            }
        };
        let deadline = exception.and_then(|exception| exception.deadline);
        let late = submitted.0 - deadline.unwrap_or(self.deadline).0;
        if late <= i64::from(self.grace_minutes) * 60 {
            return Ok(lateness);
        }
        let days = late.div_euclid(DAY) + i64::from(late.rem_euclid(DAY) > 0);
        lateness.days = u32::try_from(days).unwrap_or(u32::MAX);
        if is_waived {
            lateness.notes.push("waived".into());
            return Ok(lateness);
        }
        let free = exception
            .and_then(|exception| exception.free_days)
            .unwrap_or(self.free_days)
            .saturating_sub(exception.map_or(0, |exception| exception.free_days_used));
        lateness.is_closed = self
            .closed_after_days
            .is_some_and(|most| lateness.days > most);
        if lateness.is_closed {
            lateness.charged_days = lateness.days;
            lateness.percent = 100.0;
            return Ok(lateness);
        }
        lateness.free_days = lateness.days.min(free);
        lateness.charged_days = lateness.days - lateness.free_days;
        lateness.percent =
            (f64::from(lateness.charged_days) * self.percent_per_day).min(self.at_most_percent);
        Ok(lateness)
    }

    /// The points that are left of `earned`, of which `possible` were to be had.
    pub fn left(&self, lateness: &Lateness, earned: f64, possible: f64) -> f64 {
        if lateness.is_closed {
            return 0.0;
        }
        let base = match self.percent_of {
            PercentOf::Earned => earned,
            PercentOf::Possible => possible,
        };
        (earned - base * lateness.percent / 100.0).max(0.0)
    }
}

fn hundred() -> f64 {
    100.0
}

fn moment<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Moment, D::Error> {
    // A date of TOML's own, without quotes, is read as well.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Text(String),
        Date(toml::value::Datetime),
    }
    let text = match Written::deserialize(deserializer)? {
        Written::Text(text) => text,
        Written::Date(date) => date.to_string(),
    };
    Moment::parse(&text).map_err(serde::de::Error::custom)
}

fn some_moment<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Moment>, D::Error> {
    moment(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    const POLICY: &str = r#"
        deadline = "2026-01-31T23:59:00+01:00"
        grace_minutes = 15
        percent_per_day = 10
        at_most_percent = 50
        free_days = 1
        closed_after_days = 7
        [students.ext]
        deadline = 2026-02-03T23:59:00+01:00
        reason = "ill"
        [students.used]
        free_days_used = 1
        [students.waived]
        waived = true
        [students.unknown]
        submitted = "2026-02-01T00:30:00+01:00"
    "#;

    fn policy() -> Policy {
        toml::from_str(POLICY).expect("a policy")
    }

    fn lateness(id: &str, submitted: &str) -> Lateness {
        let mut submission = sample::submission(id, id);
        submission.submitted = (!submitted.is_empty()).then(|| submitted.to_owned());
        policy().lateness(&submission).expect("readable")
    }

    #[test]
    fn hand_computed_examples() {
        // Deadline 31 January 23:59 (+01:00). Columns: submitted, days, charged, percent.
        for (submitted, days, charged, percent) in [
            ("2026-01-31T23:59:00+01:00", 0, 0, 0.0),
            // The last second of the grace period.
            ("2026-02-01T00:14:00+01:00", 0, 0, 0.0),
            // One second later the first day has begun; it is the free one.
            ("2026-02-01T00:14:01+01:00", 1, 0, 0.0),
            // Exactly one day late is still the first day.
            ("2026-02-01T23:59:00+01:00", 1, 0, 0.0),
            ("2026-02-01T23:59:01+01:00", 2, 1, 10.0),
            ("2026-02-04T12:00:00+01:00", 4, 3, 30.0),
            // Six charged days would be 60 percent; 50 is the most.
            ("2026-02-07T12:00:00+01:00", 7, 6, 50.0),
        ] {
            let found = lateness("jane", submitted);
            assert_eq!(
                (found.days, found.charged_days, found.percent),
                (days, charged, percent),
                "{submitted}"
            );
        }
        let closed = lateness("jane", "2026-02-08T12:00:00+01:00");
        assert!(closed.is_closed && closed.days == 8 && closed.percent == 100.0);
    }

    #[test]
    fn what_is_left_is_computed_by_hand() {
        let late = lateness("jane", "2026-02-04T12:00:00+01:00");
        // 30 % of 80 earned points is 24; of 100 possible points 30.
        assert_eq!(policy().left(&late, 80.0, 100.0), 56.0);
        let of_possible = Policy {
            percent_of: PercentOf::Possible,
            ..policy()
        };
        assert_eq!(of_possible.left(&late, 80.0, 100.0), 50.0);
        assert_eq!(of_possible.left(&late, 20.0, 100.0), 0.0);
        assert_eq!(
            policy().left(&lateness("jane", "2027-01-01T00:00:00Z"), 80.0, 100.0),
            0.0
        );
    }

    #[test]
    fn exceptions_move_the_deadline_use_up_days_and_waive() {
        assert_eq!(lateness("ext", "2026-02-03T23:00:00+01:00").days, 0);
        assert_eq!(
            lateness("ext", "2026-02-03T23:00:00+01:00").notes,
            ["exception: ill"]
        );
        assert_eq!(lateness("used", "2026-02-01T12:00:00+01:00").percent, 10.0);
        assert_eq!(lateness("waived", "2026-02-04T12:00:00+01:00").percent, 0.0);
        // Whose lateness is waived need not have handed in at a known time.
        let waived = policy()
            .lateness(&sample::submission("waived", "W"))
            .expect("known enough");
        assert!(!waived.is_unknown && waived.percent == 0.0);
        assert_eq!(lateness("unknown", "").days, 1);
        assert!(lateness("nobody", "").is_unknown);
    }

    #[test]
    fn a_wrong_policy_names_the_place() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let path = folder.path().join("late.toml");
        for (text, words) in [
            ("deadline = \"tomorrow\"", "no point in time"),
            ("deadline = 2026-01-31T23:59:00", "UTC"),
            ("deadline = 2026-01-31T23:59:00Z\npercent = 3", "percent"),
            (
                "deadline = 2026-01-31T23:59:00Z\npercent_per_day = 300",
                "from 0 to 100",
            ),
        ] {
            std::fs::write(&path, text).expect("writes");
            let error = Policy::load(&path).expect_err(text).to_string();
            assert!(
                error.contains(words) && error.contains("late.toml"),
                "{error}"
            );
        }
    }
}
