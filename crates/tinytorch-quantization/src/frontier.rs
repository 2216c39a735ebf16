//! What was measured of a choice of precisions, and which choices nothing else beats.
//!
//! In: points, each with accuracy, bytes and seconds. Out: the frontier: the points for which no other is at least as good in
//! all three and better in one, and the model as it was trained, whatever it costs.
//!
//! Sources: Pareto optimality; Agresti and Coull 1998 and Agresti and Min 2005 for errors that do not vanish where all answers
//! agree; McGill, Tukey and Larsen 1978 for the error of a median.

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
    /// Standard error of that median, see [`median_error`].
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

/// The median of some measurements, and its standard error: `1.25 · R / (1.35 · √n)`, where `R` is the range between the
/// quartiles. `(NaN, NaN)` without any; the error of one alone is unknown, NaN.
///
/// Source: McGill, Tukey and Larsen, "Variations of Box Plots", 1978: what the notches of a box plot are made of.
#[must_use]
pub fn median_error(mut values: Vec<f64>) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    // Between neighbours along a line, as numpy has it.
    let quantile = |q: f64| {
        let place = q * (values.len() as f64 - 1.0);
        let (low, high) = (place.floor() as usize, place.ceil() as usize);
        values[low] + (values[high] - values[low]) * place.fract()
    };
    match values.len() {
        0 => (f64::NAN, f64::NAN),
        1 => (values[0], f64::NAN),
        n => {
            let range = quantile(0.75) - quantile(0.25);
            (quantile(0.5), 1.25 * range / (1.35 * (n as f64).sqrt()))
        }
    }
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

    #[test]
    fn the_error_of_a_median_by_hand() {
        // Quartiles of 1, 2, 3, 4, 9: 2 and 4.
        let (median, error) = median_error(vec![9.0, 1.0, 3.0, 2.0, 4.0]);
        assert_eq!(median, 3.0);
        assert!((error - 2.5 / (1.35 * 5.0_f64.sqrt())).abs() < 1e-15);
        // Two: quartiles 1.25 and 1.75.
        assert_eq!(median_error(vec![1.0, 2.0]).0, 1.5);
        assert!(median_error(vec![1.0]).1.is_nan() && median_error(vec![]).0.is_nan());
    }
}
