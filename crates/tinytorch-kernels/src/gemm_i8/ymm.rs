//! The kernels on 256-bit vectors: AVX-VNNI, which has `vpdpbusd` without AVX-512, and AVX2.
//!
//! A tile is 6 rows by 2 vectors of 8 columns: 12 of the 16 registers are sums, 2 hold weights, 1 an activation. The sums
//! leave the registers for the ending, which is written once for all kernels and compiled for these instructions here.
//!
//! AVX2 multiplies 16-bit numbers (`vpmaddwd`). Its 8-bit multiplication (`vpmaddubsw`) adds pairs in 16 bits and
//! saturates, 255 · 127 · 2 = 64 770 > 32 767, so it would not be exact.
#![expect(unsafe_code, reason = "vector loads, and calls that need CPU features")]

use std::arch::x86_64::*;
use std::hint::black_box;

use super::lines::Lines;
use super::tiled::{self, BLOCK, Block, Micro, Panel, Place};
use super::{GemmI8, Task};

/// Columns of a panel: two vectors.
const COLUMNS: usize = 16;
/// Rows of the largest tile.
const ROWS: usize = 6;

/// Defines the token and kernel `$token`, whose words hold `$codes` codes shifted by `$shift`, from three functions:
/// `encode(codes, words)`, `load(start) -> 8 columns of one group`, `multiply_add(sums, word, columns) -> sums`.
macro_rules! ymm_kernel {
    (
        $(#[$doc:meta])*
        $token:ident, $name:literal, [$($feature:tt),+], $features:literal,
        codes: $codes:literal, shift: $shift:literal,
        $encode:ident, $load:ident, $multiply_add:ident
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub(super) struct $token(());

        impl $token {
            /// The kernel, if this CPU can run it.
            pub fn new() -> Option<Self> {
                (true $(&& is_x86_feature_detected!($feature))+).then_some(Self(()))
            }

            /// `ROWS` rows times two vectors of columns, with `UNROLL` sets of sums.
            #[target_feature(enable = $features)]
            fn tile_of<const ROWS: usize, const UNROLL: usize>(
                activations: &[Block],
                Panel { weights, width, groups }: Panel<'_>,
                Place { ending, offsets, row, column }: Place<'_, '_>,
            ) {
                let (stride, vector) = (width * $codes, 8 * $codes);
                assert!(groups == 0 || (groups - 1) * stride + 2 * vector <= weights.len());
                let mut sums = [[[_mm256_setzero_si256(); 2]; ROWS]; UNROLL];
                let (activations, _) = activations.as_chunks::<ROWS>();
                let step = |sums: &mut [[__m256i; 2]; ROWS], p: usize| {
                    // SAFETY: `p < groups`, so by the assertion two vectors lie inside the weights.
                    let group = unsafe { weights.as_ptr().add(p * stride) };
                    // SAFETY: as above.
                    let left = unsafe { $load(group) };
                    // SAFETY: as above.
                    let right = unsafe { $load(group.add(vector)) };
                    for (sums, row) in sums.iter_mut().zip(&activations[p / BLOCK]) {
                        let word = _mm256_set1_epi32(row.0[p % BLOCK]);
                        sums[0] = $multiply_add(sums[0], word, left);
                        sums[1] = $multiply_add(sums[1], word, right);
                    }
                };
                // One loop, not one per block: nested, the compiler keeps each sum twice and runs out of registers.
                let unrolled = if UNROLL == 1 { 0 } else { groups - groups % UNROLL };
                for p in (0..unrolled).step_by(UNROLL) {
                    for (u, sums) in sums.iter_mut().enumerate() {
                        step(sums, p + u);
                    }
                }
                for p in unrolled..groups {
                    step(&mut sums[0], p);
                }
                for i in 0..ROWS {
                    let mut total = sums[0][i];
                    for sums in &sums[1..] {
                        total[0] = _mm256_add_epi32(total[0], sums[i][0]);
                        total[1] = _mm256_add_epi32(total[1], sums[i][1]);
                    }
                    // SAFETY: both are 64 bytes, and any bits are i32.
                    let total: [i32; COLUMNS] = unsafe { std::mem::transmute(total) };
                    ending.finish(row + i, column, &total[..width], offsets);
                }
            }
        }

        impl Micro for $token {
            const COLUMNS: usize = COLUMNS;
            const LANES: usize = COLUMNS;
            const ROWS: usize = ROWS;
            const CODES: usize = $codes;

            fn encode(&self, codes: &[i8], words: &mut [i32]) {
                // SAFETY: the CPU has the features because `self` is the proof of it.
                unsafe { $encode(codes, words) };
            }

            fn tile(
                &self,
                rows: usize,
                activations: &[Block],
                panel: Panel<'_>,
                place: Place<'_, '_>,
            ) {
                let tile: unsafe fn(&[Block], Panel<'_>, Place<'_, '_>) = match rows {
                    1 => Self::tile_of::<1, 4>,
                    2 => Self::tile_of::<2, 2>,
                    3 => Self::tile_of::<3, 2>,
                    4 => Self::tile_of::<4, 1>,
                    5 => Self::tile_of::<5, 1>,
                    6 => Self::tile_of::<6, 1>,
                    rows => unreachable!("a tile of {rows} rows"),
                };
                // SAFETY: the CPU has the features because `self` is the proof of it.
                unsafe { tile(activations, panel, place) };
            }
        }

        impl $token {
            /// The instruction alone, into enough sums that none waits for its own last result.
            #[target_feature(enable = $features)]
            fn instruction_alone() -> u64 {
                const SUMS: usize = 12;
                const ROUNDS: usize = 10_000;
                let factor = _mm256_set1_epi32(black_box(0x0102_0304));
                // Every product is another, and what it is made of unknown: else the compiler multiplies once for all.
                let mut sums = black_box([_mm256_set1_epi32(1); SUMS]);
                for _ in 0..ROUNDS {
                    for sum in &mut sums {
                        *sum = $multiply_add(*sum, *sum, factor);
                    }
                }
                black_box(sums);
                // Products of all codes of 8 words, each of them added.
                (ROUNDS * SUMS * 2 * 8 * $codes) as u64
            }
        }

        impl GemmI8 for $token {
            fn name(&self) -> &'static str {
                $name
            }

            fn tile(&self) -> [usize; 2] {
                [ROWS, COLUMNS]
            }

            fn pack(&self, n: usize, k: usize, weights: &[i8]) -> Lines {
                tiled::pack::<Self>(n, k, weights)
            }

            fn activation_shift(&self) -> i32 {
                $shift
            }

            fn ceiling(&self) -> Option<u64> {
                // SAFETY: the CPU has the features because `self` is the proof of it.
                Some(unsafe { Self::instruction_alone() })
            }

            fn run(&self, task: Task<'_>) {
                tiled::run(self, task);
            }
        }
    };
}

ymm_kernel!(
    /// The proof that this CPU has AVX-VNNI.
    AvxVnni, "i8i8i32-avxvnni-6x16", ["avx2", "avxvnni"], "avx2,avxvnni",
    codes: 4, shift: 128, encode_shifted, load_bytes, multiply_add_bytes
);

ymm_kernel!(
    /// The proof that this CPU has AVX2.
    Avx2, "i8i8i32-avx2-6x16", ["avx2"], "avx2",
    codes: 2, shift: 0, encode_pairs, load_pairs, multiply_add_pairs
);

/// Four codes per word, made unsigned by flipping the sign bits.
#[target_feature(enable = "avx2")]
fn encode_shifted(codes: &[i8], words: &mut [i32]) {
    let (whole, tail) = codes.as_chunks::<4>();
    for (word, codes) in words.iter_mut().zip(whole) {
        *word = i32::from_ne_bytes(codes.map(|code| code as u8 ^ 0x80));
    }
    if !tail.is_empty() {
        let mut codes = [0; 4];
        codes[..tail.len()].copy_from_slice(tail);
        words[whole.len()] = i32::from_ne_bytes(codes.map(|code| code as u8 ^ 0x80));
    }
}

/// # Safety
///
/// 32 bytes must be readable at `start`.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn load_bytes(start: *const i8) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_loadu_si256(start.cast()) }
}

#[target_feature(enable = "avx2,avxvnni")]
#[inline]
fn multiply_add_bytes(sums: __m256i, word: __m256i, columns: __m256i) -> __m256i {
    _mm256_dpbusd_avx_epi32(sums, word, columns)
}

/// Two codes per word, each widened to 16 bits.
#[target_feature(enable = "avx2")]
fn encode_pairs(codes: &[i8], words: &mut [i32]) {
    let pair = |[low, high]: [i8; 2]| (i32::from(low) & 0xffff) | (i32::from(high) << 16);
    let (whole, tail) = codes.as_chunks::<2>();
    for (word, &codes) in words.iter_mut().zip(whole) {
        *word = pair(codes);
    }
    if let [last] = *tail {
        words[whole.len()] = pair([last, 0]);
    }
}

/// # Safety
///
/// 16 bytes must be readable at `start`.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn load_pairs(start: *const i8) -> __m256i {
    // SAFETY: the caller's promise.
    let codes = unsafe { _mm_loadu_si128(start.cast()) };
    _mm256_cvtepi8_epi16(codes)
}

/// The pairs' products, at most 2 · 128 · 128 in magnitude, are added in 32 bits: exact.
#[target_feature(enable = "avx2")]
#[inline]
fn multiply_add_pairs(sums: __m256i, word: __m256i, columns: __m256i) -> __m256i {
    _mm256_add_epi32(sums, _mm256_madd_epi16(word, columns))
}
