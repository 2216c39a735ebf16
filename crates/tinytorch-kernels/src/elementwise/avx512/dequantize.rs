//! Dequantization on 512-bit vectors.
#![expect(
    unsafe_code,
    reason = "vector loads and stores, and calls that need CPU features"
)]

use std::arch::x86_64::*;

use super::{AHEAD, CODES, prefetch};
use crate::cpu::Vectors;

/// Values from which it pays to begin where a cache line does.
const LONG: usize = 2048;

/// A code of one byte.
pub(in crate::elementwise) trait Code: Copy + Default {
    const SIGNED: bool;
}

impl Code for i8 {
    const SIGNED: bool = true;
}

impl Code for u8 {
    const SIGNED: bool = false;
}

/// Dequantizes: `out = (code − zero_point) as f32 * scale`.
///
/// # Panics
///
/// If the vectors are not those of AVX-512, or the lengths differ.
pub(in crate::elementwise) fn dequantize<C: Code>(
    vectors: Vectors,
    codes: &[C],
    scale: f32,
    zero_point: i32,
    out: &mut [f32],
) {
    assert!(matches!(vectors, Vectors::Avx512(_)), "needs AVX-512");
    assert_eq!(codes.len(), out.len(), "one value per code");
    // SAFETY: `Vectors::Avx512` is only made on CPUs that have these features.
    unsafe { dequantize_avx512(codes, scale, zero_point, out) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn dequantize_avx512<C: Code>(codes: &[C], scale: f32, zero_point: i32, out: &mut [f32]) {
    let (scales, zeros) = (_mm512_set1_ps(scale), _mm512_set1_epi32(zero_point));
    let step = |codes: &[C; 16], out: &mut [f32; 16]| {
        // SAFETY: a reference to 16 codes of a byte.
        let codes = unsafe { _mm_loadu_si128(codes.as_ptr().cast()) };
        let codes = if C::SIGNED {
            _mm512_cvtepi8_epi32(codes)
        } else {
            _mm512_cvtepu8_epi32(codes)
        };
        let reals = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(codes, zeros)), scales);
        // SAFETY: a reference to 16 values.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), reals) };
    };
    let few = |codes: &[C], out: &mut [f32]| {
        let (mut filled, mut filled_out) = ([C::default(); 16], [0.0; 16]);
        filled[..codes.len()].copy_from_slice(codes);
        step(&filled, &mut filled_out);
        out.copy_from_slice(&filled_out[..codes.len()]);
    };
    // A vector written across two cache lines takes as long as two: worth a step for the first values, if many follow.
    let head = match out.len() {
        LONG.. => out.as_ptr().align_offset(64).min(15),
        _ => 0,
    };
    let (codes_head, codes) = codes.split_at(head);
    let (out_head, out) = out.split_at_mut(head);
    few(codes_head, out_head);
    let (lines, tail) = codes.as_chunks::<CODES>();
    let (out_lines, out_tail) = out.as_chunks_mut::<CODES>();
    for (codes, out) in lines.iter().zip(out_lines) {
        prefetch(codes.as_ptr().wrapping_add(4 * AHEAD));
        for (codes, out) in codes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
            step(codes, out);
        }
    }
    for (codes, out) in tail.chunks(16).zip(out_tail.chunks_mut(16)) {
        few(codes, out);
    }
}
