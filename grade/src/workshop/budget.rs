//! The processor time that all compilations of one submission may take together.
//!
//! A submission is compiled several times if it must be: without the holes that do not compile, and by halves to find the one the compiler does not survive.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How many times the processor time of one compilation it is.
const TIMES: u32 = 4;

/// What is left when nothing more is begun.
const LEAST: Duration = Duration::from_secs(1);

/// What was spent of it, in milliseconds.
#[derive(Debug, Default)]
pub struct Budget(AtomicU64);

impl Budget {
    /// All of it, where one compilation may take `limit`.
    pub fn of(limit: Duration) -> Duration {
        limit.saturating_mul(TIMES)
    }

    /// Another submission's turn.
    pub fn begin(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// A compilation took this long.
    pub fn spend(&self, processor: Duration) {
        let spent = u64::try_from(processor.as_millis()).unwrap_or(u64::MAX);
        self.0.fetch_add(spent, Ordering::Relaxed);
    }

    /// What is left.
    pub fn left(&self, limit: Duration) -> Duration {
        let spent = Duration::from_millis(self.0.load(Ordering::Relaxed));
        Budget::of(limit).saturating_sub(spent)
    }

    /// What the next compilation may take, which wants `most`: whole seconds, as the kernel counts them. Nothing if all is spent.
    pub fn next(&self, limit: Duration, most: Duration) -> Option<Duration> {
        let left = self.left(limit);
        let next = Duration::from_secs(most.min(left).as_secs()).max(LEAST);
        (left >= LEAST).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// A submission whose holes did not compile one after the other took the limit of a compilation each time, without end.
    #[test]
    fn what_is_spent_is_not_there_for_the_next() {
        let budget = Budget::default();
        let limit = seconds(10);
        let mut rounds = 0;
        while let Some(next) = budget.next(limit, limit) {
            assert!(next <= limit);
            budget.spend(next);
            rounds += 1;
        }
        assert_eq!((rounds, budget.left(limit)), (4, Duration::ZERO));
        budget.begin();
        assert_eq!(budget.left(limit), Budget::of(limit));
    }

    #[test]
    fn the_next_takes_no_more_than_it_wants_nor_than_there_is() {
        let budget = Budget::default();
        let limit = seconds(10);
        assert_eq!(budget.next(limit, seconds(3)), Some(seconds(3)));
        budget.spend(Duration::from_millis(36_500));
        assert_eq!(budget.next(limit, seconds(10)), Some(seconds(3)));
        budget.spend(Duration::from_millis(2_600));
        assert_eq!(budget.next(limit, seconds(10)), None);
    }
}
