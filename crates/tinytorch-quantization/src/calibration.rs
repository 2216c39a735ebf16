//! Which range? Every method, computed afterwards from one sketch of what was seen.
//!
//! In: a [`Sketch`] and a method. Out: the range worth spending codes on, how much of the data lies beyond it, and how far it can be
//! trusted. The data flows through the model once; after that any number of methods can be compared.
//!
//! | method | the range is | source |
//! |---|---|---|
//! | [`Calibration::MinMax`] | all that came | |
//! | [`Calibration::MovingAverage`] | what batches usually span | Jacob et al. 2018, section 3.1 |
//! | [`Calibration::Percentile`] | what nearly all magnitudes keep to | |
//! | [`Calibration::Entropy`] | the one whose codes resemble the values most | Migacz 2017 |
//! | [`Calibration::MeanSquaredError`] | the one with the smallest mean squared error | Banner et al. 2019, "Post-training 4-bit quantization" |
//!
//! ```
//! use rand::SeedableRng;
//! use tinytorch_core::Tensor;
//! use tinytorch_core::nn::{Linear, Relu, Sequential};
//! use tinytorch_quantization::{Calibration, PrepareOptions, calibrate, convert, prepare};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let rng = &mut rand_chacha::ChaCha8Rng::seed_from_u64(0);
//! let model = Sequential::new().with(Linear::new(16, 8, rng)).with(Relu);
//! let mut prepared = prepare(&model, &PrepareOptions::default())?;
//! let batches: Vec<Tensor> = (0..20).map(|_| Tensor::randn(&[32, 16], rng)).collect();
//! calibrate(&mut prepared, batches)?;
//!
//! // Every method from the same pass over the data.
//! for method in [Calibration::MinMax, Calibration::Percentile(99.9), Calibration::MeanSquaredError] {
//!     prepared.recalibrate(method)?;
//!     for report in prepared.calibration_report()? {
//!         println!("{report}");
//!         assert!(report.clipped < 0.002);
//!         // Maxima of 20 batches still move by more than 1 % of the range: more data would help them.
//!         assert!(method != Calibration::MinMax || report.is_enough(0.01) == Some(false));
//!     }
//!     let quantized = convert(&prepared)?;
//! }
//! # Ok(())
//! # }
//! ```

use crate::entropy::trusted_entropy_range;
use crate::error::{Error, Result};
use crate::observer::{MinMaxObserver, MovingAverageMinMaxObserver, Observer};
use crate::qparams::choose_qparams;
use crate::scheme::{CodeRange, ValueRange};
use crate::sketch::{Bin, MAX_BATCHES, Sketch};
use crate::sketch_bins::OCTAVES;

pub use crate::sketch_observer::{CalibrationReport, SketchObserver};

/// How a range is found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Calibration {
    /// All that came.
    #[default]
    MinMax,
    /// What usually comes, with this averaging constant.
    ///
    /// The batches are taken in the order of their numbers, so the result does not depend on the order in which they came.
    /// A sketch remembers the last 1024; what is older would weigh `(1 − c)¹⁰²⁴`, 3·10⁻⁵ for the usual 0.01. If it would weigh more than
    /// 2⁻¹⁰, and there is any, that is [`Error::ForgottenBatches`]: constants below 0.0068 are for up to 1024 batches.
    MovingAverage(f32),
    /// What this percentage of the magnitudes keeps to.
    Percentile(f64),
    /// What loses the least information. With few values, less than some thousand that are not 0, it keeps all that came.
    Entropy,
    /// What loses the least on average, squared: rounding inside the range against saturation outside.
    MeanSquaredError,
}

impl Calibration {
    /// Checks its constant.
    ///
    /// # Errors
    ///
    /// [`Error::BadAveragingConstant`], [`Error::BadPercentile`].
    pub fn check(self) -> Result<()> {
        match self {
            Self::MovingAverage(constant) => MovingAverageMinMaxObserver::new(constant).map(|_| ()),
            Self::Percentile(percentile) if !(percentile > 0.0 && percentile <= 100.0) => {
                Err(Error::BadPercentile { percentile })
            }
            _ => Ok(()),
        }
    }
}

/// Limits per octave that the search for the smallest error looks at first, and between two of them afterwards.
const TRIES: i32 = 16;

/// What batches that are not remembered may weigh in an average: as much as a bin of the largest magnitude is wide.
const FORGOTTEN: f64 = 1.0 / 1024.0;

impl Sketch {
    /// The range that `method` finds in what was seen, for these codes.
    ///
    /// - Min-max is what [`MinMaxObserver`] would have found, and the moving average what [`MovingAverageMinMaxObserver`] would
    ///   have of the batches that are remembered, the last [`MAX_BATCHES`]; an error if older ones would weigh more than 2⁻¹⁰.
    /// - The percentile limits the magnitude: at most one bin above the exact order statistic, which is at most 2⁻⁷ of it, or 2⁻¹⁰
    ///   of the largest if that is less. While there is anything but zeros the limit is not 0.
    /// - Entropy is [`trusted_entropy_range`] of [`Sketch::histogram`].
    /// - The mean squared error is that of a uniform density within each bin, integrated exactly; the limit is searched in
    ///   steps of 2^(1/256) around the best of steps of 2^(1/16).
    ///
    /// Where all magnitudes are below `f32::MIN_POSITIVE`, every method but the moving average gives what was seen: codes cannot tell
    /// such values apart (N7).
    ///
    /// # Errors
    ///
    /// [`Error::NothingObserved`], [`Error::BadAveragingConstant`], [`Error::BadPercentile`], [`Error::BadCodeRange`],
    /// [`Error::BadRange`] if the range, widened to hold 0, is wider than `f32::MAX`; [`Error::ForgottenBatches`];
    /// [`Error::TooManyLevels`] for entropy with more than 10 bits.
    pub fn range(&self, method: Calibration, codes: CodeRange) -> Result<ValueRange> {
        method.check()?;
        codes.check()?;
        let seen = self.seen.ok_or(Error::NothingObserved { tensor: None })?;
        let is_tiny = seen.max_abs() < f32::MIN_POSITIVE;
        let range = match method {
            Calibration::MinMax => {
                let mut observer = MinMaxObserver::default();
                observer.observe(&[seen.min, seen.max])?;
                observer.range()
            }
            Calibration::MovingAverage(constant) => {
                let weight = (1.0 - f64::from(constant)).powi(MAX_BATCHES as i32);
                if weight > FORGOTTEN && self.has_forgotten() {
                    return Err(Error::ForgottenBatches { constant, weight });
                }
                let mut observer = MovingAverageMinMaxObserver::new(constant)?;
                for batch in self.batches() {
                    observer.observe(&[batch.range.min, batch.range.max])?;
                }
                observer.range()
            }
            _ if is_tiny => Ok(seen),
            Calibration::Percentile(percentile) => {
                let kept = kept_of(percentile, self.samples());
                Ok(limited(seen, self.magnitude_at(kept as f64)))
            }
            Calibration::Entropy => trusted_entropy_range(&self.histogram()?, codes),
            Calibration::MeanSquaredError => self.least_error_range(seen, codes),
        }?;
        let ValueRange { min, max } = range;
        if (max.max(0.0) - min.min(0.0)).is_finite() {
            Ok(range)
        } else {
            Err(Error::BadRange { min, max })
        }
    }

    /// Whether there were batches whose extremes are not remembered.
    fn has_forgotten(&self) -> bool {
        let batches = self.batches();
        let remembered = batches.iter().map(|batch| batch.samples);
        let remembered = remembered.fold(0_u64, u64::saturating_add);
        batches.len() == MAX_BATCHES && remembered < self.samples()
    }

    /// The share of the values that lie beyond `range`, widened to hold zero as every range is before codes are chosen (N6): exact
    /// if its ends are ends of bins or of what was seen, otherwise with the values of one bin for each sign taken as evenly spread.
    #[must_use]
    pub fn clipped(&self, range: ValueRange) -> f64 {
        let Some(seen) = self.seen else { return 0.0 };
        let beyond = |bin: &Bin, limit: f32| {
            let (lower, upper) = (f64::from(bin.lower), f64::from(bin.upper));
            ((upper - f64::from(limit)) / (upper - lower)).clamp(0.0, 1.0)
        };
        let (least, most) = (range.min.min(0.0), range.max.max(0.0));
        let mut outside = 0.0;
        for bin in self.bins() {
            if seen.max > most {
                outside += bin.positive as f64 * beyond(&bin, most);
            }
            if seen.min < least {
                outside += bin.negative as f64 * beyond(&bin, -least);
            }
        }
        outside / self.samples().max(1) as f64
    }

    /// The upper edge of the bin up to which `enough` magnitudes lie, zeros included, and never more than was seen.
    pub(crate) fn magnitude_at(&self, enough: f64) -> f32 {
        let mut kept = self.zeros() as f64;
        for bin in self.bins() {
            kept += bin.count() as f64;
            if kept >= enough {
                return bin.upper;
            }
        }
        self.seen.map_or(0.0, ValueRange::max_abs)
    }

    /// The mean squared error of writing all that was seen with the parameters that fit `range`.
    ///
    /// # Errors
    ///
    /// [`Error::BadRange`], [`Error::BadCodeRange`].
    pub fn mean_squared_error(&self, range: ValueRange, codes: CodeRange) -> Result<f64> {
        let bins: Vec<Bin> = self.bins().collect();
        squared_error(&bins, range, codes).map(|sum| sum / self.samples().max(1) as f64)
    }

    fn least_error_range(&self, seen: ValueRange, codes: CodeRange) -> Result<ValueRange> {
        let bins: Vec<Bin> = self.bins().collect();
        let values = self.samples() as f64;
        let largest = seen.max_abs();
        let limit = |exponent: f64| (f64::from(largest) * exponent.exp2()) as f32;
        let mut best = (squared_error(&bins, seen, codes)?, 0.0);
        let mut attempt = |exponent: f64| {
            let range = limited(seen, limit(exponent));
            let error = squared_error(&bins, range, codes)?;
            // Of equal errors the wider range counts, which comes first.
            if error < best.0 {
                best = (error, exponent);
            }
            // Rounding costs at most a quarter of a squared step for each value; the rest is what lies beyond the ends, and no
            // smaller limit makes that less, but for the ends themselves, which lie up to a step off the limit because the zero
            // point is rounded. So of those further away than two steps at least a quarter of the cost remains.
            let width = f64::from(range.max.max(0.0)) - f64::from(range.min.min(0.0));
            let step = width / (codes.len() - 1) as f64;
            let hopeless = error > 4.0 * best.0 + 4.25 * values * step * step;
            Ok::<_, Error>((best.1, hopeless))
        };
        let mut around = 0.0;
        for step in 1..OCTAVES as i32 * TRIES {
            let hopeless;
            (around, hopeless) = attempt(-f64::from(step) / f64::from(TRIES))?;
            if hopeless {
                break;
            }
        }
        let fine = f64::from(TRIES * TRIES);
        let mut exponent = 0.0;
        for step in (-TRIES + 1)..TRIES {
            let at = around - f64::from(step) / fine;
            if at < 0.0 {
                (exponent, _) = attempt(at)?;
            }
        }
        Ok(if exponent == 0.0 {
            seen
        } else {
            limited(seen, limit(exponent))
        })
    }
}

/// The fewest of so many values that are a percentile of them: `100 · kept ≥ percentile · total`, compared as the observer does.
/// `percentile / 100 · total` would be rounded: 99.9 of 1000 values are 999, and not the next whole number above 999.0000000000001.
pub(crate) fn kept_of(percentile: f64, total: u64) -> u64 {
    let wanted = percentile * total as f64;
    let enough = |kept: u64| 100.0 * kept as f64 >= wanted;
    let mut kept = (wanted / 100.0).ceil() as u64;
    while kept > 0 && enough(kept - 1) {
        kept -= 1;
    }
    while kept < total && !enough(kept) {
        kept += 1;
    }
    kept.clamp(1, total.max(1))
}

/// What was seen, cut to magnitudes up to `limit`. If all of it lies beyond, on one side of 0, the limit remains.
fn limited(seen: ValueRange, limit: f32) -> ValueRange {
    let [min, max] = [seen.min, seen.max].map(|end| end.clamp(-limit, limit));
    ValueRange { min, max }
}

/// The sum of squared errors, with the values of each bin spread evenly over it.
fn squared_error(bins: &[Bin], range: ValueRange, codes: CodeRange) -> Result<f64> {
    let qparams = choose_qparams(range, codes)?;
    let scale = f64::from(qparams.scale);
    let low = f64::from(codes.min - qparams.zero_point);
    let high = f64::from(codes.max - qparams.zero_point);
    // The integral of (u − code(u))² over u = x / scale: a cell of one code gives 1/12, and in the cell of code n the part from
    // its begin, n − ½, to u gives ((u − n)³ + 1/8) / 3. Beyond the last code the same expression goes on, without end.
    let integral = |u: f64| {
        let code = u.round().clamp(low, high);
        code / 12.0 + ((u - code).powi(3) + 0.125) / 3.0
    };
    let mean = |from: f64, to: f64| (integral(to) - integral(from)) / (to - from);
    let mut sum = 0.0;
    for bin in bins {
        let (lower, upper) = (f64::from(bin.lower) / scale, f64::from(bin.upper) / scale);
        if bin.positive > 0 {
            sum += bin.positive as f64 * mean(lower, upper);
        }
        if bin.negative > 0 {
            sum += bin.negative as f64 * mean(-upper, -lower);
        }
    }
    Ok(sum * scale * scale)
}

#[cfg(test)]
#[path = "calibration_tests.rs"]
mod tests;
