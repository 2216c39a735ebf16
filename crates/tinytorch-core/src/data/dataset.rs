//! Examples by index, and a batch of them as tensors.

use std::sync::Arc;

use ndarray::Axis;

use super::error::DataError;
use crate::{Result, Tensor};

/// What a model should answer to a batch.
#[derive(Clone, Debug)]
pub enum Targets {
    /// The class of each example, `[n]`.
    Classes(Vec<usize>),
    /// The values of each example, `[n, ...]`.
    Values(Tensor),
}

impl Targets {
    /// The number of examples.
    pub fn len(&self) -> usize {
        match self {
            Self::Classes(classes) => classes.len(),
            Self::Values(values) => values.shape().first().copied().unwrap_or(0),
        }
    }

    /// Whether there is no example.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The classes.
    ///
    /// # Errors
    ///
    /// [`DataError::Invalid`] if the targets are values.
    pub fn classes(&self) -> Result<&[usize]> {
        match self {
            Self::Classes(classes) => Ok(classes),
            Self::Values(_) => Err(DataError::Invalid(
                "class labels are needed, but the targets are values".into(),
            )
            .into()),
        }
    }

    /// The values, `[n, ...]`.
    ///
    /// # Errors
    ///
    /// [`DataError::Invalid`] if the targets are class labels.
    pub fn values(&self) -> Result<&Tensor> {
        match self {
            Self::Values(values) => Ok(values),
            Self::Classes(_) => Err(DataError::Invalid(
                "target values are needed, but the targets are class labels".into(),
            )
            .into()),
        }
    }
}

/// Some examples, stacked.
#[derive(Clone, Debug)]
pub struct Batch {
    /// `[n, ...]`.
    pub inputs: Tensor,
    /// One for each input.
    pub targets: Targets,
}

impl Batch {
    /// The number of examples.
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// Whether there is no example.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }
}

/// A finite collection of examples.
///
/// Implementations are pure: the same indices give the same batch, on any thread.
pub trait Dataset: Send + Sync {
    /// The number of examples.
    fn len(&self) -> usize;

    /// Stacks the examples with these indices, in this order; an index may occur twice.
    ///
    /// # Errors
    ///
    /// [`DataError::IndexOutOfRange`] if an index is not below [`len`](Self::len), and whatever reading
    /// an example may meet.
    fn batch(&self, indices: &[usize]) -> Result<Batch>;

    /// Whether there is no example.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<D: Dataset + ?Sized> Dataset for &D {
    fn len(&self) -> usize {
        (**self).len()
    }

    fn batch(&self, indices: &[usize]) -> Result<Batch> {
        (**self).batch(indices)
    }
}

impl<D: Dataset + ?Sized> Dataset for Arc<D> {
    fn len(&self) -> usize {
        (**self).len()
    }

    fn batch(&self, indices: &[usize]) -> Result<Batch> {
        (**self).batch(indices)
    }
}

/// Refuses the first index that the data set does not have.
pub(crate) fn check_indices(indices: &[usize], len: usize) -> Result<(), DataError> {
    match indices.iter().find(|&&index| index >= len) {
        Some(&index) => Err(DataError::IndexOutOfRange { index, len }),
        None => Ok(()),
    }
}

/// Examples that are in memory as tensors.
#[derive(Clone, Debug)]
pub struct TensorDataset {
    inputs: Tensor,
    targets: Targets,
}

impl TensorDataset {
    /// Takes inputs `[n, ...]` and `n` targets. Their values are shared, not copied; no gradient flows
    /// through them.
    ///
    /// # Errors
    ///
    /// [`DataError::Invalid`] if inputs or target values are scalars or differ in number.
    pub fn new(inputs: &Tensor, targets: Targets) -> Result<Self> {
        let targets = match targets {
            Targets::Values(values) if values.rank() == 0 => {
                return Err(DataError::Invalid("targets need an axis of examples".into()).into());
            }
            Targets::Values(values) => Targets::Values(values.detach()),
            classes @ Targets::Classes(_) => classes,
        };
        let Some(&count) = inputs.shape().first() else {
            return Err(DataError::Invalid("inputs need an axis of examples".into()).into());
        };
        if count != targets.len() {
            return Err(DataError::Invalid(format!(
                "{count} inputs, but {} targets",
                targets.len()
            ))
            .into());
        }
        Ok(Self {
            inputs: inputs.detach(),
            targets,
        })
    }
}

impl Dataset for TensorDataset {
    fn len(&self) -> usize {
        self.targets.len()
    }

    fn batch(&self, indices: &[usize]) -> Result<Batch> {
        check_indices(indices, self.len())?;
        let targets = match &self.targets {
            Targets::Classes(classes) => {
                Targets::Classes(indices.iter().map(|&i| classes[i]).collect())
            }
            Targets::Values(values) => Targets::Values(gather(values, indices)),
        };
        Ok(Batch {
            inputs: gather(&self.inputs, indices),
            targets,
        })
    }
}

/// The rows with these indices, which must exist.
fn gather(values: &Tensor, indices: &[usize]) -> Tensor {
    Tensor::from_array(values.array().select(Axis(0), indices))
}

/// Some examples of another data set, in an order of its own.
#[derive(Clone, Debug)]
pub struct Subset<D> {
    dataset: D,
    indices: Vec<usize>,
}

impl<D: Dataset> Subset<D> {
    /// Keeps the examples with these indices.
    ///
    /// # Errors
    ///
    /// [`DataError::IndexOutOfRange`] if the data set has no such example.
    pub fn new(dataset: D, indices: Vec<usize>) -> Result<Self> {
        check_indices(&indices, dataset.len())?;
        Ok(Self { dataset, indices })
    }
}

impl<D: Dataset> Dataset for Subset<D> {
    fn len(&self) -> usize {
        self.indices.len()
    }

    fn batch(&self, indices: &[usize]) -> Result<Batch> {
        check_indices(indices, self.len())?;
        let inner: Vec<usize> = indices.iter().map(|&i| self.indices[i]).collect();
        self.dataset.batch(&inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Error;

    fn three_pairs() -> TensorDataset {
        let inputs = Tensor::new(vec![0.0, 1.0, 10.0, 11.0, 20.0, 21.0], &[3, 2]).unwrap();
        TensorDataset::new(&inputs, Targets::Classes(vec![5, 6, 7])).unwrap()
    }

    #[test]
    fn a_batch_stacks_the_examples_in_the_order_asked_for() {
        let batch = three_pairs().batch(&[2, 0, 2]).unwrap();
        assert_eq!(batch.inputs.shape(), [3, 2]);
        assert_eq!(batch.inputs.to_vec(), [20.0, 21.0, 0.0, 1.0, 20.0, 21.0]);
        assert_eq!(batch.targets.classes().unwrap(), [7, 5, 7]);
    }

    #[test]
    fn target_values_are_stacked_like_inputs() {
        let inputs = Tensor::zeros(&[2, 1]);
        let targets = Tensor::new(vec![1.0, 2.0, 3.0, 4.0], &[2, 2]).unwrap();
        let data = TensorDataset::new(&inputs, Targets::Values(targets)).unwrap();
        let batch = data.batch(&[1]).unwrap();
        assert_eq!(batch.targets.values().unwrap().to_vec(), [3.0, 4.0]);
        assert!(batch.targets.classes().is_err());
    }

    #[test]
    fn an_example_that_does_not_exist_is_an_error_that_names_it() {
        let expected = Error::from(DataError::IndexOutOfRange { index: 3, len: 3 });
        assert_eq!(three_pairs().batch(&[0, 3]).unwrap_err(), expected);
        assert!(Subset::new(three_pairs(), vec![3]).is_err());
    }

    #[test]
    fn inputs_without_targets_are_refused() {
        let inputs = Tensor::zeros(&[2, 1]);
        let error = TensorDataset::new(&inputs, Targets::Classes(vec![1])).unwrap_err();
        assert_eq!(error.to_string(), "2 inputs, but 1 targets");
    }

    #[test]
    fn a_subset_counts_from_zero_in_its_own_order() {
        let subset = Subset::new(three_pairs(), vec![2, 1]).unwrap();
        assert_eq!(subset.len(), 2);
        let batch = subset.batch(&[0, 1]).unwrap();
        assert_eq!(batch.targets.classes().unwrap(), [7, 6]);
    }
}
