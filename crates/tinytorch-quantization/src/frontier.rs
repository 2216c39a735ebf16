//! What was measured of a choice of precisions, and which choices nothing else beats.
//!
//! In: points, each with accuracy, bytes and seconds. Out: the frontier: the points for which no other is at least as good in
//! all three and better in one, and the model as it was trained, whatever it costs.
//!
//! Sources: Pareto optimality; Agresti and Coull 1998 and Agresti and Min 2005 for errors that do not vanish where all answers
//! agree.

use std::cmp::Ordering;

use crate::precision::Precision;

/// A model in which every layer with weights has a precision, and what was measured of it.
#[derive(Clone, Debug, PartialEq)]
pub struct PrecisionPoint {
    /// The precision of each layer, in the order of computation.
    pub precisions: Vec<(String, Precision)>,
    /// Share of right answers, from 0 to 1.
    pub accuracy: f64,
    /// Standard error of the accuracy, see [`accuracy_errors`]; never 0, also if all answers are right.
    pub accuracy_error: f64,
    /// What the accuracy is more than that of the model in `f32`, on the same examples.
    pub gain: f64,
    /// Standard error of that difference. Much smaller than `accuracy_error`, since most examples are answered alike.
    pub gain_error: f64,
    /// Mean cross entropy.
    pub loss: f64,
    /// Bytes of parameters held.
    pub bytes: usize,
    /// Median seconds for one batch.
    pub seconds: f64,
    /// Standard error of that median, see [`Latency::median_error`](crate::Latency::median_error); NaN for one turn.
    pub seconds_error: f64,
}

impl PrecisionPoint {
    /// Whether every layer is as it was trained.
    #[must_use]
    pub fn is_f32(&self) -> bool {
        self.precisions
            .iter()
            .all(|(_, precision)| *precision == Precision::Float)
    }

    /// Whether it is at least as good as `other` in accuracy, bytes and seconds, and better in one of them.
    #[must_use]
    pub fn dominates(&self, other: &Self) -> bool {
        let as_good = self.accuracy >= other.accuracy
            && self.bytes <= other.bytes
            && self.seconds <= other.seconds;
        let better = self.accuracy > other.accuracy
            || self.bytes < other.bytes
            || self.seconds < other.seconds;
        as_good && better
    }
}

/// The standard errors of an accuracy, and of its difference to another on the same examples.
///
/// # The maths
///
/// ```text
/// accuracy      √(p · (1 − p) / (n + 4))             p = (right + 2) / (n + 4)
/// difference    √(b + c − (b − c)² / m) / m          b, c = 1/2 + the examples right here alone, right before alone; m = n + 2
/// ```
///
/// The examples that are added, half of them right and half of them wrong, keep the error from being 0 where all answers are
/// right, or none has changed: 180 right answers of 180 do not prove that there is no wrong one.
///
/// Sources: Agresti and Coull, "Approximate is Better than 'Exact' for Interval Estimation of Binomial Proportions", 1998;
/// Agresti and Min, "Simple improved confidence intervals for comparing matched proportions", 2005.
///
/// # Panics
///
/// If there are not as many answers in both.
#[must_use]
#[track_caller]
pub fn accuracy_errors(right: &[bool], right_before: &[bool]) -> (f64, f64) {
    assert_eq!(right.len(), right_before.len(), "the same examples");
    let count = |n: usize| n as f64;
    let pairs = || right.iter().zip(right_before);
    let p =
        (count(right.iter().filter(|right| **right).count()) + 2.0) / (count(right.len()) + 4.0);
    let gained = count(pairs().filter(|(now, before)| **now && !**before).count()) + 0.5;
    let lost = count(pairs().filter(|(now, before)| !**now && **before).count()) + 0.5;
    let m = count(right.len()) + 2.0;
    let difference = (gained + lost - (gained - lost).powi(2) / m).sqrt() / m;
    (
        (p * (1.0 - p) / (count(right.len()) + 4.0)).sqrt(),
        difference,
    )
}

/// The points that no other dominates, and the first that is in `f32` also if one does. From the smallest to the largest.
#[must_use]
pub fn frontier(points: &[PrecisionPoint]) -> Vec<&PrecisionPoint> {
    let f32_point = points.iter().position(PrecisionPoint::is_f32);
    let kept = points.iter().enumerate().filter(|(index, point)| {
        let beaten = points.iter().any(|other| other.dominates(point));
        let twin = points[..*index].iter().any(|other| {
            (other.accuracy, other.bytes, other.seconds)
                == (point.accuracy, point.bytes, point.seconds)
        });
        Some(*index) == f32_point || !(beaten || twin)
    });
    let mut kept: Vec<&PrecisionPoint> = kept.map(|(_, point)| point).collect();
    kept.sort_by_key(|point| point.bytes);
    kept
}

/// What was found for a demand on accuracy: there is always an answer, and it says whether the demand is met.
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use]
pub enum Found<'a> {
    /// The best of those that are accurate enough.
    Met(&'a PrecisionPoint),
    /// None is accurate enough: the most accurate.
    Missed(&'a PrecisionPoint),
}

impl<'a> Found<'a> {
    /// The point, whether it meets the demand or not.
    #[must_use]
    pub fn point(self) -> &'a PrecisionPoint {
        match self {
            Self::Met(point) | Self::Missed(point) => point,
        }
    }

    /// Whether it is as accurate as was asked.
    #[must_use]
    pub fn is_met(self) -> bool {
        matches!(self, Self::Met(_))
    }
}

/// The point that comes first in this order of those at least this accurate; if there are none, of the most accurate ones.
/// NaN meets no demand, and no demand that is NaN is met.
fn first_above(
    points: &[PrecisionPoint],
    accuracy: f64,
    order: impl Fn(&PrecisionPoint, &PrecisionPoint) -> Ordering,
) -> Option<Found<'_>> {
    let good = points.iter().filter(|point| point.accuracy >= accuracy);
    let first = good.min_by(|a, b| order(a, b)).map(Found::Met);
    first.or_else(|| {
        let most = points.iter().min_by(|a, b| {
            let accuracy = b.accuracy.total_cmp(&a.accuracy);
            accuracy.then_with(|| order(a, b))
        });
        most.map(Found::Missed)
    })
}

/// The fastest point that is at least this accurate; if there are none, the fastest of the most accurate. `None` only without points.
#[must_use]
pub fn fastest_above(points: &[PrecisionPoint], accuracy: f64) -> Option<Found<'_>> {
    first_above(points, accuracy, |a, b| a.seconds.total_cmp(&b.seconds))
}

/// The smallest point that is at least this accurate; if there are none, the smallest of the most accurate. `None` only without points.
#[must_use]
pub fn smallest_above(points: &[PrecisionPoint], accuracy: f64) -> Option<Found<'_>> {
    first_above(points, accuracy, |a, b| a.bytes.cmp(&b.bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(precision: Precision, accuracy: f64, bytes: usize, seconds: f64) -> PrecisionPoint {
        PrecisionPoint {
            precisions: vec![("layer".to_owned(), precision)],
            accuracy,
            accuracy_error: 0.0,
            gain: 0.0,
            gain_error: 0.0,
            loss: 0.0,
            bytes,
            seconds,
            seconds_error: 0.0,
        }
    }

    #[test]
    fn the_frontier_drops_what_is_beaten_but_never_f32() {
        let points = [
            point(Precision::Float, 0.9, 400, 4.0),
            point(Precision::STATIC, 0.95, 100, 1.0),
            point(Precision::Bf16, 0.94, 200, 2.0),
            point(Precision::WEIGHT_ONLY_INT4, 0.8, 50, 3.0),
        ];
        let bytes: Vec<usize> = frontier(&points).iter().map(|point| point.bytes).collect();
        assert_eq!(bytes, [50, 100, 400]);
        let told = |found: Option<Found<'_>>| found.map(|f| (f.point().bytes, f.is_met()));
        let of = |accuracy| told(fastest_above(&points, accuracy));
        assert_eq!(of(0.9), Some((100, true)));
        // The most accurate, if none is good enough: it used to look like one that is.
        assert_eq!(of(0.99), Some((100, false)));
        assert_eq!(of(f64::NAN), Some((100, false)));
        assert_eq!(told(smallest_above(&points, 0.7)), Some((50, true)));
        assert_eq!(fastest_above(&[], 0.5), None);
        // Equally accurate, none good enough: what is asked for decides. The last one used to win.
        let twins = [
            point(Precision::Float, 0.9, 300, 1.0),
            point(Precision::Bf16, 0.9, 200, 2.0),
        ];
        assert_eq!(told(fastest_above(&twins, 1.0)), Some((300, false)));
        assert_eq!(told(smallest_above(&twins, 1.0)), Some((200, false)));
    }

    #[test]
    fn errors_of_an_accuracy_and_of_a_difference() {
        // 4 of 8 right, so 6 of 12: √(1/4 / 12). One gained, one lost, so 3/2 each: √3 / 10.
        let now = [true, true, true, true, false, false, false, false];
        let before = [false, true, true, true, true, false, false, false];
        let (own, difference) = accuracy_errors(&now, &before);
        assert_eq!(own, (0.25_f64 / 12.0).sqrt());
        assert_eq!(difference, 3.0_f64.sqrt() / 10.0);
        // All right, none changed: 6 of 8 · 2 of 8 ... what was added keeps both from being 0.
        let (own, difference) = accuracy_errors(&[true; 4], &[true; 4]);
        assert_eq!(own, (0.75_f64 * 0.25 / 8.0).sqrt());
        assert_eq!(difference, 1.0 / 6.0);
        let (own, difference) = accuracy_errors(&[], &[]);
        assert!(own > 0.0 && difference > 0.0);
    }
}
