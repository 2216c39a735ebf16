//! The tape: what was computed from what, and how to go back.
//!
//! An operation on tensors that require a gradient leaves a record in its result: its inputs, with the version of
//! each, and a function from the gradient of the result to the gradients of the inputs. [`Tensor::backward`]
//! walks the records from the result to the leaves, each once, after everything that used it:
//!
//! ```text
//! ∂loss/∂input = Σ over uses of input:  backward(∂loss/∂output)
//! ```

use std::cell::Cell;
use std::mem;
use std::sync::Arc;

use ndarray::ArrayD;

use crate::error::{Error, Result};
use crate::recycle;
use crate::tensor::{Inner, Tensor, Values};

/// From the gradient of the output to one gradient per input.
pub(crate) type Backward = Box<dyn FnOnce(ArrayD<f32>) -> Result<Gradients> + Send>;

/// One gradient per input; `None` where nothing flows.
pub type Gradients = Vec<Option<ArrayD<f32>>>;

/// Where a tensor came from.
pub(crate) enum Record {
    /// From outside, or from an operation that was not recorded.
    Leaf,
    Operation(Operation),
    /// From the operation of this name, whose record a `backward` has used.
    Freed(&'static str),
}

pub(crate) struct Operation {
    pub name: &'static str,
    /// Each input with the version that the operation saw.
    pub inputs: Vec<(Tensor, u64)>,
    pub backward: Backward,
}

thread_local! {
    static RECORDING: Cell<bool> = const { Cell::new(true) };
}

/// Runs `body` without recording: its results are leaves, and cost no more than their values.
///
/// Holds for the calling thread, and ends with `body`, also if that panics.
pub fn no_grad<R>(body: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            RECORDING.set(self.0);
        }
    }
    let _restore = Restore(RECORDING.replace(false));
    body()
}

/// Whether operations of this thread are recorded, that is, whether it is outside [`no_grad`].
pub fn is_recording() -> bool {
    RECORDING.get()
}

/// Whether an operation on `inputs` will be recorded, so that what only `backward` needs can be left out.
pub(crate) fn records(inputs: &[&Tensor]) -> bool {
    RECORDING.get() && inputs.iter().any(|input| input.requires_grad())
}

impl Tensor {
    /// Makes the result of a differentiable operation.
    ///
    /// `backward` maps the gradient of the output, in the shape of the output, to one gradient per input, in the shape
    /// of that input, or `None` where nothing flows. It is dropped unused when nothing is recorded. Let it
    /// hold snapshots ([`Tensor::array`]), not tensors.
    ///
    /// ```
    /// use tinytorch_core::Tensor;
    ///
    /// # fn main() -> tinytorch_core::Result<()> {
    /// let x = Tensor::new(vec![1.0, 4.0], &[2])?.with_grad();
    /// let values = x.array();
    /// let cube = Tensor::from_op("cube", values.mapv(|x| x * x * x), &[&x], move |gradient| {
    ///     Ok(vec![Some(gradient * &values.mapv(|x| 3.0 * x * x))])
    /// });
    /// cube.sum().backward()?;
    /// assert_eq!(x.grad().expect("x is a leaf").to_vec(), [3.0, 48.0]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_op(
        name: &'static str,
        output: impl Into<Values>,
        inputs: &[&Tensor],
        backward: impl FnOnce(&ArrayD<f32>) -> Result<Gradients> + Send + 'static,
    ) -> Tensor {
        Self::recorded(name, output, inputs, move |gradient| backward(&gradient))
    }

    /// As [`Tensor::from_op`], for operations that reuse the storage of the gradient they are given.
    pub(crate) fn recorded(
        name: &'static str,
        output: impl Into<Values>,
        inputs: &[&Tensor],
        backward: impl FnOnce(ArrayD<f32>) -> Result<Gradients> + Send + 'static,
    ) -> Tensor {
        if !records(inputs) {
            return Self::from_array(output);
        }
        let operation = Operation {
            name,
            inputs: inputs
                .iter()
                .map(|&input| (input.clone(), input.version()))
                .collect(),
            backward: Box::new(backward),
        };
        Self::build(output.into(), true, Record::Operation(operation))
    }

    /// The result of an operation without a useful derivative: `backward` through it is an error.
    pub(crate) fn not_differentiable(
        operation: &'static str,
        output: impl Into<Values>,
        inputs: &[&Tensor],
    ) -> Tensor {
        Self::recorded(operation, output, inputs, move |_| {
            Err(Error::NotDifferentiable { operation })
        })
    }
}

/// Frees a long tape in a loop; the compiler's own drop would recurse once per operation. Keeps large storage for the next tensor.
impl Drop for Inner {
    fn drop(&mut self) {
        if let Ok(values) = self.values.get_mut() {
            recycle::keep(values);
        }
        let mut orphans = take_inputs(self);
        while let Some((tensor, _)) = orphans.pop() {
            if let Some(mut inner) = Arc::into_inner(tensor.inner) {
                orphans.extend(take_inputs(&mut inner));
            }
        }
    }
}

fn take_inputs(inner: &mut Inner) -> Vec<(Tensor, u64)> {
    match inner.record.get_mut() {
        Ok(Record::Operation(operation)) => mem::take(&mut operation.inputs),
        _ => Vec::new(),
    }
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
    fn nothing_is_recorded_under_no_grad() {
        let x = leaf(&[3.0]);
        let y = no_grad(|| &x * &x);
        assert!(!y.requires_grad() && is_recording());
        assert_eq!(y.backward(), Err(Error::NothingToDifferentiate));
    }

    #[test]
    fn recording_resumes_after_a_panic_under_no_grad() {
        let caught = std::panic::catch_unwind(|| no_grad(|| panic!("on purpose")));
        assert!(caught.is_err() && is_recording());
    }

    #[test]
    fn a_very_long_tape_neither_overflows_the_stack_forwards_nor_backwards() -> Result<()> {
        let x = leaf(&[1.0]);
        let chain = || (0..200_000).fold(x.clone(), |y, _| &y + 0.0);
        chain().backward()?;
        assert_eq!(grad(&x), [1.0]);
        drop(chain());
        Ok(())
    }
}
