//! From a range of real numbers to a scale and a zero point.
//!
//! In: the largest magnitude, or the range that an observer saw. Out: the two numbers of
//!
//! ```text
//! real = scale · (code − zero_point)                                     (1)
//! ```
//!
//! Source: gemmlowp, `doc/quantization.md`, equation (3). The rules N1 to N7 are in `docs/numerics.md`.

use crate::error::{Error, Result};
use crate::scheme::{CodeRange, QParams, ValueRange};

/// Finds the scale that spreads `[-max_abs, max_abs]` over the codes, with zero point 0. **Exercise 15.1**
///
/// # The maths
///
/// Code `codes.max` shall mean `max_abs`, and code 0 shall mean 0.0, so
///
/// ```text
/// scale = max_abs / codes.max
/// ```
///
/// # Worked example
///
/// `max_abs = 2.54` over the codes −127..=127: `scale = 2.54 / 127 = 0.02`. Code 127 reads back as 2.54, code −127
/// as −2.54.
///
/// # Edge cases
///
/// - All values are zero (N7): there is nothing to spread. The scale is 1.
/// - So small a magnitude that the division underflows (N7): the scale is never below `f32::MIN_POSITIVE`.
///
/// # Errors
///
/// - [`Error::BadMagnitude`] if `max_abs` is negative, infinite or NaN.
/// - [`Error::BadCodeRange`] if the codes do not hold 0 and something above it.
pub fn symmetric_scale(max_abs: f32, codes: CodeRange) -> Result<f32> {
    codes.check()?;
    if !(max_abs.is_finite() && max_abs >= 0.0) {
        return Err(Error::BadMagnitude { max_abs });
    }
    // BEGIN SOLUTION 15.1
    todo!("exercise 15.1")
    // END SOLUTION
}

/// Finds the scale and the zero point that spread `range` over all codes. **Exercise 15.2**
///
/// # The maths
///
/// Zero padding and ReLU write 0.0 all the time, so 0.0 must be a code and not merely close to one. Therefore the
/// range is first widened to hold it (N6):
///
/// ```text
/// min ← min(min, 0)        max ← max(max, 0)
/// ```
///
/// Two conditions then fix the two unknowns of (1): `min` lands on the lowest code, and the steps from there to the
/// highest code reach `max`.
///
/// ```text
/// scale      = (max − min) / (codes.max − codes.min)
/// zero_point = round(codes.min − min / scale)          ties to even
/// ```
///
/// Everything is computed in `f32`, and the zero point is clamped to the codes: rounding could push it past an end.
///
/// # Worked example
///
/// `[-1, 2]` over −128..=127: `scale = 3 / 255 ≈ 0.01176` and `zero_point = −128 + 85 = −43`. Code −43 reads back as
/// 0.0, code 127 as 2.0.
///
/// # Edge cases
///
/// - The widened range is empty because everything was zero (N7): scale 1, zero point 0.
/// - So narrow a range that the division underflows (N7): the scale is never below `f32::MIN_POSITIVE`.
///
/// # Errors
///
/// - [`Error::BadRange`] if an end is not finite, the ends are out of order, or the widened range is wider than
///   `f32::MAX`.
/// - [`Error::BadCodeRange`] if the codes do not hold 0 and something above it.
pub fn choose_qparams(range: ValueRange, codes: CodeRange) -> Result<QParams> {
    codes.check()?;
    let ValueRange { min, max } = range;
    if !(min <= max && (max.max(0.0) - min.min(0.0)).is_finite()) {
        return Err(Error::BadRange { min, max });
    }
    // BEGIN SOLUTION 15.2
    todo!("exercise 15.2")
    // END SOLUTION
}

#[cfg(test)]
mod tests {
    use super::*;

    const NARROW: CodeRange = CodeRange::INT8_NARROW;
    const INT8: CodeRange = CodeRange::INT8;

    fn range(min: f32, max: f32) -> ValueRange {
        ValueRange { min, max }
    }

    #[test]
    fn worked_example_symmetric() {
        assert_eq!(symmetric_scale(2.54, NARROW), Ok(2.54 / 127.0));
    }

    #[test]
    fn a_symmetric_scale_is_positive_even_for_zero_and_tiny_values() {
        assert_eq!(symmetric_scale(0.0, NARROW), Ok(1.0));
        assert_eq!(symmetric_scale(1e-44, NARROW), Ok(f32::MIN_POSITIVE));
    }

    #[test]
    fn fewer_bits_make_larger_steps() {
        assert_eq!(symmetric_scale(7.0, CodeRange::narrow(4)), Ok(1.0));
        assert_eq!(symmetric_scale(7.0, CodeRange::narrow(2)), Ok(7.0));
    }

    #[test]
    fn a_magnitude_is_a_finite_number_from_zero_up() {
        for max_abs in [-1.0, f32::NAN, f32::INFINITY] {
            assert!(symmetric_scale(max_abs, NARROW).is_err(), "{max_abs}");
        }
    }

    #[test]
    fn worked_example_asymmetric() {
        let expected = QParams {
            scale: 3.0 / 255.0,
            zero_point: -43,
        };
        assert_eq!(choose_qparams(range(-1.0, 2.0), INT8), Ok(expected));
    }

    #[test]
    fn a_range_beside_zero_is_widened_to_hold_it() {
        // Unwidened, the zero point would be −179, be clamped to −128, and 6.0 would read back as 5.0.
        assert_eq!(
            choose_qparams(range(1.0, 6.0), INT8),
            choose_qparams(range(0.0, 6.0), INT8)
        );
        assert_eq!(
            choose_qparams(range(-6.0, -1.0), INT8),
            choose_qparams(range(-6.0, 0.0), INT8)
        );
    }

    #[test]
    fn all_zeros_give_scale_one_and_zero_point_zero() {
        assert_eq!(
            choose_qparams(range(0.0, 0.0), INT8),
            Ok(QParams::symmetric(1.0))
        );
    }

    #[test]
    fn a_tiny_range_keeps_the_scale_above_zero() {
        for max in [f32::from_bits(1), 1e-40] {
            let qparams = choose_qparams(range(0.0, max), INT8).expect("the range is good");
            assert_eq!(
                (qparams.scale, qparams.zero_point),
                (f32::MIN_POSITIVE, -128)
            );
        }
    }

    #[test]
    fn a_range_needs_finite_ends_in_order() {
        for (min, max) in [
            (2.0, 1.0),
            (f32::NAN, 1.0),
            (0.0, f32::INFINITY),
            (f32::MIN, f32::MAX),
        ] {
            assert!(
                choose_qparams(range(min, max), INT8).is_err(),
                "[{min}, {max}]"
            );
        }
    }
}
