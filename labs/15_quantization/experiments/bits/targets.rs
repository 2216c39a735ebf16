//! What this course promises of few bits, held against what was measured.

use serde::Serialize;
use tinytorch_labs::table::Table;

use super::{Cell, Method, Report};
use crate::lab::Writers;

/// What must not be undercut.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Bound {
    /// Percentage points against f32, network by network.
    Change(f64),
    /// Percent.
    Accuracy(f64),
}

/// One promise: weights of so many bits per channel.
struct Promise {
    words: &'static str,
    bits: u32,
    method: Method,
    bound: Bound,
}

const PROMISES: [Promise; 5] = [
    Promise {
        words: "8 bits, rounded: within 0.3 points of f32",
        bits: 8,
        method: Method::Rounded,
        bound: Bound::Change(-0.3),
    },
    Promise {
        words: "4 bits, repaired: within 0.5 points of f32",
        bits: 4,
        method: Method::Repaired,
        bound: Bound::Change(-0.5),
    },
    Promise {
        words: "3 bits, repaired: at least 95 %",
        bits: 3,
        method: Method::Repaired,
        bound: Bound::Accuracy(95.0),
    },
    Promise {
        words: "4 bits, training-aware: within 0.3 points of f32",
        bits: 4,
        method: Method::Trained,
        bound: Bound::Change(-0.3),
    },
    Promise {
        words: "2 bits, training-aware: at least 95.8 %",
        bits: 2,
        method: Method::Trained,
        bound: Bound::Accuracy(95.8),
    },
];

/// A promise and what was measured of it.
#[derive(Debug, Serialize)]
pub struct Target {
    words: &'static str,
    tested_on: Writers,
    bound: Bound,
    /// Mean over the networks, and its standard error; none if this run did not measure it.
    measured: Option<(f64, f64)>,
    networks: usize,
}

impl Target {
    /// In words.
    fn verdict(&self) -> &'static str {
        let (Bound::Change(bound) | Bound::Accuracy(bound)) = self.bound;
        match self.measured {
            None => "not measured in this run",
            Some((mean, error)) if (mean - bound).abs() < error => {
                if mean >= bound {
                    "holds, but by less than the error"
                } else {
                    "missed, but by less than the error"
                }
            }
            Some((mean, _)) if mean >= bound => "holds",
            Some(_) => "missed",
        }
    }
}

/// All promises, for every kind of test that was made.
pub fn judge(report: &Report) -> Vec<Target> {
    let mut targets = Vec::new();
    for &(tested_on, _) in &report.f32 {
        for promise in &PROMISES {
            let fits = |cell: &&Cell| {
                (cell.tested_on, cell.scheme, cell.bits, cell.method)
                    == (tested_on, "channel", promise.bits, promise.method)
            };
            let cell = report.cells.iter().find(fits);
            let summary = cell.map(|cell| match promise.bound {
                Bound::Change(_) => &cell.change,
                Bound::Accuracy(_) => &cell.accuracy,
            });
            targets.push(Target {
                words: promise.words,
                tested_on,
                bound: promise.bound,
                measured: summary.map(|s| (s.mean, s.deviation / (s.count as f64).sqrt())),
                networks: summary.map_or(0, |s| s.count),
            });
        }
    }
    targets
}

/// The promises as a table.
pub fn table(targets: &[Target]) -> Table {
    let mut table = Table::new(["weights per channel", "tested on", "measured", "so it"]);
    for target in targets {
        let measured = match (target.measured, target.bound) {
            (None, _) => String::new(),
            (Some((mean, error)), Bound::Change(_)) => format!("{mean:+.2} ± {error:.2} points"),
            (Some((mean, error)), Bound::Accuracy(_)) => format!("{mean:.2} ± {error:.2} %"),
        };
        table.row([
            target.words.to_owned(),
            target.tested_on.words().to_owned(),
            measured,
            target.verdict().to_owned(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_says_when_it_is_a_close_call() {
        let verdict = |measured, bound| {
            let target = Target {
                words: "",
                tested_on: Writers::Same,
                bound,
                measured,
                networks: 5,
            };
            target.verdict()
        };
        let change = Bound::Change(-0.3);
        assert_eq!(verdict(Some((-0.1, 0.05)), change), "holds");
        assert_eq!(verdict(Some((-0.5, 0.05)), change), "missed");
        assert!(verdict(Some((-0.28, 0.05)), change).starts_with("holds, but"));
        assert!(verdict(Some((-0.32, 0.05)), change).starts_with("missed, but"));
        assert_eq!(verdict(Some((96.0, 0.1)), Bound::Accuracy(95.8)), "holds");
        assert_eq!(verdict(None, change), "not measured in this run");
    }
}
