//! Depthwise convolution with `vpdpbusd`, which adds four products to each of 16 sums: here four taps of 16 channels.
//!
//! The four taps of a channel must lie side by side, and are brought there by two rounds of interleaving, within lanes of 128 bits:
//!
//! ```text
//! taps a, b, c, d of 64 channels     a0 a1 a2 ...    b0 b1 b2 ...    c0 c1 c2 ...    d0 d1 d2 ...
//! bytes interleaved                  a0 b0 a1 b1 ... of channels 16 l + 0..8 and + 8..16, for lane l;  c0 d0 c1 d1 ...
//! pairs interleaved                  a0 b0 c0 d0 a1 b1 c1 d1 ...: sum 4 l + q of vector v is that of channel 16 l + 4 v + q
//! ```
//!
//! Weights are packed, and bias and multipliers brought, into that order. Packing sums to codes then undoes it: it works within lanes too.
//! Source of the instruction's use for depthwise windows: XNNPACK's `dwconv` kernels, which read taps through pointers as well.
#![expect(
    unsafe_code,
    reason = "vector loads and stores, and calls that need CPU features"
)]

use std::arch::x86_64::*;

use super::Taps;
use crate::gemm_i8::ending::Ending;

/// Channels that are summed together.
pub(super) const CHANNELS: usize = 64;
/// Taps that are multiplied together.
pub(super) const TAPS: usize = 4;
/// Vectors of sums of 64 channels.
const VECTORS: usize = 4;

/// The proof that this CPU has AVX-512 F, BW, VL and VNNI: there is no other way to one than [`Avx512Vnni::new`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx512Vnni(());

/// What the channels of the result need, in the order of the sums; blocks of 64 channels, zeros after the last.
pub(super) struct Columns {
    offsets: Vec<[i32; CHANNELS]>,
    multipliers: Vec<[f32; CHANNELS]>,
}

/// The place of a channel among the sums of its block.
fn place(channel: usize) -> usize {
    let (lane, vector, q) = (channel % 64 / 16, channel % 16 / 4, channel % 4);
    16 * vector + 4 * lane + q
}

/// Where the weight of a tap and channel is, if there are `groups` groups of four taps.
pub(super) fn index(tap: usize, channel: usize, groups: usize) -> usize {
    let vectors = (channel / CHANNELS * groups + tap / TAPS) * VECTORS;
    64 * vectors + TAPS * place(channel) + tap % TAPS
}

impl Columns {
    pub fn new(offsets: &[i32], ending: &Ending<'_>) -> Self {
        let blocks = offsets.len().div_ceil(CHANNELS);
        let mut columns = Self {
            offsets: vec![[0; CHANNELS]; blocks],
            multipliers: vec![[0.0; CHANNELS]; blocks],
        };
        for (channel, &offset) in offsets.iter().enumerate() {
            columns.offsets[channel / CHANNELS][place(channel)] = offset;
        }
        if let Ending::Codes { multipliers, .. } = ending {
            for (channel, &multiplier) in multipliers.iter().enumerate() {
                columns.multipliers[channel / CHANNELS][place(channel)] = multiplier;
            }
        }
        columns
    }
}

impl Avx512Vnni {
    /// The kernel, if this CPU can run it.
    pub fn new() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni");
        has.then_some(Self(()))
    }

    /// Computes one row of the ending: all channels at one place of the result.
    pub fn pixel(
        self,
        weights: &[i8],
        taps: &Taps<'_>,
        columns: &Columns,
        offsets: &[i32],
        row: usize,
        ending: &mut Ending<'_>,
    ) {
        // SAFETY: the CPU has the features because `self` is the proof of it.
        unsafe { pixel(weights, taps, columns, offsets, row, ending) };
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn pixel(
    weights: &[i8],
    taps: &Taps<'_>,
    columns: &Columns,
    offsets: &[i32],
    row: usize,
    ending: &mut Ending<'_>,
) {
    let channels = offsets.len();
    let groups = taps.slices().as_chunks::<TAPS>().0;
    let weights = weights.as_chunks::<64>().0.as_chunks::<VECTORS>().0;
    for block in 0..channels.div_ceil(CHANNELS) {
        let channel = block * CHANNELS;
        let width = CHANNELS.min(channels - channel);
        let lanes = !0 >> (CHANNELS - width);
        let weights = &weights[block * groups.len()..(block + 1) * groups.len()];
        let mut sums = [_mm512_setzero_si512(); VECTORS];
        if width == CHANNELS {
            for (taps, weights) in groups.iter().zip(weights) {
                multiply_add(&mut sums, taps.map(|tap| load(tap, channel)), weights);
            }
        } else {
            for (taps, weights) in groups.iter().zip(weights) {
                let taps = taps.map(|tap| load_lanes(tap, channel, lanes));
                multiply_add(&mut sums, taps, weights);
            }
        }
        match ending {
            Ending::Codes { out, codes, .. } => {
                let (low, high) = codes.real_bounds();
                let (low, high) = (_mm512_set1_ps(low), _mm512_set1_ps(high));
                let by = columns.offsets[block].as_chunks::<16>().0.iter();
                let by = by.zip(columns.multipliers[block].as_chunks::<16>().0);
                for (sum, (offsets, multipliers)) in sums.iter_mut().zip(by) {
                    // SAFETY: a reference to 16 numbers.
                    let offsets = unsafe { _mm512_loadu_si512(offsets.as_ptr().cast()) };
                    // SAFETY: as above.
                    let multipliers = unsafe { _mm512_loadu_ps(multipliers.as_ptr()) };
                    let value = _mm512_cvtepi32_ps(_mm512_add_epi32(*sum, offsets));
                    let value = _mm512_mul_ps(value, multipliers);
                    let value = _mm512_min_ps(_mm512_max_ps(value, low), high);
                    const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
                    *sum = _mm512_cvt_roundps_epi32::<NEAREST>(value);
                }
                // Without their zero point codes are within ±255, with it they are bytes.
                let zero_point = _mm512_set1_epi16(codes.zero_point as i16);
                let halves = [(sums[0], sums[1]), (sums[2], sums[3])]
                    .map(|(a, b)| _mm512_add_epi16(_mm512_packs_epi32(a, b), zero_point));
                let bytes = _mm512_packs_epi16(halves[0], halves[1]);
                let out = &mut out.row(row)[channel..channel + width];
                // SAFETY: the mask names `width` bytes, which the slice has.
                unsafe { _mm512_mask_storeu_epi8(out.as_mut_ptr(), lanes, bytes) };
            }
            _ => {
                // SAFETY: both are 256 bytes, and any bits are i32.
                let sums: [i32; CHANNELS] = unsafe { std::mem::transmute(sums) };
                let in_order: [i32; CHANNELS] = std::array::from_fn(|i| sums[place(i)]);
                let offsets = &offsets[channel..channel + width];
                ending.finish(row, channel, &in_order[..width], offsets);
            }
        }
    }
}

/// Adds the products of four taps of 64 channels.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn multiply_add(
    sums: &mut [__m512i; VECTORS],
    [a, b, c, d]: [__m512i; TAPS],
    weights: &[[i8; 64]; VECTORS],
) {
    let (ab, cd) = (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d));
    let (ab_high, cd_high) = (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d));
    let quads = [
        _mm512_unpacklo_epi16(ab, cd),
        _mm512_unpackhi_epi16(ab, cd),
        _mm512_unpacklo_epi16(ab_high, cd_high),
        _mm512_unpackhi_epi16(ab_high, cd_high),
    ];
    for ((sum, quad), weights) in sums.iter_mut().zip(quads).zip(weights) {
        // SAFETY: a reference to 64 bytes.
        let weights = unsafe { _mm512_loadu_si512(weights.as_ptr().cast()) };
        *sum = _mm512_dpbusd_epi32(*sum, quad, weights);
    }
}

/// 64 codes of a tap from `channel` on, made unsigned by flipping the sign bits.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn load(tap: &[i8], channel: usize) -> __m512i {
    let codes = &tap[channel..channel + CHANNELS];
    // SAFETY: 64 bytes.
    let codes = unsafe { _mm512_loadu_si512(codes.as_ptr().cast()) };
    _mm512_xor_si512(codes, _mm512_set1_epi8(-128))
}

/// As [`load`], of the last channels.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn load_lanes(tap: &[i8], channel: usize, lanes: __mmask64) -> __m512i {
    let codes = &tap[channel..];
    assert!(codes.len() >= 64 - lanes.leading_zeros() as usize);
    // SAFETY: the mask names only bytes that lie inside the slice, by the assertion; others are not touched.
    let codes = unsafe { _mm512_maskz_loadu_epi8(lanes, codes.as_ptr()) };
    _mm512_xor_si512(codes, _mm512_set1_epi8(-128))
}
