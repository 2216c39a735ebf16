//! Products with many rows, whose right side becomes real a piece at a time: weights that are held in few bits.
//!
//! In: rows of `f32`, and weights that can be written as lines of real numbers. Out: for every piece of the inner dimension
//! `total = sum · scale + total`, where a sum is one fused multiply-add after the other, from 0. What is written once serves all rows, so that a product of many rows takes hardly more time than one with weights that
//! are real already.

use std::cell::RefCell;
use std::ops::Range;
use std::time::Duration;

use super::Threads;
use super::lines::Line;
use super::packed::NANOSECONDS_WORTH_DIVIDING;
use crate::cpu::{Vectors, vectorized};
use crate::gemm_i8::block::BlockMut;
use crate::team;

/// Columns of a panel: four lines.
pub(crate) const COLUMNS: usize = LINES * Line::LEN;
/// Lines of a row of a panel.
pub(crate) const LINES: usize = 4;
/// Places of the inner dimension that are written before all rows pass by: with 64 columns they are 128 KiB, which the second cache
/// holds beside the rows.
const PLACES: usize = 512;

/// A number for each column of a panel.
pub(crate) type OfColumns = [[f32; Line::LEN]; LINES];

/// Weights `[n, k]` in panels of [`COLUMNS`] outputs.
pub(crate) trait Narrow {
    /// The inner dimension.
    fn k(&self) -> usize;

    /// The inner dimension in pieces, each within one scale, in order.
    fn pieces(&self) -> impl Iterator<Item = Range<usize>>;

    /// The scales of a piece.
    fn scales_of(&self, panel: usize, piece: &Range<usize>) -> &OfColumns;

    /// Writes the codes of a piece as real numbers.
    fn write(&self, vectors: Vectors, panel: usize, piece: &Range<usize>, into: &mut Piece<'_>);
}

/// The lines of a piece: of each place as many as reach the last column, one place behind the other.
pub(crate) struct Piece<'a> {
    lines: &'a mut [Line],
    count: usize,
}

impl Piece<'_> {
    /// How many lines of each place there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// One line of each place, in order.
    #[inline(always)]
    pub fn lines(&mut self, line: usize) -> impl Iterator<Item = &mut [f32; Line::LEN]> {
        let lines = self.lines.iter_mut().skip(line).step_by(self.count);
        lines.map(|line| &mut line.0)
    }
}

/// Whether a product by pieces gives what its definition says: the loops for every CPU do not fuse.
pub(crate) fn fuse(vectors: Vectors) -> bool {
    !matches!(vectors, Vectors::Baseline)
}

/// What is written of a panel: some pieces, each with the length that it has, and its scales.
#[derive(Default)]
struct Written {
    lines: Vec<Line>,
    pieces: Vec<(usize, OfColumns)>,
}

/// Writes `out = a · weightsᵀ + bias`, the outputs from panel `first` on.
///
/// | argument | shape    |
/// |----------|----------|
/// | `a`      | `[m, k]` |
/// | `bias`   | one for each column of `out`, or empty for none |
/// | `out`    | `[m, columns]` |
pub(crate) fn product(
    vectors: Vectors,
    a: &[f32],
    weights: &impl Narrow,
    first: usize,
    bias: &[f32],
    out: BlockMut<'_, f32>,
) {
    thread_local! {
        static WRITTEN: RefCell<Written> = RefCell::default();
    }
    // Taken, not borrowed: should rayon run another product on this thread meanwhile, that makes its own.
    let mut written = WRITTEN.take();
    let (m, k) = (out.rows(), weights.k());
    let mut rest = out;
    let mut panel = first;
    while rest.columns() > 0 {
        let width = COLUMNS.min(rest.columns());
        let (mut block, after) = rest.split_columns(width);
        rest = after;
        for row in 0..m {
            block.row(row).fill(0.0);
        }
        let count = width.div_ceil(Line::LEN);
        let mut pieces = weights.pieces().peekable();
        while let Some(start) = pieces.peek().map(|piece| piece.start) {
            written.pieces.clear();
            let mut places = 0;
            let fits =
                |places: usize, piece: &Range<usize>| places == 0 || places + piece.len() <= PLACES;
            while let Some(piece) = pieces.next_if(|piece| fits(places, piece)) {
                let lines = count * places..count * (places + piece.len());
                if written.lines.len() < lines.end {
                    written.lines.resize(lines.end, Line::ZERO);
                }
                let lines = &mut written.lines[lines];
                weights.write(vectors, panel, &piece, &mut Piece { lines, count });
                let scales = *weights.scales_of(panel, &piece);
                written.pieces.push((piece.len(), scales));
                places += piece.len();
            }
            let part = Part {
                a: &a[start..],
                stride: k,
                lines: &written.lines[..count * places],
                count,
                pieces: &written.pieces,
            };
            match vectors {
                #[cfg(target_arch = "x86_64")]
                Vectors::Avx512(_) => multiply_wide(vectors, part, &mut block),
                _ => multiply(vectors, part, &mut block),
            }
        }
        if !bias.is_empty() {
            let bias = &bias[(panel - first) * COLUMNS..][..width];
            for row in 0..m {
                let out = block.row(row).iter_mut().zip(bias);
                out.for_each(|(out, bias)| *out += bias);
            }
        }
        panel += 1;
    }
    WRITTEN.set(written);
}

/// Divides a product among threads by whole panels, if that pays: `run` is given its first panel, and the columns from there on.
pub(crate) fn divide(
    threads: Threads,
    k: usize,
    out: BlockMut<'_, f32>,
    run: impl Fn(usize, BlockMut<'_, f32>) + Send + Sync,
) {
    let (m, panels) = (out.rows(), out.columns().div_ceil(COLUMNS));
    // One thread, at least: 40 multiply-adds in a nanosecond, or 24 codes if they are read for a row or two.
    let codes = out.columns().saturating_mul(k) as u64;
    let nanoseconds = (codes.saturating_mul(m as u64) / 40).max(codes / 24);
    let threads = match threads {
        Threads::Auto if nanoseconds >= NANOSECONDS_WORTH_DIVIDING => rayon::current_num_threads(),
        Threads::Auto | Threads::One => 1,
    };
    // Two parts for each thread: who is late leaves one to the other.
    let parts = if threads == 1 {
        1
    } else {
        panels.min(2 * threads)
    };
    let mut tasks = Vec::with_capacity(parts);
    let (mut first, mut rest) = (0, out);
    for part in 1..parts {
        let next = part * panels / parts;
        let (block, after) = rest.split_columns((next - first) * COLUMNS);
        tasks.push((first, block));
        (first, rest) = (next, after);
    }
    tasks.push((first, rest));
    let time = Duration::from_nanos(nanoseconds);
    team::for_each_of(time, tasks, threads, |(first, out)| run(first, out));
}

/// Some pieces of a panel, and the rows that are multiplied with them.
#[derive(Clone, Copy)]
struct Part<'a> {
    /// From the first place of the first piece on.
    a: &'a [f32],
    stride: usize,
    lines: &'a [Line],
    /// Lines of each place.
    count: usize,
    pieces: &'a [(usize, OfColumns)],
}

vectorized! {
    /// Adds to totals, with the sums of all lines of a panel in registers: 6 rows of 4 are 24 of 32.
    fn multiply_wide(part: Part<'_>, totals: &mut BlockMut<'_, f32>) {
        match part.count {
            1 => tiles::<1, 1>(part, 0, totals),
            2 => tiles::<2, 2>(part, 0, totals),
            3 => tiles::<3, 3>(part, 0, totals),
            _ => tiles::<4, 4>(part, 0, totals),
        }
    }
}

vectorized! {
    /// Adds to totals, with the sums of a line in registers: 6 rows of 2 vectors are 12 of 16.
    fn multiply(part: Part<'_>, totals: &mut BlockMut<'_, f32>) {
        for line in 0..part.count {
            match part.count {
                1 => tiles::<1, 1>(part, line, totals),
                2 => tiles::<2, 1>(part, line, totals),
                3 => tiles::<3, 1>(part, line, totals),
                _ => tiles::<4, 1>(part, line, totals),
            }
        }
    }
}

/// `WIDE` of the `COUNT` lines, from line `first` on, times all rows.
#[inline(always)]
fn tiles<const COUNT: usize, const WIDE: usize>(
    part: Part<'_>,
    first: usize,
    totals: &mut BlockMut<'_, f32>,
) {
    let mut row = 0;
    while row < totals.rows() {
        row += match totals.rows() - row {
            1 => tile::<1, COUNT, WIDE>(part, row, first, totals),
            2 | 3 => tile::<2, COUNT, WIDE>(part, row, first, totals),
            4 | 5 => tile::<4, COUNT, WIDE>(part, row, first, totals),
            _ => tile::<6, COUNT, WIDE>(part, row, first, totals),
        };
    }
}

/// As [`tiles`], for `N` rows from `row` on; returns how many.
#[inline(always)]
fn tile<const N: usize, const COUNT: usize, const WIDE: usize>(
    part: Part<'_>,
    row: usize,
    first: usize,
    totals: &mut BlockMut<'_, f32>,
) -> usize {
    let mut rows: [&[f32]; N] = std::array::from_fn(|i| &part.a[(row + i) * part.stride..]);
    let mut lines = part.lines.as_chunks::<COUNT>().0;
    let mut kept = [[[0.0_f32; Line::LEN]; WIDE]; N];
    for (i, kept) in kept.iter_mut().enumerate() {
        let before = &totals.row(row + i)[first * Line::LEN..];
        let reached = before.len().min(WIDE * Line::LEN);
        kept.as_flattened_mut()[..reached].copy_from_slice(&before[..reached]);
    }
    for (places, scales) in part.pieces {
        let (piece, after) = lines.split_at(*places);
        let rows_of_piece = rows.map(|row| &row[..*places]);
        let sums: [[_; WIDE]; N] = sums(piece, rows_of_piece, first);
        for (kept, sums) in kept.iter_mut().zip(&sums) {
            for ((kept, sums), scales) in kept.iter_mut().zip(sums).zip(&scales[first..]) {
                *kept = std::array::from_fn(|j| sums[j].mul_add(scales[j], kept[j]));
            }
        }
        (lines, rows) = (after, rows.map(|row| &row[*places..]));
    }
    for (i, kept) in kept.iter().enumerate() {
        let after = &mut totals.row(row + i)[first * Line::LEN..];
        let reached = after.len().min(WIDE * Line::LEN);
        after[..reached].copy_from_slice(&kept.as_flattened()[..reached]);
    }
    N
}

/// The sums of a piece, in order: `WIDE` of the `COUNT` lines, from line `first` on, for each row.
#[inline(always)]
fn sums<const N: usize, const COUNT: usize, const WIDE: usize>(
    lines: &[[Line; COUNT]],
    rows: [&[f32]; N],
    first: usize,
) -> [[[f32; Line::LEN]; WIDE]; N] {
    let rows = rows.map(|row| &row[..lines.len()]);
    let mut sums = [[[0.0_f32; Line::LEN]; WIDE]; N];
    for (p, lines) in lines.iter().enumerate() {
        let mut weights = [[0.0_f32; Line::LEN]; WIDE];
        for (weights, line) in weights.iter_mut().zip(&lines[first..]) {
            *weights = line.0;
        }
        for (sums, row) in sums.iter_mut().zip(&rows) {
            let a = row[p];
            for (sums, weights) in sums.iter_mut().zip(&weights) {
                for (sum, &weight) in sums.iter_mut().zip(weights) {
                    *sum = a.mul_add(weight, *sum);
                }
            }
        }
    }
    sums
}
