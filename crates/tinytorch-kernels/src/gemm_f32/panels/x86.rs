//! The tiles on x86-64.
//!
//! AVX-512: 8 rows by 3 vectors, 24 of the 32 registers are sums; AVX2: 6 rows by 2 vectors, 12 of 16. Each row of the
//! left side has its own pointer, and there are no more of them than general registers.
//!
//! A multiply-add takes 4 cycles, so fewer than 4 (or 8) independent sums leave the CPU idle. A panel one line wide therefore
//! sums each element in `CHAINS` parts, every so many steps to one part, whatever the number of rows is.

mod transpose;

use std::arch::x86_64::*;
use std::ops::Range;

use super::{Accumulate, Finish, Left, Line, Task};
use crate::gemm_f32::packed::{CACHED_BYTES, Normalize};
pub(super) use transpose::transpose;

/// Bytes of a panel that stay in a first cache of 48 KiB beside what else a tile reads.
const FIRST_CACHE: usize = 40 << 10;

/// Steps from asking for lines of a panel to using them: 16 · 12 cycles for 8 rows of 3 vectors, more than the second cache takes.
const AHEAD: usize = 16;

/// Asks for the cache line at an address, which may be any.
#[inline(always)]
fn prefetch(line: *const Line) {
    // SAFETY: SSE is part of x86-64, and a prefetch of any address is allowed.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
}

/// Rows that are multiplied with all panels before the next ones, whole tiles: they stay in the second cache meanwhile.
fn rows_at_once(k: usize, tile: usize) -> usize {
    let rows = CACHED_BYTES / size_of::<f32>() / k.max(1);
    (rows / tile * tile).max(8 * tile)
}

/// Defines `run` for one instruction set.
macro_rules! panels {
    (
        $module:ident, $features:literal, lanes: $lanes:literal, lines: $lines:literal,
        rows: [$($rows:literal)*], narrow: [$($narrow_rows:literal)*] in $chains:literal chains,
        $vector:ty, $zero:ident, $set:ident, $load:ident, $fma:ident, $add:ident, $subtract:ident, $multiply:ident,
        $max:ident, $store:ident
    ) => {
        pub(super) mod $module {
            use super::*;

            /// Lines of a whole panel, at most.
            pub const LINES: usize = $lines;
            /// Vectors of a line.
            const PER_LINE: usize = Line::LEN / $lanes;
            /// Panels that a single row reads side by side: more streams keep more cache lines on their way.
            const STREAMS: usize = 4;
            /// Parts of a sum in a panel one line wide, when whole panels are wider.
            const CHAINS: usize = $chains;
            /// Rows of a tile, and of one that is one line wide.
            const ROWS: [usize; 2] = [HIGHEST, [$($narrow_rows),*].len()];
            const HIGHEST: usize = [$($rows),*].len();

            /// The sums of some rows and lines.
            type Sums<const ROWS: usize, const WIDE: usize> = [[[$vector; PER_LINE]; WIDE]; ROWS];

            #[target_feature(enable = $features)]
            pub fn run<'a, L: Left<'a>>(mut task: Task<'a, L>) {
                let (rows, columns) = (task.out.rows(), task.out.columns());
                let width = task.panels.width();
                let mut done = 0;
                if rows == 1 && task.panels.wide > 1 {
                    done = one_row(&mut task);
                }
                let at_once = rows_at_once(task.left.k(), ROWS[0]);
                for first in (0..rows).step_by(at_once) {
                    let end = rows.min(first + at_once);
                    for column in (done..columns).step_by(width) {
                        let (panel, wide) = task.panels.at(task.first_column + column);
                        let highest = ROWS[usize::from(wide == 1)];
                        // The last two tiles share their rows evenly: 9 rows are 5 and 4, not 8 and 1, which would read the
                        // panel for one row alone.
                        let tiles = (end - first).div_ceil(highest);
                        let whole = first + tiles.saturating_sub(2) * highest;
                        let half = whole + (end - whole).div_ceil(2.min(tiles));
                        for (rows, height) in
                            [(first..whole, highest), (whole..half, half - whole), (half..end, end - half)]
                        {
                            if !rows.is_empty() {
                                tiles_of(height, wide, panel, rows, column, &mut task);
                            }
                        }
                    }
                }
            }

            /// Tiles of `height` rows each.
            #[target_feature(enable = $features)]
            fn tiles_of<'a, L: Left<'a>>(
                height: usize,
                wide: usize,
                panel: &[Line],
                rows: Range<usize>,
                column: usize,
                task: &mut Task<'a, L>,
            ) {
                match (height, wide) {
                    $(($narrow_rows, 1) => tiles::<L, $narrow_rows, 1, CHAINS>(panel, rows, column, task),)*
                    $(($rows, 2) if LINES > 1 => tiles::<L, $rows, 2, 1>(panel, rows, column, task),)*
                    $(($rows, 3) if LINES > 1 => tiles::<L, $rows, 3, 1>(panel, rows, column, task),)*
                    _ => unreachable!("a tile of {height} rows and {wide} lines"),
                }
            }

            #[target_feature(enable = $features)]
            fn tiles<'a, L: Left<'a>, const ROWS: usize, const WIDE: usize, const CHAINS: usize>(
                panel: &[Line],
                rows: Range<usize>,
                column: usize,
                task: &mut Task<'a, L>,
            ) {
                for row in rows.step_by(ROWS) {
                    tile::<L, ROWS, WIDE, CHAINS>(panel, row, column, task);
                }
            }

            #[target_feature(enable = $features)]
            #[inline]
            fn tile<'a, L: Left<'a>, const ROWS: usize, const WIDE: usize, const CHAINS: usize>(
                panel: &[Line],
                row: usize,
                column: usize,
                task: &mut Task<'a, L>,
            ) {
                // Not `array::from_fn`: a closure has the features of this function, and is no part of one that has not.
                let mut rows: [&[f32]; ROWS] = [&[]; ROWS];
                for (i, rows) in rows.iter_mut().enumerate() {
                    *rows = task.row(row + i);
                }
                let sums = if ROWS == HIGHEST && size_of_val(panel) > FIRST_CACHE {
                    summed::<L, ROWS, WIDE, CHAINS, true>(task.left, &rows, panel)
                } else {
                    summed::<L, ROWS, WIDE, CHAINS, false>(task.left, &rows, panel)
                };
                write(sums, row, column, task);
            }

            /// `FAR`: the panel comes from beyond the first cache, and its lines are asked for some steps before they are used.
            #[target_feature(enable = $features)]
            #[inline]
            fn summed<
                'a,
                L: Left<'a>,
                const ROWS: usize,
                const WIDE: usize,
                const CHAINS: usize,
                const FAR: bool,
            >(
                left: L,
                rows: &[&[f32]; ROWS],
                panel: &[Line],
            ) -> Sums<ROWS, WIDE> {
                let (panel, _) = panel.as_chunks::<WIDE>();
                assert!(panel.len() == left.k());
                let mut sums = [[[[$zero(); PER_LINE]; WIDE]; ROWS]; CHAINS];
                let (groups, rest) = panel.as_chunks::<CHAINS>();
                for (group, lines) in groups.iter().enumerate() {
                    if FAR {
                        let ahead = lines.as_ptr().wrapping_add(AHEAD).cast::<Line>();
                        for line in 0..WIDE * CHAINS {
                            prefetch(ahead.wrapping_add(line));
                        }
                    }
                    for (chain, (sums, lines)) in sums.iter_mut().zip(lines).enumerate() {
                        step(left, rows, group * CHAINS + chain, lines, sums);
                    }
                }
                for (chain, sums) in sums.iter_mut().enumerate() {
                    if let Some(lines) = rest.get(chain) {
                        step(left, rows, groups.len() * CHAINS + chain, lines, sums);
                    }
                }
                let mut apart = CHAINS / 2;
                while apart > 0 {
                    for chain in 0..apart {
                        sums[chain] = added(&sums[chain], &sums[chain + apart]);
                    }
                    apart /= 2;
                }
                sums[0]
            }

            /// Adds the products of element `p` of each row, of which there are `k`.
            #[target_feature(enable = $features)]
            #[inline]
            fn step<'a, L: Left<'a>, const ROWS: usize, const WIDE: usize>(
                left: L,
                rows: &[&[f32]; ROWS],
                p: usize,
                lines: &[Line; WIDE],
                sums: &mut Sums<ROWS, WIDE>,
            ) {
                // SAFETY: `p < k`, as there is a line for each.
                let at = unsafe { left.step(p) };
                let weights = load(lines);
                for (sums, row) in sums.iter_mut().zip(rows) {
                    // SAFETY: as above, so by the contract of `Left` this is inside every row.
                    let value = $set(unsafe { *row.get_unchecked(at) });
                    for (sums, weights) in sums.iter_mut().zip(&weights) {
                        for (sum, &weights) in sums.iter_mut().zip(weights) {
                            *sum = $fma(value, weights, *sum);
                        }
                    }
                }
            }

            #[target_feature(enable = $features)]
            #[inline]
            fn added<const ROWS: usize, const WIDE: usize>(
                a: &Sums<ROWS, WIDE>,
                b: &Sums<ROWS, WIDE>,
            ) -> Sums<ROWS, WIDE> {
                let mut sums = *a;
                let flat = sums.as_flattened_mut().as_flattened_mut();
                for (a, &b) in flat.iter_mut().zip(b.as_flattened().as_flattened()) {
                    *a = $add(*a, b);
                }
                sums
            }

            /// The whole panels of a single row, several side by side; returns how many columns that is.
            #[target_feature(enable = $features)]
            fn one_row<'a, L: Left<'a>>(task: &mut Task<'a, L>) -> usize {
                let width = task.panels.width();
                let whole = task.out.columns() / width;
                let part = whole / STREAMS;
                for stripe in 0..part {
                    let starts = std::array::from_fn(|stream| (stream * part + stripe) * width);
                    match task.panels.wide {
                        2 => streams::<L, STREAMS, 2>(starts, task),
                        _ => streams::<L, STREAMS, LINES>(starts, task),
                    }
                }
                let done = part * STREAMS * width;
                match (whole % STREAMS, task.panels.wide) {
                    (2, 2) => streams::<L, 2, 2>([done, done + width], task),
                    (2, _) => streams::<L, 2, LINES>([done, done + width], task),
                    (3, 2) => streams::<L, 3, 2>([0, 1, 2].map(|i| done + i * width), task),
                    (3, _) => streams::<L, 3, LINES>([0, 1, 2].map(|i| done + i * width), task),
                    _ => return done,
                }
                whole * width
            }

            /// One row times the panels that begin at these columns.
            #[target_feature(enable = $features)]
            fn streams<'a, L: Left<'a>, const STREAMS: usize, const WIDE: usize>(
                starts: [usize; STREAMS],
                task: &mut Task<'a, L>,
            ) {
                let left = task.left;
                let row = [task.row(0)];
                let mut panels: [&[[Line; WIDE]]; STREAMS] = [&[]; STREAMS];
                for (panel, column) in panels.iter_mut().zip(starts) {
                    *panel = task.panels.at(task.first_column + column).0.as_chunks().0;
                }
                assert!(panels.iter().all(|panel| panel.len() == left.k()));
                let mut sums = [[[[$zero(); PER_LINE]; WIDE]; 1]; STREAMS];
                for p in 0..left.k() {
                    for (sums, panel) in sums.iter_mut().zip(&panels) {
                        // SAFETY: `p < k`, the length of every panel, as asserted.
                        let lines = unsafe { panel.get_unchecked(p) };
                        step(left, &row, p, lines, sums);
                    }
                }
                for (sums, column) in sums.iter().zip(starts) {
                    write(*sums, 0, column, task);
                }
            }

            #[target_feature(enable = $features)]
            #[inline]
            fn load<const WIDE: usize>(lines: &[Line; WIDE]) -> [[$vector; PER_LINE]; WIDE] {
                let mut vectors = [[$zero(); PER_LINE]; WIDE];
                for (vectors, line) in vectors.iter_mut().zip(lines) {
                    *vectors = load_line(&line.0);
                }
                vectors
            }

            #[target_feature(enable = $features)]
            #[inline]
            fn load_line(line: &[f32; Line::LEN]) -> [$vector; PER_LINE] {
                let mut vectors = [$zero(); PER_LINE];
                for (part, vector) in vectors.iter_mut().enumerate() {
                    // SAFETY: as many elements as a vector has.
                    *vector = unsafe { $load(line[part * $lanes..].as_ptr()) };
                }
                vectors
            }

            #[target_feature(enable = $features)]
            #[inline]
            fn store_line(vectors: [$vector; PER_LINE], line: &mut [f32; Line::LEN]) {
                for (part, vector) in vectors.into_iter().enumerate() {
                    // SAFETY: as many elements as a vector has.
                    unsafe { $store(line[part * $lanes..].as_mut_ptr(), vector) };
                }
            }

            /// For each of some rows, the line at each step after `first` times a line of weights, summed.
            #[target_feature(enable = $features)]
            pub fn lines_summed<const N: usize>(
                rows: [&[f32]; N],
                first: usize,
                steps: &[usize],
                weights: &[Line],
            ) -> [Line; N] {
                let mut sums = [[$zero(); PER_LINE]; N];
                for (&step, weights) in steps.iter().zip(weights) {
                    let weights = load_line(&weights.0);
                    for (sums, row) in sums.iter_mut().zip(&rows) {
                        let values = row[first + step..].first_chunk().expect("a whole line");
                        let values = load_line(values);
                        for part in 0..PER_LINE {
                            sums[part] = $fma(values[part], weights[part], sums[part]);
                        }
                    }
                }
                let mut lines = [Line::ZERO; N];
                for (line, sums) in lines.iter_mut().zip(sums) {
                    store_line(sums, &mut line.0);
                }
                lines
            }

            /// Normalizes a line of columns that begins with `column`; what is beyond the last column becomes 0.
            #[target_feature(enable = $features)]
            #[inline]
            fn normalized(
                mut values: [$vector; PER_LINE],
                normalize: Normalize<'_>,
                column: usize,
            ) -> [$vector; PER_LINE] {
                let line = |all: &[f32]| load_line(&begin_of(&all[column..]));
                let (mean, scale) = (line(normalize.mean), line(normalize.scale));
                let shift = line(normalize.shift);
                for (part, value) in values.iter_mut().enumerate() {
                    *value = $add($multiply($subtract(*value, mean[part]), scale[part]), shift[part]);
                }
                values
            }

            /// Ends the sums of some rows.
            #[target_feature(enable = $features)]
            #[inline]
            fn write<'a, L: Left<'a>, const ROWS: usize, const WIDE: usize>(
                sums: Sums<ROWS, WIDE>,
                row: usize,
                column: usize,
                task: &mut Task<'a, L>,
            ) {
                let whole = task.out.columns() - column >= WIDE * Line::LEN;
                let Finish { accumulate, normalize, .. } = task.finish;
                if whole && normalize.is_none() && accumulate == Accumulate::Overwrite {
                    write_whole(sums, row, column, task);
                } else {
                    write_any(&sums, row, column, task);
                }
            }

            /// Whole lines, from registers: a tile of few steps takes as long to end as to sum.
            #[target_feature(enable = $features)]
            #[inline]
            fn write_whole<'a, L: Left<'a>, const ROWS: usize, const WIDE: usize>(
                sums: Sums<ROWS, WIDE>,
                row: usize,
                column: usize,
                task: &mut Task<'a, L>,
            ) {
                let Finish { bias, relu, .. } = task.finish;
                let mut biases = [[$zero(); PER_LINE]; WIDE];
                if !bias.is_empty() {
                    let bias = bias[column..].as_chunks().0;
                    for (biases, bias) in biases.iter_mut().zip(&bias[..WIDE]) {
                        *biases = load_line(bias);
                    }
                }
                // Of NaN, and of equals, the instruction returns the second: below this bound nothing changes.
                let least = if relu { $zero() } else { $set(f32::NEG_INFINITY) };
                for (i, sums) in sums.into_iter().enumerate() {
                    let out = &mut task.out.row(row + i)[column..];
                    let lines = &mut out.as_chunks_mut().0[..WIDE];
                    for ((line, mut values), biases) in lines.iter_mut().zip(sums).zip(&biases) {
                        for (value, &bias) in values.iter_mut().zip(biases) {
                            *value = $max(least, $add(*value, bias));
                        }
                        store_line(values, line);
                    }
                }
            }

            /// Whole lines or what is left of the last, with everything that can happen to them.
            #[target_feature(enable = $features)]
            #[inline(never)]
            fn write_any<'a, L: Left<'a>, const ROWS: usize, const WIDE: usize>(
                sums: &Sums<ROWS, WIDE>,
                row: usize,
                column: usize,
                task: &mut Task<'a, L>,
            ) {
                let columns = task.out.columns();
                let Finish {
                    bias,
                    relu,
                    accumulate,
                    normalize,
                } = task.finish;
                let mut biases = [[$zero(); PER_LINE]; WIDE];
                if !bias.is_empty() {
                    for (wide, biases) in biases.iter_mut().enumerate() {
                        let bias = bias.get(column + wide * Line::LEN..).unwrap_or_default();
                        *biases = load_line(&begin_of(bias));
                    }
                }
                for (i, sums) in sums.iter().enumerate() {
                    let out =
                        &mut task.out.row(row + i)[column..columns.min(column + WIDE * Line::LEN)];
                    let mut out = out.chunks_mut(Line::LEN);
                    for (wide, (sums, biases)) in sums.iter().zip(&biases).enumerate() {
                        let Some(out) = out.next() else { break };
                        let before = match accumulate {
                            Accumulate::Add => load_line(&begin_of(out)),
                            Accumulate::Overwrite => [$zero(); PER_LINE],
                        };
                        let mut values = [$zero(); PER_LINE];
                        for part in 0..PER_LINE {
                            values[part] = $add(sums[part], biases[part]);
                            if accumulate == Accumulate::Add {
                                values[part] = $add(values[part], before[part]);
                            }
                        }
                        if let Some(normalize) = normalize {
                            values = normalized(values, normalize, column + wide * Line::LEN);
                        }
                        if relu {
                            for value in &mut values {
                                // Of NaN, and of equals, the instruction returns the second.
                                *value = $max($zero(), *value);
                            }
                        }
                        if let Some(out) = out.first_chunk_mut() {
                            store_line(values, out);
                        } else {
                            let mut line = Line::ZERO;
                            store_line(values, &mut line.0);
                            out.copy_from_slice(&line.0[..out.len()]);
                        }
                    }
                }
            }
        }
    };
}

panels!(
    avx512, "avx512f,avx512bw,avx512dq,avx512vl,fma", lanes: 16, lines: 3,
    rows: [1 2 3 4 5 6 7 8], narrow: [1 2 3 4 5 6] in 4 chains,
    __m512, _mm512_setzero_ps, _mm512_set1_ps, _mm512_loadu_ps, _mm512_fmadd_ps, _mm512_add_ps, _mm512_sub_ps,
    _mm512_mul_ps, _mm512_max_ps, _mm512_storeu_ps
);
panels!(
    avx2, "avx2,fma", lanes: 8, lines: 1, rows: [1], narrow: [1 2 3 4 5 6] in 1 chains,
    __m256, _mm256_setzero_ps, _mm256_set1_ps, _mm256_loadu_ps, _mm256_fmadd_ps, _mm256_add_ps, _mm256_sub_ps,
    _mm256_mul_ps, _mm256_max_ps, _mm256_storeu_ps
);

/// The first elements of a slice, zeros after them if there are fewer than a line holds.
#[inline(always)]
fn begin_of(values: &[f32]) -> [f32; Line::LEN] {
    match values.first_chunk() {
        Some(line) => *line,
        None => {
            let mut line = [0.0; Line::LEN];
            line[..values.len()].copy_from_slice(values);
            line
        }
    }
}
