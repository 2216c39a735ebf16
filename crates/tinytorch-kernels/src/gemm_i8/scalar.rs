//! The definitions: what every kernel must give, bit for bit.

use super::activations::SLACK;
use super::ending::{Codes, Ending};
use super::lines::Lines;
use super::{GemmI8, MAX_K, Task};
use crate::{Dims, elements};

/// Multiplies two `i8` matrices exactly.
///
/// | argument | shape    | meaning                                         |
/// |----------|----------|-------------------------------------------------|
/// | `a`      | `[m, k]` | activations, one zero point `a_zero_point`      |
/// | `b`      | `[n, k]` | weights, zero point 0, one row per output       |
/// | `c`      | `[m, n]` | sums, overwritten                               |
///
/// # The maths
///
/// ```text
/// c[i,j] = Σₚ (a[i,p] − a_zero_point) · b[j,p]
/// ```
///
/// # Panics
///
/// If a slice does not have its shape above, `k > MAX_K`, or the zero point is not an `i8`.
#[track_caller]
pub fn gemm_i8_scalar(dims: Dims, a: &[i8], a_zero_point: i32, b: &[i8], c: &mut [i32]) {
    let Dims { m, n, k } = dims;
    let has_shape = |len, [rows, columns]: [usize; 2]| elements([rows, columns]) == Some(len);
    assert!(has_shape(a.len(), [m, k]), "a must be [m, k] = [{m}, {k}]");
    assert!(has_shape(b.len(), [n, k]), "b must be [n, k] = [{n}, {k}]");
    assert!(has_shape(c.len(), [m, n]), "c must be [m, n] = [{m}, {n}]");
    assert!(k <= MAX_K, "k = {k} may overflow i32; the limit is {MAX_K}");
    assert!(
        (-128..=127).contains(&a_zero_point),
        "zero point {a_zero_point} is not an i8"
    );
    for i in 0..m {
        for j in 0..n {
            c[i * n + j] = (0..k)
                .map(|p| (i32::from(a[i * k + p]) - a_zero_point) * i32::from(b[j * k + p]))
                .sum();
        }
    }
}

/// Sum (bias included) to code, N12: `saturate(round_ties_even(sum as f32 * multiplier) + zero_point)`.
pub fn requantize(sum: i32, multiplier: f32, zero_point: i32, min: i32, max: i32) -> i8 {
    let rounded = (sum as f32 * multiplier).round_ties_even() as i64;
    // The bounds are those of an i8, so the cast loses nothing.
    (rounded.saturating_add(i64::from(zero_point))).clamp(i64::from(min), i64::from(max)) as i8
}

/// Sum to real number, rounded after each step (a fused multiply-add would round once, and differ between CPUs).
#[inline(always)]
pub fn scale(sum: i32, scale: f32, bias: f32, relu: bool) -> f32 {
    let value = sum as f32 * scale + bias;
    if !relu || value > 0.0 { value } else { 0.0 }
}

/// The definitions as a kernel.
#[derive(Debug)]
pub(super) struct Scalar;

impl GemmI8 for Scalar {
    fn name(&self) -> &'static str {
        "i8i8i32-scalar-1x1"
    }

    fn tile(&self) -> [usize; 2] {
        [1, 1]
    }

    fn pack(&self, n: usize, k: usize, weights: &[i8]) -> Lines {
        let mut packed = Lines::zeroed(n * k);
        packed.bytes_mut()[..n * k].copy_from_slice(weights);
        packed
    }

    fn run(&self, mut task: Task<'_>) {
        let mut scratch = vec![0; task.k + SLACK];
        for i in 0..task.rows() {
            let row = task.activations.row(task.first_row + i, &mut scratch);
            for j in 0..task.columns() {
                let first = (task.first_column + j) * task.k;
                let weights = &task.weights.bytes()[first..first + task.k];
                let sum: i32 = row
                    .iter()
                    .zip(weights)
                    .map(|(&a, &b)| i32::from(a) * i32::from(b))
                    .sum();
                let excess = match &task.ending {
                    Ending::Rows { rows, .. } => rows[i].get().1,
                    _ => 1,
                };
                let sum = sum.wrapping_add(task.offsets[j].wrapping_mul(excess));
                match &mut task.ending {
                    Ending::Sums(out) => out.row(i)[j] = sum,
                    Ending::Codes {
                        out,
                        multipliers,
                        codes,
                    } => {
                        let Codes {
                            zero_point,
                            min,
                            max,
                        } = *codes;
                        out.row(i)[j] = requantize(sum, multipliers[j], zero_point, min, max);
                    }
                    Ending::Reals { out, scale: by } => {
                        let bias = by.bias.get(j).copied().unwrap_or(0.0);
                        out.row(i)[j] = scale(sum, by.scales[j], bias, by.relu);
                    }
                    Ending::Rows {
                        out,
                        rows,
                        scale: by,
                    } => {
                        let bias = by.bias.get(j).copied().unwrap_or(0.0);
                        out.row(i)[j] = scale(sum, rows[i].get().0 * by.scales[j], bias, by.relu);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worked_example() {
        // (1 − 3)·5 + (−2 − 3)·6 = −40, (1 − 3)·7 + (−2 − 3)·(−8) = 26
        let mut c = [0; 2];
        gemm_i8_scalar(
            Dims { m: 1, n: 2, k: 2 },
            &[1, -2],
            3,
            &[5, 6, 7, -8],
            &mut c,
        );
        assert_eq!(c, [-40, 26]);
    }

    #[test]
    fn requantization_rounds_ties_to_even_before_it_adds_the_zero_point() {
        let code = |sum, zero_point| requantize(sum, 0.5, zero_point, -128, 127);
        // 1 · 0.5 = 0.5 is a tie: to 0; 3 · 0.5 = 1.5 to 2; then + 1.
        assert_eq!(
            [code(1, 0), code(3, 0), code(-1, 0), code(1, 1), code(3, 1)],
            [0, 2, 0, 1, 3]
        );
        assert_eq!([code(10_000, 0), code(-10_000, 0)], [127, -128]);
        assert_eq!(requantize(i32::MAX, f32::MAX, 127, -128, 127), 127);
    }

    #[test]
    fn an_inner_dimension_that_could_overflow_is_refused() {
        assert_eq!(MAX_K, 65_793);
        let result = std::panic::catch_unwind(|| {
            let (a, b) = (vec![0; MAX_K + 1], vec![0; MAX_K + 1]);
            gemm_i8_scalar(
                Dims {
                    m: 1,
                    n: 1,
                    k: MAX_K + 1,
                },
                &a,
                0,
                &b,
                &mut [0],
            );
        });
        assert!(result.is_err());
    }
}
