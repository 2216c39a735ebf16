//! The unit's registers and instructions: sums of a tile of up to 32 rows and 32 columns, 64 inputs in a step.
//!
//! What one block of assembly leaves in a tile register the next one finds there: no instruction that a compiler makes by itself
//! touches them, and the system saves them with a thread's other registers.
#![expect(
    unsafe_code,
    reason = "instructions that only assembly has, and registers that no compiler knows"
)]

use std::arch::asm;

use crate::amx::{self, Shapes};
use crate::gemm_i8::tiled::Block;

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

/// The unit, in use by this thread until dropped.
pub(super) struct Unit {
    _not_send: std::marker::PhantomData<*const ()>,
}

impl Unit {
    /// Takes the unit.
    ///
    /// # Safety
    ///
    /// The CPU must have AMX-INT8, and the system must have permitted it.
    pub unsafe fn new() -> Self {
        Self {
            _not_send: std::marker::PhantomData,
        }
    }

    /// Prepares tiles of `rows` rows. Nothing else may use the unit between this and the last step: another product on this thread
    /// leaves it without registers.
    pub fn configure(&mut self, rows: usize) {
        assert!((1..=ROWS).contains(&rows));
        let shapes = Shapes::of(rows);
        // SAFETY: the unit is there and permitted: `new`. It reads the shapes.
        unsafe {
            asm!(
                "ldtilecfg [{shapes}]",
                shapes = in(reg) &shapes,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack)
            );
        }
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        // SAFETY: the unit is there and permitted: `new`. The thread's registers need not be saved any more.
        unsafe { asm!("tilerelease", options(nostack)) };
    }
}

/// Sets the sums to 0.
///
/// # Safety
///
/// The unit must be configured.
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

/// Adds the products of 64 inputs: of more than 16 rows if `TALL`, of more than 16 columns if `WIDE`.
///
/// # Safety
///
/// The unit must be configured for the rows at hand. `activations` must have 64 bytes for each of them, a [`Block`] apart;
/// `weights` 64 bytes, or 128 if `WIDE`, for each of 16 groups, `stride` bytes apart.
#[inline(always)]
pub(super) unsafe fn step<const TALL: bool, const WIDE: bool>(
    activations: *const i8,
    weights: *const i8,
    stride: usize,
) {
    macro_rules! run {
        ($($instruction:literal),*) => {
            // SAFETY: reads what the caller vouches for, and writes the registers of the unit.
            unsafe {
                asm!(
                    "/* {weights} {stride} */",
                    $($instruction,)*
                    activations = in(reg) activations,
                    row = in(reg) size_of::<Block>(),
                    weights = in(reg) weights,
                    stride = in(reg) stride,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack, readonly)
                )
            }
        };
    }
    match (TALL, WIDE) {
        (true, true) => run!(
            "tileloadd tmm4, [{activations} + {row}]",
            "tileloadd tmm6, [{weights} + {stride}]",
            "tdpbusd tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{weights} + {stride} + 64]",
            "tdpbusd tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{activations} + {row} + 4096]",
            "tdpbusd tmm2, tmm5, tmm6",
            "tdpbusd tmm3, tmm5, tmm7"
        ),
        (true, false) => run!(
            "tileloadd tmm4, [{activations} + {row}]",
            "tileloadd tmm6, [{weights} + {stride}]",
            "tdpbusd tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{activations} + {row} + 4096]",
            "tdpbusd tmm2, tmm5, tmm6"
        ),
        (false, true) => run!(
            "tileloadd tmm4, [{activations} + {row}]",
            "tileloadd tmm6, [{weights} + {stride}]",
            "tdpbusd tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{weights} + {stride} + 64]",
            "tdpbusd tmm1, tmm4, tmm7"
        ),
        (false, false) => run!(
            "tileloadd tmm4, [{activations} + {row}]",
            "tileloadd tmm6, [{weights} + {stride}]",
            "tdpbusd tmm0, tmm4, tmm6"
        ),
    }
}

/// Writes the sums; rows and columns that the tile does not have are left as they are.
///
/// # Safety
///
/// The unit must be configured.
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
/// As [`Unit::new`].
pub(super) unsafe fn ceiling() -> u64 {
    const ROUNDS: u64 = 2000;
    // SAFETY: vouched for by the caller.
    let mut unit = unsafe { Unit::new() };
    unit.configure(ROWS);
    // SAFETY: works in the registers of the unit, which the configuration has set to zero.
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
