//! The kernel for AVX-512 with VNNI.
//!
//! A vector of words holds 8 codes of each of 16 columns. For real activations a code becomes an `f32` by a look-up in a
//! register (`vpermps` looks at four bits of an index and at no others): a shift, a look-up and a fused multiply-add per
//! 16 codes. For 8-bit activations a word comes apart into two times four bytes, what one lane of `vpdpbusd` multiplies.
#![expect(
    unsafe_code,
    reason = "vector loads and stores, and calls that need CPU features"
)]

use std::arch::x86_64::*;

use super::{CODES, COLUMNS, Panel, ROWS};

/// Vectors of a panel.
const VECTORS: usize = COLUMNS / 16;
/// Bytes by which words are fetched ahead.
const PREFETCH: usize = 2048;

/// The proof that this CPU has AVX-512 F, BW, VL and VNNI: there is no other way to one than [`Avx512::new`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// The kernel, if this CPU can run it.
    pub fn new() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("fma");
        has.then_some(Self(()))
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
        match (zero_points.len(), shifted) {
            // SAFETY: the CPU has the features because `self` is the proof of it.
            (1, false) => unsafe { codes::<1, false>(panel, activations, zero_points, totals) },
            // SAFETY: as above.
            (1, true) => unsafe { codes::<1, true>(panel, activations, zero_points, totals) },
            // SAFETY: as above.
            (2, false) => unsafe { codes::<2, false>(panel, activations, zero_points, totals) },
            // SAFETY: as above.
            (2, true) => unsafe { codes::<2, true>(panel, activations, zero_points, totals) },
            // SAFETY: as above.
            (_, false) => unsafe { codes::<3, false>(panel, activations, zero_points, totals) },
            // SAFETY: as above.
            (_, true) => unsafe { codes::<3, true>(panel, activations, zero_points, totals) },
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,fma")]
fn real<const N: usize>(
    panel: Panel<'_>,
    activations: &[[f32; CODES]],
    totals: &mut [[f32; COLUMNS]; ROWS],
) {
    let mut values = [0.0; 16];
    for (code, value) in (-8_i8..).zip(&mut values) {
        *value = f32::from(code);
    }
    // SAFETY: a reference to 16 values.
    let values = unsafe { _mm512_loadu_ps(values.as_ptr()) };
    let groups = panel.words.chunks(panel.words_of_group);
    let activations = activations.chunks(N * panel.words_of_group);
    for ((words, activations), scales) in groups.zip(activations).zip(panel.scales) {
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; N];
        for (words, pieces) in words.iter().zip(activations.as_chunks::<N>().0) {
            fetch_ahead(words);
            let columns = words.0.each_ref().map(|words| load(words));
            macro_rules! each_code {
                ($($p:literal)*) => {$(
                    for (vector, &columns) in columns.iter().enumerate() {
                        let index = _mm512_srli_epi32::<{ 4 * $p }>(columns);
                        let codes = _mm512_permutexvar_ps(index, values);
                        for (sums, piece) in sums.iter_mut().zip(pieces) {
                            let a = _mm512_set1_ps(piece[$p]);
                            sums[vector] = _mm512_fmadd_ps(a, codes, sums[vector]);
                        }
                    }
                )*};
            }
            each_code!(0 1 2 3 4 5 6 7);
        }
        add_scaled(&sums, &scales.0, totals);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma")]
fn codes<const N: usize, const SHIFTED: bool>(
    panel: Panel<'_>,
    activations: &[[i8; CODES]],
    zero_points: &[i32],
    totals: &mut [[f32; COLUMNS]; ROWS],
) {
    let nibbles = _mm512_set1_epi8(0xf);
    let ones = _mm512_set1_epi8(1);
    let groups = panel.words.chunks(panel.words_of_group);
    let activations = activations.chunks(N * panel.words_of_group);
    for ((words, activations), scales) in groups.zip(activations).zip(panel.scales) {
        let mut sums = [[_mm512_setzero_si512(); VECTORS]; N];
        // Σ (code + 8): what one unit of zero point takes off.
        let mut of_weights = [_mm512_setzero_si512(); VECTORS];
        // Σ activation: 8 times it is what the codes that are 8 too large add.
        let mut of_row = [0_i32; N];
        for (words, pieces) in words.iter().zip(activations.as_chunks::<N>().0) {
            fetch_ahead(words);
            let mut quads = [[_mm512_setzero_si512(); 2]; N];
            for ((quads, of_row), piece) in quads.iter_mut().zip(&mut of_row).zip(pieces) {
                let quad = |first: usize| {
                    let quad: [i8; 4] = std::array::from_fn(|i| piece[first + i]);
                    _mm512_set1_epi32(i32::from_ne_bytes(quad.map(i8::cast_unsigned)))
                };
                *quads = [quad(0), quad(4)];
                *of_row += piece.iter().map(|&a| i32::from(a)).sum::<i32>();
            }
            for (vector, words) in words.0.iter().enumerate() {
                let words = load(words);
                let even = _mm512_and_si512(words, nibbles);
                let odd = _mm512_and_si512(_mm512_srli_epi32::<4>(words), nibbles);
                for (sums, [first, second]) in sums.iter_mut().zip(&quads) {
                    let sum = _mm512_dpbusd_epi32(sums[vector], even, *first);
                    sums[vector] = _mm512_dpbusd_epi32(sum, odd, *second);
                }
                if SHIFTED {
                    let sum = _mm512_dpbusd_epi32(of_weights[vector], even, ones);
                    of_weights[vector] = _mm512_dpbusd_epi32(sum, odd, ones);
                }
            }
        }
        // Σ (a − z)·c = Σ a·(c + 8) − 8·Σ a − z·Σ (c + 8) + 8·z·count
        let count = (CODES * words.len()) as i32;
        let mut reals = [[_mm512_setzero_ps(); VECTORS]; N];
        for (i, reals) in reals.iter_mut().enumerate() {
            let zero_point = zero_points[i];
            let constant = _mm512_set1_epi32(8 * (zero_point * count - of_row[i]));
            let zero_point = _mm512_set1_epi32(zero_point);
            for (vector, real) in reals.iter_mut().enumerate() {
                let mut sum = _mm512_add_epi32(sums[i][vector], constant);
                if SHIFTED {
                    let of_weights = _mm512_mullo_epi32(of_weights[vector], zero_point);
                    sum = _mm512_sub_epi32(sum, of_weights);
                }
                *real = _mm512_cvtepi32_ps(sum);
            }
        }
        add_scaled(&reals, &scales.0, totals);
    }
}

/// `totals += sums · scales`.
#[target_feature(enable = "avx512f,fma")]
#[inline]
fn add_scaled<const N: usize>(
    sums: &[[__m512; VECTORS]; N],
    scales: &[[f32; 16]; VECTORS],
    totals: &mut [[f32; COLUMNS]; ROWS],
) {
    for (vector, scales) in scales.iter().enumerate() {
        // SAFETY: a reference to 16 values.
        let scales = unsafe { _mm512_loadu_ps(scales.as_ptr()) };
        for (sums, totals) in sums.iter().zip(totals.iter_mut()) {
            let total = &mut totals.as_chunks_mut::<16>().0[vector];
            // SAFETY: a reference to 16 values.
            let sum = unsafe { _mm512_loadu_ps(total.as_ptr()) };
            let sum = _mm512_fmadd_ps(sums[vector], scales, sum);
            // SAFETY: a reference to 16 values.
            unsafe { _mm512_storeu_ps(total.as_mut_ptr(), sum) };
        }
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(words: &[u32; 16]) -> __m512i {
    // SAFETY: a reference to 64 bytes.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

/// Asks for the words that come after these.
#[inline(always)]
fn fetch_ahead(words: &super::Words) {
    for vector in &words.0 {
        let address = vector.as_ptr().wrapping_byte_add(PREFETCH);
        // SAFETY: SSE is part of x86-64, and a prefetch of any address is allowed.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
}
