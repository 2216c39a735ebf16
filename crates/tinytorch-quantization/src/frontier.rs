//! What was measured of a choice of precisions, and which choices nothing else beats.
//!
//! In: points, each with accuracy, bytes and seconds. Out: the frontier: the points for which no other is at least as good in
//! all three and better in one, and the model as it was trained, whatever it costs.
//!
//! Source: Pareto optimality; McNemar 1947 for the error of a difference on the same examples.

use crate::precision::Precision;

/// A model in which every layer with weights has a precision, and what was measured of it.
#[derive(Clone, Debug, PartialEq)]
pub struct PrecisionPoint {
    /// The precision of each layer, in the order of computation.
    pub precisions: Vec<(String, Precision)>,
    /// Share of right answers, from 0 to 1.
    pub accuracy: f64,
    /// Standard error of the accuracy: `√(p · (1 − p) / n)`.
    pub accuracy_error: f64,
    /// What the accuracy is more than that of the model in `f32`, on the same examples.
    pub gain: f64,
    /// Standard error of that difference: `√(b + c − (b − c)² / n) / n`, where `b` examples are right here alone and `c` in `f32`
    /// alone. Much smaller than `accuracy_error`, since most examples are answered alike.
    pub gain_error: f64,
    /// Mean cross entropy.
    pub loss: f64,
    /// Bytes of parameters held.
    pub bytes: usize,
    /// Median seconds for one batch.
    pub seconds: f64,
    /// Half of the range between the quartiles of the seconds.
    pub seconds_spread: f64,
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
/// Both 0 for no examples.
///
/// # Panics
///
/// If there are not as many answers in both.
#[must_use]
#[track_caller]
pub fn accuracy_errors(right: &[bool], right_before: &[bool]) -> (f64, f64) {
    assert_eq!(right.len(), right_before.len(), "the same examples");
    let n = right.len() as f64;
    if right.is_empty() {
        return (0.0, 0.0);
    }
    let p = right.iter().filter(|right| **right).count() as f64 / n;
    let pairs = || right.iter().zip(right_before);
    let gained = pairs().filter(|(now, before)| **now && !**before).count() as f64;
    let lost = pairs().filter(|(now, before)| !**now && **before).count() as f64;
    let difference = (gained + lost - (gained - lost).powi(2) / n)
        .max(0.0)
        .sqrt()
        / n;
    ((p * (1.0 - p) / n).sqrt(), difference)
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

/// The fastest point that is at least this accurate; of those that are none, the most accurate. `None` only without points.
#[must_use]
pub fn fastest_above(points: &[PrecisionPoint], accuracy: f64) -> Option<&PrecisionPoint> {
    let good = points.iter().filter(|point| point.accuracy >= accuracy);
    let fastest = good.min_by(|a, b| a.seconds.total_cmp(&b.seconds));
    fastest.or_else(|| {
        // Of equally accurate ones the fastest again.
        points.iter().min_by(|a, b| {
            let accuracy = b.accuracy.total_cmp(&a.accuracy);
            accuracy.then(a.seconds.total_cmp(&b.seconds))
        })
    })
}

/// The smallest point that is at least this accurate; of those that are none, the most accurate. `None` only without points.
#[must_use]
pub fn smallest_above(points: &[PrecisionPoint], accuracy: f64) -> Option<&PrecisionPoint> {
    let good = points.iter().filter(|point| point.accuracy >= accuracy);
    let smallest = good.min_by_key(|point| point.bytes);
    smallest.or_else(|| {
        points.iter().min_by(|a, b| {
            let accuracy = b.accuracy.total_cmp(&a.accuracy);
            accuracy.then(a.bytes.cmp(&b.bytes))
        })
    })
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
            seconds_spread: 0.0,
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
        let of = |accuracy| fastest_above(&points, accuracy).map(|point| point.bytes);
        assert_eq!(of(0.9), Some(100));
        assert_eq!(
            of(0.99),
            Some(100),
            "the most accurate, if none is good enough"
        );
        assert_eq!(
            smallest_above(&points, 0.7).map(|point| point.bytes),
            Some(50)
        );
        assert_eq!(fastest_above(&[], 0.5), None);
        // Equally accurate, none good enough: what is asked for decides. The last one used to win.
        let twins = [
            point(Precision::Float, 0.9, 300, 1.0),
            point(Precision::Bf16, 0.9, 200, 2.0),
        ];
        assert_eq!(fastest_above(&twins, 1.0).map(|p| p.bytes), Some(300));
        assert_eq!(smallest_above(&twins, 1.0).map(|p| p.bytes), Some(200));
    }

    #[test]
    fn errors_of_an_accuracy_and_of_a_difference() {
        // 4 of 8 right; one gained, one lost: √(0.25 / 8), and √2 / 8.
        let now = [true, true, true, true, false, false, false, false];
        let before = [false, true, true, true, true, false, false, false];
        let (own, difference) = accuracy_errors(&now, &before);
        assert_eq!(own, (0.25_f64 / 8.0).sqrt());
        assert_eq!(difference, 2.0_f64.sqrt() / 8.0);
        assert_eq!(accuracy_errors(&now, &now).1, 0.0);
        assert_eq!(accuracy_errors(&[], &[]), (0.0, 0.0));
    }
}
