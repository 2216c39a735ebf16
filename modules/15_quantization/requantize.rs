//! From exact sums back to codes, for the next layer.
//!
//! In: `i32` accumulators in units of `input_scale · weight_scale[c]`. Out: `i8` codes in units of the output's scale.
//! One multiplication for each output is all that is left of the real numbers at run time.
//!
//! ```text
//! real = s_x · s_w[c] · accumulator  =  s_y · (code − zero_point)
//!
//! code = accumulator · (s_x · s_w[c] / s_y) + zero_point                 multiplier[c] = s_x · s_w[c] / s_y
//! ```

use crate::error::{Error, Result};
use crate::scheme::CodeRange;

/// Computes the multiplier of every output channel: `input_scale · weight_scale[c] / output_scale` (N12).
///
/// `weight_scales` is `[n]`, one for each output channel, and so is the result. Computed in `f64`, where the product of two `f32` is exact, and rounded to `f32` at the end.
///
/// # Errors
///
/// [`Error::BadMultiplier`] if a multiplier is not finite in `f32`.
pub fn multipliers(input_scale: f32, weight_scales: &[f32], output_scale: f32) -> Result<Vec<f32>> {
    let of_channel = |(channel, &weight_scale): (usize, &f32)| {
        let product = f64::from(input_scale) * f64::from(weight_scale);
        let multiplier = (product / f64::from(output_scale)) as f32;
        multiplier
            .is_finite()
            .then_some(multiplier)
            .ok_or(Error::BadMultiplier {
                channel,
                input_scale,
                weight_scale,
                output_scale,
            })
    };
    weight_scales.iter().enumerate().map(of_channel).collect()
}

/// Rescales accumulators to codes of the output (N12). **Exercise 15.8, first part**
///
/// | argument | shape | meaning |
/// |---|---|---|
/// | `accumulators` | `[m, n]` | row-major; the bias is already in them |
/// | `multipliers` | `[n]` | one for each output channel |
/// | `zero_point` | | of the output |
/// | `codes` | | the bounds to saturate at |
/// | result | `[m, n]` | codes |
///
/// # The maths
///
/// For row `i` and output channel `j`, in `f32`:
///
/// ```text
/// code[i,j] = saturate(round(accumulator[i,j] as f32 · multiplier[j]) + zero_point)
/// ```
///
/// with ties to even, and the zero point added after rounding, as everywhere (N2, N3).
///
/// # Worked example
///
/// Two outputs with multipliers 0.5 and 0.01, zero point 3:
///
/// ```text
/// accumulators   [[  5,  100], [-1000,  150]]
/// rescaled       [[  2.5,  1 ], [ -500,   1.5]]
/// rounded        [[  2,    1 ], [ -500,   2  ]]
/// codes          [[  5,    4 ], [ -128,   5  ]]
/// ```
///
/// # Edge cases
///
/// - An accumulator of 0 becomes the zero point.
/// - A fused ReLU costs nothing: raise `codes.min` to the zero point.
///
/// # Panics
///
/// If the accumulators are no whole number of rows, a multiplier is not finite, or `codes` do not fit an `i8`.
#[must_use]
#[track_caller]
pub fn requantize(
    accumulators: &[i32],
    multipliers: &[f32],
    zero_point: i32,
    codes: CodeRange,
) -> Vec<i8> {
    let (count, channels) = (accumulators.len(), multipliers.len());
    assert!(
        count.checked_rem(channels).unwrap_or(count) == 0,
        "{count} accumulators are not rows of {channels}"
    );
    assert!(
        -128 <= codes.min && codes.min <= codes.max && codes.max <= 127,
        "{codes:?} does not fit an i8"
    );
    // NaN would become code 0 without a word (N5).
    assert!(
        multipliers.iter().all(|multiplier| multiplier.is_finite()),
        "a multiplier is not finite"
    );
    // BEGIN SOLUTION 15.8a
    todo!("exercise 15.8a")
    // END SOLUTION
}

#[cfg(test)]
mod tests {
    use super::*;

    const INT8: CodeRange = CodeRange::INT8;

    #[test]
    fn worked_example() {
        assert_eq!(
            requantize(&[5, 100, -1000, 150], &[0.5, 0.01], 3, INT8),
            [5, 4, -128, 5]
        );
    }

    #[test]
    fn an_accumulator_of_zero_becomes_the_zero_point() {
        assert_eq!(requantize(&[0, 0], &[0.1, 7e20], -43, INT8), [-43, -43]);
    }

    #[test]
    fn the_zero_point_is_added_after_rounding() {
        // 0.5 rounds to the even 0, and then 1 is added. Rounding 1.5 instead would give 2.
        assert_eq!(requantize(&[1], &[0.5], 1, INT8), [1]);
    }

    #[test]
    fn a_raised_lower_bound_is_a_relu() {
        let codes = CodeRange { min: -10, max: 127 };
        assert_eq!(
            requantize(&[-50, 0, 50], &[1.0], -10, codes),
            [-10, -10, 40]
        );
    }

    #[test]
    fn a_multiplier_is_the_ratio_of_scales() {
        assert_eq!(multipliers(0.5, &[0.25, 4.0], 0.125), Ok(vec![1.0, 16.0]));
        assert!(multipliers(1e30, &[1.0, 1e30], 1.0).is_err());
    }
}
