//! The kernel for any CPU: dot products of 16-bit numbers, in a form that compilers vectorize.
//!
//! Rows and weights are widened to `i16` once, in buffers; the inner loop is then `Σ i16 · i16 -> i32`, for which every
//! vector instruction set has an instruction (`pmaddwd`, `smlal`, ...).

use super::activations::SLACK;
use super::lines::Lines;
use super::{GemmI8, Task};

/// Rows whose dot products with one column of weights are computed together: 4 products per load of the weights.
const ROWS: usize = 4;
/// Rows for which one widening of the weights is used.
const BLOCK_ROWS: usize = 16 * ROWS;
/// Columns whose sums are collected before the ending: 64 rows · 32 columns · 4 B = 8 KiB.
const COLUMNS: usize = 32;

#[derive(Debug)]
pub(super) struct Portable;

impl GemmI8 for Portable {
    fn name(&self) -> &'static str {
        "i8i8i32-portable-4x1"
    }

    fn tile(&self) -> [usize; 2] {
        [ROWS, 1]
    }

    fn pack(&self, n: usize, k: usize, weights: &[i8]) -> Lines {
        let mut packed = Lines::zeroed(n * k);
        packed.bytes_mut()[..n * k].copy_from_slice(weights);
        packed
    }

    fn run(&self, mut task: Task<'_>) {
        let (rows, columns, k) = (task.rows(), task.columns(), task.k);
        let mut scratch = vec![0; k + SLACK];
        if rows == 1 {
            return one_row(task, &mut scratch);
        }
        let mut a = vec![0_i16; rows.min(BLOCK_ROWS).next_multiple_of(ROWS) * k];
        let mut weights = vec![0_i16; k];
        let mut sums = vec![[0_i32; COLUMNS]; BLOCK_ROWS];
        for first_row in (0..rows).step_by(BLOCK_ROWS) {
            let block_rows = BLOCK_ROWS.min(rows - first_row);
            for (i, a) in a.chunks_exact_mut(k.max(1)).take(block_rows).enumerate() {
                let row = task.first_row + first_row + i;
                widen(task.activations.row(row, &mut scratch), a);
            }
            for first_column in (0..columns).step_by(COLUMNS) {
                let block_columns = COLUMNS.min(columns - first_column);
                for j in 0..block_columns {
                    let first = (task.first_column + first_column + j) * k;
                    widen(&task.weights.bytes()[first..first + k], &mut weights);
                    for i in (0..block_rows).step_by(ROWS) {
                        // The rows beyond the last hold old numbers; their sums are not used.
                        let tile = dot_products(&a[i * k..(i + ROWS) * k], &weights);
                        for (sums, sum) in sums[i..i + ROWS].iter_mut().zip(tile) {
                            sums[j] = sum;
                        }
                    }
                }
                let offsets = &task.offsets[first_column..first_column + block_columns];
                for (i, sums) in sums[..block_rows].iter().enumerate() {
                    let sums = &sums[..block_columns];
                    task.ending
                        .finish(first_row + i, first_column, sums, offsets);
                }
            }
        }
    }
}

/// One row: widening the weights beforehand would take longer than multiplying them.
fn one_row(mut task: Task<'_>, scratch: &mut [i8]) {
    let (columns, k) = (task.columns(), task.k);
    let row = task.activations.row(task.first_row, scratch);
    let mut sums = [0; COLUMNS];
    for first_column in (0..columns).step_by(COLUMNS) {
        let block = COLUMNS.min(columns - first_column);
        for (j, sum) in sums[..block].iter_mut().enumerate() {
            let first = (task.first_column + first_column + j) * k;
            let weights = &task.weights.bytes()[first..first + k];
            // No sum wraps: `k ≤ MAX_K`.
            *sum = row.iter().zip(weights).fold(0_i32, |sum, (&a, &b)| {
                sum.wrapping_add(i32::from(a) * i32::from(b))
            });
        }
        let offsets = &task.offsets[first_column..first_column + block];
        task.ending.finish(0, first_column, &sums[..block], offsets);
    }
}

fn widen(codes: &[i8], out: &mut [i16]) {
    out.iter_mut()
        .zip(codes)
        .for_each(|(out, &code)| *out = i16::from(code));
}

/// The dot products of `ROWS` consecutive rows of `a` with `b`.
///
/// They do not wrap: `k ≤ MAX_K`. The operations that check for it are not vectorized.
#[inline(never)]
fn dot_products(a: &[i16], b: &[i16]) -> [i32; ROWS] {
    let k = b.len();
    let (a0, rest) = a.split_at(k);
    let (a1, rest) = rest.split_at(k);
    let (a2, a3) = rest.split_at(k);
    let a3 = &a3[..k];
    let mut sums = [0_i32; ROWS];
    for p in 0..k {
        let weight = i32::from(b[p]);
        sums[0] = sums[0].wrapping_add(i32::from(a0[p]).wrapping_mul(weight));
        sums[1] = sums[1].wrapping_add(i32::from(a1[p]).wrapping_mul(weight));
        sums[2] = sums[2].wrapping_add(i32::from(a2[p]).wrapping_mul(weight));
        sums[3] = sums[3].wrapping_add(i32::from(a3[p]).wrapping_mul(weight));
    }
    sums
}
