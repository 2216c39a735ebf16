//! A handful of measurements, told as a mean and a spread.

use serde::Serialize;
use tinytorch_quantization::latency::quantile;

/// Mean, sample standard deviation and extremes of some measurements.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Arithmetic mean.
    pub mean: f64,
    /// Sample standard deviation (divided by `count − 1`); 0 for one measurement.
    pub deviation: f64,
    /// Smallest measurement.
    pub min: f64,
    /// Largest measurement.
    pub max: f64,
    /// How many measurements.
    pub count: usize,
}

impl Summary {
    /// Summarises `values`.
    ///
    /// # Panics
    ///
    /// If `values` is empty: there is no mean of nothing.
    #[track_caller]
    #[must_use]
    pub fn of(values: &[f64]) -> Self {
        assert!(!values.is_empty(), "a summary needs at least one value");
        let count = values.len();
        let mean = values.iter().sum::<f64>() / count as f64;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        let deviation = if count > 1 {
            (squares / (count - 1) as f64).sqrt()
        } else {
            0.0
        };
        Self {
            mean,
            deviation,
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            count,
        }
    }
}

/// `mean ± deviation` with so many digits behind the point (`{:.2}`); one measurement has no spread, and shows none.
impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = f.precision().unwrap_or(2);
        write!(f, "{:.digits$}", self.mean)?;
        if self.count > 1 {
            write!(f, " ± {:.digits$}", self.deviation)?;
        }
        Ok(())
    }
}

/// The middle value; the mean of the two middle ones for an even count.
///
/// # Panics
///
/// If `values` is empty.
#[track_caller]
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    assert!(!values.is_empty(), "a median needs at least one value");
    quantile(values, 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_four_and_nine_have_mean_five() {
        // Deviations −3, −1, 4: squares 9 + 1 + 16 = 26, over 2 is 13.
        let s = Summary::of(&[2.0, 4.0, 9.0]);
        assert_eq!((s.mean, s.min, s.max, s.count), (5.0, 2.0, 9.0, 3));
        assert_eq!(s.deviation, 13.0_f64.sqrt());
    }

    #[test]
    fn one_value_has_no_spread() {
        assert_eq!(Summary::of(&[7.0]).deviation, 0.0);
        assert_eq!(Summary::of(&[7.0]).to_string(), "7.00");
        assert_eq!(format!("{:.1}", Summary::of(&[7.0, 9.0])), "8.0 ± 1.4");
    }

    #[test]
    fn the_median_ignores_one_slow_run() {
        assert_eq!(median(&[1.0, 2.0, 1000.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
