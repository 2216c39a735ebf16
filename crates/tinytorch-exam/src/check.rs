//! A check: one question put to a subject.

use serde::{Deserialize, Serialize};

use crate::case::{Case, Stop};
use crate::judge::Judge;
use crate::rng::Rng;
use crate::value::Values;

/// Who may see a check's cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Visibility {
    /// Students: the cases and expected values are in the course's repository.
    Public,
    /// Graders only.
    Hidden,
}

/// What a run returns.
pub type Answer = Result<Values, Stop>;

/// One question put to a subject.
#[derive(Clone, Debug)]
pub struct Check {
    /// `15.3/ties-to-even`: the exercise, a slash, what is asked.
    pub id: &'static str,
    /// Share of the exercise's points, relative to its other checks. At least 1.
    pub weight: u32,
    /// Who may see it.
    pub visibility: Visibility,
    /// What was tried, as a sentence.
    pub what: &'static str,
    /// Why it matters in production, as a sentence or two.
    pub why: &'static str,
    /// The function or type to look at.
    pub item: &'static str,
    /// Builds the cases: fixed edges and seeded random ones. The same seed gives the same cases.
    pub cases: fn(&mut Rng) -> Vec<Case>,
    /// Calls the subject.
    pub run: fn(&Case) -> Answer,
    /// How its values are compared with the reference's.
    pub judge: fn() -> Judge,
}

impl Check {
    /// The exercise the check belongs to: the id up to the slash.
    pub fn exercise(&self) -> &'static str {
        self.id.split('/').next().unwrap_or(self.id)
    }

    /// The cases for a seed. Each check draws from its own stream, so adding a check changes no other's cases.
    pub fn cases(&self, seed: u64) -> Vec<Case> {
        (self.cases)(&mut Rng::for_check(seed, self.id))
    }
}
