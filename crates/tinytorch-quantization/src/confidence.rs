//! How far can a range be trusted? Is this enough data?
//!
//! In: a sketch and the method by which the range was found. Out: where, with 95 % confidence, the ends of the range would lie if the
//! same were done with other data of the same kind and amount. If that is far apart, more data is needed; if it is not, more
//! data changes little.
//!
//! | method | interval | assumption |
//! |---|---|---|
//! | min-max | prediction of another maximum of as many batches, from the largest batch extremes (Weissman 1978) | batches are independent, and far out the density falls exponentially |
//! | moving average | mean ± t · s · √Σw², w the weights of the batches | batches are independent |
//! | percentile | order statistics around the percentile (Conover 1999, section 3.2) | *values* are independent |
//! | entropy, squared error | 39 replicates with Poisson counts (Hanley and MacGibbon 2006), from the least to the greatest | *values* are independent |
//!
//! Values of one image are not independent, so the intervals of the last two are the narrowest that can be claimed. For min-max a tail
//! that ends (a saturated activation) makes the interval too wide, a tail heavier than exponential too narrow.
//!
//! I. Weissman, "Estimation of parameters and large quantiles based on the k largest observations", JASA 73, 1978. W. J.
//! Conover, "Practical Nonparametric Statistics", 1999. J. Hanley, B. MacGibbon, "Creating non-parametric bootstrap
//! samples using Poisson frequencies", Computer Methods and Programs in Biomedicine 83, 2006.

use crate::calibration::Calibration;
use crate::error::Result;
use crate::scheme::{CodeRange, ValueRange};
use crate::sketch::Sketch;

/// With fewer batches nothing is said about extremes and averages.
pub const MIN_BATCHES: usize = 8;

/// The normal quantile of 97.5 %.
const Z: f64 = 1.959_964;

/// Replicates of which the least and the greatest enclose another one in 38 of 40 cases: 95 %.
const REPLICATES: usize = 39;

/// Simulated draws behind the prediction of a maximum: the 25th from either end are its 95 %.
const DRAWS: usize = 1000;

/// Where an end of a range would lie with other data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Not below this.
    pub low: f32,
    /// Not above this.
    pub high: f32,
}

impl Interval {
    fn negated(self) -> Self {
        // Not `-x`, which makes −0.0 of 0.0.
        Self {
            low: 0.0 - self.high,
            high: 0.0 - self.low,
        }
    }
}

/// Intervals of 95 % for both ends of a range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Confidence {
    /// For the lower end.
    pub min: Interval,
    /// For the upper end.
    pub max: Interval,
    /// How they were found.
    pub how: &'static str,
}

impl Confidence {
    /// The wider of the intervals, as a part of the width of `range`; 0 if both have no width.
    #[must_use]
    pub fn relative_width(&self, range: ValueRange) -> f64 {
        let width = |low: f32, high: f32| f64::from(high) - f64::from(low);
        let widest = width(self.min.low, self.min.high).max(width(self.max.low, self.max.high));
        if widest == 0.0 {
            return 0.0;
        }
        widest / width(range.min.min(0.0), range.max.max(0.0))
    }
}

impl Sketch {
    /// How sure the range is that `method` finds; `None` if there are too few batches to say.
    ///
    /// The same sketch gives the same answer: what is simulated has a fixed seed. Entropy computes its range 39 times.
    ///
    /// # Errors
    ///
    /// Those of [`Sketch::range`].
    pub fn confidence(&self, method: Calibration, codes: CodeRange) -> Result<Option<Confidence>> {
        let range = self.range(method, codes)?;
        Ok(match method {
            Calibration::MinMax => self.of_extremes(),
            Calibration::MovingAverage(constant) => self.of_average(range, constant.into()),
            Calibration::Percentile(percentile) => self.of_percentile(percentile),
            Calibration::Entropy | Calibration::MeanSquaredError => {
                Some(self.of_replicates(method, codes, range)?)
            }
        })
    }

    fn of_extremes(&self) -> Option<Confidence> {
        let batches = self.batches();
        if batches.len() < MIN_BATCHES {
            return None;
        }
        let tail = Tail::of(batches.len());
        let maxima = batches.iter().map(|batch| f64::from(batch.range.max));
        let minima = batches.iter().map(|batch| -f64::from(batch.range.min));
        let (low, high) = tail.predict(maxima.collect());
        let max = interval(low, high);
        let (low, high) = tail.predict(minima.collect());
        Some(Confidence {
            min: interval(low, high).negated(),
            max,
            how: "extremes of batches",
        })
    }

    fn of_average(&self, range: ValueRange, constant: f64) -> Option<Confidence> {
        let batches = self.batches();
        let count = batches.len();
        if count < MIN_BATCHES {
            return None;
        }
        // The first batch starts the average, so it keeps what the others have not taken.
        let fade = |steps: usize| (1.0 - constant).powi(steps as i32);
        let weight = |at: usize| fade(count - 1 - at) * if at == 0 { 1.0 } else { constant };
        let squares: f64 = (0..count).map(|at| weight(at).powi(2)).sum();
        let spread = |values: Vec<f64>| {
            let mean = values.iter().sum::<f64>() / count as f64;
            let sum: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
            student(count - 1) * (sum / (count - 1) as f64 * squares).sqrt()
        };
        let min = spread(batches.iter().map(|b| f64::from(b.range.min)).collect());
        let max = spread(batches.iter().map(|b| f64::from(b.range.max)).collect());
        let around =
            |end: f32, spread: f64| interval(f64::from(end) - spread, f64::from(end) + spread);
        Some(Confidence {
            min: around(range.min, min),
            max: around(range.max, max),
            how: "spread of batches",
        })
    }

    fn of_percentile(&self, percentile: f64) -> Option<Confidence> {
        let seen = self.seen()?;
        let (count, share) = (self.samples() as f64, percentile / 100.0);
        let spread = Z * (count * share * (1.0 - share)).sqrt();
        let low = self.magnitude_at((count * share - spread).floor().max(1.0));
        let rank = (count * share + spread).ceil() + 1.0;
        let high = (rank <= count).then(|| self.magnitude_at(rank));
        let extremes = self.of_extremes();
        // The lower end is treated as the upper one of the negated values.
        let max = cut(seen.max, low, high, extremes.map(|both| both.max))?;
        let min = cut(
            -seen.min,
            low,
            high,
            extremes.map(|both| both.min.negated()),
        )?;
        Some(Confidence {
            min: min.negated(),
            max,
            how: "order statistics",
        })
    }

    fn of_replicates(
        &self,
        method: Calibration,
        codes: CodeRange,
        range: ValueRange,
    ) -> Result<Confidence> {
        let mut random = Random(39);
        let point = |end| Interval {
            low: end,
            high: end,
        };
        let (mut min, mut max) = (point(range.min), point(range.max));
        let mut replicate = self.clone();
        for _ in 0..REPLICATES {
            for (count, &original) in replicate.counts.iter_mut().zip(&self.counts) {
                *count = random.poisson(original);
            }
            replicate.zeros = random.poisson(self.zeros);
            let range = replicate.range(method, codes)?;
            min.low = min.low.min(range.min);
            min.high = min.high.max(range.min);
            max.low = max.low.min(range.max);
            max.high = max.high.max(range.max);
        }
        Ok(Confidence {
            min,
            max,
            how: "Poisson replicates",
        })
    }
}

/// The upper end of a range that is cut at a limit between `low` and `high`; `None` for `high` is beyond all values. An end that is not
/// cut is an extreme.
fn cut(seen: f32, low: f32, high: Option<f32>, extreme: Option<Interval>) -> Option<Interval> {
    if seen <= low {
        return extreme;
    }
    let high = match high {
        Some(high) if high <= seen => high,
        _ => extreme?.high.max(low),
    };
    Some(Interval { low, high })
}

fn interval(low: f64, high: f64) -> Interval {
    let within = |end: f64| end.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32;
    Interval {
        low: within(low),
        high: within(high),
    }
}

/// The largest of `count` values whose density falls exponentially, seen from the `used + 1` largest of `count` others.
///
/// With `u` the value before the `used` largest and `s` their mean distance from it, `(new maximum − u) / s` has a distribution that
/// does not depend on where the tail begins and how fast it falls (Weissman 1978). Its quantiles are found by simulation.
struct Tail {
    used: usize,
    low: f64,
    high: f64,
}

impl Tail {
    fn of(count: usize) -> Self {
        // More values say more about how fast the tail falls, and less about the tail.
        let used = ((2.0 * (count as f64).sqrt()).ceil() as usize).min(count - 1);
        let mut random = Random(1978);
        let mut draws = [0.0; DRAWS];
        for draw in &mut draws {
            // A. Rényi 1953: the differences of ordered exponential values are exponential, the i-th from above with mean 1/i.
            let spacing = |random: &mut Random, i: usize| random.exponential() / i as f64;
            let threshold: f64 = (used + 1..=count).map(|i| spacing(&mut random, i)).sum();
            let excess = (0..used).map(|_| random.exponential()).sum::<f64>() / used as f64;
            let new: f64 = (1..=count).map(|i| spacing(&mut random, i)).sum();
            *draw = (new - threshold) / excess;
        }
        draws.sort_by(f64::total_cmp);
        Self {
            used,
            low: draws[DRAWS / 40],
            high: draws[DRAWS - 1 - DRAWS / 40],
        }
    }

    fn predict(&self, mut values: Vec<f64>) -> (f64, f64) {
        values.sort_by(|a, b| b.total_cmp(a));
        let threshold = values[self.used];
        let largest = values[..self.used].iter();
        let excess = largest.map(|x| x - threshold).sum::<f64>() / self.used as f64;
        (
            threshold + self.low * excess,
            threshold + self.high * excess,
        )
    }
}

/// The quantile of 97.5 % of Student's t, by the expansion in 1/ν of Abramowitz and Stegun, 26.7.5: good to 1 % from ν = 4.
fn student(freedom: usize) -> f64 {
    let v = freedom as f64;
    let (z3, z5) = (Z.powi(3), Z.powi(5));
    Z + (z3 + Z) / (4.0 * v) + (5.0 * z5 + 16.0 * z3 + 3.0 * Z) / (96.0 * v * v)
}

/// SplitMix64 (Steele, Lea and Flood 2014): enough for resampling, and the same everywhere.
struct Random(u64);

impl Random {
    /// In `(0, 1]`.
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (((bits ^ (bits >> 31)) >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    fn exponential(&mut self) -> f64 {
        -self.uniform().ln()
    }

    /// A count with this mean: exactly up to 30, beyond by the normal distribution, which is then off by a few percent of the spread.
    fn poisson(&mut self, mean: u64) -> u64 {
        if mean == 0 {
            return 0;
        }
        let mean = mean as f64;
        if mean > 30.0 {
            let angle = std::f64::consts::TAU * self.uniform();
            let normal = (2.0 * self.exponential()).sqrt() * angle.cos();
            return (mean + mean.sqrt() * normal).round().max(0.0) as u64;
        }
        // Events that come at exponential distances, counted over a time of length `mean`.
        let (mut events, mut time) = (0, self.exponential());
        while time <= mean {
            events += 1;
            time += self.exponential();
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INT8: CodeRange = CodeRange::INT8;

    /// `batches` of `size` values, normal or exponential to both sides.
    fn data(random: &mut Random, batches: usize, size: usize, normal: bool) -> Sketch {
        let mut sketch = Sketch::new();
        for _ in 0..batches {
            let value = |_| {
                let size = random.exponential();
                if normal {
                    let angle = std::f64::consts::TAU * random.uniform();
                    ((2.0 * size).sqrt() * angle.cos()) as f32
                } else if random.uniform() < 0.5 {
                    size as f32
                } else {
                    -size as f32
                }
            };
            let values: Vec<f32> = (0..size).map(value).collect();
            sketch.observe(&values).expect("finite");
        }
        sketch
    }

    /// In how many of `trials` both ends that other data gives lie in the interval, counted by end: of 100.
    fn coverage(method: Calibration, normal: bool) -> f64 {
        let mut random = Random(7);
        let (mut hits, trials) = (0, 60);
        for _ in 0..trials {
            let sketch = data(&mut random, 24, 200, normal);
            let found = sketch.confidence(method, INT8).expect("values came");
            let found = found.expect("enough batches");
            let other = data(&mut random, 24, 200, normal)
                .range(method, INT8)
                .expect("values came");
            hits += usize::from(found.min.low <= other.min && other.min <= found.min.high);
            hits += usize::from(found.max.low <= other.max && other.max <= found.max.high);
        }
        100.0 * hits as f64 / (2 * trials) as f64
    }

    /// Another calibration should land in an interval of 95 % in 95 of 100 cases; of 120 draws the count has a standard deviation of 2 %
    /// of them, so 89 is three of these below. A normal tail falls faster than an exponential one, so its interval may be
    /// too wide, never too narrow.
    #[test]
    fn extremes_of_other_data_lie_where_they_were_predicted() {
        for normal in [true, false] {
            let hit = coverage(Calibration::MinMax, normal);
            assert!(hit >= 89.0, "{hit} %");
        }
    }

    #[test]
    fn more_data_makes_every_range_surer_but_a_maximum() {
        for method in [
            Calibration::MovingAverage(0.02),
            Calibration::Percentile(99.0),
        ] {
            let width = |batches| {
                let sketch = data(&mut Random(3), batches, 100, true);
                let found = sketch.confidence(method, INT8).expect("values came");
                let range = sketch.range(method, INT8).expect("values came");
                found.expect("enough batches").relative_width(range)
            };
            let (few, many) = (width(10), width(400));
            assert!(many < 0.7 * few, "{method:?}: {few}, {many}");
        }
    }

    /// The error is flat around its least value, and the zero point is rounded, so the best limit jumps between neighbours however much
    /// data there is; the interval says so.
    #[test]
    fn replicates_enclose_the_range_and_repeat_themselves() {
        let sketch = data(&mut Random(3), 40, 100, true);
        let method = Calibration::MeanSquaredError;
        let range = sketch.range(method, INT8).expect("values came");
        let found = sketch.confidence(method, INT8).expect("values came");
        assert_eq!(sketch.confidence(method, INT8), Ok(found));
        let found = found.expect("replicates need no batches");
        assert!(found.max.low <= range.max && range.max <= found.max.high);
        assert!(found.min.low <= range.min && range.min <= found.min.high);
        assert!(found.max.low < found.max.high);
    }

    #[test]
    fn a_percentile_interval_holds_the_true_percentile() {
        // 99 % of exponential magnitudes are below ln 100 = 4.605.
        let mut random = Random(11);
        let mut hits = 0;
        for _ in 0..60 {
            let sketch = data(&mut random, 10, 300, false);
            let found = sketch.confidence(Calibration::Percentile(99.0), INT8);
            let max = found.expect("values came").expect("enough").max;
            hits += u32::from(max.low <= 4.605 && 4.605 <= max.high);
        }
        // 95 of 100, less three standard deviations of 2.8 %: 52 of 60. Whole bins only widen the interval.
        assert!(hits >= 52, "{hits} of 60");
    }

    #[test]
    fn an_end_that_never_moves_is_sure() {
        let mut sketch = Sketch::new();
        for batch in 0..20 {
            sketch
                .observe(&[0.0, 5.0, batch as f32 * 0.1])
                .expect("finite");
        }
        for method in [Calibration::MinMax, Calibration::MovingAverage(0.1)] {
            let found = sketch.confidence(method, INT8).expect("values came");
            let found = found.expect("enough batches");
            assert_eq!((found.min.low, found.min.high), (0.0, 0.0));
            assert!((found.max.low, found.max.high) == (5.0, 5.0), "{found:?}");
        }
    }

    #[test]
    fn too_few_batches_say_nothing() {
        let sketch = data(&mut Random(1), MIN_BATCHES - 1, 10, true);
        for method in [Calibration::MinMax, Calibration::MovingAverage(0.1)] {
            assert_eq!(sketch.confidence(method, INT8), Ok(None));
        }
    }

    #[test]
    fn counts_have_the_mean_and_spread_of_poisson() {
        let mut random = Random(5);
        for mean in [1_u64, 12, 1000] {
            let draws: Vec<f64> = (0..4000).map(|_| random.poisson(mean) as f64).collect();
            let average = draws.iter().sum::<f64>() / 4000.0;
            let squares = draws.iter().map(|x| (x - average).powi(2)).sum::<f64>() / 4000.0;
            // Both have the value `mean`; the standard error of the average is √(mean / 4000), that of the variance some
            // mean · √(3 / 4000): four of them.
            let mean = mean as f64;
            assert!(
                (average - mean).abs() < 4.0 * (mean / 4000.0).sqrt(),
                "{average}"
            );
            assert!(
                (squares / mean - 1.0).abs() < 4.0 * (3.0_f64 / 4000.0).sqrt(),
                "{squares}"
            );
        }
        assert_eq!(random.poisson(0), 0);
    }
}
