//! The definition: what every kernel must give, bit for bit.

use half::bf16;

use super::{Bf16Elements, MatrixBf16};
use crate::Dims;
use crate::gemm_f32::Accumulate;

/// A subnormal number is a zero of its sign.
#[inline(always)]
pub fn flush(value: f32) -> f32 {
    if value.is_subnormal() {
        0.0_f32.copysign(value)
    } else {
        value
    }
}

/// `sum + a · b`, rounded once, to nearest, ties to even; subnormal numbers are zeros on the way in and out.
#[inline]
pub fn multiply_add(sum: f32, a: bf16, b: bf16) -> f32 {
    let [a, b] = [a, b].map(|value| flush(value.to_f32()));
    flush(a.mul_add(b, flush(sum)))
}

/// What `vdpbf16ps` does to one of its sums: the second product is added first.
#[inline]
pub fn multiply_add_pair(sum: f32, a: [bf16; 2], b: [bf16; 2]) -> f32 {
    multiply_add(multiply_add(sum, a[1], b[1]), a[0], b[0])
}

/// What `tdpbf16ps` does to one of its sums: the products of even index are summed from zero, and those of odd index, and the
/// sum of both is added.
#[inline]
pub fn add_tile(sum: f32, a: [bf16; TILE], b: [bf16; TILE]) -> f32 {
    let of = |first: usize| {
        (first..TILE)
            .step_by(2)
            .fold(0.0, |sum, p| multiply_add(sum, a[p], b[p]))
    };
    flush(flush(sum) + flush(of(0) + of(1)))
}

/// Numbers of the inner dimension that a matrix unit takes at once.
pub const TILE: usize = 32;

/// In which order the products of a sum are added. A different order rounds differently, so it is chosen with the kernel, and
/// named; neither is more accurate than the other on the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SumOrder {
    /// That of `vdpbf16ps`: two at a time, the second before the first ([`multiply_add_pair`]).
    Pairs,
    /// That of `tdpbf16ps`: [`TILE`] at a time, even and odd ones apart ([`add_tile`]).
    Tiles,
}

/// Multiplies two matrices of bf16, one element after the other: `c = a · b`, or `c += a · b`, `c` dense.
///
/// | argument | shape    |
/// |----------|----------|
/// | `a`      | `[m, k]` |
/// | `b`      | `[k, n]` |
/// | `c`      | `[m, n]` |
///
/// # The maths
///
/// ```text
/// c[i,j] = Σₚ bf16(a[i,p]) · bf16(b[p,j])
///
/// Pairs    p = 1, 0, 3, 2, 5, 4, ...; if k is odd, a zero follows
/// Tiles    (0 + 2 + ... + 30) + (1 + 3 + ... + 31), then 32 to 63, ...; zeros follow until the last tile is full
/// ```
///
/// With `k = 0` the sum is 0, or what `c` held.
///
/// # Panics
///
/// If a slice is too short.
#[track_caller]
pub fn gemm_bf16_scalar(
    order: SumOrder,
    dims: Dims,
    a: MatrixBf16<'_>,
    b: MatrixBf16<'_>,
    c: &mut [f32],
    accumulate: Accumulate,
) {
    let Dims { m, n, k } = dims;
    for i in 0..m {
        for j in 0..n {
            let left = |p: usize| element(a, i, p, p < k);
            let right = |p: usize| element(b, p, j, p < k);
            let start = match accumulate {
                Accumulate::Overwrite => 0.0,
                Accumulate::Add => c[i * n + j],
            };
            c[i * n + j] = match order {
                SumOrder::Pairs => (0..k).step_by(2).fold(start, |sum, p| {
                    let pair = [p, p + 1];
                    multiply_add_pair(sum, pair.map(left), pair.map(right))
                }),
                SumOrder::Tiles => (0..k).step_by(TILE).fold(start, |sum, p| {
                    let tile: [usize; TILE] = std::array::from_fn(|i| p + i);
                    add_tile(sum, tile.map(left), tile.map(right))
                }),
            };
        }
    }
}

#[track_caller]
fn element(matrix: MatrixBf16<'_>, row: usize, column: usize, exists: bool) -> bf16 {
    if !exists {
        return bf16::ZERO;
    }
    let index = row * matrix.row_stride + column * matrix.column_stride;
    match matrix.data {
        Bf16Elements::F32(data) => bf16::from_f32(data[index]),
        Bf16Elements::Bf16(data) => data[index],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worked_example() {
        // 2⁻⁸ is half a step of f32 at 2¹⁶ = 65536: added alone it is a tie, which rounds to 65536. The second of
        // a pair comes first: 65536 + 2⁻⁸ = 65536, then − 65536 leaves 0; in the order of the indices 2⁻⁸ would be left.
        let [one, big, small] = [1.0, 65536.0, 0.003_906_25].map(bf16::from_f32);
        let sum = multiply_add_pair(65536.0, [-big, small], [one, one]);
        assert_eq!(sum, 0.0);
        let sum = multiply_add_pair(65536.0, [small, -big], [one, one]);
        assert_eq!(sum, 0.003_906_25);
    }

    #[test]
    fn a_tile_is_summed_before_it_is_added_even_and_odd_numbers_apart() {
        // Half a step of f32 at 2²⁴: added one by one, ones are lost there; the sum of two of them is not.
        let big = 16_777_216.0;
        let one = bf16::ONE;
        let mut a = [bf16::ZERO; TILE];
        (a[0], a[1]) = (one, one);
        assert_eq!(multiply_add_pair(big, [one, one], [one, one]), big);
        assert_eq!(add_tile(big, a, [one; TILE]), big + 2.0);
        // 2²⁴ among the even ones swallows a one of the even ones behind it, and none of the odd ones, which are two.
        let big = bf16::from_f32(big);
        (a[0], a[1], a[2], a[3]) = (big, one, one, one);
        assert_eq!(add_tile(0.0, a, [one; TILE]), big.to_f32() + 2.0);
    }

    #[test]
    fn subnormal_numbers_are_zeros_and_products_are_not_rounded_before_they_are_added() {
        let [tiny, half] = [f32::MIN_POSITIVE, 0.5].map(bf16::from_f32);
        assert_eq!(multiply_add(0.0, tiny, half), 0.0);
        assert_eq!(multiply_add(f32::MIN_POSITIVE / 2.0, tiny, bf16::ZERO), 0.0);
        let subnormal = bf16::from_bits(0x7f);
        assert_eq!(multiply_add(0.0, subnormal, bf16::from_f32(1e30)), 0.0);
        // 2⁶⁴ · 2⁶⁴ = 2¹²⁸ is too large for an f32, but 2¹²⁸ − 2¹²⁷ is not.
        let large = bf16::from_f32(2_f32.powi(64));
        let sum = multiply_add(-(2_f32.powi(127)), large, large);
        assert_eq!(sum, 2_f32.powi(127));
    }
}
