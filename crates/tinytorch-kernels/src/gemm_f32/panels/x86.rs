//! The tiles on x86-64.
//!
//! AVX-512: 8 rows by 3 vectors, 24 of the 32 registers are sums; AVX2: 6 rows by 2 vectors, 12 of 16. Each row of the
//! left side has its own pointer, and there are no more of them than general registers.

use std::arch::x86_64::*;

use super::{Accumulate, Finish, Line, Rows, Task, finished};

/// Defines `run` for one instruction set.
macro_rules! panels {
    (
        $module:ident, $features:literal, lanes: $lanes:literal, lines: $lines:literal, rows: $rows:literal,
        $vector:ty, $zero:ident, $set:ident, $load:ident, $fma:ident, $store:ident
    ) => {
        pub(super) mod $module {
            use super::*;

            /// Lines of a whole panel.
            pub const LINES: usize = $lines;
            /// Vectors of a line.
            const PER_LINE: usize = Line::LEN / $lanes;
            /// Panels that a single row reads side by side: more streams keep more cache lines on their way.
            const STREAMS: usize = 4;

            #[target_feature(enable = $features)]
            pub fn run(mut task: Task<'_>) {
                let (rows, columns) = (task.out.rows(), task.out.columns());
                let width = LINES * Line::LEN;
                // One row: a quarter of the whole panels in each stream.
                let quarter = if rows == 1 {
                    columns / width / STREAMS
                } else {
                    0
                };
                for stripe in 0..quarter {
                    let starts: [usize; STREAMS] =
                        std::array::from_fn(|stream| (stream * quarter + stripe) * width);
                    let panels =
                        starts.map(|column| task.panel(task.first_column + column, LINES).0);
                    let row = task.rows.row(task.first_row);
                    let sums = one_row(row, panels);
                    for (sums, column) in sums.into_iter().zip(starts) {
                        write(&[sums], 0, column, &mut task);
                    }
                }
                // Divided evenly: 9 rows are 5 and 4, not 8 and 1, which would read the panel for one row alone.
                let tiles = rows.div_ceil($rows);
                for column in (quarter * STREAMS * width..columns).step_by(width) {
                    let (panel, wide) = task.panel(task.first_column + column, LINES);
                    for tile in 0..tiles {
                        let (start, end) = (tile * rows / tiles, (tile + 1) * rows / tiles);
                        tile_of(end - start, wide, panel, start, column, &mut task);
                    }
                }
            }

            #[target_feature(enable = $features)]
            fn tile_of(
                rows: usize,
                wide: usize,
                panel: &[Line],
                row: usize,
                column: usize,
                task: &mut Task<'_>,
            ) {
                match (rows, wide) {
                    (1, LINES) => tile::<1, LINES>(panel, row, column, task),
                    (2, LINES) => tile::<2, LINES>(panel, row, column, task),
                    (3, LINES) => tile::<3, LINES>(panel, row, column, task),
                    (4, LINES) => tile::<4, LINES>(panel, row, column, task),
                    (5, LINES) => tile::<5, LINES>(panel, row, column, task),
                    (6, LINES) => tile::<6, LINES>(panel, row, column, task),
                    (7, LINES) => tile::<7, LINES>(panel, row, column, task),
                    (8, LINES) => tile::<8, LINES>(panel, row, column, task),
                    // A narrower panel is the last one only; its rows are taken one or two at a time.
                    _ => {
                        let mut done = 0;
                        while done < rows {
                            let at = row + done;
                            done += match (rows - done, wide) {
                                (4.., 2) => (tile::<4, 2>(panel, at, column, task), 4).1,
                                (4.., _) => (tile::<4, 1>(panel, at, column, task), 4).1,
                                (_, 2) => (tile::<1, 2>(panel, at, column, task), 1).1,
                                (_, _) => (tile::<1, 1>(panel, at, column, task), 1).1,
                            };
                        }
                    }
                }
            }

            #[target_feature(enable = $features)]
            fn tile<const ROWS: usize, const WIDE: usize>(
                panel: &[Line],
                row: usize,
                column: usize,
                task: &mut Task<'_>,
            ) {
                let Rows { k, .. } = task.rows;
                let rows: [&[f32]; ROWS] =
                    std::array::from_fn(|i| task.rows.row(task.first_row + row + i));
                let (panel, _) = panel.as_chunks::<WIDE>();
                assert!(panel.len() == k && rows.iter().all(|row| row.len() == k));
                let mut sums = [[[$zero(); PER_LINE]; WIDE]; ROWS];
                for (p, lines) in panel.iter().enumerate() {
                    let weights: [[$vector; PER_LINE]; WIDE] = load(lines);
                    for (sums, row) in sums.iter_mut().zip(&rows) {
                        // SAFETY: `p < k`, the length of every row, as asserted.
                        let value = $set(unsafe { *row.get_unchecked(p) });
                        for (sums, weights) in sums.iter_mut().zip(&weights) {
                            for (sum, &weights) in sums.iter_mut().zip(weights) {
                                *sum = $fma(value, weights, *sum);
                            }
                        }
                    }
                }
                write(&sums, row, column, task);
            }

            /// One row times a whole panel of each stream.
            #[target_feature(enable = $features)]
            fn one_row(
                row: &[f32],
                panels: [&[Line]; STREAMS],
            ) -> [[[$vector; PER_LINE]; LINES]; STREAMS] {
                let panels = panels.map(|panel| panel.as_chunks::<LINES>().0);
                assert!(panels.iter().all(|panel| panel.len() == row.len()));
                let mut sums = [[[$zero(); PER_LINE]; LINES]; STREAMS];
                for (p, &value) in row.iter().enumerate() {
                    let value = $set(value);
                    for (sums, panel) in sums.iter_mut().zip(&panels) {
                        // SAFETY: `p` is below the length of the row, which is that of every panel, as asserted.
                        let lines = unsafe { panel.get_unchecked(p) };
                        for (sums, weights) in sums.iter_mut().zip(load(lines)) {
                            for (sum, weights) in sums.iter_mut().zip(weights) {
                                *sum = $fma(value, weights, *sum);
                            }
                        }
                    }
                }
                sums
            }

            #[target_feature(enable = $features)]
            #[inline]
            fn load<const WIDE: usize>(lines: &[Line; WIDE]) -> [[$vector; PER_LINE]; WIDE] {
                let mut vectors = [[$zero(); PER_LINE]; WIDE];
                for (vectors, line) in vectors.iter_mut().zip(lines) {
                    for (part, vector) in vectors.iter_mut().enumerate() {
                        let start = &line.0[part * $lanes..];
                        // SAFETY: as many elements as a vector has, at a multiple of its size in an aligned line.
                        *vector = unsafe { $load(start.as_ptr()) };
                    }
                }
                vectors
            }

            /// Ends the sums of some rows, whole lines or what is left of the last.
            #[target_feature(enable = $features)]
            #[inline]
            fn write<const ROWS: usize, const WIDE: usize>(
                sums: &[[[$vector; PER_LINE]; WIDE]; ROWS],
                row: usize,
                column: usize,
                task: &mut Task<'_>,
            ) {
                let columns = task.out.columns();
                let Finish {
                    bias,
                    relu,
                    accumulate,
                } = task.finish;
                let plain = bias.is_empty() && !relu && accumulate == Accumulate::Overwrite;
                for (i, sums) in sums.iter().enumerate() {
                    let out =
                        &mut task.out.row(row + i)[column..columns.min(column + WIDE * Line::LEN)];
                    for (wide, sums) in sums.iter().enumerate() {
                        let from = wide * Line::LEN;
                        let mut line = Line::ZERO;
                        for (part, &sum) in sums.iter().enumerate() {
                            // SAFETY: as many elements as a vector has.
                            unsafe { $store(line.0[part * $lanes..].as_mut_ptr(), sum) };
                        }
                        if plain && let Some(out) = out[from..].first_chunk_mut::<{ Line::LEN }>() {
                            *out = line.0;
                            continue;
                        }
                        for (j, (out, &sum)) in out[from..].iter_mut().zip(&line.0).enumerate() {
                            let bias = bias.get(column + from + j).copied().unwrap_or(0.0);
                            *out = finished(sum, bias, *out, task.finish);
                        }
                    }
                }
            }
        }
    };
}

panels!(
    avx512, "avx512f,avx512bw,avx512dq,avx512vl,fma", lanes: 16, lines: 3, rows: 8,
    __m512, _mm512_setzero_ps, _mm512_set1_ps, _mm512_load_ps, _mm512_fmadd_ps, _mm512_storeu_ps
);
panels!(
    avx2, "avx2,fma", lanes: 8, lines: 1, rows: 6,
    __m256, _mm256_setzero_ps, _mm256_set1_ps, _mm256_load_ps, _mm256_fmadd_ps, _mm256_storeu_ps
);

/// Writes the columns of a block to every `step`th line.
///
/// Pairs, then pairs of pairs, within the quarters of the registers; then the quarters themselves.
#[target_feature(enable = "avx512f")]
pub(super) fn transpose(block: [&[f32; Line::LEN]; Line::LEN], lines: &mut [Line], step: usize) {
    // SAFETY: 16 elements each.
    let rows = block.map(|row| unsafe { _mm512_loadu_ps(row.as_ptr()) });
    let mut pairs = [_mm512_setzero_pd(); 16];
    for i in 0..8 {
        pairs[2 * i] = _mm512_castps_pd(_mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]));
        pairs[2 * i + 1] = _mm512_castps_pd(_mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]));
    }
    // fours[4 g + c]: rows 4 g..4 g + 4 of columns c, c + 4, c + 8, c + 12.
    let mut fours = [_mm512_setzero_ps(); 16];
    for g in 0..4 {
        for half in 0..2 {
            let (left, right) = (pairs[4 * g + half], pairs[4 * g + 2 + half]);
            fours[4 * g + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(left, right));
            fours[4 * g + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(left, right));
        }
    }
    for c in 0..4 {
        // Quarters q of the four vectors are column c + 4 q: a transposition of 4 x 4 quarters.
        let low = _mm512_shuffle_f32x4::<0b01_00_01_00>(fours[c], fours[4 + c]);
        let high = _mm512_shuffle_f32x4::<0b11_10_11_10>(fours[c], fours[4 + c]);
        let low_after = _mm512_shuffle_f32x4::<0b01_00_01_00>(fours[8 + c], fours[12 + c]);
        let high_after = _mm512_shuffle_f32x4::<0b11_10_11_10>(fours[8 + c], fours[12 + c]);
        let columns = [
            _mm512_shuffle_f32x4::<0b10_00_10_00>(low, low_after),
            _mm512_shuffle_f32x4::<0b11_01_11_01>(low, low_after),
            _mm512_shuffle_f32x4::<0b10_00_10_00>(high, high_after),
            _mm512_shuffle_f32x4::<0b11_01_11_01>(high, high_after),
        ];
        for (q, column) in columns.into_iter().enumerate() {
            let line = &mut lines[(c + 4 * q) * step];
            // SAFETY: a line has 16 elements.
            unsafe { _mm512_storeu_ps(line.0.as_mut_ptr(), column) };
        }
    }
}
