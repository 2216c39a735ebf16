//! Few rows times a transposed matrix: a batch of some samples through a linear layer.
//!
//! The `gemm` crate would first copy the weights into panels, which for few rows costs more than the product. Here they are
//! read once, where they are: both sides have their inner dimension contiguous, so each element is a dot product, and a
//! tile of rows x columns of them shares the loads. Every element is summed in the same order whatever its tile is, lane
//! by lane along `k` and then the lanes, so neither the tiles nor the threads show in the bits.
#![expect(unsafe_code, reason = "vector loads, and calls that need CPU features")]

use std::arch::x86_64::*;

use super::{Accumulate, MatrixRef};
use crate::cpu::Vectors;
use crate::gemm_i8::block::BlockMut;
use crate::team;

/// Rows up to which this is faster than packing.
pub(super) const MAX_ROWS: usize = 16;

/// One side of the product: rows of `k` contiguous elements.
#[derive(Clone, Copy)]
struct Rows<'a> {
    data: &'a [f32],
    stride: usize,
    k: usize,
}

impl<'a> Rows<'a> {
    /// Checked: a stride that is wrong for a single row is multiplied by 0, any other leaves the slice.
    #[inline(always)]
    fn row(&self, row: usize) -> &'a [f32] {
        &self.data[row * self.stride..][..self.k]
    }
}

/// Whether a product was computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    /// This CPU has no vectors for it, or the matrices are laid out otherwise.
    NotForThis,
}

/// Computes `c = a · b` or `c += a · b` for a row-major `a` and a transposed `b`, on `threads` threads.
pub(super) fn product(
    k: usize,
    a: MatrixRef<'_>,
    b: MatrixRef<'_>,
    c: BlockMut<'_, f32>,
    accumulate: Accumulate,
    threads: usize,
) -> Outcome {
    let vectors = Vectors::chosen();
    let contiguous = a.column_stride == 1 && b.row_stride == 1;
    if !contiguous || matches!(vectors, Vectors::Baseline) || k == 0 {
        return Outcome::NotForThis;
    }
    let a = Rows {
        data: a.data,
        stride: a.row_stride,
        k,
    };
    let b = Rows {
        data: b.data,
        stride: b.column_stride,
        k,
    };
    let run = |(first, c): (usize, BlockMut<'_, f32>)| match vectors {
        // SAFETY: `Vectors::Avx512` is only made on CPUs that have these features.
        Vectors::Avx512(_) => unsafe { avx512::columns(a, b, first, c, accumulate) },
        // SAFETY: `Vectors::Avx2` is only made on CPUs that have these features.
        Vectors::Avx2(_) => unsafe { avx2::columns(a, b, first, c, accumulate) },
        Vectors::Baseline => {}
    };
    let n = c.columns();
    let parts = threads.min(n.div_ceil(8)).max(1);
    if parts == 1 {
        run((0, c));
        return Outcome::Done;
    }
    let mut tasks = Vec::with_capacity(parts);
    let mut rest = c;
    for part in 1..parts {
        let (start, end) = ((part - 1) * n / parts, part * n / parts);
        let (left, right) = rest.split_columns(end - start);
        tasks.push((start, left));
        rest = right;
    }
    tasks.push(((parts - 1) * n / parts, rest));
    team::for_each(tasks, parts, run);
    Outcome::Done
}

/// Defines `columns` for one instruction set, from its number of lanes and functions on its vectors.
macro_rules! few_rows {
    ($module:ident, $features:literal, $lanes:literal, $zero:ident, $fma:ident, $load:ident, $load_first:ident, $sum:ident) => {
        mod $module {
            use super::*;

            /// Computes the columns of `c`, which are those of the product from `first` on.
            #[target_feature(enable = $features)]
            pub fn columns(
                a: Rows<'_>,
                b: Rows<'_>,
                first: usize,
                mut c: BlockMut<'_, f32>,
                accumulate: Accumulate,
            ) {
                let (rows, columns) = (c.rows(), c.columns());
                let mut row = 0;
                while row < rows {
                    // Eight or more independent sums: a multiply-add takes 4 cycles and two start in each.
                    let (tile_rows, tile_columns) = match rows - row {
                        1 => (1, 8),
                        2 | 3 => (2, 4),
                        4..8 => (4, 4),
                        _ => (8, 2),
                    };
                    let mut column = 0;
                    while column < columns {
                        let whole = columns - column >= tile_columns;
                        match (tile_rows, whole) {
                            (1, true) => tile::<1, 8>(a, b, row, first, column, &mut c, accumulate),
                            (1, false) => {
                                tile::<1, 1>(a, b, row, first, column, &mut c, accumulate)
                            }
                            (2, true) => tile::<2, 4>(a, b, row, first, column, &mut c, accumulate),
                            (2, false) => {
                                tile::<2, 1>(a, b, row, first, column, &mut c, accumulate)
                            }
                            (4, true) => tile::<4, 4>(a, b, row, first, column, &mut c, accumulate),
                            (4, false) => {
                                tile::<4, 1>(a, b, row, first, column, &mut c, accumulate)
                            }
                            (_, true) => tile::<8, 2>(a, b, row, first, column, &mut c, accumulate),
                            (_, false) => {
                                tile::<8, 1>(a, b, row, first, column, &mut c, accumulate)
                            }
                        }
                        column += if whole { tile_columns } else { 1 };
                    }
                    row += tile_rows;
                }
            }

            #[target_feature(enable = $features)]
            fn tile<const ROWS: usize, const COLUMNS: usize>(
                a: Rows<'_>,
                b: Rows<'_>,
                row: usize,
                first: usize,
                column: usize,
                c: &mut BlockMut<'_, f32>,
                accumulate: Accumulate,
            ) {
                let k = a.k;
                let left: [&[f32]; ROWS] = std::array::from_fn(|i| a.row(row + i));
                let right: [&[f32]; COLUMNS] = std::array::from_fn(|j| b.row(first + column + j));
                let left = left.map(|row| &row[..k]);
                let right = right.map(|row| &row[..k]);
                let mut sums = [[$zero(); COLUMNS]; ROWS];
                let mut p = 0;
                while p + $lanes <= k {
                    let mut weights = [$zero(); COLUMNS];
                    for (weights, right) in weights.iter_mut().zip(&right) {
                        // SAFETY: `p + LANES <= k`, the length of every row.
                        *weights = unsafe { $load(right.as_ptr().add(p)) };
                    }
                    for (sums, left) in sums.iter_mut().zip(&left) {
                        // SAFETY: as above.
                        let left = unsafe { $load(left.as_ptr().add(p)) };
                        for (sum, &weights) in sums.iter_mut().zip(&weights) {
                            *sum = $fma(left, weights, *sum);
                        }
                    }
                    p += $lanes;
                }
                if p < k {
                    for (sums, left) in sums.iter_mut().zip(&left) {
                        let left = $load_first(&left[p..]);
                        for (sum, right) in sums.iter_mut().zip(&right) {
                            *sum = $fma(left, $load_first(&right[p..]), *sum);
                        }
                    }
                }
                for (i, sums) in sums.iter().enumerate() {
                    let out = &mut c.row(row + i)[column..column + COLUMNS];
                    for (out, &sum) in out.iter_mut().zip(sums) {
                        let sum = $sum(sum);
                        *out = if accumulate == Accumulate::Add {
                            *out + sum
                        } else {
                            sum
                        };
                    }
                }
            }
        }
    };
}

few_rows!(
    avx512,
    "avx512f,avx512bw,avx512dq,avx512vl,fma",
    16,
    _mm512_setzero_ps,
    _mm512_fmadd_ps,
    _mm512_loadu_ps,
    load_first_16,
    _mm512_reduce_add_ps
);
few_rows!(
    avx2,
    "avx2,fma",
    8,
    _mm256_setzero_ps,
    _mm256_fmadd_ps,
    _mm256_loadu_ps,
    load_first_8,
    sum_of_8
);

/// The elements of a slice of fewer than 16, zeros after them.
#[target_feature(enable = "avx512f")]
#[inline]
fn load_first_16(values: &[f32]) -> __m512 {
    let mut lanes = [0.0; 16];
    lanes[..values.len()].copy_from_slice(values);
    // SAFETY: 16 elements.
    unsafe { _mm512_loadu_ps(lanes.as_ptr()) }
}

/// The elements of a slice of fewer than 8, zeros after them.
#[target_feature(enable = "avx2")]
#[inline]
fn load_first_8(values: &[f32]) -> __m256 {
    let mut lanes = [0.0; 8];
    lanes[..values.len()].copy_from_slice(values);
    // SAFETY: 8 elements.
    unsafe { _mm256_loadu_ps(lanes.as_ptr()) }
}

/// The sum of the lanes: halves, then quarters, then the rest.
#[target_feature(enable = "avx2")]
#[inline]
fn sum_of_8(lanes: __m256) -> f32 {
    let four = _mm_add_ps(
        _mm256_castps256_ps128(lanes),
        _mm256_extractf128_ps::<1>(lanes),
    );
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}
