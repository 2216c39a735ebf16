//! Entropy calibration: the range that loses the least information (N21). A bonus.
//!
//! In: a histogram of magnitudes. Out: the range whose coarse picture of the values resembles the fine one best. A
//! wide range keeps outliers and spends its levels on emptiness; a narrow one piles outliers up at its end. Between
//! them lies the smallest divergence.
//!
//! Source: S. Migacz, "8-bit Inference with TensorRT", 2017, slides 28 to 40. Three things differ, each where the original
//! goes wrong:
//!
//! - Values that are exactly 0 do not count. They have a code of their own in every range (N6); yet spread over the bins of
//!   their level, the many zeros behind a ReLU would look like the largest loss of all, and only the narrowest range avoids it. NVIDIA's
//!   later `pytorch-quantization` replaces the first bin by the second for the same reason.
//! - [`divergence`] does not scale the codes' picture up again to the sum of the values. It hides what was cut off: if all values lie
//!   between 4 and 5, a range that keeps a single one of them would look perfect.
//! - The bins are as wide as the number of values demands ([`VALUES_PER_BIN`]).

use crate::error::{Error, Result};
use crate::histogram::Histogram;
use crate::observer::Observer;
use crate::scheme::{CodeRange, ValueRange};

/// What an empty bin counts as when something should have been there.
pub const EMPTY_BIN: f64 = 1e-4;

/// How many values a bin shall hold on average, of those that hold any; [`trusted_entropy_range`] widens the bins until they do.
///
/// Merging bins whose heights differ only by chance costs some divergence too: about half the number of bins that vanish, divided by
/// the number of values (the mean of the chi-squared distribution that `2 · values · divergence` has). With 64 values in each bin it
/// is below 1/128, as much as one or two values in a thousand that pile up at the end: cutting off more than those never pays by chance.
pub const VALUES_PER_BIN: u64 = 64;

/// By how much `q` falls short of `p`: the Kullback-Leibler divergence for a `q` with another sum.
///
/// ```text
/// ( Σᵢ pᵢ · ln(pᵢ / qᵢ)  −  Σᵢ pᵢ  +  Σᵢ qᵢ ) / Σᵢ pᵢ        0 only if both are the same, or if p is empty
/// ```
///
/// If both have the same sum, that is the usual divergence of the two distributions. Where `q` is 0 and `p` is not, it would be
/// infinite, and a single empty bin would rule out a range. There `q` counts as [`EMPTY_BIN`], as much as ONNX Runtime and
/// MXNet give to empty bins.
///
/// Source: I. Csiszar, "Why least squares and maximum entropy?", Annals of Statistics 19, 1991, equation (1.2).
///
/// # Panics
///
/// If the lengths differ.
#[must_use]
#[track_caller]
pub fn divergence(p: &[f64], q: &[f64]) -> f64 {
    assert_eq!(p.len(), q.len(), "two distributions over the same bins");
    let (p_sum, q_sum) = (p.iter().sum::<f64>(), q.iter().sum::<f64>());
    if p_sum == 0.0 {
        return 0.0;
    }
    let both = p.iter().zip(q).filter(|(p, _)| **p > 0.0);
    let compared: f64 = both.map(|(p, q)| p * (p / q.max(EMPTY_BIN)).ln()).sum();
    (compared - p_sum + q_sum) / p_sum
}

/// What is left of `bins` when they are written with `levels` levels and read back.
///
/// Bin `i` goes to level `i · levels / bins`, rounded down. Each level spreads its sum evenly over those of its bins
/// that are not empty; empty bins stay empty.
///
/// `coarsen([1, 3, 0, 4], 2)` is `[2, 2, 0, 4]`.
///
/// # Panics
///
/// If `levels` is 0.
#[must_use]
#[track_caller]
pub fn coarsen(bins: &[f64], levels: usize) -> Vec<f64> {
    assert!(levels > 0, "at least one level");
    let level_of = |bin: usize| bin * levels / bins.len();
    let mut sums = vec![(0.0, 0_u32); levels];
    for (bin, &count) in bins.iter().enumerate() {
        let (sum, filled) = &mut sums[level_of(bin)];
        *sum += count;
        *filled += u32::from(count > 0.0);
    }
    let spread = |(bin, &count): (usize, &f64)| {
        let (sum, filled) = sums[level_of(bin)];
        if count > 0.0 {
            sum / f64::from(filled)
        } else {
            0.0
        }
    };
    bins.iter().enumerate().map(spread).collect()
}

/// Finds the range with the smallest divergence. **Exercise 15.12, a bonus**
///
/// `levels` is how many codes a magnitude can have: 128 for 8 bits.
///
/// # The maths
///
/// With the magnitudes of both signs counted together, and those that are exactly 0 not counted at all, try every number of bins `i`
/// from `levels` up to all of them:
///
/// ```text
/// kept = bins[0..i]
/// p    = kept, and everything beyond bin i added to its last bin       what saturation makes of the values
/// q    = coarsen(kept, levels)                                         what the codes can express
/// limit = upper edge of bin i − 1 for the i with the smallest divergence(p, q)
///
/// min = max(smallest seen, −limit)              max = min(largest seen, limit)
/// ```
///
/// `q` is made without the outliers: so the divergence grows with what is cut off. Of equal divergences the last
/// counts, the widest range.
///
/// # Worked example
///
/// Four bins of width 1 hold 11, 4, 0 and 1 magnitudes, seven of them zeros; two levels. Without the zeros: 4, 4, 0 and 1. `i = 2`: p is
/// `[4, 5]`, q `[4, 4]`, the divergence 0.013. `i = 3`: `[4, 4, 1]` against `[4, 4, 0]`, 0.912, for the outlier landed in an empty
/// bin. `i = 4`: `[4, 4, 0, 1]` against itself, 0. All is kept: two levels express these values exactly.
///
/// # Edge cases
///
/// - Only zeros came: the range is `[0, 0]`.
///
/// # Errors
///
/// - [`Error::NothingObserved`] for an empty histogram.
/// - [`Error::TooManyLevels`] if there are more levels than bins, or none at all.
pub fn entropy_range(histogram: &Histogram, levels: usize) -> Result<ValueRange> {
    let seen = histogram
        .seen()
        .ok_or(Error::NothingObserved { tensor: None })?;
    let bins = histogram.bins();
    if levels == 0 || levels > bins {
        return Err(Error::TooManyLevels { levels, bins });
    }
    // BEGIN SOLUTION 15.12
    todo!("exercise 15.12")
    // END SOLUTION
}

/// [`entropy_range`] for these codes, in bins that hold enough values to be trusted.
///
/// The longer side of what was seen gets the more codes: nearly half of them if it reaches as far to both sides of 0, all of them behind a
/// ReLU. So many levels there are. Bins merge while they hold too few values ([`VALUES_PER_BIN`]) and can still be told apart by the
/// levels; so with very few values the range is what was seen.
///
/// # Errors
///
/// Those of [`entropy_range`].
pub fn trusted_entropy_range(histogram: &Histogram, codes: CodeRange) -> Result<ValueRange> {
    let seen = histogram
        .seen()
        .ok_or(Error::NothingObserved { tensor: None })?;
    let [below, above] = [-seen.min, seen.max].map(|side| f64::from(side.max(0.0)));
    // Only zeros have no longer side.
    let share = below.max(above) / (below + above).max(f64::MIN_POSITIVE);
    let levels = ((codes.len() as f64 * share).ceil() as usize).max(1);
    entropy_range(&histogram.merged(VALUES_PER_BIN, levels), levels)
}

/// Keeps the range that [`trusted_entropy_range`] finds.
#[derive(Clone, Debug, PartialEq)]
pub struct EntropyObserver {
    codes: CodeRange,
    histogram: Histogram,
}

impl Default for EntropyObserver {
    /// For [`CodeRange::INT8`].
    fn default() -> Self {
        Self {
            codes: CodeRange::INT8,
            histogram: Histogram::default(),
        }
    }
}

impl Observer for EntropyObserver {
    fn observe(&mut self, values: &[f32]) -> Result<()> {
        self.histogram.add(values)
    }

    fn range(&self) -> Result<ValueRange> {
        trusted_entropy_range(&self.histogram, self.codes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(bins: usize, counts: &[(f32, usize)]) -> Histogram {
        let mut histogram = Histogram::new(bins);
        // The largest magnitude first: it fixes the width of the bins.
        for &(value, count) in counts {
            histogram.add(&vec![value; count]).expect("finite");
        }
        histogram
    }

    #[test]
    fn worked_example() {
        let histogram = histogram(4, &[(4.0, 1), (0.5, 2), (-0.5, 2), (1.5, 4), (0.0, 7)]);
        let range = entropy_range(&histogram, 2);
        assert_eq!(
            range,
            Ok(ValueRange {
                min: -0.5,
                max: 4.0
            })
        );
    }

    fn range(min: f32, max: f32) -> ValueRange {
        ValueRange { min, max }
    }

    /// 1600 values within ±1, most of them near 0, none of them 0.
    fn triangle() -> Vec<f32> {
        let steps = || (0..40).map(|i| (i as f32 - 19.5) / 40.0);
        let sums = steps().flat_map(|a| steps().map(move |b| a + b + 0.001));
        sums.collect()
    }

    #[test]
    fn a_lone_outlier_is_given_up() {
        let mut values = triangle();
        values.push(100.0);
        let mut histogram = Histogram::default();
        histogram.add(&values).expect("finite");
        let range = entropy_range(&histogram, 128).expect("values came");
        // 128 of 2048 bins are the fewest that may be kept.
        assert_eq!(range.max, 6.25);
    }

    #[test]
    fn zeros_behind_a_relu_do_not_narrow_the_range() {
        // Counted, 800 zeros in one bin would be worth more than all other values: the range became [0, 0.2].
        let values: Vec<f32> = triangle().iter().map(|x| x.max(0.0)).collect();
        let mut histogram = Histogram::new(64);
        histogram.add(&values).expect("finite");
        let range = entropy_range(&histogram, 16).expect("values came");
        assert!(range.max > 0.8, "{range:?}");
    }

    #[test]
    fn values_far_from_zero_are_kept() {
        // Two empty pictures resemble each other, and two with a single filled bin: the range was [5, 0.5] once, and [5, 5.06].
        for sign in [1.0, -1.0] {
            let values: Vec<f32> = triangle().iter().map(|x| sign * (x + 6.0)).collect();
            let mut observer = EntropyObserver::default();
            observer.observe(&values).expect("finite");
            let [all, trusted] = [entropy_range(&observer.histogram, 128), observer.range()];
            for range in [all, trusted] {
                let range = range.expect("values came");
                let kept = values
                    .iter()
                    .filter(|x| (range.min..=range.max).contains(*x));
                assert!(kept.count() > 1590, "{range:?}");
            }
        }
    }

    #[test]
    fn too_few_values_are_all_kept() {
        // Nine values tell nothing about heights; 128 narrow bins would keep three of them.
        let mut observer = EntropyObserver::default();
        let values = [0.1, 0.2, 0.21, -0.3, 0.5, 0.52, 0.55, 1.0, 1.6];
        observer.observe(&values).expect("finite");
        assert_eq!(observer.range(), Ok(range(-0.3, 1.6)));
        assert!(EntropyObserver::default().range().is_err());
    }

    #[test]
    fn only_zeros_are_a_range_of_zero() {
        let histogram = histogram(4, &[(0.0, 3)]);
        let range = entropy_range(&histogram, 2);
        assert_eq!(range, Ok(ValueRange { min: 0.0, max: 0.0 }));
    }

    #[test]
    fn coarse_bins_share_what_they_hold() {
        assert_eq!(coarsen(&[1.0, 3.0, 0.0, 4.0], 2), [2.0, 2.0, 0.0, 4.0]);
        assert_eq!(divergence(&[1.0, 4.0], &[1.0, 4.0]), 0.0);
        assert_eq!(divergence(&[0.0, 0.0], &[0.0, 0.0]), 0.0);
        // (1·ln(1 / 1) + 3·ln(3 / 0.0001) − 4 + 1) / 4.
        let expected = (3.0 * (3.0_f64 / 1e-4).ln() - 3.0) / 4.0;
        assert_eq!(divergence(&[1.0, 3.0], &[1.0, 0.0]), expected);
    }
}
