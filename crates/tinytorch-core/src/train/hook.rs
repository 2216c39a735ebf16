//! The places of a training step where others may take part: loss scaling, quantization-aware training.

use crate::nn::Layer;
use crate::{Result, Tensor};

/// Whether the optimizer may step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proceed {
    /// The gradients are good: clip them and step.
    Step,
    /// Leave the model as the step found it, weights and buffers, for example because scaled gradients overflowed.
    Skip,
}

/// Takes part in every training step. Each method does nothing unless it is implemented.
///
/// ```text
/// loss = objective(model(inputs))  ->  change_loss  ->  backward  ->  check_gradients
///     ->  clip, optimizer step (or not)  ->  after_step
/// not finite  ->  check_loss  ->  after_step, or the end
/// ```
///
/// What the objective saw, before `change_loss`, is what the metrics report.
pub trait StepHook {
    /// Sees a loss that is infinite or not a number, before anything is done with it: [`Proceed::Skip`] skips the step,
    /// [`Proceed::Step`], with which nothing can be done, ends the training as diverged.
    ///
    /// # Errors
    ///
    /// Any; the training ends with it.
    fn check_loss(&mut self, _loss: f32) -> Result<Proceed> {
        Ok(Proceed::Step)
    }

    /// Changes the loss before it is differentiated: loss scaling multiplies it.
    ///
    /// # Errors
    ///
    /// Any; the training ends with it.
    fn change_loss(&mut self, loss: Tensor) -> Result<Tensor> {
        Ok(loss)
    }

    /// Sees, and may change, the gradients before they are clipped: loss scaling divides them, and skips a
    /// step whose gradients are not finite.
    ///
    /// # Errors
    ///
    /// Any; the training ends with it.
    fn check_gradients(&mut self, _parameters: &[(String, Tensor)]) -> Result<Proceed> {
        Ok(Proceed::Step)
    }

    /// Sees the model after the step, whether it was taken or skipped.
    ///
    /// # Errors
    ///
    /// Any; the training ends with it.
    fn after_step(&mut self, _model: &dyn Layer, _proceed: Proceed) -> Result<()> {
        Ok(())
    }

    /// What a checkpoint must hold of this hook so that it can go on bit for bit.
    fn state(&self) -> String {
        String::new()
    }

    /// Goes on from what [`state`](Self::state) returned.
    ///
    /// # Errors
    ///
    /// If the text is not such a state; the hook is then unchanged.
    fn load_state(&mut self, _state: &str) -> Result<()> {
        Ok(())
    }
}
