//! The kernel for AVX-512 with VNNI: `vpdpbusd` multiplies 64 pairs of bytes and adds them, four by four, to 16 sums.
//!
//! The instruction wants one side unsigned, so activations are shifted by 128 (the sign bit is flipped); the offsets
//! take off what this adds to a sum, 128 times the sum of the weights. A tile is 14 rows by 2 vectors of 16 columns: 28
//! of the 32 registers are sums, 2 hold weights, 1 an activation, and each load of weights serves 14 multiplications.
#![expect(
    unsafe_code,
    reason = "vector loads and stores, and calls that need CPU features"
)]

pub(super) mod finish;
pub(super) mod one_row;
mod windows;

use std::arch::x86_64::*;
use std::hint::black_box;

use finish::{fetch_output, finish};

use super::ending::Ending;
use super::lines::Lines;
use super::tiled::{self, BLOCK, Block, Micro, Panel, Place};
use super::windows::WindowKernel;
use super::{GemmI8, Task};

/// Bytes of weights by which they are fetched ahead: 16 groups, more cycles than the second cache takes to answer.
const PREFETCH: usize = 2048;

/// The proof that this CPU has AVX-512 F, BW, VL and VNNI: there is no other way to one than [`Avx512Vnni::new`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx512Vnni(());

impl Avx512Vnni {
    /// The kernel, if this CPU can run it.
    pub fn new() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni");
        has.then_some(Self(()))
    }
}

impl GemmI8 for Avx512Vnni {
    fn name(&self) -> &'static str {
        "i8i8i32-avx512vnni-14x32"
    }

    fn tile(&self) -> [usize; 2] {
        [Self::ROWS, Self::COLUMNS]
    }

    fn pack(&self, n: usize, k: usize, weights: &[i8]) -> Lines {
        tiled::pack::<Self>(n, k, weights)
    }

    fn activation_shift(&self) -> i32 {
        128
    }

    fn windows(&self, _inputs: usize) -> Option<&dyn WindowKernel> {
        Some(self)
    }

    fn ceiling(&self) -> Option<u64> {
        // SAFETY: the CPU has the features because `self` is the proof of it.
        Some(unsafe { ceiling() })
    }

    fn run(&self, task: Task<'_>) {
        tiled::run(self, task);
    }
}

/// `vpdpbusd` alone, into enough sums that none waits for its own last result.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn ceiling() -> u64 {
    const SUMS: usize = 24;
    const ROUNDS: usize = 10_000;
    let factor = _mm512_set1_epi32(black_box(0x0102_0304));
    let mut sums = [_mm512_setzero_si512(); SUMS];
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, factor, factor);
        }
    }
    black_box(sums);
    // 64 products, each of them added.
    (ROUNDS * SUMS * 2 * 64) as u64
}

/// Calls `tile::<rows, vectors, unroll>` for the rows and width at hand.
macro_rules! dispatch {
    ($rows:expr, $width:expr, $arguments:tt, $($mr:literal: $unroll:literal),*) => {
        match ($rows, $width > 16) {
            // SAFETY: the CPU has the features because `self` is the proof of it.
            $(($mr, true) => unsafe { tile::<$mr, 2, $unroll> $arguments },)*
            // SAFETY: as above.
            $(($mr, false) => unsafe { tile::<$mr, 1, $unroll> $arguments },)*
            (rows, _) => unreachable!("a tile of {rows} rows"),
        }
    };
}

impl Micro for Avx512Vnni {
    const COLUMNS: usize = 32;
    const LANES: usize = 16;
    const ROWS: usize = 14;
    const CODES: usize = 4;
    const FLIP: Option<u8> = Some(0x80);

    fn encode(&self, codes: &[i8], words: &mut [i32]) {
        // SAFETY: the CPU has the features because `self` is the proof of it.
        unsafe { encode(codes, words) };
    }

    fn tile(&self, rows: usize, activations: &[Block], panel: Panel<'_>, place: Place<'_, '_>) {
        // Few rows are unrolled along k: `vpdpbusd` takes 5 cycles and two start in each, so below 10 independent
        // sums they would wait for one another.
        dispatch!(
            rows, panel.width, (activations, panel, place),
            1: 4, 2: 4, 3: 2, 4: 2, 5: 1, 6: 1, 7: 1, 8: 1, 9: 1, 10: 1, 11: 1, 12: 1, 13: 1, 14: 1
        );
    }

    fn four_panels(
        &self,
        activations: &[Block],
        panels: [Panel<'_>; 4],
        ending: &mut Ending<'_>,
        offsets: &[i32],
        columns: [usize; 4],
    ) {
        // SAFETY: the CPU has the features because `self` is the proof of it.
        unsafe { one_row::four_panels(activations, panels, ending, offsets, columns) };
    }
}

/// Flips the sign bits.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn encode(codes: &[i8], words: &mut [i32]) {
    assert!(codes.len() <= 4 * words.len());
    let flip = _mm512_set1_epi8(-128);
    for (codes, words) in codes.chunks(64).zip(words.chunks_mut(16)) {
        let lanes = if codes.len() == 64 {
            !0
        } else {
            (1 << codes.len()) - 1
        };
        // SAFETY: the mask names only bytes that lie inside the slice; others are not touched.
        let shifted = unsafe { _mm512_maskz_loadu_epi8(lanes, codes.as_ptr()) };
        let shifted = _mm512_xor_si512(shifted, flip);
        // SAFETY: there are words for these bytes: the assertion above.
        unsafe { _mm512_mask_storeu_epi8(words.as_mut_ptr().cast(), lanes, shifted) };
    }
}

/// `ROWS` rows times `VECTORS` vectors of columns, with `UNROLL` sets of sums.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn tile<const ROWS: usize, const VECTORS: usize, const UNROLL: usize>(
    activations: &[Block],
    panel: Panel<'_>,
    place: Place<'_, '_>,
) {
    fetch_output::<ROWS>(&place);
    let sums = sums::<ROWS, VECTORS, UNROLL>(activations, panel);
    if panel.width == VECTORS * 16 {
        finish::<ROWS, VECTORS, true>(sums, panel.width, place);
    } else {
        finish::<ROWS, VECTORS, false>(sums, panel.width, place);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn sums<const ROWS: usize, const VECTORS: usize, const UNROLL: usize>(
    activations: &[Block],
    Panel {
        weights,
        width,
        groups,
    }: Panel<'_>,
) -> [[__m512i; VECTORS]; ROWS] {
    let stride = 4 * width;
    assert!(groups == 0 || (groups - 1) * stride + VECTORS * 64 <= weights.len());
    let mut sums = [[[_mm512_setzero_si512(); VECTORS]; ROWS]; UNROLL];
    let (activations, rest) = activations.as_chunks::<ROWS>();
    assert!(activations.len() == groups.div_ceil(BLOCK) && rest.is_empty());
    for (block, rows) in activations.iter().enumerate() {
        let first = block * BLOCK;
        let len = BLOCK.min(groups - first);
        let step = |sums: &mut [[__m512i; VECTORS]; ROWS], p: usize| {
            let mut columns = [_mm512_setzero_si512(); VECTORS];
            for (vector, columns) in columns.iter_mut().enumerate() {
                // SAFETY: `first + p < groups`: there are as many blocks as the groups fill, as asserted, and `p` is
                // below `len`. The first assertion covers the vectors of every group.
                *columns = unsafe {
                    let group = weights.as_ptr().add((first + p) * stride + vector * 64);
                    _mm512_loadu_si512(group.cast())
                };
                // Takes any address: the last groups prefetch what follows the weights.
                let ahead = (first + p) * stride + vector * 64 + PREFETCH;
                _mm_prefetch::<_MM_HINT_T0>(weights.as_ptr().wrapping_add(ahead));
            }
            for (sums, row) in sums.iter_mut().zip(rows) {
                let word = _mm512_set1_epi32(row.0[p % BLOCK]);
                for (sum, &columns) in sums.iter_mut().zip(&columns) {
                    *sum = _mm512_dpbusd_epi32(*sum, word, columns);
                }
            }
        };
        let unrolled = if UNROLL == 1 { 0 } else { len - len % UNROLL };
        for p in (0..unrolled).step_by(UNROLL) {
            for (u, sums) in sums.iter_mut().enumerate() {
                step(sums, p + u);
            }
        }
        for p in unrolled..len {
            step(&mut sums[0], p);
        }
    }
    let mut total = sums[0];
    for sums in &sums[1..] {
        for (total, sums) in total.iter_mut().zip(sums) {
            for (total, &sum) in total.iter_mut().zip(sums) {
                *total = _mm512_add_epi32(*total, sum);
            }
        }
    }
    total
}
