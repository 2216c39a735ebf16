//! The order of a product on the matrix unit.
//!
//! A tile of rows becomes codes and is multiplied with one panel of weights after the other while it is in the first cache; the panels come
//! from the second, as one stream. Where the weights are too many for that cache, as many panels as it holds are multiplied with all
//! tiles before the next ones.
//!
//! A tile's sums are ended while the unit computes those of the next: a few rows after each step, by vector instructions, which
//! the unit does not need.
#![expect(
    unsafe_code,
    reason = "the unit reads through pointers, and calls that need CPU features"
)]

use std::arch::x86_64::*;
use std::cell::RefCell;

use super::Amx;
use super::unit::{self, COLUMNS, LANES, ROWS, STEP_GROUPS, Sums, Unit};
use crate::gemm_i8::Task;
use crate::gemm_i8::activations::SLACK;
use crate::gemm_i8::avx512_vnni::finish::{fetch_output, finish};
use crate::gemm_i8::blocks::{BLOCK, Block, CODES};
use crate::gemm_i8::ending::Ending;
use crate::gemm_i8::tiled::{Panel, Place, encode};

/// Bytes of weights that are multiplied with all tiles before the next ones: half of the second cache of every CPU with the unit.
const PANELS_BYTES: usize = 1024 * 1024;
/// Bytes of activations that are kept as codes, where the weights are more than that.
const BUFFER_BYTES: usize = 640 * 1024;
/// Rows that are ended at once: their vectors fit the registers beside what all rows need.
const AT_ONCE: usize = 4;
/// Steps from asking for weights to multiplying them, so that they come from the second cache in time. (Nothing was gained by also writing the
/// codes of the next rows between steps: they are as much work for vectors as the product is for the unit, but share its loads.)
const AHEAD: usize = 1;
/// Steps to a block of words.
const STEPS: usize = BLOCK / STEP_GROUPS;

thread_local! {
    /// Kept between calls: fresh ones would cost page faults each time.
    static BUFFERS: RefCell<Box<Buffers>> = RefCell::default();
}

#[derive(Default)]
struct Buffers {
    scratch: Vec<i8>,
    blocks: Vec<Block>,
    sums: [Sums; 2],
    tail: Tail,
}

/// The last groups of the last panels, where a whole step would read beyond the weights. What stands behind them does not matter: the
/// words there are 0.
#[repr(C, align(64))]
struct Tail([i8; STEP_GROUPS * COLUMNS * CODES + 64]);

impl Default for Tail {
    fn default() -> Self {
        Self([0; _])
    }
}

/// Computes a task.
pub(super) fn run(kernel: &Amx, task: Task<'_>) {
    BUFFERS.with(|buffers| match buffers.try_borrow_mut() {
        Ok(mut buffers) => run_with(kernel, task, &mut buffers),
        // Activations that compute a product of their own.
        Err(_) => run_with(kernel, task, &mut Buffers::default()),
    });
}

fn run_with(kernel: &Amx, mut task: Task<'_>, buffers: &mut Buffers) {
    let (rows, columns, k) = (task.rows(), task.columns(), task.k);
    assert!(
        task.first_column.is_multiple_of(COLUMNS),
        "work is divided at whole panels"
    );
    let groups = k.div_ceil(CODES);
    let blocks = groups.div_ceil(BLOCK);
    let panel_bytes = groups * COLUMNS * CODES;
    let panels = columns.div_ceil(COLUMNS);
    let panels_at_once = (PANELS_BYTES / panel_bytes.max(1)).clamp(1, panels);
    // Rows are divided evenly: 33 rows are 17 and 16, not 32 and 1, which would leave most of the second tile idle.
    let tiles = rows.div_ceil(ROWS);
    let tile_start = |tile: usize| tile * rows / tiles;
    let tiles_at_once = if panels_at_once == panels {
        1
    } else {
        (BUFFER_BYTES / (ROWS * blocks * size_of::<Block>()).max(1)).clamp(1, tiles)
    };
    let Buffers {
        scratch,
        blocks: words,
        sums,
        tail,
    } = buffers;
    // Never made smaller: growing again would clear it again, in every call of a model with layers of several sizes.
    if scratch.len() < k + SLACK {
        scratch.resize(k + SLACK, 0);
    }
    if words.len() < tiles_at_once * ROWS * blocks {
        words.resize(tiles_at_once * ROWS * blocks, Block([0; BLOCK]));
    }
    // SAFETY: `kernel` is the proof that the unit is there and permitted.
    let mut unit = unsafe { Unit::new() };
    let mut pending = Tile::default();
    let [mut new, mut old] = sums.each_mut();
    for first_tile in (0..tiles).step_by(tiles_at_once) {
        let last_tile = tiles.min(first_tile + tiles_at_once);
        for first_panel in (0..panels).step_by(panels_at_once) {
            let last_panel = panels.min(first_panel + panels_at_once);
            for tile in first_tile..last_tile {
                let (start, end) = (tile_start(tile), tile_start(tile + 1));
                let height = end - start;
                let words = &mut words[(tile - first_tile) * ROWS * blocks..][..height * blocks];
                if first_panel == 0 {
                    encode(&kernel.vectors, &task, start..end, scratch, words);
                    clear_beyond(groups, height, words);
                }
                // Each time: the activations may have computed a product of their own.
                unit.configure(height);
                for panel in first_panel..last_panel {
                    let column = panel * COLUMNS;
                    let tile = Tile {
                        row: start,
                        rows: height,
                        column,
                        columns: COLUMNS.min(columns - column),
                    };
                    let first = (task.first_column + column) * groups * CODES;
                    let weights = Panel {
                        weights: &task.weights.bytes()[first..],
                        width: tile.columns,
                        groups,
                    };
                    let mut beside = Beside {
                        ending: &mut task.ending,
                        offsets: task.offsets,
                        sums: old,
                        tile: pending,
                        ended: 0,
                        next: tile,
                        fetched: 0,
                    };
                    // SAFETY: the unit is configured for this height, and the CPU has the features: `kernel` is the proof.
                    unsafe { multiply(height, words, weights, tail, new, &mut beside) };
                    pending = tile;
                    std::mem::swap(&mut new, &mut old);
                }
            }
        }
    }
    drop(unit);
    let mut last = Beside {
        ending: &mut task.ending,
        offsets: task.offsets,
        sums: old,
        tile: pending,
        ended: 0,
        next: Tile::default(),
        fetched: 0,
    };
    // SAFETY: the CPU has the features: `kernel` is the proof.
    unsafe { last.advance(1, 1) };
}

/// Sets the words between the last group and the end of its step to 0: the weights read there are those of other columns.
fn clear_beyond(groups: usize, height: usize, words: &mut [Block]) {
    let (first, end) = (groups % BLOCK, groups.next_multiple_of(STEP_GROUPS) % BLOCK);
    // A step that ends at a block's end.
    let end = if end == 0 { BLOCK } else { end };
    if !groups.is_multiple_of(STEP_GROUPS) {
        let last_block = words.len() - height;
        for block in &mut words[last_block..] {
            block.0[first..end].fill(0);
        }
    }
}

/// A rectangle of the result.
#[derive(Clone, Copy, Debug, Default)]
struct Tile {
    row: usize,
    rows: usize,
    column: usize,
    columns: usize,
}

/// What is done beside a product: the sums of the tile before it end, and the lines that its own will be written to are fetched.
struct Beside<'b, 'a> {
    ending: &'b mut Ending<'a>,
    /// Those of all columns.
    offsets: &'b [i32],
    /// Of `tile`.
    sums: &'b Sums,
    tile: Tile,
    /// Rows of `tile` that have ended.
    ended: usize,
    next: Tile,
    /// Rows of `next` whose lines have been fetched.
    fetched: usize,
}

impl Beside<'_, '_> {
    /// Does the share that is due after `step` of `steps`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    #[inline]
    fn advance(&mut self, step: usize, steps: usize) {
        let due = self.tile.rows * step / steps;
        while self.ended < due {
            if self.tile.rows - self.ended >= AT_ONCE {
                self.end::<AT_ONCE>();
            } else {
                self.end::<1>();
            }
        }
        let due = self.next.rows * step / steps;
        while self.fetched < due {
            fetch_output::<AT_ONCE>(&Place {
                ending: &mut *self.ending,
                offsets: &[],
                row: self.next.row + self.fetched,
                column: self.next.column,
            });
            self.fetched += AT_ONCE;
        }
    }

    /// Ends some rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn end<const AT_ONCE: usize>(&mut self) {
        let wide = self.tile.columns > LANES;
        let full = self.tile.columns.is_multiple_of(LANES);
        match (wide, full) {
            (true, true) => self.end_vectors::<AT_ONCE, 2, true>(),
            (true, false) => self.end_vectors::<AT_ONCE, 2, false>(),
            (false, true) => self.end_vectors::<AT_ONCE, 1, true>(),
            (false, false) => self.end_vectors::<AT_ONCE, 1, false>(),
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    #[inline]
    fn end_vectors<const AT_ONCE: usize, const VECTORS: usize, const FULL: bool>(&mut self) {
        let Tile {
            row,
            column,
            columns,
            ..
        } = self.tile;
        let place = Place {
            ending: &mut *self.ending,
            offsets: &self.offsets[column..column + columns],
            row: row + self.ended,
            column,
        };
        let sums = load::<AT_ONCE, VECTORS>(self.sums, self.ended);
        finish::<AT_ONCE, VECTORS, FULL>(sums, columns, place);
        self.ended += AT_ONCE;
    }
}

/// The sums of some rows.
#[target_feature(enable = "avx512f")]
#[inline]
fn load<const AT_ONCE: usize, const VECTORS: usize>(
    sums: &Sums,
    row: usize,
) -> [[__m512i; VECTORS]; AT_ONCE] {
    let mut loaded = [[_mm512_setzero_si512(); VECTORS]; AT_ONCE];
    for (loaded, sums) in loaded.iter_mut().zip(&sums.0[row..row + AT_ONCE]) {
        for (loaded, sums) in loaded.iter_mut().zip(sums.as_chunks::<LANES>().0) {
            // SAFETY: a reference to 16 sums.
            *loaded = unsafe { _mm512_loadu_si512(sums.as_ptr().cast()) };
        }
    }
    loaded
}

/// Writes the sums of a tile of `rows` rows, and does the other work beside it.
///
/// # Safety
///
/// The unit must be configured for tiles of `rows` rows, and the CPU must have AVX-512 F, BW, VL and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn multiply(
    rows: usize,
    words: &[Block],
    panel: Panel<'_>,
    tail: &mut Tail,
    sums: &mut Sums,
    beside: &mut Beside<'_, '_>,
) {
    // SAFETY: handed on.
    unsafe {
        match (rows > ROWS / 2, panel.width > LANES) {
            (true, true) => multiply_as::<true, true>(rows, words, panel, tail, sums, beside),
            (true, false) => multiply_as::<true, false>(rows, words, panel, tail, sums, beside),
            (false, true) => multiply_as::<false, true>(rows, words, panel, tail, sums, beside),
            (false, false) => multiply_as::<false, false>(rows, words, panel, tail, sums, beside),
        }
    }
}

/// As [`multiply`]: more than 16 rows if `TALL`, more than 16 columns if `WIDE`.
///
/// # Safety
///
/// As [`multiply`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn multiply_as<const TALL: bool, const WIDE: bool>(
    rows: usize,
    words: &[Block],
    Panel {
        weights,
        width,
        groups,
    }: Panel<'_>,
    tail: &mut Tail,
    sums: &mut Sums,
    beside: &mut Beside<'_, '_>,
) {
    let stride = CODES * width;
    let vectors = if WIDE { 2 } else { 1 };
    let steps = groups.div_ceil(STEP_GROUPS);
    assert!((1..=vectors * LANES).contains(&width) && words.len() == rows * groups.div_ceil(BLOCK));
    assert!(groups == 0 || (groups - 1) * stride + vectors * 64 <= weights.len());
    // Whether the last step may read all of its groups where they lie: only behind the last panels there are none.
    let whole = groups == 0
        || (steps * STEP_GROUPS).saturating_sub(1) * stride + vectors * 64 <= weights.len();
    if !whole {
        let last = &weights[(steps - 1) * STEP_GROUPS * stride..groups * stride];
        tail.0[..last.len()].copy_from_slice(last);
    }
    // SAFETY: the unit is configured.
    unsafe { unit::clear() };
    for step in 0..steps {
        let words = words
            .as_ptr()
            .wrapping_add(step / STEPS * rows)
            .cast::<i8>();
        let words = words.wrapping_add(step % STEPS * STEP_GROUPS * CODES);
        let weights = if whole || step + 1 < steps {
            weights.as_ptr().wrapping_add(step * STEP_GROUPS * stride)
        } else {
            tail.0.as_ptr()
        };
        for line in 0..STEP_GROUPS * vectors {
            // Behind the last step lies the next panel.
            let ahead = AHEAD * STEP_GROUPS * stride + 64 * line;
            _mm_prefetch::<_MM_HINT_T0>(weights.wrapping_add(ahead));
        }
        // SAFETY: the unit is configured. There are blocks for all rows and steps, of which this is one of `STEPS` parts, and
        // whole vectors of weights for all groups: of the last step by `whole` or in the tail, which has room for 16 groups of
        // whole vectors, of a step before it because the assertion above covers the last group.
        unsafe { unit::step::<TALL, WIDE>(words, weights, stride) };
        beside.advance(step + 1, steps);
    }
    if steps == 0 {
        beside.advance(1, 1);
    }
    // SAFETY: the unit is configured.
    unsafe { unit::store::<TALL, WIDE>(sums) };
}
