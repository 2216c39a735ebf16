//! Stopping when the validation no longer improves.

use serde::{Deserialize, Serialize};

use super::error::TrainError;
use super::metrics::{Metrics, bits};

/// Which validation metric decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Monitor {
    /// Lower is better.
    Loss,
    /// Higher is better.
    Accuracy,
}

/// When to stop before the last epoch. The model then gets back the weights of its best epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EarlyStopping {
    /// Which validation metric decides.
    pub monitor: Monitor,
    /// Stop after this many epochs in a row that were no better than the best. 0 stops at the first of them.
    pub patience: u64,
    /// An epoch is better only if it is by more than this.
    pub min_delta: f64,
}

impl EarlyStopping {
    /// Watches the validation loss.
    pub fn on_loss(patience: u64) -> Self {
        Self {
            monitor: Monitor::Loss,
            patience,
            min_delta: 0.0,
        }
    }

    /// Watches the validation accuracy.
    pub fn on_accuracy(patience: u64) -> Self {
        Self {
            monitor: Monitor::Accuracy,
            ..Self::on_loss(patience)
        }
    }

    /// The watched value, turned such that more is better.
    pub(crate) fn score(&self, validation: Option<&Metrics>) -> Result<f64, TrainError> {
        let score = match self.monitor {
            Monitor::Loss => validation.map(|metrics| -metrics.loss),
            Monitor::Accuracy => validation.and_then(|metrics| metrics.accuracy),
        };
        score.ok_or(TrainError::NothingToMonitor(match self.monitor {
            Monitor::Loss => "loss",
            Monitor::Accuracy => "accuracy",
        }))
    }
}

/// How the epochs so far compare.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct EarlyStopState {
    #[serde(with = "bits")]
    best: f64,
    /// Epochs since the best.
    waited: u64,
    pub(crate) stopped: bool,
}

impl Default for EarlyStopState {
    fn default() -> Self {
        Self {
            best: f64::NEG_INFINITY,
            waited: 0,
            stopped: false,
        }
    }
}

impl EarlyStopState {
    /// Takes the score of an epoch and tells whether it is the best so far. NaN never is.
    pub(crate) fn observe(&mut self, rule: &EarlyStopping, score: f64) -> bool {
        if score > self.best + rule.min_delta {
            self.best = score;
            self.waited = 0;
            return true;
        }
        self.waited += 1;
        self.stopped = self.waited >= rule.patience.max(1);
        false
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn run(rule: &EarlyStopping, losses: &[f64]) -> Vec<(bool, bool)> {
        let mut state = EarlyStopState::default();
        let observe = |&loss: &f64| (state.observe(rule, -loss), state.stopped);
        losses.iter().map(observe).collect()
    }

    #[test]
    fn two_epochs_without_a_better_loss_end_a_patience_of_two() {
        let outcome = run(&EarlyStopping::on_loss(2), &[3.0, 2.0, 2.5, 1.0, 1.0, 1.0]);
        let improved: Vec<bool> = outcome.iter().map(|o| o.0).collect();
        let stopped: Vec<bool> = outcome.iter().map(|o| o.1).collect();
        assert_eq!(improved, [true, true, false, true, false, false]);
        assert_eq!(stopped, [false, false, false, false, false, true]);
    }

    #[test]
    fn nan_is_never_the_best_and_a_smaller_gain_than_min_delta_is_none() {
        let rule = EarlyStopping {
            min_delta: 0.5,
            ..EarlyStopping::on_loss(9)
        };
        let outcome = run(&rule, &[f64::NAN, 2.0, 1.6, 1.4, f64::NAN]);
        let improved: Vec<bool> = outcome.iter().map(|o| o.0).collect();
        assert_eq!(improved, [false, true, false, true, false]);
    }

    #[test]
    fn a_metric_that_is_not_there_cannot_be_watched() {
        let metrics = Metrics {
            loss: 2.0,
            accuracy: None,
            examples: 1,
        };
        assert_eq!(
            EarlyStopping::on_loss(1).score(Some(&metrics)).unwrap(),
            -2.0
        );
        assert!(EarlyStopping::on_accuracy(1).score(Some(&metrics)).is_err());
        let error = EarlyStopping::on_loss(1).score(None).unwrap_err();
        assert_eq!(error, TrainError::NothingToMonitor("loss"));
    }
}
