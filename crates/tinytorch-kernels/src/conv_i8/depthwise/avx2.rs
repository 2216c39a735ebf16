//! Depthwise convolution with `vpmaddwd`, which adds two products of 16 bits to each of 8 sums: here two taps of 8 channels.
//!
//! Codes are widened to 16 bits and the two taps of a channel brought side by side, within lanes of 128 bits: sum `4 l + q` of vector
//! `v` is that of channel `8 l + 4 v + q`. Weights are packed in that order. The 8-bit multiplication `vpmaddubsw` saturates, so it
//! would not be exact.
#![expect(unsafe_code, reason = "vector loads, and calls that need CPU features")]

use std::arch::x86_64::*;

use super::Taps;
use crate::gemm_i8::ending::Ending;

/// Channels that are summed together.
pub(super) const CHANNELS: usize = 16;
/// Taps that are multiplied together.
pub(super) const TAPS: usize = 2;
/// Vectors of sums of 16 channels.
const VECTORS: usize = 2;

/// The proof that this CPU has AVX2: there is no other way to one than [`Avx2::new`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx2(());

/// Where the weight of a tap and channel is, if there are `groups` pairs of taps.
pub(super) fn index(tap: usize, channel: usize, groups: usize) -> usize {
    let (lane, vector, q) = (channel % 16 / 8, channel % 8 / 4, channel % 4);
    let vectors = (channel / CHANNELS * groups + tap / TAPS) * VECTORS + vector;
    16 * vectors + TAPS * (4 * lane + q) + tap % TAPS
}

impl Avx2 {
    /// The kernel, if this CPU can run it.
    pub fn new() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Self(()))
    }

    /// Computes one row of the ending: all channels at one place of the result.
    pub fn pixel(
        self,
        weights: &[i8],
        taps: &Taps<'_>,
        offsets: &[i32],
        row: usize,
        ending: &mut Ending<'_>,
    ) {
        // SAFETY: the CPU has the feature because `self` is the proof of it.
        unsafe { pixel(weights, taps, offsets, row, ending) };
    }
}

#[target_feature(enable = "avx2")]
fn pixel(weights: &[i8], taps: &Taps<'_>, offsets: &[i32], row: usize, ending: &mut Ending<'_>) {
    let channels = offsets.len();
    let groups = taps.slices().as_chunks::<TAPS>().0;
    let weights = weights.as_chunks::<16>().0.as_chunks::<VECTORS>().0;
    for block in 0..channels.div_ceil(CHANNELS) {
        let channel = block * CHANNELS;
        let width = CHANNELS.min(channels - channel);
        let mut sums = [_mm256_setzero_si256(); VECTORS];
        let weights = &weights[block * groups.len()..(block + 1) * groups.len()];
        for (taps, weights) in groups.iter().zip(weights) {
            let [a, b] = taps.map(|tap| widen(&tap[channel..]));
            let pairs = [_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b)];
            for ((sum, pair), weights) in sums.iter_mut().zip(pairs).zip(weights) {
                // The pair's products, at most 2 · 128 · 128 in magnitude, are added in 32 bits: exact.
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pair, widen(weights)));
            }
        }
        let in_order = [
            _mm256_permute2x128_si256::<0x20>(sums[0], sums[1]),
            _mm256_permute2x128_si256::<0x31>(sums[0], sums[1]),
        ];
        // SAFETY: both are 64 bytes, and any bits are i32.
        let sums: [i32; CHANNELS] = unsafe { std::mem::transmute(in_order) };
        let offsets = &offsets[channel..channel + width];
        ending.finish(row, channel, &sums[..width], offsets);
    }
}

/// The first 16 codes, zeros after the last.
#[target_feature(enable = "avx2")]
#[inline]
fn widen(codes: &[i8]) -> __m256i {
    let mut few = [0; 16];
    let codes = match codes.first_chunk::<16>() {
        Some(codes) => codes,
        None => {
            few[..codes.len()].copy_from_slice(codes);
            &few
        }
    };
    // SAFETY: a reference to 16 bytes.
    _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(codes.as_ptr().cast()) })
}
