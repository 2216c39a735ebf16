//! What tensors can do: one file per family of operations.

pub(crate) mod activation;
pub(crate) mod broadcast;
pub(crate) mod conv;
mod elementwise;
mod index;
pub(crate) mod linear;
pub(crate) mod matmul;
pub(crate) mod norm;
mod operators;
pub(crate) mod pool;
mod reduce;
mod shape;
pub(crate) mod window;

use ndarray::{ArrayD, IxDyn};

use crate::error::{Error, Result};
use crate::tensor::Values;

/// The array in row-major order; shares storage if it already is.
pub(crate) fn standard(values: &Values) -> Values {
    if values.is_standard_layout() {
        values.clone()
    } else {
        values.as_standard_layout().into_owned().into_shared()
    }
}

/// The gradient in row-major order.
pub(crate) fn standard_owned(gradient: ArrayD<f32>) -> ArrayD<f32> {
    if gradient.is_standard_layout() {
        gradient
    } else {
        gradient.as_standard_layout().into_owned()
    }
}

/// The elements of an array that [`standard`] or [`array_of`] returned.
pub(crate) fn slice<S: ndarray::Data<Elem = f32>>(array: &ndarray::ArrayBase<S, IxDyn>) -> &[f32] {
    array.as_slice().expect("the array is in row-major order")
}

/// As [`slice`], to write to.
pub(crate) fn slice_mut(array: &mut ArrayD<f32>) -> &mut [f32] {
    array
        .as_slice_mut()
        .expect("the array is in row-major order")
}

/// Values that were computed element by element for this shape.
pub(crate) fn array_of(values: Vec<f32>, shape: &[usize]) -> ArrayD<f32> {
    ArrayD::from_shape_vec(IxDyn(shape), values).expect("one value was computed per element")
}

pub(crate) fn check_axis(operation: &'static str, axis: usize, rank: usize) -> Result<()> {
    if axis < rank {
        Ok(())
    } else {
        Err(Error::Axis {
            operation,
            axis,
            rank,
        })
    }
}

/// An array `[outer, length, inner]` in place of one with `axis` among others.
pub(crate) fn around_axis(shape: &[usize], axis: usize) -> (usize, usize, usize) {
    let outer = shape[..axis].iter().product();
    let inner = shape[axis + 1..].iter().product();
    (outer, shape[axis], inner)
}
