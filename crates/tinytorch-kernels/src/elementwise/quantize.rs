//! Real numbers to codes.
#![expect(
    unsafe_code,
    reason = "codes with and without a sign share their loops"
)]

#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::blocks::{Way, convert};
use super::{NotFinite, Quantize, first_not_finite};
use crate::cpu::{Vectors, vectorized};
use crate::gemm_i8::blocks::{BLOCK_CODES, RowsMut};
use crate::gemm_i8::ending::{Codes, ROUNDER};

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
    let way = Way::of::<f32, u8>(values.len());
    quantize(Vectors::chosen(), way, values, by, 0, out)
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
    let way = Way::of::<f32, u8>(values.len());
    quantize(Vectors::chosen(), way, values, by, 0x80, out)
}

/// How values become codes.
#[derive(Clone, Copy, Debug)]
pub(super) struct By {
    pub scale: f32,
    pub codes: Codes,
    /// Bits that are inverted in each code.
    pub flip: u8,
    /// Whether the values lie beyond the second cache.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        allow(dead_code, reason = "other CPUs are left to look ahead by themselves")
    )]
    pub far: bool,
}

/// Values between two pauses: they become codes in less than half a microsecond, on a CPU whose matrix unit waits for them.
pub(super) const BETWEEN_PAUSES: usize = 6144;

/// Calls something else after about every [`BETWEEN_PAUSES`] values that became codes.
pub(crate) struct Pauses<'p> {
    pause: &'p mut dyn FnMut(),
    /// Values since the last time.
    since: usize,
}

impl<'p> Pauses<'p> {
    /// Those in which `pause` is called.
    pub fn new(pause: &'p mut dyn FnMut()) -> Self {
        Self { pause, since: 0 }
    }

    /// Before so many values become codes, or are looked at, which takes about as long.
    #[inline(always)]
    pub fn before(&mut self, values: usize) {
        if self.since > BETWEEN_PAUSES {
            (self.pause)();
            self.since = 0;
        }
        self.since += values;
    }
}

/// Whether values are so many that a second cache hardly holds them.
pub(crate) fn is_far(values: &[f32]) -> bool {
    values.len() > 256 * 1024
}

/// Writes the codes of rows of `k` values, with their bits in `flip` inverted, to blocks; what the last one of a row holds beyond them stays.
///
/// The caller has checked `by`, and that there are as many rows and enough blocks. `far` says whether the values
/// [are far](is_far), or belong to those that are. `pauses` are told of all values.
pub(crate) fn quantize_rows(
    values: &[f32],
    k: usize,
    by: Quantize,
    flip: u8,
    far: bool,
    mut rows: RowsMut<'_>,
    pauses: &mut Pauses<'_>,
) -> Result<(), NotFinite> {
    let vectors = Vectors::chosen();
    let by = By {
        scale: by.scale,
        codes: by.codes(),
        flip,
        far,
    };
    let all_finite = match vectors {
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx512(_) => avx512::quantize(vectors, values, k, by, &mut rows, pauses),
        _ => (values.chunks(k.max(1)).enumerate()).all(|(row, values)| {
            (values.chunks(BLOCK_CODES).enumerate()).all(|(block, values)| {
                pauses.before(values.len());
                let out = &mut rows.block(row, block)[..values.len()];
                quantize_chunks(vectors, values, by, out)
            })
        }),
    };
    if all_finite {
        Ok(())
    } else {
        Err(first_not_finite(values))
    }
}

/// Writes codes whose bits in `flip` are inverted.
#[track_caller]
pub(super) fn quantize(
    vectors: Vectors,
    way: Way,
    values: &[f32],
    by: Quantize,
    flip: u8,
    out: &mut [u8],
) -> Result<(), NotFinite> {
    assert_eq!(values.len(), out.len(), "one code per value");
    by.check();
    let by = By {
        scale: by.scale,
        codes: by.codes(),
        flip,
        far: is_far(values),
    };
    let all_finite = convert(way, values, out, |values, out| match vectors {
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx512(_) => avx512::quantize(
            vectors,
            values,
            values.len(),
            by,
            out,
            &mut Pauses::new(&mut || ()),
        ),
        _ => quantize_chunks(vectors, values, by, out),
    });
    if all_finite {
        Ok(())
    } else {
        Err(first_not_finite(values))
    }
}

vectorized! {
    /// Whether all values are finite.
    fn quantize_chunks(values: &[f32], by: By, out: &mut [u8]) -> bool {
        let By { scale, codes, flip, .. } = by;
        let reciprocal = 1.0 / scale;
        // Otherwise the reciprocal has lost digits, or is infinite.
        let precise = scale.is_normal() && reciprocal.is_normal();
        for (values, out) in values.chunks(CHUNK).zip(out.chunks_mut(CHUNK)) {
            let (largest, distance) = quantize_chunk(values, reciprocal, codes, flip, out);
            if largest >= f32::INFINITY.to_bits() {
                return false;
            }
            if !precise || distance >= NEAR_TIE.to_bits() {
                for (out, &value) in out.iter_mut().zip(values) {
                    *out = codes.code(value / scale).cast_unsigned() ^ flip;
                }
            }
        }
        true
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
