//! Observers: what range do the values of a tensor really take?
//!
//! In: batches of values, one after another. Out: the [`ValueRange`] worth spending codes on. Each observer answers a
//! different question: everything that ever came, what usually comes, or what nearly all values keep to.

use crate::error::{Error, Result};
use crate::finite::check_finite;
use crate::histogram::Histogram;
use crate::scheme::ValueRange;

/// Watches the values of one tensor and remembers their range.
///
/// An empty batch changes nothing. A batch with a value that is not finite is an error and changes nothing either.
pub trait Observer: std::fmt::Debug + Send {
    /// Looks at one batch of values.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] with the index of the first value that is NaN or infinite.
    fn observe(&mut self, values: &[f32]) -> Result<()>;

    /// The range of what was observed so far. It need not hold zero: whoever chooses parameters widens it.
    ///
    /// # Errors
    ///
    /// [`Error::NothingObserved`] if no value came.
    fn range(&self) -> Result<ValueRange>;
}

/// Remembers the smallest and the largest value of all batches.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MinMaxObserver {
    /// What was seen, if anything was.
    pub seen: Option<ValueRange>,
}

impl Observer for MinMaxObserver {
    /// Widens the range to all values of the batch. **Exercise 15.6, first part**
    ///
    /// # The maths
    ///
    /// ```text
    /// min ← min(min, smallest of the batch)        max ← max(max, largest of the batch)
    /// ```
    ///
    /// # Worked example
    ///
    /// `[1, 3]` and then `[−2, 2]`: the range is `[1, 3]` after the first batch and `[−2, 3]` after the second.
    ///
    /// # Edge cases
    ///
    /// The first batch has nothing to compare with. In particular the range does not start at `[0, 0]`: of `[1, 3]`
    /// the smallest is 1.
    fn observe(&mut self, values: &[f32]) -> Result<()> {
        check_finite(values)?;
        // BEGIN SOLUTION 15.6a
        todo!("exercise 15.6a")
        // END SOLUTION
    }

    fn range(&self) -> Result<ValueRange> {
        self.seen.ok_or(Error::NothingObserved { tensor: None })
    }
}

/// Averages the ranges of the batches: one strange batch moves it only a little.
#[derive(Clone, Debug, PartialEq)]
pub struct MovingAverageMinMaxObserver {
    /// How much of the difference to a new batch is taken over. In `(0, 1]`.
    averaging_constant: f32,
    /// The averaged range, if anything was seen.
    average: Option<ValueRange>,
}

impl Default for MovingAverageMinMaxObserver {
    /// The usual averaging constant, 0.01.
    fn default() -> Self {
        Self {
            averaging_constant: 0.01,
            average: None,
        }
    }
}

impl MovingAverageMinMaxObserver {
    /// An observer with this averaging constant.
    ///
    /// # Errors
    ///
    /// [`Error::BadAveragingConstant`] if it is not in `(0, 1]`.
    pub fn new(averaging_constant: f32) -> Result<Self> {
        if averaging_constant > 0.0 && averaging_constant <= 1.0 {
            Ok(Self {
                averaging_constant,
                average: None,
            })
        } else {
            Err(Error::BadAveragingConstant {
                constant: averaging_constant,
            })
        }
    }

    /// An observer that goes on from a range that one like it had; from nothing if there is none.
    ///
    /// # Errors
    ///
    /// [`Error::BadAveragingConstant`].
    pub fn resume(averaging_constant: f32, average: Option<ValueRange>) -> Result<Self> {
        let fresh = Self::new(averaging_constant)?;
        Ok(Self { average, ..fresh })
    }
}

impl Observer for MovingAverageMinMaxObserver {
    /// Moves the range a little towards that of the batch. **Exercise 15.6, second part**
    ///
    /// # The maths
    ///
    /// With `c` the averaging constant, and for the largest value in the same way:
    ///
    /// ```text
    /// min ← (1 − c) · min + c · smallest of the batch
    /// ```
    ///
    /// The first batch is taken over as it is. To start at zero instead would leave the range near zero for the
    /// first `1 / c` batches.
    ///
    /// # Worked example
    ///
    /// `c = 0.5`, batches `[0, 4]` and `[−2, 8]`: `[0, 4]` first, then
    /// `[0.5 · 0 + 0.5 · (−2), 0.5 · 4 + 0.5 · 8] = [−1, 6]`.
    ///
    /// # Edge cases
    ///
    /// An empty batch has no smallest value: it changes nothing.
    ///
    /// Source: Jacob et al. 2018, section 3.1: ranges by exponential moving averages.
    fn observe(&mut self, values: &[f32]) -> Result<()> {
        check_finite(values)?;
        // BEGIN SOLUTION 15.6b
        todo!("exercise 15.6b")
        // END SOLUTION
    }

    fn range(&self) -> Result<ValueRange> {
        self.average.ok_or(Error::NothingObserved { tensor: None })
    }
}

/// Keeps the range that a given percentage of the magnitudes fit in, and gives up the outliers.
#[derive(Clone, Debug, PartialEq)]
pub struct PercentileObserver {
    /// How many of 100 values the range must keep. In `(0, 100]`.
    percentile: f64,
    /// Everything that came.
    histogram: Histogram,
}

impl Default for PercentileObserver {
    /// The percentile 99.99: of 10,000 values one may be cut.
    fn default() -> Self {
        Self {
            percentile: 99.99,
            histogram: Histogram::default(),
        }
    }
}

impl PercentileObserver {
    /// An observer that keeps `percentile` of 100 values, found in `histogram` (usually an empty one).
    ///
    /// # Errors
    ///
    /// [`Error::BadPercentile`] if it is not in `(0, 100]`.
    pub fn new(percentile: f64, histogram: Histogram) -> Result<Self> {
        if percentile > 0.0 && percentile <= 100.0 {
            Ok(Self {
                percentile,
                histogram,
            })
        } else {
            Err(Error::BadPercentile { percentile })
        }
    }
}

impl Observer for PercentileObserver {
    fn observe(&mut self, values: &[f32]) -> Result<()> {
        self.histogram.add(values)
    }

    /// Finds the range that keeps the percentile. **Exercise 15.6, third part**
    ///
    /// # The maths
    ///
    /// The limit is the upper edge of the first bin at which enough magnitudes are kept, counting both signs:
    ///
    /// ```text
    /// kept(bin) = Σ  negative[b] + positive[b]      over b ≤ bin
    /// limit     = upper edge of the first bin with   100 · kept(bin) ≥ percentile · total
    ///
    /// min = max(smallest seen, −limit)              max = min(largest seen, limit)
    /// ```
    ///
    /// It is the magnitude that is limited: a percentile of the signed values would cut the large positive values
    /// and keep every large negative one. And the range never exceeds what was seen: after a ReLU, `min` stays 0.
    ///
    /// # Worked example
    ///
    /// A histogram of 4 bins that saw `[0.5, 0.5, −1.5, 4]` has bins of width 1 and counts 2, 1, 0, 1. For the
    /// percentile 75, three of four values must be kept, which bin 1 does: the limit is 2, the range `[−1.5, 2]`.
    ///
    /// # Edge cases
    ///
    /// - At percentile 100 the range is exactly what was seen.
    /// - Only zeros came: every edge is 0, and so is the range.
    fn range(&self) -> Result<ValueRange> {
        let seen = self
            .histogram
            .seen()
            .ok_or(Error::NothingObserved { tensor: None })?;
        // BEGIN SOLUTION 15.6c
        todo!("exercise 15.6c")
        // END SOLUTION
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(observer: &mut dyn Observer, batches: &[&[f32]]) -> Result<(f32, f32)> {
        for batch in batches {
            observer.observe(batch)?;
        }
        observer.range().map(|range| (range.min, range.max))
    }

    #[test]
    fn worked_example_min_max() {
        let mut observer = MinMaxObserver::default();
        assert_eq!(after(&mut observer, &[&[1.0, 3.0]]), Ok((1.0, 3.0)));
        assert_eq!(after(&mut observer, &[&[-2.0, 2.0]]), Ok((-2.0, 3.0)));
    }

    #[test]
    fn nothing_observed_is_an_error() {
        let nothing = Err(Error::NothingObserved { tensor: None });
        assert_eq!(after(&mut MinMaxObserver::default(), &[&[]]), nothing);
        assert_eq!(
            after(&mut MovingAverageMinMaxObserver::default(), &[]),
            nothing
        );
        assert_eq!(after(&mut PercentileObserver::default(), &[&[]]), nothing);
    }

    #[test]
    fn worked_example_moving_average() {
        let mut observer = MovingAverageMinMaxObserver::new(0.5).expect("0.5 is good");
        assert_eq!(after(&mut observer, &[&[0.0, 4.0]]), Ok((0.0, 4.0)));
        assert_eq!(after(&mut observer, &[&[], &[-2.0, 8.0]]), Ok((-1.0, 6.0)));
    }

    #[test]
    fn the_first_batch_starts_the_moving_average() {
        let mut observer = MovingAverageMinMaxObserver::default();
        assert_eq!(after(&mut observer, &[&[10.0, 20.0]]), Ok((10.0, 20.0)));
    }

    fn percentile(percentile: f64) -> PercentileObserver {
        PercentileObserver::new(percentile, Histogram::new(4)).expect("in (0, 100]")
    }

    #[test]
    fn worked_example_percentile() {
        let batch: &[f32] = &[0.5, 0.5, -1.5, 4.0];
        assert_eq!(after(&mut percentile(75.0), &[batch]), Ok((-1.5, 2.0)));
        assert_eq!(after(&mut percentile(100.0), &[batch]), Ok((-1.5, 4.0)));
    }

    #[test]
    fn a_large_negative_outlier_is_cut_as_well() {
        let batch: &[f32] = &[0.5, -0.5, 0.5, -4.0];
        assert_eq!(after(&mut percentile(75.0), &[batch]), Ok((-1.0, 0.5)));
    }

    #[test]
    fn only_zeros_are_a_range_of_zero() {
        assert_eq!(after(&mut percentile(50.0), &[&[0.0, 0.0]]), Ok((0.0, 0.0)));
    }
}
