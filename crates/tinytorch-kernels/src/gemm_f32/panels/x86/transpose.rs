//! A block of 16 x 16 numbers, transposed in registers.

use std::arch::x86_64::*;

use super::Line;

/// Writes column `i` of a block to `into[i]`.
///
/// Pairs, then pairs of pairs, within the quarters of the registers; then the quarters themselves.
#[target_feature(enable = "avx512f")]
pub(in super::super) fn transpose(
    block: [&[f32; Line::LEN]; Line::LEN],
    into: [&mut [f32; Line::LEN]; Line::LEN],
) {
    let mut rows = [_mm512_setzero_ps(); Line::LEN];
    for (row, block) in rows.iter_mut().zip(block) {
        // SAFETY: 16 elements.
        *row = unsafe { _mm512_loadu_ps(block.as_ptr()) };
    }
    let mut pairs = [_mm512_setzero_pd(); 16];
    for i in 0..8 {
        pairs[2 * i] = _mm512_castps_pd(_mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]));
        pairs[2 * i + 1] = _mm512_castps_pd(_mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]));
    }
    // fours[4 g + c]: rows 4 g..4 g + 4 of columns c, c + 4, c + 8, c + 12.
    let mut fours = [_mm512_setzero_ps(); 16];
    for g in 0..4 {
        for half in 0..2 {
            let (left, right) = (pairs[4 * g + half], pairs[4 * g + 2 + half]);
            fours[4 * g + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(left, right));
            fours[4 * g + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(left, right));
        }
    }
    for c in 0..4 {
        // Quarters q of the four vectors are column c + 4 q: a transposition of 4 x 4 quarters.
        let low = _mm512_shuffle_f32x4::<0b01_00_01_00>(fours[c], fours[4 + c]);
        let high = _mm512_shuffle_f32x4::<0b11_10_11_10>(fours[c], fours[4 + c]);
        let low_after = _mm512_shuffle_f32x4::<0b01_00_01_00>(fours[8 + c], fours[12 + c]);
        let high_after = _mm512_shuffle_f32x4::<0b11_10_11_10>(fours[8 + c], fours[12 + c]);
        let columns = [
            _mm512_shuffle_f32x4::<0b10_00_10_00>(low, low_after),
            _mm512_shuffle_f32x4::<0b11_01_11_01>(low, low_after),
            _mm512_shuffle_f32x4::<0b10_00_10_00>(high, high_after),
            _mm512_shuffle_f32x4::<0b11_01_11_01>(high, high_after),
        ];
        for (q, column) in columns.into_iter().enumerate() {
            // SAFETY: 16 elements.
            unsafe { _mm512_storeu_ps(into[c + 4 * q].as_mut_ptr(), column) };
        }
    }
}
