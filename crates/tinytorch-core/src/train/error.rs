//! Why a training cannot start, go on, or be resumed.

use std::path::PathBuf;

/// Why a training cannot go on as asked.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The loss is infinite or not a number; the weights are those before this step.
    #[error("the loss is {loss} in epoch {epoch}, batch {batch}: the training diverged")]
    Diverged {
        /// The epoch, from 0.
        epoch: u64,
        /// The batch of the epoch, from 0.
        batch: u64,
        /// `NaN`, `inf` or `-inf`.
        loss: String,
    },
    /// Gradients are not finite, step after step, and no scale of the loss can change that; the weights are those before
    /// these steps.
    #[error(
        "the gradients of {steps} steps in a row are not finite though the loss is no longer scaled up: they do not fit this \
         format; train in bf16 or f32, or make the loss smaller, for example by the unit of its targets"
    )]
    GradientsOverflow {
        /// How many steps in a row were skipped with a scale of 1.
        steps: u32,
    },
    /// There is nothing to train on or to measure.
    #[error("no batches to {0}")]
    NoBatches(&'static str),
    /// Early stopping needs a measure that is not there.
    #[error("early stopping watches the validation {0}, but there is none")]
    NothingToMonitor(&'static str),
    /// The checkpoint was made by a training of another kind.
    #[error("{} does not fit this training: {reason}", path.display())]
    CheckpointMismatch {
        /// The checkpoint.
        path: PathBuf,
        /// What differs.
        reason: String,
    },
    /// The batches are not those that the checkpoint was trained on.
    #[error("the checkpoint was trained on {expected}, but the batches now are {got}")]
    OtherBatches {
        /// What the checkpoint was trained on.
        expected: String,
        /// What was given to go on with.
        got: String,
    },
}
