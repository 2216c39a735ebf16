//! Where the rows of the left matrix come from.
//!
//! A kernel copies a few rows at a time into a buffer of its own (padded, shifted if its instruction wants `u8`). For a
//! matrix a row is a slice; for a convolution it is gathered from the image, so that the whole im2col matrix never
//! exists.

use std::fmt::Debug;

/// Rows of `i8` codes, copied on demand.
pub trait Activations: Debug + Sync {
    /// Copies row `row`, all `k` codes of it, to `out`.
    fn copy_row(&self, row: usize, out: &mut [i8]);
}

/// A dense row-major matrix.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    pub data: &'a [i8],
    pub k: usize,
}

impl Activations for Matrix<'_> {
    #[inline]
    fn copy_row(&self, row: usize, out: &mut [i8]) {
        out.copy_from_slice(&self.data[row * self.k..(row + 1) * self.k]);
    }
}
