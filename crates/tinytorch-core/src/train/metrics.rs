//! What is measured in training and evaluation.

use serde::{Deserialize, Serialize};

use crate::data::Batch;

/// Means over examples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Mean loss per example.
    #[serde(with = "bits")]
    pub loss: f64,
    /// Share of correct answers in `0.0..=1.0`, if the objective knows right from wrong.
    #[serde(with = "optional_bits")]
    pub accuracy: Option<f64>,
    /// The number of examples.
    pub examples: u64,
}

impl Metrics {
    /// Of no examples.
    pub(super) const NOTHING: Self = Self {
        loss: f64::NAN,
        accuracy: None,
        examples: 0,
    };
}

/// One epoch of a training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Counted from 0.
    pub epoch: u64,
    /// The learning rate of the epoch's last step.
    #[serde(with = "bits")]
    pub learning_rate: f64,
    /// Measured on the way, in training mode, with weights that change from batch to batch; without the batches whose loss was not
    /// finite and whose step was skipped for that.
    pub train: Metrics,
    /// Measured at the end of the epoch.
    pub validation: Option<Metrics>,
    /// Steps that a hook prevented.
    pub skipped_steps: u64,
}

/// Sums up batches.
#[derive(Default)]
pub(crate) struct Tally {
    loss: f64,
    correct: Option<u64>,
    examples: u64,
}

impl Tally {
    /// Counts a batch with this mean loss and this many correct answers.
    pub(crate) fn add(&mut self, batch: &Batch, loss: f32, correct: Option<usize>) {
        let count = batch.len() as u64;
        self.loss += f64::from(loss) * count as f64;
        self.examples += count;
        if let Some(correct) = correct {
            *self.correct.get_or_insert(0) += correct as u64;
        }
    }

    /// The means; `None` before the first example.
    pub(crate) fn metrics(&self) -> Option<Metrics> {
        (self.examples > 0).then(|| Metrics {
            loss: self.loss / self.examples as f64,
            accuracy: self
                .correct
                .map(|correct| correct as f64 / self.examples as f64),
            examples: self.examples,
        })
    }
}

/// A float as its bits: JSON has no NaN, and not every reader returns the last bit.
pub(super) mod bits {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &f64, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u64(value.to_bits())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<f64, D::Error> {
        u64::deserialize(d).map(f64::from_bits)
    }
}

mod optional_bits {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &Option<f64>, s: S) -> Result<S::Ok, S::Error> {
        value.map(f64::to_bits).serialize(s)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<f64>, D::Error> {
        Ok(Option::<u64>::deserialize(d)?.map(f64::from_bits))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Tensor;
    use crate::data::Targets;

    fn batch(len: usize) -> Batch {
        Batch {
            inputs: Tensor::zeros(&[len, 1]),
            targets: Targets::Classes(vec![0; len]),
        }
    }

    #[test]
    fn a_batch_counts_by_its_examples() {
        // (3 · 2.0 + 1 · 6.0) / 4 = 3.0, and 3 of 4 are right.
        let mut tally = Tally::default();
        assert_eq!(tally.metrics(), None);
        tally.add(&batch(3), 2.0, Some(2));
        tally.add(&batch(1), 6.0, Some(1));
        let metrics = tally.metrics().unwrap();
        assert_eq!((metrics.loss, metrics.accuracy), (3.0, Some(0.75)));
    }

    #[test]
    fn every_float_survives_json() {
        for loss in [0.1 + 0.2, f64::NAN, f64::INFINITY, -0.0, f64::MIN_POSITIVE] {
            let metrics = Metrics {
                loss,
                accuracy: Some(1.0 / 3.0),
                examples: 3,
            };
            let json = serde_json::to_string(&metrics).unwrap();
            let back: Metrics = serde_json::from_str(&json).unwrap();
            assert_eq!(back.loss.to_bits(), loss.to_bits());
            assert_eq!(back.accuracy, metrics.accuracy);
        }
    }
}
