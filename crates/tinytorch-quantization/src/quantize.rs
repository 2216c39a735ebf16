//! Real numbers to codes and back: the two lines that all the rest serves.
//!
//! In: values and their [`QParams`]. Out: one `i8` for each value, or the values that the codes stand for. What is
//! lost on the way there and back is at most half a step inside the range, and nothing at all at 0.0.

use crate::error::Result;
use crate::finite::check_finite;
use crate::scheme::{CodeRange, QParams};

/// Writes each value as the nearest code. **Exercise 15.3**
///
/// Any shape, flattened: one code for each value, in order.
///
/// # The maths
///
/// ```text
/// code = saturate(round(value / scale) + zero_point)
/// ```
///
/// in exactly this order (N3):
///
/// 1. divide, do not multiply by `1 / scale`: that is another number, and sometimes another code (N4);
/// 2. round to the nearest integer, and a tie to the even one, so that ties do not all push one way (N2);
/// 3. add the zero point;
/// 4. saturate: clamp to `codes.min..=codes.max`, then convert. A value too large becomes the largest code (N5).
///
/// # Worked example
///
/// `scale = 0.5`, `zero_point = 10`, the codes −128..=127:
///
/// ```text
/// value   value / scale   rounded   + zero point   code
///  0.0         0             0           10          10
///  0.6         1.2           1           11          11
///  0.25        0.5           0           10          10      a tie, to the even 0
///  0.75        1.5           2           12          12      a tie, to the even 2
/// -0.75       -1.5          -2            8           8
/// 99.0       198           198          208         127      saturated
/// ```
///
/// # Edge cases
///
/// - 0.0 and −0.0 become the zero point, exactly.
/// - A quotient beyond the range of `i32`, even an infinite one, still saturates.
///
/// # Errors
///
/// - [`Error::NotFinite`](crate::Error::NotFinite) with the index of the first value that is NaN or infinite.
/// - [`Error::BadQParams`](crate::Error::BadQParams), [`Error::BadCodeRange`](crate::Error::BadCodeRange) if the
///   parameters or the codes cannot be used, or a code does not fit an `i8`.
pub fn quantize(values: &[f32], qparams: QParams, codes: CodeRange) -> Result<Vec<i8>> {
    codes.check_i8()?;
    qparams.check(codes)?;
    check_finite(values)?;
    let QParams { scale, zero_point } = qparams;
    // BEGIN SOLUTION 15.3
    let (min, max) = (codes.min as f32, codes.max as f32);
    let code_of = |value: &f32| {
        let rounded = (value / scale).round_ties_even();
        // Still a float: it may be far outside the range of any integer.
        (rounded + zero_point as f32).clamp(min, max) as i8
    };
    Ok(values.iter().map(code_of).collect())
    // END SOLUTION
}

/// Reads each code back as the real number it stands for. **Exercise 15.4**
///
/// Any shape, flattened: one value for each code, in order.
///
/// # The maths
///
/// Equation (1), N1:
///
/// ```text
/// value = scale · (code − zero_point)
/// ```
///
/// The difference of a code and a zero point has up to nine bits, so it is taken in `i32`: 127 − (−128) is 255,
/// which is not an `i8`.
///
/// # Worked example
///
/// `scale = 0.5`, `zero_point = 10`: the codes 10, 11, 127, −128 read back as 0.0, 0.5, 58.5, −69.0.
///
/// # Edge cases
///
/// The code that equals the zero point reads back as exactly 0.0, whatever the scale.
///
/// # Panics
///
/// If the parameters break N1: the scale must be finite and above 0, and the zero point one of the codes −128..=127.
#[must_use]
#[track_caller]
pub fn dequantize(codes: &[i8], qparams: QParams) -> Vec<f32> {
    if let Err(error) = qparams.check(CodeRange::INT8) {
        panic!("{error}");
    }
    let QParams { scale, zero_point } = qparams;
    // BEGIN SOLUTION 15.4
    codes
        .iter()
        .map(|&code| scale * (i32::from(code) - zero_point) as f32)
        .collect()
    // END SOLUTION
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    const INT8: CodeRange = CodeRange::INT8;
    const EXAMPLE: QParams = QParams {
        scale: 0.5,
        zero_point: 10,
    };

    #[test]
    fn worked_example_quantize() {
        let values = [0.0, 0.6, 0.25, 0.75, -0.75, 99.0];
        assert_eq!(
            quantize(&values, EXAMPLE, INT8),
            Ok(vec![10, 11, 10, 12, 8, 127])
        );
    }

    #[test]
    fn ties_go_to_the_even_neighbour() {
        let values = [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5];
        assert_eq!(
            quantize(&values, QParams::symmetric(1.0), INT8),
            Ok(vec![-2, -2, 0, 0, 2, 2])
        );
    }

    #[test]
    fn values_outside_the_range_saturate() {
        let tiny = QParams::symmetric(f32::MIN_POSITIVE);
        assert_eq!(
            quantize(&[f32::MAX, f32::MIN], tiny, INT8),
            Ok(vec![127, -128])
        );
        let nibble = quantize(&[9.0, -9.0], QParams::symmetric(1.0), CodeRange::narrow(4));
        assert_eq!(nibble, Ok(vec![7, -7]));
    }

    #[test]
    fn nan_and_infinity_are_errors_that_name_the_index() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let error = quantize(&[0.0, 1.0, bad], EXAMPLE, INT8);
            let Err(Error::NotFinite { place, .. }) = error else {
                panic!("{bad} was accepted: {error:?}");
            };
            assert_eq!(place.index, 2);
        }
    }

    #[test]
    fn worked_example_dequantize() {
        assert_eq!(
            dequantize(&[10, 11, 127, -128], EXAMPLE),
            [0.0, 0.5, 58.5, -69.0]
        );
    }

    #[test]
    fn the_zero_point_reads_back_as_exactly_zero() {
        for (scale, zero_point) in [(0.1, -128), (3e30, 0), (1e-30, 127)] {
            let qparams = QParams { scale, zero_point };
            assert_eq!(dequantize(&[zero_point as i8], qparams), [0.0]);
            assert_eq!(
                quantize(&[0.0, -0.0], qparams, INT8),
                Ok(vec![zero_point as i8; 2])
            );
        }
    }

    #[test]
    #[should_panic(expected = "a zero point must be one of the codes")]
    fn a_zero_point_that_is_no_code_is_refused() {
        // The difference to it overflowed: a panic without a word in a debug build, a wrong value in a release build.
        let zero_point = i32::MIN;
        let _ = dequantize(
            &[1],
            QParams {
                scale: 1.0,
                zero_point,
            },
        );
    }

    #[test]
    fn every_code_survives_the_round_trip() {
        let codes: Vec<i8> = (-128..=127).collect();
        assert_eq!(
            quantize(&dequantize(&codes, EXAMPLE), EXAMPLE, INT8),
            Ok(codes)
        );
    }
}
