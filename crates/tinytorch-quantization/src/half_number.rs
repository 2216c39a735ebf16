//! The numbers that products in half precision are made of, and the product of each.
//!
//! bf16 is multiplied as it is stored; f16 as `f32`, rounded to f16, because few CPUs multiply it into `f32` sums.

use half::bf16;

use crate::half_storage::rounded;
use crate::kernels::{
    Accumulate, Dims, MatrixBf16, MatrixMut, MatrixRef, Threads, gemm_bf16, gemm_f32,
};
use crate::mixed_precision::Half;

/// A matrix that is multiplied.
#[derive(Clone, Copy)]
pub(crate) struct View<'a, T> {
    data: &'a [T],
    row_stride: usize,
    column_stride: usize,
}

impl<'a, T> View<'a, T> {
    pub fn row_major(data: &'a [T], columns: usize) -> Self {
        Self {
            data,
            row_stride: columns,
            column_stride: 1,
        }
    }

    pub fn transposed(self) -> Self {
        Self {
            data: self.data,
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

    /// `c += a · b`, `c` row-major.
    fn product(dims: Dims, a: View<'_, Self>, b: View<'_, Self>, c: &mut [f32], threads: Threads);

    /// One value, rounded.
    fn one(value: f32) -> Self;
}

impl Number for bf16 {
    const HALF: Half = Half::Bf16;

    fn one(value: f32) -> Self {
        rounded(value)
    }

    fn product(dims: Dims, a: View<'_, Self>, b: View<'_, Self>, c: &mut [f32], threads: Threads) {
        fn matrix(view: View<'_, bf16>) -> MatrixBf16<'_> {
            MatrixBf16 {
                row_stride: view.row_stride,
                column_stride: view.column_stride,
                ..MatrixBf16::row_major(view.data, 1)
            }
        }
        let c = MatrixMut::row_major(c, dims.n);
        gemm_bf16(dims, matrix(a), matrix(b), c, Accumulate::Add, threads);
    }
}

impl Number for f32 {
    const HALF: Half = Half::F16;

    fn one(value: f32) -> Self {
        Half::F16.round(value)
    }

    fn product(dims: Dims, a: View<'_, Self>, b: View<'_, Self>, c: &mut [f32], threads: Threads) {
        fn matrix(view: View<'_, f32>) -> MatrixRef<'_> {
            MatrixRef {
                data: view.data,
                row_stride: view.row_stride,
                column_stride: view.column_stride,
            }
        }
        let c = MatrixMut::row_major(c, dims.n);
        gemm_f32(dims, matrix(a), matrix(b), c, Accumulate::Add, threads);
    }
}
