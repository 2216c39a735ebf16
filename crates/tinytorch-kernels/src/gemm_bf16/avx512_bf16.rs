//! The kernel for AVX-512 with BF16: `vdpbf16ps` multiplies 32 pairs of numbers and adds them, two by two, to 16 sums.
//!
//! A tile is 14 rows by 2 vectors of 16 columns: 28 of the 32 registers are sums, 2 hold a word of the columns, 1 a word
//! of a row.
#![expect(
    unsafe_code,
    reason = "vector loads and stores, and calls that need CPU features"
)]

use std::arch::x86_64::*;

use super::drive::{Start, Tile};
use super::pack::{Square, Words};
use crate::cpu::Vectors;

/// The proof that this CPU has AVX-512 and its BF16 part: there is no other way to one than [`Avx512Bf16::new`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512Bf16(Vectors);

impl Avx512Bf16 {
    /// The kernel, if this CPU can run it.
    pub fn new() -> Option<Self> {
        let vectors = Vectors::available().into_iter().next()?;
        let has = matches!(vectors, Vectors::Avx512(_)) && is_x86_feature_detected!("avx512bf16");
        has.then_some(Self(vectors))
    }

    /// 512 bits.
    pub(super) fn vectors(self) -> Vectors {
        self.0
    }

    pub(super) fn tile(self, tile: Tile<'_, '_>) {
        macro_rules! dispatch {
            ($($rows:literal)*) => {
                match (tile.rows, tile.width > 16) {
                    // SAFETY: the CPU has the features because `self` is the proof of it.
                    $(($rows, true) => unsafe { tile_of::<$rows, 2>(tile) },)*
                    // SAFETY: as above.
                    $(($rows, false) => unsafe { tile_of::<$rows, 1>(tile) },)*
                    (rows, _) => unreachable!("a tile of {rows} rows"),
                }
            };
        }
        dispatch!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    }
}

#[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512vl")]
fn tile_of<const ROWS: usize, const VECTORS: usize>(tile: Tile<'_, '_>) {
    let Tile {
        left,
        right,
        c,
        row,
        column,
        width,
        start,
        ..
    } = tile;
    let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
    let columns = column..column + width;
    if start == Start::There {
        for (i, sums) in sums.iter_mut().enumerate() {
            let out = &c.row(row + i)[columns.clone()];
            for (vector, sum) in sums.iter_mut().enumerate() {
                *sum = load_f32(&out[16 * vector..]);
            }
        }
    }
    let (left, _) = left.as_chunks::<ROWS>();
    for (rows, words) in left.iter().zip(right.chunks(16)) {
        for (p, words) in words.iter().enumerate() {
            let mut of_columns = [load(&words[0]); VECTORS];
            for (vector, of_columns) in of_columns.iter_mut().enumerate().skip(1) {
                *of_columns = load(&words[vector]);
            }
            for (sums, of_row) in sums.iter_mut().zip(rows) {
                // `p` is below 16: a chunk of the right side.
                let word = pairs(_mm512_set1_epi32(of_row.0[p % 16].cast_signed()));
                for (sum, &of_columns) in sums.iter_mut().zip(&of_columns) {
                    *sum = _mm512_dpbf16_ps(*sum, word, of_columns);
                }
            }
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        let out = &mut c.row(row + i)[columns.clone()];
        for (vector, &sum) in sums.iter().enumerate() {
            store_f32(&mut out[16 * vector..], sum);
        }
    }
}

/// 32 numbers.
#[target_feature(enable = "avx512f")]
#[inline]
fn pairs(words: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes, and any bits are numbers.
    unsafe { std::mem::transmute(words) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(words: &Words) -> __m512bh {
    // SAFETY: a reference to 64 bytes.
    pairs(unsafe { _mm512_loadu_si512(words.0.as_ptr().cast()) })
}

#[inline(always)]
fn lanes(len: usize) -> u16 {
    if len >= 16 { !0 } else { (1 << len) - 1 }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load_f32(values: &[f32]) -> __m512 {
    // SAFETY: the mask names only lanes that lie inside the slice; others are not touched.
    unsafe { _mm512_maskz_loadu_ps(lanes(values.len()), values.as_ptr()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store_f32(out: &mut [f32], value: __m512) {
    // SAFETY: the mask names only lanes that lie inside the slice; others are not touched.
    unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), lanes(out.len()), value) }
}

/// Exchanges lines and words.
///
/// # Panics
///
/// If the vectors are not those of AVX-512.
pub(super) fn transpose(vectors: Vectors, square: &mut Square) {
    assert!(matches!(vectors, Vectors::Avx512(_)), "needs AVX-512");
    // SAFETY: `Vectors::Avx512` is only made on CPUs that have it.
    unsafe { transpose_avx512(square) };
}

/// In four steps: neighbours exchange single words, pairs, quarters, halves.
#[target_feature(enable = "avx512f")]
fn transpose_avx512(square: &mut Square) {
    let mut lines = [_mm512_setzero_si512(); 16];
    for (line, words) in lines.iter_mut().zip(square.iter()) {
        // SAFETY: a reference to 64 bytes.
        *line = unsafe { _mm512_loadu_si512(words.0.as_ptr().cast()) };
    }
    let mut words = lines;
    for i in (0..16).step_by(2) {
        words[i] = _mm512_unpacklo_epi32(lines[i], lines[i + 1]);
        words[i + 1] = _mm512_unpackhi_epi32(lines[i], lines[i + 1]);
    }
    // Now quarter q of lines[4·g + w] is word 4·q + w of lines 4·g..4·g + 4.
    for i in (0..16).step_by(4) {
        lines[i] = _mm512_unpacklo_epi64(words[i], words[i + 2]);
        lines[i + 1] = _mm512_unpackhi_epi64(words[i], words[i + 2]);
        lines[i + 2] = _mm512_unpacklo_epi64(words[i + 1], words[i + 3]);
        lines[i + 3] = _mm512_unpackhi_epi64(words[i + 1], words[i + 3]);
    }
    for w in 0..4 {
        let [a, b, c, d] = [lines[w], lines[4 + w], lines[8 + w], lines[12 + w]];
        // Even and odd quarters of each pair of groups, then of both pairs.
        let (ab_even, ab_odd) = (
            _mm512_shuffle_i32x4::<0x88>(a, b),
            _mm512_shuffle_i32x4::<0xdd>(a, b),
        );
        let (cd_even, cd_odd) = (
            _mm512_shuffle_i32x4::<0x88>(c, d),
            _mm512_shuffle_i32x4::<0xdd>(c, d),
        );
        words[w] = _mm512_shuffle_i32x4::<0x88>(ab_even, cd_even);
        words[8 + w] = _mm512_shuffle_i32x4::<0xdd>(ab_even, cd_even);
        words[4 + w] = _mm512_shuffle_i32x4::<0x88>(ab_odd, cd_odd);
        words[12 + w] = _mm512_shuffle_i32x4::<0xdd>(ab_odd, cd_odd);
    }
    for (line, words) in words.iter().zip(square.iter_mut()) {
        // SAFETY: a reference to 64 bytes.
        unsafe { _mm512_storeu_si512(words.0.as_mut_ptr().cast(), *line) };
    }
}

/// Asks for the cache line at an address, which may be any.
#[inline(always)]
pub(super) fn prefetch<T>(address: *const T) {
    // SAFETY: SSE is part of x86-64, and a prefetch of any address is allowed.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
}
