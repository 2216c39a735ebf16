//! Element by element: real numbers to codes and back, sums to codes, the range of a slice.
//!
//! The codes are those of the definitions, bit for bit, ties and saturation included; `f32` that are not finite are
//! reported, never given a code (N2 to N5).
#![expect(
    unsafe_code,
    reason = "codes with and without a sign share their loops"
)]

#[cfg(target_arch = "x86_64")]
mod avx512;

use std::fmt;

use crate::cpu::{Vectors, vectorized};
use crate::gemm_i8::Requantize;
use crate::gemm_i8::ending::{Codes, ROUNDER};

/// A value that has no code: NaN or an infinity.
#[derive(Clone, Copy, Debug)]
pub struct NotFinite {
    /// Index of the first such value.
    pub index: usize,
    /// The value.
    pub value: f32,
}

impl PartialEq for NotFinite {
    /// NaN equals NaN here: two reports of the same value at the same place are the same report.
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index && self.value.to_bits() == other.value.to_bits()
    }
}

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at index {} has no code", self.value, self.index)
    }
}

impl std::error::Error for NotFinite {}

/// How real numbers become codes.
#[derive(Clone, Copy, Debug)]
pub struct Quantize {
    /// Real distance between neighbouring codes; finite and above zero.
    pub scale: f32,
    /// The code of 0.0, an `i8`.
    pub zero_point: i32,
    /// Smallest code, at least −128.
    pub min: i32,
    /// Largest code, at most 127.
    pub max: i32,
}

/// Elements that are converted before it is looked at whether all of them were finite and none near a tie: a second look
/// at them is cheap, and rarely needed.
const CHUNK: usize = 128;

/// Distance from an integer, 0.5 − 2⁻¹⁴, from which a quotient is taken for a tie; see [`quantize_chunk`].
const NEAR_TIE: f32 = 0.5 - 1.0 / 16384.0;

/// Quantizes: `out = saturate(round_ties_even(value / scale) + zero_point)`.
///
/// # Errors
///
/// [`NotFinite`] names the first value that is; `out` is then unspecified.
///
/// # Panics
///
/// If the lengths differ, the scale is not finite and positive, or a bound or the zero point is not an `i8`.
#[track_caller]
pub fn quantize_f32_i8(values: &[f32], by: Quantize, out: &mut [i8]) -> Result<(), NotFinite> {
    // SAFETY: an i8 and a u8 are both one byte, any bits are either, and the borrow goes on.
    let out = unsafe { std::slice::from_raw_parts_mut(out.as_mut_ptr().cast(), out.len()) };
    quantize(Vectors::chosen(), values, by, 0, out)
}

/// As [`quantize_f32_i8`] for codes without a sign: `by.zero_point`, `by.min` and `by.max` are in 0..=255.
///
/// # Errors
///
/// As [`quantize_f32_i8`].
///
/// # Panics
///
/// If the lengths differ, the scale is not finite and positive, or a bound or the zero point is not a `u8`.
#[track_caller]
pub fn quantize_f32_u8(values: &[f32], by: Quantize, out: &mut [u8]) -> Result<(), NotFinite> {
    for (name, code) in [
        ("zero point", by.zero_point),
        ("bound", by.min),
        ("bound", by.max),
    ] {
        assert!((0..=255).contains(&code), "{name} {code} is not a u8");
    }
    // The same codes, 128 less; the sign bit makes up for it.
    let by = Quantize {
        scale: by.scale,
        zero_point: by.zero_point - 128,
        min: by.min - 128,
        max: by.max - 128,
    };
    quantize(Vectors::chosen(), values, by, 0x80, out)
}

/// Writes codes whose bits in `flip` are inverted.
#[track_caller]
fn quantize(
    vectors: Vectors,
    values: &[f32],
    by: Quantize,
    flip: u8,
    out: &mut [u8],
) -> Result<(), NotFinite> {
    assert_eq!(values.len(), out.len(), "one code per value");
    assert!(
        by.scale.is_finite() && by.scale > 0.0,
        "scale {} is not a step",
        by.scale
    );
    let codes = Codes {
        zero_point: by.zero_point,
        min: by.min,
        max: by.max,
    };
    codes.check();
    match vectors {
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx512(_) => avx512::quantize(vectors, values, by.scale, codes, flip, out),
        _ => quantize_chunks(vectors, values, by.scale, codes, flip, out),
    }
}

vectorized! {
    fn quantize_chunks(
        values: &[f32],
        scale: f32,
        codes: Codes,
        flip: u8,
        out: &mut [u8],
    ) -> Result<(), NotFinite> {
        let reciprocal = 1.0 / scale;
        // Otherwise the reciprocal has lost digits, or is infinite.
        let precise = scale.is_normal() && reciprocal.is_normal();
        for (chunk, (values, out)) in values.chunks(CHUNK).zip(out.chunks_mut(CHUNK)).enumerate() {
            let (largest, distance) = quantize_chunk(values, reciprocal, codes, flip, out);
            if largest >= f32::INFINITY.to_bits() {
                return Err(first_not_finite(values, chunk * CHUNK));
            }
            if !precise || distance >= NEAR_TIE.to_bits() {
                for (out, &value) in out.iter_mut().zip(values) {
                    *out = codes.code(value / scale).cast_unsigned() ^ flip;
                }
            }
        }
        Ok(())
    }
}

/// Quantizes with a product in place of the quotient (a division takes ten times as long), and returns the bits of the
/// largest magnitude among the values and of the largest distance of a product from the integer it was rounded to.
///
/// N4 asks for the quotient's code. The product differs from it by less than 3 · 2⁻²⁴ of its magnitude, which is at most
/// 256 before the bounds cut it off: by less than 2⁻¹⁴. So the codes can only differ if the product is that near to a
/// tie, and then the caller divides.
#[inline(always)]
fn quantize_chunk(
    values: &[f32],
    reciprocal: f32,
    codes: Codes,
    flip: u8,
    out: &mut [u8],
) -> (u32, u32) {
    let (low, high) = codes.real_bounds();
    let (mut largest, mut furthest) = (0, 0);
    for (out, &value) in out.iter_mut().zip(values) {
        let product = value * reciprocal;
        let product = if product > low { product } else { low };
        let product = if product < high { product } else { high };
        let shifted = product + ROUNDER;
        // Floats that are not negative have the order of their bits, and integers can be compared in any order.
        furthest = furthest.max((product - (shifted - ROUNDER)).abs().to_bits());
        largest = largest.max(value.abs().to_bits());
        let rounded = shifted.to_bits().wrapping_sub(ROUNDER.to_bits()) as i32;
        *out = rounded.wrapping_add(codes.zero_point) as u8 ^ flip;
    }
    (largest, furthest)
}

/// The report of a slice that holds a value that is not finite; `offset` is the index of its first element.
#[cold]
fn first_not_finite(values: &[f32], offset: usize) -> NotFinite {
    let index = values
        .iter()
        .position(|value| !value.is_finite())
        .unwrap_or(0);
    NotFinite {
        index: offset + index,
        value: values[index],
    }
}

/// Dequantizes: `out = (code − zero_point) as f32 * scale`.
///
/// # Panics
///
/// If the lengths differ, or the zero point is not an `i8`.
#[track_caller]
pub fn dequantize_i8_f32(codes: &[i8], scale: f32, zero_point: i32, out: &mut [f32]) {
    assert_eq!(codes.len(), out.len(), "one value per code");
    assert!(
        (-128..=127).contains(&zero_point),
        "zero point {zero_point} is not an i8"
    );
    dequantize_codes(Vectors::chosen(), codes, scale, zero_point, out);
}

vectorized! {
    fn dequantize_codes(codes: &[i8], scale: f32, zero_point: i32, out: &mut [f32]) {
        for (out, &code) in out.iter_mut().zip(codes) {
            *out = i32::from(code).wrapping_sub(zero_point) as f32 * scale;
        }
    }
}

/// Requantizes sums `[m, n]` to codes, one multiplier (and bias) per column (N12).
///
/// A sum and its bias are added as an accumulator adds them, wrapping. For sums that exist anyway; a product that is to end in codes does it without them
/// ([`PackedWeights::requantized`](crate::PackedWeights::requantized)).
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
    fn requantize_rows(sums: &[i32], by: &Requantize<'_>, out: &mut [i8]) {
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

/// Lanes of the range: independent minima and maxima, so that they fill vector registers.
const LANES: usize = 32;

/// The smallest and the largest value, `None` of an empty slice. A zero is `+0.0`.
///
/// # Errors
///
/// [`NotFinite`] names the first value that is.
pub fn min_max(values: &[f32]) -> Result<Option<(f32, f32)>, NotFinite> {
    let (min, max, finite) = range_of_lanes(Vectors::chosen(), values);
    if !finite {
        return Err(first_not_finite(values, 0));
    }
    if values.is_empty() {
        return Ok(None);
    }
    // −0.0 + 0.0 is +0.0: which of two zeros a lane has met does not show.
    Ok(Some((min + 0.0, max + 0.0)))
}

vectorized! {
    /// The minimum and the maximum, and whether all values are finite.
    fn range_of_lanes(values: &[f32]) -> (f32, f32, bool) {
        let (mut min, mut max) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
        let mut largest = [0_u32; LANES];
        let (blocks, tail) = values.as_chunks::<LANES>();
        let mut look = |lane: usize, value: f32| {
            largest[lane] = largest[lane].max(value.abs().to_bits());
            min[lane] = if value < min[lane] { value } else { min[lane] };
            max[lane] = if value > max[lane] { value } else { max[lane] };
        };
        for block in blocks {
            for (lane, &value) in block.iter().enumerate() {
                look(lane, value);
            }
        }
        for (lane, &value) in tail.iter().enumerate() {
            look(lane, value);
        }
        let min = fold_lanes(min, |a, b| if b < a { b } else { a });
        let max = fold_lanes(max, |a, b| if b > a { b } else { a });
        let largest = fold_lanes(largest, u32::max);
        (min, max, largest < f32::INFINITY.to_bits())
    }
}

/// Lanes to one number, the upper half into the lower five times: one after the other they would wait for each other
/// longer than a row of some hundred values takes.
#[inline(always)]
fn fold_lanes<T: Copy>(mut lanes: [T; LANES], pick: impl Fn(T, T) -> T) -> T {
    #[inline(always)]
    fn halve<T: Copy, const HALF: usize>(lanes: &mut [T; LANES], pick: impl Fn(T, T) -> T) {
        for lane in 0..HALF {
            lanes[lane] = pick(lanes[lane], lanes[lane + HALF]);
        }
    }
    halve::<T, 16>(&mut lanes, &pick);
    halve::<T, 8>(&mut lanes, &pick);
    halve::<T, 4>(&mut lanes, &pick);
    halve::<T, 2>(&mut lanes, &pick);
    halve::<T, 1>(&mut lanes, &pick);
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm_i8::scalar;
    use crate::testing::Random;

    fn quantize_scalar(value: f32, by: Quantize) -> i8 {
        let rounded = (value / by.scale).round_ties_even() as i64;
        let code = rounded.saturating_add(i64::from(by.zero_point));
        code.clamp(i64::from(by.min), i64::from(by.max)) as i8
    }

    fn assert_codes(values: &[f32], by: Quantize) {
        for vectors in Vectors::available() {
            for flip in [0, 0x80] {
                let mut out = vec![0; values.len()];
                quantize(vectors, values, by, flip, &mut out).expect("finite values");
                for (i, (&value, &code)) in values.iter().zip(&out).enumerate() {
                    let code = (code ^ flip).cast_signed();
                    let expected = quantize_scalar(value, by);
                    assert_eq!(code, expected, "{value:e} at {i} by {by:?}, {vectors:?}");
                }
            }
        }
    }

    #[test]
    fn worked_example() {
        let by = Quantize {
            scale: 0.5,
            zero_point: 1,
            min: -128,
            max: 127,
        };
        let mut codes = [0; 5];
        // 0.25 / 0.5 = 0.5 is a tie, to 0; 0.75 / 0.5 = 1.5 to 2; then + 1.
        quantize_f32_i8(&[0.0, 0.25, 0.75, 1000.0, -1000.0], by, &mut codes).expect("finite");
        assert_eq!(codes, [1, 1, 3, 127, -128]);
        let mut unsigned = [0; 5];
        let by = Quantize {
            zero_point: 129,
            min: 0,
            max: 255,
            ..by
        };
        quantize_f32_u8(&[0.0, 0.25, 0.75, 1000.0, -1000.0], by, &mut unsigned).expect("finite");
        assert_eq!(unsigned, [129, 129, 131, 255, 0]);
        let mut values = [0.0; 5];
        dequantize_i8_f32(&codes, 0.5, 1, &mut values);
        assert_eq!(values, [0.0, 0.0, 1.0, 63.0, -64.5]);
    }

    #[test]
    fn codes_are_those_of_the_definition_at_and_beside_every_tie() {
        let beside = |value: f32| [value.next_down(), value, value.next_up()];
        for scale in [0.5, 0.1, 1.0 / 3.0, 0.007_812_5, 0.019_73, 1e-20, 3e20] {
            let values: Vec<f32> = (-300..=300)
                .flat_map(|half| {
                    [
                        half as f32 * 0.5 * scale,
                        half as f32 / 2.0 * scale.next_up(),
                    ]
                })
                .flat_map(beside)
                .collect();
            for (zero_point, min, max) in [(0, -127, 127), (-128, -128, 127), (37, -8, 100)] {
                assert_codes(
                    &values,
                    Quantize {
                        scale,
                        zero_point,
                        min,
                        max,
                    },
                );
            }
        }
    }

    #[test]
    fn codes_are_those_of_the_definition_for_any_finite_bits() {
        let mut random = Random::new(5);
        for _ in 0..30 {
            let scale = f32::from_bits(random.next() as u32 & 0x7fff_ffff);
            if !scale.is_finite() || scale == 0.0 {
                continue;
            }
            let values: Vec<f32> = (0..2100)
                .map(|_| f32::from_bits(random.next() as u32))
                .filter(|value| value.is_finite())
                .collect();
            let near: Vec<f32> = (0..2100)
                .map(|_| (random.unit() - 0.5) * 300.0 * scale)
                .collect();
            let by = Quantize {
                scale,
                zero_point: random.code().into(),
                min: -128,
                max: 127,
            };
            assert_codes(&values, by);
            if near.iter().all(|value| value.is_finite()) {
                assert_codes(&near, by);
            }
        }
    }

    #[test]
    fn the_first_value_that_is_not_finite_is_reported() {
        let by = Quantize {
            scale: 1.0,
            zero_point: 0,
            min: -128,
            max: 127,
        };
        let mut values = vec![1.0; 3000];
        values[2500] = f32::INFINITY;
        values[2400] = f32::NEG_INFINITY;
        let mut out = vec![0; 3000];
        let expected = NotFinite {
            index: 2400,
            value: f32::NEG_INFINITY,
        };
        assert_eq!(quantize_f32_i8(&values, by, &mut out), Err(expected));
        assert_eq!(min_max(&values), Err(expected));
        values[7] = f32::NAN;
        assert_eq!(
            quantize_f32_i8(&values, by, &mut out).map_err(|error| error.index),
            Err(7)
        );
        assert_eq!(min_max(&values).map_err(|error| error.index), Err(7));
    }

    #[test]
    fn the_range_is_that_of_the_definition_at_every_length() {
        let mut random = Random::new(6);
        assert_eq!(min_max(&[]), Ok(None));
        assert_eq!(
            min_max(&[-0.0]).map(|range| range.map(|(min, _)| min.to_bits())),
            Ok(Some(0))
        );
        for len in 1..100 {
            let values: Vec<f32> = (0..len).map(|_| random.unit() - 0.5).collect();
            let min = values.iter().copied().fold(f32::INFINITY, f32::min);
            let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(min_max(&values), Ok(Some((min, max))));
            for vectors in Vectors::available() {
                assert_eq!(
                    range_of_lanes(vectors, &values),
                    (min, max, true),
                    "{vectors:?}"
                );
            }
        }
    }

    #[test]
    fn requantized_sums_are_those_of_the_definition() {
        let mut random = Random::new(7);
        let (m, n) = (7, 45);
        let sums: Vec<i32> = (0..m * n).map(|_| random.next() as i32 >> 8).collect();
        let bias: Vec<i32> = (0..n).map(|_| random.next() as i32 >> 12).collect();
        let multipliers: Vec<f32> = (0..n).map(|_| random.unit() * 1e-5).collect();
        for bias in [&bias[..], &[]] {
            let by = Requantize {
                bias,
                multipliers: &multipliers,
                zero_point: 4,
                min: 4,
                max: 127,
            };
            for vectors in Vectors::available() {
                let mut out = vec![0; m * n];
                requantize_rows(vectors, &sums, &by, &mut out);
                for (i, &code) in out.iter().enumerate() {
                    let sum = sums[i] + bias.get(i % n).copied().unwrap_or(0);
                    assert_eq!(code, scalar::requantize(sum, multipliers[i % n], 4, 4, 127));
                }
            }
        }
    }
}
