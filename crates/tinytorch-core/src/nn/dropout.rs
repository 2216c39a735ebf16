//! Dropout: in training, each element is zero by chance, and the others make up for it.

use std::any::Any;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Layer;
use crate::error::{Error, Result};
use crate::ops::array_of;
use crate::rng::RngState;
use crate::tensor::{Tensor, lock};

/// Zeroes each element with probability `p` and multiplies the others by `1 / (1 − p)`; nothing in evaluation.
///
/// The layer has a random generator of its own, whose state is saved with a checkpoint
/// ([`Layer::named_rng_states`]), so that a resumed training drops what the uninterrupted one would have.
///
/// Source: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting".
#[derive(Debug)]
pub struct Dropout {
    probability: f32,
    rng: Mutex<ChaCha8Rng>,
    training: AtomicBool,
}

impl Dropout {
    /// A layer whose own generator is seeded by a draw from `rng`.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] if the probability is not in `0..1`.
    pub fn new(probability: f32, rng: &mut (impl Rng + ?Sized)) -> Result<Self> {
        if !(0.0..1.0).contains(&probability) {
            let reason = format!("the probability {probability} is not in 0..1");
            return Err(Error::Argument {
                operation: "dropout",
                reason,
            });
        }
        let rng = Mutex::new(ChaCha8Rng::seed_from_u64(rng.random()));
        Ok(Self {
            probability,
            rng,
            training: AtomicBool::new(true),
        })
    }

    /// A layer that will drop what this one would.
    pub(super) fn copy(&self) -> Self {
        Self {
            probability: self.probability,
            rng: Mutex::new(lock(&self.rng).clone()),
            training: AtomicBool::new(self.training.load(Ordering::Relaxed)),
        }
    }

    /// The probability with which an element is dropped.
    pub fn probability(&self) -> f32 {
        self.probability
    }
}

impl Layer for Dropout {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if !self.training.load(Ordering::Relaxed) || self.probability == 0.0 {
            return Ok(x.clone());
        }
        let scale = 1.0 / (1.0 - self.probability);
        let mask = {
            let mut rng = lock(&self.rng);
            let kept = |_| {
                if rng.random::<f32>() < self.probability {
                    0.0
                } else {
                    scale
                }
            };
            (0..x.len()).map(kept).collect()
        };
        x.try_mul(&Tensor::from_array(array_of(mask, x.shape())))
    }

    fn kind(&self) -> &'static str {
        "dropout"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn own_rng_state(&self) -> Option<RngState> {
        Some(RngState::of(&lock(&self.rng)))
    }

    fn set_own_rng_state(&self, state: &RngState) {
        *lock(&self.rng) = state.to_rng();
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

    fn layer() -> Result<Dropout> {
        Dropout::new(0.25, &mut ChaCha8Rng::seed_from_u64(3))
    }

    #[test]
    fn what_is_kept_is_scaled_and_about_a_quarter_is_not() -> Result<()> {
        let x = Tensor::ones(&[100, 100]).with_grad();
        let y = layer()?.forward(&x)?;
        let values = y.to_vec();
        assert!(values.iter().all(|&y| y == 0.0 || y == 1.0 / 0.75));
        let dropped = values.iter().filter(|&&y| y == 0.0).count() as f64;
        // Six standard deviations of 10 000 draws: 6 · √(10 000 · ¼ · ¾).
        assert!((dropped - 2500.0).abs() < 6.0 * (10_000.0f64 * 0.25 * 0.75).sqrt());
        y.sum().backward()?;
        assert_eq!(x.grad().expect("leaf").to_vec(), values);
        Ok(())
    }

    #[test]
    fn evaluation_changes_nothing() -> Result<()> {
        let layer = layer()?;
        layer.set_training(false);
        let x = Tensor::ones(&[10]);
        assert!(layer.forward(&x)?.is_same(&x));
        Ok(())
    }

    #[test]
    fn a_restored_generator_drops_the_same_elements() -> Result<()> {
        let (first, second) = (layer()?, layer()?);
        let x = Tensor::ones(&[50]);
        first.forward(&x)?;
        let state = first.named_rng_states();
        let expected = first.forward(&x)?.to_vec();
        assert_ne!(second.forward(&x)?.to_vec(), expected);
        second.restore_rng_states(&state)?;
        assert_eq!(second.forward(&x)?.to_vec(), expected);
        Ok(())
    }

    #[test]
    fn a_probability_of_one_or_more_is_an_error() {
        let error = Dropout::new(1.0, &mut ChaCha8Rng::seed_from_u64(0)).expect_err("nothing left");
        assert_eq!(
            error.to_string(),
            "bad argument in dropout: the probability 1 is not in 0..1"
        );
    }
}
