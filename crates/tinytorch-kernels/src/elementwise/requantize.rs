//! Sums to codes.

use crate::cpu::{Vectors, vectorized};
use crate::gemm_i8::Requantize;

/// Requantizes sums `[m, n]` to codes, one multiplier (and bias) per column (N12).
///
/// A sum and its bias are added as an accumulator adds them, wrapping. For sums that exist anyway; a product that is to end in
/// codes does it without them ([`PackedWeights::requantized`](crate::PackedWeights::requantized)).
///
/// # Panics
///
/// If the lengths differ or are not whole rows, a multiplier is not finite, or a bound or the zero point is not an `i8`.
#[track_caller]
pub fn requantize_i32_i8(sums: &[i32], by: &Requantize<'_>, out: &mut [i8]) {
    let n = by.multipliers.len();
    by.check(n, i32::MAX);
    assert_eq!(sums.len(), out.len(), "one code per sum");
    if sums.is_empty() {
        return;
    }
    assert!(
        n > 0 && sums.len().is_multiple_of(n),
        "{} sums are not rows of {n}",
        sums.len()
    );
    requantize_rows(Vectors::chosen(), sums, by, out);
}

vectorized! {
    pub(super) fn requantize_rows(sums: &[i32], by: &Requantize<'_>, out: &mut [i8]) {
        let codes = by.codes();
        let n = by.multipliers.len();
        for (sums, out) in sums.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
            let columns = out.iter_mut().zip(sums).zip(by.multipliers);
            if by.bias.is_empty() {
                columns.for_each(|((out, &sum), &factor)| *out = codes.code(sum as f32 * factor));
            } else {
                for (((out, &sum), &multiplier), &bias) in columns.zip(by.bias) {
                    *out = codes.code(sum.wrapping_add(bias) as f32 * multiplier);
                }
            }
        }
    }
}
