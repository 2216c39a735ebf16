//! Quantization on 512-bit vectors, nearly as fast as the second cache delivers the values.
//!
//! In units of 2⁻¹⁶ of a step, `u = value / scale + zero_point + ½` is an `i32` whose upper half is the code and whose lower
//! half tells how far above a tie it is. The conversion gives −2³¹ for NaN, infinities and quotients beyond ±2¹⁵: lower half 0,
//! so all that needs a second look looks like a tie. For codes without a sign it is the code and 128.
//!
//! What the product with the reciprocal costs (N4): for quotients up to 257 in magnitude, beyond which all bounds are
//! passed, the reciprocal is off by at most 2⁻²⁴ of itself, 1 unit, and so is the definition's own quotient; the fused
//! addition and the conversion round by half a unit each. That makes 3; up to [`MARGIN`] = 4 units from a tie the definition
//! divides. That happens about once in 8000 values, at places no CPU can foresee: the loop only notes where, and what was
//! noted is looked at afterwards. A jump in the loop would cost as much as the loop.
#![expect(
    unsafe_code,
    reason = "vector loads and stores, and calls that need CPU features"
)]

mod dequantize;

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

pub(super) use dequantize::dequantize;

use super::quantize::{By, Pauses};
use crate::cpu::Vectors;
use crate::gemm_i8::blocks::{BLOCK_CODES, RowsMut};
use crate::gemm_i8::ending::Codes;

/// Units from a tie within which the definition decides.
const MARGIN: i16 = 4;
/// Lanes with ties up to which each of their values is divided by itself.
const FEW: u32 = 2;
/// Values whose codes are one vector.
const CODES: usize = 64;
/// Values that are looked at together for ties: fewer comparisons.
const STEP: usize = 2 * CODES;
/// Values whose codes lie together wherever they go.
const PIECE: usize = BLOCK_CODES;
/// Pieces after which what was noted is looked at, while their values are still in the first cache.
const PIECES: usize = 4;
/// Values between those that are converted and those that are asked for: the CPU itself does not look beyond a page of 4 KiB,
/// and asks too late when it enters one.
const AHEAD: usize = 512;

/// Which words are lower halves.
const LOWER: __mmask32 = 0x5555_5555;

/// Where the codes of rows go, by pieces.
pub(super) trait Places {
    /// The places of `len` codes of a row from that of its value `first` on, all of one [`PIECE`].
    fn places(&mut self, row: usize, first: usize, len: usize) -> &mut [u8];
}

/// A single row.
impl Places for [u8] {
    #[inline(always)]
    fn places(&mut self, _: usize, first: usize, len: usize) -> &mut [u8] {
        &mut self[first..][..len]
    }
}

impl Places for RowsMut<'_> {
    #[inline(always)]
    fn places(&mut self, row: usize, first: usize, len: usize) -> &mut [u8] {
        const { assert!(PIECE == BLOCK_CODES && PIECE == 2 * STEP) };
        &mut self.block(row, first / BLOCK_CODES)[first % BLOCK_CODES..][..len]
    }
}

/// Writes the codes of `values`, rows of `k`, and tells `pauses` of them. Whether all values are finite.
///
/// # Panics
///
/// If the vectors are not those of AVX-512, the values are not whole rows, the flip is that of neither kind of code, or there are fewer
/// places than values.
pub(super) fn quantize(
    vectors: Vectors,
    values: &[f32],
    k: usize,
    by: By,
    out: &mut (impl Places + ?Sized),
    pauses: &mut Pauses<'_>,
) -> bool {
    assert!(matches!(vectors, Vectors::Avx512(_)), "needs AVX-512");
    assert!(
        values.is_empty() || values.len().is_multiple_of(k),
        "rows of {k}"
    );
    assert!([0, UNSIGNED_FLIP].contains(&by.flip), "codes are i8 or u8");
    // Packing saturates to these bounds by itself.
    let bounded = (by.codes.min, by.codes.max) != (-128, 127);
    let vbmi = is_x86_feature_detected!("avx512vbmi");
    // SAFETY: `Vectors::Avx512` is only made on CPUs that have these features, and VBMI was asked for. Bounds are rare: they do without it,
    // for less code.
    unsafe {
        match (bounded, by.flip == UNSIGNED_FLIP, vbmi) {
            (false, false, false) => {
                quantize_avx512::<false, false, false>(values, k, by, out, pauses)
            }
            (false, false, true) => {
                quantize_avx512::<false, false, true>(values, k, by, out, pauses)
            }
            (false, true, false) => {
                quantize_avx512::<false, true, false>(values, k, by, out, pauses)
            }
            (false, true, true) => quantize_avx512::<false, true, true>(values, k, by, out, pauses),
            (true, false, _) => quantize_avx512::<true, false, false>(values, k, by, out, pauses),
            (true, true, _) => quantize_avx512::<true, true, false>(values, k, by, out, pauses),
        }
    }
}

/// The flip that makes an `i8` the `u8` that is 128 more.
const UNSIGNED_FLIP: u8 = 0x80;

/// From which byte each code comes, in the order of the values: packing left four codes of each vector in every lane.
const ORDER: [u8; CODES] = {
    let mut order = [0; CODES];
    let mut place = 0;
    while place < CODES {
        let (vector, lane, code) = (place / 16, place / 4 % 4, place % 4);
        let first = [0, 1, 8, 9][vector];
        order[place] = (16 * lane + first + 2 * code) as u8;
        place += 1;
    }
    order
};

/// As [`quantize`]. `BOUNDED` if the codes have other bounds than an `i8`. `UNSIGNED` if `flip` is [`UNSIGNED_FLIP`], and
/// not 0: packing saturates to codes without a sign by itself. With `VBMI` bytes are put in order by one instruction.
///
/// # Safety
///
/// With `VBMI` the CPU must have AVX-512 VBMI.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
unsafe fn quantize_avx512<const BOUNDED: bool, const UNSIGNED: bool, const VBMI: bool>(
    values: &[f32],
    k: usize,
    by: By,
    out: &mut (impl Places + ?Sized),
    pauses: &mut Pauses<'_>,
) -> bool {
    const UNITS: f32 = 65536.0;
    let By {
        scale,
        codes,
        flip,
        far,
    } = by;
    let units = UNITS / scale;
    // Otherwise the reciprocal has lost digits, or is infinite.
    let precise = scale.is_normal() && units.is_normal() && (1.0 / scale).is_normal();
    let factor = _mm512_set1_ps(units);
    // At most 2²⁴ − 2¹⁵ + 4: exact.
    let half = (1 << 15) + i32::from(MARGIN);
    let offset_of = |zero_point: i32| _mm512_set1_ps(((zero_point << 16) + half) as f32);
    let shift = if UNSIGNED { 128 } else { 0 };
    let offset = offset_of(codes.zero_point + shift);
    let (min, max) = (
        _mm512_set1_epi8((codes.min + shift) as i8),
        _mm512_set1_epi8((codes.max + shift) as i8),
    );
    // Four codes of one vector after those of another; then those of the same vector together.
    let by_vectors = _mm512_broadcast_i32x4(_mm_setr_epi8(
        0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15,
    ));
    let in_order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    // SAFETY: 64 bytes.
    let order = unsafe { _mm512_loadu_si512(ORDER.as_ptr().cast()) };
    let near = _mm512_set1_epi16(2 * MARGIN);
    // Numbers with a reciprocal of fewer digits are all divided.
    let always = if precise { 0 } else { LOWER };

    // Which lanes may hold a tie; whatever else is set among those of upper halves.
    let step = |values: &[f32; STEP], out: &mut [u8; STEP]| {
        // The least of all lower halves, and, beside them, of all upper ones: those do not matter.
        let mut least = _mm512_set1_epi16(-1);
        let parts = values.as_chunks::<CODES>().0;
        for (values, out) in parts.iter().zip(out.as_chunks_mut::<CODES>().0) {
            if far {
                for line in 0..4 {
                    prefetch(values.as_ptr().wrapping_add(AHEAD + 16 * line));
                }
            }
            let mut units = [_mm512_setzero_si512(); 4];
            for (units, values) in units.iter_mut().zip(values.as_chunks::<16>().0) {
                // SAFETY: a reference to 16 values.
                let values = unsafe { _mm512_loadu_ps(values.as_ptr()) };
                *units = _mm512_cvtps_epi32(_mm512_fmadd_ps(values, factor, offset));
            }
            let [a, b, c, d] = units;
            let least_of_four = _mm512_min_epu16(_mm512_min_epu16(a, b), _mm512_min_epu16(c, d));
            least = _mm512_min_epu16(least, least_of_four);
            // A lane of 128 bits holds 4 codes of each vector.
            let (upper, lower) = (upper_halves(a, b), upper_halves(c, d));
            let bytes = if UNSIGNED {
                _mm512_packus_epi16(upper, lower)
            } else {
                _mm512_packs_epi16(upper, lower)
            };
            let mut bytes = if VBMI {
                // SAFETY: the CPU has VBMI, by the caller.
                unsafe { permuted(bytes, order) }
            } else {
                _mm512_permutexvar_epi32(in_order, _mm512_shuffle_epi8(bytes, by_vectors))
            };
            bytes = match (BOUNDED, UNSIGNED) {
                (true, false) => _mm512_min_epi8(_mm512_max_epi8(bytes, min), max),
                (true, true) => _mm512_min_epu8(_mm512_max_epu8(bytes, min), max),
                (false, _) => bytes,
            };
            // SAFETY: a reference to 64 bytes.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), bytes) };
        }
        _mm512_cmplt_epu16_mask(least, near)
    };
    for (row, values) in values.chunks_exact(k.max(1)).enumerate() {
        let (pieces, rest) = values.as_chunks::<PIECE>();
        let values_of_pieces = values.len() - rest.len();
        for (group, pieces) in pieces.chunks(PIECES).enumerate() {
            pauses.before(pieces.len() * PIECE);
            let first = group * PIECES * PIECE;
            let mut noted = [[0; PIECE / STEP]; PIECES];
            let mut any = always;
            for (i, (values, noted)) in pieces.iter().zip(&mut noted).enumerate() {
                let places = out.places(row, first + i * PIECE, PIECE);
                let steps = values.as_chunks().0.iter().zip(places.as_chunks_mut().0);
                for ((values, out), noted) in steps.zip(noted) {
                    *noted = step(values, out);
                    any |= *noted;
                }
            }
            if any & LOWER == 0 {
                continue;
            }
            let steps = pieces.as_flattened().as_chunks::<STEP>().0;
            for (i, (values, noted)) in steps.iter().zip(noted.as_flattened()).enumerate() {
                let ties = (noted | always) & LOWER;
                if ties != 0 {
                    let places = out.places(row, first + i * STEP, STEP);
                    if !look_again(ties, values, scale, codes, flip, places) {
                        return false;
                    }
                }
            }
        }
        // At most one.
        for values in rest.as_chunks::<STEP>().0 {
            pauses.before(STEP);
            let places = out.places(row, values_of_pieces, STEP);
            let ties = (step(values, &mut places.as_chunks_mut().0[0]) | always) & LOWER;
            if ties != 0 && !look_again(ties, values, scale, codes, flip, places) {
                return false;
            }
        }
    }
    let end = k - k % STEP;
    let offset = offset_of(codes.zero_point);
    (end..k).step_by(16).all(|first| {
        let columns = first..k.min(first + 16);
        pauses.before(values.len() / k * columns.len());
        quantize_columns(values, k, columns, [factor, offset], always, by, out)
    })
}

/// Writes the codes of up to 16 columns, given the factor and offset of units. Whether those values are finite.
///
/// For the few values at the end of each row: all rows share the masks, and no row waits for the end of another.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn quantize_columns(
    values: &[f32],
    k: usize,
    columns: Range<usize>,
    [factor, offset]: [__m512; 2],
    always: u32,
    by: By,
    out: &mut (impl Places + ?Sized),
) -> bool {
    let By {
        scale, codes, flip, ..
    } = by;
    let (min, max) = (
        _mm_set1_epi8(codes.min as i8),
        _mm_set1_epi8(codes.max as i8),
    );
    let flips = _mm_set1_epi8(flip.cast_signed());
    let near = _mm512_set1_epi16(2 * MARGIN);
    let there = u16::MAX >> (16 - columns.len());
    let units = |values: &[f32]| {
        // SAFETY: the mask leaves out what is beyond the values.
        let reals = unsafe { _mm512_maskz_loadu_ps(there, values[..columns.len()].as_ptr()) };
        _mm512_cvtps_epi32(_mm512_fmadd_ps(reals, factor, offset))
    };
    let ties_of = |units| _mm512_mask_cmplt_epu16_mask(LOWER, units, near) | always;
    let mut ties = 0;
    for (row, values) in values.chunks_exact(k).enumerate() {
        let units = units(&values[columns.clone()]);
        ties |= ties_of(units);
        let bytes = _mm512_cvtsepi32_epi8(_mm512_srai_epi32::<16>(units));
        let bytes = _mm_xor_si128(_mm_min_epi8(_mm_max_epi8(bytes, min), max), flips);
        let places = out.places(row, columns.start, columns.len());
        // SAFETY: the mask leaves out what is beyond the codes, of which there are as many as values.
        unsafe { _mm_mask_storeu_epi8(places.as_mut_ptr().cast(), there, bytes) };
    }
    if ties == 0 {
        return true;
    }
    values.chunks_exact(k).enumerate().all(|(row, values)| {
        let values = &values[columns.clone()];
        let places = out.places(row, columns.start, columns.len());
        ties_of(units(values)) == 0 || by_definition(values, scale, codes, flip, places)
    })
}

/// The upper halves of 16 numbers and of 16 others, in turns.
///
/// In assembly: the compiler makes it a permutation of any two vectors, which takes three times as long.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn upper_halves(first: __m512i, mut second: __m512i) -> __m512i {
    // Bytes of the second's lower halves, in whose places the first's come, moved down by two.
    const LOWER: __mmask64 = 0x3333_3333_3333_3333;
    // SAFETY: one instruction of AVX-512BW on registers.
    unsafe {
        asm!(
            "vpalignr {second} {{{lower}}}, {first}, {first}, 2",
            second = inout(zmm_reg) second,
            first = in(zmm_reg) first,
            lower = in(kreg) LOWER,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    second
}

/// Bytes in another order.
///
/// In assembly: the features that its callers have do not name the one it needs.
///
/// # Safety
///
/// The CPU must have AVX-512 VBMI.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn permuted(bytes: __m512i, order: __m512i) -> __m512i {
    let result;
    // SAFETY: one instruction on registers, which the CPU has, by the caller.
    unsafe {
        asm!(
            "vpermb {result}, {order}, {bytes}",
            result = lateout(zmm_reg) result,
            order = in(zmm_reg) order,
            bytes = in(zmm_reg) bytes,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    result
}

/// Decides by definition what may be a tie. Whether those values are finite.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
#[inline(never)]
fn look_again(
    ties: u32,
    values: &[f32; STEP],
    scale: f32,
    codes: Codes,
    flip: u8,
    out: &mut [u8],
) -> bool {
    if ties.count_ones() > FEW {
        by_definition(values, scale, codes, flip, out)
    } else {
        lanes_by_definition(ties, values, scale, codes, flip, out)
    }
}

/// The quotient's codes of those values that are in a lane of `ties`, which has two bits for each. Whether those are finite.
#[inline(always)]
fn lanes_by_definition(
    mut ties: u32,
    values: &[f32; STEP],
    scale: f32,
    codes: Codes,
    flip: u8,
    out: &mut [u8],
) -> bool {
    while ties != 0 {
        let lane = ties.trailing_zeros() as usize / 2;
        // All of the lane's values at once: which of them it is would take as long to find out.
        let picked: [f32; STEP / 16] = std::array::from_fn(|i| values[lane + 16 * i]);
        let mut picked_out = [0; STEP / 16];
        if !by_definition(&picked, scale, codes, flip, &mut picked_out) {
            return false;
        }
        for (out, code) in out[lane..].iter_mut().step_by(16).zip(picked_out) {
            *out = code;
        }
        ties &= ties - 1;
    }
    true
}

/// The quotient's codes. Whether all values are finite.
#[inline(always)]
fn by_definition(values: &[f32], scale: f32, codes: Codes, flip: u8, out: &mut [u8]) -> bool {
    let mut largest = 0;
    for (out, &value) in out.iter_mut().zip(values) {
        largest = largest.max(value.abs().to_bits());
        *out = codes.code(value / scale).cast_unsigned() ^ flip;
    }
    largest < f32::INFINITY.to_bits()
}

/// Asks for the cache line at an address, which may be any.
#[inline(always)]
fn prefetch<T>(address: *const T) {
    // SAFETY: SSE is part of x86-64, and a prefetch of any address is allowed.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
}
