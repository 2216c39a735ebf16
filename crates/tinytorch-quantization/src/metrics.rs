//! How much quantization costs: one definition for each measure.
//!
//! In: what was expected and what came, value by value. Out: numbers to be compared.
//!
//! Sources: the signal-to-quantization-noise ratio as in Lin, Talathi, Annapureddy 2016, "Fixed Point Quantization of Deep
//! Convolutional Networks", arXiv 1511.06393; the divergence is that of Kullback and Leibler 1951, "On Information and
//! Sufficiency". The others are by definition.

use std::fmt;

/// What was lost between two versions of the same values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ErrorReport {
    /// Signal-to-quantization-noise ratio in decibels; see [`sqnr_db`].
    pub sqnr_db: f64,
    /// The largest absolute difference.
    pub max_error: f64,
    /// The mean absolute difference.
    pub mean_error: f64,
    /// The cosine of the angle between both, as vectors; see [`cosine`].
    pub cosine: f64,
}

impl fmt::Display for ErrorReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sqnr_db,
            max_error,
            mean_error,
            cosine,
        } = self;
        write!(
            f,
            "{sqnr_db:.1} dB, error at most {max_error:.3e}, {mean_error:.3e} on average, cosine {cosine:.6}"
        )
    }
}

/// All measures at once. Any shape, flattened, the same for both.
///
/// # Panics
///
/// If the lengths differ.
#[must_use]
#[track_caller]
pub fn compare(expected: &[f32], got: &[f32]) -> ErrorReport {
    let (mut max_error, mut sum) = (0.0_f64, 0.0);
    for error in differences(expected, got).map(f64::abs) {
        // `f64::max` would forget a NaN.
        max_error = if max_error >= error || max_error.is_nan() {
            max_error
        } else {
            error
        };
        sum += error;
    }
    ErrorReport {
        sqnr_db: sqnr_db(expected, got),
        max_error,
        mean_error: sum / expected.len().max(1) as f64,
        cosine: cosine(expected, got),
    }
}

/// The signal-to-quantization-noise ratio in decibels. Any shape, flattened, the same for both.
///
/// ```text
/// 10 · log₁₀( Σ expected² / Σ (expected − got)² )
/// ```
///
/// `expected = [3, 4]`, `got = [3, 4.5]`: `10 · log₁₀(25 / 0.25) = 20` dB. Every further bit of a code is worth some 6:
/// it halves the steps, and `20 · log₁₀(2) = 6.02`.
/// Infinite if nothing was lost.
///
/// # Panics
///
/// If the lengths differ.
#[must_use]
#[track_caller]
pub fn sqnr_db(expected: &[f32], got: &[f32]) -> f64 {
    let noise: f64 = differences(expected, got)
        .map(|difference| difference * difference)
        .sum();
    if noise == 0.0 {
        return f64::INFINITY;
    }
    10.0 * (dot(expected, expected) / noise).log10()
}

/// The cosine of the angle between two vectors: 1 if they point the same way.
///
/// ```text
/// Σ expected · got / (|expected| · |got|)
/// ```
///
/// `[3, 4]` and `[4, 3]`: `24 / 25 = 0.96`. Two vectors of zeros point the same way; a vector of zeros and another do
/// not: 0.
///
/// # Panics
///
/// If the lengths differ.
#[must_use]
#[track_caller]
pub fn cosine(expected: &[f32], got: &[f32]) -> f64 {
    assert_eq!(expected.len(), got.len(), "as many values expected as got");
    let (left, right) = (dot(expected, expected), dot(got, got));
    if left == 0.0 && right == 0.0 {
        return 1.0;
    }
    if left == 0.0 || right == 0.0 {
        return 0.0;
    }
    dot(expected, got) / (left.sqrt() * right.sqrt())
}

/// The share of rows in which both have their largest value at the same place: how often two classifiers agree. Both are
/// `[rows, classes]`.
///
/// `rows` of `classes` values each; the first of equals counts. A row with a NaN has no largest value and agrees with none. No rows
/// agree fully: 1.
///
/// # Panics
///
/// If the lengths differ, or are no whole number of rows of at least one class.
#[must_use]
#[track_caller]
pub fn agreement(expected: &[f32], got: &[f32], classes: usize) -> f64 {
    assert_eq!(expected.len(), got.len(), "as many values expected as got");
    assert!(classes > 0, "at least one class");
    assert!(
        expected.len().is_multiple_of(classes),
        "whole rows of {classes}"
    );
    let rows = expected.len() / classes;
    if rows == 0 {
        return 1.0;
    }
    let pairs = expected.chunks(classes).zip(got.chunks(classes));
    let same = pairs
        .filter(|(expected, got)| {
            let answer = largest(expected);
            answer.is_some() && answer == largest(got)
        })
        .count();
    same as f64 / rows as f64
}

/// The share of rows whose largest value is at the place of their class. A row with a NaN has none, and is wrong. Of no labels all
/// are right: 1.
///
/// # Panics
///
/// If `scores` is not `[labels, classes]`, with at least one class.
#[must_use]
#[track_caller]
pub fn accuracy(scores: &[f32], classes: usize, labels: &[usize]) -> f64 {
    assert_eq!(
        scores.len(),
        classes * labels.len(),
        "a row of {classes} for each label"
    );
    assert!(classes > 0, "at least one class");
    if labels.is_empty() {
        return 1.0;
    }
    let rows = scores.chunks(classes).zip(labels);
    let right = rows
        .filter(|(scores, label)| largest(scores) == Some(**label))
        .count();
    right as f64 / labels.len() as f64
}

/// The answer of each row: the place of its largest value, the first of equals; `None` for a row with a NaN.
/// `[rows, classes]` to `[rows]`.
///
/// # Panics
///
/// If `scores` are no whole number of rows of at least one class.
#[must_use]
#[track_caller]
pub fn answers(scores: &[f32], classes: usize) -> Vec<Option<usize>> {
    assert!(
        classes > 0 && scores.len().is_multiple_of(classes),
        "whole rows of {classes}"
    );
    scores.chunks(classes).map(largest).collect()
}

/// Mean divergence of the answers `got` from those `expected`, both as logits `[rows, classes]`: `Σ p · ln(p / q)` with their
/// softmaxes `p` and `q`. In nats; 0 for equal ones, and for no rows. NaN if a logit is NaN or +infinity; infinite if one
/// of `got` alone is -infinity.
///
/// # Panics
///
/// If the lengths differ, or are no whole number of rows of at least one class.
#[must_use]
#[track_caller]
pub fn kl_divergence(expected: &[f32], got: &[f32], classes: usize) -> f64 {
    assert_eq!(expected.len(), got.len(), "as many values expected as got");
    assert!(
        classes > 0 && expected.len().is_multiple_of(classes),
        "whole rows of {classes}"
    );
    let rows = expected.chunks(classes).zip(got.chunks(classes));
    let of_row = |(expected, got)| -> f64 {
        let (p, q) = (log_softmax(expected), log_softmax(got));
        let terms = p.iter().zip(&q).map(|(&p, &q)| match p {
            // 0 · ln 0 = 0: the limit, and what cannot be says nothing.
            f64::NEG_INFINITY if !q.is_nan() => 0.0,
            _ => p.exp() * (p - q),
        });
        terms.sum()
    };
    let count = (expected.len() / classes).max(1) as f64;
    let mean = rows.map(of_row).sum::<f64>() / count;
    // What rounding leaves of equal rows may be below 0, which a divergence never is; a NaN stays one, which `max` would forget.
    if mean < 0.0 { 0.0 } else { mean }
}

/// Mean cross entropy of logits `[labels, classes]`: `−ln softmax(row)[label]`. In nats; 0 for no labels.
///
/// # Panics
///
/// If `scores` is not `[labels, classes]`, or a label is not below `classes`.
#[must_use]
#[track_caller]
pub fn mean_cross_entropy(scores: &[f32], classes: usize, labels: &[usize]) -> f64 {
    assert_eq!(
        scores.len(),
        classes * labels.len(),
        "a row of {classes} for each label"
    );
    let rows = scores.chunks(classes.max(1)).zip(labels);
    let sum: f64 = rows.map(|(row, &label)| -log_softmax(row)[label]).sum();
    sum / labels.len().max(1) as f64
}

fn log_softmax(row: &[f32]) -> Vec<f64> {
    let largest = row
        .iter()
        .fold(f64::NEG_INFINITY, |max, &x| max.max(f64::from(x)));
    let sum: f64 = row.iter().map(|&x| (f64::from(x) - largest).exp()).sum();
    row.iter()
        .map(|&x| f64::from(x) - largest - sum.ln())
        .collect()
}

/// The index of the first of the largest values; `None` if one is NaN.
fn largest(row: &[f32]) -> Option<usize> {
    if row.iter().any(|value| value.is_nan()) {
        return None;
    }
    let mut best = 0;
    for (index, value) in row.iter().enumerate() {
        if value > &row[best] {
            best = index;
        }
    }
    Some(best)
}

fn dot(left: &[f32], right: &[f32]) -> f64 {
    let products = left
        .iter()
        .zip(right)
        .map(|(&x, &y)| f64::from(x) * f64::from(y));
    products.sum()
}

#[track_caller]
fn differences(expected: &[f32], got: &[f32]) -> impl Iterator<Item = f64> {
    assert_eq!(expected.len(), got.len(), "as many values expected as got");
    expected
        .iter()
        .zip(got)
        .map(|(&x, &y)| f64::from(x) - f64::from(y))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_measured_against_the_signal() {
        assert_eq!(sqnr_db(&[3.0, 4.0], &[3.0, 4.5]), 20.0);
        assert_eq!(sqnr_db(&[3.0, 4.0], &[3.0, 4.0]), f64::INFINITY);
        assert_eq!(sqnr_db(&[0.0], &[1.0]), f64::NEG_INFINITY);
    }

    #[test]
    fn errors_are_measured_by_hand() {
        let report = compare(&[3.0, 4.0, 0.0, 0.0], &[3.0, 4.5, 0.0, -0.25]);
        assert_eq!((report.max_error, report.mean_error), (0.5, 0.1875));
        let report = compare(&[1.0, 2.0], &[f32::NAN, 2.0]);
        assert!(report.max_error.is_nan() && report.mean_error.is_nan());
    }

    #[test]
    fn the_angle_is_that_of_vectors() {
        assert_eq!(cosine(&[3.0, 4.0], &[4.0, 3.0]), 0.96);
        assert_eq!(cosine(&[3.0, 4.0], &[-6.0, -8.0]), -1.0);
        assert_eq!(cosine(&[0.0], &[0.0]), 1.0);
        assert_eq!(cosine(&[0.0], &[1.0]), 0.0);
    }

    #[test]
    fn classifiers_agree_where_the_largest_scores_are() {
        let expected = [0.1, 0.9, 0.8, 0.2, 0.5, 0.5];
        let got = [0.4, 0.6, 0.3, 0.7, 0.9, 0.1];
        assert_eq!(agreement(&expected, &got, 2), 2.0 / 3.0);
        assert_eq!(accuracy(&got, 2, &[1, 0, 0]), 2.0 / 3.0);
        assert_eq!(agreement(&[], &[], 2), 1.0);
    }

    #[test]
    fn a_diverged_model_is_not_called_right() {
        // A NaN compares as smaller and as larger than nothing: rows of them once counted as an answer of class 0.
        let nan = f32::NAN;
        assert_eq!(accuracy(&[nan, 9.0], 2, &[0]), 0.0);
        assert_eq!(agreement(&[nan, nan], &[nan, nan], 2), 0.0);
        assert_eq!(agreement(&[1.0, 0.0], &[nan, nan], 2), 0.0);
        assert_eq!(answers(&[nan, 0.0, 0.0, 1.0], 2), [None, Some(1)]);
        assert!(kl_divergence(&[1.0, 2.0], &[nan, nan], 2).is_nan());
        let ruled_out = kl_divergence(&[0.0, 0.0], &[f32::NEG_INFINITY, 0.0], 2);
        assert_eq!(ruled_out, f64::INFINITY);
        let both = [f32::NEG_INFINITY, 0.0];
        assert_eq!(kl_divergence(&both, &both, 2), 0.0);
    }

    #[test]
    fn answers_divergence_and_cross_entropy_by_hand() {
        let (even, sure) = ([0.0, 0.0], [3.0_f32.ln(), 0.0]);
        assert_eq!(answers(&[0.0, 0.0, 1.0, 2.0], 2), [Some(0), Some(1)]);
        // p = [1/2, 1/2], q = [3/4, 1/4]: (ln(2/3) + ln 2) / 2. The logits are f32: ln 3 is off by 1e-7.
        let expected = ((2.0_f64 / 3.0).ln() + 2.0_f64.ln()) / 2.0;
        assert!((kl_divergence(&even, &sure, 2) - expected).abs() < 1e-7);
        assert_eq!(kl_divergence(&sure, &sure, 2), 0.0);
        let loss = mean_cross_entropy(&[0.0, 0.0, sure[0], sure[1]], 2, &[1, 1]);
        assert!((loss - (2.0_f64.ln() + 4.0_f64.ln()) / 2.0).abs() < 1e-7);
        assert_eq!(mean_cross_entropy(&[], 2, &[]), 0.0);
    }
}
