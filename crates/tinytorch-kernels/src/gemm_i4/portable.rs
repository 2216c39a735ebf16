//! The kernel for any CPU: loops over 32 columns that compilers vectorize.

use super::{CODES, COLUMNS, Panel, ROWS, Words};
use crate::cpu::vectorized;
use crate::gemm_f32::pieces::Piece;

/// Columns whose sums are in registers: 4 vectors of 256 bits.
const LANES: usize = 32;

vectorized! {
    pub(super) fn real(
        panel: Panel<'_>,
        activations: &[[f32; CODES]],
        rows: usize,
        totals: &mut [[f32; COLUMNS]; ROWS],
    ) {
        for (row, totals) in totals.iter_mut().enumerate().take(rows) {
            let groups = panel.words.chunks(panel.words_of_group);
            let groups = groups.zip(activations.chunks(panel.words_of_group * rows));
            for ((words, a), scales) in groups.zip(panel.scales) {
                for half in 0..2 {
                    let mut sums = [0.0_f32; LANES];
                    for (words, a) in words.iter().zip(a.chunks_exact(rows)) {
                        let words = words.0[2 * half..].as_flattened();
                        for (p, &a) in a[row].iter().enumerate() {
                            for (sum, &word) in sums.iter_mut().zip(words) {
                                let code = (word >> (4 * p) & 0xf).cast_signed() - 8;
                                *sum = a.mul_add(code as f32, *sum);
                            }
                        }
                    }
                    let scales = scales.0[2 * half..].as_flattened();
                    let totals = totals[LANES * half..].iter_mut().zip(sums).zip(scales);
                    totals.for_each(|((total, sum), &scale)| *total = sum.mul_add(scale, *total));
                }
            }
        }
    }
}

vectorized! {
    pub(super) fn codes(
        panel: Panel<'_>,
        activations: &[[i8; CODES]],
        zero_points: &[i32],
        totals: &mut [[f32; COLUMNS]; ROWS],
    ) {
        let rows = zero_points.len();
        for (row, (totals, &zero_point)) in totals.iter_mut().zip(zero_points).enumerate() {
            let groups = panel.words.chunks(panel.words_of_group);
            let groups = groups.zip(activations.chunks(panel.words_of_group * rows));
            for ((words, a), scales) in groups.zip(panel.scales) {
                for half in 0..2 {
                    let mut sums = [0_i32; LANES];
                    for (words, a) in words.iter().zip(a.chunks_exact(rows)) {
                        let words = words.0[2 * half..].as_flattened();
                        for (i, &a) in a[row].iter().enumerate() {
                            // The even ones come first.
                            let p = i % 4 * 2 + i / 4;
                            let a = i32::from(a) - zero_point;
                            for (sum, &word) in sums.iter_mut().zip(words) {
                                let code = (word >> (4 * p) & 0xf).cast_signed() - 8;
                                *sum = sum.wrapping_add(a.wrapping_mul(code));
                            }
                        }
                    }
                    let scales = scales.0[2 * half..].as_flattened();
                    let totals = totals[LANES * half..].iter_mut().zip(sums).zip(scales);
                    totals.for_each(|((total, sum), &scale)| {
                        *total = (sum as f32).mul_add(scale, *total);
                    });
                }
            }
        }
    }
}

vectorized! {
    /// The codes of each column as real numbers, as many as there are places.
    pub(super) fn write(words: &[Words], into: &mut Piece<'_>) {
        for line in 0..into.count() {
            let mut places = into.lines(line);
            for words in words {
                for p in 0..CODES {
                    let Some(reals) = places.next() else { break };
                    *reals = words.0[line]
                        .map(|word| ((word >> (4 * p) & 0xf).cast_signed() - 8) as f32);
                }
            }
        }
    }
}
