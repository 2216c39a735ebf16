//! The order of a product on the matrix unit.
//!
//! A tile of rows becomes codes and is multiplied with one panel of weights after the other while it is in the first cache; the panels come
//! from the second, as one stream. Where the weights are too many for that cache, a group of panels is multiplied with all tiles before
//! the next one.
//!
//! Codes that lie one row after the other, in whole steps, are multiplied where they are, as `i8`, if there are few panels: writing them
//! elsewhere would take longer than the product gains by it. Their sums are without the shift by 128, so the offsets must not take it off.
//!
//! A tile's sums end while the unit computes those of the next (`beside.rs`).
#![expect(
    unsafe_code,
    reason = "the unit reads through pointers, and calls that need CPU features"
)]

use std::cell::RefCell;
use std::ops::Range;

use super::Amx;
use super::beside::{Beside, Tile};
use super::product::{Ahead, Left, Product, STEP_BYTES, Tail, multiply};
use super::unit::{self, COLUMNS, ROWS, STEP_GROUPS, Sums};
use crate::amx::Unit;
use crate::elementwise::Pauses;
use crate::gemm_i8::activations::SLACK;
use crate::gemm_i8::blocks::{BLOCK, Block, CODES, RowsMut};
use crate::gemm_i8::ending::Ending;
use crate::gemm_i8::tiled::{Panel, encode};
use crate::gemm_i8::{GemmI8, Task};

/// Bytes of weights that the second cache keeps while all tiles pass by: half of that of every CPU with the unit.
const KEPT_BYTES: usize = 1024 * 1024;
/// Where there are more, bytes of those that are multiplied with all tiles before the next ones: they share the cache with the codes of all
/// tiles, and with what comes next.
const GROUP_BYTES: usize = 256 * 1024;
/// Bytes of activations that are kept as codes, where the weights are more than that.
const BUFFER_BYTES: usize = 640 * 1024;
/// Bytes of weights that are hardly all in the second cache when a product begins.
const FAR_BYTES: usize = 512 * 1024;
/// Inputs up to which the codes of a tile stay in the first cache while weights pass by.
const KEPT_INPUTS: usize = 1024;
/// Panels up to which rows are multiplied where they lie.
const FEW_PANELS: usize = 4;
/// Inputs up to which they are: rows that are a page apart share a set of the first cache.
const FEW_INPUTS: usize = 2048;

thread_local! {
    /// Kept between calls: fresh ones would cost page faults each time.
    static BUFFERS: RefCell<Box<Buffers>> = RefCell::default();
}

#[derive(Default)]
struct Buffers {
    scratch: Vec<i8>,
    blocks: Vec<Block>,
    /// Those that the unit computes, and those that end meanwhile.
    sums: [Sums; 2],
    tail: Tail,
    /// Offsets of `i8` codes.
    unshifted: Vec<i32>,
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
    let order = Order::of(rows, columns, k);
    let Order {
        groups,
        blocks,
        tiles,
        tiles_at_once,
        panels,
        panels_at_once,
        ..
    } = order;
    let Buffers {
        scratch,
        blocks: words,
        sums,
        tail,
        unshifted,
    } = buffers;
    let in_place = in_place(&task, panels);
    if in_place.is_none() {
        // Never made smaller: growing again would clear it again, in every call of a model with layers of several sizes.
        if scratch.len() < k + SLACK {
            scratch.resize(k + SLACK, 0);
        }
        if words.len() < tiles_at_once * ROWS * blocks {
            words.resize(tiles_at_once * ROWS * blocks, Block([0; BLOCK]));
        }
    }
    // What `u8` codes would have added to the sums is not there to be taken off.
    let offsets = if in_place.is_some() {
        let shift = kernel.activation_shift();
        let shifted = task.offsets.iter().zip(task.weight_sums);
        unshifted.clear();
        unshifted.extend(shifted.map(|(o, &sum)| o.wrapping_add(sum.wrapping_mul(shift))));
        unshifted.as_slice()
    } else {
        task.offsets
    };
    let mut unit = Unit::default();
    // The tile whose sums, the old ones, have to end.
    let mut pending = Tile::default();
    let [mut new, mut old] = sums.each_mut();
    for first_tile in (0..tiles).step_by(tiles_at_once) {
        let last_tile = tiles.min(first_tile + tiles_at_once);
        for first_panel in (0..panels).step_by(panels_at_once) {
            let last_panel = panels.min(first_panel + panels_at_once);
            for tile in first_tile..last_tile {
                let these = order.rows_of(tile);
                let height = these.len();
                let left = match in_place {
                    Some(codes) => Left::InPlace(&codes[these.start * k..these.end * k]),
                    None => {
                        let words = &mut words[(tile - first_tile) * ROWS * blocks..];
                        let words = &mut words[..height * blocks];
                        if first_panel == 0 {
                            clear_last_step(groups, height, words);
                            // A unit that rests for more than half a microsecond wakes up slowly: as long as a panel takes. After a
                            // product shortly before, of another layer perhaps, it is still awake.
                            let mut stay_awake = || {
                                // SAFETY: `kernel` is the proof that the unit is there and permitted.
                                unsafe { unit.prepare(height) };
                                // SAFETY: it is prepared.
                                unsafe { unit::stay_awake() };
                            };
                            if tile == 0 {
                                stay_awake();
                            }
                            let into = RowsMut::new(words, height);
                            let vectors = &kernel.vectors;
                            let these = these.clone();
                            let pauses = &mut Pauses::new(&mut stay_awake);
                            encode(vectors, &task, these, scratch, into, pauses);
                        }
                        Left::Words(words)
                    }
                };
                // Each time: the activations may have computed a product of their own.
                // SAFETY: `kernel` is the proof that the unit is there and permitted.
                unsafe { unit.prepare(height) };
                for panel in first_panel..last_panel {
                    let column = panel * COLUMNS;
                    let this = Tile {
                        row: these.start,
                        rows: height,
                        column,
                        columns: COLUMNS.min(columns - column),
                    };
                    let first = (task.first_column + column) * groups * CODES;
                    let product = Product {
                        rows: height,
                        left,
                        weights: Panel {
                            weights: &task.weights.bytes()[first..],
                            width: this.columns,
                            groups,
                        },
                        ahead: order.ahead(tile, first_tile),
                    };
                    let ending = &mut task.ending;
                    let mut beside = Beside::new(ending, offsets, old, pending, this);
                    // SAFETY: the unit is prepared for this height, and the CPU has the features: `kernel` is the proof.
                    unsafe { multiply(&product, tail, new, &mut beside) };
                    pending = this;
                    std::mem::swap(&mut new, &mut old);
                }
            }
        }
    }
    drop(unit);
    let (ending, next) = (&mut task.ending, Tile::default());
    let mut last = Beside::new(ending, offsets, old, pending, next);
    // SAFETY: the CPU has the features: `kernel` is the proof.
    unsafe { last.advance(1, 1) };
}

/// In which order tiles and panels are multiplied.
#[derive(Clone, Copy)]
struct Order {
    rows: usize,
    k: usize,
    /// Groups of inputs, and blocks of words, of each row.
    groups: usize,
    blocks: usize,
    tiles: usize,
    /// Tiles whose codes are kept at once.
    tiles_at_once: usize,
    panels: usize,
    /// Panels that are multiplied with all those tiles before the next ones.
    panels_at_once: usize,
}

impl Order {
    fn of(rows: usize, columns: usize, k: usize) -> Self {
        let groups = k.div_ceil(CODES);
        let blocks = groups.div_ceil(BLOCK);
        let panel_bytes = groups * COLUMNS * CODES;
        let (tiles, panels) = (rows.div_ceil(ROWS), columns.div_ceil(COLUMNS));
        let [tiles_at_once, panels_at_once] = if panels * panel_bytes <= KEPT_BYTES {
            [1, panels]
        } else {
            let tile_bytes = ROWS * blocks * size_of::<Block>();
            [
                (BUFFER_BYTES / tile_bytes).clamp(1, tiles),
                (GROUP_BYTES / panel_bytes).clamp(1, panels),
            ]
        };
        Self {
            rows,
            k,
            groups,
            blocks,
            tiles,
            tiles_at_once,
            panels,
            panels_at_once,
        }
    }

    /// Rows are divided evenly: 33 rows are 17 and 16, not 32 and 1, which would leave most of the second tile idle.
    fn rows_of(&self, tile: usize) -> Range<usize> {
        tile * self.rows / self.tiles..(tile + 1) * self.rows / self.tiles
    }

    /// Which weights are asked for while `tile` is multiplied, of those that follow `first_tile`.
    fn ahead(&self, tile: usize, first_tile: usize) -> Ahead {
        let kept = self.panels_at_once == self.panels;
        let bytes = self.panels * self.groups * COLUMNS * CODES;
        let far = !kept || (self.tiles > 1 && bytes > FAR_BYTES);
        if far && tile == if kept { 0 } else { first_tile } {
            Ahead::Far
        } else if !kept || self.k > KEPT_INPUTS {
            Ahead::Near
        } else {
            Ahead::Nothing
        }
    }
}

/// The codes of the task's rows, if the unit shall multiply them where they lie.
fn in_place<'a>(task: &Task<'a>, panels: usize) -> Option<&'a [i8]> {
    let few = panels <= FEW_PANELS && (1..=FEW_INPUTS).contains(&task.k);
    // Where every row has its own factor of the offsets, the shift is in it.
    let by_rows = matches!(task.ending, Ending::Rows { .. });
    if !few || by_rows || !task.k.is_multiple_of(STEP_BYTES) {
        return None;
    }
    let rows = task.first_row..task.first_row + task.rows();
    task.activations.in_place(rows)
}

/// Sets the words of the last step to 0, before codes are written there. Where they end the step goes on, with weights of other columns.
fn clear_last_step(groups: usize, height: usize, words: &mut [Block]) {
    if !groups.is_multiple_of(STEP_GROUPS) {
        let last_step = groups / STEP_GROUPS % (BLOCK / STEP_GROUPS);
        let last_block = words.len() - height;
        for block in &mut words[last_block..] {
            let (steps, _) = block.0.as_chunks_mut::<STEP_GROUPS>();
            steps[last_step] = [0; STEP_GROUPS];
        }
    }
}
