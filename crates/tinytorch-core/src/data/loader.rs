//! From a data set to the batches of an epoch: order, size, transforms.
//!
//! The order of an epoch is a function of seed and epoch number, not of what was drawn before. So training
//! that resumes at epoch 4 sees exactly the batches of training that never stopped.
//!
//! Batches are made when they are asked for, on the calling thread. What a second thread could win is what making
//! a batch of 64 takes of a training step on it, and `benches/loader.rs` compares the two for a network of
//! one convolution: 0.3 % to 0.4 % (digits and images of CIFAR-10's size), with a random shift 3 % to 6 % (two
//! runs on 2 busy cores). Larger networks make it less, and the thread would take a core from their products.

use super::dataset::{Batch, Dataset};
use super::error::DataError;
use super::random::{Purpose, generator, shuffle};
use super::transform::Transform;
use crate::{Result, Tensor};

/// Cuts a data set into batches, epoch by epoch.
///
/// ```
/// use tinytorch_core::data::{DataLoader, ordered_split};
///
/// # fn main() -> tinytorch_core::Result<()> {
/// let loader = DataLoader::new(ordered_split()?.train, 64)?.shuffle(7).drop_last(true);
/// assert_eq!(loader.batches(), 22); // 1,437 / 64, rounded down
/// for batch in loader.epoch(0) {
///     assert_eq!(batch?.inputs.shape(), [64, 1, 8, 8]);
/// }
/// # Ok(())
/// # }
/// ```
pub struct DataLoader<D> {
    dataset: D,
    batch_size: usize,
    shuffle_seed: Option<u64>,
    transform_seed: u64,
    drop_last: bool,
    transforms: Vec<Box<dyn Transform>>,
}

impl<D: Dataset> DataLoader<D> {
    /// Batches of `batch_size` in the data set's order, the last one with what is left.
    ///
    /// # Errors
    ///
    /// [`DataError::Invalid`] if `batch_size` is 0.
    pub fn new(dataset: D, batch_size: usize) -> Result<Self> {
        if batch_size == 0 {
            return Err(DataError::Invalid("a batch size of 0".into()).into());
        }
        Ok(Self {
            dataset,
            batch_size,
            shuffle_seed: None,
            transform_seed: 0,
            drop_last: false,
            transforms: Vec::new(),
        })
    }

    /// Draws a new order for every epoch.
    #[must_use]
    pub fn shuffle(mut self, seed: u64) -> Self {
        self.shuffle_seed = Some(seed);
        self
    }

    /// Whether to leave out a last batch that is not full.
    #[must_use]
    pub fn drop_last(mut self, drop_last: bool) -> Self {
        self.drop_last = drop_last;
        self
    }

    /// Adds a transform; they are applied in the order in which they were added.
    #[must_use]
    pub fn transform(mut self, transform: impl Transform + 'static) -> Self {
        self.transforms.push(Box::new(transform));
        self
    }

    /// Seeds what random transforms draw. 0 if never called.
    #[must_use]
    pub fn transform_seed(mut self, seed: u64) -> Self {
        self.transform_seed = seed;
        self
    }

    /// The data set.
    pub fn dataset(&self) -> &D {
        &self.dataset
    }

    /// What decides the order and the transforms' draws: shuffle seed, transform seed.
    pub fn seeds(&self) -> (Option<u64>, u64) {
        (self.shuffle_seed, self.transform_seed)
    }

    /// Number of examples in a full batch.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// The number of batches in an epoch.
    pub fn batches(&self) -> usize {
        if self.drop_last {
            self.dataset.len() / self.batch_size
        } else {
            self.dataset.len().div_ceil(self.batch_size)
        }
    }

    /// The batches of the epoch with this number.
    pub fn epoch(&self, epoch: u64) -> Epoch<'_, D> {
        Epoch {
            loader: self,
            epoch,
            order: self.order(epoch),
            next: 0,
        }
    }

    /// The indices of the epoch's examples, in its order.
    fn order(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.dataset.len()).collect();
        if let Some(seed) = self.shuffle_seed {
            shuffle(&mut order, &mut generator(seed, Purpose::Shuffle, epoch, 0));
        }
        order.truncate(self.batches().saturating_mul(self.batch_size));
        order
    }

    fn load(&self, indices: &[usize], epoch: u64) -> Result<Batch> {
        let batch = self.dataset.batch(indices)?;
        if self.transforms.is_empty() {
            return Ok(batch);
        }
        let shape = batch.inputs.shape();
        let example_shape = &shape[1..];
        let mut values = batch.inputs.to_vec();
        let size = example_shape.iter().product::<usize>().max(1);
        for (values, &index) in values.chunks_mut(size).zip(indices) {
            let mut rng = generator(self.transform_seed, Purpose::Transform, epoch, index as u64);
            for transform in &self.transforms {
                transform.apply(values, example_shape, &mut rng)?;
            }
        }
        Ok(Batch {
            inputs: Tensor::new(values, shape)?,
            targets: batch.targets,
        })
    }
}

/// Batches, epoch by epoch: what training and evaluation need of a [`DataLoader`], whatever its data set.
///
/// Implementations are pure: the same epoch number gives the same batches.
pub trait BatchSource {
    /// The number of batches in an epoch.
    fn batch_count(&self) -> usize;

    /// The batches of the epoch with this number.
    fn epoch_batches(&self, epoch: u64) -> Box<dyn Iterator<Item = Result<Batch>> + '_>;

    /// Size, order and seeds in words. A training that resumes refuses batches with another description.
    fn description(&self) -> String;
}

impl<D: Dataset> BatchSource for DataLoader<D> {
    fn batch_count(&self) -> usize {
        self.batches()
    }

    fn epoch_batches(&self, epoch: u64) -> Box<dyn Iterator<Item = Result<Batch>> + '_> {
        Box::new(self.epoch(epoch))
    }

    fn description(&self) -> String {
        let order = match self.shuffle_seed {
            Some(seed) => format!("shuffled with seed {seed}"),
            None => "in order".into(),
        };
        let mut text = format!(
            "{} batches of {} from {} examples, {order}",
            self.batches(),
            self.batch_size,
            self.dataset.len(),
        );
        if !self.transforms.is_empty() {
            text += &format!(
                ", {} transforms with seed {}",
                self.transforms.len(),
                self.transform_seed
            );
        }
        text
    }
}

/// The batches of one epoch, made one at a time.
pub struct Epoch<'a, D> {
    loader: &'a DataLoader<D>,
    epoch: u64,
    order: Vec<usize>,
    next: usize,
}

impl<D: Dataset> Iterator for Epoch<'_, D> {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        let end = self.order.len().min(self.next + self.loader.batch_size);
        let indices = &self.order[self.next..end];
        if indices.is_empty() {
            return None;
        }
        let batch = self.loader.load(indices, self.epoch);
        self.next = end;
        Some(batch)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (self.order.len() - self.next).div_ceil(self.loader.batch_size);
        (left, Some(left))
    }
}

impl<D: Dataset> ExactSizeIterator for Epoch<'_, D> {}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::dataset::{Targets, TensorDataset};
    use super::super::transform::RandomShift;
    use super::*;

    fn numbers(count: usize) -> TensorDataset {
        let values = (0..count).map(|i| i as f32).collect();
        let inputs = Tensor::new(values, &[count, 1]).unwrap();
        TensorDataset::new(&inputs, Targets::Classes((0..count).collect())).unwrap()
    }

    fn classes<D: Dataset>(loader: &DataLoader<D>, epoch: u64) -> Vec<Vec<usize>> {
        let batches = loader.epoch(epoch);
        batches
            .map(|b| b.unwrap().targets.classes().unwrap().to_vec())
            .collect()
    }

    #[test]
    fn the_last_batch_holds_what_is_left_or_is_dropped() {
        let loader = DataLoader::new(numbers(5), 2).unwrap();
        assert_eq!(classes(&loader, 0), [vec![0, 1], vec![2, 3], vec![4]]);
        assert_eq!((loader.batches(), loader.epoch(0).len()), (3, 3));
        let loader = loader.drop_last(true);
        assert_eq!(classes(&loader, 0), [[0, 1], [2, 3]]);
        assert_eq!(loader.batches(), 2);
    }

    #[test]
    fn every_epoch_has_its_own_order_and_seed_and_number_decide_it() {
        let loader = DataLoader::new(numbers(20), 4).unwrap().shuffle(9);
        let again = DataLoader::new(numbers(20), 4).unwrap().shuffle(9);
        // The other loader has not drawn epochs 0 to 2.
        let first_epochs: Vec<_> = (0..3).map(|epoch| classes(&loader, epoch)).collect();
        assert_ne!(first_epochs[0], first_epochs[1]);
        assert_eq!(classes(&loader, 3), classes(&again, 3));
        let mut seen = classes(&loader, 3).concat();
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..20));
    }

    #[test]
    fn what_a_transform_draws_depends_on_the_example_and_not_on_its_batch() {
        let inputs = Tensor::new((0..6 * 9).map(|i| i as f32).collect(), &[6, 1, 3, 3]).unwrap();
        let data = TensorDataset::new(&inputs, Targets::Classes((0..6).collect())).unwrap();
        let all = |batch_size, epoch| -> Vec<f32> {
            let loader = DataLoader::new(data.clone(), batch_size).unwrap();
            let loader = loader.transform(RandomShift { most: 1 }).transform_seed(5);
            loader
                .epoch(epoch)
                .flat_map(|b| b.unwrap().inputs.to_vec())
                .collect()
        };
        assert_eq!(all(1, 0), all(4, 0));
        assert_ne!(all(4, 0), all(4, 1));
    }

    #[test]
    fn an_empty_data_set_has_no_batches_and_size_zero_is_refused() {
        let empty = TensorDataset::new(&Tensor::zeros(&[0, 1]), Targets::Classes(vec![])).unwrap();
        assert_eq!(DataLoader::new(empty, 4).unwrap().epoch(0).count(), 0);
        assert!(DataLoader::new(numbers(3), 0).is_err());
    }
}
