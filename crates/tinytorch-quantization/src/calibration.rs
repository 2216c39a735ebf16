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
mod tests {
    use super::*;

    /// 99.9 / 100 · 1000 is 999.0000000000001: the one value too many that this kept was the outlier.
    #[test]
    fn a_percentile_cuts_all_values_that_it_may_cut() {
        for hundreds in [10, 20, 50, 100, 200, 1000_usize] {
            let mut values: Vec<f32> = (0..100 * hundreds)
                .map(|i| (i % 997) as f32 / 997.0)
                .collect();
            let outliers = hundreds / 10;
            values[..outliers].fill(100.0);
            let mut sketch = Sketch::new();
            sketch.observe(&values).expect("finite");
            let range = sketch.range(Calibration::Percentile(99.9), CodeRange::INT8);
            assert!(range.expect("values came").max < 1.001, "{hundreds}");
        }
        assert_eq!(kept_of(99.9, 1000), 999);
        assert_eq!(kept_of(55.0, 100), 55);
        assert_eq!(kept_of(7.0, 100), 7);
        assert_eq!(
            (kept_of(100.0, 3), kept_of(1e-9, 3), kept_of(50.0, 3)),
            (3, 1, 2)
        );
    }

    /// The average of 3000 batches was taken over the last 1024 without a word, 15 % beside the one that was asked for.
    #[test]
    fn an_average_that_would_need_forgotten_batches_is_refused() {
        let mut sketch = Sketch::new();
        let average = |sketch: &Sketch, constant| {
            sketch.range(Calibration::MovingAverage(constant), CodeRange::INT8)
        };
        for number in 0..3000 {
            if number == MAX_BATCHES {
                assert!(average(&sketch, 0.001).is_ok(), "all are remembered");
            }
            sketch.observe(&[number as f32]).expect("finite");
        }
        let Err(Error::ForgottenBatches { constant, weight }) = average(&sketch, 0.001) else {
            panic!("batches were forgotten");
        };
        assert_eq!(constant, 0.001);
        assert!((weight - 0.359).abs() < 0.001, "{weight}");
        // Older ones would weigh less than a bin is wide.
        let mut exact = MovingAverageMinMaxObserver::new(0.01).expect("a constant");
        for number in 0..3000 {
            exact.observe(&[number as f32]).expect("finite");
        }
        let (ours, exact) = (
            average(&sketch, 0.01).expect("good"),
            exact.range().expect("good"),
        );
        assert!((ours.max - exact.max).abs() <= exact.max / 1024.0);
    }

    #[test]
    fn a_range_that_no_scale_can_span_is_refused_by_every_method() {
        let mut sketch = Sketch::new();
        sketch.observe(&[-3e38, 3e38, 3e38]).expect("finite");
        for method in [
            Calibration::MinMax,
            Calibration::MovingAverage(0.1),
            Calibration::Percentile(100.0),
            Calibration::Entropy,
            Calibration::MeanSquaredError,
        ] {
            let range = sketch.range(method, CodeRange::INT8);
            assert!(matches!(range, Err(Error::BadRange { .. })), "{method:?}");
        }
    }
    use crate::entropy::entropy_range;

    const INT8: CodeRange = CodeRange::INT8;

    fn sketch(batches: &[&[f32]]) -> Sketch {
        let mut sketch = Sketch::new();
        for batch in batches {
            sketch.observe(batch).expect("finite values");
        }
        sketch
    }

    fn range(min: f32, max: f32) -> ValueRange {
        ValueRange { min, max }
    }

    #[test]
    fn worked_example_every_method_from_one_sketch() {
        // 1000 values in steps of 0.001 up to 1, and an outlier.
        let steps: Vec<f32> = (1..=1000).map(|i| i as f32 / 1000.0).collect();
        let sketch = sketch(&[&steps, &[-0.25, 8.0]]);
        let found = |method| sketch.range(method, INT8).expect("values came");
        assert_eq!(found(Calibration::MinMax), range(-0.25, 8.0));
        let average = found(Calibration::MovingAverage(0.5));
        assert_eq!(average, range(0.5 * 0.001 + 0.5 * -0.25, 0.5 + 4.0));
        // 99.8 % of 1002 values are 999.996: the 1000th magnitude is 0.999, as 0.25 comes twice. 3 octaves below the top, bins in
        // [0.5, 1) are 2⁻⁸ wide.
        let percentile = found(Calibration::Percentile(99.8));
        assert_eq!(percentile.min, -0.25);
        assert!(0.999 <= percentile.max && percentile.max <= 0.999 + 1.0 / 256.0);
        assert_eq!(sketch.clipped(percentile), 2.0 / 1002.0);
    }

    /// What lies between zero and values far from it was once called clipped, though every range is widened to hold zero.
    #[test]
    fn the_range_of_all_values_clips_none() {
        for value in [5.0, 5.3, 100.35, 1e30, 1e-40, -5.3, -1e30] {
            let sketch = sketch(&[&[value, value]]);
            let seen = sketch
                .range(Calibration::MinMax, INT8)
                .expect("values came");
            assert_eq!(sketch.clipped(seen), 0.0, "{value}");
        }
        // Half of the values are beyond 4, which is an edge of bins.
        let sketch = sketch(&[&[3.0, 5.3]]);
        assert_eq!(sketch.clipped(range(1.0, 4.0)), 0.5);
        assert_eq!(sketch.clipped(range(-1.0, 4.0)), 0.5);
    }

    #[test]
    fn the_least_error_weighs_rounding_against_saturation() {
        // 10,000 values evenly over ±1 and one outlier of 3.
        let even: Vec<f32> = (0..10_000)
            .map(|i| (i as f32 + 0.5) / 5000.0 - 1.0)
            .collect();
        let mut values = even.clone();
        values.extend([3.0]);
        // Below −1 there is nothing, so the range is [−1, L] in 255 steps of (1 + L) / 255. Rounding costs a twelfth of a squared
        // step each, saturation (3 − L)² once: 10,001 (1 + L)² / (255² · 12) + (3 − L)². The derivative is 0 where
        // a (1 + L) = 3 − L with a = 10,001 / (255² · 12), so L = (3 − a) / (1 + a).
        let found = sketch(&[&values]).range(Calibration::MeanSquaredError, INT8);
        let a = 10_001.0 / (255.0_f32.powi(2) * 12.0);
        let exact = (3.0 - a) / (1.0 + a);
        let found = found.expect("values came");
        assert_eq!(found.min, -0.9999);
        // The search has steps of 2^(1/256), 0.27 %; the outlier is known to a bin of 2⁻⁹, 0.07 % of it; and the zero point is rounded,
        // which moves the last code by up to half a step, 0.26 % of L.
        assert!(
            (found.max / exact - 1.0).abs() < 0.006,
            "{found:?}, {exact}"
        );
        // With 4 bits, steps are 17 times as wide: the outlier goes.
        let four = sketch(&[&values]).range(Calibration::MeanSquaredError, CodeRange::INT4);
        assert!(four.expect("values came").max < 1.5);
    }

    #[test]
    fn values_far_from_zero_have_a_range_by_every_method() {
        for sign in [1.0, -1.0] {
            let values: Vec<f32> = (0..100).map(|i| sign * (5.0 + i as f32 / 100.0)).collect();
            let sketch = sketch(&[&values]);
            for method in [
                Calibration::MinMax,
                Calibration::MovingAverage(0.5),
                Calibration::Percentile(0.1),
                Calibration::Entropy,
                Calibration::MeanSquaredError,
            ] {
                let found = sketch.range(method, INT8).expect("values came");
                assert!(choose_qparams(found, INT8).is_ok(), "{method:?}: {found:?}");
                assert!(
                    found.min <= found.max && found.max_abs() >= 5.0,
                    "{method:?}: {found:?}"
                );
            }
        }
    }

    #[test]
    fn the_mean_squared_error_is_that_of_the_values() {
        let values: Vec<f32> = (0..20_000)
            .map(|i| (i as f32 * 0.7137).sin() * 2.0 + 0.3)
            .collect();
        let sketch = sketch(&[&values]);
        for codes in [INT8, CodeRange::INT4] {
            for limit in [range(-1.7, 2.3), range(-1.0, 1.5)] {
                let expected = sketch
                    .mean_squared_error(limit, codes)
                    .expect("a good range");
                let qparams = choose_qparams(limit, codes).expect("a good range");
                let back = crate::fake_quantize::fake_quantize_values(&values, qparams, codes);
                let errors = values
                    .iter()
                    .zip(&back)
                    .map(|(x, y)| f64::from(x - y).powi(2));
                let exact = errors.sum::<f64>() / values.len() as f64;
                // A bin is at most an eighth of a step of 8 bits wide here, and the values fill it evenly.
                assert!((expected / exact - 1.0).abs() < 0.02, "{expected} {exact}");
            }
        }
    }

    #[test]
    fn what_was_seen_is_kept_where_there_is_nothing_to_choose() {
        for values in [[0.0, 0.0], [1e-40, -1e-41]] {
            let sketch = sketch(&[&values]);
            let seen = sketch.seen().expect("values came");
            for method in [
                Calibration::MinMax,
                Calibration::Percentile(50.0),
                Calibration::Entropy,
                Calibration::MeanSquaredError,
            ] {
                assert_eq!(sketch.range(method, INT8), Ok(seen), "{method:?}");
                assert_eq!(sketch.clipped(seen), 0.0);
            }
        }
        // Zeros alone are enough for 90 %, but a range of nothing would lose all the rest.
        let sparse = sketch(&[&[0.0; 99], &[4.0]]);
        let found = sparse.range(Calibration::Percentile(90.0), INT8);
        assert_eq!(found, Ok(range(0.0, 4.0)));
    }

    #[test]
    fn nothing_seen_and_bad_constants_are_errors() {
        let nothing = Sketch::new();
        for method in [
            Calibration::MinMax,
            Calibration::MovingAverage(0.1),
            Calibration::Percentile(99.0),
            Calibration::Entropy,
            Calibration::MeanSquaredError,
        ] {
            let error = nothing.range(method, INT8);
            assert_eq!(error, Err(Error::NothingObserved { tensor: None }));
        }
        let some = sketch(&[&[1.0]]);
        assert!(some.range(Calibration::Percentile(f64::NAN), INT8).is_err());
        assert!(some.range(Calibration::MovingAverage(0.0), INT8).is_err());
        assert!(SketchObserver::new(Calibration::Percentile(0.0)).is_err());
        let error = SketchObserver::new(Calibration::MinMax).map(|observer| observer.report("fc1"));
        assert!(
            matches!(error, Ok(Err(Error::NothingObserved { tensor: Some(name) })) if name == "fc1")
        );
    }

    #[test]
    fn entropy_is_that_of_the_exercise() {
        // As far to both sides of 0, so 128 levels; and some 400 values in each bin, so they stay as wide as they are.
        let values: Vec<f32> = (0..400_000)
            .map(|i| (i as f32 * 0.37).sin() * (i as f32 * 0.7123).sin().powi(9) * 4.0)
            .chain([5.0, -5.0])
            .collect();
        let sketch = sketch(&[&values]);
        let found = sketch.range(Calibration::Entropy, INT8);
        let histogram = sketch.histogram().expect("values came");
        assert_eq!(found, entropy_range(&histogram, 128));
        assert!(found.expect("values came").max < 4.1);
    }
}
