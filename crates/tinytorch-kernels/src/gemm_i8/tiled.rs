//! What the vector kernels share: the order of the loops, the buffer of activations, the layout of the weights.
//!
//! ```text
//! weights [n, k] -> panels of COLUMNS outputs (the last one narrower), each:
//!
//!     group 0: out 0 (CODES codes), out 1, ..., out w−1 | group 1: ... | ...
//!
//! activations    -> tiles of up to ROWS rows, each in blocks of 64 words:
//!
//!     words 0..64 of row 0, of row 1, ..., of row r−1 | words 64..128 of row 0 ...
//! ```
//!
//! A word is `CODES` consecutive codes of a row, what one 32-bit lane multiplies at once. The kernel broadcasts words and
//! reads panels from front to back. The distance from one row of a block to the next is a constant, so that the
//! addresses of a tile need one register. A panel stays in L1 while all tiles of the buffer pass by it.
//!
//! Source of the loop order: Goto, van de Geijn, "Anatomy of High-Performance Matrix Multiplication", section 4.

use std::cell::RefCell;
use std::ops::Range;

use super::Task;
use super::activations::SLACK;
use super::blocks::RowsMut;
pub(super) use super::blocks::{BLOCK, Block};
use super::ending::Ending;
use super::lines::Lines;
use crate::elementwise::Pauses;

/// Bytes of activations that are prepared at once. The weights pass by once for each buffer, so it is large: more than half of a
/// second cache of 1 MiB, which also holds a panel.
const BUFFER_BYTES: usize = 640 * 1024;

/// The inner part of a vector kernel: one tile of rows times one panel of columns.
pub(super) trait Micro {
    /// Columns of a full panel.
    const COLUMNS: usize;
    /// Columns of one vector register.
    const LANES: usize;
    /// Largest number of rows of a tile.
    const ROWS: usize;
    /// Codes of one word.
    const CODES: usize;
    /// The bits that are inverted in a code to make it a byte of a word, if that is all that [`encode`](Self::encode) does.
    const FLIP: Option<u8> = None;

    /// Turns codes into words; words beyond the codes are left as they are, their weights are zero.
    fn encode(&self, codes: &[i8], words: &mut [i32]);

    /// Multiplies a tile of `rows` rows with a panel and ends the sums.
    ///
    /// `activations` has `rows` blocks per 64 groups. `place.ending` gets rows `place.row..` and columns
    /// `place.column..`, as many as the panel is wide.
    fn tile(&self, rows: usize, activations: &[Block], panel: Panel<'_>, place: Place<'_, '_>);

    /// Multiplies one row, the ending's only one, with four whole panels, whose first columns are `columns`; `offsets`
    /// are those of all columns.
    fn four_panels(
        &self,
        activations: &[Block],
        panels: [Panel<'_>; 4],
        ending: &mut Ending<'_>,
        offsets: &[i32],
        columns: [usize; 4],
    ) {
        for (panel, column) in panels.into_iter().zip(columns) {
            let place = Place {
                ending: &mut *ending,
                offsets: &offsets[column..column + panel.width],
                row: 0,
                column,
            };
            self.tile(1, activations, panel, place);
        }
    }
}

/// The weights of some columns.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    /// From its first group to the end of the packed weights: vectors may be read beyond a narrow group, never beyond
    /// this slice.
    pub weights: &'a [i8],
    /// Columns, at most `COLUMNS`.
    pub width: usize,
    /// Groups of `CODES` inputs.
    pub groups: usize,
}

/// Where the sums of a tile belong.
pub(super) struct Place<'p, 'a> {
    pub ending: &'p mut Ending<'a>,
    /// Those of the panel's columns.
    pub offsets: &'p [i32],
    pub row: usize,
    pub column: usize,
}

/// Lays weights `[n, k]` out in panels.
pub(super) fn pack<K: Micro>(n: usize, k: usize, weights: &[i8]) -> Lines {
    let groups = k.div_ceil(K::CODES);
    let panel_bytes = groups * K::COLUMNS * K::CODES;
    // Whole vectors are read at the last group of a narrow panel too.
    let narrow = n % K::COLUMNS;
    let slack = (narrow.next_multiple_of(K::LANES) - narrow) * K::CODES;
    let mut packed = Lines::zeroed(n * groups * K::CODES + if groups > 0 { slack } else { 0 });
    let bytes = packed.bytes_mut();
    for j in 0..n {
        let (panel, column) = (j / K::COLUMNS, j % K::COLUMNS);
        let width = K::COLUMNS.min(n - panel * K::COLUMNS);
        let row = weights[j * k..(j + 1) * k].chunks(K::CODES);
        for (group, codes) in row.enumerate() {
            let first = panel * panel_bytes + (group * width + column) * K::CODES;
            bytes[first..first + codes.len()].copy_from_slice(codes);
        }
    }
    packed
}

thread_local! {
    /// Kept between calls: a fresh buffer of this size would cost page faults each time.
    static BUFFERS: RefCell<Buffers> = const { RefCell::new(Buffers { scratch: vec![], blocks: vec![] }) };
}

#[derive(Default)]
struct Buffers {
    scratch: Vec<i8>,
    blocks: Vec<Block>,
}

/// Writes the words of some rows of a task. `scratch` has room for `k + SLACK` codes; `pauses` are those of [`Activations::write`].
///
/// [`Activations::write`]: super::activations::Activations::write
pub(super) fn encode<K: Micro>(
    kernel: &K,
    task: &Task<'_>,
    rows: Range<usize>,
    scratch: &mut [i8],
    mut into: RowsMut<'_>,
    pauses: &mut Pauses<'_>,
) {
    let rows = task.first_row + rows.start..task.first_row + rows.end;
    if let Some(flip) = K::FLIP
        && task
            .activations
            .write(rows.clone(), flip, into.from(0), pauses)
    {
        return;
    }
    for (index, row) in rows.enumerate() {
        let codes = task.activations.row(row, scratch);
        for (block, codes) in codes.chunks(BLOCK * K::CODES).enumerate() {
            kernel.encode(codes, &mut into.words(index, block).0);
        }
    }
}

/// Computes a task with `kernel`.
pub(super) fn run<K: Micro>(kernel: &K, task: Task<'_>) {
    BUFFERS.with(|buffers| match buffers.try_borrow_mut() {
        Ok(mut buffers) => run_with(kernel, task, &mut buffers),
        // Activations that compute a product of their own.
        Err(_) => run_with(kernel, task, &mut Buffers::default()),
    });
}

fn run_with<K: Micro>(kernel: &K, mut task: Task<'_>, buffers: &mut Buffers) {
    let (rows, columns, k) = (task.rows(), task.columns(), task.k);
    assert!(
        task.first_column.is_multiple_of(K::COLUMNS),
        "work is divided at whole panels"
    );
    let groups = k.div_ceil(K::CODES);
    let blocks = groups.div_ceil(BLOCK);
    // Rows are divided evenly: 15 rows are 8 and 7, not 14 and 1, which would leave most of the second tile idle.
    let tiles = rows.div_ceil(K::ROWS);
    let tile_start = |tile: usize| tile * rows / tiles;
    let tiles_at_once = (BUFFER_BYTES / (K::ROWS * blocks * size_of::<Block>()).max(1)).max(1);
    let buffer_blocks = tiles.min(tiles_at_once) * K::ROWS * blocks;
    // Never made smaller: growing again would clear it again, in every call of a model with layers of several sizes.
    if buffers.scratch.len() < k + SLACK {
        buffers.scratch.resize(k + SLACK, 0);
    }
    if buffers.blocks.len() < buffer_blocks {
        buffers.blocks.resize(buffer_blocks, Block([0; BLOCK]));
    }
    for first_tile in (0..tiles).step_by(tiles_at_once) {
        let last_tile = tiles.min(first_tile + tiles_at_once);
        let first_row = tile_start(first_tile);
        for tile in first_tile..last_tile {
            let (start, end) = (tile_start(tile), tile_start(tile + 1));
            let of_tile = (start - first_row) * blocks..(end - first_row) * blocks;
            let into = RowsMut::new(&mut buffers.blocks[of_tile], end - start);
            let scratch = &mut buffers.scratch;
            encode(
                kernel,
                &task,
                start..end,
                scratch,
                into,
                &mut Pauses::new(&mut || ()),
            );
        }
        let panel = |column: usize| {
            let first = (task.first_column + column) * groups * K::CODES;
            Panel {
                weights: &task.weights.bytes()[first..],
                width: K::COLUMNS.min(columns - column),
                groups,
            }
        };
        // One row reads its weights in four streams, each a quarter of the whole panels.
        let quarter = if rows == 1 {
            columns / K::COLUMNS / 4
        } else {
            0
        };
        for stripe in 0..quarter {
            let starts = [0, 1, 2, 3].map(|stream| (stream * quarter + stripe) * K::COLUMNS);
            let (panels, blocks) = (starts.map(panel), &buffers.blocks[..blocks]);
            kernel.four_panels(blocks, panels, &mut task.ending, task.offsets, starts);
        }
        for column in (4 * quarter * K::COLUMNS..columns).step_by(K::COLUMNS) {
            let panel = panel(column);
            let width = panel.width;
            for tile in first_tile..last_tile {
                let (start, end) = (tile_start(tile), tile_start(tile + 1));
                let of_tile = (start - first_row) * blocks..(end - first_row) * blocks;
                let offsets = &task.offsets[column..column + width];
                let place = Place {
                    ending: &mut task.ending,
                    offsets,
                    row: start,
                    column,
                };
                kernel.tile(end - start, &buffers.blocks[of_tile], panel, place);
            }
        }
    }
}
