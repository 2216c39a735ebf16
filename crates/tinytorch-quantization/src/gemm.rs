//! The integer product of matrices: the one loop that makes quantization pay.
//!
//! In: codes and their zero points. Out: exact sums in `i32`, in units of `a_scale · b_scale`. This version is the
//! definition; the library runs faster ones that must give the same bits (N13).

use crate::scheme::{CodeRange, Dims};

/// The most products with symmetric weights that an `i32` can sum (N11): each is at most 255 · 128 in magnitude.
pub const MAX_K: usize = i32::MAX as usize / (255 * 128);

/// As [`MAX_K`] when both sides have a zero point: then each product is at most 255 · 255 in magnitude.
pub const MAX_K_BOTH_ASYMMETRIC: usize = i32::MAX as usize / (255 * 255);

/// Multiplies two matrices of codes exactly. **Exercise 15.7**
///
/// | argument | shape | meaning |
/// |---|---|---|
/// | `a` | `[m, k]` | activations, row-major; their zero point is `a_zero_point` |
/// | `b` | `[n, k]` | weights, one row for each output; their zero point is `b_zero_point`, usually 0 |
/// | `c` | `[m, n]` | the sums, overwritten |
///
/// # The maths
///
/// What is meant, with `a₀` and `b₀` the zero points, and what it multiplies out to:
///
/// ```text
/// c[i,j] = Σₚ (a[i,p] − a₀) · (b[j,p] − b₀)
///        = Σₚ a[i,p]·b[j,p]  −  a₀ · Σₚ b[j,p]  −  b₀ · Σₚ a[i,p]  +  k · a₀ · b₀
/// ```
///
/// The second line keeps the subtractions out of the inner loop. Its two single sums need one value for each row of
/// `b` and of `a`, not one for each output; that is how fast kernels do it. Either line is right here: speed is not
/// asked for.
///
/// Source: gemmlowp, `doc/low-precision.md`, "Efficient handling of offsets".
///
/// # Worked example
///
/// `a = [[1, 2], [3, 4]]` with zero point 1, `b = [[1, 1], [1, −1]]` with zero point 0: the real rows `[0, 1]` and
/// `[2, 3]` times the rows of `b` give `[[1, −1], [5, −1]]`.
///
/// # Edge cases
///
/// - `k = 0`: every sum is empty, so `c` is all zeros.
/// - −128 · −128 = 16384 is neither an `i8` nor, summed twice, an `i16`: widen before multiplying.
///
/// # Panics
///
/// If a slice does not have its shape, a zero point is not an `i8`, or `k` exceeds [`MAX_K`]
/// ([`MAX_K_BOTH_ASYMMETRIC`] if `b_zero_point` is not 0), because the sum could overflow.
#[track_caller]
pub fn gemm_i8(
    dims: Dims,
    a: &[i8],
    a_zero_point: i32,
    b: &[i8],
    b_zero_point: i32,
    c: &mut [i32],
) {
    let Dims { m, n, k } = dims;
    assert_eq!(a.len(), m * k, "a must be [m, k] = [{m}, {k}]");
    assert_eq!(b.len(), n * k, "b must be [n, k] = [{n}, {k}]");
    assert_eq!(c.len(), m * n, "c must be [m, n] = [{m}, {n}]");
    for zero_point in [a_zero_point, b_zero_point] {
        assert!(
            CodeRange::INT8.contains(zero_point),
            "zero point {zero_point} is not an i8"
        );
    }
    let limit = if b_zero_point == 0 {
        MAX_K
    } else {
        MAX_K_BOTH_ASYMMETRIC
    };
    assert!(
        k <= limit,
        "k = {k} may overflow an i32; the limit is {limit}"
    );
    // BEGIN SOLUTION 15.7
    let sum = |row: &[i8]| row.iter().map(|&code| i32::from(code)).sum::<i32>();
    let b_sums: Vec<i32> = (0..n).map(|j| sum(&b[j * k..][..k])).collect();
    for i in 0..m {
        let a_row = &a[i * k..][..k];
        let a_sum = sum(a_row);
        for j in 0..n {
            let b_row = &b[j * k..][..k];
            let pairs = a_row.iter().zip(b_row);
            let products: i32 = pairs.map(|(&x, &y)| i32::from(x) * i32::from(y)).sum();
            c[i * n + j] = products - a_zero_point * b_sums[j] - b_zero_point * a_sum
                + k as i32 * a_zero_point * b_zero_point;
        }
    }
    // END SOLUTION
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn dims(m: usize, n: usize, k: usize) -> Dims {
        Dims { m, n, k }
    }

    #[test]
    fn worked_example() {
        let mut c = [0; 4];
        gemm_i8(dims(2, 2, 2), &[1, 2, 3, 4], 1, &[1, 1, 1, -1], 0, &mut c);
        assert_eq!(c, [1, -1, 5, -1]);
    }

    #[test]
    fn both_zero_points_are_taken_off() {
        // [5 − 3, 7 − 3] · [4 + 2, 1 + 2] = 2 · 6 + 4 · 3.
        let mut c = [0];
        gemm_i8(dims(1, 1, 2), &[5, 7], 3, &[4, 1], -2, &mut c);
        assert_eq!(c, [24]);
    }

    #[test]
    fn an_output_has_one_row_of_b() {
        // Three outputs of two inputs: a product with [k, n] instead of [n, k] would mix them.
        let mut c = [0; 3];
        gemm_i8(dims(1, 3, 2), &[1, 10], 0, &[1, 2, 3, 4, 5, 6], 0, &mut c);
        assert_eq!(c, [21, 43, 65]);
    }

    #[test]
    fn the_longest_rows_do_not_overflow() {
        let (a, b, mut c) = (vec![127; MAX_K], vec![-128; MAX_K], [0]);
        gemm_i8(dims(1, 1, MAX_K), &a, -128, &b, 0, &mut c);
        assert_eq!(c, [-255 * 128 * MAX_K as i32]);
    }

    #[test]
    fn an_empty_inner_dimension_gives_zeros() {
        let mut c = [7; 6];
        gemm_i8(dims(2, 3, 0), &[], 5, &[], 0, &mut c);
        assert_eq!(c, [0; 6]);
    }
}
