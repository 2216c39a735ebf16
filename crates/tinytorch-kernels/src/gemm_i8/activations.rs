//! Where the rows of the left matrix come from.
//!
//! A kernel takes a few rows at a time and encodes them into a buffer of its own (padded, shifted if its instruction wants
//! `u8`), or multiplies them where they lie, if it can. For a matrix a row is a slice; for a convolution it is gathered from the image, so that the whole im2col matrix
//! never exists.

use std::fmt::Debug;
use std::ops::Range;

use super::blocks::RowsMut;
use crate::elementwise::Pauses;

/// Bytes of scratch memory beyond `k`: short runs are copied in pieces of a fixed size, and may write beyond their end.
pub const SLACK: usize = 64;

/// Rows of `i8` codes.
pub trait Activations: Debug + Sync {
    /// All `k` codes of row `row`; `scratch` has room for `k + SLACK`, if they have to be gathered.
    fn row<'s>(&'s self, row: usize, scratch: &'s mut [i8]) -> &'s [i8];

    /// The codes of some rows, if they lie in memory one row after the other.
    fn in_place(&self, _rows: Range<usize>) -> Option<&[i8]> {
        None
    }

    /// Writes the codes of some rows where the kernel multiplies them, each with the bits of `flip` inverted, if that costs less
    /// than taking each row and copying it there. Says whether it has done so. If it takes long it tells `pauses`.
    fn write(
        &self,
        _rows: Range<usize>,
        _flip: u8,
        _into: RowsMut<'_>,
        _pauses: &mut Pauses<'_>,
    ) -> bool {
        false
    }
}

/// A dense row-major matrix.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    pub data: &'a [i8],
    pub k: usize,
}

impl Activations for Matrix<'_> {
    fn row<'s>(&'s self, row: usize, _: &'s mut [i8]) -> &'s [i8] {
        &self.data[row * self.k..(row + 1) * self.k]
    }

    fn in_place(&self, rows: Range<usize>) -> Option<&[i8]> {
        Some(&self.data[rows.start * self.k..rows.end * self.k])
    }
}
