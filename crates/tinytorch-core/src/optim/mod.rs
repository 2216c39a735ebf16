//! Optimizers: how parameters follow their gradients.
//!
//! Each follows PyTorch's formulas step by step, so that results can be compared with it. Numbers that are computed once
//! per step are `f64`, as Python's are; what happens to each element is `f32`.

mod adam;
mod clip;
pub mod schedule;
mod sgd;

pub use adam::{Adam, AdamConfig, AdamW};
pub use clip::clip_grad_norm;
pub use schedule::Schedule;
pub use sgd::{Sgd, SgdConfig};

use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Changes parameters by their gradients, and can be saved and continued.
pub trait Optimizer: Send {
    /// Changes every parameter that has a gradient.
    ///
    /// # Errors
    ///
    /// None of the optimizers here fails; others may.
    fn step(&mut self) -> Result<()>;

    /// The parameters, by name.
    fn parameters(&self) -> &[(String, Tensor)];

    /// The length of a step.
    fn learning_rate(&self) -> f64;

    /// Changes the length of the steps to come.
    fn set_learning_rate(&mut self, learning_rate: f64);

    /// What the optimizer remembers, as tensors named `parameter.buffer`. Snapshots: later steps do not change them.
    fn state(&self) -> Vec<(String, Tensor)>;

    /// Continues from what [`Optimizer::state`] gave.
    ///
    /// # Errors
    ///
    /// [`Error::UnexpectedEntry`] or [`Error::MissingEntry`] if a name is not one of this optimizer's, [`Error::EntryShape`]
    /// if a tensor has another shape; then nothing has changed.
    fn load_state(&mut self, state: &[(String, Tensor)]) -> Result<()>;

    /// Forgets all gradients.
    fn zero_grad(&self) {
        for (_, parameter) in self.parameters() {
            parameter.zero_grad();
        }
    }
}

const STATE: &str = "the saved state of the optimizer";

/// Calls `change` with the elements of a parameter and of its gradient, if it has one.
fn with_gradient(parameter: &Tensor, change: impl FnOnce(&mut [f32], &[f32])) {
    let Some(gradient) = parameter.grad() else {
        return;
    };
    let gradient = crate::ops::standard(&gradient.array());
    parameter.update(|mut values| match values.as_slice_mut() {
        Some(values) => change(values, crate::ops::slice(&gradient)),
        None => {
            // A parameter that was made from a permuted array.
            let mut copy: Vec<f32> = values.iter().copied().collect();
            change(&mut copy, crate::ops::slice(&gradient));
            values
                .iter_mut()
                .zip(copy)
                .for_each(|(value, new)| *value = new);
        }
    });
}

/// The saved entries of one parameter, by the last part of their names, in the order of `buffers`: all or none.
fn saved_buffers<const N: usize>(
    name: &str,
    buffers: [&str; N],
    state: &[(String, Tensor)],
) -> Result<Option<[Tensor; N]>> {
    let full = buffers.map(|buffer| format!("{name}.{buffer}"));
    let found = full
        .each_ref()
        .map(|full| state.iter().find(|(saved, _)| saved == full));
    if found.iter().all(Option::is_none) {
        return Ok(None);
    }
    let mut tensors = Vec::with_capacity(N);
    for (full, entry) in full.iter().zip(found) {
        let missing = || Error::MissingEntry {
            what: STATE,
            name: full.clone(),
        };
        tensors.push(entry.ok_or_else(missing)?.1.clone());
    }
    Ok(tensors.try_into().ok())
}

fn check_names(
    parameters: &[(String, Tensor)],
    buffers: &[&str],
    state: &[(String, Tensor)],
) -> Result<()> {
    for (name, _) in state {
        let known = parameters.iter().any(|(parameter, _)| {
            let rest = name
                .strip_prefix(parameter.as_str())
                .and_then(|rest| rest.strip_prefix('.'));
            rest.is_some_and(|rest| buffers.contains(&rest))
        });
        if !known {
            return Err(Error::UnexpectedEntry {
                what: STATE,
                name: name.clone(),
            });
        }
    }
    Ok(())
}

fn check_shape(name: &str, buffer: &str, expected: &Tensor, got: &Tensor) -> Result<()> {
    if expected.shape() == got.shape() {
        return Ok(());
    }
    Err(Error::EntryShape {
        name: format!("{name}.{buffer}"),
        expected: expected.shape().to_vec(),
        got: got.shape().to_vec(),
    })
}
