//! Measuring a model without changing it.

use super::error::TrainError;
use super::metrics::{Metrics, Tally};
use super::objective::Objective;
use crate::data::BatchSource;
use crate::nn::Layer;
use crate::{Result, no_grad};

/// Measures `model` on all batches of `data`, in evaluation mode and without recording a tape.
///
/// Afterwards every layer is in the mode in which it was, also if this fails or panics.
///
/// # Errors
///
/// [`TrainError::NoBatches`] if there are none, and those of the data, the model and the objective.
pub fn evaluate(
    model: &dyn Layer,
    data: &dyn BatchSource,
    objective: &dyn Objective,
) -> Result<Metrics> {
    let _modes = EvaluationMode::enter(model);
    let mut tally = Tally::default();
    no_grad(|| -> Result<()> {
        for batch in data.epoch_batches(0) {
            let batch = batch?;
            let outputs = model.forward(&batch.inputs)?;
            let loss = objective.loss(&outputs, &batch.targets)?.item()?;
            tally.add(&batch, loss, objective.correct(&outputs, &batch.targets)?);
        }
        Ok(())
    })?;
    Ok(tally.metrics().ok_or(TrainError::NoBatches("measure"))?)
}

/// Evaluation mode until it is dropped; then each layer's own mode again.
struct EvaluationMode<'a> {
    model: &'a dyn Layer,
    modes: Vec<Option<bool>>,
}

impl<'a> EvaluationMode<'a> {
    fn enter(model: &'a dyn Layer) -> Self {
        let mut modes = Vec::new();
        collect(model, &mut modes);
        model.set_training(false);
        Self { model, modes }
    }
}

impl Drop for EvaluationMode<'_> {
    fn drop(&mut self) {
        restore(self.model, &mut self.modes.iter().copied());
    }
}

fn collect(layer: &dyn Layer, modes: &mut Vec<Option<bool>>) {
    modes.push(layer.own_training());
    for (_, child) in layer.children() {
        collect(child, modes);
    }
}

/// Parents before children: setting a parent's mode sets its children's too.
fn restore(layer: &dyn Layer, modes: &mut impl Iterator<Item = Option<bool>>) {
    if let Some(Some(training)) = modes.next() {
        layer.set_training(training);
    }
    for (_, child) in layer.children() {
        restore(child, modes);
    }
}
