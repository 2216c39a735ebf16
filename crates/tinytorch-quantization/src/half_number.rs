//! The numbers that products in half precision are made of, and the product of each.
//!
//! bf16 is multiplied as it is stored; f16 as `f32`, rounded to f16, because few CPUs multiply it into `f32` sums.

use std::borrow::Cow;

use half::bf16;

use crate::half_storage::{round_in_place, rounded};
use crate::kernels::{
    Accumulate, Bf16Elements, Dims, MatrixBf16, MatrixMut, MatrixRef, Threads, gemm_bf16, gemm_f32,
};
use crate::mixed_precision::Half;

/// The elements of a matrix that is multiplied.
#[derive(Clone, Copy)]
enum Elements<'a, T> {
    Stored(&'a [T]),
    /// What [`Number::operand`] makes.
    Real(&'a [f32]),
}

/// A matrix that is multiplied.
#[derive(Clone, Copy)]
pub(crate) struct View<'a, T> {
    elements: Elements<'a, T>,
    row_stride: usize,
    column_stride: usize,
}

impl<'a, T> View<'a, T> {
    pub fn row_major(data: &'a [T], columns: usize) -> Self {
        Self::new(Elements::Stored(data), columns)
    }

    /// Of real values, as [`Number::operand`] makes them.
    pub fn of_operand(data: &'a [f32], columns: usize) -> Self {
        Self::new(Elements::Real(data), columns)
    }

    fn new(elements: Elements<'a, T>, columns: usize) -> Self {
        Self {
            elements,
            row_stride: columns,
            column_stride: 1,
        }
    }

    pub fn transposed(self) -> Self {
        Self {
            elements: self.elements,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }
}

/// What is multiplied: bf16, or `f32` that was rounded to f16.
pub(crate) trait Number: Copy + Default + Send + Sync {
    const HALF: Half;

    fn of(values: &[f32]) -> Vec<Self> {
        values.iter().map(|&value| Self::one(value)).collect()
    }

    /// Real values, ready for a product: one that rounds while it packs takes them as they are.
    fn operand(values: &[f32]) -> Cow<'_, [f32]>;

    /// `c = a · b` or `c += a · b`, `c` row-major.
    fn product(
        dims: Dims,
        a: View<'_, Self>,
        b: View<'_, Self>,
        c: &mut [f32],
        accumulate: Accumulate,
        threads: Threads,
    );

    /// One value, rounded.
    fn one(value: f32) -> Self;
}

impl Number for bf16 {
    const HALF: Half = Half::Bf16;

    fn one(value: f32) -> Self {
        rounded(value)
    }

    fn operand(values: &[f32]) -> Cow<'_, [f32]> {
        Cow::Borrowed(values)
    }

    fn product(
        dims: Dims,
        a: View<'_, Self>,
        b: View<'_, Self>,
        c: &mut [f32],
        accumulate: Accumulate,
        threads: Threads,
    ) {
        fn matrix(view: View<'_, bf16>) -> MatrixBf16<'_> {
            MatrixBf16 {
                data: match view.elements {
                    Elements::Stored(data) => Bf16Elements::Bf16(data),
                    Elements::Real(data) => Bf16Elements::F32(data),
                },
                row_stride: view.row_stride,
                column_stride: view.column_stride,
            }
        }
        let c = MatrixMut::row_major(c, dims.n);
        gemm_bf16(dims, matrix(a), matrix(b), c, accumulate, threads);
    }
}

impl Number for f32 {
    const HALF: Half = Half::F16;

    fn one(value: f32) -> Self {
        Half::F16.round(value)
    }

    fn operand(values: &[f32]) -> Cow<'_, [f32]> {
        let mut values = values.to_vec();
        round_in_place(Half::F16, &mut values);
        Cow::Owned(values)
    }

    fn product(
        dims: Dims,
        a: View<'_, Self>,
        b: View<'_, Self>,
        c: &mut [f32],
        accumulate: Accumulate,
        threads: Threads,
    ) {
        fn matrix(view: View<'_, f32>) -> MatrixRef<'_> {
            let (Elements::Stored(data) | Elements::Real(data)) = view.elements;
            MatrixRef {
                data,
                row_stride: view.row_stride,
                column_stride: view.column_stride,
            }
        }
        let c = MatrixMut::row_major(c, dims.n);
        gemm_f32(dims, matrix(a), matrix(b), c, accumulate, threads);
    }
}
