//! Going back over the tape.
//!
//! Records are checked before the first gradient is computed, and leaves receive their gradients after
//! the last one: a `backward` that fails leaves every collected gradient as it was.

use std::collections::{HashMap, HashSet};
use std::mem;
use std::sync::Arc;

use ndarray::{ArrayD, IxDyn};

use crate::error::{Error, Result};
use crate::tape::{Gradients, Operation, Record};
use crate::tensor::{Tensor, lock};

impl Tensor {
    /// Adds the gradient of this single number to every leaf it was computed from, and frees the tape.
    ///
    /// # Errors
    ///
    /// [`Error::NotScalar`], [`Error::NothingToDifferentiate`], [`Error::TapeFreed`],
    /// [`Error::ChangedAfterRecording`], [`Error::NotDifferentiable`]; then no leaf has changed.
    pub fn backward(&self) -> Result<()> {
        if self.len() != 1 {
            return Err(Error::NotScalar {
                operation: "backward",
                shape: self.shape().to_vec(),
            });
        }
        self.run_backward(ArrayD::ones(IxDyn(self.shape())))
    }

    /// As [`Tensor::backward`], from a tensor of any shape whose own gradient is given.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] if the gradient has another shape, and those of [`Tensor::backward`] but the first.
    pub fn backward_from(&self, gradient: &Tensor) -> Result<()> {
        self.check_same_shape("backward_from", gradient)?;
        self.run_backward(gradient.array().into_owned())
    }

    fn run_backward(&self, gradient: ArrayD<f32>) -> Result<()> {
        if !self.requires_grad() {
            return Err(Error::NothingToDifferentiate);
        }
        let mut order = checked_order(self)?;
        let mut pending = HashMap::from([(self.id(), gradient)]);
        let mut leaves = Vec::new();
        if order.is_empty() {
            leaves.push(self.clone());
        }
        while let Some(tensor) = order.pop() {
            let operation = tensor.take_operation()?;
            // Nothing flowed here if every user of the tensor answered `None`.
            let Some(gradient) = pending.remove(&tensor.id()) else {
                continue;
            };
            drop(tensor);
            let Operation {
                name,
                inputs,
                backward,
            } = operation;
            let gradients = backward(gradient)?;
            check_gradients(name, &inputs, &gradients)?;
            for ((input, _), gradient) in inputs.into_iter().zip(gradients) {
                let Some(gradient) = gradient.filter(|_| input.requires_grad()) else {
                    continue;
                };
                match pending.get_mut(&input.id()) {
                    Some(sum) => *sum += &gradient,
                    None => {
                        pending.insert(input.id(), gradient);
                        if matches!(*lock(&input.inner.record), Record::Leaf) {
                            leaves.push(input);
                        }
                    }
                }
            }
        }
        for leaf in leaves {
            if let Some(gradient) = pending.remove(&leaf.id()) {
                leaf.add_to_grad(gradient);
            }
        }
        Ok(())
    }

    /// The address, unique while a handle lives.
    fn id(&self) -> usize {
        Arc::as_ptr(&self.inner).addr()
    }

    fn take_operation(&self) -> Result<Operation> {
        let mut record = lock(&self.inner.record);
        let name = match &*record {
            Record::Operation(operation) => operation.name,
            // Another thread ran backward on this tape since it was checked.
            Record::Freed(operation) => return Err(Error::TapeFreed { operation }),
            Record::Leaf => return Err(Error::NothingToDifferentiate),
        };
        match mem::replace(&mut *record, Record::Freed(name)) {
            Record::Operation(operation) => Ok(operation),
            _ => Err(Error::TapeFreed { operation: name }),
        }
    }
}

/// The recorded tensors that lead to `root`, inputs before users, each with its record found usable.
///
/// The walk has its own stack: a recurrent network unrolled over 100 000 steps would overflow the thread's.
fn checked_order(root: &Tensor) -> Result<Vec<Tensor>> {
    let mut order = Vec::new();
    let mut seen = HashSet::new();
    let mut stack = vec![(root.clone(), false)];
    while let Some((tensor, inputs_done)) = stack.pop() {
        if inputs_done {
            order.push(tensor);
            continue;
        }
        if !tensor.requires_grad() || seen.contains(&tensor.id()) {
            continue;
        }
        let record = lock(&tensor.inner.record);
        let operation = match &*record {
            Record::Leaf => continue,
            Record::Freed(operation) => return Err(Error::TapeFreed { operation }),
            Record::Operation(operation) => operation,
        };
        let changed = (operation.inputs.iter())
            .find(|(input, version)| input.version() != *version)
            .map(|(input, _)| input)
            .or((tensor.version() != 0).then_some(&tensor));
        if let Some(changed) = changed {
            return Err(Error::ChangedAfterRecording {
                operation: operation.name,
                shape: changed.shape().to_vec(),
            });
        }
        seen.insert(tensor.id());
        stack.push((tensor.clone(), true));
        stack.extend(
            operation
                .inputs
                .iter()
                .map(|(input, _)| (input.clone(), false)),
        );
    }
    Ok(order)
}

fn check_gradients(
    operation: &'static str,
    inputs: &[(Tensor, u64)],
    gradients: &Gradients,
) -> Result<()> {
    if inputs.len() != gradients.len() {
        return Err(Error::BackwardContract {
            operation,
            expected: format!("{} gradients, one per input", inputs.len()),
            got: format!("{} gradients", gradients.len()),
        });
    }
    for ((input, _), gradient) in inputs.iter().zip(gradients) {
        if let Some(gradient) = gradient
            && gradient.shape() != input.shape()
        {
            return Err(Error::BackwardContract {
                operation,
                expected: format!("a gradient of shape {:?}", input.shape()),
                got: format!("one of shape {:?}", gradient.shape()),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(values: &[f32]) -> Tensor {
        Tensor::from_array(ndarray::arr1(values).into_dyn()).with_grad()
    }

    fn grad(tensor: &Tensor) -> Vec<f32> {
        tensor
            .grad()
            .map(|gradient| gradient.to_vec())
            .unwrap_or_default()
    }

    #[test]
    fn gradients_of_several_uses_and_several_passes_add_up() -> Result<()> {
        let x = leaf(&[3.0]);
        // y = x · x + x, dy/dx = 2x + 1 = 7.
        let forward = || &x * &x + &x;
        forward().backward()?;
        assert_eq!(grad(&x), [7.0]);
        forward().backward()?;
        assert_eq!(grad(&x), [14.0]);
        Ok(())
    }

    #[test]
    fn a_second_backward_over_the_same_tape_is_an_error() -> Result<()> {
        let x = leaf(&[3.0]);
        let y = &x * &x;
        let z = &y + &x;
        z.backward()?;
        assert_eq!(z.backward(), Err(Error::TapeFreed { operation: "add" }));
        assert_eq!(
            (&y * &y).backward(),
            Err(Error::TapeFreed { operation: "mul" })
        );
        assert_eq!(grad(&x), [7.0]);
        Ok(())
    }

    #[test]
    fn a_value_changed_after_it_was_recorded_is_an_error() {
        let x = leaf(&[3.0]);
        let y = &x * &x;
        x.update(|mut values| values.fill(4.0));
        let expected = Error::ChangedAfterRecording {
            operation: "mul",
            shape: vec![1],
        };
        assert_eq!(y.backward(), Err(expected));
        assert!(x.grad().is_none());
    }

    #[test]
    fn a_result_changed_in_place_is_an_error() {
        // The record still says y = x · x, which is no longer true.
        let x = leaf(&[3.0]);
        let y = &x * &x;
        y.update(|mut values| values.fill(1.0));
        let expected = Error::ChangedAfterRecording {
            operation: "mul",
            shape: vec![1],
        };
        assert_eq!((&y + &y).backward(), Err(expected));
    }

    #[test]
    fn a_detached_value_passes_no_gradient() -> Result<()> {
        let x = leaf(&[3.0]);
        (&x * &x.detach()).backward()?;
        assert_eq!(grad(&x), [3.0]);
        Ok(())
    }

    #[test]
    fn only_one_number_can_start_a_backward_pass() -> Result<()> {
        let x = leaf(&[1.0, 2.0]);
        let error = Error::NotScalar {
            operation: "backward",
            shape: vec![2],
        };
        assert_eq!((&x * &x).backward(), Err(error));
        (&x * &x).backward_from(&Tensor::new(vec![1.0, 10.0], &[2])?)?;
        assert_eq!(grad(&x), [2.0, 40.0]);
        Ok(())
    }

    #[test]
    fn a_leaf_is_its_own_gradient() -> Result<()> {
        let x = leaf(&[5.0]);
        x.backward()?;
        assert_eq!(grad(&x), [1.0]);
        Ok(())
    }

    #[test]
    fn a_backward_function_must_return_one_gradient_of_the_right_shape_per_input() {
        let x = leaf(&[1.0]);
        let short = Tensor::from_op("short", x.array(), &[&x], |_| Ok(vec![]));
        assert!(matches!(
            short.backward(),
            Err(Error::BackwardContract {
                operation: "short",
                ..
            })
        ));
        let long = Tensor::from_op("long", x.array(), &[&x], |_| {
            Ok(vec![Some(ArrayD::zeros(IxDyn(&[2])))])
        });
        let error = long.backward().expect_err("shape [2] is not [1]");
        assert_eq!(
            error.to_string(),
            "the backward function of long returned one of shape [2], \
             expected a gradient of shape [1]"
        );
    }

    #[test]
    fn a_failed_backward_leaves_all_gradients_as_they_were() {
        let (x, y) = (leaf(&[1.0]), leaf(&[2.0]));
        let rounded = Tensor::not_differentiable("round", x.array(), &[&x]);
        let error = Error::NotDifferentiable { operation: "round" };
        assert_eq!((&(&y * &y) + &rounded).backward(), Err(error));
        assert!(x.grad().is_none() && y.grad().is_none());
    }
}
