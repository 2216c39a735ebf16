//! The loops around a kernel: blocks of the inner dimension, threads, tiles.
//!
//! Source of their order: Goto, van de Geijn, "Anatomy of High-Performance Matrix Multiplication", section 4. A sum goes
//! back to `c` after each block of the inner dimension and is continued from there, so blocks do not show in its bits.

use std::cell::RefCell;

use rayon::prelude::*;

use super::pack::{COLUMNS, Exponents, INNER, Lines, Packed, Words, pack_tile};
use super::{Kernel, portable};
use crate::Dims;
use crate::gemm_f32::{Accumulate, Threads};
use crate::gemm_i8::block::BlockMut;

/// Tiles whose left side is packed at once: 14 rows · 16 · 1 KiB = 224 KiB, to stay in L2 beside the right side.
const TILES: usize = 16;
/// Products with fewer multiply-adds than this stay on the caller's thread: waking a second one costs more than it saves.
const PARALLEL_THRESHOLD: usize = 1 << 20;
/// A right matrix that was packed for one product leaves its memory to the next, up to this many bytes.
const KEEP_BYTES: usize = 32 << 20;

/// How many threads a product is worth.
pub(super) fn threads(Dims { m, n, k }: Dims, threads: Threads) -> usize {
    let large = m.saturating_mul(n).saturating_mul(k) >= PARALLEL_THRESHOLD;
    match threads {
        Threads::Auto if large => rayon::current_num_threads(),
        Threads::Auto | Threads::One => 1,
    }
}

/// Packs a right matrix, in memory that this thread keeps, and calls `run` with it.
pub(super) fn with_packed(
    kernel: Kernel,
    n: usize,
    k: usize,
    lines: Lines<'_>,
    threads: usize,
    run: impl FnOnce(&Packed),
) {
    thread_local! {
        static PACKED: RefCell<Packed> = RefCell::default();
    }
    // Taken, not borrowed: should rayon run another product on this thread meanwhile, that makes its own.
    let mut packed = PACKED.take();
    packed.fill(kernel, n, k, lines, threads);
    run(&packed);
    if packed.bytes() <= KEEP_BYTES {
        PACKED.set(packed);
    }
}

/// Whether a sum starts at zero or at what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    Zero,
    There,
}

/// The rows of a tile and the columns of a panel, multiplied.
pub(super) struct Tile<'a, 'c> {
    pub rows: usize,
    /// `rows` vectors per 16 words.
    pub left: &'a [Words],
    pub right: &'a [[Words; 2]],
    /// Where the sums belong: rows from `row` on, columns `column..column + width`.
    pub c: &'a mut BlockMut<'c, f32>,
    pub row: usize,
    pub column: usize,
    pub width: usize,
    pub start: Start,
}

/// A rectangle of the result.
struct Task<'a, 'c> {
    k: usize,
    left: Lines<'a>,
    first_row: usize,
    right: &'a Packed,
    first_panel: usize,
    c: BlockMut<'c, f32>,
    accumulate: Accumulate,
}

/// `c = left · right`, or `c += left · right`.
pub(super) fn product(
    kernel: Kernel,
    k: usize,
    left: Lines<'_>,
    right: &Packed,
    c: BlockMut<'_, f32>,
    accumulate: Accumulate,
    threads: usize,
) {
    let task = Task {
        k,
        left,
        first_row: 0,
        right,
        first_panel: 0,
        c,
        accumulate,
    };
    if threads == 1 {
        run(kernel, task);
    } else {
        divide(task, threads, kernel.rows())
            .into_par_iter()
            .for_each(|task| run(kernel, task));
    }
}

/// Divides a task into at most `parts`: by rows if there are enough (each part then packs its own), otherwise by columns.
fn divide<'a, 'c>(task: Task<'a, 'c>, parts: usize, rows: usize) -> Vec<Task<'a, 'c>> {
    let by_rows = task.c.rows() >= 2 * parts * rows;
    let (len, tile) = if by_rows {
        (task.c.rows(), rows)
    } else {
        (task.c.columns(), COLUMNS)
    };
    let tiles = len.div_ceil(tile);
    let parts = parts.min(tiles);
    let mut tasks = Vec::with_capacity(parts);
    let mut rest = task;
    for part in 1..parts {
        let size = part * tiles / parts - (part - 1) * tiles / parts;
        let (c, after) = if by_rows {
            rest.c.split_rows(size * tile)
        } else {
            rest.c.split_columns(size * tile)
        };
        let (rows, panels) = if by_rows { (size * tile, 0) } else { (0, size) };
        tasks.push(Task { c, ..rest });
        rest = Task {
            c: after,
            first_row: rest.first_row + rows,
            first_panel: rest.first_panel + panels,
            ..rest
        };
    }
    tasks.push(rest);
    tasks
}

thread_local! {
    static LEFT: RefCell<Vec<Words>> = const { RefCell::new(Vec::new()) };
}

fn run(kernel: Kernel, mut task: Task<'_, '_>) {
    let mut buffer = LEFT.take();
    if task.k == 0 {
        if task.accumulate == Accumulate::Overwrite {
            (0..task.c.rows()).for_each(|row| task.c.row(row).fill(0.0));
        }
    } else {
        run_with(kernel, &mut task, &mut buffer);
    }
    LEFT.set(buffer);
}

fn run_with(kernel: Kernel, task: &mut Task<'_, '_>, buffer: &mut Vec<Words>) {
    let (rows, columns) = (task.c.rows(), task.c.columns());
    let vectors = kernel.vectors();
    #[cfg(target_arch = "x86_64")]
    let mut unit = crate::amx::Unit::default();
    let mut plain = true;
    if let (Kernel::Portable(_), Accumulate::Add) = (kernel, task.accumulate) {
        plain = (0..rows).all(|row| portable::can_be_added_to(task.c.row(row)));
    }
    // Rows are divided evenly: 15 rows are 8 and 7, not 14 and 1, which would leave most of the second tile idle.
    let tiles = rows.div_ceil(kernel.rows());
    let tile_start = |tile: usize| tile * rows / tiles;
    for inner in (0..task.k).step_by(2 * INNER) {
        let len = (task.k - inner).min(2 * INNER);
        let words = len.div_ceil(2);
        let vectors_of_row = words.div_ceil(16);
        let start = if inner == 0 && task.accumulate == Accumulate::Overwrite {
            Start::Zero
        } else {
            Start::There
        };
        buffer.resize(TILES * kernel.rows() * vectors_of_row, Words::default());
        for first_tile in (0..tiles).step_by(TILES) {
            let last_tile = tiles.min(first_tile + TILES);
            let of_tile = |tile: usize| {
                let (start, end) = (tile_start(tile), tile_start(tile + 1));
                let first = (start - tile_start(first_tile)) * vectors_of_row;
                (
                    start,
                    end - start,
                    first..first + (end - start) * vectors_of_row,
                )
            };
            let mut exponents = Exponents::default();
            for tile in first_tile..last_tile {
                let (row, rows, range) = of_tile(tile);
                let place = [task.first_row + row, rows];
                let buffer = &mut buffer[range];
                pack_tile(vectors, task.left, place, [inner, len], buffer);
                if let Kernel::Portable(_) = kernel {
                    exponents.include(vectors, buffer);
                }
            }
            let plain = plain && exponents.are_plain(task.right.exponents);
            for column in (0..columns).step_by(COLUMNS) {
                let panel = task.first_panel + column / COLUMNS;
                let right = task.right.panel(inner / 2, words, panel);
                for tile in first_tile..last_tile {
                    let (row, rows, range) = of_tile(tile);
                    let tile = Tile {
                        rows,
                        left: &buffer[range],
                        right,
                        c: &mut task.c,
                        row,
                        column,
                        width: COLUMNS.min(columns - column),
                        start,
                    };
                    match kernel {
                        #[cfg(target_arch = "x86_64")]
                        Kernel::Amx(kernel) => kernel.tile(&mut unit, tile),
                        #[cfg(target_arch = "x86_64")]
                        Kernel::Avx512Bf16(kernel) => kernel.tile(tile),
                        Kernel::Portable(vectors) if plain => portable::tile(vectors, tile),
                        Kernel::Portable(_) => portable::tile_by_definition(tile),
                    }
                }
            }
        }
    }
}
