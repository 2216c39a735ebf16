//! What a model is trained for: a loss, and perhaps a count of correct answers.

use crate::data::Targets;
use crate::loss::{bce_with_logits, cross_entropy, mse_loss};
use crate::{Result, Tensor};

/// Judges a batch of outputs.
pub trait Objective: Send + Sync {
    /// The mean loss of the batch, shape `[]`.
    ///
    /// # Errors
    ///
    /// If outputs and targets do not fit together.
    fn loss(&self, outputs: &Tensor, targets: &Targets) -> Result<Tensor>;

    /// How many of the outputs are right; `None` if there is no right or wrong.
    ///
    /// # Errors
    ///
    /// If outputs and targets do not fit together.
    fn correct(&self, _outputs: &Tensor, _targets: &Targets) -> Result<Option<usize>> {
        Ok(None)
    }
}

/// Classes from logits `[n, classes]`. An answer is right if its class has the largest logit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CrossEntropy;

impl Objective for CrossEntropy {
    fn loss(&self, outputs: &Tensor, targets: &Targets) -> Result<Tensor> {
        cross_entropy(outputs, targets.classes()?)
    }

    fn correct(&self, outputs: &Tensor, targets: &Targets) -> Result<Option<usize>> {
        let logits = outputs.array();
        let rows = logits.rows().into_iter().zip(targets.classes()?);
        let right = rows.filter(|(row, class)| {
            // The first of equal ones, so that a constant model is not always right.
            let best = row
                .iter()
                .enumerate()
                .fold((0, f32::NEG_INFINITY), |best, (i, &x)| {
                    if x > best.1 { (i, x) } else { best }
                });
            best.0 == **class
        });
        Ok(Some(right.count()))
    }
}

/// Yes or no from logits; targets are values 0 or 1 of the outputs' shape. An answer is right if all its
/// logits have the right sign.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BinaryCrossEntropy;

impl Objective for BinaryCrossEntropy {
    fn loss(&self, outputs: &Tensor, targets: &Targets) -> Result<Tensor> {
        bce_with_logits(outputs, targets.values()?)
    }

    fn correct(&self, outputs: &Tensor, targets: &Targets) -> Result<Option<usize>> {
        let (logits, expected) = (outputs.to_vec(), targets.values()?.to_vec());
        let per_example = (logits.len() / targets.len().max(1)).max(1);
        let examples = logits.chunks(per_example).zip(expected.chunks(per_example));
        let right = examples.filter(|(logits, expected)| {
            logits
                .iter()
                .zip(*expected)
                .all(|(&x, &t)| (x > 0.0) == (t > 0.5))
        });
        Ok(Some(right.count()))
    }
}

/// The mean square of the differences to target values of the outputs' shape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MeanSquaredError;

impl Objective for MeanSquaredError {
    fn loss(&self, outputs: &Tensor, targets: &Targets) -> Result<Tensor> {
        mse_loss(outputs, targets.values()?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_logit_is_the_answer_and_the_first_of_equal_ones() {
        let logits = vec![0.0, 2.0, 1.0, 3.0, 3.0, 0.0, f32::NAN, -1.0, -2.0];
        let outputs = Tensor::new(logits, &[3, 3]).unwrap();
        let correct = |classes| CrossEntropy.correct(&outputs, &Targets::Classes(classes));
        assert_eq!(correct(vec![1, 0, 1]).unwrap(), Some(3));
        assert_eq!(correct(vec![1, 1, 0]).unwrap(), Some(1));
    }

    #[test]
    fn a_yes_is_a_positive_logit() {
        let outputs = Tensor::new(vec![0.5, -0.5, 0.0, 2.0], &[4, 1]).unwrap();
        let targets = Tensor::new(vec![1.0, 1.0, 0.0, 1.0], &[4, 1]).unwrap();
        let targets = Targets::Values(targets);
        assert_eq!(
            BinaryCrossEntropy.correct(&outputs, &targets).unwrap(),
            Some(3)
        );
        assert!(CrossEntropy.loss(&outputs, &targets).is_err());
    }

    #[test]
    fn a_squared_error_has_no_right_or_wrong() {
        let outputs = Tensor::new(vec![1.0, 2.0], &[2, 1]).unwrap();
        let targets = Targets::Values(Tensor::new(vec![1.0, 4.0], &[2, 1]).unwrap());
        // (0² + 2²) / 2 = 2
        assert_eq!(
            MeanSquaredError
                .loss(&outputs, &targets)
                .unwrap()
                .item()
                .unwrap(),
            2.0
        );
        assert_eq!(MeanSquaredError.correct(&outputs, &targets).unwrap(), None);
    }
}
