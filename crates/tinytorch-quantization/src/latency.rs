//! How long something takes: one definition of latency, and of the quantiles that it is made of.
//!
//! In: the durations of several runs. Out: the median, which one slow run does not move, with the quartiles that say how far
//! runs differ.
//!
//! Sources: Hyndman and Fan, "Sample Quantiles in Statistical Packages", 1996; McGill, Tukey and Larsen, "Variations of Box Plots",
//! 1978, for the error of a median.

use std::fmt;
use std::time::{Duration, Instant};

/// What several runs of the same took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// How many runs there were.
    pub runs: usize,
    /// The fastest.
    pub fastest: Duration,
    /// A quarter of the runs took less.
    pub lower_quartile: Duration,
    /// Half of the runs took less.
    pub median: Duration,
    /// Three quarters of the runs took less.
    pub upper_quartile: Duration,
}

impl Latency {
    /// The latency of runs that took so long; `None` if there were none.
    ///
    /// The quantiles are those of [`quantile`]: of 1, 2, 3 and 10 ms the median is 2.5 ms, the quartiles are 1.75 and 4.75 ms.
    #[must_use]
    pub fn of(durations: &[Duration]) -> Option<Self> {
        let fastest = *durations.iter().min()?;
        let seconds: Vec<f64> = durations.iter().map(Duration::as_secs_f64).collect();
        // Between the fastest and the slowest, so a duration again.
        let at = |share| Duration::from_secs_f64(quantile(&seconds, share));
        Some(Self {
            runs: durations.len(),
            fastest,
            lower_quartile: at(0.25),
            median: at(0.5),
            upper_quartile: at(0.75),
        })
    }

    /// The standard error of the median in seconds: `1.25 · R / (1.35 · √runs)`, where `R` is the range between the quartiles. Of 1, 2, 3,
    /// 4 and 9 s it is `1.25 · 2 / (1.35 · √5)`, 0.83 s. NaN for a single run: its error is unknown.
    ///
    /// Source: McGill, Tukey and Larsen 1978, what the notches of a box plot are made of.
    #[must_use]
    pub fn median_error(&self) -> f64 {
        if self.runs < 2 {
            return f64::NAN;
        }
        let range = self.upper_quartile.saturating_sub(self.lower_quartile);
        1.25 * range.as_secs_f64() / (1.35 * (self.runs as f64).sqrt())
    }

    /// Runs `work` once unmeasured, which fills caches and allocates what stays, and then `runs` times.
    ///
    /// # Panics
    ///
    /// If `runs` is 0.
    #[track_caller]
    pub fn measure<T>(runs: usize, mut work: impl FnMut() -> T) -> Self {
        assert!(runs > 0, "at least one run");
        std::hint::black_box(work());
        let timed = |_| {
            let start = Instant::now();
            std::hint::black_box(work());
            start.elapsed()
        };
        let durations: Vec<Duration> = (0..runs).map(timed).collect();
        match Self::of(&durations) {
            Some(latency) => latency,
            None => unreachable!("there was a run"),
        }
    }
}

/// The value that this share of all is below: of `n` in order the one at the place `share · (n − 1)`, counted from 0, and between two
/// of them in proportion. Of 1, 2, 3 and 10 the quartile 0.75 is at the place 2.25: 3 + 0.25 · 7 = 4.75. NaN of no values.
///
/// Source: Hyndman and Fan 1996, definition 7.
///
/// # Panics
///
/// If `share` is not in `0..=1`.
#[must_use]
#[track_caller]
pub fn quantile(values: &[f64], share: f64) -> f64 {
    assert!(
        (0.0..=1.0).contains(&share),
        "a share is from 0 to 1, got {share}"
    );
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let place = share * last as f64;
    let (low, high) = (sorted[place as usize], sorted[place.ceil() as usize]);
    // Also where both are infinite, or the place is one of the values.
    if low == high || place.fract() == 0.0 {
        return low;
    }
    low + (high - low) * place.fract()
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.3?} ({:.3?} to {:.3?}, {} runs)",
            self.median, self.lower_quartile, self.upper_quartile, self.runs
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(durations: &[f64]) -> Vec<Duration> {
        let of = |ms: &f64| Duration::from_nanos((ms * 1e6) as u64);
        durations.iter().map(of).collect()
    }

    #[test]
    fn worked_example() {
        let latency = Latency::of(&ms(&[10.0, 1.0, 3.0, 2.0])).expect("four runs");
        let quantiles = [
            latency.lower_quartile,
            latency.median,
            latency.upper_quartile,
        ];
        assert_eq!(quantiles.to_vec(), ms(&[1.75, 2.5, 4.75]));
        assert_eq!(
            (latency.runs, latency.fastest),
            (4, Duration::from_millis(1))
        );
        assert_eq!(latency.to_string(), "2.500ms (1.750ms to 4.750ms, 4 runs)");
    }

    #[test]
    fn quantiles_by_hand() {
        let values = [10.0, 1.0, 3.0, 2.0];
        let found = [0.0, 0.25, 0.5, 0.75, 1.0].map(|share| quantile(&values, share));
        assert_eq!(found, [1.0, 1.75, 2.5, 4.75, 10.0]);
        assert_eq!(quantile(&[7.0], 0.3), 7.0);
        assert_eq!(
            quantile(&[1.0, f64::INFINITY, f64::INFINITY], 0.75),
            f64::INFINITY
        );
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn the_error_of_a_median_by_hand() {
        // Quartiles of 1, 2, 3, 4, 9: 2 and 4.
        let seconds = [9, 1, 3, 2, 4].map(Duration::from_secs);
        let latency = Latency::of(&seconds).expect("five runs");
        assert_eq!(latency.median, Duration::from_secs(3));
        assert_eq!(latency.median_error(), 2.5 / (1.35 * 5.0_f64.sqrt()));
        let one = Latency::of(&seconds[..1]).expect("one run");
        assert!(one.median_error().is_nan());
    }

    #[test]
    fn one_run_is_all_of_its_quantiles_and_none_has_no_latency() {
        let latency = Latency::of(&ms(&[5.0])).expect("one run");
        assert_eq!(latency.lower_quartile, latency.upper_quartile);
        assert_eq!(Latency::of(&[]), None);
    }

    #[test]
    fn work_is_done_once_more_than_it_is_measured() {
        let mut done = 0;
        let latency = Latency::measure(5, || done += 1);
        assert_eq!((done, latency.runs), (6, 5));
        assert!(latency.fastest <= latency.median && latency.median <= latency.upper_quartile);
    }
}
