//! A tile of rows times a panel of columns.
#![expect(
    unsafe_code,
    reason = "the unit reads through pointers, and calls that need CPU features"
)]

use std::arch::x86_64::*;

use super::beside::Beside;
use super::unit::{self, COLUMNS, LANES, ROWS, Rows, STEP_GROUPS, Sums};
use crate::gemm_i8::blocks::{BLOCK, Block, CODES};
use crate::gemm_i8::tiled::Panel;

/// Bytes that a step multiplies of each row.
pub(super) const STEP_BYTES: usize = STEP_GROUPS * CODES;
/// Steps to a block of words.
const STEPS: usize = BLOCK / STEP_GROUPS;
/// Steps from asking for weights that are far to multiplying them: more than the third cache takes to answer.
const FAR_AHEAD: usize = 8;

/// The rows of a tile.
#[derive(Clone, Copy)]
pub(super) enum Left<'a> {
    /// Blocks of words of `u8`, those of all rows in turn.
    Words(&'a [Block]),
    /// Codes as they are, one row after the other, of whole steps.
    InPlace(&'a [i8]),
}

impl Left<'_> {
    /// Whether there are exactly the codes of so many rows and groups.
    fn fits(self, rows: usize, groups: usize) -> bool {
        match self {
            Self::Words(blocks) => blocks.len() == rows * groups.div_ceil(BLOCK),
            Self::InPlace(codes) => {
                // Otherwise the last step would read the next row.
                groups.is_multiple_of(STEP_GROUPS) && codes.len() == rows * groups * CODES
            }
        }
    }

    /// The codes of a step.
    #[inline(always)]
    fn step(self, rows: usize, groups: usize, step: usize) -> Rows {
        match self {
            Self::Words(blocks) => {
                let block = blocks.as_ptr().wrapping_add(step / STEPS * rows);
                Rows {
                    start: block.cast::<i8>().wrapping_add(step % STEPS * STEP_BYTES),
                    stride: size_of::<Block>(),
                    signed: false,
                }
            }
            Self::InPlace(codes) => Rows {
                start: codes.as_ptr().wrapping_add(step * STEP_BYTES),
                stride: groups * CODES,
                signed: true,
            },
        }
    }
}

/// Which weights are asked for beside a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ahead {
    /// None: where they come from the second cache and the tile's codes stay in the first, asking takes longer than it saves.
    Nothing,
    /// Those of the next step, to the first cache.
    Near,
    /// Those of a later one, to the second.
    Far,
}

/// A tile of rows and a panel of columns to multiply.
pub(super) struct Product<'a> {
    pub rows: usize,
    pub left: Left<'a>,
    pub weights: Panel<'a>,
    pub ahead: Ahead,
}

/// The last groups of the last panels, where a whole step would read beyond the weights. What stands behind them does not matter: the
/// words there are 0.
#[repr(C, align(64))]
pub(super) struct Tail([i8; STEP_GROUPS * COLUMNS * CODES + 64]);

impl Default for Tail {
    fn default() -> Self {
        Self([0; _])
    }
}

/// Writes the sums of a tile, and does the other work beside it.
///
/// # Safety
///
/// The unit must be prepared for the product's rows, and the CPU must have AVX-512 F, BW, VL and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn multiply(
    product: &Product<'_>,
    tail: &mut Tail,
    sums: &mut Sums,
    beside: &mut Beside<'_, '_>,
) {
    let (tall, wide) = (product.rows > ROWS / 2, product.weights.width > LANES);
    if tall
        && wide
        && let Some(mut codes) = beside.whole_codes()
    {
        let work = move |step, steps| codes.advance(step, steps);
        // SAFETY: handed on.
        return unsafe { multiply_as::<true, true>(product, tail, sums, work) };
    }
    let work = |step, steps| beside.advance(step, steps);
    // SAFETY: handed on.
    unsafe {
        match (tall, wide) {
            (true, true) => multiply_as::<true, true>(product, tail, sums, work),
            (true, false) => multiply_as::<true, false>(product, tail, sums, work),
            (false, true) => multiply_as::<false, true>(product, tail, sums, work),
            (false, false) => multiply_as::<false, false>(product, tail, sums, work),
        }
    }
}

/// As [`multiply`]: more than 16 rows if `TALL`, more than 16 columns if `WIDE`. `work` is told after each step how many of
/// how many there are.
///
/// # Safety
///
/// As [`multiply`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn multiply_as<const TALL: bool, const WIDE: bool>(
    product: &Product<'_>,
    tail: &mut Tail,
    sums: &mut Sums,
    mut work: impl FnMut(usize, usize),
) {
    let (rows, left) = (product.rows, product.left);
    let Panel {
        weights,
        width,
        groups,
    } = product.weights;
    let stride = CODES * width;
    let vectors = if WIDE { 2 } else { 1 };
    let steps = groups.div_ceil(STEP_GROUPS);
    assert!((1..=vectors * LANES).contains(&width) && left.fits(rows, groups));
    assert!(groups == 0 || (groups - 1) * stride + vectors * 64 <= weights.len());
    // Whether the last step may read all of its groups where they lie: only behind the last panels there are none.
    let whole = groups == 0
        || (steps * STEP_GROUPS).saturating_sub(1) * stride + vectors * 64 <= weights.len();
    if !whole {
        let last = &weights[(steps - 1) * STEP_GROUPS * stride..groups * stride];
        tail.0[..last.len()].copy_from_slice(last);
    }
    // SAFETY: the unit is prepared.
    unsafe { unit::clear() };
    let bytes_of_step = STEP_GROUPS * stride;
    // Once at least, and at one place: only then does the compiler put the work between the instructions of the unit.
    for step in 0..steps.max(1) {
        if step < steps {
            let in_place = weights.as_ptr().wrapping_add(step * bytes_of_step);
            let ahead =
                |steps: usize, line| in_place.wrapping_add(steps * bytes_of_step + 64 * line);
            // Behind the last step lies the next panel; any address may be asked for.
            for line in 0..STEP_GROUPS * vectors {
                match product.ahead {
                    Ahead::Nothing => break,
                    Ahead::Near => _mm_prefetch::<_MM_HINT_T0>(ahead(1, line)),
                    Ahead::Far => _mm_prefetch::<_MM_HINT_T1>(ahead(FAR_AHEAD, line)),
                }
            }
            let weights = if whole || step + 1 < steps {
                in_place
            } else {
                tail.0.as_ptr()
            };
            let inputs = left.step(rows, groups, step);
            // SAFETY: the unit is prepared. There are inputs for all rows and steps, by the assertion, and whole vectors of weights
            // for all groups: of the last step by `whole` or in the tail, which has room for 16 groups of whole vectors, of a
            // step before it because the assertion above covers the last group.
            unsafe { unit::step::<TALL, WIDE>(inputs, weights, stride) };
        }
        work(step + 1, steps.max(1));
    }
    // SAFETY: the unit is prepared.
    unsafe { unit::store::<TALL, WIDE>(sums) };
}
