//! Windows of images: as the product's tiles, but an activation is read where it lies in the image.
//!
//! A tile is 14 windows, or 12 that are pooled to 3, by 2 vectors of 16 columns. Reading four codes costs the same anywhere, so
//! nothing is gathered; and of four pooled sums only the largest is ended, which saves three of four endings.
#![expect(unsafe_code, reason = "vector loads, and calls that need CPU features")]

use std::arch::x86_64::*;

use super::finish::{fetch_output, finish};
use super::{Avx512Vnni, PREFETCH};
use crate::gemm_i8::tiled::{Panel, Place};
use crate::gemm_i8::windows::{Steps, WindowKernel, WindowTask};

/// Columns of a panel, as the product packs them.
const COLUMNS: usize = 32;
/// Windows of the largest tile.
const WINDOWS: usize = 14;
/// Results of the largest tile that is pooled.
const POOLED: usize = 3;

impl WindowKernel for Avx512Vnni {
    fn run_windows(&self, task: WindowTask<'_, '_>) {
        // SAFETY: the CPU has the features because `self` is the proof of it.
        unsafe { run(task) };
    }
}

/// A tile's images.
#[derive(Clone, Copy)]
struct View<'a> {
    codes: &'a [i8],
    steps: &'a Steps,
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn run(task: WindowTask<'_, '_>) {
    let WindowTask {
        weights,
        codes,
        steps,
        places,
        pooled,
        offsets,
        ending,
        first_row,
    } = task;
    let (view, groups) = (View { codes, steps }, steps.distances().len());
    let results = if pooled { POOLED } else { WINDOWS };
    let windows = if pooled { 4 * POOLED } else { WINDOWS };
    for column in (0..offsets.len()).step_by(COLUMNS) {
        let width = COLUMNS.min(offsets.len() - column);
        let panel = Panel {
            weights: &weights.bytes()[column * groups * 4..],
            width,
            groups,
        };
        for (index, places) in places.chunks(windows).enumerate() {
            let place = Place {
                ending: &mut *ending,
                offsets: &offsets[column..column + width],
                row: first_row + index * results,
                column,
            };
            match (pooled, width > 16) {
                (true, true) => pooled_tile::<2>(view, places, panel, place),
                (true, false) => pooled_tile::<1>(view, places, panel, place),
                (false, true) => tile::<2>(view, places, panel, place),
                (false, false) => tile::<1>(view, places, panel, place),
            }
        }
    }
}

/// Calls `tile_of::<windows, results, VECTORS>` for as many windows as there are places.
macro_rules! dispatch {
    ($places:expr, $arguments:tt, $($windows:literal => $results:literal),*) => {
        match $places.len() {
            $($windows => tile_of::<$windows, $results, VECTORS> $arguments,)*
            windows => unreachable!("a tile of {windows} windows"),
        }
    };
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn tile<const VECTORS: usize>(
    view: View<'_>,
    places: &[usize],
    panel: Panel<'_>,
    place: Place<'_, '_>,
) {
    dispatch!(
        places, (view, places, panel, place),
        1 => 1, 2 => 2, 3 => 3, 4 => 4, 5 => 5, 6 => 6, 7 => 7, 8 => 8, 9 => 9, 10 => 10, 11 => 11, 12 => 12,
        13 => 13, 14 => 14
    );
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn pooled_tile<const VECTORS: usize>(
    view: View<'_>,
    places: &[usize],
    panel: Panel<'_>,
    place: Place<'_, '_>,
) {
    dispatch!(places, (view, places, panel, place), 4 => 1, 8 => 2, 12 => 3);
}

/// As many results as windows, or of each four windows the largest sums.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn tile_of<const WINDOWS: usize, const RESULTS: usize, const VECTORS: usize>(
    view: View<'_>,
    places: &[usize],
    panel: Panel<'_>,
    place: Place<'_, '_>,
) {
    const { assert!(WINDOWS == RESULTS || WINDOWS == 4 * RESULTS) };
    let Panel {
        weights,
        width,
        groups,
    } = panel;
    fetch_output::<RESULTS>(&place);
    let stride = 4 * width;
    let distances = view.steps.distances();
    assert!(groups == distances.len());
    assert!(groups == 0 || (groups - 1) * stride + VECTORS * 64 <= weights.len());
    let room = view.codes.len().checked_sub(view.steps.reach());
    let places: [usize; WINDOWS] = places.try_into().expect("the caller has counted them");
    assert!(room.is_some_and(|room| places.iter().all(|&place| place <= room)));
    let mut starts = [view.codes.as_ptr(); WINDOWS];
    for (start, place) in starts.iter_mut().zip(places) {
        *start = start.wrapping_add(place);
    }
    let mut sums = [[_mm512_setzero_si512(); VECTORS]; WINDOWS];
    for (p, &distance) in distances.iter().enumerate() {
        let mut columns = [_mm512_setzero_si512(); VECTORS];
        for (vector, columns) in columns.iter_mut().enumerate() {
            // SAFETY: `p < groups`, and the second assertion covers the vectors of every group.
            *columns = unsafe {
                let group = weights.as_ptr().add(p * stride + vector * 64);
                _mm512_loadu_si512(group.cast())
            };
            // Takes any address: the last groups prefetch what follows the weights.
            let ahead = p * stride + vector * 64 + PREFETCH;
            _mm_prefetch::<_MM_HINT_T0>(weights.as_ptr().wrapping_add(ahead));
        }
        for (sums, &start) in sums.iter_mut().zip(&starts) {
            // SAFETY: four codes from any distance on are within the steps' reach, and that many codes follow every place.
            unsafe { multiply_add(sums, start, distance, &columns) };
        }
    }
    let mut results = [[_mm512_setzero_si512(); VECTORS]; RESULTS];
    for (i, results) in results.iter_mut().enumerate() {
        for (vector, result) in results.iter_mut().enumerate() {
            *result = if WINDOWS == RESULTS {
                sums[i][vector]
            } else {
                let above = _mm512_max_epi32(sums[4 * i][vector], sums[4 * i + 1][vector]);
                let below = _mm512_max_epi32(sums[4 * i + 2][vector], sums[4 * i + 3][vector]);
                _mm512_max_epi32(above, below)
            };
        }
    }
    if width == VECTORS * 16 {
        finish::<RESULTS, VECTORS, true>(results, width, place);
    } else {
        finish::<RESULTS, VECTORS, false>(results, width, place);
    }
}

/// Multiplies the four codes at `start + distance` with `columns` and adds to `sums`, of one window.
///
/// Written in assembly for the order of the instructions: left to itself, the compiler reads the codes of all windows before it
/// multiplies, for which there are too few registers, and moves sums to memory and back in the innermost loop.
///
/// # Safety
///
/// Four codes must be readable there.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
unsafe fn multiply_add<const VECTORS: usize>(
    sums: &mut [__m512i; VECTORS],
    start: *const i8,
    distance: usize,
    columns: &[__m512i; VECTORS],
) {
    const { assert!(VECTORS == 1 || VECTORS == 2) };
    let last = VECTORS - 1;
    // Named, so that the register is a whole one.
    let _word: __m512i;
    if VECTORS == 1 {
        // SAFETY: reads the four bytes of the caller's promise, and changes nothing but its outputs.
        unsafe {
            std::arch::asm!(
                "vpbroadcastd {word}, dword ptr [{start} + {distance}]",
                "vpdpbusd {sum}, {word}, {column}",
                word = out(zmm_reg) _word,
                start = in(reg) start,
                distance = in(reg) distance,
                sum = inout(zmm_reg) sums[0],
                column = in(zmm_reg) columns[0],
                options(pure, readonly, nostack, preserves_flags)
            );
        }
    } else {
        // SAFETY: as above.
        unsafe {
            std::arch::asm!(
                "vpbroadcastd {word}, dword ptr [{start} + {distance}]",
                "vpdpbusd {left}, {word}, {left_column}",
                "vpdpbusd {right}, {word}, {right_column}",
                word = out(zmm_reg) _word,
                start = in(reg) start,
                distance = in(reg) distance,
                left = inout(zmm_reg) sums[0],
                right = inout(zmm_reg) sums[last],
                left_column = in(zmm_reg) columns[0],
                right_column = in(zmm_reg) columns[last],
                options(pure, readonly, nostack, preserves_flags)
            );
        }
    }
}
