//! The right side of an f32 product in the order in which it is read, packed once for any number of products.
//!
//! ```text
//! b [k, n] -> panels of up to 3 lines (48 columns), the last one narrower and filled up with zeros, each:
//!
//!     row 0: columns 0..48 | row 1: columns 0..48 | ... | row k−1
//! ```
//!
//! A tile of rows of the left side, read where they are, passes by a panel from front to back: each line that is loaded
//! serves all rows of the tile. Every element is summed along `k` in one order, one fused multiply-add after the other,
//! whatever its tile and thread are.

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::ops::Range;
use std::time::Duration;

use super::lines::Line;
use super::panels::{self, Left, Panels, Task};
use super::{Accumulate, MatrixMut, MatrixRef, Threads, assert_reaches};
use crate::Dims;
use crate::cpu::Vectors;
use crate::gemm_i8::block::BlockMut;
use crate::{pages, team};

/// Products that take less than this stay on the caller's thread: dividing one costs about a microsecond.
pub(super) const NANOSECONDS_WORTH_DIVIDING: u64 = 4000;

/// What a product takes one thread, at least, at 58 multiply-adds in a nanosecond and 130 bytes of `b`, or 28 if no second cache holds it.
fn nanoseconds(m: usize, n: usize, k: usize) -> u64 {
    let elements = n.saturating_mul(k) as u64;
    let is_cached = elements <= (2 * CACHED_BYTES / size_of::<f32>()) as u64;
    let read = elements / if is_cached { 33 } else { 7 };
    (elements.saturating_mul(m as u64) / 58).max(read)
}

/// Rows of each thread from which a product may be divided by rows rather than by columns.
const ROWS_WORTH_DIVIDING: usize = 32;

/// Panels of each thread from which columns divide evenly enough: of 17 for two, one has 9.
const PANELS_WORTH_DIVIDING: usize = 8;

/// Bytes of `a` that stay in a second cache while panels pass by: half of 2 MiB.
pub(super) const CACHED_BYTES: usize = 1 << 20;

/// The right side of products, `[k, n]`.
#[derive(Clone, Debug, Default)]
pub struct PackedF32 {
    n: usize,
    k: usize,
    /// Lines of a whole panel.
    wide: usize,
    lines: Vec<Line>,
}

/// What happens to the sums of one product.
#[derive(Clone, Copy, Debug)]
pub struct Finish<'a> {
    /// `[n]`, added to every row; empty for none.
    pub bias: &'a [f32],
    /// Whether negative results become `0.0`; NaN stays.
    pub relu: bool,
    /// Whether the result is added to what the output holds, before what follows.
    pub accumulate: Accumulate,
    /// Applied to every row before ReLU.
    pub normalize: Option<Normalize<'a>>,
}

/// `(x − mean) · scale + shift`, for each column its own: a batch norm whose moments do not change. Each of the three operations
/// is rounded, so the bits are those of a pass of its own.
#[derive(Clone, Copy, Debug)]
pub struct Normalize<'a> {
    /// `[n]`.
    pub mean: &'a [f32],
    /// `[n]`.
    pub scale: &'a [f32],
    /// `[n]`.
    pub shift: &'a [f32],
}

impl Normalize<'_> {
    /// Of the columns `range`.
    pub(crate) fn columns(&self, range: Range<usize>) -> Self {
        Self {
            mean: &self.mean[range.clone()],
            scale: &self.scale[range.clone()],
            shift: &self.shift[range],
        }
    }

    /// One number of column `column`.
    #[inline(always)]
    pub(crate) fn apply(&self, value: f32, column: usize) -> f32 {
        (value - self.mean[column]) * self.scale[column] + self.shift[column]
    }

    /// # Panics
    ///
    /// If there are not `n` numbers of each kind.
    #[track_caller]
    pub(crate) fn check(&self, n: usize) {
        let lengths = [self.mean, self.scale, self.shift].map(<[f32]>::len);
        assert_eq!(lengths, [n; 3], "mean, scale and shift must be [{n}]");
    }
}

impl Finish<'_> {
    /// The sums as they are.
    pub const NOTHING: Finish<'static> = Finish {
        bias: &[],
        relu: false,
        accumulate: Accumulate::Overwrite,
        normalize: None,
    };
}

impl PackedF32 {
    /// Packs `b`, `[k, n]`, of any strides: the weights `[n, k]` of a linear layer are `row_major(weights, k).transposed()`.
    ///
    /// # Panics
    ///
    /// If the slice is shorter than its dimensions and strides reach.
    #[track_caller]
    pub fn new(k: usize, n: usize, b: MatrixRef<'_>) -> Self {
        let mut packed = Self::default();
        packed.pack(k, n, b, 1);
        packed
    }

    /// Packs another matrix into the memory of this one.
    #[track_caller]
    fn pack(&mut self, k: usize, n: usize, b: MatrixRef<'_>, threads: usize) {
        assert_reaches("b", [k, n], [b.row_stride, b.column_stride], b.data.len());
        (self.k, self.n) = (k, n);
        let lines = k * n.div_ceil(Line::LEN);
        pages::reserve(&mut self.lines, lines);
        self.lines.resize(lines, Line::ZERO);
        let vectors = Vectors::chosen();
        self.wide = panels::wide(vectors, n);
        if self.lines.is_empty() {
            return;
        }
        let (wide, width) = (self.wide, self.wide * Line::LEN);
        // Two pieces for each thread, whole panels.
        let columns = width * n.div_ceil(width).div_ceil(2 * threads);
        let pieces = self.lines.chunks_mut(columns / Line::LEN * k).enumerate();
        team::for_each(pieces.collect(), threads, |(piece, lines)| {
            panels::pack(vectors, [k, n, wide], b, piece * columns, lines);
        });
    }

    fn panels(&self) -> Panels<'_> {
        Panels {
            lines: &self.lines,
            wide: self.wide,
            n: self.n,
            k: self.k,
        }
    }

    /// Columns.
    pub fn n(&self) -> usize {
        self.n
    }

    /// The inner dimension.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Bytes held on the heap, with the padding of the last columns.
    pub fn bytes(&self) -> usize {
        self.lines.len() * size_of::<Line>()
    }

    /// Computes `out = a · b`, with what `finish` says.
    ///
    /// | argument | shape    | meaning                       |
    /// |----------|----------|-------------------------------|
    /// | `a`      | `[m, k]` | its rows contiguous           |
    /// | `out`    | `[m, n]` | row-major                     |
    ///
    /// # Panics
    ///
    /// If the rows of `a` are not contiguous, a slice is shorter than its dimensions and strides reach, the rows of
    /// `out` overlap, the bias is neither `[n]` nor empty, or what normalizes is not `[n]`.
    #[track_caller]
    pub fn product(
        &self,
        m: usize,
        a: MatrixRef<'_>,
        finish: Finish<'_>,
        out: MatrixMut<'_>,
        threads: Threads,
    ) {
        let (n, k) = (self.n, self.k);
        assert!(
            a.column_stride == 1 || k <= 1,
            "the rows of a must be contiguous"
        );
        assert_reaches("a", [m, k], [a.row_stride, 1], a.data.len());
        assert!(
            finish.bias.is_empty() || finish.bias.len() == n,
            "bias must be [n] or empty"
        );
        if let Some(normalize) = finish.normalize {
            normalize.check(n);
        }
        let rows = panels::Rows {
            data: a.data,
            stride: a.row_stride,
            k,
        };
        let block = BlockMut::new(out.data, m, 0, n, out.row_stride);
        self.run(rows, finish, block, threads);
    }

    /// As [`PackedF32::product`], for any left side with as many rows as `out`; the caller has checked the finish.
    pub(crate) fn run<'a, L: Left<'a>>(
        &'a self,
        left: L,
        finish: Finish<'a>,
        out: BlockMut<'a, f32>,
        threads: Threads,
    ) {
        let m = out.rows();
        if m == 0 || self.n == 0 {
            return;
        }
        assert_eq!((left.k(), out.columns()), (self.k, self.n));
        let large = nanoseconds(m, self.n, self.k) >= NANOSECONDS_WORTH_DIVIDING;
        let threads = match threads {
            Threads::Auto if large => rayon::current_num_threads(),
            Threads::Auto | Threads::One => 1,
        };
        run(task(left, self.panels(), finish, out), threads);
    }
}

/// The task of a whole product.
fn task<'a, L: Left<'a>>(
    left: L,
    panels: Panels<'a>,
    finish: Finish<'a>,
    out: BlockMut<'a, f32>,
) -> Task<'a, L> {
    Task {
        left,
        panels,
        first_row: 0,
        first_column: 0,
        finish,
        out,
    }
}

/// Computes a task on `threads` threads.
fn run<'a, L: Left<'a>>(task: Task<'a, L>, threads: usize) {
    let vectors = Vectors::chosen();
    if threads == 1 {
        return panels::run(vectors, task);
    }
    let Panels { n, k, .. } = task.panels;
    let time = Duration::from_nanos(nanoseconds(task.out.rows(), n, k));
    let tasks = divide(task, threads);
    team::for_each_of(time, tasks, threads, |task| panels::run(vectors, task));
}

thread_local! {
    /// Kept between calls: a fresh one would cost page faults each time.
    static BUFFER: RefCell<PackedF32> = const { RefCell::new(PackedF32 { n: 0, k: 0, wide: 1, lines: vec![] }) };
}

/// Bytes of packed weights that a thread keeps.
const KEPT_BYTES: usize = 16 << 20;

/// Whether packing `b` for one product is faster than what the `gemm` crate does: where it would have to transpose it.
pub(super) fn pays(a: MatrixRef<'_>, b: MatrixRef<'_>) -> bool {
    let vectors = !matches!(Vectors::chosen(), Vectors::Baseline);
    vectors && a.column_stride == 1 && b.row_stride == 1 && b.column_stride != 1
}

/// `c = a · b` or `c += a · b` for matrices for which it [`pays`], checked by the caller.
pub(super) fn product_of_transposed(
    Dims { m, n, k }: Dims,
    a: MatrixRef<'_>,
    b: MatrixRef<'_>,
    c: MatrixMut<'_>,
    accumulate: Accumulate,
    threads: usize,
) {
    // Taken, not borrowed: should this thread run another product meanwhile, it makes its own.
    let mut packed = BUFFER.take();
    packed.pack(k, n, b, threads);
    let rows = panels::Rows {
        data: a.data,
        stride: a.row_stride,
        k,
    };
    let finish = Finish {
        accumulate,
        ..Finish::NOTHING
    };
    let out = BlockMut::new(c.data, m, 0, n, c.row_stride);
    run(task(rows, packed.panels(), finish, out), threads);
    if packed.bytes() <= KEPT_BYTES {
        BUFFER.set(packed);
    }
}

/// Divides a product by rows if there are enough, by whole panels otherwise.
///
/// Pieces of rows each read all of `b`, pieces of panels all of `a`. So where `a` is the smaller and stays in the cache, it is by
/// panels, whatever the rows: by rows, 128 rows times 768 x 3072 would read the 9 MiB of `b` four times.
fn divide<'a, L: Left<'a>>(task: Task<'a, L>, threads: usize) -> Vec<Task<'a, L>> {
    let (m, n, width) = (task.out.rows(), task.panels.n, task.panels.width());
    let panels = n.div_ceil(width);
    let cached = m.saturating_mul(task.panels.k) <= CACHED_BYTES / size_of::<f32>();
    let by_columns = m < n && cached && panels >= threads * PANELS_WORTH_DIVIDING;
    let by_rows = m >= threads * ROWS_WORTH_DIVIDING && !by_columns;
    // Two pieces for each thread: who is late leaves one to the other.
    let pieces = (2 * threads).min(if by_rows { m } else { panels });
    let mut tasks = Vec::with_capacity(pieces);
    let mut rest = task;
    for piece in 1..pieces {
        let part = |whole: usize| piece * whole / pieces - (piece - 1) * whole / pieces;
        let (first, after) = if by_rows {
            rest.split_rows(part(m))
        } else {
            rest.split_columns(part(panels) * width)
        };
        tasks.push(first);
        rest = after;
    }
    tasks.push(rest);
    tasks
}
