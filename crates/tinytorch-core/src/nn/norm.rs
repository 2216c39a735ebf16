//! Batch normalization as a layer.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tinytorch_kernels::Normalize;

use super::Layer;
use super::derived::Derived;
use crate::error::{Error, Result};
use crate::ops::norm::{Moments, batch_norm, inverse_deviations, moments};
use crate::tensor::Tensor;

/// Normalizes each channel of `[batch, channels, height, width]`.
///
/// In training with the moments of the batch, which it also averages into its running moments; in evaluation with the running
/// moments. As in PyTorch, the batch is normalized with the variance divided by `n`, and the running variance collects the
/// variance divided by `n − 1`.
///
/// Behind a convolution in a [`Sequential`](super::Sequential), in evaluation and under [`no_grad`](crate::no_grad), it is applied where
/// the sums of the convolution end: the same bits, without a pass over the images.
#[derive(Debug)]
pub struct BatchNorm2d {
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    eps: f32,
    momentum: f32,
    training: AtomicBool,
    fixed: Derived<Fixed, 4>,
}

/// What the layer does in evaluation: `(x − mean) · scale + shift`.
pub(super) struct Fixed {
    mean: Vec<f32>,
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl Fixed {
    pub fn as_finish(&self) -> Normalize<'_> {
        Normalize {
            mean: &self.mean,
            scale: &self.scale,
            shift: &self.shift,
        }
    }

    /// One pixel, all channels of it.
    pub fn apply(&self, input: &[f32], output: &mut [f32]) {
        let moved = input.iter().zip(&self.mean).map(|(x, mean)| x - mean);
        let scaled = moved.zip(&self.scale).map(|(x, scale)| x * scale);
        let shifted = scaled.zip(&self.shift).map(|(x, shift)| x + shift);
        output.iter_mut().zip(shifted).for_each(|(y, x)| *y = x);
    }
}

impl BatchNorm2d {
    /// Weight 1, bias 0, running mean 0, running variance 1, `eps` 1e-5, momentum 0.1.
    pub fn new(channels: usize) -> Self {
        Self::with(channels, 1e-5, 0.1)
    }

    /// As [`BatchNorm2d::new`], with another `eps` (added to the variance) and momentum (the share of a new batch in the
    /// running moments).
    pub fn with(channels: usize, eps: f32, momentum: f32) -> Self {
        Self {
            weight: Tensor::ones(&[channels]).with_grad(),
            bias: Tensor::zeros(&[channels]).with_grad(),
            running_mean: Tensor::zeros(&[channels]),
            running_var: Tensor::ones(&[channels]),
            eps,
            momentum,
            training: AtomicBool::new(true),
            fixed: Derived::default(),
        }
    }

    /// The learned factor, `[channels]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The learned shift, `[channels]`.
    pub fn bias(&self) -> &Tensor {
        &self.bias
    }

    /// The mean used in evaluation, `[channels]`.
    pub fn running_mean(&self) -> &Tensor {
        &self.running_mean
    }

    /// The variance used in evaluation, `[channels]`.
    pub fn running_var(&self) -> &Tensor {
        &self.running_var
    }

    /// What is added to the variance.
    pub fn eps(&self) -> f32 {
        self.eps
    }

    /// The share of a new batch in the running moments.
    pub fn momentum(&self) -> f32 {
        self.momentum
    }

    /// What it does with images of so many channels; `None` in training, and if it is for others.
    pub(super) fn fixed(&self, channels: usize) -> Option<Arc<Fixed>> {
        if self.training.load(Ordering::Relaxed) || self.weight.shape() != [channels] {
            return None;
        }
        let tensors = [
            &self.running_mean,
            &self.running_var,
            &self.weight,
            &self.bias,
        ];
        Some(self.fixed.get(tensors, |[mean, variance, weight, bias]| {
            let inverse = inverse_deviations(variance, self.eps);
            let scale = inverse.iter().zip(weight).map(|(inverse, w)| inverse * w);
            Fixed {
                mean: mean.to_vec(),
                scale: scale.collect(),
                shift: bias.to_vec(),
            }
        }))
    }

    fn update_running(&self, batch: &Moments, count: usize) {
        let unbiased = count as f32 / (count as f32 - 1.0);
        let average = |running: &Tensor, values: &[f32], factor: f32| {
            running.update(|mut running| {
                for (running, value) in running.iter_mut().zip(values) {
                    *running = (1.0 - self.momentum) * *running + self.momentum * value * factor;
                }
            });
        };
        average(&self.running_mean, &batch.mean, 1.0);
        average(&self.running_var, &batch.variance, unbiased);
    }
}

impl Layer for BatchNorm2d {
    /// # Errors
    ///
    /// [`Error::Shape`] if the input has not four axes or, in training, fewer than two values per channel;
    /// [`Error::ShapeMismatch`] if it has another number of channels.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (weight, bias) = (&self.weight, &self.bias);
        if !self.training.load(Ordering::Relaxed) {
            let running = Moments {
                mean: self.running_mean.to_vec(),
                variance: self.running_var.to_vec(),
            };
            return batch_norm(x, weight, bias, &running, self.eps, false);
        }
        let own = moments(x)?;
        let count = x.len() / own.mean.len().max(1);
        if count < 2 {
            return Err(Error::Shape {
                operation: "batch_norm2d in training",
                expected: "at least two values per channel".to_owned(),
                got: x.shape().to_vec(),
            });
        }
        let y = batch_norm(x, weight, bias, &own, self.eps, true)?;
        self.update_running(&own, count);
        Ok(y)
    }

    fn kind(&self) -> &'static str {
        "batch_norm2d"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn own_parameters(&self) -> Vec<(String, Tensor)> {
        super::weight_and_bias(&self.weight, Some(&self.bias))
    }

    fn own_buffers(&self) -> Vec<(String, Tensor)> {
        vec![
            ("running_mean".to_owned(), self.running_mean.clone()),
            ("running_var".to_owned(), self.running_var.clone()),
        ]
    }

    fn own_training(&self) -> Option<bool> {
        Some(self.training.load(Ordering::Relaxed))
    }

    fn set_training(&self, training: bool) {
        self.training.store(training, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn training_normalizes_with_the_batch_and_remembers_a_tenth_of_it() -> Result<()> {
        let layer = BatchNorm2d::with(1, 0.0, 0.1);
        let x = Tensor::new(vec![1.0, 3.0, 5.0, 7.0], &[2, 1, 1, 2])?;
        let y = layer.forward(&x)?.to_vec();
        // Mean 4, variance 5: distances −3, −1, 1, 3 over √5.
        let expected = [-3.0, -1.0, 1.0, 3.0].map(|d: f32| d / 5f32.sqrt());
        for (y, expected) in y.iter().zip(expected) {
            assert!((y - expected).abs() <= 2.0 * f32::EPSILON * expected.abs());
        }
        assert_eq!(layer.running_mean().to_vec(), [0.1f32 * 4.0]);
        // Unbiased variance 20 / 3.
        let expected = 0.9 + 0.1 * 5.0 * (4.0 / 3.0);
        assert!((layer.running_var().item()? - expected).abs() <= 2.0 * f32::EPSILON);
        Ok(())
    }

    #[test]
    fn evaluation_uses_and_keeps_the_running_moments() -> Result<()> {
        let layer = BatchNorm2d::with(1, 0.0, 0.1);
        layer.set_training(false);
        layer.running_mean().update(|mut mean| mean.fill(1.0));
        layer
            .running_var()
            .update(|mut variance| variance.fill(4.0));
        let y = layer.forward(&Tensor::full(&[1, 1, 1, 1], 5.0))?;
        assert_eq!((y.item()?, layer.running_mean().item()?), (2.0, 1.0));
        Ok(())
    }

    #[test]
    fn one_value_per_channel_has_no_variance_to_train_on() {
        let error = BatchNorm2d::new(3).forward(&Tensor::zeros(&[1, 3, 1, 1]));
        assert_eq!(
            error.expect_err("one value").to_string(),
            "batch_norm2d in training needs at least two values per channel, got [1, 3, 1, 1]"
        );
    }

    #[test]
    fn another_number_of_channels_is_an_error_and_changes_nothing() {
        let layer = BatchNorm2d::new(3);
        assert!(layer.forward(&Tensor::zeros(&[2, 4, 2, 2])).is_err());
        assert_eq!(layer.running_mean().to_vec(), [0.0; 3]);
    }
}
