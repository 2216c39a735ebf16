//! Schedules: how the learning rate changes from step to step.
//!
//! A schedule is a function of the step alone, so a training that is resumed needs no state of it.

use std::f64::consts::PI;

use crate::error::{Error, Result};

/// The learning rate at each step, counted from 0.
pub trait Schedule: Send + Sync {
    /// The learning rate for this step.
    fn learning_rate(&self, step: u64) -> f64;

    /// This schedule for so many steps, and then another, which starts counting from 0.
    fn then<S: Schedule>(self, steps: u64, next: S) -> Then<Self, S>
    where
        Self: Sized,
    {
        Then {
            first: self,
            steps,
            next,
        }
    }
}

/// The same at every step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Constant(pub f64);

impl Schedule for Constant {
    fn learning_rate(&self, _step: u64) -> f64 {
        self.0
    }
}

/// Straight from one learning rate to another, where it stays.
///
/// ```text
/// from + (to − from) · min(step / steps, 1)
/// ```
///
/// As a warm-up `from` is usually small and not 0, for a step of length 0 is a step wasted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ramp {
    from: f64,
    to: f64,
    steps: u64,
}

impl Ramp {
    /// Reaches `to` at step `steps`.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] if a learning rate is negative or not finite, or there is no step.
    pub fn new(from: f64, to: f64, steps: u64) -> Result<Self> {
        check("ramp", [from, to], steps)?;
        Ok(Self { from, to, steps })
    }
}

impl Schedule for Ramp {
    fn learning_rate(&self, step: u64) -> f64 {
        if step >= self.steps {
            return self.to;
        }
        self.from + (self.to - self.from) * (step as f64 / self.steps as f64)
    }
}

/// Half a cosine from one learning rate down to another, where it stays.
///
/// ```text
/// to + (from − to) · (1 + cos(π · min(step / steps, 1))) / 2
/// ```
///
/// Source: Loshchilov and Hutter, "SGDR", equation (5), without restarts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cosine {
    from: f64,
    to: f64,
    steps: u64,
}

impl Cosine {
    /// Reaches `to` at step `steps`.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] if a learning rate is negative or not finite, or there is no step.
    pub fn new(from: f64, to: f64, steps: u64) -> Result<Self> {
        check("cosine", [from, to], steps)?;
        Ok(Self { from, to, steps })
    }
}

impl Schedule for Cosine {
    fn learning_rate(&self, step: u64) -> f64 {
        if step >= self.steps {
            return self.to;
        }
        let angle = PI * (step as f64 / self.steps as f64);
        self.to + (self.from - self.to) * (1.0 + angle.cos()) / 2.0
    }
}

/// One schedule, and then another; made by [`Schedule::then`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Then<A, B> {
    first: A,
    steps: u64,
    next: B,
}

impl<A: Schedule, B: Schedule> Schedule for Then<A, B> {
    fn learning_rate(&self, step: u64) -> f64 {
        match step.checked_sub(self.steps) {
            None => self.first.learning_rate(step),
            Some(step) => self.next.learning_rate(step),
        }
    }
}

/// The usual pair: a linear warm-up from `base / warmup` to `base`, then a cosine to 0 at step `total`.
///
/// # Errors
///
/// [`Error::Argument`] if the base is negative or not finite, or the warm-up is empty or leaves no step.
pub fn warmup_cosine(base: f64, warmup: u64, total: u64) -> Result<Then<Ramp, Cosine>> {
    let first = Ramp::new(base / warmup.max(1) as f64, base, warmup)?;
    let next = Cosine::new(base, 0.0, total.saturating_sub(warmup))?;
    Ok(first.then(warmup, next))
}

fn check(operation: &'static str, rates: [f64; 2], steps: u64) -> Result<()> {
    if let Some(rate) = rates
        .iter()
        .find(|rate| !(rate.is_finite() && **rate >= 0.0))
    {
        let reason = format!("{rate} is no learning rate");
        return Err(Error::Argument { operation, reason });
    }
    if steps == 0 {
        return Err(Error::Argument {
            operation,
            reason: "it has no steps".to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cosine_starts_high_passes_the_middle_and_stays_low() -> Result<()> {
        let cosine = Cosine::new(1.0, 0.5, 100)?;
        let at = |step| cosine.learning_rate(step);
        assert_eq!((at(0), at(100), at(1000)), (1.0, 0.5, 0.5));
        // cos(π/2) is not quite 0 in floating point.
        assert!((at(50) - 0.75).abs() < f64::EPSILON);
        Ok(())
    }

    #[test]
    fn a_warm_up_climbs_to_where_the_cosine_starts() -> Result<()> {
        let schedule = warmup_cosine(0.1, 4, 14)?;
        let at = |step| schedule.learning_rate(step);
        assert_eq!((at(0), at(2), at(4), at(14)), (0.025, 0.0625, 0.1, 0.0));
        assert!((at(9) - 0.05).abs() < f64::EPSILON);
        Ok(())
    }

    #[test]
    fn a_schedule_without_steps_or_with_a_negative_rate_is_an_error() {
        let error = Cosine::new(0.1, 0.0, 0).expect_err("no steps");
        assert_eq!(error.to_string(), "bad argument in cosine: it has no steps");
        let error = Ramp::new(-0.1, 0.0, 5).expect_err("negative");
        assert_eq!(
            error.to_string(),
            "bad argument in ramp: -0.1 is no learning rate"
        );
        assert!(warmup_cosine(0.1, 10, 10).is_err());
    }
}
