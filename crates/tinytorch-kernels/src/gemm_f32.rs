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
mod lines;
pub mod packed;
mod panels;

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

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition: one sum per element, in `f64`, so that its own rounding is out of the comparison.
    fn scalar(dims: Dims, a: MatrixRef<'_>, b: MatrixRef<'_>) -> Vec<f64> {
        let mut c = Vec::new();
        for i in 0..dims.m {
            for j in 0..dims.n {
                c.push(
                    (0..dims.k)
                        .map(|p| {
                            f64::from(a.data[i * a.row_stride + p * a.column_stride])
                                * f64::from(b.data[p * b.row_stride + j * b.column_stride])
                        })
                        .sum(),
                );
            }
        }
        c
    }

    /// Values in [-1, 1), the same in every run.
    fn values(len: usize, seed: u32) -> Vec<f32> {
        let mut state = seed | 1;
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    #[test]
    fn worked_example() {
        let (a, b) = ([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]);
        let mut c = [f32::NAN; 4];
        let dims = Dims { m: 2, n: 2, k: 2 };
        let (a, b) = (MatrixRef::row_major(&a, 2), MatrixRef::row_major(&b, 2));
        gemm_f32(
            dims,
            a,
            b,
            MatrixMut::row_major(&mut c, 2),
            Accumulate::Overwrite,
            Threads::One,
        );
        assert_eq!(c, [19.0, 22.0, 43.0, 50.0]);
        gemm_f32(
            dims,
            a,
            b,
            MatrixMut::row_major(&mut c, 2),
            Accumulate::Add,
            Threads::One,
        );
        assert_eq!(c, [38.0, 44.0, 86.0, 100.0]);
    }

    #[test]
    fn every_layout_and_size_agrees_with_the_definition() {
        let sizes = [1, 2, 5, 17, 33];
        for (m, n, k) in sizes
            .iter()
            .flat_map(|&m| sizes.iter().flat_map(move |&n| sizes.map(|k| (m, n, k))))
        {
            let dims = Dims { m, n, k };
            let (a, b) = (values(m * k, 1), values(k * n, 2));
            for a in [
                MatrixRef::row_major(&a, k),
                MatrixRef::row_major(&a, m).transposed(),
            ] {
                for b in [
                    MatrixRef::row_major(&b, n),
                    MatrixRef::row_major(&b, k).transposed(),
                ] {
                    let row_stride = n + 3;
                    let mut c = vec![7.0; m * row_stride];
                    let out = MatrixMut {
                        data: &mut c,
                        row_stride,
                    };
                    gemm_f32(dims, a, b, out, Accumulate::Overwrite, Threads::Auto);
                    let expected = scalar(dims, a, b);
                    for i in 0..m {
                        for j in 0..n {
                            let (got, expected) = (c[i * row_stride + j], expected[i * n + j]);
                            // k products of at most 1, each sum rounded once: at most k · k · ε/2, and one ε for k = 1.
                            let tolerance = (k * k) as f64 * f64::from(f32::EPSILON);
                            let error = (f64::from(got) - expected).abs();
                            assert!(
                                error <= tolerance,
                                "{dims:?} [{i}, {j}]: expected {expected}, got {got}"
                            );
                        }
                        assert_eq!(
                            c[i * row_stride + n..(i + 1) * row_stride],
                            [7.0; 3],
                            "wrote beside row {i}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_stride_of_zero_repeats_a_row() {
        let (a, b) = ([1.0, 1.0, 1.0, 1.0], [1.0, 2.0]);
        let repeated = MatrixRef {
            data: &b,
            row_stride: 0,
            column_stride: 1,
        };
        let mut c = [0.0; 4];
        let dims = Dims { m: 2, n: 2, k: 2 };
        let a = MatrixRef::row_major(&a, 2);
        gemm_f32(
            dims,
            a,
            repeated,
            MatrixMut::row_major(&mut c, 2),
            Accumulate::Overwrite,
            Threads::One,
        );
        assert_eq!(c, [2.0, 4.0, 2.0, 4.0]);
    }

    #[test]
    fn the_stride_of_a_single_row_or_column_does_not_matter() {
        // 20 rows are too many for `few_rows`.
        let sizes = [
            (1, 33, 17),
            (1, 1, 17),
            (20, 1, 17),
            (20, 33, 1),
            (1, 33, 1),
        ];
        for (m, n, k) in sizes {
            let dims = Dims { m, n, k };
            let (a, b) = (values(m * k, 5), values(k * n, 6));
            let loosened = |matrix: MatrixRef<'_>, [rows, columns]: [usize; 2], loose: usize| {
                let stride = |length: usize, stride| if length <= 1 { loose } else { stride };
                (
                    stride(rows, matrix.row_stride),
                    stride(columns, matrix.column_stride),
                )
            };
            for b in [
                MatrixRef::row_major(&b, n),
                MatrixRef::row_major(&b, k).transposed(),
            ] {
                let a = MatrixRef::row_major(&a, k);
                let expected = scalar(dims, a, b);
                for loose in [0, 1, isize::MAX as usize, usize::MAX / 2 + 1, usize::MAX] {
                    let with = |matrix: MatrixRef<'_>, sizes| loosened(matrix, sizes, loose);
                    let ((a_row, a_column), (b_row, b_column)) = (with(a, [m, k]), with(b, [k, n]));
                    let a = MatrixRef {
                        row_stride: a_row,
                        column_stride: a_column,
                        ..a
                    };
                    let b = MatrixRef {
                        row_stride: b_row,
                        column_stride: b_column,
                        ..b
                    };
                    let mut c = vec![f32::NAN; m * n];
                    let out = MatrixMut {
                        data: &mut c,
                        row_stride: if m <= 1 { loose } else { n },
                    };
                    gemm_f32(dims, a, b, out, Accumulate::Overwrite, Threads::One);
                    for (got, expected) in c.iter().zip(&expected) {
                        let error = (f64::from(*got) - expected).abs();
                        let tolerance = (k * k) as f64 * f64::from(f32::EPSILON);
                        assert!(
                            error <= tolerance,
                            "{dims:?}, stride {loose}: expected {expected}, got {got}"
                        );
                    }
                }
            }
        }
        // With no inner dimension both sides are empty, whatever their strides.
        let empty = MatrixRef {
            data: &[],
            row_stride: usize::MAX,
            column_stride: usize::MAX,
        };
        let mut c = [f32::NAN; 40];
        gemm_f32(
            Dims { m: 20, n: 2, k: 0 },
            empty,
            empty,
            MatrixMut::row_major(&mut c, 2),
            Accumulate::Overwrite,
            Threads::One,
        );
        assert_eq!(c, [0.0; 40]);
    }

    #[test]
    fn the_bits_do_not_depend_on_the_number_of_threads() {
        let pool = |threads| {
            rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .expect("a pool")
        };
        for (m, n, k) in [
            (3, 301, 1001),
            (16, 1000, 70),
            (128, 128, 128),
            (1, 1500, 700),
            (8, 1000, 1000),
            (257, 129, 1031),
            (700, 1, 1500),
            (33, 2000, 300),
        ] {
            let dims = Dims { m, n, k };
            let (a, b) = (values(m * k, 3), values(k * n, 4));
            for b in [
                MatrixRef::row_major(&b, n),
                MatrixRef::row_major(&b, k).transposed(),
            ] {
                let run = |threads| {
                    let mut c = vec![0.0; m * n];
                    let (a, c_view) =
                        (MatrixRef::row_major(&a, k), MatrixMut::row_major(&mut c, n));
                    pool(threads).install(|| {
                        gemm_f32(dims, a, b, c_view, Accumulate::Overwrite, Threads::Auto)
                    });
                    c.into_iter().map(f32::to_bits).collect::<Vec<_>>()
                };
                let one = run(1);
                assert!(one == run(2) && one == run(3), "{dims:?}");
            }
        }
    }

    #[test]
    fn no_inner_dimension_gives_zeros_and_no_rows_nothing() {
        let mut c = [f32::NAN; 2];
        let empty = MatrixRef::row_major(&[], 0);
        let dims = Dims { m: 1, n: 2, k: 0 };
        gemm_f32(
            dims,
            empty,
            empty,
            MatrixMut::row_major(&mut c, 2),
            Accumulate::Overwrite,
            Threads::Auto,
        );
        assert_eq!(c, [0.0, 0.0]);
        let dims = Dims { m: 0, n: 2, k: 3 };
        let b = [1.0; 6];
        let b = MatrixRef::row_major(&b, 2);
        gemm_f32(
            dims,
            empty,
            b,
            MatrixMut::row_major(&mut [], 2),
            Accumulate::Overwrite,
            Threads::Auto,
        );
    }

    #[test]
    #[should_panic(
        expected = "b is too short: [2, 2] with strides [2, 1] needs more than 3 elements"
    )]
    fn a_short_slice_is_refused() {
        let mut c = [0.0; 4];
        let dims = Dims { m: 2, n: 2, k: 2 };
        let (a, b) = (
            MatrixRef::row_major(&[0.0; 4], 2),
            MatrixRef::row_major(&[0.0; 3], 2),
        );
        gemm_f32(
            dims,
            a,
            b,
            MatrixMut::row_major(&mut c, 2),
            Accumulate::Overwrite,
            Threads::One,
        );
    }
}
