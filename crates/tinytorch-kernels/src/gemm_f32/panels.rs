//! Tiles of rows times panels of packed columns, for each instruction set.
#![expect(
    unsafe_code,
    reason = "vector loads and stores, and calls that need CPU features"
)]

#[cfg(target_arch = "x86_64")]
mod x86;

use std::ops::Range;

use super::lines::Line;
use super::packed::Finish;
use super::{Accumulate, MatrixRef};
use crate::cpu::Vectors;
use crate::gemm_i8::block::BlockMut;

/// The left side of a product: its rows, and where in each the elements lie that are summed over.
///
/// # Safety
///
/// For `p < k()`, `step(p)` is below the length of every slice that `row` returns.
pub(crate) unsafe trait Left<'a>: Copy + Send + Sync {
    /// The inner dimension.
    fn k(&self) -> usize;

    /// The memory of one row.
    fn row(&self, row: usize) -> &'a [f32];

    /// Where in the memory of a row its element `p` is.
    ///
    /// # Safety
    ///
    /// `p < k()`.
    unsafe fn step(&self, p: usize) -> usize;
}

/// Rows of `k` contiguous elements.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub data: &'a [f32],
    pub stride: usize,
    pub k: usize,
}

// SAFETY: a row has `k` elements, and a step is its own number.
unsafe impl<'a> Left<'a> for Rows<'a> {
    #[inline(always)]
    fn k(&self) -> usize {
        self.k
    }

    /// Checked: a stride that is wrong for a single row is multiplied by 0, any other leaves the slice. Rows without elements may
    /// have any stride.
    #[inline(always)]
    fn row(&self, row: usize) -> &'a [f32] {
        if self.k == 0 {
            return &[];
        }
        &self.data[row * self.stride..][..self.k]
    }

    #[inline(always)]
    unsafe fn step(&self, p: usize) -> usize {
        p
    }
}

/// Packed columns, and how wide their panels are.
#[derive(Clone, Copy)]
pub(super) struct Panels<'a> {
    pub lines: &'a [Line],
    /// Lines of a whole panel.
    pub wide: usize,
    /// Columns of the packed matrix.
    pub n: usize,
    pub k: usize,
}

impl<'a> Panels<'a> {
    /// The lines of the panel whose first column is `column`, a multiple of a panel's width, and how many lines wide it is.
    fn at(&self, column: usize) -> (&'a [Line], usize) {
        let wide = (self.n - column).div_ceil(Line::LEN).min(self.wide);
        let first = column / Line::LEN * self.k;
        (&self.lines[first..first + wide * self.k], wide)
    }

    /// Columns of a whole panel.
    pub fn width(&self) -> usize {
        self.wide * Line::LEN
    }
}

/// A rectangle of the result to compute.
pub(crate) struct Task<'a, L> {
    pub(super) left: L,
    pub(super) panels: Panels<'a>,
    pub(super) first_row: usize,
    /// A multiple of a panel's width.
    pub(super) first_column: usize,
    /// Bias and what normalizes are those of the rectangle's columns.
    pub(super) finish: Finish<'a>,
    pub(super) out: BlockMut<'a, f32>,
}

impl<'a, L: Left<'a>> Task<'a, L> {
    pub fn split_rows(self, rows: usize) -> (Self, Self) {
        let (top, bottom) = self.out.split_rows(rows);
        (
            Self { out: top, ..self },
            Self {
                out: bottom,
                first_row: self.first_row + rows,
                ..self
            },
        )
    }

    pub fn split_columns(self, columns: usize) -> (Self, Self) {
        let (left, right) = self.out.split_columns(columns);
        let (left_bias, right_bias) = self
            .finish
            .bias
            .split_at(columns.min(self.finish.bias.len()));
        let normalize = self.finish.normalize;
        let of = |range: Range<usize>| normalize.map(|normalize| normalize.columns(range));
        (
            Self {
                finish: Finish {
                    bias: left_bias,
                    normalize: of(0..columns),
                    ..self.finish
                },
                out: left,
                ..self
            },
            Self {
                first_column: self.first_column + columns,
                finish: Finish {
                    bias: right_bias,
                    normalize: of(columns..columns + right.columns()),
                    ..self.finish
                },
                out: right,
                ..self
            },
        )
    }

    #[inline(always)]
    fn row(&self, row: usize) -> &'a [f32] {
        self.left.row(self.first_row + row)
    }
}

/// Lines of a whole panel for a matrix of `n` columns.
///
/// Three, unless the matrix is narrow and twos come out even: the last panel of 4 lines would have one alone, with too few
/// independent sums to keep the multiply-adds busy.
pub(super) fn wide(vectors: Vectors, n: usize) -> usize {
    let lines = n.div_ceil(Line::LEN);
    match vectors {
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx512(_) if matches!(lines, 2 | 4 | 8) => 2,
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx512(_) => x86::avx512::LINES,
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx2(_) => x86::avx2::LINES,
        Vectors::Baseline => 1,
    }
}

/// Computes a task.
pub(super) fn run<'a, L: Left<'a>>(vectors: Vectors, task: Task<'a, L>) {
    match vectors {
        // SAFETY: `Vectors::Avx512` is only made on CPUs that have these features.
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx512(_) => unsafe { x86::avx512::run(task) },
        // SAFETY: `Vectors::Avx2` is only made on CPUs that have these features.
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx2(_) => unsafe { x86::avx2::run(task) },
        Vectors::Baseline => baseline(task),
    }
}

/// The loops that every CPU has; some rows and a line at a time, which compilers vectorize.
fn baseline<'a, L: Left<'a>>(mut task: Task<'a, L>) {
    let (rows, columns) = (task.out.rows(), task.out.columns());
    for column in (0..columns).step_by(Line::LEN) {
        let mut row = 0;
        while row < rows {
            row += match rows - row {
                ..2 => (baseline_tile::<L, 1>(&mut task, row, column), 1).1,
                _ => (baseline_tile::<L, 2>(&mut task, row, column), 2).1,
            };
        }
    }
}

#[inline(always)]
fn baseline_tile<'a, L: Left<'a>, const ROWS: usize>(
    task: &mut Task<'a, L>,
    row: usize,
    column: usize,
) {
    let (panel, _) = task.panels.at(task.first_column + column);
    let rows: [&[f32]; ROWS] = std::array::from_fn(|i| task.row(row + i));
    let mut sums = [Line::ZERO; ROWS];
    assert!(panel.len() == task.left.k());
    for (p, line) in panel.iter().enumerate() {
        // SAFETY: `p < k`, as asserted.
        let step = unsafe { task.left.step(p) };
        for (sums, row) in sums.iter_mut().zip(&rows) {
            for (sum, &weight) in sums.0.iter_mut().zip(&line.0) {
                *sum += row[step] * weight;
            }
        }
    }
    let width = Line::LEN.min(task.out.columns() - column);
    let finish = task.finish;
    for (i, sums) in sums.iter().enumerate() {
        let out = &mut task.out.row(row + i)[column..column + width];
        for (j, (out, &sum)) in out.iter_mut().zip(&sums.0).enumerate() {
            let bias = finish.bias.get(column + j).copied().unwrap_or(0.0);
            *out = finished(sum, bias, *out, finish, column + j);
        }
    }
}

/// What becomes of one sum of column `column`.
#[inline(always)]
fn finished(sum: f32, bias: f32, before: f32, finish: Finish<'_>, column: usize) -> f32 {
    let mut value = sum + bias;
    if finish.accumulate == Accumulate::Add {
        value += before;
    }
    if let Some(normalize) = finish.normalize {
        value = normalize.apply(value, column);
    }
    // NaN stays: it shows that training has diverged.
    if finish.relu && value < 0.0 {
        0.0
    } else {
        value
    }
}

/// Writes the columns of `b`, `[k, n]`, from `first_column` on, to `lines` in panels `wide` lines wide until those are full.
pub(super) fn pack(
    vectors: Vectors,
    [k, n, wide]: [usize; 3],
    b: MatrixRef<'_>,
    first_column: usize,
    lines: &mut [Line],
) {
    for (panel, lines) in lines.chunks_mut(wide * k).enumerate() {
        let first = panel * wide;
        let wide = lines.len() / k;
        for part in 0..wide {
            let column = first_column + (first + part) * Line::LEN;
            let columns = Line::LEN.min(n - column);
            pack_lines(vectors, k, b, column, columns, &mut lines[part..], wide);
        }
    }
}

/// Writes columns `column..column + columns` (at most a line's) to every `step`th line.
fn pack_lines(
    vectors: Vectors,
    k: usize,
    b: MatrixRef<'_>,
    column: usize,
    columns: usize,
    lines: &mut [Line],
    step: usize,
) {
    let mut done = 0;
    if b.row_stride == 1 && columns == Line::LEN {
        let whole = k - k % Line::LEN;
        for p in (0..whole).step_by(Line::LEN) {
            let block: [&[f32; Line::LEN]; Line::LEN] = std::array::from_fn(|j| {
                let start = (column + j) * b.column_stride + p;
                b.data[start..]
                    .first_chunk()
                    .expect("the matrix reaches there, as checked")
            });
            let mut into = lines[p * step..].iter_mut().step_by(step);
            let into = std::array::from_fn(|_| &mut into.next().expect("a line for each column").0);
            transpose(vectors, block, into);
        }
        done = whole;
    }
    for p in done..k {
        let line = &mut lines[p * step];
        let start = p * b.row_stride + column * b.column_stride;
        if b.column_stride == 1 && columns == Line::LEN {
            line.0.copy_from_slice(&b.data[start..start + Line::LEN]);
            continue;
        }
        *line = Line::ZERO;
        for (j, value) in line.0[..columns].iter_mut().enumerate() {
            *value = b.data[start + j * b.column_stride];
        }
    }
}

/// For each of some rows, the line at each step after `first` times a line of weights, summed in the order of the steps.
///
/// # Panics
///
/// If a row is too short.
pub(crate) fn lines_summed<const N: usize>(
    vectors: Vectors,
    rows: [&[f32]; N],
    first: usize,
    steps: &[usize],
    weights: &[Line],
) -> [Line; N] {
    match vectors {
        // SAFETY: `Vectors::Avx512` is only made on CPUs that have these features.
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx512(_) => unsafe { x86::avx512::lines_summed(rows, first, steps, weights) },
        // SAFETY: `Vectors::Avx2` is only made on CPUs that have these features.
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx2(_) => unsafe { x86::avx2::lines_summed(rows, first, steps, weights) },
        Vectors::Baseline => rows.map(|row| {
            let mut sums = Line::ZERO;
            for (&step, weights) in steps.iter().zip(weights) {
                let values: &[f32; Line::LEN] =
                    row[first + step..].first_chunk().expect("a whole line");
                for ((sum, &value), &weight) in sums.0.iter_mut().zip(values).zip(&weights.0) {
                    *sum += value * weight;
                }
            }
            sums
        }),
    }
}

/// Writes column `i` of a block to `into[i]`.
pub(crate) fn transpose(
    vectors: Vectors,
    block: [&[f32; Line::LEN]; Line::LEN],
    into: [&mut [f32; Line::LEN]; Line::LEN],
) {
    match vectors {
        // SAFETY: `Vectors::Avx512` is only made on CPUs that have these features.
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx512(_) => unsafe { x86::transpose(block, into) },
        _ => {
            for (i, into) in into.into_iter().enumerate() {
                *into = block.map(|row| row[i]);
            }
        }
    }
}
