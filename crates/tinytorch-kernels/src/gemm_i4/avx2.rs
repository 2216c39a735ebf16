//! The kernel for AVX2 with FMA.
//!
//! For real activations four bits become an `f32` without a look-up or a conversion: put at the top of the fraction of 16.0 they
//! make it 16 + u, exactly, and 24 less is the code u − 8. For 8-bit activations a word comes apart into two times four bytes u, what
//! one lane of `vpmaddubsw` multiplies. It saturates in 16 bits, but not here: two products are at most 2 · 15 · 128 = 3840 in magnitude,
//! so eight of its results, those of four words, still fit when they are added.
#![expect(
    unsafe_code,
    reason = "vector loads and stores, and calls that need CPU features"
)]

use std::arch::x86_64::*;

use super::{CODES, COLUMNS, Panel, ROWS, Words};
use crate::cpu::Vectors;

/// Vectors whose sums are in registers at a time: half a panel.
const VECTORS: usize = 4;
/// Columns of them.
const HALF: usize = 8 * VECTORS;
/// Words whose products are added in 16 bits.
const WORDS_AT_ONCE: usize = 4;

/// The proof that this CPU has AVX2 and FMA.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2 {
    vectors: Vectors,
}

impl Avx2 {
    /// The kernel, if these vectors are wide enough.
    pub fn new(vectors: Vectors) -> Option<Self> {
        match vectors {
            Vectors::Avx2(_) | Vectors::Avx512(_) => Some(Self { vectors }),
            Vectors::Baseline => None,
        }
    }

    /// Those it was made with.
    pub fn vectors(self) -> Vectors {
        self.vectors
    }

    /// Adds the products of `rows` rows to their totals.
    pub(super) fn real(
        self,
        panel: Panel<'_>,
        activations: &[[f32; CODES]],
        rows: usize,
        totals: &mut [[f32; COLUMNS]; ROWS],
    ) {
        match rows {
            // SAFETY: the CPU has the features because `self` is the proof of it.
            1 => unsafe { real::<1>(panel, activations, totals) },
            // SAFETY: as above.
            2 => unsafe { real::<2>(panel, activations, totals) },
            // SAFETY: as above.
            _ => unsafe { real::<3>(panel, activations, totals) },
        }
    }

    /// As [`real`](Self::real), for codes with their even ones first.
    pub(super) fn codes(
        self,
        panel: Panel<'_>,
        activations: &[[i8; CODES]],
        zero_points: &[i32],
        totals: &mut [[f32; COLUMNS]; ROWS],
    ) {
        let shifted = zero_points.iter().any(|&zero_point| zero_point != 0);
        let rows = zero_points.len();
        for (row, totals) in totals.iter_mut().enumerate().take(rows) {
            // SAFETY: the CPU has the features because `self` is the proof of it.
            unsafe {
                if shifted {
                    codes::<true>(panel, activations, row, zero_points, totals);
                } else {
                    codes::<false>(panel, activations, row, zero_points, totals);
                }
            }
        }
    }
}

#[target_feature(enable = "avx2,fma")]
fn real<const N: usize>(
    panel: Panel<'_>,
    activations: &[[f32; CODES]],
    totals: &mut [[f32; COLUMNS]; ROWS],
) {
    // The upper four bits of a fraction; 16.0; 24.0.
    let fraction = _mm256_set1_epi32(0x0078_0000);
    let sixteen = _mm256_set1_epi32(16.0_f32.to_bits().cast_signed());
    let excess = _mm256_set1_ps(24.0);
    let groups = panel.words.chunks(panel.words_of_group);
    let activations = activations.chunks(N * panel.words_of_group);
    for ((words, activations), scales) in groups.zip(activations).zip(panel.scales) {
        for half in 0..2 {
            let mut sums = [[_mm256_setzero_ps(); VECTORS]; N];
            for (words, pieces) in words.iter().zip(activations.as_chunks::<N>().0) {
                let columns = load(words, half);
                macro_rules! each_code {
                    ($($p:literal $shift:ident $bits:literal),*) => {$({
                        let a: [__m256; N] = std::array::from_fn(|i| _mm256_set1_ps(pieces[i][$p]));
                        for (vector, &columns) in columns.iter().enumerate() {
                            let bits = _mm256_and_si256($shift::<$bits>(columns), fraction);
                            let more = _mm256_castsi256_ps(_mm256_or_si256(bits, sixteen));
                            let codes = _mm256_sub_ps(more, excess);
                            for (sums, &a) in sums.iter_mut().zip(&a) {
                                sums[vector] = _mm256_fmadd_ps(a, codes, sums[vector]);
                            }
                        }
                    })*};
                }
                // From bit 4p to bit 19.
                each_code!(
                    0 _mm256_slli_epi32 19, 1 _mm256_slli_epi32 15, 2 _mm256_slli_epi32 11, 3 _mm256_slli_epi32 7,
                    4 _mm256_slli_epi32 3, 5 _mm256_srli_epi32 1, 6 _mm256_srli_epi32 5, 7 _mm256_srli_epi32 9
                );
            }
            let scales = scales.0.as_flattened();
            for (sums, totals) in sums.iter().zip(totals.iter_mut()) {
                add_scaled(sums, &scales[half * HALF..], &mut totals[half * HALF..]);
            }
        }
    }
}

#[target_feature(enable = "avx2,fma")]
fn codes<const SHIFTED: bool>(
    panel: Panel<'_>,
    activations: &[[i8; CODES]],
    row: usize,
    zero_points: &[i32],
    totals: &mut [f32; COLUMNS],
) {
    let (rows, zero_point) = (zero_points.len(), zero_points[row]);
    let nibbles = _mm256_set1_epi8(0xf);
    let ones = _mm256_set1_epi8(1);
    let wide_ones = _mm256_set1_epi16(1);
    let groups = panel.words.chunks(panel.words_of_group);
    let activations = activations.chunks(rows * panel.words_of_group);
    for ((words, activations), scales) in groups.zip(activations).zip(panel.scales) {
        let of_row = activations[row..].iter().step_by(rows).flatten();
        let of_row: i32 = of_row.map(|&a| i32::from(a)).sum();
        for half in 0..2 {
            let mut sums = [_mm256_setzero_si256(); VECTORS];
            let mut of_weights = [_mm256_setzero_si256(); VECTORS];
            let at_once = words.chunks(WORDS_AT_ONCE);
            for (words, pieces) in at_once.zip(activations.chunks(rows * WORDS_AT_ONCE)) {
                let mut short = [_mm256_setzero_si256(); VECTORS];
                let mut short_weights = [_mm256_setzero_si256(); VECTORS];
                for (words, piece) in words.iter().zip(pieces[row..].iter().step_by(rows)) {
                    let quads = piece.as_chunks::<4>().0;
                    let quad = |i: usize| {
                        _mm256_set1_epi32(i32::from_ne_bytes(quads[i].map(i8::cast_unsigned)))
                    };
                    let (first, second) = (quad(0), quad(1));
                    for (vector, words) in load(words, half).into_iter().enumerate() {
                        let even = _mm256_and_si256(words, nibbles);
                        let odd = _mm256_and_si256(_mm256_srli_epi32::<4>(words), nibbles);
                        let products = _mm256_add_epi16(
                            _mm256_maddubs_epi16(even, first),
                            _mm256_maddubs_epi16(odd, second),
                        );
                        short[vector] = _mm256_add_epi16(short[vector], products);
                        if SHIFTED {
                            // At most 4 · 30 in a byte.
                            let both = _mm256_add_epi8(even, odd);
                            short_weights[vector] = _mm256_add_epi8(short_weights[vector], both);
                        }
                    }
                }
                for vector in 0..VECTORS {
                    let sum = _mm256_madd_epi16(short[vector], wide_ones);
                    sums[vector] = _mm256_add_epi32(sums[vector], sum);
                    if SHIFTED {
                        let sum = _mm256_maddubs_epi16(short_weights[vector], ones);
                        let sum = _mm256_madd_epi16(sum, wide_ones);
                        of_weights[vector] = _mm256_add_epi32(of_weights[vector], sum);
                    }
                }
            }
            // Σ (a − z)·c = Σ a·(c + 8) − 8·Σ a − z·Σ (c + 8) + 8·z·count
            let count = (CODES * words.len()) as i32;
            let constant = _mm256_set1_epi32(8 * (zero_point * count - of_row));
            let zero_point = _mm256_set1_epi32(zero_point);
            let mut reals = [_mm256_setzero_ps(); VECTORS];
            for (vector, real) in reals.iter_mut().enumerate() {
                let mut sum = _mm256_add_epi32(sums[vector], constant);
                if SHIFTED {
                    let of_weights = _mm256_mullo_epi32(of_weights[vector], zero_point);
                    sum = _mm256_sub_epi32(sum, of_weights);
                }
                *real = _mm256_cvtepi32_ps(sum);
            }
            let scales = scales.0.as_flattened();
            add_scaled(&reals, &scales[half * HALF..], &mut totals[half * HALF..]);
        }
    }
}

/// `totals += sums · scales`, of half a panel.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn add_scaled(sums: &[__m256; VECTORS], scales: &[f32], totals: &mut [f32]) {
    let scales = scales.as_chunks::<8>().0;
    let totals = totals.as_chunks_mut::<8>().0;
    for ((&sum, scales), total) in sums.iter().zip(scales).zip(totals) {
        // SAFETY: a reference to 8 values.
        let scales = unsafe { _mm256_loadu_ps(scales.as_ptr()) };
        // SAFETY: a reference to 8 values.
        let before = unsafe { _mm256_loadu_ps(total.as_ptr()) };
        let after = _mm256_fmadd_ps(sum, scales, before);
        // SAFETY: a reference to 8 values.
        unsafe { _mm256_storeu_ps(total.as_mut_ptr(), after) };
    }
}

/// The words of half a panel.
#[target_feature(enable = "avx2")]
#[inline]
fn load(words: &Words, half: usize) -> [__m256i; VECTORS] {
    let words = words.0[2 * half..].as_flattened().as_chunks::<8>().0;
    let mut loaded = [_mm256_setzero_si256(); VECTORS];
    for (loaded, words) in loaded.iter_mut().zip(words) {
        // SAFETY: a reference to 32 bytes.
        *loaded = unsafe { _mm256_loadu_si256(words.as_ptr().cast()) };
    }
    loaded
}
