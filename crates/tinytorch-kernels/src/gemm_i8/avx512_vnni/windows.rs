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

/// Calls `tile_of::<windows, VECTORS>` for as many windows as there are places.
macro_rules! dispatch {
    ($places:expr, $arguments:tt, $($windows:literal)*) => {
        match $places.len() {
            $($windows => tile_of::<$windows, VECTORS> $arguments,)*
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
    dispatch!(places, (view, places, panel, place), 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn tile_of<const WINDOWS: usize, const VECTORS: usize>(
    view: View<'_>,
    places: &[usize],
    panel: Panel<'_>,
    place: Place<'_, '_>,
) {
    fetch_output::<WINDOWS>(&place);
    let sums = sums::<WINDOWS, VECTORS>(view, places, panel);
    if panel.width == VECTORS * 16 {
        finish::<WINDOWS, VECTORS, true>(sums, panel.width, place);
    } else {
        finish::<WINDOWS, VECTORS, false>(sums, panel.width, place);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn pooled_tile<const VECTORS: usize>(
    view: View<'_>,
    places: &[usize],
    panel: Panel<'_>,
    place: Place<'_, '_>,
) {
    match places.len() {
        12 => pooled_tile_of::<12, 3, VECTORS>(view, places, panel, place),
        8 => pooled_tile_of::<8, 2, VECTORS>(view, places, panel, place),
        4 => pooled_tile_of::<4, 1, VECTORS>(view, places, panel, place),
        windows => unreachable!("{windows} windows to pool by four"),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn pooled_tile_of<const WINDOWS: usize, const POOLED: usize, const VECTORS: usize>(
    view: View<'_>,
    places: &[usize],
    panel: Panel<'_>,
    place: Place<'_, '_>,
) {
    const { assert!(WINDOWS == 4 * POOLED) };
    let sums = sums::<WINDOWS, VECTORS>(view, places, panel);
    let mut largest = [[_mm512_setzero_si512(); VECTORS]; POOLED];
    for (largest, four) in largest.iter_mut().zip(sums.chunks_exact(4)) {
        for (vector, largest) in largest.iter_mut().enumerate() {
            let above = _mm512_max_epi32(four[0][vector], four[1][vector]);
            let below = _mm512_max_epi32(four[2][vector], four[3][vector]);
            *largest = _mm512_max_epi32(above, below);
        }
    }
    if panel.width == VECTORS * 16 {
        finish::<POOLED, VECTORS, true>(largest, panel.width, place);
    } else {
        finish::<POOLED, VECTORS, false>(largest, panel.width, place);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn sums<const WINDOWS: usize, const VECTORS: usize>(
    view: View<'_>,
    places: &[usize],
    Panel {
        weights,
        width,
        groups,
    }: Panel<'_>,
) -> [[__m512i; VECTORS]; WINDOWS] {
    let stride = 4 * width;
    let distances = view.steps.distances();
    assert!(groups == distances.len());
    assert!(groups == 0 || (groups - 1) * stride + VECTORS * 64 <= weights.len());
    let room = view.codes.len().checked_sub(view.steps.reach());
    assert!(room.is_some_and(|room| places.iter().all(|&place| place <= room)));
    let places: [usize; WINDOWS] = places.try_into().expect("the caller has counted them");
    let starts = places.map(|place| view.codes[place..].as_ptr());
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
        for (sums, start) in sums.iter_mut().zip(starts) {
            // SAFETY: four codes from any distance on are within the steps' reach, and that many codes follow every place.
            let word = unsafe { start.add(distance).cast::<i32>().read_unaligned() };
            let word = _mm512_set1_epi32(word);
            for (sum, &columns) in sums.iter_mut().zip(&columns) {
                *sum = _mm512_dpbusd_epi32(*sum, word, columns);
            }
        }
    }
    sums
}
