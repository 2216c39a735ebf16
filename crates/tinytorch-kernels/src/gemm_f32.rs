//! The `f32` matrix product, through the `gemm` crate.
//!
//! In: two strided views, so that a transposed matrix needs no copy. Out: a row-major matrix. The inner dimension is
//! never divided among threads (each element of the result is summed by one thread, in one order), so the bits of the
//! result do not depend on how many threads there are.
#![expect(
    unsafe_code,
    reason = "the gemm crate takes raw pointers; the checks before the call make it safe"
)]

#[cfg(target_arch = "x86_64")]
mod few_rows;
pub(crate) mod lines;
pub mod packed;
pub(crate) mod panels;
pub(crate) mod pieces;
#[cfg(test)]
mod tests;

use gemm_common::Parallelism;

use crate::Dims;
#[cfg(target_arch = "x86_64")]
use crate::gemm_i8::block::BlockMut;

/// Products with fewer multiply-adds than this stay on the caller's thread: waking a second one costs more than it saves.
const PARALLEL_THRESHOLD: usize = 96 * 96 * 96;

/// A matrix of `f32` to read: element `[i, j]` is `data[i * row_stride + j * column_stride]`.
///
/// A stride of 0 repeats a row or a column (broadcasting). The transposed view of a matrix is the same data with the
/// strides exchanged.
#[derive(Clone, Copy, Debug)]
pub struct MatrixRef<'a> {
    /// The elements, at least up to the last one that the dimensions reach.
    pub data: &'a [f32],
    /// Distance from one row to the next, in elements.
    pub row_stride: usize,
    /// Distance from one column to the next, in elements.
    pub column_stride: usize,
}

impl<'a> MatrixRef<'a> {
    /// A dense row-major matrix with rows of `columns` elements.
    pub fn row_major(data: &'a [f32], columns: usize) -> Self {
        Self {
            data,
            row_stride: columns,
            column_stride: 1,
        }
    }

    /// The same data read with rows and columns exchanged.
    pub fn transposed(self) -> Self {
        Self {
            data: self.data,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }
}

/// A row-major matrix of `f32` to write: element `[i, j]` is `data[i * row_stride + j]`.
#[derive(Debug)]
pub struct MatrixMut<'a> {
    /// The elements, at least up to the last one that the dimensions reach.
    pub data: &'a mut [f32],
    /// Distance from one row to the next, in elements; at least the number of columns.
    pub row_stride: usize,
}

impl<'a> MatrixMut<'a> {
    /// A dense row-major matrix with rows of `columns` elements.
    pub fn row_major(data: &'a mut [f32], columns: usize) -> Self {
        Self {
            data,
            row_stride: columns,
        }
    }
}

/// What happens to the values that the result already holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accumulate {
    /// They are replaced; they need not be numbers.
    Overwrite,
    /// The product is added to them.
    Add,
}

/// How many threads a product may use. The result is the same, bit for bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// The caller's thread only.
    One,
    /// The threads of the current rayon pool, if the product is large enough to pay for them.
    Auto,
}

/// Multiplies two `f32` matrices: `c = a · b`, or `c += a · b`.
///
/// | argument | shape    | meaning                                     |
/// |----------|----------|---------------------------------------------|
/// | `a`      | `[m, k]` | any strides                                 |
/// | `b`      | `[k, n]` | any strides                                 |
/// | `c`      | `[m, n]` | row-major, overwritten or added to          |
///
/// With `k = 0` the product is zero.
///
/// # Panics
///
/// If a slice is shorter than its dimensions and strides reach, or the rows of `c` overlap (`row_stride < n` with more
/// than one row).
#[track_caller]
pub fn gemm_f32(
    dims: Dims,
    a: MatrixRef<'_>,
    b: MatrixRef<'_>,
    c: MatrixMut<'_>,
    accumulate: Accumulate,
    threads: Threads,
) {
    let Dims { m, n, k } = dims;
    assert_reaches("a", [m, k], [a.row_stride, a.column_stride], a.data.len());
    assert_reaches("b", [k, n], [b.row_stride, b.column_stride], b.data.len());
    assert_reaches("c", [m, n], [c.row_stride, 1], c.data.len());
    assert!(
        m <= 1 || c.row_stride >= n,
        "rows of c overlap: row stride {} < {n} columns",
        c.row_stride
    );

    if m == 0 || n == 0 {
        return;
    }
    let large = m.saturating_mul(n).saturating_mul(k) >= PARALLEL_THRESHOLD;
    let threads = match threads {
        Threads::Auto if large => rayon::current_num_threads(),
        Threads::Auto | Threads::One => 1,
    };
    #[cfg(target_arch = "x86_64")]
    if m <= few_rows::MAX_ROWS {
        let block = BlockMut::new(c.data, m, 0, n, c.row_stride);
        if few_rows::product(k, a, b, block, accumulate, threads) == few_rows::Outcome::Done {
            return;
        }
    }
    if m > few_rows_at_most() && packed::pays(a, b) {
        return packed::product_of_transposed(dims, a, b, c, accumulate, threads);
    }
    let parallelism = if threads > 1 {
        Parallelism::Rayon(threads)
    } else {
        Parallelism::None
    };
    let product = gemm_f32::gemm::f32::get_gemm_fn();
    // A dimension of length 0 or 1 may come with any stride, and so may an empty matrix. None is ever multiplied by more
    // than 0, so those beyond the slice, which might not fit an isize, are cut to its length. All others are shorter.
    let stride = |stride: usize, data: &[f32]| stride.min(data.len()) as isize;
    let c_stride = stride(c.row_stride, c.data);
    // The crate wants the result column-major, so it is given c^T = b^T · a^T.
    // SAFETY: `assert_reaches` has shown that every `[row, column]` of each matrix lies inside its slice, and every stride
    // fits an isize; `c` is borrowed mutably, so it overlaps neither `a` nor `b`, and its rows do not overlap one
    // another; any bit pattern is a valid f32, also in a `c` that is only written.
    unsafe {
        product(
            n,
            m,
            k,
            c.data.as_mut_ptr(),
            c_stride,
            1,
            accumulate == Accumulate::Add,
            b.data.as_ptr(),
            stride(b.row_stride, b.data),
            stride(b.column_stride, b.data),
            a.data.as_ptr(),
            stride(a.row_stride, a.data),
            stride(a.column_stride, a.data),
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Rows up to which a transposed right side is read where it is.
fn few_rows_at_most() -> usize {
    #[cfg(target_arch = "x86_64")]
    return few_rows::MAX_ROWS;
    #[cfg(not(target_arch = "x86_64"))]
    return 0;
}

/// Checks that the last element of a strided matrix lies inside its slice.
#[track_caller]
pub(crate) fn assert_reaches(
    name: &str,
    [rows, columns]: [usize; 2],
    [row_stride, column_stride]: [usize; 2],
    len: usize,
) {
    if rows == 0 || columns == 0 {
        return;
    }
    let last = (rows - 1)
        .checked_mul(row_stride)
        .zip((columns - 1).checked_mul(column_stride))
        .and_then(|(down, across)| down.checked_add(across));
    assert!(
        last.is_some_and(|last| last < len),
        "{name} is too short: [{rows}, {columns}] with strides [{row_stride}, {column_stride}] needs more than {len} elements"
    );
}
