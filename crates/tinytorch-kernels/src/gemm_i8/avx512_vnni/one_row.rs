//! One row: the time is that of reading the weights.
//!
//! Four panels are read side by side, each from front to back: four streams keep more cache lines on their way than one does. The
//! fetching that the CPU does on its own follows them, but begins anew with every page of 4 KiB, so lines are also asked for here.
#![expect(unsafe_code, reason = "vector loads")]

use std::arch::x86_64::*;

use super::finish::finish;
use crate::gemm_i8::ending::Ending;
use crate::gemm_i8::tiled::{BLOCK, Block, Panel, Place};

/// Bytes from a line of a stream to the one that is asked for: six groups.
const AHEAD: usize = 768;

/// Multiplies one row with four whole panels and ends the sums. `offsets` are those of all columns of the ending.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(in crate::gemm_i8) fn four_panels(
    activations: &[Block],
    panels: [Panel<'_>; 4],
    ending: &mut Ending<'_>,
    offsets: &[i32],
    columns: [usize; 4],
) {
    let groups = panels[0].groups;
    assert!(activations.len() == groups.div_ceil(BLOCK));
    assert!(
        panels
            .iter()
            .all(|panel| panel.width == 32 && groups * 128 <= panel.weights.len())
    );
    let starts = panels.map(|panel| panel.weights.as_ptr());
    let mut sums = [[[_mm512_setzero_si512(); 2]; 1]; 4];
    for (block, words) in activations.iter().enumerate() {
        let first = block * BLOCK;
        for (p, &word) in words.0[..BLOCK.min(groups - first)].iter().enumerate() {
            let word = _mm512_set1_epi32(word);
            for (sums, start) in sums.iter_mut().zip(starts) {
                for line in 0..2 {
                    let ahead = (first + p) * 128 + AHEAD + 64 * line;
                    // Any address may be.
                    _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(ahead));
                }
                for (vector, sum) in sums[0].iter_mut().enumerate() {
                    // SAFETY: `first + p < groups`, and a panel has at least `groups` times 128 bytes, as asserted.
                    let weights = unsafe {
                        let group = start.add((first + p) * 128 + vector * 64);
                        _mm512_loadu_si512(group.cast())
                    };
                    *sum = _mm512_dpbusd_epi32(*sum, word, weights);
                }
            }
        }
    }
    for (sums, column) in sums.into_iter().zip(columns) {
        let place = Place {
            ending: &mut *ending,
            offsets: &offsets[column..column + 32],
            row: 0,
            column,
        };
        finish::<1, 2, true>(sums, 32, place);
    }
}
