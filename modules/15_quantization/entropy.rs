//! Entropy calibration: the range that loses the least information. A bonus.
//!
//! In: a histogram of magnitudes. Out: the range whose coarse picture of the values resembles the fine one best. A
//! wide range keeps outliers and spends its levels on emptiness; a narrow one piles outliers up at its end. Between
//! them lies the smallest divergence.
//!
//! Source: S. Migacz, "8-bit Inference with TensorRT", 2017, slides 28 to 40.

use crate::error::{Error, Result};
use crate::histogram::Histogram;
use crate::observer::Observer;
use crate::scheme::ValueRange;

/// What an empty bin counts as when something should have been there.
pub const EMPTY_BIN: f64 = 1e-4;

/// The Kullback-Leibler divergence of two distributions that need not sum to 1.
///
/// ```text
/// Σᵢ pᵢ · ln(pᵢ / qᵢ)        both divided by their sums first
/// ```
///
/// Where `q` is 0 and `p` is not, the sum would be infinite, and a single empty bin would rule out a range. There `q`
/// counts as [`EMPTY_BIN`], as in MXNet's calibration.
///
/// # Panics
///
/// If the lengths differ.
#[must_use]
#[track_caller]
pub fn divergence(p: &[f64], q: &[f64]) -> f64 {
    assert_eq!(p.len(), q.len(), "two distributions over the same bins");
    let (p_sum, q_sum) = (p.iter().sum::<f64>(), q.iter().sum::<f64>().max(EMPTY_BIN));
    let both = p.iter().zip(q).filter(|(p, _)| **p > 0.0);
    both.map(|(p, q)| {
        let (p, q) = (p / p_sum, q.max(EMPTY_BIN) / q_sum);
        p * (p / q).ln()
    })
    .sum()
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
/// With the magnitudes of both signs counted together, try every number of bins `i` from `levels` up to all of them:
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
/// `q` is made without the outliers: so the divergence grows with what is cut off. Of equal divergences the first
/// counts, the narrowest range.
///
/// # Worked example
///
/// Four bins of width 1 hold 4, 4, 0 and 1 magnitudes, two levels. `i = 2`: p is `[4, 5]`, q `[4, 4]`,
/// the divergence 0.006. `i = 3`: `[4, 4, 1]` against `[4, 4, 0]`, 0.906, for the outlier landed in an empty bin. `i = 4`:
/// `[4, 4, 0, 1]` against itself, 0. All is kept: two levels express these values exactly.
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

/// Keeps the range that [`entropy_range`] finds.
#[derive(Clone, Debug, PartialEq)]
pub struct EntropyObserver {
    levels: usize,
    histogram: Histogram,
}

impl Default for EntropyObserver {
    /// 128 levels: the magnitudes of 8 bits.
    fn default() -> Self {
        Self {
            levels: 128,
            histogram: Histogram::default(),
        }
    }
}

impl Observer for EntropyObserver {
    fn observe(&mut self, values: &[f32]) -> Result<()> {
        self.histogram.add(values)
    }

    fn range(&self) -> Result<ValueRange> {
        entropy_range(&self.histogram, self.levels)
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
        let histogram = histogram(4, &[(4.0, 1), (0.5, 2), (-0.5, 2), (1.5, 4)]);
        let range = entropy_range(&histogram, 2);
        assert_eq!(
            range,
            Ok(ValueRange {
                min: -0.5,
                max: 4.0
            })
        );
    }

    #[test]
    fn a_lone_outlier_is_given_up() {
        // 1600 values within ±1, most of them near 0, and one at 100.
        let steps = || (0..40).map(|i| (i as f32 - 19.5) / 40.0);
        let mut values: Vec<f32> = steps().flat_map(|a| steps().map(move |b| a + b)).collect();
        values.push(100.0);
        let mut histogram = Histogram::default();
        histogram.add(&values).expect("finite");
        let range = entropy_range(&histogram, 128).expect("values came");
        // 128 of 2048 bins are the fewest that may be kept.
        assert_eq!(range.max, 6.25);
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
        assert_eq!(divergence(&[1.0, 1.0], &[2.0, 2.0]), 0.0);
        // ½·ln(½ / 1) + ½·ln(½ / 0.0001).
        let expected = 0.5 * 0.5_f64.ln() + 0.5 * (0.5_f64 / 1e-4).ln();
        assert_eq!(divergence(&[1.0, 1.0], &[1.0, 0.0]), expected);
    }
}
