//! The kernel for Intel's matrix unit: `tdpbf16ps` multiplies 16 rows of 32 numbers with 32 x 16, 8192 multiply-adds in 16 cycles.
//!
//! Both sides lie as for `vdpbf16ps`: 16 words of 16 rows, or of 16 columns, are a register of the unit. A tile is 32 rows by 32
//! columns: four registers are sums, two hold the left side, two the right side. Sums come and go through memory.
#![expect(unsafe_code, reason = "instructions that only assembly has")]

use std::arch::asm;

use super::drive::{Start, Tile};
use super::pack::{COLUMNS, Words};
use crate::amx::{self, ROWS, Unit};
use crate::cpu::Vectors;

/// The proof that this CPU has AMX-BF16 and AVX-512, and that the system lets this process use the unit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AmxBf16(Vectors);

impl AmxBf16 {
    /// Largest number of rows of a tile.
    pub const ROWS: usize = 2 * ROWS;

    /// The kernel, if this CPU can run it and the system permits it.
    pub fn new() -> Option<Self> {
        let vectors = Vectors::available().into_iter().next()?;
        let has = matches!(vectors, Vectors::Avx512(_)) && amx::permitted_with(amx::BF16);
        has.then_some(Self(vectors))
    }

    /// 512 bits.
    pub(super) fn vectors(self) -> Vectors {
        self.0
    }

    pub(super) fn tile(self, unit: &mut Unit, tile: Tile<'_, '_>) {
        let Tile {
            rows,
            left,
            right,
            c,
            row,
            column,
            width,
            start,
        } = tile;
        let there = start == Start::There;
        // SAFETY: the CPU has the instructions and the system permits them because `self` is the proof of it.
        unsafe { unit.prepare(rows) };
        if width.is_multiple_of(COLUMNS / 2) {
            let (sums, stride) = c.rectangle(row..row + rows, column..column + width);
            // SAFETY: as above, the unit is prepared, and the block's rectangle is ours to write.
            unsafe { multiply(rows, width, left, right, sums, stride, there) };
            return;
        }
        // Registers of the unit are written whole.
        let columns = column..column + width;
        let mut sums = Sums([[0.0; COLUMNS]; Self::ROWS]);
        if there {
            for (i, sums) in sums.0[..rows].iter_mut().enumerate() {
                sums[..width].copy_from_slice(&c.row(row + i)[columns.clone()]);
            }
        }
        let first = sums.0.as_mut_ptr().cast();
        // SAFETY: as above, into sums of whole registers.
        unsafe { multiply(rows, width, left, right, first, COLUMNS, there) };
        for (i, sums) in sums.0[..rows].iter().enumerate() {
            c.row(row + i)[columns.clone()].copy_from_slice(&sums[..width]);
        }
    }
}

/// Sums of a tile with columns that do not fill registers.
#[repr(C, align(64))]
struct Sums([[f32; COLUMNS]; AmxBf16::ROWS]);

/// The loop over the inner dimension, 16 words at a time, with these instructions for what is there, for zeros, a step and the end.
macro_rules! steps {
    ($arguments:expr, [$($load:literal),*], [$($zero:literal),*], [$($step:literal),*], [$($store:literal),*]) => {
        // SAFETY: what is read and written is what `multiply` asks for and has checked; no other code has anything in the
        // registers of the unit.
        unsafe {
            asm!(
                // A comment for the assembler: tiles of few rows do not use it, and every argument must be named.
                "# {lower}",
                "test {there}, {there}",
                "jz 3f",
                $($load,)*
                "jmp 2f",
                "3:",
                $($zero,)*
                "2:",
                // The last words, if they do not fill a register, lie elsewhere.
                "cmp {steps}, 1",
                "cmove {right}, {last}",
                $($step,)*
                "add {left}, {block}",
                "add {right}, 2048",
                "dec {steps}",
                "jnz 2b",
                $($store,)*
                there = in(reg) $arguments.there,
                left = inout(reg) $arguments.left => _,
                right = inout(reg) $arguments.right => _,
                last = in(reg) $arguments.last,
                block = in(reg) $arguments.block,
                steps = inout(reg) $arguments.steps => _,
                upper = in(reg) $arguments.upper,
                lower = in(reg) $arguments.lower,
                stride = in(reg) $arguments.stride,
                line = in(reg) size_of::<Words>(),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack)
            );
        }
    };
}

/// Where everything is that a tile is computed from.
struct Arguments {
    left: *const Words,
    right: *const [Words; 2],
    /// The last step's words of the right side.
    last: *const [Words; 2],
    /// Bytes from the words of a step to those of the next, on the left side.
    block: usize,
    /// At least one.
    steps: usize,
    /// Not 0 if sums go on from what is there.
    there: usize,
    /// The sums of the first 16 rows, and of the others.
    upper: *mut f32,
    lower: *mut f32,
    /// Bytes from one row of sums to the next.
    stride: usize,
}

/// Writes the products of a tile to `sums`, rows `stride` elements apart, or adds them: of `rows` rows, and of 16 columns, or 32
/// if `width` is more.
///
/// # Safety
///
/// The unit must have been prepared for `rows`, and `sums` be so many rows of whole registers which no one else uses.
unsafe fn multiply(
    rows: usize,
    width: usize,
    left: &[Words],
    right: &[[Words; 2]],
    sums: *mut f32,
    stride: usize,
    there: bool,
) {
    let steps = right.len().div_ceil(ROWS);
    assert!(left.len() == rows * steps);
    let Some(before) = steps.checked_sub(1) else {
        return;
    };
    // Words that are not there are zeros: on the left side they are already.
    let mut filled = [[Words::default(); 2]; ROWS];
    let tail = &right[before * ROWS..];
    let last = if tail.len() == ROWS {
        tail.as_ptr()
    } else {
        filled[..tail.len()].copy_from_slice(tail);
        filled.as_ptr()
    };
    let arguments = Arguments {
        left: left.as_ptr(),
        right: right.as_ptr(),
        last,
        block: rows * size_of::<Words>(),
        steps,
        there: usize::from(there),
        upper: sums,
        lower: sums.wrapping_add(ROWS * stride),
        stride: stride * size_of::<f32>(),
    };
    match (rows > ROWS, width > COLUMNS / 2) {
        // Each tile of the left side passes by the panel of the right side, which the first cache keeps: the other kind of load leaves
        // it there. Of the orders of these instructions this is one of the fastest; in narrower tiles it makes no difference.
        (true, true) => steps!(
            arguments,
            [
                "tileloadd tmm0, [{upper} + {stride}]",
                "tileloadd tmm1, [{upper} + {stride} + 64]",
                "tileloadd tmm2, [{lower} + {stride}]",
                "tileloadd tmm3, [{lower} + {stride} + 64]"
            ],
            [
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3"
            ],
            [
                "tileloadd tmm6, [{right} + 2 * {line}]",
                "tileloaddt1 tmm4, [{left} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloaddt1 tmm5, [{left} + {line} + 1024]",
                "tileloadd tmm7, [{right} + 2 * {line} + 64]",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7"
            ],
            [
                "tilestored [{upper} + {stride}], tmm0",
                "tilestored [{upper} + {stride} + 64], tmm1",
                "tilestored [{lower} + {stride}], tmm2",
                "tilestored [{lower} + {stride} + 64], tmm3"
            ]
        ),
        (true, false) => steps!(
            arguments,
            [
                "tileloadd tmm0, [{upper} + {stride}]",
                "tileloadd tmm2, [{lower} + {stride}]"
            ],
            ["tilezero tmm0", "tilezero tmm2"],
            [
                "tileloadd tmm4, [{left} + {line}]",
                "tileloadd tmm6, [{right} + 2 * {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{left} + {line} + 1024]",
                "tdpbf16ps tmm2, tmm5, tmm6"
            ],
            [
                "tilestored [{upper} + {stride}], tmm0",
                "tilestored [{lower} + {stride}], tmm2"
            ]
        ),
        (false, true) => steps!(
            arguments,
            [
                "tileloadd tmm0, [{upper} + {stride}]",
                "tileloadd tmm1, [{upper} + {stride} + 64]"
            ],
            ["tilezero tmm0", "tilezero tmm1"],
            [
                "tileloadd tmm4, [{left} + {line}]",
                "tileloadd tmm6, [{right} + 2 * {line}]",
                "tileloadd tmm7, [{right} + 2 * {line} + 64]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7"
            ],
            [
                "tilestored [{upper} + {stride}], tmm0",
                "tilestored [{upper} + {stride} + 64], tmm1"
            ]
        ),
        (false, false) => steps!(
            arguments,
            ["tileloadd tmm0, [{upper} + {stride}]"],
            ["tilezero tmm0"],
            [
                "tileloadd tmm4, [{left} + {line}]",
                "tileloadd tmm6, [{right} + 2 * {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6"
            ],
            ["tilestored [{upper} + {stride}], tmm0"]
        ),
    }
}
