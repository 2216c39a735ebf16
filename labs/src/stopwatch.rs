//! Timing two programs against each other.
//!
//! A machine's speed drifts while it runs. So the contestants take turns, A B
//! A B ..., each turn long enough for the clock, and the medians of the turns
//! are compared: what disturbs one turn disturbs its neighbour as well.

use crate::summary::median;
use std::time::{Duration, Instant};

/// How long and how often to measure.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Turns that count, per contestant.
    pub turns: usize,
    /// A turn repeats the work until at least this much time has passed.
    pub turn: Duration,
}

/// Median seconds per call of each contestant, measured in turns.
///
/// Each contestant first runs one uncounted turn: caches fill, memory is
/// touched for the first time, and the number of calls per turn is found.
pub fn race<E>(
    plan: Plan,
    contestants: &mut [&mut dyn FnMut() -> Result<(), E>],
) -> Result<Vec<f64>, E> {
    let mut calls = Vec::with_capacity(contestants.len());
    for contestant in contestants.iter_mut() {
        let start = Instant::now();
        let mut count = 0_u32;
        while count == 0 || start.elapsed() < plan.turn {
            contestant()?;
            count += 1;
        }
        calls.push(count);
    }
    let mut seconds = vec![Vec::with_capacity(plan.turns); contestants.len()];
    for _ in 0..plan.turns.max(1) {
        for (index, contestant) in contestants.iter_mut().enumerate() {
            let start = Instant::now();
            for _ in 0..calls[index] {
                contestant()?;
            }
            seconds[index].push(start.elapsed().as_secs_f64() / f64::from(calls[index]));
        }
    }
    Ok(seconds.iter().map(|turns| median(turns)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_contestant_runs_equally_many_turns_and_errors_surface() {
        let plan = Plan {
            turns: 3,
            turn: Duration::ZERO,
        };
        let (mut a, mut b) = (0, 0);
        let times = race::<()>(
            plan,
            &mut [
                &mut || {
                    a += 1;
                    Ok(())
                },
                &mut || {
                    b += 1;
                    Ok(())
                },
            ],
        );
        assert_eq!(times.map(|t| t.len()), Ok(2));
        // One turn of one call to warm up, three that count.
        assert_eq!((a, b), (4, 4));
        assert_eq!(race(plan, &mut [&mut || Err("broken")]), Err("broken"));
    }
}
