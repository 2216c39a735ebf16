//! The unit's registers and instructions: sums of a tile of up to 32 rows and 32 columns, 64 inputs in a step.
//!
//! What one block of assembly leaves in a tile register the next one finds there: no instruction that a compiler makes by itself
//! touches them, and the system saves them with a thread's other registers.
#![expect(
    unsafe_code,
    reason = "instructions that only assembly has, and registers that no compiler knows"
)]

use std::arch::asm;

use crate::amx::{self, Unit};

/// Rows of a tile: two registers.
pub(super) const ROWS: usize = 2 * HALF;
/// Columns of a tile: two registers of as many 32-bit sums.
pub(super) const COLUMNS: usize = 2 * LANES;
/// Columns of a register.
pub(super) const LANES: usize = 16;
/// Groups of weights, each of four inputs, that a step multiplies: the rows of a register.
pub(super) const STEP_GROUPS: usize = HALF;
/// Bytes of a row of a register.
const ROW_BYTES: usize = 64;
/// Rows of a register.
const HALF: usize = amx::ROWS;

/// Sums of a tile, one row after the other.
#[repr(C, align(64))]
#[derive(Clone, Debug)]
pub(super) struct Sums(pub [[i32; COLUMNS]; ROWS]);

impl Default for Sums {
    fn default() -> Self {
        Self([[0; COLUMNS]; ROWS])
    }
}

/// Sets the sums to 0.
///
/// # Safety
///
/// The unit must be prepared.
#[inline(always)]
pub(super) unsafe fn clear() {
    // SAFETY: only the registers of the unit change.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            options(nostack)
        );
    }
}

/// 64 bytes of each row of a tile.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows {
    pub start: *const i8,
    /// Bytes from one row to the next.
    pub stride: usize,
    /// Whether the inputs are `i8`; otherwise they are `u8`.
    pub signed: bool,
}

/// Adds the products of 64 inputs: of more than 16 rows if `TALL`, of more than 16 columns if `WIDE`.
///
/// The weights pass by once for each tile of rows: the other kind of load leaves in the first cache what is read again. The order of
/// the instructions is the fastest of those where what is multiplied has been loaded (all were tried).
///
/// # Safety
///
/// The unit must be prepared for the rows at hand. `inputs` must have 64 bytes for each of them; `weights` 64 bytes, or 128 if
/// `WIDE`, for each of 16 groups, `stride` bytes apart.
#[inline(always)]
pub(super) unsafe fn step<const TALL: bool, const WIDE: bool>(
    inputs: Rows,
    weights: *const i8,
    stride: usize,
) {
    macro_rules! run {
        ($($instruction:expr),*) => {
            // SAFETY: reads what the caller vouches for, and writes the registers of the unit.
            unsafe {
                asm!(
                    "/* {lower} */",
                    $($instruction,)*
                    upper = in(reg) inputs.start,
                    lower = in(reg) inputs.start.wrapping_add(HALF * inputs.stride),
                    row = in(reg) inputs.stride,
                    weights = in(reg) weights,
                    stride = in(reg) stride,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack, readonly)
                )
            }
        };
    }
    macro_rules! of_size {
        ($multiply:literal) => {
            match (TALL, WIDE) {
                (true, true) => run!(
                    "tileloaddt1 tmm6, [{weights} + {stride}]",
                    "tileloadd tmm4, [{upper} + {row}]",
                    concat!($multiply, " tmm0, tmm4, tmm6"),
                    "tileloadd tmm5, [{lower} + {row}]",
                    "tileloaddt1 tmm7, [{weights} + {stride} + 64]",
                    concat!($multiply, " tmm3, tmm5, tmm7"),
                    concat!($multiply, " tmm2, tmm5, tmm6"),
                    concat!($multiply, " tmm1, tmm4, tmm7")
                ),
                (true, false) => run!(
                    "tileloaddt1 tmm6, [{weights} + {stride}]",
                    "tileloadd tmm4, [{upper} + {row}]",
                    concat!($multiply, " tmm0, tmm4, tmm6"),
                    "tileloadd tmm5, [{lower} + {row}]",
                    concat!($multiply, " tmm2, tmm5, tmm6")
                ),
                (false, true) => run!(
                    "tileloaddt1 tmm6, [{weights} + {stride}]",
                    "tileloadd tmm4, [{upper} + {row}]",
                    concat!($multiply, " tmm0, tmm4, tmm6"),
                    "tileloaddt1 tmm7, [{weights} + {stride} + 64]",
                    concat!($multiply, " tmm1, tmm4, tmm7")
                ),
                (false, false) => run!(
                    "tileloaddt1 tmm6, [{weights} + {stride}]",
                    "tileloadd tmm4, [{upper} + {row}]",
                    concat!($multiply, " tmm0, tmm4, tmm6")
                ),
            }
        };
    }
    if inputs.signed {
        of_size!("tdpbssd")
    } else {
        of_size!("tdpbusd")
    }
}

/// Multiplies something, whatever the registers hold, and spoils the sums.
///
/// # Safety
///
/// The unit must be prepared.
#[inline(always)]
pub(super) unsafe fn stay_awake() {
    // SAFETY: only a register of the unit changes.
    unsafe { asm!("tdpbusd tmm0, tmm4, tmm6", out("tmm0") _, options(nostack, nomem)) };
}

/// Writes the sums; rows and columns that the tile does not have are left as they are.
///
/// # Safety
///
/// The unit must be prepared.
#[inline(always)]
pub(super) unsafe fn store<const TALL: bool, const WIDE: bool>(sums: &mut Sums) {
    macro_rules! run {
        ($($instruction:literal),*) => {
            // SAFETY: writes to rows of `sums`, 128 bytes apart, from registers of at most 16 rows.
            unsafe {
                asm!(
                    $($instruction,)*
                    sums = in(reg) sums.0.as_mut_ptr(),
                    row = in(reg) size_of::<[i32; COLUMNS]>(),
                    options(nostack)
                )
            }
        };
    }
    match (TALL, WIDE) {
        (true, true) => run!(
            "tilestored [{sums} + {row}], tmm0",
            "tilestored [{sums} + {row} + 64], tmm1",
            "tilestored [{sums} + {row} + 2048], tmm2",
            "tilestored [{sums} + {row} + 2112], tmm3"
        ),
        (true, false) => run!(
            "tilestored [{sums} + {row}], tmm0",
            "tilestored [{sums} + {row} + 2048], tmm2"
        ),
        (false, true) => run!(
            "tilestored [{sums} + {row}], tmm0",
            "tilestored [{sums} + {row} + 64], tmm1"
        ),
        (false, false) => run!("tilestored [{sums} + {row}], tmm0"),
    }
}

/// `tdpbusd` alone, into four sums in turns, as [`step`] does it; returns how many operations that were.
///
/// # Safety
///
/// The CPU must have the unit, and the system must have permitted it.
pub(super) unsafe fn ceiling() -> u64 {
    const ROUNDS: u64 = 2000;
    let mut unit = Unit::default();
    // SAFETY: vouched for by the caller.
    unsafe { unit.prepare(ROWS) };
    // SAFETY: works in the registers of the unit alone, whatever is in them.
    unsafe {
        asm!(
            "2:",
            "tdpbusd tmm0, tmm4, tmm6",
            "tdpbusd tmm1, tmm4, tmm7",
            "tdpbusd tmm2, tmm5, tmm6",
            "tdpbusd tmm3, tmm5, tmm7",
            "dec {rounds}",
            "jnz 2b",
            rounds = inout(reg) ROUNDS => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack)
        );
    }
    // 16 rows of 64 codes times 16 columns, each product added.
    ROUNDS * 4 * 2 * (HALF * ROW_BYTES * LANES) as u64
}
