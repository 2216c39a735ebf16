//! Tiles of rows times panels of packed columns, for each instruction set.
#![expect(
    unsafe_code,
    reason = "vector loads and stores, and calls that need CPU features"
)]

#[cfg(target_arch = "x86_64")]
mod x86;

use super::lines::Line;
use super::packed::Finish;
use super::{Accumulate, MatrixRef};
use crate::cpu::Vectors;
use crate::gemm_i8::block::BlockMut;

/// Rows of `k` contiguous elements.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub data: &'a [f32],
    pub stride: usize,
    pub k: usize,
}

impl<'a> Rows<'a> {
    #[inline(always)]
    fn row(&self, row: usize) -> &'a [f32] {
        &self.data[row * self.stride..][..self.k]
    }
}

/// A rectangle of the result to compute.
pub(super) struct Task<'a> {
    pub rows: Rows<'a>,
    /// All panels.
    pub lines: &'a [Line],
    /// Columns of the packed matrix.
    pub n: usize,
    pub first_row: usize,
    /// A multiple of a panel's width.
    pub first_column: usize,
    /// The bias is that of the rectangle's columns.
    pub finish: Finish<'a>,
    pub out: BlockMut<'a, f32>,
}

impl<'a> Task<'a> {
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
        (
            Self {
                out: left,
                finish: Finish {
                    bias: left_bias,
                    ..self.finish
                },
                ..self
            },
            Self {
                out: right,
                first_column: self.first_column + columns,
                finish: Finish {
                    bias: right_bias,
                    ..self.finish
                },
                ..self
            },
        )
    }

    /// The lines of the panel whose first column, of the packed matrix, is `column`, and how many lines wide it is.
    fn panel(&self, column: usize, most: usize) -> (&'a [Line], usize) {
        let wide = (self.n - column).div_ceil(Line::LEN).min(most);
        let first = column / Line::LEN * self.rows.k;
        (&self.lines[first..first + wide * self.rows.k], wide)
    }
}

/// Lines of a panel.
fn lines_of(vectors: Vectors) -> usize {
    match vectors {
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx512(_) => x86::avx512::LINES,
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx2(_) => x86::avx2::LINES,
        Vectors::Baseline => 1,
    }
}

/// Columns of a whole panel.
pub(super) fn width(vectors: Vectors) -> usize {
    lines_of(vectors) * Line::LEN
}

/// Computes a task.
pub(super) fn run(vectors: Vectors, task: Task<'_>) {
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

/// The loops that every CPU has; a row and a line at a time, which compilers vectorize.
fn baseline(mut task: Task<'_>) {
    let (rows, columns) = (task.out.rows(), task.out.columns());
    for column in (0..columns).step_by(Line::LEN) {
        let (panel, _) = task.panel(task.first_column + column, 1);
        let width = Line::LEN.min(columns - column);
        for i in 0..rows {
            let row = task.rows.row(task.first_row + i);
            let mut sums = Line::ZERO;
            for (&value, line) in row.iter().zip(panel) {
                for (sum, &weight) in sums.0.iter_mut().zip(&line.0) {
                    *sum += value * weight;
                }
            }
            let finish = task.finish;
            for (j, (out, &sum)) in task.out.row(i)[column..column + width]
                .iter_mut()
                .zip(&sums.0)
                .enumerate()
            {
                let bias = finish.bias.get(column + j).copied().unwrap_or(0.0);
                *out = finished(sum, bias, *out, finish);
            }
        }
    }
}

/// What becomes of one sum.
#[inline(always)]
fn finished(sum: f32, bias: f32, before: f32, finish: Finish<'_>) -> f32 {
    let mut value = sum + bias;
    if finish.accumulate == Accumulate::Add {
        value += before;
    }
    // Also NaN, as everywhere in this crate.
    if !finish.relu || value > 0.0 {
        value
    } else {
        0.0
    }
}

/// Writes the columns of `b`, `[k, n]`, from `first_column` on, to `lines` in panels until those are full.
pub(super) fn pack(
    vectors: Vectors,
    k: usize,
    n: usize,
    b: MatrixRef<'_>,
    first_column: usize,
    lines: &mut [Line],
) {
    let lines_of = lines_of(vectors);
    for (panel, lines) in lines.chunks_mut(lines_of * k).enumerate() {
        let wide = lines.len() / k;
        for part in 0..wide {
            let column = first_column + (panel * lines_of + part) * Line::LEN;
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
    #[cfg(target_arch = "x86_64")]
    if b.row_stride == 1 && columns == Line::LEN && matches!(vectors, Vectors::Avx512(_)) {
        let whole = k - k % Line::LEN;
        for p in (0..whole).step_by(Line::LEN) {
            let block: [&[f32; Line::LEN]; Line::LEN] = std::array::from_fn(|j| {
                let start = (column + j) * b.column_stride + p;
                b.data[start..]
                    .first_chunk()
                    .expect("the matrix reaches there, as checked")
            });
            // SAFETY: `Vectors::Avx512` is only made on CPUs that have these features.
            unsafe { x86::transpose(block, &mut lines[p * step..], step) };
        }
        done = whole;
    }
    let _ = vectors;
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
