//! A histogram that never needs to know the range beforehand.
//!
//! In: batches of values. Out: how many had which magnitude, for each sign. Memory is fixed, whatever is fed: when a
//! larger magnitude arrives, the bins double their width and neighbours merge, so no count is lost and no value is
//! kept. Every batch can be observed as it comes.
//!
//! ```text
//! bin         0        1        2      ...   bins-1
//! |x| in   [0, w)   [w, 2w)  [2w, 3w)  ...   [(bins-1)·w, bins·w]        w: bin_width
//! ```

use crate::error::{Error, Result};
use crate::finite::check_finite;
use crate::scheme::ValueRange;

/// How many bins a [`Histogram`] has by default.
pub const DEFAULT_BINS: usize = 2048;

/// Counts of magnitudes, those of negative values apart from the others.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    negative: Vec<u64>,
    positive: Vec<u64>,
    zeros: u64,
    /// 0 until a value other than 0.0 came: up to then one bin holds them all. In `f64`, where no `f32` divided by
    /// the number of bins underflows.
    bin_width: f64,
    seen: Option<ValueRange>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new(DEFAULT_BINS)
    }
}

impl Histogram {
    /// An empty histogram with `bins` bins for each sign.
    ///
    /// # Panics
    ///
    /// If `bins` is zero or odd: neighbours merge in pairs.
    #[must_use]
    #[track_caller]
    pub fn new(bins: usize) -> Self {
        assert!(
            bins > 0 && bins.is_multiple_of(2),
            "the number of bins must be even, got {bins}"
        );
        Self {
            negative: vec![0; bins],
            positive: vec![0; bins],
            zeros: 0,
            bin_width: 0.0,
            seen: None,
        }
    }

    /// A histogram of counts made elsewhere: of `[bin · bin_width, (bin + 1) · bin_width)` for each sign, how many of those in
    /// the first bin are exactly 0, and the smallest and largest value exactly.
    ///
    /// # Errors
    ///
    /// [`Error::BadHistogram`] if both signs have not the same, even number of bins, `seen` does
    /// not fit into them, or the first bin holds fewer than `zeros`.
    pub fn from_counts(
        negative: Vec<u64>,
        positive: Vec<u64>,
        zeros: u64,
        bin_width: f64,
        seen: ValueRange,
    ) -> Result<Self> {
        let bins = positive.len();
        let why = if bins == 0 || !bins.is_multiple_of(2) || negative.len() != bins {
            "both signs need the same, even number of bins"
        } else if !(bin_width >= 0.0 && bin_width.is_finite()) {
            "the width of a bin must be finite and not below 0"
        } else if !(seen.min <= seen.max && f64::from(seen.max_abs()) <= bins as f64 * bin_width) {
            "the values seen lie beyond the last bin"
        } else if zeros > positive[0] {
            "zeros are counted in the first bin, which holds fewer"
        } else {
            return Ok(Self {
                negative,
                positive,
                zeros,
                bin_width,
                seen: Some(seen),
            });
        };
        Err(Error::BadHistogram { why })
    }

    /// Counts every value. Any shape, flattened; the order does not matter.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`]; nothing was counted then.
    pub fn add(&mut self, values: &[f32]) -> Result<()> {
        check_finite(values)?;
        let Some(&first) = values.first() else {
            return Ok(());
        };
        let old = self.seen.unwrap_or(ValueRange {
            min: first,
            max: first,
        });
        let seen = values.iter().fold(old, |range, &x| ValueRange {
            min: range.min.min(x),
            max: range.max.max(x),
        });
        self.seen = Some(seen);
        self.make_room(f64::from(seen.max_abs()));
        for &value in values {
            let bin = self.bin_of(value);
            self.zeros += u64::from(value == 0.0);
            if value < 0.0 {
                self.negative[bin] += 1;
            } else {
                self.positive[bin] += 1;
            }
        }
        Ok(())
    }

    /// How many values below zero had their magnitude in each bin.
    #[must_use]
    pub fn negative(&self) -> &[u64] {
        &self.negative
    }

    /// How many values from zero up had their magnitude in each bin. Zeros are in bin 0.
    #[must_use]
    pub fn positive(&self) -> &[u64] {
        &self.positive
    }

    /// How many values were exactly 0. They are in bin 0 as well.
    #[must_use]
    pub fn zeros(&self) -> u64 {
        self.zeros
    }

    /// How many bins there are for each sign.
    #[must_use]
    pub fn bins(&self) -> usize {
        self.positive.len()
    }

    /// How many values were counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        let both = self.negative.iter().chain(&self.positive);
        both.fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The width of a bin; 0 if nothing but zeros came.
    #[must_use]
    pub fn bin_width(&self) -> f64 {
        self.bin_width
    }

    /// The upper end of a bin: `(bin + 1) · bin_width`.
    #[must_use]
    pub fn upper_edge(&self, bin: usize) -> f32 {
        ((bin + 1) as f64 * self.bin_width) as f32
    }

    /// The smallest and the largest value exactly as they came, if any did.
    #[must_use]
    pub fn seen(&self) -> Option<ValueRange> {
        self.seen
    }

    /// The same values in wider bins, so that those that hold any hold `values_per_bin` on average, zeros not counted.
    ///
    /// Neighbours merge in pairs, and an empty bin is added if an odd number results, as long as `fewest` bins remain.
    #[must_use]
    pub fn merged(&self, values_per_bin: u64, fewest: usize) -> Self {
        let mut merged = self.clone();
        let values = self.total().saturating_sub(self.zeros);
        loop {
            let is_enough = values >= values_per_bin.saturating_mul(merged.filled_bins());
            let bins = (merged.bins() / 2).next_multiple_of(2);
            if is_enough || bins < fewest || bins == merged.bins() {
                return merged;
            }
            for counts in [&mut merged.negative, &mut merged.positive] {
                merge_pairs(counts);
                counts.truncate(bins);
            }
            merged.bin_width *= 2.0;
        }
    }

    /// How many bins hold a magnitude that is not 0, of either sign.
    fn filled_bins(&self) -> u64 {
        let both = self.negative.iter().zip(&self.positive).enumerate();
        let holds = |bin: usize, below: u64, above: u64| {
            below > 0 || above > if bin == 0 { self.zeros } else { 0 }
        };
        both.map(|(bin, (&below, &above))| u64::from(holds(bin, below, above)))
            .sum()
    }

    fn bin_of(&self, value: f32) -> usize {
        if self.bin_width == 0.0 {
            return 0;
        }
        let bin = f64::from(value.abs()) / self.bin_width;
        (bin as usize).min(self.bins() - 1)
    }

    /// Widens the bins until the last one ends at `max_abs` or beyond.
    fn make_room(&mut self, max_abs: f64) {
        let bins = self.bins() as f64;
        if self.bin_width == 0.0 {
            self.bin_width = max_abs / bins;
        }
        while self.bin_width * bins < max_abs {
            self.bin_width *= 2.0;
            merge_pairs(&mut self.negative);
            merge_pairs(&mut self.positive);
        }
    }
}

/// Adds up neighbours: `[1, 2, 3, 4]` becomes `[3, 7, 0, 0]`.
fn merge_pairs(counts: &mut [u64]) {
    let half = counts.len() / 2;
    for bin in 0..half {
        counts[bin] = counts[2 * bin] + counts[2 * bin + 1];
    }
    counts[half..].fill(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magnitudes_are_counted_for_each_sign() {
        let mut histogram = Histogram::new(4);
        histogram
            .add(&[0.0, 0.5, -1.5, 4.0, -4.0, 2.0])
            .expect("finite");
        assert_eq!(histogram.bin_width(), 1.0);
        assert_eq!(histogram.positive(), [2, 0, 1, 1]);
        assert_eq!(histogram.negative(), [0, 1, 0, 1]);
        assert_eq!(histogram.total(), 6);
        assert_eq!(histogram.upper_edge(3), 4.0);
    }

    #[test]
    fn a_larger_value_doubles_the_bins_and_loses_no_count() {
        let mut histogram = Histogram::new(4);
        histogram.add(&[0.5, 1.5, 2.5, 4.0]).expect("finite");
        histogram.add(&[-9.0]).expect("finite");
        assert_eq!(histogram.bin_width(), 4.0);
        assert_eq!(histogram.positive(), [4, 0, 0, 0]);
        assert_eq!(histogram.negative(), [0, 0, 1, 0]);
    }

    #[test]
    fn zeros_first_do_not_spoil_the_bins() {
        let mut histogram = Histogram::new(4);
        histogram.add(&[0.0, -0.0]).expect("finite");
        assert_eq!((histogram.bin_width(), histogram.total()), (0.0, 2));
        histogram.add(&[8.0]).expect("finite");
        assert_eq!(histogram.positive(), [2, 0, 0, 1]);
    }

    #[test]
    fn bins_merge_until_they_hold_enough() {
        let mut histogram = Histogram::new(6);
        histogram
            .add(&[6.0, 0.5, 1.5, -1.5, 0.0, 0.0])
            .expect("finite");
        assert_eq!(histogram.zeros(), 2);
        // Three filled bins hold 4 values: 2 for each need wider ones. Of the three that remain two are filled.
        let merged = histogram.merged(2, 2);
        assert_eq!((merged.bin_width(), merged.zeros()), (2.0, 2));
        assert_eq!(merged.positive(), [4, 0, 1, 0]);
        assert_eq!(merged.negative(), [1, 0, 0, 0]);
        // Two bins are the fewest.
        let fewest = histogram.merged(u64::MAX, 0);
        assert_eq!((fewest.bin_width(), fewest.bins()), (4.0, 2));
        assert_eq!(fewest.seen(), histogram.seen());
        assert_eq!(histogram.merged(4, 5), histogram, "five must remain");
        assert_eq!(histogram.merged(1, 1), histogram, "they hold enough");
    }

    #[test]
    fn the_extremes_of_f32_are_counted() {
        let mut histogram = Histogram::default();
        histogram.add(&[f32::from_bits(1)]).expect("finite");
        histogram.add(&[f32::MAX, f32::MIN]).expect("finite");
        assert_eq!(histogram.total(), 3);
        assert!(histogram.add(&[f32::NAN]).is_err());
        assert_eq!(histogram.total(), 3);
    }
}
