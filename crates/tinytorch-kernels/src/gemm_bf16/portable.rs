//! The kernel for any CPU: bf16 widened to `f32`, in loops that compilers vectorize.
//!
//! A product of two bf16 has 16 significant bits, so as an `f32` it is exact unless its exponent is out of range; then
//! "multiply, add" rounds once, like the fused operation of the definition, and no CPU needs an instruction for that.
//! Exponents are looked at while packing ([`Exponents::are_plain`](super::pack::Exponents::are_plain)); numbers that could
//! overflow, or whose sums could be subnormal, are left to the definition.

use half::bf16;

use super::drive::{Start, Tile};
use super::pack::{COLUMNS, Words};
use super::scalar::multiply_add_pair;
use crate::cpu::{Vectors, vectorized};

/// Whether sums that start with these values stay multiples of 2⁻¹²⁶: an `f32` of the exponent e is one of 2^(e − 23).
pub(super) fn can_be_added_to(values: &[f32]) -> bool {
    let smallest = f32::from_bits((127 - 126 + 23) << 23);
    values
        .iter()
        .all(|value| *value == 0.0 || value.abs() >= smallest)
}

/// Rows that are summed side by side: 4 rows by 16 columns are 8 registers of 256 bits.
const ROWS: usize = 4;

pub(super) fn tile(vectors: Vectors, tile: Tile<'_, '_>) {
    let Tile {
        rows,
        left,
        right,
        c,
        row,
        column,
        width,
        start,
    } = tile;
    let mut i = 0;
    while i < rows {
        let several = rows - i >= ROWS;
        let mut sums = [[0.0; COLUMNS]; ROWS];
        let these = if several { ROWS } else { 1 };
        if start == Start::There {
            for (i, sums) in (i..i + these).zip(&mut sums) {
                sums[..width].copy_from_slice(&c.row(row + i)[column..column + width]);
            }
        }
        for half in 0..2_usize {
            if 16 * half >= width {
                continue;
            }
            if several {
                sums_of_rows(vectors, [rows, i, half], left, right, &mut sums);
            } else {
                sums_of_row(vectors, [rows, i, half], left, right, &mut sums);
            }
        }
        for (i, sums) in (i..i + these).zip(&sums) {
            c.row(row + i)[column..column + width].copy_from_slice(&sums[..width]);
        }
        i += these;
    }
}

vectorized! {
    fn sums_of_rows(
        place: [usize; 3],
        left: &[Words],
        right: &[[Words; 2]],
        sums: &mut [[f32; COLUMNS]; ROWS],
    ) {
        continue_sums::<ROWS>(place, left, right, sums);
    }
}

vectorized! {
    fn sums_of_row(
        place: [usize; 3],
        left: &[Words],
        right: &[[Words; 2]],
        sums: &mut [[f32; COLUMNS]; ROWS],
    ) {
        continue_sums::<1>(place, left, right, sums);
    }
}

/// Continues the sums of `N` rows from the `first`, for one half of a panel.
#[inline(always)]
fn continue_sums<const N: usize>(
    [rows, first, half]: [usize; 3],
    left: &[Words],
    right: &[[Words; 2]],
    out: &mut [[f32; COLUMNS]; ROWS],
) {
    let mut sums = [[0.0_f32; 16]; N];
    for (sums, out) in sums.iter_mut().zip(out.iter()) {
        sums.copy_from_slice(&out[16 * half..16 * half + 16]);
    }
    for (block, words) in left.chunks_exact(rows).zip(right.chunks(16)) {
        let Some(block) = block[first..].first_chunk::<N>() else {
            return;
        };
        for (p, words) in words.iter().enumerate() {
            let of_columns = &words[half].0;
            for (sums, of_row) in sums.iter_mut().zip(block) {
                let word = of_row.0[p % 16];
                let [even, odd] = [even(word), odd(word)];
                for (sum, &word) in sums.iter_mut().zip(of_columns) {
                    let partial = *sum + odd * self::odd(word);
                    *sum = partial + even * self::even(word);
                }
            }
        }
    }
    for (sums, out) in sums.iter().zip(out) {
        out[16 * half..16 * half + 16].copy_from_slice(sums);
    }
}

/// The first number of a word.
#[inline(always)]
fn even(word: u32) -> f32 {
    f32::from_bits(word << 16)
}

/// The second.
#[inline(always)]
fn odd(word: u32) -> f32 {
    f32::from_bits(word & 0xffff_0000)
}

/// The definition, for any numbers.
#[cold]
pub(super) fn tile_by_definition(tile: Tile<'_, '_>) {
    let numbers = |word: u32| [word, word >> 16].map(|bits| bf16::from_bits(bits as u16));
    for i in 0..tile.rows {
        for j in 0..tile.width {
            let start = match tile.start {
                Start::Zero => 0.0,
                Start::There => tile.c.row(tile.row + i)[tile.column + j],
            };
            let blocks = tile.left.chunks_exact(tile.rows);
            let sum = blocks
                .zip(tile.right.chunks(16))
                .fold(start, |sum, (block, words)| {
                    words.iter().zip(block[i].0).fold(sum, |sum, (words, a)| {
                        let b = words[j / 16].0[j % 16];
                        multiply_add_pair(sum, numbers(a), numbers(b))
                    })
                });
            tile.c.row(tile.row + i)[tile.column + j] = sum;
        }
    }
}
