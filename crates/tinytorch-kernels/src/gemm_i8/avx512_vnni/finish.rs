//! The end of a tile: offsets, then sums, codes or real numbers, straight from the registers.
#![expect(unsafe_code, reason = "vector loads and stores")]

use std::arch::x86_64::*;
use std::ops::Range;

use crate::gemm_i8::ending::{Codes, Ending, Scale};
use crate::gemm_i8::tiled::Place;

/// Fetches the lines that the tile will write: its rows are far apart, and writing them would wait for each.
#[target_feature(enable = "avx512f")]
#[inline]
pub(in crate::gemm_i8) fn fetch_output<const ROWS: usize>(place: &Place<'_, '_>) {
    for i in 0..ROWS {
        let start: *const i8 = match &*place.ending {
            Ending::Sums(out) => out.start_of(place.row + i).cast(),
            Ending::Reals { out, .. } | Ending::Rows { out, .. } => {
                out.start_of(place.row + i).cast()
            }
            Ending::Codes { out, .. } => {
                let start = out.start_of(place.row + i).wrapping_add(place.column);
                _mm_prefetch::<_MM_HINT_ET0>(start);
                continue;
            }
        };
        // Takes any address.
        let start = start.wrapping_add(4 * place.column);
        _mm_prefetch::<_MM_HINT_ET0>(start);
        _mm_prefetch::<_MM_HINT_ET0>(start.wrapping_add(64));
    }
}

/// Adds the offsets and writes what the ending asks for. `FULL`: all lanes of all vectors exist.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
pub(in crate::gemm_i8) fn finish<const ROWS: usize, const VECTORS: usize, const FULL: bool>(
    sums: [[__m512i; VECTORS]; ROWS],
    width: usize,
    Place {
        ending,
        offsets,
        row,
        column,
    }: Place<'_, '_>,
) {
    const { assert!(VECTORS == 1 || VECTORS == 2) };
    let columns = column..column + width;
    let offsets: [_; VECTORS] = load_i32s::<VECTORS, FULL>(offsets);
    match ending {
        Ending::Sums(out) => {
            for (i, sums) in sums.iter().enumerate() {
                let out = &mut out.row(row + i)[columns.clone()];
                for (vector, (&sum, &offset)) in sums.iter().zip(&offsets).enumerate() {
                    store_i32::<FULL>(out, vector, _mm512_add_epi32(sum, offset));
                }
            }
        }
        Ending::Codes {
            out,
            multipliers,
            codes,
        } => {
            let multipliers = load_f32s::<VECTORS, FULL>(&multipliers[columns.clone()]);
            let to_codes = ToCodes::new(offsets, multipliers, *codes);
            for (pair, sums) in sums.chunks(2).enumerate() {
                let first = row + 2 * pair;
                let halves = to_codes.rows(sums[0], sums[sums.len() - 1]);
                for (i, half) in halves.into_iter().enumerate().take(sums.len()) {
                    store_i8::<FULL>(&mut out.row(first + i)[columns.clone()], half);
                }
            }
        }
        Ending::Reals { out, scale } => {
            let scales: [_; VECTORS] = load_f32s::<VECTORS, FULL>(&scale.scales[columns.clone()]);
            let bias = load_bias::<VECTORS, FULL>(scale, columns.clone());
            let relu = relu_lanes(scale.relu);
            for (i, sums) in sums.iter().enumerate() {
                let out = &mut out.row(row + i)[columns.clone()];
                for vector in 0..VECTORS {
                    let sum = _mm512_add_epi32(sums[vector], offsets[vector]);
                    let value = scaled(sum, scales[vector], bias[vector], relu);
                    store_f32::<FULL>(out, vector, value);
                }
            }
        }
        Ending::Rows { out, rows, scale } => {
            let scales: [_; VECTORS] = load_f32s::<VECTORS, FULL>(&scale.scales[columns.clone()]);
            let bias = load_bias::<VECTORS, FULL>(scale, columns.clone());
            let relu = relu_lanes(scale.relu);
            for (i, (sums, by)) in sums.iter().zip(&rows[row..row + ROWS]).enumerate() {
                let out = &mut out.row(row + i)[columns.clone()];
                let (row_scale, excess) = by.get();
                let (excess, row_scale) = (_mm512_set1_epi32(excess), _mm512_set1_ps(row_scale));
                for vector in 0..VECTORS {
                    let offset = _mm512_mullo_epi32(offsets[vector], excess);
                    let sum = _mm512_add_epi32(sums[vector], offset);
                    let factor = _mm512_mul_ps(row_scale, scales[vector]);
                    let value = scaled(sum, factor, bias[vector], relu);
                    store_f32::<FULL>(out, vector, value);
                }
            }
        }
    }
}

/// How the sums of some columns become codes: in registers, made once for many rows.
#[derive(Clone, Copy)]
pub(in crate::gemm_i8) struct ToCodes<const VECTORS: usize> {
    offsets: [__m512i; VECTORS],
    multipliers: [__m512; VECTORS],
    high: __m512,
    zero_point: __m512i,
    min: __m512i,
    in_order: __m512i,
}

impl<const VECTORS: usize> ToCodes<VECTORS> {
    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn new(offsets: [__m512i; VECTORS], multipliers: [__m512; VECTORS], codes: Codes) -> Self {
        Self {
            offsets,
            multipliers,
            high: _mm512_set1_ps(codes.real_bounds().1),
            zero_point: _mm512_set1_epi16(codes.zero_point as i16),
            min: _mm512_set1_epi8(codes.min as i8),
            // The first vector of the first row, the second one, those of the second row.
            in_order: _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15),
        }
    }

    /// Those of so many columns, all of whose lanes exist.
    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    pub fn of_whole(offsets: &[i32], multipliers: &[f32], codes: Codes) -> Self {
        let offsets = load_i32s::<VECTORS, true>(offsets);
        Self::new(offsets, load_f32s::<VECTORS, true>(multipliers), codes)
    }

    /// The codes of a row, and of another.
    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    pub fn rows(&self, first: [__m512i; VECTORS], second: [__m512i; VECTORS]) -> [__m256i; 2] {
        let bytes = _mm512_packs_epi16(self.row(first), self.row(second));
        let bytes = _mm512_permutexvar_epi32(self.in_order, _mm512_max_epi8(bytes, self.min));
        [
            _mm512_castsi512_si256(bytes),
            _mm512_extracti64x4_epi64::<1>(bytes),
        ]
    }

    /// The codes of one row, in lanes of 128 bits: four of one vector, four of the other. What is less than 16 bits hold, or an i32
    /// does, saturates.
    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn row(&self, sums: [__m512i; VECTORS]) -> __m512i {
        let packed = _mm512_packs_epi32(self.rounded(sums, 0), self.rounded(sums, VECTORS - 1));
        _mm512_adds_epi16(packed, self.zero_point)
    }

    /// Rounded, at most the largest code, before the zero point is added.
    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn rounded(&self, sums: [__m512i; VECTORS], vector: usize) -> __m512i {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        let sum = _mm512_add_epi32(sums[vector], self.offsets[vector]);
        let value = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), self.multipliers[vector]);
        _mm512_cvt_roundps_epi32::<NEAREST>(_mm512_min_ps(value, self.high))
    }
}

/// `sum · factor + bias`, not fused (the definition rounds after the product), and 0 for what is not above 0 in the lanes of `relu`.
#[target_feature(enable = "avx512f")]
#[inline]
fn scaled(sum: __m512i, factor: __m512, bias: __m512, relu: __mmask16) -> __m512 {
    let value = _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sum), factor), bias);
    // The second operand is the result where the first is NaN; other lanes stay as they are, NaN too.
    _mm512_mask_max_ps(value, relu, value, _mm512_setzero_ps())
}

/// The lanes that ReLU ends: all or none.
#[inline]
fn relu_lanes(relu: bool) -> __mmask16 {
    if relu { !0 } else { 0 }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load_bias<const VECTORS: usize, const FULL: bool>(
    scale: &Scale<'_>,
    columns: Range<usize>,
) -> [__m512; VECTORS] {
    if scale.bias.is_empty() {
        [_mm512_setzero_ps(); VECTORS]
    } else {
        load_f32s::<VECTORS, FULL>(&scale.bias[columns])
    }
}

/// The lanes of vector `vector` that a slice of `len` elements has.
#[inline(always)]
fn lanes(len: usize, vector: usize) -> u16 {
    match len.saturating_sub(16 * vector) {
        len @ 0..16 => (1 << len) - 1,
        _ => !0,
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load_i32s<const VECTORS: usize, const FULL: bool>(values: &[i32]) -> [__m512i; VECTORS] {
    assert!(!FULL || values.len() == VECTORS * 16);
    let mut vectors = [_mm512_setzero_si512(); VECTORS];
    for (vector, loaded) in vectors.iter_mut().enumerate() {
        let start = values.as_ptr().wrapping_add(vector * 16);
        let lanes = if FULL {
            !0
        } else {
            lanes(values.len(), vector)
        };
        // SAFETY: the mask names only lanes that lie inside the slice; others are not touched.
        *loaded = unsafe { _mm512_maskz_loadu_epi32(lanes, start) };
    }
    vectors
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load_f32s<const VECTORS: usize, const FULL: bool>(values: &[f32]) -> [__m512; VECTORS] {
    assert!(!FULL || values.len() == VECTORS * 16);
    let mut vectors = [_mm512_setzero_ps(); VECTORS];
    for (vector, loaded) in vectors.iter_mut().enumerate() {
        let start = values.as_ptr().wrapping_add(vector * 16);
        let lanes = if FULL {
            !0
        } else {
            lanes(values.len(), vector)
        };
        // SAFETY: the mask names only lanes that lie inside the slice; others are not touched.
        *loaded = unsafe { _mm512_maskz_loadu_ps(lanes, start) };
    }
    vectors
}

/// The 16 elements of vector `vector` of a slice that has them all.
#[inline(always)]
fn whole<T>(values: &mut [T], vector: usize) -> &mut [T; 16] {
    let (vectors, _) = values.as_chunks_mut::<16>();
    &mut vectors[vector]
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store_i32<const FULL: bool>(out: &mut [i32], vector: usize, value: __m512i) {
    if FULL {
        // SAFETY: 16 elements.
        return unsafe { _mm512_storeu_si512(whole(out, vector).as_mut_ptr().cast(), value) };
    }
    let start = out.as_mut_ptr().wrapping_add(vector * 16);
    // SAFETY: the mask names only lanes that lie inside the slice; others are not touched.
    unsafe { _mm512_mask_storeu_epi32(start, lanes(out.len(), vector), value) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store_f32<const FULL: bool>(out: &mut [f32], vector: usize, value: __m512) {
    if FULL {
        // SAFETY: 16 elements.
        return unsafe { _mm512_storeu_ps(whole(out, vector).as_mut_ptr(), value) };
    }
    let start = out.as_mut_ptr().wrapping_add(vector * 16);
    // SAFETY: the mask names only lanes that lie inside the slice; others are not touched.
    unsafe { _mm512_mask_storeu_ps(start, lanes(out.len(), vector), value) }
}

/// The first codes, as many as there are: 16 or 32 if `FULL`.
#[target_feature(enable = "avx512bw,avx512vl")]
#[inline]
pub(in crate::gemm_i8) fn store_i8<const FULL: bool>(out: &mut [i8], codes: __m256i) {
    if FULL && let Some(out) = out.first_chunk_mut::<32>() {
        // SAFETY: 32 bytes.
        return unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), codes) };
    }
    let lanes = u32::MAX.unbounded_shr(32 - out.len().min(32) as u32);
    // SAFETY: the mask names only lanes that lie inside the slice; others are not touched.
    unsafe { _mm256_mask_storeu_epi8(out.as_mut_ptr(), lanes, codes) }
}
