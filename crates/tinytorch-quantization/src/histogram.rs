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
            bin_width: 0.0,
            seen: None,
        }
    }

    /// A histogram of counts made elsewhere: of `[bin · bin_width, (bin + 1) · bin_width)` for each sign, and the
    /// smallest and largest value exactly.
    ///
    /// # Errors
    ///
    /// [`Error::BadHistogram`] if both signs have not the same, even number of bins, or `seen` does
    /// not fit into them.
    pub fn from_counts(
        negative: Vec<u64>,
        positive: Vec<u64>,
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
        } else {
            return Ok(Self {
                negative,
                positive,
                bin_width,
                seen: Some(seen),
            });
        };
        Err(Error::BadHistogram { why })
    }

    /// Counts every value.
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

    /// How many bins there are for each sign.
    #[must_use]
    pub fn bins(&self) -> usize {
        self.positive.len()
    }

    /// How many values were counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.negative.iter().sum::<u64>() + self.positive.iter().sum::<u64>()
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
    fn the_extremes_of_f32_are_counted() {
        let mut histogram = Histogram::default();
        histogram.add(&[f32::from_bits(1)]).expect("finite");
        histogram.add(&[f32::MAX, f32::MIN]).expect("finite");
        assert_eq!(histogram.total(), 3);
        assert!(histogram.add(&[f32::NAN]).is_err());
        assert_eq!(histogram.total(), 3);
    }
}
