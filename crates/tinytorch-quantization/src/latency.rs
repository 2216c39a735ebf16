//! How long something takes: one definition of latency.
//!
//! In: the durations of several runs. Out: the median, which one slow run does not move, with the quartiles that say how far
//! runs differ.

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
    /// A quantile `q` of `n` sorted durations is the one at the place `q · (n − 1)`, and between two of them in proportion (Hyndman and
    /// Fan 1996, definition 7): of 1, 2, 3 and 10 ms the median is 2.5 ms, the quartiles are 1.75 and 4.75 ms.
    #[must_use]
    pub fn of(durations: &[Duration]) -> Option<Self> {
        let mut sorted = durations.to_vec();
        sorted.sort_unstable();
        let fastest = *sorted.first()?;
        let quantile = |share: f64| {
            let place = share * (sorted.len() - 1) as f64;
            let (low, high) = (sorted[place as usize], sorted[place.ceil() as usize]);
            low + (high - low).mul_f64(place.fract())
        };
        Some(Self {
            runs: sorted.len(),
            fastest,
            lower_quartile: quantile(0.25),
            median: quantile(0.5),
            upper_quartile: quantile(0.75),
        })
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
